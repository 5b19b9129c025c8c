//! What is in the store, in which order it was used, and what points at what: SQLite in WAL mode with `synchronous=NORMAL`.
//!
//! After a crash of the process nothing that was answered is lost. After a power loss the last transactions may be gone, and a row may
//! name a file that is missing or torn: whoever reads it finds out, and the row goes.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use muster_model::{Digest, DigestFunction};
use rusqlite::{Connection, OptionalExtension, params};

use super::layout::{Form, Layout};
use super::leases::Leases;
use super::thread::Failures;
use super::{DiskStats, Verified};
use crate::StoreError;
use crate::blob::Partial;

/// What one row is charged with beside its bytes, so that a flood of tiny blobs is bounded too.
pub(super) const ENTRY_BYTES: u64 = 256;
/// The first SQLite without the WAL-reset bug of 3.7.0 to 3.51.2.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Last uses kept in memory before they are written.
const PENDING_USES_MAX: usize = 4096;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS blobs (
    id INTEGER PRIMARY KEY, function INTEGER NOT NULL, hash BLOB NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL,
    copies INTEGER NOT NULL DEFAULT 1, bytes BLOB);
CREATE UNIQUE INDEX IF NOT EXISTS blobs_by_hash ON blobs (hash, function);
CREATE INDEX IF NOT EXISTS blobs_by_use ON blobs (used);
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, used INTEGER NOT NULL, payload BLOB NOT NULL, outcome BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS divergent (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, first BLOB NOT NULL, outcome BLOB NOT NULL, payload BLOB NOT NULL, points_at BLOB NOT NULL,
    times INTEGER NOT NULL, seen INTEGER NOT NULL, UNIQUE (key, outcome));
CREATE INDEX IF NOT EXISTS records_by_use ON records (used);
CREATE TABLE IF NOT EXISTS record_references (
    blob INTEGER NOT NULL, record INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (blob, record, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS references_by_record ON record_references (record, position);
CREATE TABLE IF NOT EXISTS unsettled (function INTEGER NOT NULL, hash BLOB NOT NULL, PRIMARY KEY (hash, function)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals (
    one INTEGER PRIMARY KEY CHECK (one = 1), charged INTEGER NOT NULL, blobs INTEGER NOT NULL, bytes INTEGER NOT NULL,
    records INTEGER NOT NULL, clock INTEGER NOT NULL);
INSERT OR IGNORE INTO totals VALUES (1, 0, 0, 0, 0, 0);
";

/// The index and everything that is decided with it. Used by one thread.
pub(super) struct Index {
    pub(super) connection: Connection,
    pub(super) totals: Totals,
    pub(super) leases: Leases,
    lease_time: Duration,
    capacity_bytes: u64,
    reserved_bytes: u64,
    pending_uses: HashMap<Entry, i64>,
    layout: Arc<Layout>,
    verified: Arc<Verified>,
    job: usize,
    file_work: Vec<(usize, FileWork)>,
    settled: Vec<Digest>,
    /// Files that could not be put in place: their rows go with the next batch.
    lost: Vec<Digest>,
    /// Whether the totals or the clock changed since they were written.
    dirty: bool,
    failed: Option<Arc<str>>,
    evicted_blobs: u64,
    evicted_bytes: u64,
    quarantined_blobs: u64,
    pub(super) divergent_results: u64,
    _lock: File,
}

/// Sums over the index, kept beside it so that nothing is ever counted by scanning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) charged: u64,
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    pub(super) records: u64,
    pub(super) clock: i64,
}

/// A row that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    Blob(i64),
    Record(i64),
}

/// What happens to files once a batch is committed.
enum FileWork {
    Publish(Digest, Partial),
    Remove(Digest),
    Quarantine(Digest, u64),
}

/// Where a blob's bytes are.
#[derive(Debug)]
pub(super) enum Place {
    Inline(Bytes),
    File,
}

/// What to do with a blob that is offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is here.
    Present,
    /// There is room, reserved until it is stored or [`Index::unreserve`]d.
    Wanted,
}

/// A blob's row.
pub(super) struct Row {
    pub(super) id: i64,
    copies: u64,
    inline: bool,
}

impl Index {
    pub(super) fn open(
        layout: Arc<Layout>,
        lock: File,
        verified: Arc<Verified>,
        capacity_bytes: u64,
        lease_time: Duration,
    ) -> Result<Self, StoreError> {
        assert!(rusqlite::version_number() >= SQLITE_VERSION_MIN, "the bundled SQLite has the WAL-reset bug");
        let connection = Connection::open(layout.index_path())?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "mmap_size", 0)?;
        connection.pragma_update(None, "cache_size", -32_768)?;
        connection.execute_batch(SCHEMA)?;
        let totals = read_totals(&connection)?;
        let mut index = Self {
            connection,
            totals,
            leases: Leases::default(),
            lease_time,
            capacity_bytes,
            reserved_bytes: 0,
            pending_uses: HashMap::new(),
            layout,
            verified,
            job: 0,
            file_work: Vec::new(),
            settled: Vec::new(),
            lost: Vec::new(),
            dirty: false,
            failed: None,
            evicted_blobs: 0,
            evicted_bytes: 0,
            quarantined_blobs: 0,
            divergent_results: 0,
            _lock: lock,
        };
        index.settle()?;
        Ok(index)
    }

    /// Makes files and rows agree where the last process may have stopped between the two.
    fn settle(&mut self) -> Result<(), StoreError> {
        let unsettled: Vec<Digest> = {
            let mut statement = self.connection.prepare("SELECT function, hash FROM unsettled")?;
            let rows = statement.query_map([], |row| digest_from(row.get(0)?, row.get(1)?, 0))?;
            rows.collect::<Result<_, _>>()?
        };
        self.begin_batch();
        for digest in unsettled {
            let size: Option<i64> = self
                .connection
                .prepare_cached("SELECT size FROM blobs WHERE hash = ? AND function = ? AND bytes IS NULL")?
                .query_row(params![digest.hash, function_number(digest.function)], |row| row.get(0))
                .optional()?;
            let digest = Digest { size_bytes: size.unwrap_or(0).cast_unsigned(), ..digest };
            let there = self.layout.open_blob(&digest)?.and_then(|(file, _)| file.metadata().ok());
            match (size, there) {
                (Some(_), Some(metadata)) if metadata.len() == digest.size_bytes => {}
                (Some(_), _) => self.forget(&digest)?,
                (None, _) => self.layout.remove(&digest)?,
            }
            self.settled.push(digest);
        }
        match self.commit_batch().all {
            Some(reason) => Err(StoreError::Index(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT),
                Some(reason.to_string()),
            ))),
            None => Ok(()),
        }
    }

    pub(super) fn begin_batch(&mut self) {
        self.job = 0;
        self.failed = None;
        if let Err(error) = self.connection.execute_batch("BEGIN") {
            self.fail_batch(&error);
        }
        for digest in std::mem::take(&mut self.lost) {
            if let Err(StoreError::Index(error)) = self.forget(&digest) {
                self.fail_batch(&error);
            }
        }
    }

    pub(super) fn begin_job(&mut self) {
        self.job += 1;
    }

    /// The batch will be rolled back, and every job in it fails.
    pub(super) fn fail_batch(&mut self, error: &rusqlite::Error) {
        self.failed.get_or_insert_with(|| error.to_string().into());
    }

    pub(super) fn commit_batch(&mut self) -> Failures {
        if self.failed.is_none()
            && let Err(error) = self.write_batch_end()
        {
            self.fail_batch(&error);
        }
        if let Some(reason) = self.failed.take() {
            tracing::error!(%reason, "a transaction of the cache's index was rolled back");
            if !self.connection.is_autocommit() {
                drop(self.connection.execute_batch("ROLLBACK"));
            }
            self.file_work.clear();
            self.pending_uses.clear();
            self.dirty = false;
            if let Ok(totals) = read_totals(&self.connection) {
                self.totals = totals;
            }
            return Failures { all: Some(reason), ..Failures::default() };
        }
        let mut failures = Failures::default();
        for (job, work) in std::mem::take(&mut self.file_work) {
            let (digest, done) = match work {
                FileWork::Publish(digest, partial) => (digest, self.layout.publish(&digest, Form::Plain, partial)),
                FileWork::Remove(digest) => (digest, self.layout.remove(&digest)),
                FileWork::Quarantine(digest, number) => (digest, self.layout.quarantine(&digest, number)),
            };
            match done {
                Ok(()) => self.settled.push(digest),
                Err(error) => {
                    tracing::error!(%error, "a stored file could not be moved");
                    self.lost.push(digest);
                    failures.single.insert(job.saturating_sub(1), error);
                }
            }
        }
        failures
    }

    fn write_batch_end(&mut self) -> rusqlite::Result<()> {
        for digest in std::mem::take(&mut self.settled) {
            // A file may have become unsettled again in this very batch.
            if !self.file_work.iter().any(|(_, work)| work.digest() == &digest) {
                self.connection
                    .prepare_cached("DELETE FROM unsettled WHERE hash = ? AND function = ?")?
                    .execute(params![digest.hash, function_number(digest.function)])?;
            }
        }
        if self.pending_uses.len() >= PENDING_USES_MAX {
            self.flush_uses()?;
        }
        if std::mem::take(&mut self.dirty) {
            self.connection
                .prepare_cached("UPDATE totals SET charged = ?, blobs = ?, bytes = ?, records = ?, clock = ?")?
                .execute(params![
                    self.totals.charged.cast_signed(),
                    self.totals.blobs.cast_signed(),
                    self.totals.bytes.cast_signed(),
                    self.totals.records.cast_signed(),
                    self.totals.clock
                ])?;
        }
        self.connection.execute_batch("COMMIT")
    }

    pub(super) fn has_pending_uses(&self) -> bool {
        !self.pending_uses.is_empty()
    }

    /// Writes last uses in a transaction of their own.
    pub(super) fn flush_uses_alone(&mut self) {
        self.begin_batch();
        if let Err(error) = self.flush_uses() {
            self.fail_batch(&error);
        }
        self.commit_batch();
    }

    pub(super) fn flush_uses(&mut self) -> rusqlite::Result<()> {
        self.dirty |= !self.pending_uses.is_empty();
        for (entry, used) in std::mem::take(&mut self.pending_uses) {
            match entry {
                Entry::Blob(id) => {
                    self.connection.prepare_cached("UPDATE blobs SET used = ? WHERE id = ?")?.execute([used, id])?
                }
                Entry::Record(id) => {
                    self.connection.prepare_cached("UPDATE records SET used = ? WHERE id = ?")?.execute([used, id])?
                }
            };
        }
        Ok(())
    }

    /// The next time of the store's own clock, for a row that is written now.
    pub(super) fn tick(&mut self) -> i64 {
        self.dirty = true;
        self.advance()
    }

    /// The clock counts microseconds since 1970, so that it tells ages too, and never says the same twice.
    fn advance(&mut self) -> i64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        self.totals.clock = self.totals.clock.saturating_add(1).max(now);
        self.totals.clock
    }

    /// Notes a use. The clock is written with the uses, so a batch that only reads writes nothing.
    pub(super) fn touch(&mut self, entry: Entry) {
        let used = self.advance();
        self.pending_uses.insert(entry, used);
    }

    pub(super) fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    pub(super) fn untouch(&mut self, entry: Entry) {
        self.pending_uses.remove(&entry);
    }

    pub(super) fn row(&self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT id, copies, bytes IS NOT NULL FROM blobs WHERE hash = ? AND function = ? AND size = ?",
            )?
            .query_row(params![digest.hash, function_number(digest.function), digest.size_bytes.cast_signed()], |row| {
                Ok(Row { id: row.get(0)?, copies: row.get::<_, i64>(1)?.cast_unsigned(), inline: row.get(2)? })
            })
            .optional()?)
    }

    /// The size of the blob of a hash, whoever asks for it by the hash alone.
    pub(super) fn size_of(&self, function: DigestFunction, hash: &[u8; 32]) -> Result<Option<u64>, StoreError> {
        Ok(self
            .connection
            .prepare_cached("SELECT size FROM blobs WHERE hash = ? AND function = ?")?
            .query_row(params![hash, function_number(function)], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))
            .optional()?)
    }

    /// Where a blob is; it counts as used.
    pub(super) fn find(&mut self, digest: &Digest) -> Result<Option<Place>, StoreError> {
        let Some(row) = self.row(digest)? else { return Ok(None) };
        self.touch(Entry::Blob(row.id));
        if !row.inline {
            return Ok(Some(Place::File));
        }
        let bytes: Vec<u8> = self
            .connection
            .prepare_cached("SELECT bytes FROM blobs WHERE id = ?")?
            .query_row([row.id], |row| row.get(0))?;
        Ok(Some(Place::Inline(bytes.into())))
    }

    /// Whether a blob is here; if so it counts as used and stays for the lease time.
    pub(super) fn confirm(&mut self, digest: &Digest) -> Result<bool, StoreError> {
        let Some(row) = self.row(digest)? else { return Ok(false) };
        self.touch(Entry::Blob(row.id));
        self.leases.hold_for(*digest, charge(digest, row.copies), Instant::now(), self.lease_time);
        Ok(true)
    }

    /// Holds blobs until they are released: all of them or none.
    pub(super) fn hold(&mut self, digests: &[Digest]) -> Result<(), StoreError> {
        for (position, digest) in digests.iter().enumerate() {
            match self.row(digest) {
                Ok(Some(row)) => {
                    self.touch(Entry::Blob(row.id));
                    self.leases.hold(*digest, charge(digest, row.copies));
                }
                missing => {
                    self.release(&digests[..position]);
                    return Err(missing.err().unwrap_or(StoreError::NotFound(*digest)));
                }
            }
        }
        Ok(())
    }

    pub(super) fn release(&mut self, digests: &[Digest]) {
        for digest in digests {
            self.leases.release(digest);
        }
    }

    /// Says whether a blob is wanted, and reserves room for it if so.
    pub(super) fn offer(&mut self, digest: &Digest) -> Result<Offer, StoreError> {
        if let Some(row) = self.row(digest)? {
            self.touch(Entry::Blob(row.id));
            return Ok(Offer::Present);
        }
        let needed = charge(digest, 1);
        self.make_room(needed)?;
        self.reserved_bytes += needed;
        Ok(Offer::Wanted)
    }

    /// Gives back what [`Self::offer`] reserved.
    pub(super) fn unreserve(&mut self, digest: &Digest) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(charge(digest, 1));
    }

    /// Stores a small blob whose bytes were verified. Room is made here.
    pub(super) fn insert_inline(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(row) = self.row(digest)? {
            self.touch(Entry::Blob(row.id));
            return Ok(());
        }
        self.make_room(charge(digest, 1))?;
        self.insert(digest, Some(bytes))
    }

    /// Stores a blob whose bytes were verified into a file that waits in `incoming/`. Room was reserved by [`Self::offer`].
    pub(super) fn insert_file(&mut self, digest: &Digest, partial: Partial) -> Result<(), StoreError> {
        if self.row(digest)?.is_some() {
            return Ok(());
        }
        self.insert(digest, None)?;
        self.mark_unsettled(digest)?;
        self.verified.insert(*digest);
        self.file_work.push((self.job, FileWork::Publish(*digest, partial)));
        Ok(())
    }

    fn insert(&mut self, digest: &Digest, bytes: Option<&[u8]>) -> Result<(), StoreError> {
        let used = self.tick();
        self.connection
            .prepare_cached("INSERT INTO blobs (function, hash, size, used, bytes) VALUES (?, ?, ?, ?, ?)")?
            .execute(params![
                function_number(digest.function),
                digest.hash,
                digest.size_bytes.cast_signed(),
                used,
                bytes
            ])?;
        self.totals.charged += charge(digest, 1);
        self.totals.blobs += 1;
        self.totals.bytes += digest.size_bytes;
        Ok(())
    }

    /// Accounts for a second file of a blob, in another form.
    pub(super) fn add_copy(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let Some(row) = self.row(digest)? else { return Err(StoreError::NotFound(*digest)) };
        if row.copies == 1 {
            self.make_room(digest.size_bytes)?;
            self.connection.prepare_cached("UPDATE blobs SET copies = 2 WHERE id = ?")?.execute([row.id])?;
            self.totals.charged += digest.size_bytes;
            self.leases.recharge(digest, charge(digest, 2));
            self.dirty = true;
        }
        Ok(())
    }

    /// Takes a blob that did not verify out of the store.
    pub(super) fn quarantine(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let Some(row) = self.row(digest)? else { return Ok(()) };
        let was_file = !row.inline;
        self.delete(&row, digest)?;
        self.quarantined_blobs += 1;
        if was_file {
            self.file_work.push((self.job, FileWork::Quarantine(*digest, self.quarantined_blobs)));
        }
        tracing::error!(%digest, "a stored blob does not verify");
        Ok(())
    }

    /// Drops a blob whose file is gone.
    pub(super) fn forget(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let Some(row) = self.row(digest)? else { return Ok(()) };
        self.delete(&row, digest)?;
        if !row.inline {
            self.file_work.push((self.job, FileWork::Remove(*digest)));
        }
        Ok(())
    }

    /// [`Self::forget`], unless the file is there after all.
    pub(super) fn forget_if_missing(&mut self, digest: &Digest) -> Result<(), StoreError> {
        match self.layout.open_blob(digest)? {
            Some(_) => Ok(()),
            None => self.forget(digest),
        }
    }

    fn delete(&mut self, row: &Row, digest: &Digest) -> Result<(), StoreError> {
        self.delete_records_of(row.id)?;
        self.dirty = true;
        self.connection.prepare_cached("DELETE FROM blobs WHERE id = ?")?.execute([row.id])?;
        self.untouch(Entry::Blob(row.id));
        self.leases.forget(digest);
        self.verified.forget(digest);
        if !row.inline {
            self.mark_unsettled(digest)?;
        }
        self.totals.charged = self.totals.charged.saturating_sub(charge(digest, row.copies));
        self.totals.blobs -= 1;
        self.totals.bytes -= digest.size_bytes;
        Ok(())
    }

    fn mark_unsettled(&self, digest: &Digest) -> Result<(), StoreError> {
        self.connection
            .prepare_cached("INSERT OR IGNORE INTO unsettled (function, hash) VALUES (?, ?)")?
            .execute(params![function_number(digest.function), digest.hash])?;
        Ok(())
    }

    /// Evicts what was not used for longest until `needed_bytes` more fit.
    pub(super) fn make_room(&mut self, needed_bytes: u64) -> Result<(), StoreError> {
        let claimed = self.reserved_bytes.saturating_add(needed_bytes);
        if self.totals.charged.saturating_add(claimed) <= self.capacity_bytes {
            return Ok(());
        }
        let leased_bytes = self.leases.bytes(Instant::now());
        if claimed.saturating_add(leased_bytes) > self.capacity_bytes {
            return Err(self.full(needed_bytes, leased_bytes));
        }
        self.flush_uses()?;
        let newest = self.totals.clock;
        while self.totals.charged.saturating_add(claimed) > self.capacity_bytes {
            if !self.evict_one(newest)? {
                return Err(self.full(needed_bytes, leased_bytes));
            }
        }
        Ok(())
    }

    fn full(&self, needed_bytes: u64, leased_bytes: u64) -> StoreError {
        StoreError::Full { needed_bytes, leased_bytes, capacity_bytes: self.capacity_bytes }
    }

    /// Evicts the entry that was not used for longest, among those used up to `newest`.
    pub(super) fn evict_one(&mut self, newest: i64) -> Result<bool, StoreError> {
        loop {
            let blob = self.oldest_blob()?;
            let record = self.oldest_record()?;
            let (record_first, used) = match (&blob, record) {
                (Some((used, ..)), Some((record_used, _))) => (record_used < *used, *used.min(&record_used)),
                (Some((used, ..)), None) => (false, *used),
                (None, Some((used, _))) => (true, used),
                (None, None) => return Ok(false),
            };
            if used > newest {
                return Ok(false);
            }
            match (record_first, record, blob) {
                (true, Some((_, id)), _) => self.delete_record(id)?,
                (_, _, Some((_, digest, row))) => {
                    if self.leases.is_held(&digest, Instant::now()) {
                        // Held is used: out of the way of the next look, so that looks stay short.
                        let used = self.tick();
                        self.connection
                            .prepare_cached("UPDATE blobs SET used = ? WHERE id = ?")?
                            .execute([used, row.id])?;
                        continue;
                    }
                    self.delete(&row, &digest)?;
                    if !row.inline {
                        self.file_work.push((self.job, FileWork::Remove(digest)));
                    }
                    self.evicted_blobs += 1;
                    self.evicted_bytes += digest.size_bytes;
                }
                _ => return Ok(false),
            }
            return Ok(true);
        }
    }

    fn oldest_blob(&self) -> Result<Option<(i64, Digest, Row)>, StoreError> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT used, id, function, hash, size, copies, bytes IS NOT NULL FROM blobs ORDER BY used LIMIT 1",
            )?
            .query_row([], |row| {
                let digest = digest_from(row.get(2)?, row.get(3)?, row.get(4)?)?;
                let copies = row.get::<_, i64>(5)?.cast_unsigned();
                Ok((row.get(0)?, digest, Row { id: row.get(1)?, copies, inline: row.get(6)? }))
            })
            .optional()?)
    }

    pub(super) fn stats(&mut self) -> DiskStats {
        DiskStats {
            blobs: self.totals.blobs,
            bytes: self.totals.bytes,
            charged_bytes: self.totals.charged,
            capacity_bytes: self.capacity_bytes,
            records: self.totals.records,
            leased_blobs: self.leases.count(Instant::now()) as u64,
            evicted_blobs: self.evicted_blobs,
            evicted_bytes: self.evicted_bytes,
            quarantined_blobs: self.quarantined_blobs,
            divergent_results: self.divergent_results,
        }
    }

    /// Writes what is only in memory.
    pub(super) fn close(&mut self) {
        self.flush_uses_alone();
    }
}

impl FileWork {
    fn digest(&self) -> &Digest {
        match self {
            Self::Publish(digest, _) | Self::Remove(digest) | Self::Quarantine(digest, _) => digest,
        }
    }
}

/// What a blob takes from the capacity.
pub(super) fn charge(digest: &Digest, copies: u64) -> u64 {
    digest.size_bytes.saturating_mul(copies).saturating_add(ENTRY_BYTES)
}

pub(super) fn function_number(function: DigestFunction) -> i64 {
    match function {
        DigestFunction::Blake3 => 0,
        DigestFunction::Sha256 => 1,
    }
}

pub(super) fn digest_from(function: i64, hash: [u8; 32], size: i64) -> rusqlite::Result<Digest> {
    let function = match function {
        0 => DigestFunction::Blake3,
        1 => DigestFunction::Sha256,
        other => return Err(rusqlite::Error::IntegralValueOutOfRange(0, other)),
    };
    Ok(Digest { function, hash, size_bytes: size.cast_unsigned() })
}

fn read_totals(connection: &Connection) -> rusqlite::Result<Totals> {
    connection.prepare_cached("SELECT charged, blobs, bytes, records, clock FROM totals")?.query_row([], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        Ok(Totals {
            charged: number(0)?,
            blobs: number(1)?,
            bytes: number(2)?,
            records: number(3)?,
            clock: row.get(4)?,
        })
    })
}
