//! A file's bytes on their way out: read and hashed on threads that may block, a little ahead of whoever takes them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use muster_model::Digest;
use tokio::task::JoinHandle;

use super::{OnCorrupt, joined, open};
use crate::StoreError;
use crate::files::StoreFile;
use crate::hash::Hasher;

/// Bytes of one chunk. The first read of a stream is one chunk: a client that asks for a blob and takes nothing makes its server hold that and as
/// much as HTTP/2 buffers.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks of one read. The next ones are read while these are sent, where there is memory for it.
const CHUNKS_MAX: usize = 1;
/// Buffers kept for the next reads: what a few streams need at one time.
const SPARE_BUFFERS_MAX: usize = 64;

static SPARE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// What was read, in memory that is used again afterwards: fresh memory is zeroed, faulted in and given back for every read, which costs a third of
/// what reading does.
struct Buffer {
    /// Empty only while it is dropped.
    memory: Box<[u8]>,
    filled: usize,
}

impl Buffer {
    fn take() -> Self {
        let memory = spare().pop().unwrap_or_else(|| vec![0; CHUNK_BYTES].into());
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
        let mut spare = spare();
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(memory);
        }
    }
}

fn spare() -> MutexGuard<'static, Vec<Box<[u8]>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is being read.
struct Reader {
    file: Option<Arc<dyn StoreFile>>,
    path: PathBuf,
    digest: Digest,
    hasher: Hasher,
}

/// Some chunks in a row. The last ones of a blob are only here if the whole of it has verified.
struct Batch {
    chunks: VecDeque<Bytes>,
    /// For what comes after them.
    reader: Option<Reader>,
}

impl Reader {
    fn read(mut self, chunks_max: usize) -> Result<Batch, StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        let mut chunks = VecDeque::with_capacity(chunks_max);
        let mut is_short = false;
        while chunks.len() < chunks_max && self.rest() > 0 && !is_short {
            let mut buffer = Buffer::take();
            let wanted = CHUNK_BYTES.min(usize::try_from(self.rest()).unwrap_or(CHUNK_BYTES));
            buffer.filled = self.read_at(&*file, &mut buffer.memory[..wanted])?;
            is_short = buffer.filled < wanted;
            self.hasher.update(buffer.as_ref());
            chunks.push_back(Bytes::from_owner(buffer));
        }
        if self.rest() > 0 && !is_short {
            self.file = Some(file);
            return Ok(Batch { chunks, reader: Some(self) });
        }
        // The byte that shows that the file ends where the digest says.
        let mut beyond = [0];
        let count = self.read_at(&*file, &mut beyond)?;
        self.hasher.update(&beyond[..count]);
        let found = self.hasher.digest();
        if found == self.digest {
            Ok(Batch { chunks, reader: None })
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

/// Where the next chunks come from.
enum Next {
    Waiting(Reader),
    Reading(JoinHandle<Result<Batch, StoreError>>),
    Ended,
}

fn begin(reader: Reader, chunks_max: usize) -> JoinHandle<Result<Batch, StoreError>> {
    tokio::task::spawn_blocking(move || reader.read(chunks_max))
}

/// The chunks of a file, those of the end only if all of it has verified. `on_corrupt` is told when it has not; then the error is
/// [`StoreError::Corrupt`].
pub(super) fn chunks(
    file: Option<Arc<dyn StoreFile>>,
    path: PathBuf,
    digest: Digest,
    reads_ahead: bool,
    on_corrupt: Option<OnCorrupt>,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let reader = Reader { file, path, digest, hasher: Hasher::new(digest.function) };
    let state = (VecDeque::new(), Next::Waiting(reader), CHUNKS_MAX, on_corrupt);
    stream::unfold(state, move |(mut ready, mut next, chunks_max, on_corrupt)| async move {
        if let Some(chunk) = ready.pop_front() {
            return Some((Ok(chunk), (ready, next, chunks_max, on_corrupt)));
        }
        let read = match next {
            Next::Waiting(reader) => begin(reader, chunks_max),
            Next::Reading(read) => read,
            Next::Ended => return None,
        };
        match joined(read).await {
            Ok(Batch { chunks, reader }) => {
                next = match reader {
                    None => Next::Ended,
                    Some(reader) if reads_ahead => Next::Reading(begin(reader, CHUNKS_MAX)),
                    Some(reader) => Next::Waiting(reader),
                };
                ready = chunks;
                let chunk = ready.pop_front()?;
                Some((Ok(chunk), (ready, next, CHUNKS_MAX, on_corrupt)))
            }
            Err(error) => {
                let error = match (error, on_corrupt) {
                    (StoreError::Mismatch { expected, .. }, Some(on_corrupt)) => {
                        on_corrupt();
                        StoreError::Corrupt(expected)
                    }
                    (error, _) => error,
                };
                Some((Err(error), (ready, Next::Ended, chunks_max, None)))
            }
        }
    })
    .boxed()
}
