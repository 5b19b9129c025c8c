//! Bytes on their way: see [`Blob`].

mod incoming;
mod outgoing;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Fuse};
use futures_util::{Stream, StreamExt};
use muster_model::Digest;
use muster_model::limits::CHUNK_BYTES_MAX;
use tokio::task::JoinHandle;

use self::outgoing::ReadAhead;

use crate::files::{Files, RealFiles, StoreFile};
use crate::hash::{Hasher, digest_of};
use crate::{StoreError, Trouble};

/// Bytes, a file or a stream of a known digest, that yields nothing it has not checked.
///
/// Whole bytes are checked before they are handed out. A stream hands out its chunks as they come and withholds the last one until the
/// hash agrees, so that nobody ever holds all the bytes of a blob that does not verify. It stops reading one byte past the size that
/// the digest names.
pub struct Blob {
    digest: Digest,
    source: Source,
    /// For files.
    ahead: ReadAhead,
}

enum Source {
    /// Bytes that are known to be those of the digest.
    Verified(Bytes),
    /// A file that somebody else owns, opened when it is read.
    Path(PathBuf),
    /// A file of a store, with what the store does when it does not verify.
    Stored { file: Arc<dyn StoreFile>, path: PathBuf, on_corrupt: OnCorrupt },
    /// Chunks from elsewhere.
    Stream(BoxStream<'static, Result<Bytes, StoreError>>),
}

/// What a store does about a blob of its own that does not verify.
pub(crate) type OnCorrupt = Box<dyn FnOnce() + Send>;

impl Blob {
    fn new(digest: Digest, source: Source) -> Self {
        Self { digest, source, ahead: ReadAhead::Chunk }
    }

    /// The same blob, of which a stream holds no more than one chunk: for when memory is short. Slower.
    #[must_use]
    pub fn without_read_ahead(self) -> Self {
        Self { ahead: ReadAhead::Nothing, ..self }
    }

    /// The same blob, of which a stream that is taken reads more at a time if `has_room`: it is asked at most once, for the bytes of memory that this costs until
    /// the stream ends. Faster.
    #[must_use]
    pub fn with_room(self, has_room: impl FnMut(usize) -> bool + Send + 'static) -> Self {
        Self { ahead: ReadAhead::Room(Box::new(has_room)), ..self }
    }

    /// The blob of these bytes, under BLAKE3.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self::new(Digest::of(&bytes), Source::Verified(bytes))
    }

    /// The blob of bytes that are said to have this digest.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mismatch`] when they have not.
    pub fn from_bytes_of(digest: Digest, bytes: Bytes) -> Result<Self, StoreError> {
        let found = digest_of(digest.function, &bytes);
        if found == digest {
            Ok(Self::new(digest, Source::Verified(bytes)))
        } else {
            Err(StoreError::Mismatch { expected: digest, found })
        }
    }

    /// The blob of a file that is said to have this digest. It is opened, read and checked when the blob is used.
    pub fn from_file(path: impl Into<PathBuf>, digest: Digest) -> Self {
        Self::new(digest, Source::Path(path.into()))
    }

    /// The blob of a stream that is said to have this digest. It is checked while it is read.
    pub fn from_stream(digest: Digest, chunks: impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static) -> Self {
        Self::new(digest, Source::Stream(chunks.boxed()))
    }

    /// The blob of a store's own file.
    pub(crate) fn from_stored(digest: Digest, file: Arc<dyn StoreFile>, path: PathBuf, on_corrupt: OnCorrupt) -> Self {
        Self::new(digest, Source::Stored { file, path, on_corrupt })
    }

    /// What the bytes hash to.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// All bytes.
    ///
    /// # Errors
    ///
    /// [`StoreError::Limit`] when there are more than `limit` bytes, [`StoreError::Mismatch`] or [`StoreError::Corrupt`] when they do not
    /// verify.
    pub async fn into_bytes(self, limit: u64) -> Result<Bytes, StoreError> {
        if self.digest.size_bytes > limit {
            return Err(StoreError::Limit { what: "a blob read into memory", limit });
        }
        if let Source::Verified(bytes) = self.source {
            return Ok(bytes);
        }
        // A size that a peer made up must not reserve memory before its bytes come.
        let mut all = BytesMut::with_capacity(self.digest.size_bytes.min(CHUNK_BYTES_MAX as u64) as usize);
        let mut chunks = self.into_stream();
        let mut only = None;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            match only.take() {
                None if all.is_empty() => only = Some(chunk),
                first => {
                    all.extend_from_slice(&first.unwrap_or_default());
                    all.extend_from_slice(&chunk);
                }
            }
        }
        Ok(only.unwrap_or_else(|| all.freeze()))
    }

    /// The bytes of a blob that is known to be whole in memory.
    pub(crate) fn into_whole_bytes(self) -> Result<Bytes, StoreError> {
        match self.source {
            Source::Verified(bytes) => Ok(bytes),
            _ => Err(StoreError::NotFound(self.digest)),
        }
    }

    /// The bytes in chunks of at most [`CHUNK_BYTES_MAX`], the last one withheld until the hash agrees.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes, StoreError>> {
        let (digest, ahead) = (self.digest, self.ahead);
        let chunks = match self.source {
            Source::Verified(bytes) => return stream::iter(split(bytes).map(Ok)).boxed(),
            Source::Path(path) => return outgoing::chunks(None, path, digest, ahead, None),
            Source::Stored { file, path, on_corrupt } => {
                return outgoing::chunks(Some(file), path, digest, ahead, Some(on_corrupt));
            }
            Source::Stream(chunks) => chunks,
        };
        let checked = Checked { chunks: chunks.fuse(), ready: VecDeque::new(), verifier: Verifier::new(digest) };
        stream::unfold(Some(checked), |checked| async move {
            let mut checked = checked?;
            match checked.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(checked))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    /// Writes the bytes to `path`, which appears only once they have verified.
    ///
    /// # Errors
    ///
    /// [`StoreError::Mismatch`] or [`StoreError::Corrupt`] when the bytes do not verify, [`StoreError::File`] when they can't be written:
    /// then nothing is left.
    pub async fn write_to(self, path: impl Into<PathBuf>) -> Result<(), StoreError> {
        static PARTIAL: AtomicU64 = AtomicU64::new(0);
        let path = path.into();
        let number = PARTIAL.fetch_add(1, Ordering::Relaxed);
        let partial = Partial::create(
            Arc::new(RealFiles),
            path.with_added_extension(format!("{}-{number}.partial", std::process::id())),
        )?;
        let partial = self.pour(partial).await?;
        partial.publish(&path)
    }

    /// Writes all bytes into a partial file. It is given back only if they verified, and deleted otherwise.
    pub(crate) async fn pour(self, mut partial: Partial) -> Result<Partial, StoreError> {
        match self.source {
            Source::Verified(bytes) => blocking(move || partial.write(&bytes).map(|()| partial)).await,
            Source::Path(_) | Source::Stored { .. } => blocking(move || self.pour_file(partial)).await,
            Source::Stream(chunks) => incoming::pour(partial, self.digest, chunks).await,
        }
    }

    /// [`Self::pour`] for files: hashes and writes in one pass on a thread that may block.
    fn pour_file(self, mut partial: Partial) -> Result<Partial, StoreError> {
        let digest = self.digest;
        let (file, path, on_corrupt) = match self.source {
            Source::Path(path) => (open(&path)?, path, None),
            Source::Stored { file, path, on_corrupt } => (file, path, Some(on_corrupt)),
            Source::Verified(_) | Source::Stream(_) => return Ok(partial),
        };
        match copy_verified(&*file, &path, digest, |bytes| partial.write(bytes)) {
            Err(StoreError::Mismatch { expected, found }) => match on_corrupt {
                Some(on_corrupt) => {
                    on_corrupt();
                    Err(StoreError::Corrupt(digest))
                }
                None => Err(StoreError::Mismatch { expected, found }),
            },
            Err(error) => Err(error),
            Ok(()) => Ok(partial),
        }
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Verified(_) => "bytes",
            Source::Path(_) => "file",
            Source::Stored { .. } => "stored file",
            Source::Stream(_) => "stream",
        };
        write!(formatter, "Blob({}, {source})", self.digest)
    }
}

/// Checks that what is read from `file` is the blob of `digest`, and hands it to `sink` as it goes.
pub(crate) fn copy_verified(
    file: &dyn StoreFile,
    path: &Path,
    digest: Digest,
    mut sink: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut hasher = Hasher::new(digest.function);
    let mut buffer = vec![0; buffer_size(digest)];
    loop {
        let count = file.read_at(&mut buffer, hasher.size_bytes()).map_err(StoreError::file("read", path))?;
        hasher.update(&buffer[..count]);
        if count > 0 && hasher.size_bytes() <= digest.size_bytes {
            sink(&buffer[..count])?;
        } else {
            let found = hasher.digest();
            return if found == digest { Ok(()) } else { Err(StoreError::Mismatch { expected: digest, found }) };
        }
    }
}

/// Room for the blob and the byte that shows that it ends, within reason.
fn buffer_size(digest: Digest) -> usize {
    usize::try_from(digest.size_bytes).map_or(CHUNK_BYTES_MAX, |size| size.saturating_add(1).min(CHUNK_BYTES_MAX))
}

/// A file that is being written, deleted unless it is published.
#[derive(Debug)]
pub(crate) struct Partial {
    files: Arc<dyn Files>,
    file: Arc<dyn StoreFile>,
    path: Option<PathBuf>,
    written: u64,
}

impl Partial {
    /// Creates `path`, which must not exist.
    pub(crate) fn create(files: Arc<dyn Files>, path: PathBuf) -> Result<Self, StoreError> {
        let file = files.create(&path).map_err(StoreError::file("create", &path))?;
        Ok(Self { files, file, path: Some(path), written: 0 })
    }

    pub(crate) fn file(&self) -> &Arc<dyn StoreFile> {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_at(bytes, self.written).map_err(StoreError::file("write", self.path()))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Puts the file in its place.
    pub(crate) fn publish(self, destination: &Path) -> Result<(), StoreError> {
        self.try_publish(destination).map_err(|(_, error)| StoreError::file("put in place", destination)(error))
    }

    /// [`Self::publish`], or gives the file back.
    pub(crate) fn try_publish(mut self, destination: &Path) -> Result<(), (Self, io::Error)> {
        match self.files.rename(self.path(), destination) {
            Ok(()) => {
                self.path = None;
                Ok(())
            }
            Err(error) => Err((self, error)),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(path) = self.path.take()
            && let Err(error) = self.files.unlink(&path)
        {
            static STAYS: Trouble = Trouble::new();
            STAYS.tell(|untold| tracing::warn!(path = %path.display(), %error, untold, "cannot remove a partial file"));
        }
    }
}

/// Runs work that may block on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// What came of work that was begun on a thread for it.
async fn joined<T>(work: JoinHandle<Result<T, StoreError>>) -> Result<T, StoreError> {
    match work.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Closed),
        },
    }
}

fn open(path: &Path) -> Result<Arc<dyn StoreFile>, StoreError> {
    RealFiles.open(path, false).map_err(StoreError::file("open", path))
}

/// Cuts bytes into chunks of at most [`CHUNK_BYTES_MAX`], without copying.
fn split(mut bytes: Bytes) -> impl Iterator<Item = Bytes> + Send {
    std::iter::from_fn(
        move || {
            if bytes.is_empty() { None } else { Some(bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX))) }
        },
    )
}

/// Chunks behind a [`Verifier`].
struct Checked {
    chunks: Fuse<BoxStream<'static, Result<Bytes, StoreError>>>,
    ready: VecDeque<Bytes>,
    verifier: Verifier,
}

impl Checked {
    async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Ok(Some(chunk));
            }
            let Some(chunk) = self.chunks.next().await else { return self.verifier.finish() };
            self.verifier.push(chunk?, &mut self.ready)?;
        }
    }
}

/// Buildbarn's rule: all but the last chunk pass, the last one when the hash agrees.
struct Verifier {
    digest: Digest,
    hasher: Hasher,
    withheld: Option<Bytes>,
}

impl Verifier {
    fn new(digest: Digest) -> Self {
        Self { digest, hasher: Hasher::new(digest.function), withheld: None }
    }

    /// Takes a chunk, withholds its last piece and passes what is before that.
    fn push(&mut self, chunk: Bytes, passed: &mut VecDeque<Bytes>) -> Result<(), StoreError> {
        self.hasher.update(&chunk);
        if self.hasher.size_bytes() > self.digest.size_bytes {
            return Err(StoreError::Mismatch { expected: self.digest, found: self.hasher.digest() });
        }
        for piece in split(chunk) {
            passed.extend(self.withheld.replace(piece));
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<Bytes>, StoreError> {
        let found = self.hasher.digest();
        if found == self.digest {
            Ok(self.withheld.take())
        } else {
            Err(StoreError::Mismatch { expected: self.digest, found })
        }
    }
}

#[cfg(test)]
mod tests;
