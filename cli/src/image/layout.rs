//! Images in the layout of the Open Container Initiative: `oci-layout`, `index.json` and blobs by their SHA-256.

use muster_model::Digest;
use muster_model::limits::{IMAGE_INDEX_DEPTH_MAX, IMAGE_MANIFESTS_MAX};

use super::container::Container;
use super::documents::{ConfigurationFile, Descriptor, LayoutVersion, Manifest, Platform, read_document};
use super::error::{NAMES_SHOWN_MAX, shown};
use super::layer::{Layers, Promise};
use super::{ImageConfiguration, ImageError};

/// The file that makes a directory a layout.
pub(super) const LAYOUT_FILE: &str = "oci-layout";
/// The file that says what is in it.
pub(super) const INDEX_FILE: &str = "index.json";
const INDEX_TYPES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const CONFIGURATION_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];

/// An image that could be meant.
struct Candidate {
    digest: Digest,
    name: Option<String>,
    manifest: Manifest,
    configuration: ConfigurationFile,
}

/// Looks for the image of one platform.
struct Search<'a> {
    container: &'a Container<'a>,
    platform: Platform,
    found: Vec<Candidate>,
    /// Platforms that it is there for besides.
    others: Vec<Platform>,
    manifests: usize,
}

/// Reads the image of this machine's platform.
///
/// # Errors
///
/// [`ImageError`]: what is missing, malformed, or not what its digest says; also when there is none for the platform, or more than one.
pub(super) fn read(container: &Container<'_>, layers: &mut Layers<'_>) -> Result<ImageConfiguration, ImageError> {
    let version: LayoutVersion = read_document(LAYOUT_FILE, container.open(LAYOUT_FILE)?, None)?;
    if !version.image_layout_version.starts_with("1.") {
        return Err(ImageError::Whole("has an image layout of a version that is not known"));
    }
    let index: Manifest = read_document(INDEX_FILE, container.open(INDEX_FILE)?, None)?;
    let mut search =
        Search { container, platform: Platform::this(), found: Vec::new(), others: Vec::new(), manifests: 0 };
    search.index(&index, None, 1)?;
    let candidate = search.choose()?;
    let hashes = candidate.configuration.layer_hashes()?;
    if hashes.len() != candidate.manifest.layers.len() {
        return Err(ImageError::Whole("has another number of layers than its configuration says"));
    }
    for (descriptor, archive) in candidate.manifest.layers.iter().zip(hashes) {
        let stored = descriptor.digest()?;
        layers.add(container.blob(&stored)?, &Promise { stored: Some(stored), archive })?;
    }
    Ok(candidate.configuration.into_configuration())
}

impl Search<'_> {
    fn index(&mut self, index: &Manifest, name: Option<&str>, depth: usize) -> Result<(), ImageError> {
        if depth > IMAGE_INDEX_DEPTH_MAX {
            return Err(ImageError::Whole("has indexes that are nested too deep"));
        }
        for descriptor in &index.manifests {
            self.manifests += 1;
            if self.manifests > IMAGE_MANIFESTS_MAX {
                return Err(ImageError::Whole("names more manifests than an image may have"));
            }
            let media_type = descriptor.media_type.as_str();
            let name = descriptor.name().or(name);
            if let Some(platform) = &descriptor.platform
                && !INDEX_TYPES.contains(&media_type)
                && *platform != self.platform
            {
                self.others.push(platform.clone());
            } else if INDEX_TYPES.contains(&media_type) {
                let index = self.document::<Manifest>(descriptor)?;
                self.index(&index, name, depth + 1)?;
            } else if MANIFEST_TYPES.contains(&media_type) {
                self.manifest(descriptor, name)?;
            }
        }
        Ok(())
    }

    fn manifest(&mut self, descriptor: &Descriptor, name: Option<&str>) -> Result<(), ImageError> {
        let digest = descriptor.digest()?;
        if self.found.iter().any(|candidate| candidate.digest == digest) {
            return Ok(());
        }
        let manifest: Manifest = self.document(descriptor)?;
        // Other things than images are kept in layouts too, signatures for example.
        let Some(described) =
            manifest.config.clone().filter(|config| CONFIGURATION_TYPES.contains(&config.media_type.as_str()))
        else {
            return Ok(());
        };
        let configuration: ConfigurationFile = self.document(&described)?;
        if configuration.platform == self.platform {
            let name = name.map(str::to_owned);
            self.found.push(Candidate { digest, name, manifest, configuration });
        } else {
            self.others.push(configuration.platform);
        }
        Ok(())
    }

    fn document<T: serde::de::DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, ImageError> {
        let digest = descriptor.digest()?;
        read_document(&digest.to_string(), self.container.blob(&digest)?, Some(&digest))
    }

    fn choose(mut self) -> Result<Candidate, ImageError> {
        let platform = self.platform;
        let Some(candidate) = self.found.pop() else {
            self.others.retain(|other| other.os != "unknown");
            let others: Vec<String> = self.others.iter().take(NAMES_SHOWN_MAX).map(Platform::to_string).collect();
            let others = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
            return Err(ImageError::Choice(format!("has no image for {platform}, but {others}")));
        };
        if self.found.is_empty() {
            return Ok(candidate);
        }
        self.found.push(candidate);
        let name = |candidate: &Candidate| match &candidate.name {
            Some(name) => shown(name),
            None => candidate.digest.to_string(),
        };
        let names: Vec<String> = self.found.iter().take(NAMES_SHOWN_MAX).map(name).collect();
        Err(ImageError::Choice(format!("has several images for {platform}: {}", names.join(", "))))
    }
}
