//! The file system as a store needs it, and nothing more.
//!
//! Everything that a [`DiskStore`](crate::DiskStore) keeps goes through [`Files`]: blobs, packs, folders, the lock, and, by the name of an
//! SQLite VFS, the index too. On a machine that is [`RealFiles`]. The crash tests put a model in its place that fails at any operation
//! they like, stops after any operation, and then keeps only what was synced and a choice of what was not.
//!
//! Architecture Invariant: no other file of the disk store calls `std::fs`.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

#[cfg(test)]
pub(crate) mod model;
mod real;

pub(crate) use real::RealFiles;

/// What a store asks of a file system.
pub(crate) trait Files: fmt::Debug + Send + Sync + 'static {
    /// Makes a file that must not exist, to be written.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>>;
    /// Opens a file that exists, to be read, and to be written too if `writable`.
    fn open(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn StoreFile>>;
    /// Gives a file another name, in place of what had it before.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file one more name, which must be free. The new one may lie outside of the store.
    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a name away.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Makes a folder and those above it; no error when it is there.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Returns once names in this folder are where power loss does not reach them.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// The names in a folder, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<OsString>>;
    /// How large a file is and how many names it has.
    fn look(&self, path: &Path) -> io::Result<Look>;
    /// Changes a file's permissions.
    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Locks a file, made if need be, against other processes until the answer is dropped; none if another has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Lock>>;
    /// Room on the file system that holds a folder.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// The SQLite VFS through which the index goes; none for SQLite's own, which calls the system.
    fn sqlite_vfs(&self) -> Option<&str> {
        None
    }
}

/// A file that a store has open.
pub(crate) trait StoreFile: fmt::Debug + Send + Sync {
    /// Reads up to the length of `buffer`, less only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns once the bytes are where power loss does not reach them. When it fails they may be lost, whatever a second call says.
    fn sync(&self) -> io::Result<()>;
    /// Bytes in the file.
    fn size(&self) -> io::Result<u64>;
    /// Sets permissions, and the user and group that own it and the time of its last change if they are given.
    fn seal(&self, mode: u32, owner: Option<(u32, u32)>, modified: Option<SystemTime>) -> io::Result<()>;
}

/// What is held while a store is open.
pub(crate) type Lock = Box<dyn fmt::Debug + Send + Sync>;

/// A file from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) size_bytes: u64,
    pub(crate) links: u64,
}

/// Room on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) available_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// Everything in a file.
pub(crate) fn read_all(file: &dyn StoreFile) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; size];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    Ok(bytes)
}
