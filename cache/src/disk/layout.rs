//! Where a disk store keeps what.
//!
//! ```text
//! LAYOUT                        the number of this layout, in decimal
//! LOCK                          locked while a process has the store open
//! index.sqlite                  what is here, and small blobs themselves
//! blobs/<function>/<2>/<hex>    a blob, mode 0444
//! blobs-x/<function>/<2>/<hex>  a blob that is needed as an executable, mode 0555
//! incoming/                     files that are being written; emptied at start
//! quarantine/                   blobs that did not verify, a few of them
//! ```

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use muster_model::limits::QUARANTINED_BLOBS_MAX;
use muster_model::{Digest, DigestFunction};

use crate::StoreError;
use crate::blob::Partial;

/// The layout that this code writes.
const LAYOUT: u32 = 2;

/// Permissions of stored files. The owner may write because a test may change its own files: in an environment it changes a copy, made by the
/// overlay, and the copy inherits these. The stored file itself is under no path that a test can reach.
const PLAIN_MODE: u32 = 0o644;
const EXECUTABLE_MODE: u32 = 0o755;

/// The folders of one store.
#[derive(Debug)]
pub(super) struct Layout {
    directory: PathBuf,
    owner: Option<(u32, u32)>,
    incoming: AtomicU64,
}

/// How a stored file is meant to be used; one inode has one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Executable,
}

impl Form {
    pub(super) fn of(executable: bool) -> Self {
        if executable { Self::Executable } else { Self::Plain }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Plain => Self::Executable,
            Self::Executable => Self::Plain,
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Plain => "blobs",
            Self::Executable => "blobs-x",
        }
    }

    pub(super) fn mode(self) -> u32 {
        match self {
            Self::Plain => PLAIN_MODE,
            Self::Executable => EXECUTABLE_MODE,
        }
    }
}

impl Layout {
    /// Locks `directory`, creates what is missing and empties `incoming/`. The lock is held as long as the returned file is open.
    pub(super) fn open(directory: &Path, owner: Option<(u32, u32)>) -> Result<(Self, File), StoreError> {
        let layout = Self { directory: directory.to_path_buf(), owner, incoming: AtomicU64::new(0) };
        create_all(directory)?;
        let lock_path = directory.join("LOCK");
        let lock = File::create(&lock_path).map_err(StoreError::file("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StoreError::InUse { directory: directory.to_path_buf() }),
            Err(fs::TryLockError::Error(source)) => return Err(StoreError::file("lock", &lock_path)(source)),
        }
        layout.check_version()?;
        let incoming = directory.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StoreError::file("empty", &incoming)(error));
            }
            _ => create_all(&incoming)?,
        }
        create_all(&directory.join("quarantine"))?;
        for form in [Form::Plain, Form::Executable] {
            for function in [DigestFunction::Blake3, DigestFunction::Sha256] {
                create_all(&directory.join(form.folder()).join(function.name()))?;
            }
        }
        Ok((layout, lock))
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let path = self.directory.join("LAYOUT");
        match fs::read(&path) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).trim().to_owned();
                match text.parse::<u32>() {
                    Ok(LAYOUT) => return Ok(()),
                    Ok(1) => return self.clear_older(),
                    _ => {}
                }
                let found = text.chars().take(20).collect();
                Err(StoreError::Layout { directory: self.directory.clone(), found, known: LAYOUT })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => self.note_version(),
            Err(error) => Err(StoreError::file("read", &path)(error)),
        }
    }

    fn note_version(&self) -> Result<(), StoreError> {
        let (fresh, path) = (self.directory.join("LAYOUT.new"), self.directory.join("LAYOUT"));
        fs::write(&fresh, format!("{LAYOUT}\n")).map_err(StoreError::file("write", &fresh))?;
        fs::rename(&fresh, &path).map_err(StoreError::file("put in place", &path))
    }

    /// Empties a store of an older layout: it is a cache.
    fn clear_older(&self) -> Result<(), StoreError> {
        tracing::warn!(directory = %self.directory.display(), "the cache has an older layout and starts empty");
        for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "blobs", "blobs-x"] {
            let path = self.directory.join(name);
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            match removed {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(StoreError::file("remove", &path)(error));
                }
                _ => {}
            }
        }
        self.note_version()
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.directory.join("index.sqlite")
    }

    /// Where a blob's file is, if it has one in this form.
    pub(super) fn blob_path(&self, digest: &Digest, form: Form) -> PathBuf {
        let hex = digest.hex();
        self.directory.join(form.folder()).join(digest.function.name()).join(&hex[..2]).join(hex)
    }

    /// A new file in `incoming/`.
    pub(super) fn create_incoming(&self) -> Result<Partial, StoreError> {
        let number = self.incoming.fetch_add(1, Ordering::Relaxed);
        Partial::create(self.directory.join("incoming").join(number.to_string()))
    }

    /// Gives a written file the mode of its form and the configured owner.
    pub(super) fn seal(&self, partial: &Partial, form: Form) -> Result<(), StoreError> {
        self.seal_file(partial.file(), partial.path(), form)
    }

    /// [`Self::seal`] for a file anywhere.
    pub(super) fn seal_file(&self, file: &File, path: &Path, form: Form) -> Result<(), StoreError> {
        // The owner first: changing it clears bits of the mode.
        if let Some((user, group)) = self.owner {
            std::os::unix::fs::fchown(file, Some(user), Some(group)).map_err(StoreError::file("give away", path))?;
        }
        file.set_permissions(fs::Permissions::from_mode(form.mode())).map_err(StoreError::file("seal", path))
    }

    /// Puts a written file into its place.
    pub(super) fn publish(&self, digest: &Digest, form: Form, partial: Partial) -> Result<(), StoreError> {
        let path = self.blob_path(digest, form);
        if let Some(folder) = path.parent() {
            create_one(folder)?;
        }
        partial.publish(&path)
    }

    /// Turns the file of one form into that of the other. Whoever has it linked sees the new mode.
    pub(super) fn convert(&self, digest: &Digest, to: Form) -> Result<(), StoreError> {
        let (from_path, to_path) = (self.blob_path(digest, to.other()), self.blob_path(digest, to));
        if let Some(folder) = to_path.parent() {
            create_one(folder)?;
        }
        fs::set_permissions(&from_path, fs::Permissions::from_mode(to.mode()))
            .map_err(StoreError::file("change the mode of", &from_path))?;
        fs::rename(&from_path, &to_path).map_err(StoreError::file("put in place", &to_path))
    }

    /// Opens a blob's file in whichever form it has.
    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Option<(File, PathBuf)>, StoreError> {
        // Twice, because the file may move from one form to the other between two looks.
        for form in [Form::Plain, Form::Executable, Form::Plain] {
            let path = self.blob_path(digest, form);
            match File::open(&path) {
                Ok(file) => return Ok(Some((file, path))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::file("open", &path)(error)),
            }
        }
        Ok(None)
    }

    /// Deletes a blob's files.
    pub(super) fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        for form in [Form::Plain, Form::Executable] {
            let path = self.blob_path(digest, form);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(StoreError::file("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes a blob's files out of the store; the newest few are kept for inspection, in place of the oldest.
    pub(super) fn quarantine(&self, digest: &Digest, number: u64) -> Result<(), StoreError> {
        if let Some((_, path)) = self.open_blob(digest)? {
            let place = number % QUARANTINED_BLOBS_MAX as u64;
            let kept = self.directory.join("quarantine").join(place.to_string());
            fs::rename(&path, &kept).map_err(StoreError::file("quarantine", &path))?;
        }
        self.remove(digest)
    }
}

fn create_all(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(StoreError::file("create", path))
}

fn create_one(path: &Path) -> Result<(), StoreError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(StoreError::file("create", path)(error)),
        _ => Ok(()),
    }
}
