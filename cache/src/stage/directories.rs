//! Directories that were read lately, so that trees which share them are compared and made without reading them again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use muster_model::Digest;
use muster_model::limits::DIRECTORY_ENTRIES_KEPT_MAX;

use super::delta::Known;
use crate::tree::Directory;

/// Verified directories by digest. Cheap to ask, bounded by their entries.
#[derive(Debug, Default)]
pub(super) struct Directories(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    directories: HashMap<Digest, (Arc<Directory>, u64)>,
    entries: usize,
    clock: u64,
}

impl Directories {
    /// Those of `digests` that are here, and the others.
    pub(super) fn find(&self, digests: &[Digest]) -> (Known, Vec<Digest>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clock += 1;
        let clock = kept.clock;
        let mut known = Known::new();
        let mut unknown = Vec::new();
        for digest in digests {
            match kept.directories.get_mut(digest) {
                Some((directory, used)) => {
                    *used = clock;
                    known.insert(*digest, directory.clone());
                }
                None => unknown.push(*digest),
            }
        }
        (known, unknown)
    }

    /// Keeps directories. When there are too many, the half that was used longest ago goes.
    pub(super) fn keep(&self, directories: &Known) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let clock = kept.clock;
        for (digest, directory) in directories {
            if kept.directories.insert(*digest, (directory.clone(), clock)).is_none() {
                kept.entries += size(directory);
            }
        }
        if kept.entries > DIRECTORY_ENTRIES_KEPT_MAX {
            let mut uses: Vec<u64> = kept.directories.values().map(|(_, used)| *used).collect();
            let middle = uses.len() / 2;
            let border = *uses.select_nth_unstable(middle).1;
            kept.directories.retain(|_, (_, used)| *used > border);
            kept.entries = kept.directories.values().map(|(directory, _)| size(directory)).sum();
        }
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries
    }
}

/// What a directory counts: its entries and itself.
fn size(directory: &Directory) -> usize {
    directory.entries().len() + 1
}
