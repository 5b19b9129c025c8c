//! The remembered state: the digest of a base, what tells that it has not changed, and what each file was like when it was last read.
//!
//! The file has two sections. The first alone is read when nothing has changed: [`MAGIC`], when every file was last looked at (8 bytes,
//! nanoseconds since 1970), the digest (32) and its size (8), the number of the base's entries (8), the length of the watched paths (8), for
//! each of them the length of the path (4), the path, mode (4), size (8), inode (8), modification and change time in nanoseconds (8 each),
//! device (8), whether the status is old enough to be believed (1); then the BLAKE3 hash of all this. The second is, for each directory, the
//! length of its path (4), the path, the number of its entries (4) and the entries in order of their names: length of the name (2), the
//! name, mode (4), size (8), inode (8), modification and change time (8 each), hash (32), whether the hash may be used (1); then the BLAKE3
//! hash of the section. Numbers are little-endian. A mode of 0 says that there is nothing at the path.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use super::walk::{Directory, Status};
use super::watch::{Watched, Witness};

const MAGIC: &[u8] = b"muster base status 2\n";
const HASH_BYTES: usize = 32;
const HEADER_BYTES: usize = MAGIC.len() + 8 + HASH_BYTES + 8 + 8 + 8;

/// The first section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// When every file was last looked at, in nanoseconds since 1970.
    pub(super) full_nanoseconds: u64,
    pub(super) hash: [u8; HASH_BYTES],
    pub(super) hashed_bytes: u64,
    pub(super) entries: u64,
    pub(super) watched: Vec<Watched>,
}

impl Summary {
    fn parse(header: &[u8], watched: &[u8]) -> Option<Self> {
        let mut reader = Reader { rest: header.strip_prefix(MAGIC)? };
        let full_nanoseconds = reader.number::<8>()?;
        let hash = reader.take(HASH_BYTES)?.try_into().ok()?;
        let (hashed_bytes, entries) = (reader.number::<8>()?, reader.number::<8>()?);
        let mut reader = Reader { rest: watched };
        let mut watched = Vec::new();
        while !reader.rest.is_empty() {
            let length = reader.number::<4>()?;
            let path = reader.take(usize::try_from(length).ok()?)?.to_vec();
            let status = reader.status()?;
            let device = reader.number::<8>()?;
            watched.push(Watched { path, witness: Witness { status, device }, is_old: reader.number::<1>()? == 1 });
        }
        Some(Self { full_nanoseconds, hash, hashed_bytes, entries, watched })
    }

    pub(super) fn serialize(&self) -> Vec<u8> {
        let mut watched = Vec::new();
        for path in &self.watched {
            watched.extend(u32::try_from(path.path.len()).unwrap_or(u32::MAX).to_le_bytes());
            watched.extend(&path.path);
            write_status(&mut watched, &path.witness.status);
            watched.extend(path.witness.device.to_le_bytes());
            watched.push(path.is_old.into());
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.full_nanoseconds.to_le_bytes());
        bytes.extend(self.hash);
        bytes.extend(self.hashed_bytes.to_le_bytes());
        bytes.extend(self.entries.to_le_bytes());
        bytes.extend((watched.len() as u64).to_le_bytes());
        bytes.extend(watched);
        let hash = blake3::hash(&bytes);
        bytes.extend(hash.as_bytes());
        bytes
    }
}

/// A file of which the first section is read.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) summary: Summary,
    rest: File,
}

impl Opened {
    /// Opens the file and reads its first section; `None` when it is missing, damaged, or others could have written it.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let mut file = File::open(path).ok()?;
        let metadata = file.metadata().ok()?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return None;
        }
        let mut bytes = vec![0; HEADER_BYTES];
        file.read_exact(&mut bytes).ok()?;
        let length = u64::from_le_bytes(*bytes.last_chunk()?);
        if length > metadata.size() {
            return None;
        }
        let end = HEADER_BYTES + usize::try_from(length).ok()?;
        bytes.resize(end + HASH_BYTES, 0);
        file.read_exact(bytes.get_mut(HEADER_BYTES..)?).ok()?;
        let (content, hash) = bytes.split_at_checked(end)?;
        if blake3::hash(content).as_bytes() != hash {
            return None;
        }
        let (header, watched) = content.split_at_checked(HEADER_BYTES)?;
        Some(Self { summary: Summary::parse(header, watched)?, rest: file })
    }

    /// Reads the second section.
    pub(super) fn read(mut self) -> Option<Cache> {
        let mut bytes = Vec::new();
        self.rest.read_to_end(&mut bytes).ok()?;
        Cache::parse(bytes)
    }
}

/// The second section in memory.
#[derive(Debug, Default)]
pub(super) struct Cache {
    bytes: Vec<u8>,
    directories: HashMap<Vec<u8>, Range<usize>>,
}

impl Cache {
    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>()?;
        if blake3::hash(content).as_bytes() != hash {
            return None;
        }
        let mut reader = Reader { rest: content };
        let mut directories = HashMap::new();
        while !reader.rest.is_empty() {
            let length = reader.number::<4>()?;
            let path = reader.take(usize::try_from(length).ok()?)?.to_vec();
            let count = reader.number::<4>()?;
            let start = content.len() - reader.rest.len();
            for _ in 0..count {
                reader.entry()?;
            }
            directories.insert(path, start..content.len() - reader.rest.len());
        }
        Some(Self { directories, bytes })
    }

    /// Directories in it.
    pub(super) fn len(&self) -> usize {
        self.directories.len()
    }

    /// What is remembered of a directory's entries.
    pub(super) fn directory(&self, path: &[u8]) -> Option<Remembered<'_>> {
        let range = self.directories.get(path)?.clone();
        Some(Remembered { reader: Reader { rest: self.bytes.get(range)? }, ahead: None })
    }
}

/// What is remembered of one path: its status, its hash, and whether the hash may be used.
pub(super) type Known = (Status, [u8; HASH_BYTES], bool);

type Entry<'a> = (&'a [u8], Known);

/// The entries of one directory, asked for in order of their names.
#[derive(Debug)]
pub(super) struct Remembered<'a> {
    reader: Reader<'a>,
    ahead: Option<Entry<'a>>,
}

impl<'a> Remembered<'a> {
    /// What is remembered of a name that is later in order than all that were asked for before.
    pub(super) fn find(&mut self, name: &[u8]) -> Option<Known> {
        loop {
            let entry = self.next()?;
            match entry.0.cmp(name) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Some(entry.1),
                std::cmp::Ordering::Greater => {
                    self.ahead = Some(entry);
                    return None;
                }
            }
        }
    }

    /// The next entry.
    pub(super) fn next(&mut self) -> Option<Entry<'a>> {
        self.ahead.take().or_else(|| self.reader.entry())
    }
}

#[derive(Debug)]
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn number<const N: usize>(&mut self) -> Option<u64> {
        let mut bytes = [0; 8];
        bytes.get_mut(..N)?.copy_from_slice(self.take(N)?);
        Some(u64::from_le_bytes(bytes))
    }

    fn status(&mut self) -> Option<Status> {
        Some(Status {
            mode: u32::try_from(self.number::<4>()?).ok()?,
            size: self.number::<8>()?,
            inode: self.number::<8>()?,
            modified_nanoseconds: self.number::<8>()?.cast_signed(),
            changed_nanoseconds: self.number::<8>()?.cast_signed(),
        })
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let length = self.number::<2>()?;
        let name = self.take(usize::try_from(length).ok()?)?;
        let status = self.status()?;
        let hash = self.take(HASH_BYTES)?.try_into().ok()?;
        let is_old = self.number::<1>()? == 1;
        Some((name, (status, hash, is_old)))
    }
}

fn write_status(bytes: &mut Vec<u8>, status: &Status) {
    bytes.extend(status.mode.to_le_bytes());
    bytes.extend(status.size.to_le_bytes());
    bytes.extend(status.inode.to_le_bytes());
    bytes.extend(status.modified_nanoseconds.to_le_bytes());
    bytes.extend(status.changed_nanoseconds.to_le_bytes());
}

/// The file for what was found.
pub(super) fn serialize(summary: &Summary, directories: &[Directory]) -> Vec<u8> {
    let mut bytes = summary.serialize();
    let start = bytes.len();
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    for directory in directories {
        bytes.extend(number(directory.path.len()));
        bytes.extend(&directory.path);
        bytes.extend(number(directory.entries.len()));
        for entry in &directory.entries {
            // The length of a root's path can't pass the kernel's 4,096 bytes, other names not 255.
            bytes.extend(u16::try_from(entry.name.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(&entry.name);
            write_status(&mut bytes, &entry.status);
            bytes.extend(entry.hash);
            bytes.push(entry.is_old.into());
        }
    }
    let hash = blake3::hash(bytes.get(start..).unwrap_or_default());
    bytes.extend(hash.as_bytes());
    bytes
}

/// Puts a new file in the place of the old one, so that a reader sees one or the other, however many write at the same time.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{number}", std::process::id()));
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let written = opened.and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // The error that is told is the first.
        let _ = fs::remove_file(&temporary);
    }
    written
}
