//! What a tree needs before it can be made: its directories, a base that it resembles, its blobs.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, stream};
use muster_model::Digest;

use super::delta::{Delta, Difference, Known};
use super::trees::Figures;
use super::{StagedTree, Stager};
use crate::tree::{Content, Directory, Entry, Node, collect_read, read_directory};
use crate::{Fetch, FetchStats, Lease, StoreError};

/// How often blobs that were evicted between their arrival and their lease are fetched again.
const LEASE_ATTEMPTS_MAX: usize = 3;
/// Blobs of directories read at one time.
const READS_CONCURRENT: usize = 16;

impl Stager {
    /// The whole tree, among those used last, that has most in common with `root`: equal entries count most, then directories of one name.
    pub(super) async fn resembling(
        self: &Arc<Self>,
        root: &Digest,
        fetcher: &dyn Fetch,
        stats: &mut FetchStats,
    ) -> Result<Option<(StagedTree, Figures)>, StoreError> {
        let mut bases = self.trees().bases(root.function);
        bases.retain(|(_, figures)| figures.nodes >= self.delta_rule.base_nodes_min);
        if bases.is_empty() {
            return Ok(None);
        }
        let (new, _) = self.read(vec![*root], Some(fetcher), stats).await?;
        let roots = bases.iter().map(|(root, _)| *root).collect();
        let (known, _) = self.read(roots, None, stats).await?;
        let Some(new) = new.get(root) else { return Ok(None) };
        let mut best: Option<(usize, Digest, Figures)> = None;
        for (base, figures) in bases {
            let score = known.get(&base).map_or(0, |old| resemblance(old, new));
            if score > 0 && best.is_none_or(|(other, ..)| score > other) {
                best = Some((score, base, figures));
            }
        }
        let Some((_, base, figures)) = best else { return Ok(None) };
        // It may have been evicted meanwhile.
        let found = self.trees().take_full(&base);
        Ok(found.map(|found| (self.handle(found, FetchStats::default()), figures)))
    }

    /// What differs between two trees; nothing when that is more than `budget`, or the old one's directories are not here any more.
    pub(super) async fn compare(
        &self,
        old: &Digest,
        new: &Digest,
        budget: u64,
        fetcher: &dyn Fetch,
        stats: &mut FetchStats,
    ) -> Result<Option<Delta>, StoreError> {
        let mut difference = Difference::new(*old, *new, usize::try_from(budget).unwrap_or(usize::MAX));
        loop {
            let (old, new) = difference.needed();
            if new.is_empty() {
                return Ok(Some(difference.finish()));
            }
            let (mut known, missing) = self.read(old, None, stats).await?;
            if !missing.is_empty() {
                return Ok(None);
            }
            known.extend(self.read(new, Some(fetcher), stats).await?.0);
            if difference.step(&known).is_err() {
                return Ok(None);
            }
        }
    }

    /// Brings all blobs of a tree into the store and leases them.
    pub(super) async fn bring(
        &self,
        root: &Digest,
        fetcher: &dyn Fetch,
        stats: &mut FetchStats,
    ) -> Result<(Content, Lease), StoreError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let brought = self.try_bring(root, fetcher, stats, attempts > 1).await;
            match brought {
                // Staged trees that nobody uses hold leases: they give way to one that is needed.
                Err(StoreError::Full { .. }) if self.evict_unused().await? => {}
                Err(StoreError::NotFound(_)) if attempts < LEASE_ATTEMPTS_MAX => {}
                brought => return brought,
            }
        }
    }

    async fn try_bring(
        &self,
        root: &Digest,
        fetcher: &dyn Fetch,
        stats: &mut FetchStats,
        is_again: bool,
    ) -> Result<(Content, Lease), StoreError> {
        let directory_stats = Mutex::new(FetchStats::default());
        let content = collect_read(root, |digests| {
            let directory_stats = &directory_stats;
            async move {
                let mut stats = FetchStats::default();
                let read = self.read(digests, Some(fetcher), &mut stats).await?;
                directory_stats.lock().unwrap_or_else(PoisonError::into_inner).add(stats);
                Ok(read.0)
            }
        })
        .await;
        stats.add(directory_stats.into_inner().unwrap_or_else(PoisonError::into_inner));
        let content = content?;
        stats.add(fetcher.fetch_all(&content.files).await?);
        let mut leased: Vec<Digest> = content.directories.keys().copied().collect();
        if is_again {
            // Those that were known from memory need not be in the store any more.
            stats.add(fetcher.fetch_all(&leased).await?);
        }
        leased.extend(&content.files);
        let lease = self.store.lease(&leased).await?;
        Ok((content, lease))
    }

    /// Directories, from memory or from the store, into which `fetcher` brings what it has not. Without a fetcher those that are not here
    /// are named.
    async fn read(
        &self,
        digests: Vec<Digest>,
        fetcher: Option<&dyn Fetch>,
        stats: &mut FetchStats,
    ) -> Result<(Known, Vec<Digest>), StoreError> {
        let (mut known, mut wanted) = self.directories.find(&digests);
        let mut missing = Vec::new();
        let mut new = Known::new();
        let mut is_again = false;
        while !wanted.is_empty() {
            if let Some(fetcher) = fetcher {
                stats.add(fetcher.fetch_all(&wanted).await?);
            }
            let reads = std::mem::take(&mut wanted).into_iter().map(|digest| async move {
                let directory = self.read_stored(digest).await;
                (digest, directory)
            });
            let read: Vec<_> = stream::iter(reads).buffer_unordered(READS_CONCURRENT).collect().await;
            for (digest, directory) in read {
                match directory {
                    Ok(directory) => drop(new.insert(digest, Arc::new(directory))),
                    Err(StoreError::NotFound(_) | StoreError::Corrupt(_)) if fetcher.is_none() => missing.push(digest),
                    // What rotted is not here any more: it is fetched like anything else that is not.
                    Err(StoreError::Corrupt(_)) if !is_again => wanted.push(digest),
                    Err(error) => return Err(error),
                }
            }
            is_again = true;
        }
        self.directories.keep(&new);
        known.extend(new);
        Ok((known, missing))
    }

    async fn read_stored(&self, digest: Digest) -> Result<Directory, StoreError> {
        let bytes = self.store.get_blob(&digest).await?.into_bytes(digest.size_bytes).await?;
        read_directory(&digest, &bytes)
    }
}

/// How much two directories have in common.
fn resemblance(old: &Directory, new: &Directory) -> usize {
    let of = |after: &Entry| {
        let index = old.entries().binary_search_by(|before| before.name.cmp(&after.name)).ok()?;
        let before = &old.entries()[index];
        Some(match (&before.node, &after.node) {
            (before, after) if before == after => 4,
            (Node::Directory(_), Node::Directory(_)) => 1,
            _ => 0,
        })
    };
    new.entries().iter().filter_map(of).sum()
}
