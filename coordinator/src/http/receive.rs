//! Bodies whose digest is known only at their end: small ones wait in memory, others in a file.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::header::CONTENT_LENGTH;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use muster_cache::{Blob, StoreError};
use muster_model::limits::CHUNK_BYTES_MAX;
use muster_model::{Digest, DigestFunction};
use tokio::io::AsyncWriteExt;

use super::answer::Refused;
use super::{Call, HttpCaches};
use crate::budget::{Patience, Share};

/// A body that came to its end.
pub(super) struct Received {
    pub(super) blob: Blob,
    /// Kept until the blob has been stored or given up.
    pub(super) place: Place,
}

/// Where a body waits: its share of the memory for uploads, and its file.
pub(super) struct Place {
    _file: Option<Incoming>,
    _shares: Vec<Share>,
}

/// A file of a body, deleted when it is dropped.
struct Incoming(PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a body");
        }
    }
}

/// A body's chunks, which may not keep us waiting for ever.
struct Chunks {
    body: axum::body::BodyDataStream,
    patience: Patience,
    left: u64,
}

impl Chunks {
    fn of(body: Body, limit: u64) -> Self {
        Self { body: body.into_data_stream(), patience: Patience::default(), left: limit }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refused> {
        let next = self.patience.wait(self.body.next()).await.map_err(|slow| Refused::TooSlow(slow.to_string()))?;
        let chunk = next.transpose().map_err(|_| Refused::Broken)?;
        if let Some(chunk) = &chunk {
            self.patience.came(chunk.len());
            self.left = self.left.checked_sub(chunk.len() as u64).ok_or(Refused::TooLarge)?;
        }
        Ok(chunk)
    }
}

/// The length that a request says its body has.
pub(super) fn content_length(call: &Call<'_>) -> Result<Option<u64>, Refused> {
    let Some(said) = call.parts.headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let length = said.to_str().ok().and_then(|said| said.parse().ok());
    length.map(Some).ok_or_else(|| Refused::Invalid("Content-Length is not a number".into()))
}

/// A small body, whole.
pub(super) async fn whole(caches: &HttpCaches, body: Body, limit: usize) -> Result<Bytes, Refused> {
    let mut chunks = Chunks::of(body, limit as u64);
    let (mut whole, mut shares) = (BytesMut::new(), Vec::new());
    while let Some(chunk) = chunks.next().await? {
        shares.push(take(caches, chunk.len())?);
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// A body that is said to be a blob's bytes, straight to the store.
pub(super) async fn store(caches: &HttpCaches, body: Body, digest: Digest) -> Result<(), Refused> {
    // One byte more shows that there are too many.
    let chunks = Chunks::of(body, digest.size_bytes.saturating_add(1));
    let budget = caches.budget.clone();
    let (refusals, refusal) = std::sync::mpsc::channel();
    let stream = futures_util::stream::unfold(Some((chunks, None::<Share>)), move |state| {
        let (budget, refusals) = (budget.clone(), refusals.clone());
        async move {
            let (mut chunks, before) = state?;
            drop(before);
            let next = match chunks.next().await {
                Ok(None) => return None,
                Ok(Some(chunk)) => {
                    budget.take(chunk.len()).map_err(|full| Refused::Busy(full.to_string())).map(|share| (chunk, share))
                }
                Err(refused) => Err(refused),
            };
            match next {
                Ok((chunk, share)) => Some((Ok(chunk), Some((chunks, Some(share))))),
                Err(refused) => {
                    // Who listens wants to know why more exactly than the store could say.
                    let _ = refusals.send(refused);
                    Some((Err(StoreError::Closed), None))
                }
            }
        }
    });
    let stored = caches.store.put_blob(&digest, Blob::from_stream(digest, stream)).await;
    match (stored, refusal.try_recv()) {
        (Ok(()), _) => Ok(()),
        (Err(_), Ok(refused)) => Err(refused),
        (Err(error), Err(_)) => Err(error.into()),
    }
}

/// A body of at most `limit` bytes, whatever it is.
pub(super) async fn receive(caches: &HttpCaches, body: Body, limit: u64) -> Result<Received, Refused> {
    let mut chunks = Chunks::of(body, limit);
    let mut hasher = blake3::Hasher::new();
    let (mut memory, mut shares) = (BytesMut::new(), Vec::new());
    while memory.len() <= CHUNK_BYTES_MAX {
        let Some(chunk) = chunks.next().await? else {
            let blob = Blob::from_bytes(memory.freeze());
            return Ok(Received { blob, place: Place { _file: None, _shares: shares } });
        };
        shares.push(take(caches, chunk.len())?);
        memory.extend_from_slice(&chunk);
    }
    let path = incoming_path(caches);
    let mut file = tokio::fs::File::create_new(&path).await?;
    let incoming = Incoming(path.clone());
    let mut next = Some(memory.freeze());
    let mut size_bytes = 0;
    while let Some(chunk) = next {
        hasher.update(&chunk);
        size_bytes += chunk.len() as u64;
        file.write_all(&chunk).await?;
        shares.clear();
        next = chunks.next().await?;
        if let Some(chunk) = &next {
            shares.push(take(caches, chunk.len())?);
        }
    }
    file.flush().await?;
    let digest = Digest { function: DigestFunction::Blake3, hash: *hasher.finalize().as_bytes(), size_bytes };
    Ok(Received { blob: Blob::from_file(path, digest), place: Place { _file: Some(incoming), _shares: Vec::new() } })
}

fn take(caches: &HttpCaches, bytes: usize) -> Result<Share, Refused> {
    caches.budget.take(bytes).map_err(|full| Refused::Busy(full.to_string()))
}

fn incoming_path(caches: &HttpCaches) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    caches.incoming.join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string())
}
