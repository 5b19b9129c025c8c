//! Whether everything that a run's layers point at is in the store.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use muster_cache::{BlobStore, StoreError};
use muster_model::{Digest, limits};
use muster_proto::reapi;
use prost::Message;

/// Missing blobs that one message lists.
const MISSING_LISTED_MAX: usize = 10;

/// Why a layer can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClosureError {
    /// Blobs are not there.
    #[error("{count} blobs are missing: {listed}")]
    Missing {
        /// How many at least.
        count: usize,
        /// Some of them.
        listed: String,
    },
    /// A directory makes no sense.
    #[error("layer {root}: {why}")]
    Malformed {
        /// The layer.
        root: Digest,
        /// What is wrong.
        why: String,
    },
    /// The store can't be asked.
    #[error("the store can't be asked")]
    Store(#[from] StoreError),
}

/// Remembers which trees were whole a moment ago, so that the same layers are not walked for every run.
#[derive(Debug, Default)]
pub(crate) struct Closures {
    whole: Mutex<HashMap<Digest, Instant>>,
}

impl Closures {
    /// Checks that every directory and file below `roots` is in the store.
    pub(crate) async fn check(&self, store: &dyn BlobStore, roots: &[Digest]) -> Result<(), ClosureError> {
        let unchecked = self.unchecked(roots);
        for &root in &unchecked {
            check_tree(store, root).await?;
        }
        let now = Instant::now();
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.extend(unchecked.into_iter().map(|root| (root, now)));
        Ok(())
    }

    /// A store promises what it said for its lease time: half of that is safe to build on.
    fn unchecked(&self, roots: &[Digest]) -> HashSet<Digest> {
        let mut whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        whole.retain(|_, checked| checked.elapsed() < limits::BLOB_LEASE_TIME / 2);
        roots.iter().copied().filter(|root| !whole.contains_key(root)).collect()
    }
}

async fn check_tree(store: &dyn BlobStore, root: Digest) -> Result<(), ClosureError> {
    let mut seen = HashSet::from([root]);
    let mut level = vec![root];
    for _ in 0..limits::TREE_DEPTH_MAX {
        if level.is_empty() {
            return Ok(());
        }
        check_present(store, &level).await?;
        let (mut directories, mut files) = (Vec::new(), Vec::new());
        for digest in std::mem::take(&mut level) {
            let bytes = store.get(&digest).await?.into_bytes(limits::MESSAGE_BYTES_MAX as u64).await?;
            let directory = reapi::Directory::decode(bytes)
                .map_err(|error| ClosureError::Malformed { root, why: format!("{digest} is no directory: {error}") })?;
            let children = directory.directories.iter().map(|child| &child.digest);
            for (digests, list) in [
                (children.collect::<Vec<_>>(), &mut directories),
                (directory.files.iter().map(|file| &file.digest).collect(), &mut files),
            ] {
                for digest in digests {
                    let digest = digest.as_ref().ok_or_else(|| malformed(root, "an entry without a digest"))?;
                    let digest = Digest::try_from(digest).map_err(|error| malformed(root, error))?;
                    if seen.insert(digest) {
                        list.push(digest);
                    }
                }
            }
            if seen.len() > limits::TREE_NODES_MAX {
                return Err(malformed(root, format!("more than {} nodes", limits::TREE_NODES_MAX)));
            }
        }
        check_present(store, &files).await?;
        level = directories;
    }
    Err(malformed(root, format!("deeper than {} directories", limits::TREE_DEPTH_MAX)))
}

fn malformed(root: Digest, why: impl ToString) -> ClosureError {
    ClosureError::Malformed { root, why: why.to_string() }
}

async fn check_present(store: &dyn BlobStore, digests: &[Digest]) -> Result<(), ClosureError> {
    for chunk in digests.chunks(limits::FIND_MISSING_DIGESTS_MAX) {
        let missing = store.find_missing(chunk).await?;
        if !missing.is_empty() {
            let mut listed: Vec<String> = missing.iter().take(MISSING_LISTED_MAX).map(ToString::to_string).collect();
            if missing.len() > MISSING_LISTED_MAX {
                listed.push("…".into());
            }
            return Err(ClosureError::Missing { count: missing.len(), listed: listed.join(", ") });
        }
    }
    Ok(())
}
