//! Reading: from what is known, or from what the index says, and then from a pack or a file.

use std::sync::Arc;

use bytes::Bytes;
use muster_model::Digest;
use muster_model::limits::CHUNK_BYTES_MAX;

use super::index::Row;
use super::packs::{Location, PackHandles, is_absent};
use super::{DiskStore, is_empty, refuse_all};
use crate::blob::{OnCorrupt, blocking};
use crate::{Blob, StoreError};

impl DiskStore {
    /// What to do when a blob's stored bytes turn out to be others than those of its digest.
    pub(super) fn on_corrupt(&self, digest: Digest, read_from: Option<Location>) -> OnCorrupt {
        let (index, presence) = (self.index.clone(), self.presence.clone());
        Box::new(move || {
            // Whoever asks from now on asks the index, after this.
            presence.unlearn(&digest);
            index.cast(move |index| index.quarantine(&digest, read_from));
        })
    }

    /// Lets the thread of the index take the uses that were noted without it.
    pub(super) fn hand_over_uses(&self, due: bool) {
        if due {
            self.index.cast(|_| Ok(()));
        }
    }

    /// Where blobs are; they count as used.
    async fn locate(&self, digests: &[Digest]) -> Result<Vec<Option<Row>>, StoreError> {
        let (mut rows, due) = self.presence.find(digests);
        self.hand_over_uses(due);
        let unknown = unknown(digests, &rows);
        if !unknown.is_empty() {
            let asked: Vec<Digest> = unknown.iter().map(|(_, digest)| *digest).collect();
            let found = self.index.call(move |index| asked.iter().map(|digest| index.find(digest)).collect());
            fill(&mut rows, &unknown, found.await?);
        }
        Ok(rows)
    }

    /// [`Self::locate`] for threads that may block.
    pub(super) fn locate_blocking(&self, digests: &[Digest]) -> Result<Vec<Option<Row>>, StoreError> {
        let (mut rows, due) = self.presence.find(digests);
        self.hand_over_uses(due);
        let unknown = unknown(digests, &rows);
        if !unknown.is_empty() {
            let asked: Vec<Digest> = unknown.iter().map(|(_, digest)| *digest).collect();
            let found = self.index.call_blocking(move |index| asked.iter().map(|digest| index.find(digest)).collect());
            fill(&mut rows, &unknown, found?);
        }
        Ok(rows)
    }

    pub(super) async fn read(&self, digest: Digest) -> Result<Blob, StoreError> {
        let row = self.locate(&[digest]).await?.pop().flatten();
        match row {
            None if is_empty(&digest) => Blob::from_bytes_of(digest, Bytes::new()),
            None => Err(StoreError::NotFound(digest)),
            Some(Row { place: None, .. }) => self.read_file(digest).await,
            Some(Row { place: Some(place), .. }) => {
                let handles = self.handles.clone();
                let read = blocking(move || read_pack(&handles, &digest, place)).await;
                self.settle_read(digest, place, read).await
            }
        }
    }

    pub(super) async fn read_many(&self, digests: &[Digest]) -> Vec<Result<Blob, StoreError>> {
        let rows = match self.locate(digests).await {
            Ok(rows) => rows,
            Err(error) => return refuse_all(digests.len(), error),
        };
        let packed: Vec<(Digest, Location)> =
            digests.iter().zip(&rows).filter_map(|(digest, row)| Some((*digest, row.as_ref()?.place?))).collect();
        let handles = self.handles.clone();
        let read = blocking(move || {
            Ok(packed.into_iter().map(|(digest, place)| read_pack(&handles, &digest, place)).collect::<Vec<_>>())
        });
        let mut read = match read.await {
            Ok(read) => read.into_iter(),
            Err(error) => return refuse_all(digests.len(), error),
        };
        let mut blobs = Vec::with_capacity(digests.len());
        for (digest, row) in digests.iter().zip(rows) {
            blobs.push(match row {
                None if is_empty(digest) => Blob::from_bytes_of(*digest, Bytes::new()),
                None => Err(StoreError::NotFound(*digest)),
                Some(Row { place: None, .. }) => self.read_file(*digest).await,
                Some(Row { place: Some(place), .. }) => {
                    self.settle_read(*digest, place, read.next().unwrap_or(Err(StoreError::Closed))).await
                }
            });
        }
        blobs
    }

    /// What a read of a pack came to: where its pack went meanwhile, the blob is looked for again.
    async fn settle_read(
        &self,
        digest: Digest,
        place: Location,
        read: Result<Blob, StoreError>,
    ) -> Result<Blob, StoreError> {
        let error = match read {
            Ok(blob) => return Ok(blob),
            Err(error) => error,
        };
        match error {
            StoreError::Mismatch { .. } => {
                (self.on_corrupt(digest, Some(place)))();
                Err(StoreError::Corrupt(digest))
            }
            error if is_absent(&error) => {
                let now = self.index.call(move |index| index.find(&digest)).await?.and_then(|row| row.place);
                match now {
                    None => Err(StoreError::NotFound(digest)),
                    Some(now) if now == place => {
                        self.index.call(move |index| index.forget_if_missing(&digest)).await?;
                        Err(StoreError::NotFound(digest))
                    }
                    Some(now) => {
                        let handles = self.handles.clone();
                        let again = blocking(move || read_pack(&handles, &digest, now)).await;
                        again.map_err(|error| {
                            if matches!(error, StoreError::Mismatch { .. }) {
                                (self.on_corrupt(digest, Some(now)))();
                                return StoreError::Corrupt(digest);
                            }
                            if is_absent(&error) { StoreError::NotFound(digest) } else { error }
                        })
                    }
                }
            }
            error => Err(error),
        }
    }

    /// The verified bytes of a packed blob, for threads that may block; it is looked for again where its pack went meanwhile.
    pub(super) fn read_pack_again(&self, digest: &Digest, place: Location) -> Result<Bytes, StoreError> {
        let asked = *digest;
        let mut place = place;
        loop {
            let error = match read_pack(&self.handles, digest, place).and_then(Blob::into_whole_bytes) {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            match error {
                StoreError::Mismatch { .. } => {
                    (self.on_corrupt(asked, Some(place)))();
                    return Err(StoreError::Corrupt(asked));
                }
                error if is_absent(&error) => {
                    let row = self.index.call_blocking(move |index| index.find(&asked))?;
                    let now = row.and_then(|row| row.place).ok_or(StoreError::NotFound(asked))?;
                    if now == place {
                        self.index.call_blocking(move |index| index.forget_if_missing(&asked))?;
                        return Err(StoreError::NotFound(asked));
                    }
                    place = now;
                }
                error => return Err(error),
            }
        }
    }

    /// Reads a small file whole, so that it is checked before anybody gets it; hands out a bigger one as it is read.
    async fn read_file(&self, digest: Digest) -> Result<Blob, StoreError> {
        let layout = self.layout.clone();
        let on_corrupt = self.on_corrupt(digest, None);
        let read = blocking(move || {
            let Some((file, path)) = layout.open_blob(&digest)? else { return Ok(None) };
            if digest.size_bytes > CHUNK_BYTES_MAX as u64 {
                return Ok(Some(Blob::from_stored(digest, file, path, on_corrupt)));
            }
            let mut bytes = vec![0; digest.size_bytes as usize + 1];
            let count = file.read_at(&mut bytes, 0).map_err(StoreError::file("read", &path))?;
            bytes.truncate(count);
            match Blob::from_bytes_of(digest, bytes.into()) {
                Ok(blob) => Ok(Some(blob)),
                Err(_) => {
                    on_corrupt();
                    Err(StoreError::Corrupt(digest))
                }
            }
        });
        match read.await? {
            Some(blob) => Ok(blob),
            None => {
                // An eviction between the answer and the look is no loss; a row without its file is.
                self.index.call(move |index| index.forget_if_missing(&digest)).await?;
                Err(StoreError::NotFound(digest))
            }
        }
    }
}

fn read_pack(handles: &Arc<PackHandles>, digest: &Digest, place: Location) -> Result<Blob, StoreError> {
    handles.read(digest, place)
}

/// Those digests whose row is not known, with their positions.
fn unknown(digests: &[Digest], rows: &[Option<Row>]) -> Vec<(usize, Digest)> {
    let rows = digests.iter().zip(rows).enumerate();
    rows.filter(|(_, (_, row))| row.is_none()).map(|(position, (digest, _))| (position, *digest)).collect()
}

fn fill(rows: &mut [Option<Row>], unknown: &[(usize, Digest)], found: Vec<Option<Row>>) {
    for ((position, _), row) in unknown.iter().zip(found) {
        rows[*position] = row;
    }
}
