//! Blobs and results on a local disk. One needs it wherever bytes stay: on the coordinator, and on every agent.
//!
//! Guarantees: no byte is handed out that was not hashed on its way out; no blob is visible before it was hashed on its way in. What was
//! answered survives the death of the process. After a loss of power blobs and records of the last seconds may be missing, and what the
//! store says that it has, it has: see [`durability`]. Nothing is scanned at start after a stop in order.
//!
//! Small blobs are kept in packs, larger ones in files of their own ([`packs`]); one SQLite database says what is where ([`index`]), and is
//! made anew from packs and files when it is damaged ([`rebuild`]).

mod collect;
mod durability;
mod entries;
mod eviction;
mod foresight;
mod index;
mod layout;
mod leases;
mod link;
mod listing;
mod packs;
mod presence;
mod read;
mod rebuild;
mod records;
mod thread;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use muster_model::key::ActionKey;
use muster_model::limits::{
    BLOB_BYTES_MAX, BLOB_LEASE_TIME, CACHE_BYTES_DEFAULT, CHUNK_BYTES_MAX, MESSAGE_BYTES_MAX, PACKED_BLOB_BYTES_MAX,
};
use muster_model::{Digest, DigestFunction};

use crate::blob::blocking;
use crate::files::{Files, RealFiles};
use crate::{ActionCache, ActionRecord, Blob, BlobStore, Recorded, StoreError, digest_of};
pub use collect::{CollectGoal, Collected};
use entries::Offer;
use index::Index;
use layout::{Form, Layout};
use link::Verified;
pub use listing::{BlobEntry, BlobPage, DivergentPage, PageRequest, RecordEntry, RecordPage, UseOrder};
use packs::PackHandles;
use presence::Presence;
use thread::IndexHandle;

/// How a disk store is set up.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// Where everything is kept. One process at a time.
    pub directory: PathBuf,
    /// What blobs and records may take together, in bytes; each entry is charged a little more than its size.
    pub capacity_bytes: u64,
    /// How long a blob stays after the store said that it is there.
    pub lease_time: Duration,
    /// How long an entry may stay without being used; none for as long as there is room.
    pub age_max: Option<Duration>,
    /// Blobs of at most this size, in bytes, are kept in packs; at most [`CHUNK_BYTES_MAX`], because they are held in memory whole.
    pub packed_bytes_max: u64,
    /// The user and group that own stored files. An overlay can only copy up files whose owner is mapped into its namespace.
    pub owner: Option<(u32, u32)>,
}

impl DiskConfig {
    /// The defaults, in `directory`.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            capacity_bytes: CACHE_BYTES_DEFAULT,
            lease_time: BLOB_LEASE_TIME,
            age_max: None,
            packed_bytes_max: PACKED_BLOB_BYTES_MAX,
            owner: None,
        }
    }
}

/// What is in a disk store. The evicted, compacted, quarantined and divergent are counted since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStats {
    /// Blobs.
    pub blobs: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// What blobs and records take from the capacity, in bytes.
    pub charged_bytes: u64,
    /// The configured size, in bytes.
    pub capacity_bytes: u64,
    /// Results.
    pub records: u64,
    /// Files that hold small blobs.
    pub packs: u64,
    /// Blobs that can't be evicted now.
    pub leased_blobs: u64,
    /// Blobs evicted.
    pub evicted_blobs: u64,
    /// Their sizes together, in bytes.
    pub evicted_bytes: u64,
    /// Bytes of blobs that were moved from one pack to another.
    pub compacted_bytes: u64,
    /// Blobs that did not verify when they were read.
    pub quarantined_blobs: u64,
    /// Results that did not verify when they were read.
    pub quarantined_records: u64,
    /// Results that came to another outcome than their action's first one.
    pub divergent_results: u64,
}

/// Blobs and results in a directory.
#[derive(Debug)]
pub struct DiskStore {
    index: IndexHandle,
    layout: Arc<Layout>,
    verified: Arc<Verified>,
    presence: Arc<Presence>,
    handles: Arc<PackHandles>,
    capacity_bytes: u64,
    packed_bytes_max: u64,
    owner: Option<(u32, u32)>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl DiskStore {
    /// Opens a store, or makes one.
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`] when another process has it, [`StoreError::Layout`] when a newer program wrote it.
    pub fn open(config: DiskConfig) -> Result<Arc<Self>, StoreError> {
        Self::open_on(Arc::new(RealFiles), config)
    }

    /// [`Self::open`] on any file system.
    pub(crate) fn open_on(files: Arc<dyn Files>, config: DiskConfig) -> Result<Arc<Self>, StoreError> {
        let (layout, lock) = Layout::open(files, &config.directory, config.owner)?;
        let layout = Arc::new(layout);
        let verified = Arc::new(Verified::default());
        let presence = Arc::new(Presence::new(config.lease_time));
        let handles = Arc::new(PackHandles::new(layout.clone()));
        let index = Index::open(layout.clone(), lock, verified.clone(), presence.clone(), handles.clone(), &config)?;
        let (index, thread) =
            IndexHandle::start(index).map_err(StoreError::file("start a thread for", &config.directory))?;
        Ok(Arc::new(Self {
            index,
            layout,
            verified,
            presence,
            handles,
            capacity_bytes: config.capacity_bytes,
            packed_bytes_max: config.packed_bytes_max.min(CHUNK_BYTES_MAX as u64),
            owner: config.owner,
            thread: Some(thread),
        }))
    }

    /// What is here.
    ///
    /// # Errors
    ///
    /// [`StoreError::Closed`] while the store closes.
    pub async fn stats(&self) -> Result<DiskStats, StoreError> {
        self.index.call(|index| Ok(index.stats())).await
    }

    /// Keeps blobs from being evicted until the lease is dropped: all of them, or none.
    ///
    /// # Errors
    ///
    /// [`StoreError::NotFound`] with the first that is not here.
    pub async fn lease(&self, digests: &[Digest]) -> Result<Lease, StoreError> {
        let digests: Vec<Digest> = digests.iter().filter(|digest| !is_empty(digest)).copied().collect();
        let handle = self.index.clone();
        self.index
            .call(move |index| {
                index.hold(&digests)?;
                Ok(Lease { index: handle, digests })
            })
            .await
    }

    /// The whole digest of a blob that somebody asks for by its hash alone, if it is here.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the index can't be asked.
    pub async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, StoreError> {
        let empty = digest_of(function, &[]);
        if hash == empty.hash {
            return Ok(Some(empty));
        }
        let size = self.index.call(move |index| index.size_of(function, &hash)).await?;
        Ok(size.map(|size_bytes| Digest { function, hash, size_bytes }))
    }

    /// The configured size, in bytes.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// The configured owner of stored files.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// [`BlobStore::get`], by a name that the action cache has not.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn get_blob(&self, digest: &Digest) -> Result<Blob, StoreError> {
        BlobStore::get(self, digest).await
    }

    /// [`BlobStore::put`], by a name that the action cache has not.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn put_blob(&self, digest: &Digest, blob: Blob) -> Result<(), StoreError> {
        BlobStore::put(self, digest, blob).await
    }

    async fn put_small(&self, digest: Digest, blob: Blob) -> Result<(), StoreError> {
        let bytes = blob.into_bytes(self.packed_bytes_max).await?;
        self.index.call(move |index| index.insert_packed(&digest, &bytes)).await
    }

    async fn put_file(&self, digest: Digest, blob: Blob) -> Result<(), StoreError> {
        let handle = self.index.clone();
        let offered = self.index.call(move |index| {
            Ok(match index.offer(&digest)? {
                Offer::Present => None,
                Offer::Wanted => Some(Reservation { index: handle, digest: Some(digest) }),
            })
        });
        let Some(reservation) = offered.await? else { return Ok(()) };
        let layout = self.layout.clone();
        let partial = blocking(move || layout.create_incoming()).await?;
        let partial = blob.pour(partial).await?;
        let layout = self.layout.clone();
        let sealed = blocking(move || {
            layout.seal(&**partial.file(), partial.path(), Form::Plain)?;
            Ok(partial)
        });
        let partial = sealed.await?;
        let stored = self.index.call(move |index| {
            reservation.redeem(index);
            index.insert_file(&digest, partial)
        });
        stored.await
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        self.index.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the cache's index had panicked");
        }
    }
}

#[async_trait]
impl BlobStore for DiskStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let mut asked: Vec<Digest> = digests.iter().filter(|digest| !is_empty(digest)).copied().collect();
        asked.sort_unstable();
        asked.dedup();
        let (unknown, due) = self.presence.confirm(&asked);
        self.hand_over_uses(due);
        if unknown.is_empty() {
            return Ok(unknown);
        }
        self.index
            .call(move |index| {
                let mut missing = Vec::new();
                for digest in unknown {
                    if !index.confirm(&digest)? {
                        missing.push(digest);
                    }
                }
                Ok(missing)
            })
            .await
    }

    async fn get(&self, digest: &Digest) -> Result<Blob, StoreError> {
        self.read(*digest).await
    }

    async fn put(&self, digest: &Digest, blob: Blob) -> Result<(), StoreError> {
        if digest != blob.digest() {
            return Err(StoreError::Mismatch { expected: *digest, found: *blob.digest() });
        }
        if digest.size_bytes > BLOB_BYTES_MAX {
            return Err(StoreError::Limit { what: "the size of a blob", limit: BLOB_BYTES_MAX });
        }
        if is_empty(digest) {
            return Ok(());
        }
        if digest.size_bytes <= self.packed_bytes_max {
            self.put_small(*digest, blob).await
        } else {
            self.put_file(*digest, blob).await
        }
    }

    async fn get_many(&self, digests: &[Digest]) -> Vec<Result<Blob, StoreError>> {
        self.read_many(digests).await
    }

    async fn put_many(&self, blobs: Vec<Blob>) -> Vec<Result<(), StoreError>> {
        let mut results: Vec<Result<(), StoreError>> = Vec::with_capacity(blobs.len());
        let mut small = Vec::new();
        for blob in blobs {
            let digest = *blob.digest();
            if is_empty(&digest) || digest.size_bytes > self.packed_bytes_max {
                results.push(BlobStore::put(self, &digest, blob).await);
                continue;
            }
            let bytes = blob.into_bytes(self.packed_bytes_max).await;
            results.push(bytes.map(|bytes| small.push((results.len(), digest, bytes))));
        }
        if small.is_empty() {
            return results;
        }
        let positions: Vec<usize> = small.iter().map(|(position, ..)| *position).collect();
        let stored = self.index.call(move |index| {
            Ok(small.iter().map(|(_, digest, bytes)| index.insert_packed(digest, bytes)).collect::<Vec<_>>())
        });
        let stored = match stored.await {
            Ok(stored) => stored,
            Err(error) => refuse_all(positions.len(), error),
        };
        for (position, stored) in positions.into_iter().zip(stored) {
            results[position] = stored;
        }
        results
    }
}

/// The answers to a batch that failed as a whole.
fn refuse_all<T>(count: usize, error: StoreError) -> Vec<Result<T, StoreError>> {
    let (reason, full) = (error.to_string(), error.is_full());
    let again = || Err(StoreError::Batch { reason: reason.clone(), full });
    let mut first = Some(error);
    (0..count).map(|_| first.take().map_or_else(again, Err)).collect()
}

#[async_trait]
impl ActionCache for DiskStore {
    async fn get(&self, keys: &[ActionKey]) -> Result<Vec<Option<ActionRecord>>, StoreError> {
        let keys = keys.to_vec();
        self.index.call(move |index| keys.iter().map(|key| index.record(key)).collect()).await
    }

    async fn put(&self, records: Vec<(ActionKey, ActionRecord)>) -> Result<Vec<Recorded>, StoreError> {
        if records.iter().any(|(_, record)| record.payload.len() > MESSAGE_BYTES_MAX) {
            return Err(StoreError::Limit { what: "the size of a record", limit: MESSAGE_BYTES_MAX as u64 });
        }
        self.index.call(move |index| index.put_records(&records)).await
    }
}

/// Keeps blobs from being evicted while it exists.
#[derive(Debug)]
#[must_use = "the blobs are let go when the lease is dropped"]
pub struct Lease {
    index: IndexHandle,
    digests: Vec<Digest>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let digests = std::mem::take(&mut self.digests);
        if !digests.is_empty() {
            self.index.cast(move |index| {
                index.release(&digests);
                Ok(())
            });
        }
    }
}

/// Room kept for a blob that is on its way.
struct Reservation {
    index: IndexHandle,
    digest: Option<Digest>,
}

impl Reservation {
    fn redeem(mut self, index: &mut Index) {
        if let Some(digest) = self.digest.take() {
            index.unreserve(&digest);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(digest) = self.digest.take() {
            self.index.cast(move |index| {
                index.unreserve(&digest);
                Ok(())
            });
        }
    }
}

/// Whether this is the empty blob, which every store has.
pub(crate) fn is_empty(digest: &Digest) -> bool {
    digest.size_bytes == 0 && *digest == digest_of(digest.function, &[])
}

#[cfg(test)]
mod tests;
