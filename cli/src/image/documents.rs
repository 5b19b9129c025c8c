//! What images say of themselves, in JSON: indexes, manifests and configurations (OCI image specification; `docker save`).

use std::fs::File;
use std::io::Read;

use muster_cache::digest_of;
use muster_model::limits::IMAGE_DOCUMENT_BYTES_MAX;
use muster_model::{Digest, DigestFunction};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::shown;
use super::{ImageConfiguration, ImageError};

/// `oci-layout`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayoutVersion {
    pub(super) image_layout_version: String,
}

/// An index, or a manifest: the one lists manifests, the other has a configuration and layers.
#[derive(Deserialize)]
pub(super) struct Manifest {
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
    pub(super) config: Option<Descriptor>,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

/// Names a blob.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    digest: String,
    size: u64,
    pub(super) platform: Option<Platform>,
    #[serde(default)]
    pub(super) annotations: Option<std::collections::BTreeMap<String, String>>,
}

impl Descriptor {
    /// The digest that the blob must have.
    pub(super) fn digest(&self) -> Result<Digest, ImageError> {
        let hash = hash_of(&self.digest)?;
        Ok(Digest { function: DigestFunction::Sha256, hash, size_bytes: self.size })
    }

    /// The name that somebody gave it.
    pub(super) fn name(&self) -> Option<&str> {
        const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
        let annotations = self.annotations.as_ref()?;
        NAMES.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
    }
}

/// What an image runs on, in the words of Go.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Platform {
    #[serde(default)]
    pub(super) os: String,
    #[serde(default)]
    pub(super) architecture: String,
}

impl Platform {
    /// That of this machine.
    pub(super) fn this() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned() }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", shown(&self.os), shown(&self.architecture))
    }
}

/// One image in the `manifest.json` of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedImage {
    pub(super) config: String,
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

/// An image's configuration.
#[derive(Deserialize)]
pub(super) struct ConfigurationFile {
    #[serde(flatten)]
    pub(super) platform: Platform,
    config: Option<Execution>,
    rootfs: Layers,
}

#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Execution {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
}

impl ConfigurationFile {
    /// The SHA-256 of every layer's archive, not compressed, the lowest first.
    pub(super) fn layer_hashes(&self) -> Result<Vec<[u8; 32]>, ImageError> {
        self.rootfs.diff_ids.iter().flatten().map(|text| hash_of(text)).collect()
    }

    /// What it says of programs that run in it.
    pub(super) fn into_configuration(self) -> ImageConfiguration {
        let said = self.config.unwrap_or_default();
        let pair = |text: String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        ImageConfiguration {
            environment: said.env.unwrap_or_default().into_iter().filter_map(pair).collect(),
            working_directory: said.working_dir.unwrap_or_default(),
            entrypoint: said.entrypoint.unwrap_or_default(),
            command: said.cmd.unwrap_or_default(),
            user: said.user.unwrap_or_default(),
        }
    }
}

/// The hash in a text like `sha256:0a…`.
fn hash_of(text: &str) -> Result<[u8; 32], ImageError> {
    let parsed = text.strip_prefix("sha256:").and_then(|hash| Digest::parse(DigestFunction::Sha256, hash, 0).ok());
    parsed.map(|digest| digest.hash).ok_or_else(|| ImageError::Function { text: shown(text) })
}

/// Reads a document of at most [`IMAGE_DOCUMENT_BYTES_MAX`] bytes, and compares it with its digest if it has one.
pub(super) fn read_document<T: DeserializeOwned>(
    name: &str,
    file: File,
    promised: Option<&Digest>,
) -> Result<T, ImageError> {
    let bytes = read_bytes(name, file)?;
    if promised.is_some_and(|promised| digest_of(DigestFunction::Sha256, &bytes) != *promised) {
        return Err(ImageError::Document { name: shown(name), source: Box::new(ImageError::Digest) });
    }
    parse_document(name, &bytes)
}

/// The bytes of a document.
pub(super) fn read_bytes(name: &str, file: File) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    file.take(IMAGE_DOCUMENT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(ImageError::archive)?;
    if bytes.len() as u64 > IMAGE_DOCUMENT_BYTES_MAX {
        let source = Box::new(ImageError::Whole("is larger than what describes an image may be"));
        return Err(ImageError::Document { name: shown(name), source });
    }
    Ok(bytes)
}

/// What a document says.
pub(super) fn parse_document<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Malformed { name: shown(name), source })
}
