//! Looks at every path beneath the roots, several directories at a time.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::cache::{Cache, Remembered};
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

#[derive(Default)]
struct Queue {
    waiting: Vec<PathBuf>,
    /// Directories that are waiting or being looked at.
    open: usize,
    done: Vec<Directory>,
    error: Option<BaseError>,
}

struct Walk<'a> {
    cache: &'a Cache,
    queue: Mutex<Queue>,
    changed: Condvar,
    young_since: i64,
}

/// Looks at everything beneath the roots. The roots themselves are the entries of a directory with an empty path.
pub(super) fn walk(roots: &[PathBuf], cache: &Cache) -> Result<Vec<Directory>, BaseError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let young_since = i64::try_from(now.saturating_sub(YOUNG).as_nanos()).unwrap_or(i64::MAX);
    let walk = Walk { cache, queue: Mutex::default(), changed: Condvar::new(), young_since };
    let names = roots.iter().map(|root| root.as_os_str().as_bytes().to_vec()).collect();
    let directory = walk.look(Path::new(""), names)?;
    walk.finish(Ok(directory), 0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| walk.work());
        }
        walk.work();
    });
    let queue = walk.queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    queue.error.map_or(Ok(queue.done), Err)
}

impl Walk<'_> {
    fn work(&self) {
        while let Some(path) = self.next() {
            let directory = list(&path).and_then(|names| self.look(&path, names));
            self.finish(directory, 1);
        }
    }

    fn next(&self) -> Option<PathBuf> {
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
                let path = PathBuf::from(std::ffi::OsString::from_vec(directory.path.clone()));
                for entry in directory.entries.iter().filter(|entry| is_shown_directory(entry.status.mode)) {
                    queue.waiting.push(path.join(std::ffi::OsStr::from_bytes(&entry.name)));
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
        let bytes = path.as_os_str().as_bytes();
        let mut remembered = self.cache.directory(bytes);
        let mut directory =
            Directory { path: bytes.to_vec(), entries: Vec::new(), digest: [0; 32], read_bytes: 0, is_changed: false };
        let mut hasher = blake3::Hasher::new();
        for name in names {
            let whole = path.join(std::ffi::OsStr::from_bytes(&name));
            if is_secret(&whole) {
                continue;
            }
            let Some(entry) = self.look_at(&whole, name, &mut remembered, &mut directory)? else { continue };
            hasher.update(&(entry.name.len() as u64).to_le_bytes());
            hasher.update(&entry.name);
            hasher.update(&entry.status.mode.to_le_bytes());
            hasher.update(&entry.hash);
            directory.entries.push(entry);
        }
        directory.is_changed |= remembered.is_some_and(|mut rest| rest.next().is_some());
        directory.digest = *hasher.finalize().as_bytes();
        Ok(directory)
    }

    fn look_at(
        &self,
        path: &Path,
        name: Vec<u8>,
        remembered: &mut Option<Remembered<'_>>,
        directory: &mut Directory,
    ) -> Result<Option<Entry>, BaseError> {
        let error = |source| BaseError::Read { path: path.to_path_buf(), source };
        let status = match fs::symlink_metadata(path) {
            Ok(metadata) => Status::from(&metadata),
            // Gone since the directory was listed.
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(error(source)),
        };
        let known = remembered.as_mut().and_then(|remembered| remembered.find(&name));
        if let Some((hash, is_old)) = known.filter(|known| known.0 == status).map(|known| (known.1, known.2))
            && (is_old || !has_contents(status.mode))
        {
            return Ok(Some(Entry { name, status, hash, is_old }));
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
        // A write between the first look and the end of reading would otherwise be remembered as if it had been read.
        let is_still = fs::symlink_metadata(path).is_ok_and(|metadata| Status::from(&metadata) == status);
        let is_old = is_still && status.changed_nanoseconds < self.young_since;
        Ok(Some(Entry { name, status, hash, is_old }))
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

/// A directory that others may list and enter.
fn is_shown_directory(mode: u32) -> bool {
    mode & libc::S_IFMT == libc::S_IFDIR && mode & (libc::S_IROTH | libc::S_IXOTH) == libc::S_IROTH | libc::S_IXOTH
}
