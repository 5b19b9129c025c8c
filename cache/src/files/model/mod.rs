//! A file system in memory that remembers every change, fails where it is told to, and can be cut from power after any change.
//!
//! What survives a cut is what was synced, and any choice of what was not: see [`image`]. SQLite's files are in it too, through a VFS of
//! SQLite ([`vfs`]), so that the index is under the same rules as blobs are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::{Files, Lock, Look, Space, StoreFile};

pub(crate) mod image;
mod vfs;

/// One change, as it was made. Folders are made for good at once.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A name for a file, new or in place of another.
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
    Write(usize, u64, Vec<u8>),
    SetLength(usize, u64),
    Sync(usize),
    SyncFolder(PathBuf),
}

/// Which operations fail, counted from the first one after [`ModelFiles::fail`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) from: u64,
    pub(crate) count: u64,
    /// EIO fails everything; ENOSPC only what takes room.
    pub(crate) full: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct ModelFiles(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    number: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, usize>,
    folders: BTreeSet<PathBuf>,
    contents: Vec<Vec<u8>>,
    changes: Vec<Change>,
    locked: bool,
    operations: u64,
    fault: Option<Fault>,
    available_bytes: u64,
}

#[derive(Debug)]
struct ModelFile {
    shared: Arc<Shared>,
    file: usize,
}

#[derive(Debug)]
struct ModelLock(Arc<Shared>);

impl Drop for ModelLock {
    fn drop(&mut self) {
        self.0.lock().locked = false;
    }
}

impl ModelFiles {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let state = State { available_bytes: 1 << 40, ..State::default() };
        let shared = Arc::new(Shared { number, state: Mutex::new(state) });
        vfs::introduce(number, &shared);
        Self(shared)
    }

    /// The folder for a store in it; its path is unlike that of any other model's.
    pub(crate) fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/model/{}/cache", self.0.number))
    }

    /// Everything that changed so far.
    pub(crate) fn changes(&self) -> Vec<Change> {
        self.0.lock().changes.clone()
    }

    /// Drops what is remembered of changes so far, for histories that nobody will cut.
    pub(crate) fn forget_changes(&self) {
        self.0.lock().changes.clear();
    }

    pub(crate) fn change_count(&self) -> usize {
        self.0.lock().changes.len()
    }

    /// Makes operations fail from now on.
    pub(crate) fn fail(&self, fault: Option<Fault>) {
        let mut state = self.0.lock();
        state.operations = 0;
        state.fault = fault;
    }

    /// Operations since [`Self::fail`].
    pub(crate) fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    pub(crate) fn set_available(&self, bytes: u64) {
        self.0.lock().available_bytes = bytes;
    }

    /// The same files in another model, as if they had always been there.
    pub(crate) fn fork(&self) -> Self {
        let other = Self::new();
        let (from, to) = (self.folder(), other.folder());
        {
            let (state, mut copy) = (self.0.lock(), other.0.lock());
            let moved = |path: &PathBuf| path.strip_prefix(&from).map_or_else(|_| path.clone(), |rest| to.join(rest));
            copy.names = state.names.iter().map(|(path, file)| (moved(path), *file)).collect();
            copy.folders = state.folders.iter().map(moved).chain(to.ancestors().map(Path::to_path_buf)).collect();
            copy.contents = state.contents.clone();
        }
        other
    }

    /// Changes a file behind the store's back; no bytes take the file away.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let mut state = self.0.lock();
        let path = self.folder().join(name);
        let bytes = state.names.get(&path).map(|file| state.contents[*file].clone()).unwrap_or_default();
        state.names.remove(&path);
        if let Some(bytes) = edit(bytes) {
            state.contents.push(bytes);
            let file = state.contents.len() - 1;
            state.names.insert(path, file);
        }
    }

    /// Names of all files, below [`Self::folder`], with their sizes.
    pub(crate) fn files(&self) -> Vec<(PathBuf, u64)> {
        let state = self.0.lock();
        let folder = self.folder();
        let inside = |path: &PathBuf| path.strip_prefix(&folder).map(Path::to_path_buf).unwrap_or_default();
        state.names.iter().map(|(path, file)| (inside(path), state.contents[*file].len() as u64)).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self, file: usize, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.operate(true)?;
        let start = offset as usize;
        let content = &mut state.contents[file];
        if content.len() < start + bytes.len() {
            content.resize(start + bytes.len(), 0);
        }
        content[start..start + bytes.len()].copy_from_slice(bytes);
        state.changes.push(Change::Write(file, offset, bytes.to_vec()));
        Ok(())
    }

    fn read(&self, file: usize, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.lock();
        state.operate(false)?;
        let content = state.contents[file].get(offset as usize..).unwrap_or_default();
        let count = content.len().min(buffer.len());
        buffer[..count].copy_from_slice(&content[..count]);
        Ok(count)
    }

    fn sync(&self, file: usize) -> io::Result<()> {
        let mut state = self.lock();
        state.operate(false)?;
        state.changes.push(Change::Sync(file));
        Ok(())
    }

    fn size(&self, file: usize) -> io::Result<u64> {
        let mut state = self.lock();
        state.operate(false)?;
        Ok(state.contents[file].len() as u64)
    }
}

impl State {
    /// Counts an operation, and fails it if that is its fate.
    fn operate(&mut self, takes_room: bool) -> io::Result<()> {
        self.operations += 1;
        match self.fault {
            Some(fault)
                if self.operations > fault.from
                    && self.operations - fault.from <= fault.count
                    && (takes_room || !fault.full) =>
            {
                // ENOSPC and EIO.
                Err(io::Error::from_raw_os_error(if fault.full { 28 } else { 5 }))
            }
            _ => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn has_folder_of(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(folder) if self.folders.contains(folder) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<usize> {
        self.has_folder_of(path)?;
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.contents.push(Vec::new());
        let file = self.contents.len() - 1;
        self.names.insert(path.to_path_buf(), file);
        self.changes.push(Change::Link(path.to_path_buf(), file));
        Ok(file)
    }

    fn unlink(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        self.names.remove(path);
        self.changes.push(Change::Unlink(path.to_path_buf()));
        Ok(())
    }
}

impl Files for ModelFiles {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StoreFile>> {
        let mut state = self.0.lock();
        state.operate(true)?;
        let file = state.create(path)?;
        Ok(Arc::new(ModelFile { shared: self.0.clone(), file }))
    }

    fn open(&self, path: &Path, _writable: bool) -> io::Result<Arc<dyn StoreFile>> {
        let mut state = self.0.lock();
        state.operate(false)?;
        let file = state.find(path)?;
        Ok(Arc::new(ModelFile { shared: self.0.clone(), file }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate(true)?;
        let file = state.find(from)?;
        state.has_folder_of(to)?;
        state.names.remove(from);
        state.names.insert(to.to_path_buf(), file);
        state.changes.push(Change::Rename(from.to_path_buf(), to.to_path_buf(), file));
        Ok(())
    }

    fn hard_link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate(true)?;
        let file = state.find(from)?;
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.names.insert(to.to_path_buf(), file);
        state.changes.push(Change::Link(to.to_path_buf(), file));
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate(false)?;
        state.unlink(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate(true)?;
        state.folders.extend(path.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate(false)?;
        // Without the slash that joining an empty name leaves.
        state.changes.push(Change::SyncFolder(path.components().collect()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let mut state = self.0.lock();
        state.operate(false)?;
        let inside = |other: &&PathBuf| other.parent() == Some(path);
        let names = state.names.keys().filter(inside).chain(state.folders.iter().filter(inside));
        Ok(names.filter_map(|path| path.file_name()).map(OsString::from).collect())
    }

    fn look(&self, path: &Path) -> io::Result<Look> {
        let mut state = self.0.lock();
        state.operate(false)?;
        let file = state.find(path)?;
        let links = state.names.values().filter(|other| **other == file).count() as u64;
        Ok(Look { size_bytes: state.contents[file].len() as u64, links })
    }

    fn set_mode(&self, path: &Path, _mode: u32) -> io::Result<()> {
        let mut state = self.0.lock();
        state.operate(false)?;
        state.find(path).map(drop)
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Lock>> {
        let mut state = self.0.lock();
        state.operate(false)?;
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(ModelLock(self.0.clone()))))
    }

    fn space(&self, _path: &Path) -> io::Result<Space> {
        let mut state = self.0.lock();
        state.operate(false)?;
        Ok(Space { available_bytes: state.available_bytes, total_bytes: 1 << 40 })
    }

    fn sqlite_vfs(&self) -> Option<&str> {
        Some(vfs::NAME)
    }
}

impl StoreFile for ModelFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.shared.read(self.file, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.shared.write(self.file, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.shared.sync(self.file)
    }

    fn size(&self) -> io::Result<u64> {
        self.shared.size(self.file)
    }

    fn seal(&self, _mode: u32, _owner: Option<(u32, u32)>, _modified: Option<SystemTime>) -> io::Result<()> {
        self.shared.lock().operate(false)
    }
}
