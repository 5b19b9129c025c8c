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

/// Bytes of one read, which are one chunk. A client that asks for a blob and takes nothing makes its server hold one that is withheld, one that was
/// read ahead where there is memory for it, and as much as HTTP/2 buffers.
const CHUNK_BYTES: usize = DOWNLOAD_BYTES_AHEAD_MAX;
/// Buffers kept for the next reads: what a few streams need at one time.
const SPARE_BUFFERS_MAX: usize = 64;

static SPARE: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// What was read, in memory that is used again afterwards: fresh memory would be zeroed and given back for every read.
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

/// What one read came to, and the reader of what comes after it. The last chunk of a blob is only here if the whole of it has verified.
struct Read {
    chunk: Bytes,
    reader: Option<Reader>,
}

impl Reader {
    fn read(mut self) -> Result<Read, StoreError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(&self.path)?,
        };
        let mut buffer = Buffer::take();
        let wanted = CHUNK_BYTES.min(usize::try_from(self.rest()).unwrap_or(CHUNK_BYTES));
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
}

fn begin(reader: Reader) -> JoinHandle<Result<Read, StoreError>> {
    tokio::task::spawn_blocking(move || reader.read())
}

/// The chunks of a file, the last one only if all of it has verified. `on_corrupt` is told when it has not; then the error is
/// [`StoreError::Corrupt`].
pub(super) fn chunks(
    file: Option<Arc<dyn StoreFile>>,
    path: PathBuf,
    digest: Digest,
    reads_ahead: bool,
    on_corrupt: Option<OnCorrupt>,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let reader = Reader { file, path, digest, hasher: Hasher::new(digest.function) };
    stream::unfold(Some((Next::Waiting(reader), on_corrupt)), move |state| async move {
        let (next, on_corrupt) = state?;
        let reading = match next {
            Next::Waiting(reader) => begin(reader),
            Next::Reading(reading) => reading,
        };
        match joined(reading).await {
            Ok(Read { chunk, reader }) => {
                let ahead = |reader| if reads_ahead { Next::Reading(begin(reader)) } else { Next::Waiting(reader) };
                Some((Ok(chunk), reader.map(|reader| (ahead(reader), on_corrupt))))
            }
            Err(error) => Some((Err(blame(error, on_corrupt)), None)),
        }
    })
    .boxed()
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
