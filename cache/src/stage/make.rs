//! Writes trees and deltas to disk.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use muster_model::Digest;
use nix::sys::stat::{Mode, SFlag, mknod};

use super::delta::Delta;
use crate::tree::{Content, Node};
use crate::{DiskStore, StoreError};

/// Files for which one more thread is worth its start.
const FILES_PER_THREAD_MIN: usize = 256;
/// Threads that make one tree; more wait for the same directories.
const THREADS_MAX: usize = 8;

/// What is to be made below a directory that is there, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// A directory before those in it.
    directories: Vec<PathBuf>,
    links: Vec<(PathBuf, String)>,
    whiteouts: Vec<PathBuf>,
    files: Vec<(Digest, PathBuf, bool)>,
}

impl Plan {
    /// All of a tree.
    pub(super) fn of_tree(root: PathBuf, content: &Content) -> Result<Self, StoreError> {
        let mut plan = Self::default();
        let mut pending = vec![(root, content.root)];
        while let Some((path, digest)) = pending.pop() {
            let Some(directory) = content.directories.get(&digest) else {
                return Err(StoreError::NotFound(digest));
            };
            for entry in directory.entries() {
                // A name is one component that is not `..`: whoever decoded the directory checked that.
                let path = path.join(&entry.name);
                match &entry.node {
                    Node::Directory(digest) => pending.push((path, *digest)),
                    Node::File { digest, executable } => plan.files.push((*digest, path, *executable)),
                    Node::Symlink(target) => plan.links.push((path, target.clone())),
                }
            }
            plan.directories.push(path);
        }
        Ok(plan)
    }

    /// What a tree has and its base has not.
    pub(super) fn of_delta(root: &Path, delta: &Delta) -> Self {
        let mut plan = Self::default();
        plan.directories.push(root.to_path_buf());
        plan.directories.extend(delta.directories.iter().map(|path| root.join(path)));
        plan.links.extend(delta.links.iter().map(|(path, target)| (root.join(path), target.clone())));
        plan.whiteouts.extend(delta.whiteouts.iter().map(|path| root.join(path)));
        plan.files.extend(delta.files.iter().map(|(digest, path, executable)| (*digest, root.join(path), *executable)));
        plan
    }

    /// Makes it.
    pub(super) fn carry_out(&self, store: &DiskStore) -> Result<(), StoreError> {
        for directory in &self.directories {
            create_directory(store, directory)?;
        }
        for (path, target) in &self.links {
            std::os::unix::fs::symlink(target, path).map_err(StoreError::file("create", path))?;
            give_away(store, path)?;
        }
        for path in &self.whiteouts {
            // A character device with the number 0/0 is how an overlay hides a name. Making one needs no rights (Linux 5.8).
            mknod(path, SFlag::S_IFCHR, Mode::empty(), 0).map_err(|error| StoreError::File {
                action: "create",
                path: path.clone(),
                source: error.into(),
            })?;
        }
        self.link_files(store)
    }

    fn link_files(&self, store: &DiskStore) -> Result<(), StoreError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = (self.files.len() / FILES_PER_THREAD_MIN).clamp(1, cores.min(THREADS_MAX));
        let share = self.files.len().div_ceil(threads).max(1);
        let mut shares = self.files.chunks(share);
        let Some(own) = shares.next() else { return Ok(()) };
        std::thread::scope(|scope| {
            let others: Vec<_> = shares.map(|files| scope.spawn(|| store.link_files(files))).collect();
            let mut done = store.link_files(own);
            for other in others {
                let result = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                done = done.and(result);
            }
            done
        })
    }
}

fn create_directory(store: &DiskStore, path: &Path) -> Result<(), StoreError> {
    fs::DirBuilder::new().mode(0o755).create(path).map_err(StoreError::file("create", path))?;
    // Whatever the mask of this process is.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(StoreError::file("change the mode of", path))?;
    give_away(store, path)
}

fn give_away(store: &DiskStore, path: &Path) -> Result<(), StoreError> {
    match store.owner() {
        Some((user, group)) => {
            std::os::unix::fs::lchown(path, Some(user), Some(group)).map_err(StoreError::file("give away", path))
        }
        None => Ok(()),
    }
}
