//! The coordinator's store: blobs and results on its own disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_cache::{ActionCache, Blob, BlobStore, DiskConfig, DiskStore, StoreError, Trouble};
use muster_model::Digest;
use muster_proto::v1;
use tonic::Status;

use crate::open_run::PreparedTarget;

/// One store, by what it is used for.
#[derive(Clone)]
pub(crate) struct Storage {
    pub(crate) disk: Arc<DiskStore>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) actions: Arc<dyn ActionCache>,
    /// How long a blob stays after the store said that it is there.
    pub(crate) lease_time: Duration,
}

impl Storage {
    /// Opens the store below `folder`.
    pub(crate) fn open(folder: &Path, capacity_bytes: u64, lease_time: Duration) -> Result<Self, StoreError> {
        let disk = DiskStore::open(DiskConfig { capacity_bytes, lease_time, ..DiskConfig::new(folder) })?;
        Ok(Self { blobs: disk.clone(), actions: disk.clone(), disk, lease_time })
    }

    /// Puts the specifications of targets where agents look for them.
    pub(crate) async fn put_targets(&self, targets: &[Arc<PreparedTarget>]) -> Result<(), Status> {
        let digests: Vec<Digest> = targets.iter().map(|target| target.digest).collect();
        let missing = self.blobs.find_missing(&digests).await.map_err(|error| status(&error))?;
        for target in targets.iter().filter(|target| missing.contains(&target.digest)) {
            let blob = Blob::from_bytes(Bytes::clone(&target.encoded));
            self.blobs.put(&target.digest, blob).await.map_err(|error| status(&error))?;
        }
        Ok(())
    }

    /// What is in the store.
    pub(crate) async fn stats(&self) -> Result<v1::CacheStatsResponse, Status> {
        let stats = self.disk.stats().await.map_err(|error| status(&error))?;
        Ok(v1::CacheStatsResponse {
            blobs: stats.blobs,
            bytes: stats.bytes,
            capacity_bytes: stats.capacity_bytes,
            action_results: stats.records,
            kinds: Vec::new(),
            evicted_blobs: stats.evicted_blobs,
            evicted_bytes: stats.evicted_bytes,
            protocols: Vec::new(),
            clients: Vec::new(),
        })
    }
}

/// Says in the log why the store failed: paths and causes are for the operator, and a client may come again at once.
pub(crate) fn tell_failed(error: &StoreError) {
    static FAILED: Trouble = Trouble::new();
    FAILED.tell(|untold| tracing::error!(error = error as &dyn std::error::Error, untold, "the store failed"));
}

/// What a client is told of a store's trouble.
pub(crate) fn status(error: &StoreError) -> Status {
    match error {
        StoreError::Full { .. } | StoreError::DiskFull { .. } => Status::resource_exhausted(error.to_string()),
        error if error.is_full() => Status::resource_exhausted("no room on the coordinator's disk"),
        StoreError::NotFound(_) | StoreError::Corrupt(_) => Status::failed_precondition(error.to_string()),
        StoreError::Closed => Status::unavailable("the coordinator is stopping"),
        _ => {
            tell_failed(error);
            Status::internal("the coordinator's store failed; its log says why")
        }
    }
}
