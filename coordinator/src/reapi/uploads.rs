//! Uploads under way, and those whose connection broke: their bytes so far are with the store, which goes on when the client does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use muster_cache::{Blob, BlobStore, StoreError};
use muster_model::Digest;
use muster_model::limits::{UPLOAD_RESUME_TIME, UPLOADS_OPEN_MAX};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::Status;

use super::errors::status_of;
use crate::budget::Share;

/// Chunks that an upload may be ahead of the disk.
const CHUNKS_WAITING_MAX: usize = 4;

/// All open uploads by resource name.
#[derive(Clone, Debug, Default)]
pub(super) struct Uploads(Arc<Mutex<HashMap<String, Place>>>);

#[derive(Debug)]
struct Place {
    committed: Arc<AtomicU64>,
    /// Absent while a connection has it.
    parked: Option<Parked>,
}

#[derive(Debug)]
struct Parked {
    upload: Upload,
    /// Ends the upload when nobody comes for it.
    expiry: JoinHandle<()>,
}

#[derive(Debug)]
struct Upload {
    /// Each chunk has its share of the memory for uploads with it for as long as anybody holds it.
    chunks: mpsc::Sender<Bytes>,
    stored: JoinHandle<Result<(), StoreError>>,
}

/// An upload that a connection has. When it is dropped unfinished it waits to be resumed.
#[derive(Debug)]
pub(super) struct Held {
    uploads: Uploads,
    name: String,
    committed: Arc<AtomicU64>,
    upload: Option<Upload>,
}

impl Uploads {
    /// Starts an upload or goes on with it.
    pub(super) fn take(&self, name: &str, digest: Digest, store: &Arc<dyn BlobStore>) -> Result<Held, Status> {
        let mut open = self.open();
        if let Some(place) = open.get_mut(name) {
            let Some(parked) = place.parked.take() else {
                return Err(Status::aborted("another connection is writing this upload"));
            };
            parked.expiry.abort();
            let committed = place.committed.clone();
            return Ok(Held { uploads: self.clone(), name: name.to_owned(), committed, upload: Some(parked.upload) });
        }
        if open.len() >= UPLOADS_OPEN_MAX {
            return Err(Status::resource_exhausted(format!("{UPLOADS_OPEN_MAX} uploads are open")));
        }
        let (chunks, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
        let received = stream::unfold(receiver, |mut receiver: mpsc::Receiver<Bytes>| async move {
            let chunk = receiver.recv().await?;
            Some((Ok(chunk), receiver))
        });
        let store = store.clone();
        let stored = tokio::spawn(async move { store.put(&digest, Blob::from_stream(digest, received)).await });
        let committed = Arc::new(AtomicU64::new(0));
        open.insert(name.to_owned(), Place { committed: committed.clone(), parked: None });
        Ok(Held { uploads: self.clone(), name: name.to_owned(), committed, upload: Some(Upload { chunks, stored }) })
    }

    /// How many bytes of an upload have been taken, if it is open.
    pub(super) fn committed(&self, name: &str) -> Option<u64> {
        self.open().get(name).map(|place| place.committed.load(Ordering::Relaxed))
    }

    fn park(&self, name: &str, upload: Upload) {
        let (uploads, expired) = (self.clone(), name.to_owned());
        let expiry = tokio::spawn(async move {
            tokio::time::sleep(UPLOAD_RESUME_TIME).await;
            uploads.open().remove(&expired);
        });
        if let Some(place) = self.open().get_mut(name) {
            place.parked = Some(Parked { upload, expiry });
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// How many bytes have been taken.
    pub(super) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    /// Takes the next bytes. Waits while the disk is behind.
    pub(super) async fn push(&mut self, chunk: Bytes, share: Share) -> Result<(), Status> {
        let size = chunk.len() as u64;
        let taken = match &self.upload {
            Some(upload) => upload.chunks.send(Arc::new(share).charge(chunk)).await.is_ok(),
            None => false,
        };
        if taken {
            self.committed.fetch_add(size, Ordering::Relaxed);
            return Ok(());
        }
        // The store refused before the end: it says why.
        match self.end().await {
            Ok(()) => Err(Status::internal("the upload ended early")),
            Err(status) => Err(status),
        }
    }

    /// Ends the upload; the store has verified all bytes, or says why not.
    pub(super) async fn finish(mut self) -> Result<(), Status> {
        self.end().await
    }

    /// Gives up an upload that can't become right any more.
    pub(super) fn abandon(mut self) {
        if let Some(upload) = self.upload.take() {
            // The end of the chunks alone would look like the end of the blob, which what came so far may be.
            upload.stored.abort();
        }
        self.uploads.open().remove(&self.name);
    }

    async fn end(&mut self) -> Result<(), Status> {
        let Some(Upload { chunks, stored }) = self.upload.take() else { return Ok(()) };
        drop(chunks);
        let stored = stored.await;
        self.uploads.open().remove(&self.name);
        match stored {
            Ok(result) => result.map_err(|error| status_of(&error)),
            Err(_) => Err(Status::unavailable("the coordinator is stopping")),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match self.upload.take() {
            // Outside of a runtime nothing will ever resume it.
            Some(upload) if tokio::runtime::Handle::try_current().is_ok() && !upload.stored.is_finished() => {
                self.uploads.park(&self.name, upload);
            }
            _ => drop(self.uploads.open().remove(&self.name)),
        }
    }
}
