//! Looks at what is beneath the roots, several directories at a time.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::cache::{Cache, Known, Remembered};
use super::{BaseError, is_secret};

/// A file that changed less than this ago is not remembered.
pub(super) const YOUNG: Duration = Duration::from_secs(2);
/// Threads beyond this only wait for each other.
const THREADS_MAX: usize = 8;

/// What was found of one path.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) status: Status,
    /// Of a file's contents or a link's target; zeros for everything else.
    pub(super) hash: [u8; 32],
    /// Whether the hash may be used when the status is the same next time.
    pub(super) is_old: bool,
    /// The file system's; `None` when the entry was not looked at.
    pub(super) device: Option<u64>,
    /// Whether the status is what was remembered, so that a directory has the entries that it had.
    is_known: bool,
}

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Every file.
    Full,
    /// Files only in directories that have changed, and what is [watched](is_watched).
    Directories,
}

/// What tells that a file has not changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) mode: u32,
    pub(super) size: u64,
    pub(super) inode: u64,
    pub(super) modified_nanoseconds: i64,
    pub(super) changed_nanoseconds: i64,
}

impl From<&Metadata> for Status {
    fn from(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
        Self {
            mode: metadata.mode(),
            size: metadata.size(),
            inode: metadata.ino(),
            modified_nanoseconds: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_nanoseconds: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What was found of one directory.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: Vec<u8>,
    /// In order of their names.
    pub(super) entries: Vec<Entry>,
    pub(super) digest: [u8; 32],
    pub(super) read_bytes: u64,
    pub(super) is_changed: bool,
}

impl Directory {
    fn new(path: &Path) -> Self {
        let path = path.as_os_str().as_bytes().to_vec();
        Self { path, entries: Vec::new(), digest: [0; 32], read_bytes: 0, is_changed: false }
    }

    fn finish(mut self) -> Self {
        let mut hasher = blake3::Hasher::new();
        for entry in &self.entries {
            hasher.update(&(entry.name.len() as u64).to_le_bytes());
            hasher.update(&entry.name);
            hasher.update(&entry.status.mode.to_le_bytes());
            hasher.update(&entry.hash);
        }
        self.digest = *hasher.finalize().as_bytes();
        self
    }
}

/// A directory to be looked at, and whether it has the entries that it had.
type Waiting = (PathBuf, bool);

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Directories that are waiting or being looked at.
    open: usize,
    done: Vec<Directory>,
    error: Option<BaseError>,
}

struct Walk<'a> {
    cache: &'a Cache,
    depth: Depth,
    queue: Mutex<Queue>,
    changed: Condvar,
    young_since: i64,
}

/// How many threads look at the same time.
pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
}

/// Looks at everything beneath the roots. The roots themselves are the entries of a directory with an empty path.
pub(super) fn walk(roots: &[PathBuf], cache: &Cache, depth: Depth) -> Result<Vec<Directory>, BaseError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let young_since = i64::try_from(now.saturating_sub(YOUNG).as_nanos()).unwrap_or(i64::MAX);
    let walk = Walk { cache, depth, queue: Mutex::default(), changed: Condvar::new(), young_since };
    let names = roots.iter().map(|root| root.as_os_str().as_bytes().to_vec()).collect();
    let directory = walk.look(Path::new(""), names)?;
    walk.finish(Ok(directory), 0);
    std::thread::scope(|scope| {
        for _ in 1..threads() {
            scope.spawn(|| walk.work());
        }
        walk.work();
    });
    let queue = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    queue.error.map_or(Ok(queue.done), Err)
}

impl Walk<'_> {
    fn work(&self) {
        while let Some((path, is_known)) = self.next() {
            let remembered = self.cache.directory(path.as_os_str().as_bytes());
            let directory = match remembered.filter(|_| is_known && self.depth == Depth::Directories) {
                Some(remembered) => self.look_again(&path, remembered),
                None => list(&path).and_then(|names| self.look(&path, names)),
            };
            self.finish(directory, 1);
        }
    }

    fn next(&self) -> Option<Waiting> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(path) = queue.waiting.pop() {
                return Some(path);
            }
            if queue.open == 0 {
                return None;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, directory: Result<Directory, BaseError>, closed: usize) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.open -= closed;
        match directory {
            Ok(directory) if queue.error.is_none() => {
                let path = PathBuf::from(OsString::from_vec(directory.path.clone()));
                for entry in directory.entries.iter().filter(|entry| is_shown_directory(entry.status.mode)) {
                    queue.waiting.push((path.join(OsStr::from_bytes(&entry.name)), entry.is_known));
                    queue.open += 1;
                }
                queue.done.push(directory);
            }
            Ok(_) => {}
            Err(error) => {
                queue.open -= queue.waiting.len();
                queue.waiting.clear();
                queue.error.get_or_insert(error);
            }
        }
        self.changed.notify_all();
    }

    fn look(&self, path: &Path, mut names: Vec<Vec<u8>>) -> Result<Directory, BaseError> {
        names.sort_unstable();
        let mut remembered = self.cache.directory(path.as_os_str().as_bytes());
        let mut directory = Directory::new(path);
        for name in names {
            let whole = path.join(OsStr::from_bytes(&name));
            if is_secret(&whole) {
                continue;
            }
            let known = remembered.as_mut().and_then(|remembered| remembered.find(&name));
            self.look_at(&whole, name, known, &mut directory)?;
        }
        directory.is_changed |= remembered.is_some_and(|mut rest| rest.next().is_some());
        Ok(directory.finish())
    }

    /// A directory that has the entries that it had: only what is watched is looked at.
    fn look_again(&self, path: &Path, mut remembered: Remembered<'_>) -> Result<Directory, BaseError> {
        let mut directory = Directory::new(path);
        while let Some((name, known)) = remembered.next() {
            let (status, hash, is_old) = known;
            if is_watched(path, &status, is_old) {
                self.look_at(&path.join(OsStr::from_bytes(name)), name.to_vec(), Some(known), &mut directory)?;
            } else {
                let entry = Entry { name: name.to_vec(), status, hash, is_old, device: None, is_known: true };
                directory.entries.push(entry);
            }
        }
        Ok(directory.finish())
    }

    fn look_at(
        &self,
        path: &Path,
        name: Vec<u8>,
        known: Option<Known>,
        directory: &mut Directory,
    ) -> Result<(), BaseError> {
        let error = |source| BaseError::Read { path: path.to_path_buf(), source };
        let (status, device) = match fs::symlink_metadata(path) {
            Ok(metadata) => (Status::from(&metadata), Some(metadata.dev())),
            // Gone since the directory was listed.
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {
                directory.is_changed |= known.is_some();
                return Ok(());
            }
            Err(source) => return Err(error(source)),
        };
        if let Some((_, hash, true)) = known.filter(|known| known.0 == status) {
            directory.entries.push(Entry { name, status, hash, is_old: true, device, is_known: true });
            return Ok(());
        }
        directory.is_changed = true;
        let hash = match status.mode & libc::S_IFMT {
            libc::S_IFLNK => {
                let target = fs::read_link(path).map_err(error)?;
                *blake3::hash(target.as_os_str().as_bytes()).as_bytes()
            }
            libc::S_IFREG if has_contents(status.mode) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(File::open(path).map_err(error)?).map_err(error)?;
                directory.read_bytes += hasher.count();
                *hasher.finalize().as_bytes()
            }
            _ => [0; 32],
        };
        // A write between the first look and the end of reading would otherwise be remembered as if it had been read. Directories are read
        // later than this, and what happens to them since gives them a new change time.
        let is_still = fs::symlink_metadata(path).is_ok_and(|metadata| Status::from(&metadata) == status);
        let is_old = is_still && status.changed_nanoseconds < self.young_since;
        directory.entries.push(Entry { name, status, hash, is_old, device, is_known: false });
        Ok(())
    }
}

fn list(path: &Path) -> Result<Vec<Vec<u8>>, BaseError> {
    let error = |source| BaseError::Read { path: path.to_path_buf(), source };
    fs::read_dir(path).map_err(error)?.map(|entry| Ok(entry.map_err(error)?.file_name().into_vec())).collect()
}

/// A link or a file that others may read.
fn has_contents(mode: u32) -> bool {
    match mode & libc::S_IFMT {
        libc::S_IFLNK => true,
        libc::S_IFREG => mode & libc::S_IROTH != 0,
        _ => false,
    }
}

/// Whether an entry of a directory is looked at even when the directory has not changed: directories, because what is in them may have; files
/// of `/etc`, because people edit them in place; and what was too young to be believed.
pub(super) fn is_watched(directory: &Path, status: &Status, is_old: bool) -> bool {
    match status.mode & libc::S_IFMT {
        libc::S_IFDIR => true,
        libc::S_IFREG if directory.starts_with("/etc") => true,
        _ => !is_old,
    }
}

/// A directory that others may list and enter.
fn is_shown_directory(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFDIR && mode & (libc::S_IROTH | libc::S_IXOTH) == libc::S_IROTH | libc::S_IXOTH
}
