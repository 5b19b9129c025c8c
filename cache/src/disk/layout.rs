//! Where a disk store keeps what.
//!
//! ```text
//! LAYOUT                        the number of this layout, in decimal
//! LOCK                          locked while a process has the store open
//! index.sqlite                  what is here, and results
//! packs/<number>.pack           small blobs together: see `packs`
//! blobs/<function>/<2>/<hex>    a blob in a file of its own, mode 0644
//! blobs-x/<function>/<2>/<hex>  a blob that is needed as an executable, mode 0755
//! incoming/                     files that are being written; emptied at start
//! quarantine/                   what did not verify, a little of it
//! ```

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use muster_model::limits::QUARANTINED_BLOBS_MAX;
use muster_model::spec::LAYER_FILE_TIME;
use muster_model::{Digest, DigestFunction};

use super::packs;
use crate::StoreError;
use crate::blob::Partial;
use crate::files::{Files, Lock, Space, StoreFile, read_all};

/// The layout that this code writes.
pub(super) const LAYOUT: u32 = 2;

/// Permissions of stored files. The owner may write because a test may change its own files: in an environment it changes a copy, made by the
/// overlay, and the copy inherits these. The stored file itself is under no path that a test can reach.
const PLAIN_MODE: u32 = 0o644;
const EXECUTABLE_MODE: u32 = 0o755;
/// Permissions of what only the store reads.
const PRIVATE_MODE: u32 = 0o600;

/// The folders of one store.
#[derive(Debug)]
pub(super) struct Layout {
    files: Arc<dyn Files>,
    directory: PathBuf,
    owner: Option<(u32, u32)>,
    incoming: AtomicU64,
}

/// A blob's file, open, and where it is.
pub(super) type OpenBlob = (Arc<dyn StoreFile>, PathBuf);

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
    /// Locks `directory`, creates what is missing and empties `incoming/`. The lock is held as long as the returned one exists.
    pub(super) fn open(
        files: Arc<dyn Files>,
        directory: &Path,
        owner: Option<(u32, u32)>,
    ) -> Result<(Self, Lock), StoreError> {
        let layout = Self { files, directory: directory.to_path_buf(), owner, incoming: AtomicU64::new(0) };
        layout.make_folder(directory)?;
        let lock_path = directory.join("LOCK");
        let lock = layout.files.lock(&lock_path).map_err(StoreError::file("lock", &lock_path))?;
        let lock = lock.ok_or_else(|| StoreError::InUse { directory: directory.to_path_buf() })?;
        layout.check_version()?;
        for folder in ["incoming", "quarantine", "packs"] {
            layout.make_folder(&directory.join(folder))?;
        }
        let incoming = directory.join("incoming");
        for name in layout.list(&incoming)? {
            layout.unlink(&incoming.join(name))?;
        }
        for folder in layout.function_folders() {
            layout.make_folder(&folder)?;
        }
        // Names of folders must outlive power loss before what is in them can.
        for folder in ["", "blobs", "blobs-x"] {
            layout.sync_folder(&directory.join(folder))?;
        }
        Ok((layout, lock))
    }

    fn function_folders(&self) -> impl Iterator<Item = PathBuf> {
        [Form::Plain, Form::Executable].into_iter().flat_map(|form| {
            [DigestFunction::Blake3, DigestFunction::Sha256]
                .map(|function| self.directory.join(form.folder()).join(function.name()))
        })
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let path = self.directory.join("LAYOUT");
        let file = match self.files.open(&path, false) {
            Err(error) if error.kind() == ErrorKind::NotFound => return self.note_version(),
            opened => opened.map_err(StoreError::file("open", &path))?,
        };
        let bytes = read_all(&*file).map_err(StoreError::file("read", &path))?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        match text.parse::<u32>() {
            Ok(LAYOUT) => Ok(()),
            // Small blobs were in the index of layout 1, which has no form that is read today. Files are as they were.
            Ok(1) => {
                self.set_index_aside()?;
                self.note_version()
            }
            _ => {
                let found = text.chars().take(20).collect();
                Err(StoreError::Layout { directory: self.directory.clone(), found, known: LAYOUT })
            }
        }
    }

    fn note_version(&self) -> Result<(), StoreError> {
        let (fresh, path) = (self.directory.join("LAYOUT.new"), self.directory.join("LAYOUT"));
        self.unlink(&fresh)?;
        let file = self.files.create(&fresh).map_err(StoreError::file("create", &fresh))?;
        let written = file.write_at(format!("{LAYOUT}\n").as_bytes(), 0).and_then(|()| file.sync());
        written.map_err(StoreError::file("write", &fresh))?;
        self.rename(&fresh, &path)?;
        self.sync_folder(&self.directory)
    }

    pub(super) fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.directory.join("index.sqlite")
    }

    /// Puts the index where it can be looked at, in place of one that was put there before.
    pub(super) fn set_index_aside(&self) -> Result<(), StoreError> {
        self.make_folder(&self.directory.join("quarantine"))?;
        for ending in ["", "-wal", "-shm", "-journal"] {
            let name = format!("index.sqlite{ending}");
            let (path, aside) = (self.directory.join(&name), self.directory.join("quarantine").join(&name));
            self.unlink(&aside)?;
            match self.files.rename(&path, &aside) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(StoreError::file("quarantine", &path)(error));
                }
                _ => {}
            }
        }
        self.sync_folder(&self.directory)
    }

    pub(super) fn pack_path(&self, number: i64) -> PathBuf {
        self.directory.join("packs").join(format!("{number}.pack"))
    }

    pub(super) fn create_pack(&self, number: i64) -> Result<Arc<dyn StoreFile>, StoreError> {
        let path = self.pack_path(number);
        let file = self.files.create(&path).map_err(StoreError::file("create", &path))?;
        file.seal(PRIVATE_MODE, None, None).map_err(StoreError::file("seal", &path))?;
        Ok(file)
    }

    pub(super) fn open_pack(&self, number: i64) -> Result<Arc<dyn StoreFile>, StoreError> {
        let path = self.pack_path(number);
        self.files.open(&path, true).map_err(StoreError::file("open", &path))
    }

    pub(super) fn remove_pack(&self, number: i64) -> Result<(), StoreError> {
        self.unlink(&self.pack_path(number))
    }

    /// Makes the names of packs durable.
    pub(super) fn sync_packs(&self) -> Result<(), StoreError> {
        self.sync_folder(&self.directory.join("packs"))
    }

    /// The numbers of all packs, and names in their folder that are none.
    pub(super) fn list_packs(&self) -> Result<Vec<i64>, StoreError> {
        let names = self.list(&self.directory.join("packs"))?;
        Ok(names.iter().filter_map(|name| packs::number_of(name)).collect())
    }

    /// Folders that hold blobs' files.
    pub(super) fn blob_folders(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut folders = Vec::new();
        for folder in self.function_folders() {
            folders.extend(self.list(&folder)?.into_iter().map(|name| folder.join(name)));
        }
        Ok(folders)
    }

    /// Paths in a folder of [`Self::blob_folders`], with the digests that their names say.
    pub(super) fn blobs_in(&self, folder: &Path) -> Result<Vec<(PathBuf, Option<Digest>)>, StoreError> {
        let function = folder.parent().and_then(Path::file_name).and_then(OsStr::to_str);
        let function =
            [DigestFunction::Blake3, DigestFunction::Sha256].into_iter().find(|known| Some(known.name()) == function);
        let named = |path: &Path| {
            let size = self.files.look(path).ok()?.size_bytes;
            let digest = Digest::parse(function?, path.file_name()?.to_str()?, size).ok()?;
            (self.blob_path(&digest, Form::Plain) == *path || self.blob_path(&digest, Form::Executable) == *path)
                .then_some(digest)
        };
        let paths = self.list(folder)?.into_iter().map(|name| folder.join(name));
        Ok(paths.map(|path| (path.clone(), named(&path))).collect())
    }

    /// Where a blob's file is, if it has one in this form.
    pub(super) fn blob_path(&self, digest: &Digest, form: Form) -> PathBuf {
        let hex = digest.hex();
        self.directory.join(form.folder()).join(digest.function.name()).join(&hex[..2]).join(hex)
    }

    /// A new file in `incoming/`.
    pub(super) fn create_incoming(&self) -> Result<Partial, StoreError> {
        let number = self.incoming.fetch_add(1, Ordering::Relaxed);
        Partial::create(self.files.clone(), self.directory.join("incoming").join(number.to_string()))
    }

    /// Gives a written file the mode of its form, the configured owner and the time of all files.
    pub(super) fn seal(&self, file: &dyn StoreFile, path: &Path, form: Form) -> Result<(), StoreError> {
        let modified = Some(UNIX_EPOCH + LAYER_FILE_TIME);
        file.seal(form.mode(), self.owner, modified).map_err(StoreError::file("seal", path))
    }

    /// Puts a written file into its place.
    pub(super) fn publish(&self, digest: &Digest, form: Form, partial: Partial) -> Result<(), StoreError> {
        let path = self.blob_path(digest, form);
        match partial.try_publish(&path) {
            Err((partial, error)) if error.kind() == ErrorKind::NotFound => {
                if let Some(folder) = path.parent() {
                    self.make_folder(folder)?;
                }
                partial.publish(&path)
            }
            done => done.map_err(|(_, error)| StoreError::file("put in place", &path)(error)),
        }
    }

    /// Turns the file of one form into that of the other. Whoever has it linked sees the new mode.
    pub(super) fn convert(&self, digest: &Digest, to: Form) -> Result<(), StoreError> {
        let (from_path, to_path) = (self.blob_path(digest, to.other()), self.blob_path(digest, to));
        if let Some(folder) = to_path.parent() {
            self.make_folder(folder)?;
        }
        self.files.set_mode(&from_path, to.mode()).map_err(StoreError::file("change the mode of", &from_path))?;
        self.rename(&from_path, &to_path)
    }

    /// Opens a blob's file in whichever form it has.
    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Option<OpenBlob>, StoreError> {
        // Twice, because the file may move from one form to the other between two looks.
        for form in [Form::Plain, Form::Executable, Form::Plain] {
            let path = self.blob_path(digest, form);
            match self.files.open(&path, false) {
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
            self.unlink(&self.blob_path(digest, form))?;
        }
        Ok(())
    }

    /// Takes a blob's files out of the store; the newest few are kept for inspection, in place of the oldest.
    pub(super) fn quarantine(&self, digest: &Digest, number: u64) -> Result<(), StoreError> {
        if let Some((_, path)) = self.open_blob(digest)? {
            self.quarantine_file(&path, number)?;
        }
        self.remove(digest)
    }

    /// Takes any file out of the store.
    pub(super) fn quarantine_file(&self, path: &Path, number: u64) -> Result<(), StoreError> {
        let place = number % QUARANTINED_BLOBS_MAX as u64;
        let kept = self.directory.join("quarantine").join(place.to_string());
        self.files.rename(path, &kept).map_err(StoreError::file("quarantine", path))
    }

    /// Takes a name away, if it is there.
    pub(super) fn unlink(&self, path: &Path) -> Result<(), StoreError> {
        match self.files.unlink(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(StoreError::file("remove", path)(error)),
            _ => Ok(()),
        }
    }

    /// Whether a file is there, as far as that can be told.
    pub(super) fn exists(&self, path: &Path) -> bool {
        self.files.look(path).is_ok()
    }

    /// Room on the store's file system.
    pub(super) fn space(&self) -> Result<Space, StoreError> {
        self.files.space(&self.directory).map_err(StoreError::file("ask for room in", &self.directory))
    }

    pub(super) fn sync_folder(&self, path: &Path) -> Result<(), StoreError> {
        self.files.sync_folder(path).map_err(StoreError::file("sync", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.files.rename(from, to).map_err(StoreError::file("put in place", to))
    }

    fn make_folder(&self, path: &Path) -> Result<(), StoreError> {
        self.files.make_folder(path).map_err(StoreError::file("create", path))
    }

    fn list(&self, path: &Path) -> Result<Vec<std::ffi::OsString>, StoreError> {
        self.files.list(path).map_err(StoreError::file("list", path))
    }
}
