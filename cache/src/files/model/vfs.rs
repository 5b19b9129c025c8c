//! The model as SQLite sees it. One VFS serves all models: a path says which one is meant.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::Duration;

use sqlite_vfs::{DatabaseHandle, LockKind, OpenAccess, OpenKind, OpenOptions, Vfs, WalDisabled};

use super::{Change, Shared};

pub(super) const NAME: &str = "muster-model";

static MODELS: Mutex<Option<HashMap<u64, Weak<Shared>>>> = Mutex::new(None);

/// Makes a model known to SQLite.
pub(super) fn introduce(number: u64, shared: &Arc<Shared>) {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| sqlite_vfs::register(NAME, ModelVfs, false).unwrap());
    let mut models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    let models = models.get_or_insert_default();
    models.retain(|_, model| model.strong_count() > 0);
    models.insert(number, Arc::downgrade(shared));
}

fn model_of(path: &str) -> io::Result<Arc<Shared>> {
    let number = path.strip_prefix("/model/").and_then(|rest| rest.split('/').next()?.parse::<u64>().ok());
    let models = MODELS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = number.and_then(|number| models.as_ref()?.get(&number)?.upgrade());
    found.ok_or_else(|| io::ErrorKind::NotFound.into())
}

struct ModelVfs;

struct Handle {
    file: Where,
    folder: PathBuf,
    /// SQLite syncs the folder of a write-ahead log with the log's first sync, as its own VFS for Unix does.
    is_log: bool,
    lock: LockKind,
}

enum Where {
    Model(Arc<Shared>, usize),
    /// SQLite's temporary files are no part of the model.
    Memory(Vec<u8>),
}

impl Vfs for ModelVfs {
    type Handle = Handle;

    fn open(&self, path: &str, options: OpenOptions) -> io::Result<Handle> {
        let handle =
            |file, folder| Handle { file, folder, is_log: options.kind == OpenKind::Wal, lock: LockKind::None };
        if !matches!(options.kind, OpenKind::MainDb | OpenKind::MainJournal | OpenKind::Wal) {
            return Ok(handle(Where::Memory(Vec::new()), PathBuf::new()));
        }
        let model = model_of(path)?;
        let path = Path::new(path);
        let mut state = model.lock();
        state.operate(false)?;
        let file = match state.find(path) {
            Err(_) if matches!(options.access, OpenAccess::Create | OpenAccess::CreateNew) => {
                state.operate(true)?;
                state.create(path)?
            }
            found => found?,
        };
        drop(state);
        Ok(handle(Where::Model(model, file), path.parent().map(PathBuf::from).unwrap_or_default()))
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let model = model_of(path)?;
        let mut state = model.lock();
        state.operate(false)?;
        state.unlink(Path::new(path))
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        let model = model_of(path)?;
        let mut state = model.lock();
        state.operate(false)?;
        Ok(state.find(Path::new(path)).is_ok())
    }

    fn temporary_name(&self) -> String {
        "temporary".into()
    }

    fn random(&self, buffer: &mut [i8]) {
        // One seed, one history: the salts of the log are the same in every run.
        buffer.fill(7);
    }

    fn sleep(&self, duration: Duration) -> Duration {
        duration
    }
}

impl DatabaseHandle for Handle {
    type WalIndex = WalDisabled;

    fn size(&self) -> io::Result<u64> {
        match &self.file {
            Where::Model(model, file) => model.size(*file),
            Where::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn read_exact_at(&mut self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let count = match &self.file {
            Where::Model(model, file) => model.read(*file, buffer, offset)?,
            Where::Memory(bytes) => {
                let rest = bytes.get(offset as usize..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                count
            }
        };
        if count < buffer.len() {
            buffer[count..].fill(0);
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &mut self.file {
            Where::Model(model, file) => model.write(*file, bytes, offset),
            Where::Memory(memory) => {
                let end = offset as usize + bytes.len();
                memory.resize(memory.len().max(end), 0);
                memory[offset as usize..end].copy_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn sync(&mut self, _data_only: bool) -> io::Result<()> {
        let Where::Model(model, file) = &self.file else { return Ok(()) };
        model.sync(*file)?;
        if std::mem::take(&mut self.is_log) {
            let mut state = model.lock();
            state.operate(false)?;
            state.changes.push(Change::SyncFolder(self.folder.clone()));
        }
        Ok(())
    }

    fn set_len(&mut self, size: u64) -> io::Result<()> {
        match &mut self.file {
            Where::Model(model, file) => {
                let mut state = model.lock();
                state.operate(false)?;
                state.contents[*file].resize(size as usize, 0);
                state.changes.push(Change::SetLength(*file, size));
            }
            Where::Memory(bytes) => bytes.resize(size as usize, 0),
        }
        Ok(())
    }

    fn lock(&mut self, lock: LockKind) -> io::Result<bool> {
        self.lock = lock;
        Ok(true)
    }

    fn reserved(&mut self) -> io::Result<bool> {
        Ok(false)
    }

    fn current_lock(&self) -> io::Result<LockKind> {
        Ok(self.lock)
    }

    fn wal_index(&self, _readonly: bool) -> io::Result<WalDisabled> {
        Ok(WalDisabled)
    }
}
