//! The machine's own file system.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Files, Lock, Look, Space, StoreFile};

/// The machine's own file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RealFiles;

#[derive(Debug)]
struct RealFile(File);

impl Files for RealFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(true).create_new(true).open(path)?)))
    }

    fn open(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn StoreFile>> {
        Ok(Arc::new(RealFile(OpenOptions::new().read(true).write(writable).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn look(&self, path: &Path) -> io::Result<Look> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Look { size_bytes: metadata.len(), links: metadata.nlink() })
    }

    fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let found = nix::sys::statvfs::statvfs(path)?;
        let block_bytes = found.fragment_size();
        Ok(Space {
            available_bytes: found.blocks_available().saturating_mul(block_bytes),
            total_bytes: found.blocks().saturating_mul(block_bytes),
        })
    }
}

impl StoreFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut count = 0;
        while count < buffer.len() {
            match self.0.read_at(&mut buffer[count..], offset + count as u64) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn seal(&self, mode: u32, owner: Option<(u32, u32)>, modified: Option<SystemTime>) -> io::Result<()> {
        // The owner first: changing it clears bits of the mode.
        if let Some((user, group)) = owner {
            std::os::unix::fs::fchown(&self.0, Some(user), Some(group))?;
        }
        if let Some(modified) = modified {
            self.0.set_modified(modified)?;
        }
        self.0.set_permissions(fs::Permissions::from_mode(mode))
    }
}
