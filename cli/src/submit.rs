//! From what was prepared to a run on the fleet: upload what is missing, then submit.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};

use muster_cache::{RemoteStore, UploadSource, UploadStats};
use muster_model::platform::EnvironmentKind;
use muster_model::spec::RunSpec;
use muster_model::{DigestFunction, digest};
use muster_proto::v1;

use crate::client::{Client, image_refusal, submission_refusal};
use crate::error::FleetError;
use crate::project::{BlobSet, BlobSource, KnownImage};

/// Uploads those blobs that the fleet has not.
///
/// # Errors
///
/// [`FleetError::Upload`], also when a file changed since it was hashed.
pub async fn upload(client: &Client, blobs: &BlobSet) -> Result<UploadStats, FleetError> {
    let sources = blobs.iter().map(|(digest, source)| {
        let source = match source {
            BlobSource::Bytes(bytes) => UploadSource::Bytes(bytes.clone()),
            BlobSource::File(path) => UploadSource::File(path.clone()),
        };
        (*digest, source)
    });
    let uploaded = RemoteStore::new(client.channel()).upload_missing(sources).await;
    uploaded.map_err(|error| FleetError::Upload { source: error.into() })
}

/// Asks the fleet for images by their names.
///
/// # Errors
///
/// [`FleetError::NoSuchImage`], and what [`Client`] knows.
pub async fn find_images(client: &Client, names: &BTreeSet<String>) -> Result<HashMap<String, KnownImage>, FleetError> {
    let mut images = HashMap::with_capacity(names.len());
    for name in names {
        let shown = client.images().show_image(v1::ShowImageRequest { name: name.clone() }).await;
        let image = shown.map_err(image_refusal(client.url(), "show an image", name))?.into_inner();
        let root = image.root.and_then(|root| root.to_model(DigestFunction::Blake3).ok());
        let wrong = || FleetError::Protocol { message: format!("image {name} has no valid digest") };
        let said = image.configuration.unwrap_or_default();
        let mut command = said.entrypoint;
        command.extend(said.command);
        let environment = said.environment.into_iter().map(|variable| (variable.key, variable.value)).collect();
        let known = KnownImage {
            root: root.ok_or_else(wrong)?,
            environment,
            working_directory: said.working_directory,
            command,
        };
        images.insert(name.clone(), known);
    }
    Ok(images)
}

/// Submits a run; its blobs are there already. Repeated with the same token it answers with the same run.
///
/// # Errors
///
/// [`FleetError::Precondition`] when no agent can run it or a limit is passed, and what [`Client`] knows.
pub async fn submit(client: &Client, spec: &RunSpec, token: String) -> Result<u64, FleetError> {
    let environment = spec.targets.first().map_or(EnvironmentKind::Sandbox, |target| target.requirements.environment);
    let request = v1::SubmitRunRequest { spec: Some(spec.into()), token };
    let answer = client.runs().submit_run(request).await;
    let run = answer.map_err(submission_refusal(client.url(), environment))?.into_inner().run;
    if run == 0 {
        return Err(FleetError::Protocol { message: "it gave the run no number".into() });
    }
    Ok(run)
}

/// A token that nobody else draws: 128 bits from the kernel.
///
/// # Errors
///
/// When the kernel's source of randomness can't be read.
pub fn draw_token() -> io::Result<String> {
    let mut token = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok(digest::hex(&token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ() {
        let (one, other) = (draw_token().unwrap(), draw_token().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
