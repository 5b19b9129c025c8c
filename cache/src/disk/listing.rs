//! What is here, page by page, and taking it out on request.

use std::time::{Duration, Instant, SystemTime};

use muster_model::Digest;
use muster_model::key::ActionKey;
use muster_model::limits::LISTED_ENTRIES_MAX;
use rusqlite::{OptionalExtension, params};

use super::index::{Index, digest_from};
use super::{DiskStore, records};
use crate::{DivergentRecord, StoreError};

/// Entries evicted in one turn of the index, so that others get theirs.
const COLLECTED_PER_TURN: u64 = 256;

/// A blob in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobEntry {
    /// What it hashes to.
    pub digest: Digest,
    /// When it was used last, by the clock of the store's machine.
    pub used: SystemTime,
    /// Whether it can't be evicted now.
    pub leased: bool,
    /// Results that point at it.
    pub records: u64,
}

/// Blobs, the least recently used first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobPage {
    /// At most [`LISTED_ENTRIES_MAX`].
    pub blobs: Vec<BlobEntry>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
}

/// A result in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordEntry {
    /// The action.
    pub key: ActionKey,
    /// What its result comes to.
    pub outcome: Digest,
    /// Bytes of the encoded result.
    pub payload_bytes: u64,
    /// Blobs that it points at.
    pub references: u64,
    /// When it was used last, by the clock of the store's machine.
    pub used: SystemTime,
    /// Other outcomes that came for the same action.
    pub divergent: u64,
}

/// Results, the least recently used first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordPage {
    /// At most [`LISTED_ENTRIES_MAX`].
    pub records: Vec<RecordEntry>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
}

/// Results that are not the answer of their key, in the order in which their outcomes came first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DivergentPage {
    /// At most [`LISTED_ENTRIES_MAX`], and no more than fit into a message.
    pub records: Vec<DivergentRecord>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
}

/// What went on request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that went.
    pub blobs: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
    /// Results that went, those that pointed at a blob that went included.
    pub records: u64,
    /// What blobs and results take from the capacity now, in bytes.
    pub charged_bytes: u64,
    /// What of that can't be evicted now because it is leased, in bytes.
    pub leased_bytes: u64,
}

impl DiskStore {
    /// One page of blobs, from the place that the page before named, or from the start. A blob that is used meanwhile moves to the end
    /// and may come again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] when the index can't be read.
    pub async fn list_blobs(&self, from: Option<u64>) -> Result<BlobPage, StoreError> {
        self.index.call(move |index| index.list_blobs(from)).await
    }

    /// One page of results, as [`Self::list_blobs`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn list_records(&self, from: Option<u64>) -> Result<RecordPage, StoreError> {
        self.index.call(move |index| index.list_records(from)).await
    }

    /// One page of results that are kept as evidence that their action does not always come to the same.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn list_divergent(&self, from: Option<u64>) -> Result<DivergentPage, StoreError> {
        self.index.call(move |index| index.list_divergent(from)).await
    }

    /// Evicts what was not used for longest, until everything together takes at most `target_bytes` of the capacity or only leased blobs
    /// are left.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] when the index can't be written.
    pub async fn collect(&self, target_bytes: u64) -> Result<Collected, StoreError> {
        let mut total = Collected::default();
        loop {
            let turn = self.index.call(move |index| index.collect(target_bytes)).await?;
            total.blobs += turn.blobs;
            total.bytes += turn.bytes;
            total.records += turn.records;
            total.charged_bytes = turn.charged_bytes;
            total.leased_bytes = turn.leased_bytes;
            if turn.charged_bytes <= target_bytes || turn.blobs + turn.records == 0 {
                return Ok(total);
            }
        }
    }

    /// Evicts these blobs and every result that points at one of them. Leased ones stay; those that are not here are no error.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] when the index can't be written.
    pub async fn remove_blobs(&self, digests: &[Digest]) -> Result<Collected, StoreError> {
        let digests = digests.to_vec();
        self.index.call(move |index| index.counting(|index| index.remove_blobs(&digests))).await
    }

    /// Forgets these results, divergent ones of the same keys included; those that are not here are no error.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] when the index can't be written.
    pub async fn remove_records(&self, keys: &[ActionKey]) -> Result<Collected, StoreError> {
        let keys = keys.to_vec();
        self.index
            .call(move |index| index.counting(|index| keys.iter().try_for_each(|key| index.remove_record(key))))
            .await
    }
}

impl Index {
    fn list_blobs(&mut self, from: Option<u64>) -> Result<BlobPage, StoreError> {
        self.flush_uses()?;
        let rows: Vec<(i64, Digest, i64)> = {
            let mut statement = self.connection.prepare_cached(
                "SELECT used, function, hash, size, (SELECT count(DISTINCT record) FROM record_references WHERE blob = blobs.id)
                 FROM blobs WHERE used >= ? ORDER BY used LIMIT ?",
            )?;
            let rows = statement.query_map([start(from), LISTED_ENTRIES_MAX as i64 + 1], |row| {
                Ok((row.get(0)?, digest_from(row.get(1)?, row.get(2)?, row.get(3)?)?, row.get(4)?))
            })?;
            rows.collect::<Result<_, _>>()?
        };
        let next = rows.get(LISTED_ENTRIES_MAX).map(|row| row.0.cast_unsigned());
        let now = Instant::now();
        let blobs = rows
            .into_iter()
            .take(LISTED_ENTRIES_MAX)
            .map(|(used, digest, records)| BlobEntry {
                digest,
                used: time(used),
                leased: self.presence.lock().leases.is_held(&digest, now),
                records: records.cast_unsigned(),
            })
            .collect();
        Ok(BlobPage { blobs, next })
    }

    fn list_records(&mut self, from: Option<u64>) -> Result<RecordPage, StoreError> {
        self.flush_uses()?;
        let mut statement = self.connection.prepare_cached(
            "SELECT used, key, outcome, length(payload), (SELECT count(*) FROM record_references WHERE record = records.id),
                    (SELECT count(*) FROM divergent WHERE divergent.key = records.key)
             FROM records WHERE used >= ? ORDER BY used LIMIT ?",
        )?;
        let rows = statement.query_map([start(from), LISTED_ENTRIES_MAX as i64 + 1], |row| {
            let used: i64 = row.get(0)?;
            let entry = RecordEntry {
                key: ActionKey(row.get(1)?),
                outcome: records::outcome_from(&row.get::<_, Vec<u8>>(2)?)?,
                payload_bytes: row.get::<_, i64>(3)?.cast_unsigned(),
                references: row.get::<_, i64>(4)?.cast_unsigned(),
                used: time(used),
                divergent: row.get::<_, i64>(5)?.cast_unsigned(),
            };
            Ok((used, entry))
        })?;
        let mut rows: Vec<(i64, RecordEntry)> = rows.collect::<Result<_, _>>()?;
        let next = rows.get(LISTED_ENTRIES_MAX).map(|row| row.0.cast_unsigned());
        rows.truncate(LISTED_ENTRIES_MAX);
        Ok(RecordPage { records: rows.into_iter().map(|(_, entry)| entry).collect(), next })
    }

    fn collect(&mut self, target_bytes: u64) -> Result<Collected, StoreError> {
        self.counting(|index| {
            index.flush_uses()?;
            let newest = index.totals.clock;
            for _ in 0..COLLECTED_PER_TURN {
                if index.charged() <= target_bytes || !index.evict_one(newest)? {
                    break;
                }
            }
            Ok(())
        })
    }

    fn remove_blobs(&mut self, digests: &[Digest]) -> Result<(), StoreError> {
        for digest in digests {
            if self.presence.unlearn_unless_held(digest) {
                self.forget(digest)?;
            }
        }
        Ok(())
    }

    fn remove_record(&mut self, key: &ActionKey) -> Result<(), StoreError> {
        self.connection.prepare_cached("DELETE FROM divergent WHERE key = ?")?.execute([key.0])?;
        let id: Option<i64> = self
            .connection
            .prepare_cached("SELECT id FROM records WHERE key = ?")?
            .query_row([key.0], |row| row.get(0))
            .optional()?;
        id.map_or(Ok(()), |id| self.delete_record(id))
    }

    /// What went while `work` was done.
    fn counting(&mut self, work: impl FnOnce(&mut Self) -> Result<(), StoreError>) -> Result<Collected, StoreError> {
        let before = self.totals;
        work(self)?;
        Ok(Collected {
            blobs: before.blobs - self.totals.blobs,
            bytes: before.bytes - self.totals.bytes,
            records: before.records - self.totals.records,
            charged_bytes: self.charged(),
            leased_bytes: self.presence.lock().leases.bytes(Instant::now()),
        })
    }

    fn list_divergent(&mut self, from: Option<u64>) -> Result<DivergentPage, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, key, first, outcome, payload, points_at, times, seen FROM divergent WHERE id >= ? ORDER BY id",
        )?;
        let mut rows = statement.query(params![start(from)])?;
        let mut page = DivergentPage::default();
        let mut payload_bytes = 0;
        while let Some(row) = rows.next()? {
            let record = records::divergent_from(row)?;
            payload_bytes += record.payload.len();
            let full =
                page.records.len() == LISTED_ENTRIES_MAX || payload_bytes > muster_model::limits::MESSAGE_BYTES_MAX;
            if full && !page.records.is_empty() {
                page.next = Some(row.get::<_, i64>(0)?.cast_unsigned());
                break;
            }
            page.records.push(record);
        }
        Ok(page)
    }
}

fn start(from: Option<u64>) -> i64 {
    from.map_or(0, |from| i64::try_from(from).unwrap_or(i64::MAX))
}

/// The time that a tick of the store's clock stands for.
pub(super) fn time(tick: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(tick.max(0).cast_unsigned())
}
