//! Directories that die with their process, at the latest when the next one starts.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A locked directory, removed when dropped. The lock tells other processes that the owner lives.
#[derive(Debug)]
pub(crate) struct OwnedDirectory {
    path: PathBuf,
    _lock: File,
}

impl OwnedDirectory {
    /// Makes a new directory in `parent` and removes those with the same prefix whose owners are dead.
    pub(crate) fn create(parent: &Path, prefix: &str) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(parent)?;
        remove_leftovers(parent, prefix)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{prefix}{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o755).create(&path)?;
        let lock = File::open(&path)?;
        lock.lock()?;
        Ok(Self { path, _lock: lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnedDirectory {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(%error, directory = %self.path.display(), "cannot remove a directory");
        }
    }
}

fn remove_leftovers(parent: &Path, prefix: &str) -> io::Result<()> {
    let own = format!("{prefix}{}-", std::process::id());
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_bytes().starts_with(prefix.as_bytes()) || name.as_bytes().starts_with(own.as_bytes()) {
            continue;
        }
        let Ok(directory) = File::open(entry.path()) else { continue };
        match directory.try_lock() {
            Ok(()) => remove_tree(&entry.path())?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Removes a directory with everything in it, directories without write permission too. Follows no link.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_directories(path)?;
            fs::remove_dir_all(path)
        }
        result => result,
    }
}

fn open_directories(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, PermissionsExt::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}
