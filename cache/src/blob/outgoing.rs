//! A file's bytes on their way out: read and hashed on threads that may block, a little ahead of whoever takes them.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use muster_model::Digest;
use muster_model::limits::DOWNLOAD_BYTES_AHEAD_MAX;
use tokio::task::JoinHandle;

use super::{OnCorrupt, joined, open};
use crate::StoreError;
use crate::files::StoreFile;
use crate::hash::Hasher;

/// Bytes of one of the first reads, which are one chunk. A client that asks for a blob and takes nothing makes its server hold one that is withheld, one
/// that was read ahead where there is memory for it, and as much as HTTP/2 buffers.
const CHUNK_BYTES: usize = DOWNLOAD_BYTES_AHEAD_MAX;
/// Bytes of one of the later reads, where there is room: passing a chunk from one thread to another costs as much as reading one of the first.
const LARGE_CHUNK_BYTES: usize = 4 * CHUNK_BYTES;
/// Bytes that are taken before reads become larger: more than HTTP/2 and the sockets of both sides buffer for somebody who takes nothing (Linux: 4 MiB and
/// 6 MiB, `tcp_wmem` and `tcp_rmem` in `tcp(7)`).
const TAKEN_BYTES_MIN: u64 = 256 * CHUNK_BYTES as u64;
/// Bytes that large chunks need besides: one that is withheld, and one that was read ahead.
const LARGE_BYTES_MORE: usize = 2 * (LARGE_CHUNK_BYTES - CHUNK_BYTES);
/// Buffers of each size kept for the next reads: what a few streams need at one time.
const SPARE_BUFFERS_MAX: usize = 64;

static SPARE: [Mutex<Vec<Box<[u8]>>>; 2] = [const { Mutex::new(Vec::new()) }; 2];

/// What was read, in memory that is used again afterwards: fresh memory would be zeroed and given back for every read.
struct Buffer {
    /// Empty only while it is dropped.
    memory: Box<[u8]>,
    filled: usize,
}

impl Buffer {
    fn take(size: usize) -> Self {
        let memory = spare(size).pop().unwrap_or_else(|| vec![0; size].into());
        Self { memory, filled: 0 }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut spare = spare(memory.len());
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(memory);
        }
    }
}

fn spare(size: usize) -> MutexGuard<'static, Vec<Box<[u8]>>> {
    SPARE[usize::from(size > CHUNK_BYTES)].lock().unwrap_or_else(PoisonError::into_inner)
}

/// How far a file is read ahead of whoever takes its stream.
pub(super) enum ReadAhead {
    /// Not at all.
    Nothing,
    /// One chunk.
    Chunk,
    /// One chunk, and a larger one if the answer is that there is room for so many bytes more, until the stream ends.
    Room(Box<dyn FnMut(usize) -> bool + Send>),
}

/// A file that is being read.
struct Reader {
    file: Option<Arc<dyn StoreFile>>,
    path: PathBuf,
    digest: Digest,
    hasher: Hasher,
}

/// What one read came to, and the reader of what comes after it. The last chunk of a blob is only here if the whole of it has verified.
struct Read {
    chunk: Bytes,
    reader: Option<Reader>,
}

impl Reader {
    fn read(mut self, size: usize) -> Result<Read, StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        let mut buffer = Buffer::take(size);
        let wanted = size.min(usize::try_from(self.rest()).unwrap_or(size));
        buffer.filled = self.read_at(&*file, &mut buffer.memory[..wanted])?;
        let is_short = buffer.filled < wanted;
        self.hasher.update(buffer.as_ref());
        let chunk = Bytes::from_owner(buffer);
        if self.rest() > 0 && !is_short {
            self.file = Some(file);
            return Ok(Read { chunk, reader: Some(self) });
        }
        // The byte that shows that the file ends where the digest says.
        let mut beyond = [0];
        let count = self.read_at(&*file, &mut beyond)?;
        self.hasher.update(&beyond[..count]);
        let found = self.hasher.digest();
        if found == self.digest {
            Ok(Read { chunk, reader: None })
        } else {
            Err(StoreError::Mismatch { expected: self.digest, found })
        }
    }

    fn read_at(&self, file: &dyn StoreFile, buffer: &mut [u8]) -> Result<usize, StoreError> {
        file.read_at(buffer, self.hasher.size_bytes()).map_err(StoreError::file("read", &self.path))
    }

    fn rest(&self) -> u64 {
        self.digest.size_bytes - self.hasher.size_bytes()
    }
}

/// Where the next chunk comes from.
enum Next {
    Waiting(Reader),
    Reading(JoinHandle<Result<Read, StoreError>>),
    /// Only while the next is found.
    Nothing,
}

/// A file on its way.
struct Outgoing {
    next: Next,
    on_corrupt: Option<OnCorrupt>,
    ahead: ReadAhead,
    /// Bytes of one read.
    size: usize,
    taken_bytes: u64,
}

impl Outgoing {
    fn begin(&self, reader: Reader) -> JoinHandle<Result<Read, StoreError>> {
        let size = self.size;
        tokio::task::spawn_blocking(move || reader.read(size))
    }

    /// Reads more at a time if the stream is taken and there is room.
    fn grow(&mut self) {
        if self.size < LARGE_CHUNK_BYTES
            && self.taken_bytes >= TAKEN_BYTES_MIN
            && let ReadAhead::Room(has_room) = &mut self.ahead
        {
            if has_room(LARGE_BYTES_MORE) {
                self.size = LARGE_CHUNK_BYTES;
            } else {
                self.ahead = ReadAhead::Chunk;
            }
        }
    }

    async fn chunk(mut self) -> (Result<Bytes, StoreError>, Option<Self>) {
        let reading = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::Waiting(reader) => self.begin(reader),
            Next::Reading(reading) => reading,
            Next::Nothing => return (Ok(Bytes::new()), None),
        };
        match joined(reading).await {
            Ok(Read { chunk, reader: None }) => (Ok(chunk), None),
            Ok(Read { chunk, reader: Some(reader) }) => {
                self.taken_bytes += chunk.len() as u64;
                self.grow();
                self.next = match self.ahead {
                    ReadAhead::Nothing => Next::Waiting(reader),
                    _ => Next::Reading(self.begin(reader)),
                };
                (Ok(chunk), Some(self))
            }
            Err(error) => (Err(blame(error, self.on_corrupt)), None),
        }
    }
}

/// The chunks of a file, the last one only if all of it has verified. `on_corrupt` is told when it has not; then the error is
/// [`StoreError::Corrupt`].
pub(super) fn chunks(
    file: Option<Arc<dyn StoreFile>>,
    path: PathBuf,
    digest: Digest,
    ahead: ReadAhead,
    on_corrupt: Option<OnCorrupt>,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let reader = Reader { file, path, digest, hasher: Hasher::new(digest.function) };
    let outgoing = Outgoing { next: Next::Waiting(reader), on_corrupt, ahead, size: CHUNK_BYTES, taken_bytes: 0 };
    stream::unfold(Some(outgoing), |outgoing| async move { Some(outgoing?.chunk().await) }).boxed()
}

fn blame(error: StoreError, on_corrupt: Option<OnCorrupt>) -> StoreError {
    match (error, on_corrupt) {
        (StoreError::Mismatch { expected, .. }, Some(on_corrupt)) => {
            on_corrupt();
            StoreError::Corrupt(expected)
        }
        (error, _) => error,
    }
}
