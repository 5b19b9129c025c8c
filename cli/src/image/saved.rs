//! Images as `docker save` writes them: `manifest.json`, a configuration, and an archive for each layer.

use muster_cache::digest_of;
use muster_model::{Digest, DigestFunction};

use super::container::Container;
use super::documents::{ConfigurationFile, Platform, SavedImage, parse_document, read_bytes};
use super::error::{NAMES_SHOWN_MAX, shown};
use super::layer::{Layers, Promise};
use super::{ImageConfiguration, ImageError};

/// The file that says what is in it.
const MANIFEST_FILE: &str = "manifest.json";

/// The images that an archive says to hold; None when it is no saved image at all.
///
/// # Errors
///
/// When a file can't be read.
pub(super) fn images(container: &Container<'_>) -> Result<Option<Vec<SavedImage>>, ImageError> {
    let Some(file) = container.find(MANIFEST_FILE)? else { return Ok(None) };
    // A root file system may have a file of this name that says something else.
    Ok(read_bytes(MANIFEST_FILE, file).ok().and_then(|bytes| parse_document(MANIFEST_FILE, &bytes).ok()))
}

/// Reads the one image.
///
/// # Errors
///
/// [`ImageError`]: what is missing, malformed, or not what its digest says; also when there are several, or it is not for this machine's platform.
pub(super) fn read(
    container: &Container<'_>,
    images: Vec<SavedImage>,
    layers: &mut Layers<'_>,
) -> Result<ImageConfiguration, ImageError> {
    let [image] = <[SavedImage; 1]>::try_from(images).map_err(|images| {
        let name = |image: &SavedImage| shown(image.repo_tags.iter().flatten().next().unwrap_or(&image.config));
        let names: Vec<String> = images.iter().take(NAMES_SHOWN_MAX).map(name).collect();
        ImageError::Choice(format!("has not one image, but {}: {}", images.len(), names.join(", ")))
    })?;
    let bytes = read_bytes(&image.config, container.open(&image.config)?)?;
    let name = image.config.rsplit('/').next().unwrap_or_default();
    let name = name.strip_suffix(".json").unwrap_or(name);
    // An image's identity is the digest of its configuration, which Docker makes the name of the file.
    if let Ok(promised) = Digest::parse(DigestFunction::Sha256, name, bytes.len() as u64)
        && promised != digest_of(DigestFunction::Sha256, &bytes)
    {
        return Err(ImageError::Document { name: shown(&image.config), source: Box::new(ImageError::Digest) });
    }
    let configuration: ConfigurationFile = parse_document(&image.config, &bytes)?;
    let platform = Platform::this();
    if configuration.platform != platform {
        return Err(ImageError::Choice(format!("has no image for {platform}, but {}", configuration.platform)));
    }
    let hashes = configuration.layer_hashes()?;
    if hashes.len() != image.layers.len() {
        return Err(ImageError::Whole("has another number of layers than its configuration says"));
    }
    for (name, archive) in image.layers.iter().zip(hashes) {
        layers.add(container.open(name)?, &Promise { stored: None, archive })?;
    }
    Ok(configuration.into_configuration())
}
