//! A local store in front of a remote one: what is here is used, what is not is fetched once. One needs it on agents.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use muster_model::Digest;
use muster_model::limits::TRANSFERS_CONCURRENT_MAX;

use crate::singleflight::{Claim, Flight, Flights};
use crate::{Blob, BlobStore, DiskStore, RemoteStore, StoreError};

/// Looks here first, and keeps what it had to fetch.
#[derive(Clone, Debug)]
pub struct ReadThrough {
    local: Arc<DiskStore>,
    remote: RemoteStore,
    flights: Flights,
}

/// What one call fetched, and what it found here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchStats {
    /// Blobs that this call fetched.
    pub fetched_blobs: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Blobs that were here, or that another call was fetching.
    pub reused_blobs: u64,
    /// Their bytes.
    pub reused_bytes: u64,
}

impl FetchStats {
    /// Adds what another call did.
    pub fn add(&mut self, other: Self) {
        self.fetched_blobs += other.fetched_blobs;
        self.fetched_bytes += other.fetched_bytes;
        self.reused_blobs += other.reused_blobs;
        self.reused_bytes += other.reused_bytes;
    }

    fn count_fetched(&mut self, digest: &Digest) {
        self.fetched_blobs += 1;
        self.fetched_bytes += digest.size_bytes;
    }
}

/// Somebody who can bring blobs into a local store.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Brings all of `digests` into the local store.
    ///
    /// # Errors
    ///
    /// The first blob's failure; [`StoreError::NotFound`] when nobody has it.
    async fn fetch_all(&self, digests: &[Digest]) -> Result<FetchStats, StoreError>;
}

impl ReadThrough {
    /// `local` in front of `remote`.
    pub fn new(local: Arc<DiskStore>, remote: RemoteStore) -> Self {
        Self { local, remote, flights: Flights::default() }
    }

    /// The store in front.
    pub fn local(&self) -> &Arc<DiskStore> {
        &self.local
    }

    /// All bytes of a blob. One that turns out to have rotted here is fetched again.
    ///
    /// # Errors
    ///
    /// As [`BlobStore::get`] and [`Blob::into_bytes`].
    pub async fn get_whole(&self, digest: &Digest, limit: u64) -> Result<Bytes, StoreError> {
        match self.get(digest).await?.into_bytes(limit).await {
            Err(StoreError::Corrupt(_)) => self.get(digest).await?.into_bytes(limit).await,
            read => read,
        }
    }

    /// Fetches blobs that nobody else is fetching.
    async fn fetch_mine(&self, mut flights: HashMap<Digest, Flight>) -> Result<FetchStats, StoreError> {
        // Somebody may have brought them between the question and the claim.
        let claimed: Vec<Digest> = flights.keys().copied().collect();
        let wanted = self.local.find_missing(&claimed).await?;
        let mut stats = FetchStats::default();
        for digest in &wanted {
            stats.count_fetched(digest);
        }
        let arriving = self.remote.get_many(wanted).map(|(digest, blob)| {
            let flight = flights.remove(&digest);
            async move {
                self.local.put_blob(&digest, blob?).await?;
                drop(flight);
                Ok::<_, StoreError>(())
            }
        });
        arriving.buffer_unordered(TRANSFERS_CONCURRENT_MAX * 4).try_collect::<()>().await?;
        Ok(stats)
    }
}

#[async_trait]
impl Fetch for ReadThrough {
    async fn fetch_all(&self, digests: &[Digest]) -> Result<FetchStats, StoreError> {
        let mut asked = digests.to_vec();
        asked.sort_unstable();
        asked.dedup();
        let mut stats = FetchStats::default();
        let mut missing = self.local.find_missing(&asked).await?;
        while !missing.is_empty() {
            let mut mine = HashMap::new();
            let mut theirs = Vec::new();
            for digest in &missing {
                match self.flights.claim(*digest) {
                    Claim::Mine(flight) => drop(mine.insert(*digest, flight)),
                    Claim::Theirs(wait) => theirs.push((*digest, wait)),
                }
            }
            stats.add(self.fetch_mine(mine).await?);
            let mut doubtful = Vec::with_capacity(theirs.len());
            for (digest, wait) in theirs {
                wait.over().await;
                doubtful.push(digest);
            }
            missing = self.local.find_missing(&doubtful).await?;
        }
        let all_bytes = asked.iter().map(|digest| digest.size_bytes).sum::<u64>();
        stats.reused_blobs = (asked.len() as u64).saturating_sub(stats.fetched_blobs);
        stats.reused_bytes = all_bytes.saturating_sub(stats.fetched_bytes);
        Ok(stats)
    }
}

/// For a store that has nobody to ask.
#[async_trait]
impl Fetch for DiskStore {
    async fn fetch_all(&self, digests: &[Digest]) -> Result<FetchStats, StoreError> {
        match self.find_missing(digests).await?.first() {
            Some(digest) => Err(StoreError::NotFound(*digest)),
            None => Ok(FetchStats {
                reused_blobs: digests.len() as u64,
                reused_bytes: digests.iter().map(|digest| digest.size_bytes).sum(),
                ..FetchStats::default()
            }),
        }
    }
}

/// A large file is verified while it is read: what rotted is an error at its end, and not here any more for whoever reads it next.
#[async_trait]
impl BlobStore for ReadThrough {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let missing = self.local.find_missing(digests).await?;
        if missing.is_empty() { Ok(missing) } else { self.remote.find_missing(&missing).await }
    }

    async fn get(&self, digest: &Digest) -> Result<Blob, StoreError> {
        match self.local.get_blob(digest).await {
            // What rotted here is fetched again.
            Err(StoreError::NotFound(_) | StoreError::Corrupt(_)) => {
                self.fetch_all(&[*digest]).await?;
                self.local.get_blob(digest).await
            }
            found => found,
        }
    }

    async fn put(&self, digest: &Digest, blob: Blob) -> Result<(), StoreError> {
        self.local.put_blob(digest, blob).await?;
        self.remote.put(digest, self.local.get_blob(digest).await?).await
    }
}
