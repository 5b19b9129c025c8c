//! The stat cache: what each file was like when it was last read, and the hash it had then.
//!
//! The file is [`MAGIC`], then for each directory the length of its path (4 bytes), the path, the number of its entries (4) and the entries
//! in order of their names: length of the name (2), the name, mode (4), size (8), inode (8), modification and change time in nanoseconds
//! (8 each), hash (32), whether the hash may be used (1); at the end the BLAKE3 hash of everything before it. Numbers are little-endian.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

use super::walk::{Directory, Status};

const MAGIC: &[u8] = b"muster base status 1\n";
const HASH_BYTES: usize = 32;

/// A cache file in memory.
#[derive(Debug, Default)]
pub(super) struct Cache {
    bytes: Vec<u8>,
    directories: HashMap<Vec<u8>, Range<usize>>,
}

impl Cache {
    /// Reads a cache file; `None` when it is not one, or damaged.
    pub(super) fn parse(bytes: Vec<u8>) -> Option<Self> {
        let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>()?;
        if !content.starts_with(MAGIC) || blake3::hash(content).as_bytes() != hash {
            return None;
        }
        let mut reader = Reader { rest: content.get(MAGIC.len()..)? };
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

type Entry<'a> = (&'a [u8], (Status, [u8; HASH_BYTES], bool));

/// The entries of one directory, asked for in order of their names.
#[derive(Debug)]
pub(super) struct Remembered<'a> {
    reader: Reader<'a>,
    ahead: Option<Entry<'a>>,
}

impl<'a> Remembered<'a> {
    /// What is remembered of a name that is later in order than all that were asked for before.
    pub(super) fn find(&mut self, name: &[u8]) -> Option<(Status, [u8; HASH_BYTES], bool)> {
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

    fn entry(&mut self) -> Option<Entry<'a>> {
        let length = self.number::<2>()?;
        let name = self.take(usize::try_from(length).ok()?)?;
        let status = Status {
            mode: u32::try_from(self.number::<4>()?).ok()?,
            size: self.number::<8>()?,
            inode: self.number::<8>()?,
            modified_nanoseconds: self.number::<8>()?.cast_signed(),
            changed_nanoseconds: self.number::<8>()?.cast_signed(),
        };
        let hash = self.take(HASH_BYTES)?.try_into().ok()?;
        let is_old = self.number::<1>()? == 1;
        Some((name, (status, hash, is_old)))
    }
}

/// The file for what was found.
pub(super) fn serialize(directories: &[Directory]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    for directory in directories {
        bytes.extend(number(directory.path.len()));
        bytes.extend(&directory.path);
        bytes.extend(number(directory.entries.len()));
        for entry in &directory.entries {
            // The length of a root's path can't pass the kernel's 4,096 bytes, other names not 255.
            bytes.extend(u16::try_from(entry.name.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(&entry.name);
            bytes.extend(entry.status.mode.to_le_bytes());
            bytes.extend(entry.status.size.to_le_bytes());
            bytes.extend(entry.status.inode.to_le_bytes());
            bytes.extend(entry.status.modified_nanoseconds.to_le_bytes());
            bytes.extend(entry.status.changed_nanoseconds.to_le_bytes());
            bytes.extend(entry.hash);
            bytes.push(entry.is_old.into());
        }
    }
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    bytes
}

/// Puts a new file in the place of the old one, so that a reader sees one or the other.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let temporary = path.with_extension(std::process::id().to_string());
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, path)
}
