//! Images that have names, and what keeps their blobs in the store.
//!
//! Names are in the ledger. As long as an image has a name, a lease on everything in its tree is held, from the start of the coordinator on; an
//! image of which the store has lost something is named all the same, and answers say that it is not kept.

use std::collections::BTreeMap;

use muster_cache::tree::{Content, collect};
use muster_cache::{Lease, StoreError};
use muster_model::image::is_image_name;
use muster_model::{Digest, DigestFunction, limits};
use muster_proto::v1;
use prost::Message;
use tokio::sync::Mutex;
use tonic::Status;

use crate::ledger::{Ledger, LedgerError, Record, read};
use crate::storage::{self, Storage};

/// The images of one coordinator.
pub(crate) struct Images {
    ledger: Ledger,
    storage: Storage,
    /// By name. Locked while a name is given or taken, so that ledger and leases agree.
    kept: Mutex<BTreeMap<String, Kept>>,
}

/// What keeps an image.
struct Kept {
    bytes: u64,
    _lease: Lease,
}

impl Images {
    /// Keeps every image that has a name.
    ///
    /// # Errors
    ///
    /// When the ledger can't be read; an image that is not whole is an entry in the log.
    pub(crate) async fn open(ledger: Ledger, storage: Storage) -> Result<Self, LedgerError> {
        let mut kept = BTreeMap::new();
        for image in ledger.read_now(read::images)? {
            let root = root(&image).map_err(|_| LedgerError::Damaged("images"))?;
            match keep(&storage, &root).await {
                Ok((_, keeping)) => drop(kept.insert(image.name, keeping)),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, image = image.name, "an image is not whole and can't be kept");
                }
            }
        }
        Ok(Self { ledger, storage, kept: Mutex::new(kept) })
    }

    /// Gives an image a name; answers with what had it before.
    ///
    /// # Errors
    ///
    /// When something of it is wrong, missing in the store, or too much.
    pub(crate) async fn name(&self, image: v1::Image, now_unix_ms: i64) -> Result<v1::NameImageResponse, Status> {
        if !is_image_name(&image.name) {
            return Err(Status::invalid_argument(format!("{:?} can't be the name of an image", image.name)));
        }
        let configuration = image.configuration.unwrap_or_default();
        if configuration.encoded_len() + image.form.len() > limits::IMAGE_CONFIGURATION_BYTES_MAX {
            return Err(Status::invalid_argument("the image's configuration passes its limit"));
        }
        let root = root(&v1::Image { root: image.root, ..v1::Image::default() })?;
        let mut kept = self.kept.lock().await;
        let names = self.ledger.read(read::images).await?;
        let previous = names.iter().find(|known| known.name == image.name).cloned();
        if previous.is_none() && names.len() >= limits::IMAGES_MAX {
            return Err(Status::resource_exhausted(format!("{} images have names already", limits::IMAGES_MAX)));
        }
        let (content, keeping) = keep(&self.storage, &root).await.map_err(|error| match error {
            StoreError::NotFound(digest) => {
                Status::failed_precondition(format!("the image is not whole: {digest} is not in the store"))
            }
            StoreError::Tree { .. } => Status::invalid_argument(error.to_string()),
            error => storage::status(&error),
        })?;
        let others: u64 = kept.iter().filter(|(name, _)| **name != image.name).map(|(_, kept)| kept.bytes).sum();
        let most = self.storage.stats().await?.capacity_bytes / limits::IMAGES_CAPACITY_DIVISOR;
        if others.saturating_add(keeping.bytes) > most {
            let message =
                format!("images with names may take {most} bytes of the cache, and this one takes {}", keeping.bytes);
            return Err(Status::resource_exhausted(message));
        }
        let image = v1::Image {
            name: image.name,
            root: Some((&root).into()),
            form: image.form,
            layers: image.layers,
            files: content.files.len() as u64,
            bytes: content.bytes,
            named_unix_ms: now_unix_ms,
            configuration: Some(configuration),
            kept: false,
        };
        let (name, encoded) = (image.name.clone(), Some(image.encode_to_vec()));
        let ticket = self.ledger.append(Record::Image { name, image: encoded });
        self.ledger.wait(ticket).await?;
        let replaced = kept.insert(image.name.clone(), keeping);
        let previous = previous.map(|image| v1::Image { kept: replaced.is_some(), ..image });
        Ok(v1::NameImageResponse { image: Some(v1::Image { kept: true, ..image }), previous })
    }

    /// Every image that has a name, sorted by it.
    ///
    /// # Errors
    ///
    /// When the ledger can't be read.
    pub(crate) async fn list(&self) -> Result<Vec<v1::Image>, Status> {
        self.named(&*self.kept.lock().await).await
    }

    async fn named(&self, kept: &BTreeMap<String, Kept>) -> Result<Vec<v1::Image>, Status> {
        let images = self.ledger.read(read::images).await?;
        Ok(images.into_iter().map(|image| v1::Image { kept: kept.contains_key(&image.name), ..image }).collect())
    }

    /// The image that has a name.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` when none has it.
    pub(crate) async fn show(&self, name: &str) -> Result<v1::Image, Status> {
        find(self.list().await?, name)
    }

    /// Takes a name away; answers with what had it.
    ///
    /// # Errors
    ///
    /// `NOT_FOUND` when none had it.
    pub(crate) async fn remove(&self, name: &str) -> Result<v1::Image, Status> {
        let mut kept = self.kept.lock().await;
        let image = find(self.named(&kept).await?, name)?;
        let ticket = self.ledger.append(Record::Image { name: name.to_owned(), image: None });
        self.ledger.wait(ticket).await?;
        kept.remove(name);
        Ok(image)
    }
}

fn find(images: Vec<v1::Image>, name: &str) -> Result<v1::Image, Status> {
    let found = images.into_iter().find(|image| image.name == name);
    found.ok_or_else(|| Status::not_found(format!("no image is named {name:?}")))
}

fn root(image: &v1::Image) -> Result<Digest, Status> {
    let digest = image.root.as_ref().and_then(|root| root.to_model(DigestFunction::Blake3).ok());
    digest.ok_or_else(|| Status::invalid_argument("the image has no valid digest"))
}

/// Holds everything of a tree.
async fn keep(storage: &Storage, root: &Digest) -> Result<(Content, Kept), StoreError> {
    let content = collect(root, |digests| async move {
        let mut directories = Vec::with_capacity(digests.len());
        for blob in storage.blobs.get_many(&digests).await {
            let blob = blob?;
            let digest = *blob.digest();
            directories.push((digest, blob.into_bytes(limits::MESSAGE_BYTES_MAX as u64).await?));
        }
        Ok(directories)
    })
    .await?;
    let digests: Vec<Digest> = content.directories.keys().chain(&content.files).copied().collect();
    let lease = storage.disk.lease(&digests).await?;
    let directories: u64 = content.directories.keys().map(|digest| digest.size_bytes).sum();
    let bytes = content.bytes.saturating_add(directories);
    Ok((content, Kept { bytes, _lease: lease }))
}

#[cfg(test)]
mod tests {
    use muster_cache::Blob;
    use muster_proto::reapi;
    use tonic::Code;

    use super::*;

    const CAPACITY_BYTES: u64 = 4 << 20;

    /// Stores an image of one file of so many bytes, and gives its root.
    async fn image(storage: &Storage, name: &str, bytes: usize) -> v1::Image {
        let mut digests = Vec::new();
        let file = Blob::from_bytes(vec![bytes as u8; bytes].into());
        let node = |digest: &Digest| reapi::FileNode {
            name: "file".into(),
            digest: Some((*digest).into()),
            ..reapi::FileNode::default()
        };
        let files = vec![node(file.digest())];
        let directory = reapi::Directory { files, ..reapi::Directory::default() };
        for blob in [file, Blob::from_bytes(directory.encode_to_vec().into())] {
            digests.push(*blob.digest());
            storage.disk.put_blob(&digests[digests.len() - 1], blob).await.unwrap();
        }
        v1::Image { name: name.into(), root: Some((&digests[1]).into()), ..v1::Image::default() }
    }

    #[tokio::test]
    async fn named_images_take_half_of_the_cache_at_most_and_are_kept_until_their_names_go() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path()).unwrap();
        let storage = Storage::open(&folder.path().join("cache"), CAPACITY_BYTES, limits::BLOB_LEASE_TIME).unwrap();
        let images = Images::open(ledger, storage.clone()).await.unwrap();
        let half = (CAPACITY_BYTES / limits::IMAGES_CAPACITY_DIVISOR) as usize;
        let refused = images.name(image(&storage, "large", half).await, 0).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "its directory is more than the half");
        assert!(images.list().await.unwrap().is_empty());

        images.name(image(&storage, "first", half / 2).await, 1).await.unwrap();
        let refused = images.name(image(&storage, "second", half / 2 + 1).await, 2).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "both together are more");
        // What has the name already is not counted beside what takes its place.
        let answer = images.name(image(&storage, "first", half / 2 + 1).await, 3).await.unwrap();
        assert!(answer.previous.is_some_and(|image| image.kept));

        assert!(images.remove("first").await.unwrap().kept);
        assert_eq!(images.remove("first").await.unwrap_err().code(), Code::NotFound);
        images.name(image(&storage, "second", half / 2 + 1).await, 4).await.unwrap();
    }
}
