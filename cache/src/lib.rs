//! Content-addressed storage whose every byte is verified, on the way in and on the way out.
//!
//! [`BlobStore`] has three verbs and [`ActionCache`] two; leaves keep bytes, decorators add one behaviour each.
//!
//! Architecture Invariant: no store has an option to skip verification, and none hands out a byte that it has not checked: see [`Blob`].

mod blob;
mod disk;
mod error;
mod files;
mod folder;
mod hash;
mod read_through;
mod record;
mod remote;
mod singleflight;
mod stage;
mod trouble;

pub mod tree;

use async_trait::async_trait;
use muster_model::Digest;
use muster_model::key::ActionKey;

pub use blob::Blob;
pub use disk::{
    BlobEntry, BlobPage, CollectGoal, Collected, DiskConfig, DiskStats, DiskStore, DivergentPage, Lease, PageRequest,
    RecordEntry, RecordPage, UseOrder,
};
pub use error::StoreError;
pub use folder::{Copies, Folder, FolderError, LinkRule, TakeRules, Taken, TakenFile, TakenTree, lay_out, take};
pub use hash::{Hasher, digest_of};
pub use read_through::{Fetch, FetchStats, ReadThrough};
pub use record::{ActionRecord, DivergentRecord, Recorded};
pub use remote::{RemoteStore, UploadSource, UploadStats};
pub use stage::{Ground, StagedTree, Stager};
pub use trouble::Trouble;

/// Blobs by digest.
#[async_trait]
pub trait BlobStore: Send + Sync {
    /// Which of `digests` are not here, each once. What is not listed stays for the store's lease time.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the store can't be asked; never for a missing blob.
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError>;

    /// One blob.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] when it is not here, [`StoreError::Corrupt`] when the bytes do not hash to `digest`: then it is
    /// quarantined, and not here any more.
    async fn get(&self, digest: &Digest) -> Result<Blob, StoreError>;

    /// Stores one blob. Never visible before its bytes were verified against `digest`; storing a blob that is here already is cheap.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mismatch`] when the bytes are not those of `digest`, [`StoreError::Full`] when there is no room.
    async fn put(&self, digest: &Digest, blob: Blob) -> Result<(), StoreError>;

    /// Many blobs, in the order of `digests`. One needs it for small ones, where a store answers a batch at the price of one.
    async fn get_many(&self, digests: &[Digest]) -> Vec<Result<Blob, StoreError>> {
        let mut blobs = Vec::with_capacity(digests.len());
        for digest in digests {
            blobs.push(self.get(digest).await);
        }
        blobs
    }

    /// Stores many blobs, each under its own digest; what became of each, in their order.
    async fn put_many(&self, blobs: Vec<Blob>) -> Vec<Result<(), StoreError>> {
        let mut results = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let digest = *blob.digest();
            results.push(self.put(&digest, blob).await);
        }
        results
    }
}

/// Results by action key.
#[async_trait]
pub trait ActionCache: Send + Sync {
    /// The records of `keys`, in their order. A record is answered only when every blob it references is here, and then those blobs are
    /// leased.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the cache can't be asked.
    async fn get(&self, keys: &[ActionKey]) -> Result<Vec<Option<ActionRecord>>, StoreError>;

    /// Stores records in one transaction; what became of each, in their order. A record whose key has one of another outcome does not
    /// replace it: see [`Recorded::Divergent`].
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] when a referenced blob is not here; then nothing is stored.
    async fn put(&self, records: Vec<(ActionKey, ActionRecord)>) -> Result<Vec<Recorded>, StoreError>;
}
