//! Digests of files, remembered by what `stat` says about them.
//!
//! A file whose size, modification time, change time, inode and device are as they were is taken to hold the bytes that it held. The change
//! time can't be set by ordinary means, so even a tool that puts a modification time back is noticed.
//!
//! One case is left: a file written twice within one tick of the file system's clock, hashed between the two. It is known as the *racy* entry
//! (Git, `Documentation/technical/racy-git.txt`). A file that changed less than [`RACY_WINDOW`] before it was hashed is therefore not
//! remembered, and hashed again next time.
//!
//! The file format, all numbers little-endian: [`MAGIC`]; then per entry the length of the path (4 bytes), the path, size, modification time,
//! change time (nanoseconds since the epoch), inode, device (8 bytes each), the BLAKE3 hash (32 bytes) and the entry's age (1 byte); at the end
//! the BLAKE3 hash of everything before it. A file that does not verify is no cache at all: losing it costs time only.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_model::{Digest, DigestFunction};

use super::ProjectError;
use super::error::file_error;

/// How long a file must have been left alone before its digest is remembered; the coarsest clock of a usual file system ticks every 2 s.
const RACY_WINDOW: Duration = Duration::from_secs(2);
/// The first bytes of the file; the number changes with the format.
const MAGIC: &[u8] = b"muster stat cache 1\n";
/// Saves that an entry survives without being asked for.
const AGE_MAX: u8 = 32;
/// Bytes read at once while hashing.
const BUFFER_BYTES: usize = 256 * 1024;
/// How often a file that changes while it is read is read again.
const READS_MAX: usize = 3;

/// What `stat` says about a file, as far as it identifies its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub(crate) struct Identity {
    size_bytes: u64,
    modified_ns: i64,
    changed_ns: i64,
    inode: u64,
    device: u64,
}

impl Identity {
    /// What it says now.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            size_bytes: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
            device: metadata.dev(),
        }
    }

    /// Whether the file had been left alone long enough when it was read at `now_ns`.
    pub(crate) fn is_settled(&self, now_ns: i64) -> bool {
        let window = RACY_WINDOW.as_nanos() as i64;
        self.modified_ns.max(self.changed_ns) < now_ns.saturating_sub(window)
    }
}

#[derive(Debug)]
struct Remembered {
    identity: Identity,
    hash: [u8; 32],
    age: u8,
}

#[derive(Default)]
struct State {
    entries: HashMap<PathBuf, Remembered>,
    changed: bool,
}

/// A file to hash, with what `stat` said about it.
pub(crate) struct Wanted<'a> {
    /// Its path.
    pub(crate) path: &'a Path,
    /// What `stat` said.
    pub(crate) metadata: &'a Metadata,
}

/// Digests of files, remembered in one file.
pub(crate) struct StatCache {
    path: PathBuf,
    state: Mutex<State>,
}

impl StatCache {
    /// Opens the cache kept at `path`; one that is missing or does not verify is empty.
    pub(crate) fn open(path: PathBuf) -> Self {
        let entries = fs::read(&path).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { path, state: Mutex::new(State { entries, changed: false }) }
    }

    /// The digests of `wanted`, in their order: those that are not remembered are read, on as many threads as there are processors.
    pub(crate) fn digests(&self, wanted: &[Wanted<'_>]) -> Result<Vec<Digest>, ProjectError> {
        let mut digests: Vec<Option<Digest>> = Vec::with_capacity(wanted.len());
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            digests.extend(wanted.iter().map(|file| state.recall(file.path, Identity::of(file.metadata))));
        }
        let missing: Vec<usize> = (0..wanted.len()).filter(|&index| digests[index].is_none()).collect();
        let hashed = hash_in_parallel(&missing, wanted)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, reading) in hashed {
            digests[index] = Some(reading.digest);
            if reading.settled {
                state.remember(wanted[index].path, &reading);
            }
        }
        Ok(digests.into_iter().flatten().collect())
    }

    /// Writes the cache back if it learned something. Two processes that do so at once lose the entries of one of them, never more.
    pub(crate) fn save(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.changed {
            return Ok(());
        }
        for entry in state.entries.values_mut() {
            entry.age = entry.age.saturating_add(1);
        }
        state.entries.retain(|_, entry| entry.age <= AGE_MAX);
        let bytes = encode(&state.entries);
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let written = File::create(&temporary)
            .and_then(|mut file| file.write_all(&bytes))
            .and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            // The half-written file is of no use, and a second failure would say no more than the first.
            let _ = fs::remove_file(&temporary);
        }
        state.changed = written.is_err();
        written
    }
}

impl State {
    fn recall(&mut self, path: &Path, identity: Identity) -> Option<Digest> {
        let entry = self.entries.get_mut(path)?;
        if entry.identity != identity {
            return None;
        }
        entry.age = 0;
        Some(Digest { function: DigestFunction::Blake3, hash: entry.hash, size_bytes: entry.identity.size_bytes })
    }

    fn remember(&mut self, path: &Path, reading: &Reading) {
        let entry = Remembered { identity: reading.identity, hash: reading.digest.hash, age: 0 };
        self.entries.insert(path.to_owned(), entry);
        self.changed = true;
    }
}

/// What reading one file came to.
struct Reading {
    digest: Digest,
    identity: Identity,
    settled: bool,
}

fn hash_in_parallel(missing: &[usize], wanted: &[Wanted<'_>]) -> Result<Vec<(usize, Reading)>, ProjectError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len().div_ceil(8)).max(1);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut readings = Vec::new();
        while let Some(&index) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            readings.push((index, read(wanted[index].path, &mut buffer)?));
        }
        Ok(readings)
    };
    if threads == 1 {
        return work();
    }
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut readings = Vec::with_capacity(missing.len());
        for worker in workers {
            readings.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(readings)
    })
}

fn read(path: &Path, buffer: &mut [u8]) -> Result<Reading, ProjectError> {
    for _ in 0..READS_MAX {
        let started_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let mut file = File::open(path).map_err(file_error("open", path))?;
        let before = Identity::of(&file.metadata().map_err(file_error("look at", path))?);
        let mut hasher = blake3::Hasher::new();
        let mut size_bytes = 0;
        loop {
            match file.read(buffer) {
                Ok(0) => break,
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    size_bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(file_error("read", path)(error)),
            }
        }
        let after = Identity::of(&file.metadata().map_err(file_error("look at", path))?);
        if before == after && size_bytes == before.size_bytes {
            let digest = Digest { function: DigestFunction::Blake3, hash: *hasher.finalize().as_bytes(), size_bytes };
            return Ok(Reading { digest, identity: before, settled: before.is_settled(started_ns) });
        }
    }
    Err(ProjectError::Changed { path: path.to_owned() })
}

fn encode(entries: &HashMap<PathBuf, Remembered>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + entries.len() * 192 + 32);
    bytes.extend_from_slice(MAGIC);
    for (path, entry) in entries {
        let path = path.as_os_str().as_bytes();
        let identity = &entry.identity;
        bytes.extend_from_slice(&(path.len() as u32).to_le_bytes());
        bytes.extend_from_slice(path);
        bytes.extend_from_slice(&identity.size_bytes.to_le_bytes());
        bytes.extend_from_slice(&identity.modified_ns.to_le_bytes());
        bytes.extend_from_slice(&identity.changed_ns.to_le_bytes());
        bytes.extend_from_slice(&identity.inode.to_le_bytes());
        bytes.extend_from_slice(&identity.device.to_le_bytes());
        bytes.extend_from_slice(&entry.hash);
        bytes.push(entry.age);
    }
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

/// None when the bytes are not a whole cache.
fn decode(bytes: &[u8]) -> Option<HashMap<PathBuf, Remembered>> {
    let (content, check) = bytes.split_last_chunk::<32>()?;
    let mut rest = content.strip_prefix(MAGIC)?;
    if blake3::hash(content) != *check {
        return None;
    }
    let mut entries = HashMap::with_capacity(content.len() / 160);
    while !rest.is_empty() {
        let length = u32::from_le_bytes(take(&mut rest)?) as usize;
        let (path, after) = rest.split_at_checked(length)?;
        rest = after;
        let identity = Identity {
            size_bytes: u64::from_le_bytes(take(&mut rest)?),
            modified_ns: i64::from_le_bytes(take(&mut rest)?),
            changed_ns: i64::from_le_bytes(take(&mut rest)?),
            inode: u64::from_le_bytes(take(&mut rest)?),
            device: u64::from_le_bytes(take(&mut rest)?),
        };
        let entry = Remembered { identity, hash: take(&mut rest)?, age: take::<1>(&mut rest)?[0] };
        entries.insert(PathBuf::from(OsStr::from_bytes(path)), entry);
    }
    Some(entries)
}

fn take<const LENGTH: usize>(rest: &mut &[u8]) -> Option<[u8; LENGTH]> {
    let (taken, after) = rest.split_first_chunk::<LENGTH>()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
#[path = "stat_cache_tests.rs"]
mod tests;
