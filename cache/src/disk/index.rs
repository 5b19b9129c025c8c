//! What is in the store, in which order it was used, and what points at what: SQLite in WAL mode with `synchronous=NORMAL`, in one
//! transaction for blobs and results. See `durability` for what of it outlives a loss of power.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use muster_model::{Digest, DigestFunction};
use rusqlite::{Connection, OpenFlags, params};

use super::durability::Unsynced;
use super::eviction::DiskSpace;
use super::layout::{Form, Layout};
use super::packs::{Location, Pack, PackHandles, Packs, footprint};
use super::presence::Presence;
use super::thread::Failures;
use super::{DiskConfig, DiskStats, Verified};
use crate::blob::Partial;
use crate::files::Lock;
use crate::{StoreError, Trouble};

/// What one row is charged with beside its bytes, so that a flood of tiny blobs is bounded too.
pub(super) const ENTRY_BYTES: u64 = 256;
/// The first SQLite without the WAL-reset bug of 3.7.0 to 3.51.2.
const SQLITE_VERSION_MIN: i32 = 3_051_003;
/// Pages of the write-ahead log after which it is brought into the database: 32 MiB. A batch of blobs changes about as many pages as it has blobs,
/// mostly the same ones as the batches around it, and each checkpoint waits for the disk twice: at SQLite's own 1,000 pages after every few
/// batches.
const CHECKPOINT_PAGES: i64 = 8192;
/// Last uses kept in memory before they are written.
const PENDING_USES_MAX: usize = 4096;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS blobs (
    id INTEGER PRIMARY KEY, function INTEGER NOT NULL, hash BLOB NOT NULL, size INTEGER NOT NULL, used INTEGER NOT NULL,
    copies INTEGER NOT NULL DEFAULT 1, pack INTEGER, offset INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS blobs_by_hash ON blobs (hash, function);
CREATE INDEX IF NOT EXISTS blobs_by_use ON blobs (used);
CREATE INDEX IF NOT EXISTS blobs_by_pack ON blobs (pack, offset) WHERE pack IS NOT NULL;
CREATE TABLE IF NOT EXISTS packs (number INTEGER PRIMARY KEY, size INTEGER NOT NULL, live INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS records (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, used INTEGER NOT NULL, payload BLOB NOT NULL, outcome BLOB NOT NULL,
    proof BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS records_by_use ON records (used);
CREATE TABLE IF NOT EXISTS record_references (
    blob INTEGER NOT NULL, record INTEGER NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (blob, record, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS references_by_record ON record_references (record, position);
CREATE TABLE IF NOT EXISTS divergent (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, first BLOB NOT NULL, outcome BLOB NOT NULL, payload BLOB NOT NULL, points_at BLOB NOT NULL,
    times INTEGER NOT NULL, seen INTEGER NOT NULL, UNIQUE (key, outcome));
CREATE TABLE IF NOT EXISTS state (
    one INTEGER PRIMARY KEY CHECK (one = 1), charged INTEGER NOT NULL, blobs INTEGER NOT NULL, bytes INTEGER NOT NULL,
    records INTEGER NOT NULL, clock INTEGER NOT NULL, durable INTEGER NOT NULL, closed INTEGER NOT NULL,
    syncs INTEGER NOT NULL, complete INTEGER NOT NULL);
";

/// The index and everything that is decided with it. Used by one thread.
pub(super) struct Index {
    pub(super) connection: Connection,
    pub(super) totals: Totals,
    pub(super) presence: Arc<Presence>,
    pub(super) capacity_bytes: u64,
    pub(super) age_max: Option<std::time::Duration>,
    pub(super) reserved_bytes: u64,
    pub(super) space: DiskSpace,
    pending_uses: HashMap<Entry, i64>,
    pub(super) layout: Arc<Layout>,
    pub(super) handles: Arc<PackHandles>,
    pub(super) packs: Packs,
    pub(super) verified: Arc<Verified>,
    pub(super) unsynced: Unsynced,
    /// Folders in which files that no row names are still to be looked for.
    pub(super) unswept: Vec<std::path::PathBuf>,
    pub(super) job: usize,
    pub(super) file_work: Vec<(usize, FileWork)>,
    /// Files that could not be put in place: their rows go with the next batch.
    pub(super) lost: Vec<Digest>,
    /// Rows that become known with the commit.
    pub(super) seen: HashMap<Digest, Row>,
    /// Packs into which this batch moved blobs that were durable elsewhere.
    pub(super) moved_into: BTreeSet<i64>,
    /// Whether the totals or the clock changed since they were written.
    dirty: bool,
    failed: Option<Arc<str>>,
    full: bool,
    pub(super) damaged: bool,
    /// Whether the index says everything that is on the disk; it does not while it is being made anew.
    pub(super) complete: bool,
    /// What is in memory may not be what the index says.
    stale: bool,
    /// A file could not be removed: the next start looks for it.
    pub(super) untidy: bool,
    pub(super) evicted_blobs: u64,
    pub(super) evicted_bytes: u64,
    pub(super) quarantined_blobs: u64,
    pub(super) quarantined_files: u64,
    pub(super) quarantined_records: u64,
    pub(super) divergent_results: u64,
    pub(super) compacted_bytes: u64,
    _lock: Lock,
}

/// Sums over the index, kept beside it so that nothing is ever counted by scanning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    /// What files, rows and results take; packs are counted where they are kept.
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
#[derive(Debug)]
pub(super) enum FileWork {
    Publish(Digest, Partial),
    Remove(Digest),
    Quarantine(Digest, u64),
    RemovePack(i64),
}

/// A blob's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: i64,
    pub(super) copies: u64,
    /// Its place in a pack; none when it has a file.
    pub(super) place: Option<Location>,
}

impl Row {
    /// Reads the columns `id, copies, pack, offset` from the column numbered `first` on.
    pub(super) fn from_columns(row: &rusqlite::Row<'_>, first: usize) -> rusqlite::Result<Self> {
        let place = match (row.get::<_, Option<i64>>(first + 2)?, row.get::<_, Option<i64>>(first + 3)?) {
            (Some(pack), Some(offset)) => Some(Location { pack, offset: offset.cast_unsigned() }),
            _ => None,
        };
        Ok(Self { id: row.get(first)?, copies: row.get::<_, i64>(first + 1)?.cast_unsigned().clamp(1, 2), place })
    }

    /// What the row and its files take from the capacity; a pack is charged where packs are kept.
    pub(super) fn charge(&self, digest: &Digest) -> u64 {
        match self.place {
            Some(_) => ENTRY_BYTES,
            None => file_charge(digest, self.copies),
        }
    }

    /// What leasing the blob may keep from being freed: a pack with at least half of its bytes in use is not rewritten.
    pub(super) fn held_charge(&self, digest: &Digest) -> u64 {
        match self.place {
            Some(_) => footprint(digest) * 2 + ENTRY_BYTES,
            None => file_charge(digest, self.copies),
        }
    }
}

impl Index {
    pub(super) fn open(
        layout: Arc<Layout>,
        lock: Lock,
        verified: Arc<Verified>,
        presence: Arc<Presence>,
        handles: Arc<PackHandles>,
        config: &DiskConfig,
    ) -> Result<Self, StoreError> {
        assert!(rusqlite::version_number() >= SQLITE_VERSION_MIN, "the bundled SQLite has the WAL-reset bug");
        let mut index = Self {
            connection: Connection::open_in_memory()?,
            totals: Totals::default(),
            presence,
            capacity_bytes: config.capacity_bytes,
            age_max: config.age_max,
            reserved_bytes: 0,
            space: DiskSpace::default(),
            pending_uses: HashMap::new(),
            packs: Packs::new(layout.clone(), handles.clone(), pack_bytes(config.capacity_bytes)),
            layout,
            handles,
            verified,
            unsynced: Unsynced::default(),
            unswept: Vec::new(),
            job: 0,
            file_work: Vec::new(),
            lost: Vec::new(),
            seen: HashMap::new(),
            moved_into: BTreeSet::new(),
            dirty: false,
            failed: None,
            full: false,
            damaged: false,
            complete: false,
            stale: false,
            untidy: false,
            evicted_blobs: 0,
            evicted_bytes: 0,
            quarantined_blobs: 0,
            quarantined_files: 0,
            quarantined_records: 0,
            divergent_results: 0,
            compacted_bytes: 0,
            _lock: lock,
        };
        match index.start() {
            Err(StoreError::Index(error)) if is_damage(&error) => {
                tracing::error!(%error, "the cache's index is damaged");
                index.rebuild()?;
            }
            started => started?,
        }
        Ok(index)
    }

    /// Reads what was left by the process before, and makes it agree with the files.
    fn start(&mut self) -> Result<(), StoreError> {
        let fresh = self.connect()?;
        let (durable, closed, complete): (i64, bool, bool) =
            self.connection.query_row("SELECT durable, closed, complete FROM state", [], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        if fresh && self.has_content()? {
            return self.fill_from_files();
        }
        if !fresh && !complete {
            // The process before did not come to the end of making it.
            return self.rebuild();
        }
        self.load()?;
        self.complete = true;
        if !fresh && !closed {
            self.packs.measure_all()?;
            self.begin_batch();
            if !self.has_failed() {
                self.verify_after(durable)?;
            }
            self.end_batch()?;
            self.unswept = self.layout.blob_folders()?;
        }
        self.remove_unknown_packs()?;
        self.synced_transaction(|connection| {
            connection.execute("UPDATE state SET closed = 0, complete = 1", []).map(drop)
        })?;
        Ok(())
    }

    /// Opens the database, and makes its tables if it has none; whether it had none.
    pub(super) fn connect(&mut self) -> Result<bool, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let path = self.layout.index_path();
        let connection = match self.layout.files().sqlite_vfs() {
            Some(vfs) => Connection::open_with_flags_and_vfs(&path, flags, vfs)?,
            None => Connection::open_with_flags(&path, flags)?,
        };
        connection.set_prepared_statement_cache_capacity(64);
        // Nobody else reads it, so no memory is shared and no lock is taken more than once.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.pragma_update(None, "mmap_size", 0)?;
        connection.pragma_update(None, "cache_size", -32_768)?;
        let tables: i64 =
            connection.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'state'", [], |row| row.get(0))?;
        if tables == 0 {
            connection.execute_batch(&format!(
                "BEGIN; {SCHEMA} INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0, 0); COMMIT"
            ))?;
        }
        self.connection = connection;
        Ok(tables == 0)
    }

    pub(super) fn load(&mut self) -> Result<(), StoreError> {
        // The clock never says the same twice, whatever was rolled back.
        let clock = self.totals.clock;
        self.totals = read_totals(&self.connection)?;
        self.totals.clock = self.totals.clock.max(clock);
        self.packs.load(read_packs(&self.connection)?)
    }

    fn remove_unknown_packs(&mut self) -> Result<(), StoreError> {
        for number in self.layout.list_packs()? {
            if self.packs.get(number).is_none() {
                self.layout.remove_pack(number)?;
            }
        }
        Ok(())
    }

    pub(super) fn begin_batch(&mut self) {
        self.job = 0;
        self.failed = None;
        self.full = false;
        if let Err(error) = self.connection.execute_batch("BEGIN") {
            self.fail_batch(&error);
        }
        if !self.complete {
            self.damaged = true;
            self.failed = Some("it has to be made anew first".into());
        } else if self.stale {
            match self.load() {
                Ok(()) => self.stale = false,
                Err(StoreError::Index(error)) => self.fail_batch(&error),
                Err(error) => self.failed = Some(error.to_string().into()),
            }
        }
        for id in self.presence.take_uses() {
            self.touch(Entry::Blob(id));
        }
        // They stay listed until the batch is committed.
        for digest in self.lost.clone() {
            self.attempt(|index| index.forget(&digest));
        }
    }

    /// Whether the batch will be rolled back, so that nothing more should be done in it.
    pub(super) fn has_failed(&self) -> bool {
        self.failed.is_some()
    }

    pub(super) fn begin_job(&mut self) {
        self.job += 1;
    }

    /// Does a part of a batch that nobody waits for: when it fails because of the index, so does the batch.
    pub(super) fn attempt(&mut self, work: impl FnOnce(&mut Self) -> Result<(), StoreError>) {
        if self.has_failed() {
            return;
        }
        match work(self) {
            Err(StoreError::Index(error)) => self.fail_batch(&error),
            Err(error) => {
                static UNTIDY: Trouble = Trouble::new();
                let error = &error as &dyn std::error::Error;
                UNTIDY.tell(|untold| tracing::warn!(error, untold, "the cache could not be tidied"));
            }
            Ok(()) => {}
        }
    }

    /// The batch will be rolled back, and every job in it fails.
    pub(super) fn fail_batch(&mut self, error: &rusqlite::Error) {
        self.note_damage(error);
        self.full |= error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        self.failed.get_or_insert_with(|| error.to_string().into());
    }

    /// Remembers that the index has to be made anew.
    pub(super) fn note_damage(&mut self, error: &rusqlite::Error) {
        self.damaged |= is_damage(error);
    }

    /// [`Self::commit_batch`] for a batch without jobs.
    pub(super) fn end_batch(&mut self) -> Result<(), StoreError> {
        match self.commit_batch().all {
            Some(failure) => Err(failure.to_error()),
            None => Ok(()),
        }
    }

    pub(super) fn commit_batch(&mut self) -> Failures {
        if self.failed.is_none()
            && let Err(error) = self.write_batch_end()
        {
            match error {
                StoreError::Index(error) => self.fail_batch(&error),
                error => {
                    self.full |= error.is_full();
                    self.failed = Some(error.to_string().into());
                }
            }
        }
        if let Some(reason) = self.failed.take() {
            return self.roll_back(reason);
        }
        self.packs.keep();
        self.moved_into.clear();
        self.lost.clear();
        self.presence.learn(self.seen.drain());
        let mut failures = Failures::default();
        for (job, work) in std::mem::take(&mut self.file_work) {
            self.note_removal(&work);
            let done = match work {
                FileWork::Publish(digest, partial) => {
                    self.layout.publish(&digest, Form::Plain, partial).inspect_err(|_| self.lost.push(digest))
                }
                FileWork::Remove(digest) => self.layout.remove(&digest),
                FileWork::Quarantine(digest, number) => self.layout.quarantine(&digest, number),
                FileWork::RemovePack(number) => self.layout.remove_pack(number),
            };
            if let Err(error) = done {
                static NOT_MOVED: Trouble = Trouble::new();
                NOT_MOVED.tell(|untold| {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        untold,
                        "a stored file could not be moved"
                    );
                });
                self.untidy = true;
                failures.single.insert(job.saturating_sub(1), error);
            }
        }
        for digest in &self.lost {
            self.presence.unlearn(digest);
        }
        failures
    }

    fn note_removal(&mut self, work: &FileWork) {
        match work {
            FileWork::Publish(..) => {}
            FileWork::Remove(digest) | FileWork::Quarantine(digest, _) => {
                for form in [Form::Plain, Form::Executable] {
                    let path = self.layout.blob_path(digest, form);
                    // Most blobs never had a second form, and then not its folder either.
                    if form == Form::Plain || self.layout.exists(&path) {
                        self.unsynced.add_folder(path.parent());
                    }
                }
            }
            FileWork::RemovePack(number) => self.unsynced.add_folder(self.layout.pack_path(*number).parent()),
        }
    }

    fn roll_back(&mut self, reason: Arc<str>) -> Failures {
        static ROLLED_BACK: Trouble = Trouble::new();
        ROLLED_BACK
            .tell(|untold| tracing::error!(%reason, untold, "a transaction of the cache's index was rolled back"));
        if !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
        self.file_work.clear();
        self.pending_uses.clear();
        self.seen.clear();
        self.moved_into.clear();
        self.presence.unlearn_all();
        self.dirty = false;
        // Read back in any case, so that packs that this batch made go.
        let known = read_packs(&self.connection).inspect_err(|error| self.note_damage(error)).unwrap_or_default();
        self.packs.roll_back(known);
        self.stale = self.load().is_err();
        Failures { all: Some(super::thread::Failure { reason, full: self.full }), ..Failures::default() }
    }

    fn write_batch_end(&mut self) -> Result<(), StoreError> {
        self.packs.flush()?;
        for number in &self.moved_into {
            self.packs.sync(*number)?;
        }
        if !self.moved_into.is_empty() {
            self.layout.sync_packs()?;
        }
        if self.pending_uses.len() >= PENDING_USES_MAX {
            self.flush_uses()?;
        }
        let mut changed = std::mem::take(&mut self.packs.changed);
        changed.sort_unstable();
        changed.dedup();
        for number in changed {
            match self.packs.get(number) {
                Some(pack) => self
                    .connection
                    .prepare_cached("INSERT OR REPLACE INTO packs (number, size, live) VALUES (?, ?, ?)")?
                    .execute([number, pack.size.cast_signed(), pack.live.cast_signed()])?,
                None => self.connection.prepare_cached("DELETE FROM packs WHERE number = ?")?.execute([number])?,
            };
            self.dirty = true;
        }
        if std::mem::take(&mut self.dirty) {
            self.connection
                .prepare_cached("UPDATE state SET charged = ?, blobs = ?, bytes = ?, records = ?, clock = ?")?
                .execute(params![
                    self.totals.charged.cast_signed(),
                    self.totals.blobs.cast_signed(),
                    self.totals.bytes.cast_signed(),
                    self.totals.records.cast_signed(),
                    self.totals.clock
                ])?;
        }
        self.connection.execute_batch("COMMIT")?;
        // What goes from the disk must have gone from the index for good. After a failure the rows are gone and the files stay, which costs
        // room until the next start and tells no lie.
        if self.file_work.iter().any(|(_, work)| !matches!(work, FileWork::Publish(..))) {
            let synced = self.synced_transaction(|_| Ok(()));
            if let Err(error) = synced {
                static NOT_DURABLE: Trouble = Trouble::new();
                NOT_DURABLE.tell(|untold| {
                    tracing::error!(%error, untold, "removals could not be made durable: the files stay until the next start");
                });
                self.note_damage(&error);
                self.untidy = true;
                self.file_work.retain(|(_, work)| matches!(work, FileWork::Publish(..)));
            }
        }
        Ok(())
    }

    pub(super) fn has_pending_uses(&self) -> bool {
        !self.pending_uses.is_empty()
    }

    /// Writes last uses in a transaction of their own.
    pub(super) fn flush_uses_alone(&mut self) {
        self.begin_batch();
        self.attempt(|index| Ok(index.flush_uses()?));
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
        self.totals.clock = self.totals.clock.saturating_add(1).max(now());
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

    pub(super) fn stats(&mut self) -> DiskStats {
        let leased_blobs = self.presence.lock().leases.count(std::time::Instant::now()) as u64;
        DiskStats {
            blobs: self.totals.blobs,
            bytes: self.totals.bytes,
            charged_bytes: self.charged(),
            capacity_bytes: self.capacity_bytes,
            records: self.totals.records,
            packs: self.packs.numbers().count() as u64,
            leased_blobs,
            evicted_blobs: self.evicted_blobs,
            evicted_bytes: self.evicted_bytes,
            compacted_bytes: self.compacted_bytes,
            quarantined_blobs: self.quarantined_blobs,
            quarantined_records: self.quarantined_records,
            divergent_results: self.divergent_results,
        }
    }

    /// Makes everything durable, and says that it is.
    pub(super) fn close(&mut self) {
        self.flush_uses_alone();
        if let Some(job) = self.take_unsynced() {
            let synced = job.run(&self.layout, &self.handles);
            self.finish_sync(synced);
        }
        if self.may_close() && self.unswept.is_empty() {
            self.note_durable(self.totals.clock, true);
        }
    }
}

/// Bytes of one pack: few files, and little to rewrite when half of one is free.
pub(super) fn pack_bytes(capacity_bytes: u64) -> u64 {
    (capacity_bytes / 1024).clamp(4096, 64 * 1024 * 1024)
}

/// Microseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// What a blob in a file takes from the capacity.
pub(super) fn file_charge(digest: &Digest, copies: u64) -> u64 {
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

/// Whether an error says that what is stored in the index is not what was stored.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::Error;
    match error {
        Error::SqliteFailure(failure, message) => {
            matches!(failure.code, rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
                // A damaged schema no longer has what the statements name, or has rows that it forbids.
                || failure.code == rusqlite::ErrorCode::ConstraintViolation
                || message.as_deref().is_some_and(|text| text.contains("no such") || text.contains("malformed"))
        }
        Error::SqlInputError { .. }
        | Error::QueryReturnedNoRows
        | Error::InvalidColumnType(..)
        | Error::FromSqlConversionFailure(..)
        | Error::Utf8Error(..)
        | Error::IntegralValueOutOfRange(..) => true,
        _ => false,
    }
}

fn read_totals(connection: &Connection) -> rusqlite::Result<Totals> {
    connection.prepare_cached("SELECT charged, blobs, bytes, records, clock FROM state")?.query_row([], |row| {
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

fn read_packs(connection: &Connection) -> rusqlite::Result<HashMap<i64, Pack>> {
    let mut statement = connection.prepare_cached("SELECT number, size, live FROM packs")?;
    let rows = statement.query_map([], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        Ok((row.get(0)?, Pack { size: number(1)?, live: number(2)? }))
    })?;
    rows.collect()
}
