//! What setups make, kept in folders by its key and shown to services as a layer.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use muster_environment::{Remains, StagedLayer};
use muster_model::key::ActionKey;
use muster_model::limits;

/// A folder with what one setup made. Removed when nobody uses it any more.
#[derive(Debug)]
pub(super) struct DataFolder {
    directory: PathBuf,
}

impl DataFolder {
    /// The layer to show it as.
    pub(super) fn layer(&self) -> StagedLayer {
        StagedLayer { directory: self.directory.clone(), mount_path: "/".into() }
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "cannot remove a service's data");
        }
    }
}

/// The folders of one agent.
#[derive(Debug)]
pub(super) struct DataFolders {
    root: PathBuf,
    count: AtomicU64,
    /// Whom files must belong to.
    owner: Option<(u32, u32)>,
    kept: Mutex<VecDeque<(ActionKey, Arc<DataFolder>)>>,
}

impl DataFolders {
    /// Folders below `root`, which is empty.
    pub(super) fn new(root: PathBuf, owner: Option<(u32, u32)>) -> Self {
        Self { root, count: AtomicU64::new(0), owner, kept: Mutex::default() }
    }

    /// What a setup with this key made before.
    pub(super) fn find(&self, key: ActionKey) -> Option<Arc<DataFolder>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(known, _)| *known == key).map(|(_, folder)| folder.clone())
    }

    /// Keeps what a setup made; the oldest of too many goes.
    pub(super) fn keep(&self, key: ActionKey, folder: Arc<DataFolder>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((key, folder));
        if kept.len() > limits::SERVICE_DATA_KEPT_MAX {
            kept.pop_front();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// An empty folder.
    pub(super) fn make(&self) -> io::Result<Arc<DataFolder>> {
        let directory = self.root.join(self.count.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&directory)?;
        let folder = DataFolder { directory };
        self.own(&folder.directory, 0o755)?;
        Ok(Arc::new(folder))
    }

    /// Copies the directory `data` out of a dead environment into a folder, under the same path.
    ///
    /// # Errors
    ///
    /// Also when there is no such directory, or when it is larger than the limits.
    pub(super) fn take(&self, folder: &DataFolder, remains: &Remains<'_>, data: &Path) -> io::Result<()> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("{} is not a directory", data.display()));
        let (root, rest) = remains.locate(data).ok_or_else(missing)?;
        let mut from = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        for part in &rest {
            from.push(part);
            if !fs::symlink_metadata(&from).is_ok_and(|metadata| metadata.is_dir()) {
                return Err(missing());
            }
        }
        let mut to = folder.directory.clone();
        for part in data.strip_prefix("/").unwrap_or(data) {
            to.push(part);
            fs::create_dir(&to)?;
            self.own(&to, 0o755)?;
        }
        let mut room = Room { bytes: limits::SERVICE_DATA_BYTES_MAX, nodes: limits::SERVICE_DATA_NODES_MAX };
        let mode = fs::symlink_metadata(&from)?.mode();
        self.copy(&from, &to, &mut room)?;
        self.own(&to, mode)
    }

    /// Nothing that made the files lives any more: what was not a link when it was looked at is none when it is opened.
    fn copy(&self, from: &Path, to: &Path, room: &mut Room) -> io::Result<()> {
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let metadata = fs::symlink_metadata(&source)?;
            room.take(metadata.len())?;
            if metadata.is_dir() {
                fs::create_dir(&target)?;
                self.copy(&source, &target, room)?;
                self.own(&target, metadata.mode())?;
            } else if metadata.is_symlink() {
                symlink(fs::read_link(&source)?, &target)?;
                self.give(&target)?;
            } else if metadata.is_file() {
                fs::copy(&source, &target)?;
                self.own(&target, metadata.mode())?;
            }
        }
        Ok(())
    }

    fn own(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, PermissionsExt::from_mode(mode & 0o777))?;
        self.give(path)
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        self.owner.map_or(Ok(()), |(user, group)| lchown(path, Some(user), Some(group)))
    }
}

/// What may still be copied.
struct Room {
    bytes: u64,
    nodes: usize,
}

impl Room {
    fn take(&mut self, bytes: u64) -> io::Result<()> {
        let too_large = || io::Error::other("it passes the limit of what a setup may leave");
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(too_large)?;
        self.nodes = self.nodes.checked_sub(1).ok_or_else(too_large)?;
        Ok(())
    }
}
