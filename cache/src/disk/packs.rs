//! Small blobs together in large files.
//!
//! A pack is written from its start to its end, once. Its blobs are found by rows of the index; that the same is written here too is for
//! the day on which the index is damaged.
//!
//! ```text
//! pack    = header entry*
//! header  = "MUSTPACK" version:u32=1 zero:u32 number:u64 check          32 bytes
//! entry   = "BLOB" function:u8 zero:[u8;3] hash:[u8;32] size:u64 check  56 bytes, then the blob's bytes
//! check   = the first 8 bytes of BLAKE3 over the pack's number and what is before the check
//! ```
//!
//! Numbers have their lowest byte first. Between entries there may be anything, left by a write that failed or by a loss of power. A blob
//! can hold what looks like an entry; whoever takes it for one gets bytes that verify, as with any other.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_model::Digest;
use muster_model::limits::{CHUNK_BYTES_MAX, OPEN_PACKS_MAX};

use super::index::{digest_from, function_number};
use super::layout::Layout;
use crate::files::{StoreFile, read_all};
use crate::{Blob, StoreError, Trouble};

const MAGIC: &[u8; 8] = b"MUSTPACK";
const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: u64 = 32;
const ENTRY_MAGIC: &[u8; 4] = b"BLOB";
pub(super) const ENTRY_HEADER_BYTES: u64 = 56;
const CHECK_BYTES: usize = 8;
/// Bytes that wait for the end of a batch at most.
const BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A pack's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pack {
    /// Bytes of the file, what is still to be written included.
    pub(super) size: u64,
    /// Bytes of entries that rows point at.
    pub(super) live: u64,
}

/// What becomes of a pack when places in it became free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// More than half of it is in use.
    Stays,
    /// Nothing in it is in use.
    Goes,
    /// What is in use pays to be moved.
    Moves,
}

impl Pack {
    pub(super) fn fate(&self) -> Fate {
        if self.live == 0 {
            Fate::Goes
        } else if self.live.saturating_mul(2) <= self.size.saturating_sub(HEADER_BYTES) {
            Fate::Moves
        } else {
            Fate::Stays
        }
    }
}

/// All packs of a store, and the bytes that wait to be written to the one that is open.
#[derive(Debug)]
pub(super) struct Packs {
    layout: Arc<Layout>,
    known: HashMap<i64, Pack>,
    /// Bytes of all files together.
    bytes: u64,
    active: Option<i64>,
    /// Where `buffer` goes in the active pack.
    written: u64,
    buffer: Vec<u8>,
    handles: Arc<PackHandles>,
    /// Packs that this batch made.
    started: Vec<i64>,
    /// Packs whose numbers are not yet in the index as they are here.
    pub(super) changed: Vec<i64>,
    /// Bytes after which a pack is closed.
    pack_bytes: u64,
}

/// Where a blob's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: i64,
    pub(super) offset: u64,
}

/// What one blob takes in a pack.
pub(super) fn footprint(digest: &Digest) -> u64 {
    ENTRY_HEADER_BYTES + digest.size_bytes
}

impl Packs {
    pub(super) fn new(layout: Arc<Layout>, handles: Arc<PackHandles>, pack_bytes: u64) -> Self {
        Self {
            layout,
            known: HashMap::new(),
            bytes: 0,
            active: None,
            written: 0,
            buffer: Vec::new(),
            handles,
            started: Vec::new(),
            changed: Vec::new(),
            pack_bytes,
        }
    }

    /// Takes over what the index says.
    pub(super) fn load(&mut self, known: HashMap<i64, Pack>) -> Result<(), StoreError> {
        self.bytes = known.values().map(|pack| pack.size).sum();
        self.known = known;
        self.active = None;
        self.buffer.clear();
        self.changed.clear();
        self.resume()
    }

    /// What all packs take from the disk, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes up the newest pack again if it has room.
    fn resume(&mut self) -> Result<(), StoreError> {
        let Some(newest) = self.known.keys().copied().max() else { return Ok(()) };
        let size = self.measure(newest)?;
        if size >= HEADER_BYTES && size < self.pack_bytes {
            self.active = Some(newest);
            self.written = size;
        }
        Ok(())
    }

    /// Looks how large all packs are: after a stop out of order that may be other than what the index says.
    pub(super) fn measure_all(&mut self) -> Result<(), StoreError> {
        let numbers: Vec<i64> = self.known.keys().copied().collect();
        numbers.into_iter().try_for_each(|number| self.measure(number).map(drop))
    }

    /// How large a pack's file is. What it has beyond its row is dead.
    fn measure(&mut self, number: i64) -> Result<u64, StoreError> {
        let path = self.layout.pack_path(number);
        let size = match self.handles.get(number) {
            Ok(file) => file.size().map_err(StoreError::file("look at", &path))?,
            // Its creation was lost with the power; its rows go as they are looked at.
            Err(error) if is_absent(&error) => 0,
            Err(error) => return Err(error),
        };
        if let Some(pack) = self.known.get_mut(&number)
            && pack.size != size
        {
            self.bytes = self.bytes.saturating_sub(pack.size).saturating_add(size);
            pack.size = size;
            self.changed.push(number);
        }
        Ok(size)
    }

    pub(super) fn get(&self, number: i64) -> Option<Pack> {
        self.known.get(&number).copied()
    }

    pub(super) fn numbers(&self) -> impl Iterator<Item = (i64, Pack)> {
        self.known.iter().map(|(number, pack)| (*number, *pack))
    }

    pub(super) fn active(&self) -> Option<i64> {
        self.active
    }

    /// Puts a blob at the end of the active pack, in memory; `fresh` numbers a new pack if one is needed. Answers where the bytes will
    /// be.
    pub(super) fn append(&mut self, digest: &Digest, bytes: &[u8], fresh: i64) -> Result<Location, StoreError> {
        let number = match self.active {
            Some(number) => number,
            None => {
                self.start(fresh)?;
                fresh
            }
        };
        self.buffer.extend_from_slice(&entry_header(number, digest));
        let offset = self.written + self.buffer.len() as u64;
        self.buffer.extend_from_slice(bytes);
        self.bytes += footprint(digest);
        if let Some(pack) = self.known.get_mut(&number) {
            pack.size = self.written + self.buffer.len() as u64;
            pack.live += footprint(digest);
            let full = pack.size >= self.pack_bytes;
            self.changed.push(number);
            if full {
                self.seal()?;
            } else if self.buffer.len() >= BUFFER_BYTES_MAX {
                self.flush()?;
            }
        }
        Ok(Location { pack: number, offset })
    }

    fn start(&mut self, number: i64) -> Result<(), StoreError> {
        let file = self.layout.create_pack(number)?;
        self.started.push(number);
        self.handles.remember(number, file);
        self.buffer.clear();
        self.buffer.extend_from_slice(&header(number));
        self.written = 0;
        self.active = Some(number);
        self.known.insert(number, Pack { size: HEADER_BYTES, live: 0 });
        self.bytes += HEADER_BYTES;
        self.changed.push(number);
        Ok(())
    }

    /// Writes what waits. When it can't, the active pack is left alone from then on.
    pub(super) fn flush(&mut self) -> Result<(), StoreError> {
        let (Some(number), false) = (self.active, self.buffer.is_empty()) else { return Ok(()) };
        let path = self.layout.pack_path(number);
        let written = self
            .handles
            .get(number)
            .and_then(|file| file.write_at(&self.buffer, self.written).map_err(StoreError::file("write", &path)));
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        written.inspect_err(|_| self.active = None)
    }

    /// Closes the active pack: what comes next starts a new one.
    pub(super) fn seal(&mut self) -> Result<(), StoreError> {
        let done = self.flush();
        self.active = None;
        done
    }

    /// What a batch did to packs holds.
    pub(super) fn keep(&mut self) {
        self.started.clear();
    }

    /// Forgets what a batch that failed has done: `known` is what the index says.
    pub(super) fn roll_back(&mut self, known: HashMap<i64, Pack>) {
        for number in std::mem::take(&mut self.started) {
            self.handles.forget(number);
            // What stays is found and removed when the store is opened again.
            if let Err(error) = self.layout.remove_pack(number) {
                static STAYS: Trouble = Trouble::new();
                STAYS.tell(|untold| tracing::warn!(%error, untold, "a pack that nobody needs stays"));
            }
        }
        if let Err(error) = self.load(known) {
            static CLOSED: Trouble = Trouble::new();
            CLOSED.tell(|untold| tracing::warn!(%error, untold, "the newest pack can't be written on"));
        }
    }

    /// Notes that a row no longer points at an entry.
    pub(super) fn release(&mut self, number: i64, digest: &Digest) {
        if let Some(pack) = self.known.get_mut(&number) {
            pack.live = pack.live.saturating_sub(footprint(digest));
            self.changed.push(number);
        }
    }

    /// Takes a pack out; its file is removed by whoever made that durable.
    pub(super) fn drop_pack(&mut self, number: i64) -> Option<Pack> {
        if self.active == Some(number) {
            self.active = None;
            self.buffer.clear();
        }
        self.handles.forget(number);
        self.changed.push(number);
        let gone = self.known.remove(&number);
        self.bytes = self.bytes.saturating_sub(gone.map_or(0, |pack| pack.size));
        gone
    }

    /// Puts a pack's bytes where power loss does not reach them.
    pub(super) fn sync(&self, number: i64) -> Result<(), StoreError> {
        self.handles.get(number)?.sync().map_err(StoreError::file("sync", &self.layout.pack_path(number)))
    }

    /// Everything in a pack's file.
    pub(super) fn read(&self, number: i64) -> Result<Vec<u8>, StoreError> {
        read_all(&*self.handles.get(number)?).map_err(StoreError::file("read", &self.layout.pack_path(number)))
    }
}

/// Packs' files, some of them kept open, for any thread.
#[derive(Debug)]
pub(super) struct PackHandles {
    layout: Arc<Layout>,
    open: Mutex<HashMap<i64, Arc<dyn StoreFile>>>,
}

impl PackHandles {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self { layout, open: Mutex::default() }
    }

    pub(super) fn get(&self, number: i64) -> Result<Arc<dyn StoreFile>, StoreError> {
        if let Some(file) = self.open().get(&number) {
            return Ok(file.clone());
        }
        let file = self.layout.open_pack(number)?;
        self.remember(number, file.clone());
        Ok(file)
    }

    /// A blob's bytes, verified.
    pub(super) fn read(&self, digest: &Digest, place: Location) -> Result<Blob, StoreError> {
        let file = self.get(place.pack)?;
        // Nothing larger is ever packed: a size that the index made up must not reserve memory for nothing.
        let size = digest.size_bytes.min(CHUNK_BYTES_MAX as u64) as usize;
        let mut bytes = vec![0; size];
        let count = file
            .read_at(&mut bytes, place.offset)
            .map_err(StoreError::file("read", &self.layout.pack_path(place.pack)))?;
        bytes.truncate(count);
        Blob::from_bytes_of(*digest, bytes.into())
    }

    fn remember(&self, number: i64, file: Arc<dyn StoreFile>) {
        let mut open = self.open();
        if open.len() >= OPEN_PACKS_MAX
            && let Some(other) = open.keys().next().copied()
        {
            open.remove(&other);
        }
        open.insert(number, file);
    }

    fn forget(&self, number: i64) {
        self.open().remove(&number);
    }

    fn open(&self) -> MutexGuard<'_, HashMap<i64, Arc<dyn StoreFile>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of a pack's bytes: each digest, where its bytes start, and they, unverified.
pub(super) fn entries(number: i64, bytes: &[u8]) -> impl Iterator<Item = (Digest, u64, &[u8])> {
    let mut position = HEADER_BYTES as usize;
    std::iter::from_fn(move || {
        loop {
            let rest = bytes.get(position..)?;
            // What is no entry is what a write that failed or a loss of power left; the next one starts at the next sound header.
            position += rest.windows(ENTRY_MAGIC.len()).position(|window| window == ENTRY_MAGIC)?;
            match entry(number, &bytes[position..]) {
                Some((digest, content)) => {
                    let offset = position + ENTRY_HEADER_BYTES as usize;
                    position = offset + content.len();
                    return Some((digest, offset as u64, content));
                }
                None => position += 1,
            }
        }
    })
}

/// The entry that `bytes` start with, if they do.
fn entry(number: i64, bytes: &[u8]) -> Option<(Digest, &[u8])> {
    let (head, after) = bytes.split_at_checked(ENTRY_HEADER_BYTES as usize)?;
    let hash = head[8..40].try_into().ok()?;
    let size = i64::from_le_bytes(head[40..48].try_into().ok()?);
    let digest = digest_from(i64::from(head[4]), hash, size).ok()?;
    if *head != entry_header(number, &digest) {
        return None;
    }
    Some((digest, after.get(..usize::try_from(digest.size_bytes).ok()?)?))
}

fn header(number: i64) -> [u8; HEADER_BYTES as usize] {
    let mut bytes = [0; HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&number.to_le_bytes());
    let check = check(number, &bytes[..24]);
    bytes[24..].copy_from_slice(&check);
    bytes
}

fn entry_header(number: i64, digest: &Digest) -> [u8; ENTRY_HEADER_BYTES as usize] {
    let mut bytes = [0; ENTRY_HEADER_BYTES as usize];
    bytes[..4].copy_from_slice(ENTRY_MAGIC);
    bytes[4] = function_number(digest.function) as u8;
    bytes[8..40].copy_from_slice(&digest.hash);
    bytes[40..48].copy_from_slice(&digest.size_bytes.to_le_bytes());
    let check = check(number, &bytes[..48]);
    bytes[48..].copy_from_slice(&check);
    bytes
}

fn check(number: i64, bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(bytes);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    check
}

/// The number in a pack's file name.
pub(super) fn number_of(name: &std::ffi::OsStr) -> Option<i64> {
    name.to_str()?.strip_suffix(".pack")?.parse().ok()
}

/// Whether a file's absence is what an error says.
pub(super) fn is_absent(error: &StoreError) -> bool {
    matches!(error, StoreError::File { source, .. } if source.kind() == ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use muster_model::DigestFunction;
    use proptest::prelude::*;

    use super::*;

    fn pack(number: i64, blobs: &[Vec<u8>]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = header(number).to_vec();
        let mut offsets = Vec::new();
        for blob in blobs {
            bytes.extend_from_slice(&entry_header(number, &Digest::of(blob)));
            offsets.push(bytes.len() as u64);
            bytes.extend_from_slice(blob);
        }
        (bytes, offsets)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_and_what_was_torn_is_not(
            blobs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..8),
            cut in any::<proptest::sample::Index>(),
            flip in any::<proptest::sample::Index>(),
        ) {
            let (bytes, offsets) = pack(7, &blobs);
            let read: Vec<_> = entries(7, &bytes).map(|(digest, offset, content)| (digest, offset, content.to_vec())).collect();
            let expected: Vec<_> =
                blobs.iter().zip(&offsets).map(|(blob, offset)| (Digest::of(blob), *offset, blob.clone())).collect();
            prop_assert_eq!(&read, &expected);
            prop_assert_eq!(entries(8, &bytes).count(), 0);
            let cut = cut.index(bytes.len());
            prop_assert!(entries(7, &bytes[..cut]).all(|(digest, offset, _)| expected.iter().any(|(d, o, _)| (*d, *o) == (digest, offset))));
            let mut damaged = bytes.clone();
            damaged[flip.index(bytes.len())] ^= 0x10;
            // A flipped header costs its own entry; a flipped byte of a blob is for whoever hashes it.
            let found: Vec<_> = entries(7, &damaged).map(|(digest, offset, _)| (digest, offset)).collect();
            prop_assert!(found.iter().all(|entry| expected.iter().any(|(digest, offset, _)| (*digest, *offset) == *entry)));
            prop_assert!(found.len() + 1 >= expected.len());
        }
    }

    #[test]
    fn a_function_that_nobody_knows_is_no_entry() {
        let (mut bytes, _) = pack(1, &[vec![1]]);
        bytes[HEADER_BYTES as usize + 4] = 9;
        assert_eq!(entries(1, &bytes).count(), 0);
        assert_eq!(function_number(DigestFunction::Sha256), 1);
    }
}
