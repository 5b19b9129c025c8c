//! SplitBlob and SpliceBlob: big blobs as chunks that other blobs may share.
//!
//! Cut with FastCDC as in the paper of 2020 (W. Xia and others, "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage
//! Systems"), normalisation level 2, seed 0, an average of [`CHUNKING_AVERAGE_BYTES`], at least a quarter and at most four times that. A blob that is
//! smaller than the biggest chunk is its own only chunk.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{FastCDC, Normalization};
use futures_util::stream::{self, BoxStream, StreamExt};
use muster_cache::{ActionCache, ActionRecord, Blob, BlobStore, StoreError, Trouble, digest_of};
use muster_model::limits::{CHUNKING_AVERAGE_BYTES, MESSAGE_BYTES_MAX};
use muster_model::{Digest, key};
use muster_proto::reapi::{self, chunking_function};
use prost::Message;
use tonic::Status;

use super::errors::status_of;

/// Sizes of chunks, in bytes and even, because the cutter takes two bytes at a time.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// The smallest chunk but a blob's last one.
    min: usize,
    average: usize,
    max: usize,
}

/// Those that the Remote Execution API gives to `FAST_CDC_2020`.
const SIZES: Sizes =
    Sizes { min: CHUNKING_AVERAGE_BYTES / 4, average: CHUNKING_AVERAGE_BYTES, max: CHUNKING_AVERAGE_BYTES * 4 };
/// Chunks stored together.
const CHUNKS_AT_ONCE: usize = 8;

/// The chunks of a blob, each of which is stored when this answers. They are remembered for as long as all of them stay.
pub(super) async fn split(
    store: &Arc<dyn BlobStore>,
    actions: &Arc<dyn ActionCache>,
    digest: Digest,
) -> Result<reapi::SplitBlobResponse, Status> {
    let key = key::named_entry_key("FAST_CDC_2020", "", &digest.to_string());
    let known = actions.get(&[key]).await.map_err(|error| status_of(&error))?.pop().flatten();
    if let Some(answer) = known.and_then(|record| reapi::SplitBlobResponse::decode(record.payload).ok()) {
        return Ok(answer);
    }
    let blob = store.get(&digest).await.map_err(|error| status_of(&error))?;
    let chunks = if digest.size_bytes < SIZES.max as u64 {
        vec![digest]
    } else {
        cut_and_store(store, blob, digest).await.map_err(|error| status_of(&error))?
    };
    let answer = reapi::SplitBlobResponse {
        chunk_digests: chunks.iter().map(reapi::Digest::from).collect(),
        chunking_function: chunking_function::Value::FastCdc2020.into(),
    };
    let payload: Bytes = answer.encode_to_vec().into();
    if payload.len() > MESSAGE_BYTES_MAX {
        return Err(Status::resource_exhausted("the blob has more chunks than fit into one message"));
    }
    let record = ActionRecord { outcome: Digest::of(&payload), payload, references: unique(chunks) };
    if let Err(error) = actions.put(vec![(key, record)]).await {
        // The answer is right without being remembered.
        static NOT_REMEMBERED: Trouble = Trouble::new();
        let error = &error as &dyn std::error::Error;
        NOT_REMEMBERED.tell(|untold| tracing::warn!(error, untold, "the chunks of a blob are not remembered"));
    }
    Ok(answer)
}

fn unique(mut digests: Vec<Digest>) -> Vec<Digest> {
    digests.sort_unstable();
    digests.dedup();
    digests
}

async fn cut_and_store(store: &Arc<dyn BlobStore>, blob: Blob, digest: Digest) -> Result<Vec<Digest>, StoreError> {
    let mut pieces = cut(blob.into_stream(), SIZES);
    let mut digests = Vec::new();
    let mut batch = Vec::new();
    loop {
        let piece = pieces.next().await.transpose()?;
        let ends = piece.is_none();
        if let Some(piece) = piece {
            let chunk = digest_of(digest.function, &piece);
            digests.push(chunk);
            batch.push(Blob::from_bytes_of(chunk, piece)?);
        }
        if batch.len() >= CHUNKS_AT_ONCE || ends {
            for stored in store.put_many(std::mem::take(&mut batch)).await {
                stored?;
            }
        }
        if ends {
            return Ok(digests);
        }
    }
}

/// Cuts a stream at the borders that its content defines.
fn cut(
    chunks: BoxStream<'static, Result<Bytes, StoreError>>,
    sizes: Sizes,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    stream::unfold(Some((chunks, BytesMut::new(), false)), move |state| async move {
        let (mut chunks, mut buffer, mut ended) = state?;
        // A border depends on nothing past the biggest chunk.
        while !ended && buffer.len() < sizes.max {
            match chunks.next().await {
                Some(Ok(chunk)) => buffer.extend_from_slice(&chunk),
                Some(Err(error)) => return Some((Err(error), None)),
                None => ended = true,
            }
        }
        if buffer.is_empty() {
            return None;
        }
        let level = Normalization::Level2;
        let cutter = FastCDC::with_level_and_seed(&buffer, sizes.min, sizes.average, sizes.max, level, 0);
        let (_, end) = cutter.cut(0, buffer.len());
        let piece = buffer.split_to(end).freeze();
        Some((Ok(piece), Some((chunks, buffer, ended))))
    })
    .boxed()
}

/// Makes a blob of chunks, unless it is there.
pub(super) async fn splice(store: &Arc<dyn BlobStore>, digest: Digest, chunks: Vec<Digest>) -> Result<(), Status> {
    let missing = store.find_missing(&[digest]).await.map_err(|error| status_of(&error))?;
    if missing.is_empty() {
        return Ok(());
    }
    let together = chunks.iter().map(|chunk| chunk.size_bytes).fold(0, u64::saturating_add);
    if together != digest.size_bytes {
        return Err(Status::invalid_argument(format!(
            "chunk_digests: {together} bytes together are not the {} of the blob",
            digest.size_bytes
        )));
    }
    let missing = store.find_missing(&chunks).await.map_err(|error| status_of(&error))?;
    if let Some(first) = missing.first() {
        return Err(Status::not_found(format!("{} chunks are missing, {first} the first of them", missing.len())));
    }
    let source = store.clone();
    let bytes = stream::iter(chunks).then(move |chunk| {
        let source = source.clone();
        async move { source.get(&chunk).await }
    });
    let bytes = bytes.flat_map(|blob| match blob {
        Ok(blob) => blob.into_stream(),
        Err(error) => stream::iter([Err(error)]).boxed(),
    });
    let stored = store.put(&digest, Blob::from_stream(digest, bytes)).await;
    stored.map_err(|error| status_of(&error))
}

#[cfg(test)]
mod tests;
