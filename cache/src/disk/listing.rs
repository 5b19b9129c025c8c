//! What is here, page by page.

use std::time::{Duration, Instant, SystemTime};

use muster_model::Digest;
use muster_model::key::ActionKey;
use muster_model::limits::LISTED_ENTRIES_MAX;
use rusqlite::params;

use super::index::{Index, digest_from};
use super::{DiskStore, records};
use crate::{DivergentRecord, StoreError};

/// In which order entries are listed: by their last use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UseOrder {
    /// What would be evicted first comes first.
    #[default]
    OldestFirst,
    /// What was used last comes first.
    NewestFirst,
}

/// Which page of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The order of the list, the same for all of its pages.
    pub order: UseOrder,
    /// Where the page starts, as the page before said; none for the first.
    pub from: Option<u64>,
    /// Entries wanted; at most [`LISTED_ENTRIES_MAX`] are answered, and at least one if there is one.
    pub limit: usize,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { order: UseOrder::default(), from: None, limit: LISTED_ENTRIES_MAX }
    }
}

impl PageRequest {
    fn limit(self) -> usize {
        self.limit.clamp(1, LISTED_ENTRIES_MAX)
    }

    /// What follows `FROM table` in a statement with the start and the number of rows, one more than wanted, as its parameters.
    fn clause(self) -> &'static str {
        match self.order {
            UseOrder::OldestFirst => "WHERE used >= ? ORDER BY used LIMIT ?",
            UseOrder::NewestFirst => "WHERE used <= ? ORDER BY used DESC LIMIT ?",
        }
    }

    fn parameters(self) -> [i64; 2] {
        let edge = match self.order {
            UseOrder::OldestFirst => 0,
            UseOrder::NewestFirst => i64::MAX,
        };
        let start = self.from.map_or(edge, |from| i64::try_from(from).unwrap_or(i64::MAX));
        [start, self.limit() as i64 + 1]
    }

    /// Cuts off the row that only says that there is another page, and where it starts.
    fn cut<T>(self, rows: &mut Vec<(i64, T)>) -> Option<u64> {
        let next = rows.get(self.limit()).map(|(used, _)| used.cast_unsigned());
        rows.truncate(self.limit());
        next
    }
}

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

/// Blobs in the order of their last use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobPage {
    /// At most [`LISTED_ENTRIES_MAX`].
    pub blobs: Vec<BlobEntry>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
    /// Blobs in the store.
    pub total: u64,
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

/// Results in the order of their last use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordPage {
    /// At most [`LISTED_ENTRIES_MAX`].
    pub records: Vec<RecordEntry>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
    /// Results in the store.
    pub total: u64,
}

/// Results that are not the answer of their key, in the order in which their outcomes came first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DivergentPage {
    /// At most [`LISTED_ENTRIES_MAX`], and no more than fit into a message.
    pub records: Vec<DivergentRecord>,
    /// Where the next page starts; none after the last.
    pub next: Option<u64>,
}

impl DiskStore {
    /// One page of blobs. One that is used between two pages is the newest then: from the oldest on it comes again, at the end.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] when the index can't be read.
    pub async fn list_blobs(&self, page: PageRequest) -> Result<BlobPage, StoreError> {
        self.index.call(move |index| index.list_blobs(page)).await
    }

    /// One page of results, as [`Self::list_blobs`].
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn list_records(&self, page: PageRequest) -> Result<RecordPage, StoreError> {
        self.index.call(move |index| index.list_records(page)).await
    }

    /// One page of results that are kept as evidence that their action does not always come to the same.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn list_divergent(&self, from: Option<u64>) -> Result<DivergentPage, StoreError> {
        self.index.call(move |index| index.list_divergent(from)).await
    }
}

impl Index {
    fn list_blobs(&mut self, page: PageRequest) -> Result<BlobPage, StoreError> {
        self.flush_uses()?;
        let mut rows: Vec<(i64, (Digest, i64))> = {
            let mut statement = self.connection.prepare_cached(&format!(
                "SELECT used, function, hash, size, (SELECT count(DISTINCT record) FROM record_references WHERE blob = blobs.id)
                 FROM blobs {}",
                page.clause()
            ))?;
            let rows = statement.query_map(page.parameters(), |row| {
                Ok((row.get(0)?, (digest_from(row.get(1)?, row.get(2)?, row.get(3)?)?, row.get(4)?)))
            })?;
            rows.collect::<Result<_, _>>()?
        };
        let next = page.cut(&mut rows);
        let now = Instant::now();
        let blobs = rows
            .into_iter()
            .map(|(used, (digest, records))| BlobEntry {
                digest,
                used: time(used),
                leased: self.presence.lock().leases.is_held(&digest, now),
                records: records.cast_unsigned(),
            })
            .collect();
        Ok(BlobPage { blobs, next, total: self.totals.blobs })
    }

    fn list_records(&mut self, page: PageRequest) -> Result<RecordPage, StoreError> {
        self.flush_uses()?;
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT used, key, outcome, length(payload), (SELECT count(*) FROM record_references WHERE record = records.id),
                    (SELECT count(*) FROM divergent WHERE divergent.key = records.key)
             FROM records {}",
            page.clause()
        ))?;
        let rows = statement.query_map(page.parameters(), |row| {
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
        let next = page.cut(&mut rows);
        Ok(RecordPage { records: rows.into_iter().map(|(_, entry)| entry).collect(), next, total: self.totals.records })
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
