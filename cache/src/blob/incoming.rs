//! Bytes on their way in: hashed and written on threads that may block, while the next ones come.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use muster_model::Digest;
use muster_model::limits::CHUNK_BYTES_MAX;

use super::{Partial, joined};
use crate::StoreError;
use crate::hash::Hasher;

/// A file that is being written, and what its bytes hash to so far.
struct Writer {
    partial: Partial,
    digest: Digest,
    hasher: Hasher,
}

impl Writer {
    /// Takes some bytes; one past the size that the digest names is an error, and nothing of it is written.
    fn write(mut self, chunks: Vec<Bytes>) -> Result<Self, StoreError> {
        for chunk in chunks {
            self.hasher.update(&chunk);
            if self.hasher.size_bytes() > self.digest.size_bytes {
                return Err(self.mismatch());
            }
            self.partial.write(&chunk)?;
        }
        Ok(self)
    }

    fn mismatch(&self) -> StoreError {
        StoreError::Mismatch { expected: self.digest, found: self.hasher.digest() }
    }
}

/// Writes all bytes of `chunks` into a partial file, which is given back only if they are those of `digest`.
pub(super) async fn pour(
    partial: Partial,
    digest: Digest,
    chunks: BoxStream<'static, Result<Bytes, StoreError>>,
) -> Result<Partial, StoreError> {
    let mut chunks = chunks.fuse();
    let mut idle = Some(Writer { partial, digest, hasher: Hasher::new(digest.function) });
    let mut writing = None;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        let mut size = chunk.len();
        let mut together = vec![chunk];
        // What has come by now goes with it.
        while size < CHUNK_BYTES_MAX
            && let Some(Some(chunk)) = chunks.next().now_or_never()
        {
            let chunk = chunk?;
            size += chunk.len();
            together.push(chunk);
        }
        if let Some(work) = writing.take() {
            idle = Some(joined(work).await?);
        }
        let Some(writer) = idle.take() else { return Err(StoreError::Closed) };
        writing = Some(tokio::task::spawn_blocking(move || writer.write(together)));
    }
    if let Some(work) = writing {
        idle = Some(joined(work).await?);
    }
    let Some(writer) = idle else { return Err(StoreError::Closed) };
    if writer.hasher.digest() == digest { Ok(writer.partial) } else { Err(writer.mismatch()) }
}
