//! Images that an engine has: where their layers lie on this machine, and what they say of their programs.
//!
//! A container is made over the directories of the image's layers, as over any others, so that layers of a suite can lie above and among them. They belong to the
//! engine: a container that is never started keeps the image from being removed meanwhile.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ImageInspect};
use bollard::query_parameters::CreateImageOptions;
use futures_util::TryStreamExt;
use muster_model::platform::EngineImage;
use tokio::sync::Mutex;

use super::engine::{failed, labels};
use crate::EnvironmentError;

/// An image, as the engine knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image {
    /// Its layers, topmost first.
    pub(super) lower: Vec<PathBuf>,
    /// Variables, as `NAME=VALUE` each.
    pub(super) variables: Vec<(String, String)>,
}

/// The images that were asked for, held in the engine.
#[derive(Debug, Default)]
pub(super) struct Images(Mutex<HashMap<EngineImage, Image>>);

impl Images {
    /// Finds an image, or pulls it if a registry knows it, and holds it until the agent ends.
    ///
    /// # Errors
    ///
    /// An image that is not there and can't be had, or that the engine keeps in another way than in directories.
    pub(super) async fn find(
        &self,
        docker: &Docker,
        owner: &str,
        reference: &EngineImage,
    ) -> Result<Image, EnvironmentError> {
        // Held while it is pulled, so that it is pulled once.
        let mut known = self.0.lock().await;
        if let Some(image) = known.get(reference) {
            return Ok(image.clone());
        }
        let inspected = inspect(docker, reference).await?;
        let id = inspected.id.clone().unwrap_or_default();
        let image = read(reference, inspected)?;
        // By the image's own digest: a container made from it holds it, whatever it is called.
        let body = ContainerCreateBody {
            image: Some(id),
            entrypoint: Some(vec!["/".to_owned()]),
            network_disabled: Some(true),
            labels: Some(labels(owner)),
            ..ContainerCreateBody::default()
        };
        docker.create_container(None, body).await.map_err(failed("hold an image"))?;
        known.insert(reference.clone(), image.clone());
        Ok(image)
    }
}

async fn inspect(docker: &Docker, reference: &EngineImage) -> Result<ImageInspect, EnvironmentError> {
    match docker.inspect_image(reference.as_str()).await {
        Err(Error::DockerResponseServerError { status_code: 404, .. }) if reference.has_name() => {
            let options = CreateImageOptions { from_image: Some(reference.to_string()), ..Default::default() };
            let pulling = docker.create_image(Some(options), None, None);
            let _told: Vec<_> = pulling.try_collect().await.map_err(failed(&format!("pull {reference}")))?;
            docker.inspect_image(reference.as_str()).await.map_err(failed("inspect an image"))
        }
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => {
            let said = format!("the engine has no image {reference}, and no registry knows it without a name");
            Err(super::step("find an image", io::Error::other(said)))
        }
        inspected => inspected.map_err(failed("inspect an image")),
    }
}

/// Where the layers lie, when the engine lays them over each other as we do (`overlay2`).
fn read(reference: &EngineImage, inspected: ImageInspect) -> Result<Image, EnvironmentError> {
    let driver = inspected.graph_driver.filter(|driver| driver.name == "overlay2");
    let data = driver.map(|driver| driver.data).ok_or_else(|| EnvironmentError::Unsupported {
        feature: format!("the engine keeps {reference} in another way than overlay2, in which layers are directories"),
        remedy: "docker export a container of it, muster image import the archive, and name its digest".into(),
    })?;
    let texts = data.get("UpperDir").into_iter().chain(data.get("LowerDir"));
    let lower: Vec<PathBuf> = texts.flat_map(|text| text.split(':')).map(PathBuf::from).collect();
    if let Some(odd) = lower.iter().find(|path| !path.is_absolute()) {
        let said = format!("{} is not a directory of {reference}", odd.display());
        return Err(super::step("find an image", io::Error::other(said)));
    }
    let variables = inspected.config.and_then(|config| config.env).unwrap_or_default();
    let pair = |variable: &String| variable.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    Ok(Image { lower, variables: variables.iter().filter_map(pair).collect() })
}

/// Whether every layer is seen from here, and not only from where the engine runs.
pub(super) fn are_seen(lower: &[PathBuf]) -> io::Result<()> {
    lower.iter().map(Path::new).try_for_each(|path| super::mounts::open_directory(path).map(drop))
}

#[cfg(test)]
mod tests {
    use bollard::models::{DriverData, ImageConfig};

    use super::*;

    fn reference() -> EngineImage {
        EngineImage::parse(&format!("sha256:{}", "0".repeat(64))).expect("a digest")
    }

    fn inspected(name: &str, data: &[(&str, &str)]) -> ImageInspect {
        let data = data.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let env = Some(vec!["PATH=/usr/local/bin:/bin".to_owned(), "EMPTY=".to_owned(), "odd".to_owned()]);
        ImageInspect {
            graph_driver: Some(DriverData { name: name.to_owned(), data }),
            config: Some(ImageConfig { env, ..ImageConfig::default() }),
            ..ImageInspect::default()
        }
    }

    #[test]
    fn layers_are_directories_topmost_first() {
        let data = [("LowerDir", "/d/b/diff:/d/a/diff"), ("UpperDir", "/d/c/diff"), ("WorkDir", "/d/c/work")];
        let image = read(&reference(), inspected("overlay2", &data)).expect("an image");
        assert_eq!(image.lower, ["/d/c/diff", "/d/b/diff", "/d/a/diff"].map(PathBuf::from));
        let path = ("PATH".to_owned(), "/usr/local/bin:/bin".to_owned());
        assert_eq!(image.variables, [path, ("EMPTY".to_owned(), String::new())]);
        let one = read(&reference(), inspected("overlay2", &[("UpperDir", "/d/c/diff")])).expect("an image");
        assert_eq!(one.lower, [PathBuf::from("/d/c/diff")]);
    }

    #[test]
    fn an_image_that_is_no_directories_is_refused() {
        for inspected in [inspected("overlayfs", &[]), ImageInspect::default()] {
            assert!(matches!(read(&reference(), inspected), Err(EnvironmentError::Unsupported { .. })));
        }
        let odd = inspected("overlay2", &[("UpperDir", "relative")]);
        assert!(matches!(read(&reference(), odd), Err(EnvironmentError::Step { .. })));
    }
}
