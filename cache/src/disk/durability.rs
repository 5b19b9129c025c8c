//! What outlives a loss of power.
//!
//! Nobody waits for a disk to store a blob: what was answered survives the death of the process, and reaches the disk within
//! [`SYNC_INTERVAL`] or [`SYNC_BYTES`]. A thread of its own syncs files and packs, then their folders; then the index notes, in a
//! transaction that is itself synced, up to which row everything is durable. Rows are numbered by a clock that only grows, and a later
//! transaction is never durable without those before it, so after a power loss the rows up to that number are as good as their blobs. The
//! few after it are read and hashed when the store is opened again, unless it was closed in order. The cache may forget; what it says that
//! it has, it has.
//!
//! The other way round: a blob's row is gone, and that durably, before its file goes; a blob that moves from pack to pack is durable in
//! the new place before its row says so.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_model::Digest;
use muster_model::limits::UNSYNCED_BYTES_VERIFIED_MAX;
use rusqlite::params;

use super::index::{Index, Row, digest_from};
use super::layout::Layout;
use super::packs::PackHandles;
use crate::blob::copy_verified;
use crate::{StoreError, Trouble};

/// How long a blob that was answered may wait for its way to the disk to begin.
const SYNC_INTERVAL: Duration = Duration::from_secs(2);
/// Bytes that wait for it at most.
const SYNC_BYTES: u64 = 64 * 1024 * 1024;
/// Files that wait for it at most.
const SYNC_FILES: usize = 4096;

/// A disk that no longer syncs.
static NOT_SYNCED: Trouble = Trouble::new();

/// What is not yet durable.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    files: Vec<Digest>,
    packs: BTreeSet<i64>,
    /// Folders from which names were taken.
    folders: HashSet<PathBuf>,
    bytes: u64,
    since: Option<Instant>,
    running: bool,
    /// A folder could not be synced: no row after that is ever said to be durable by this process.
    frozen: bool,
}

/// Work for the thread that syncs.
#[derive(Debug)]
pub(super) struct SyncJob {
    files: Vec<Digest>,
    packs: BTreeSet<i64>,
    folders: HashSet<PathBuf>,
    /// The clock when the job was made.
    cut: i64,
}

/// What came of a [`SyncJob`].
#[derive(Debug, Default)]
pub(super) struct Synced {
    cut: i64,
    /// Files whose bytes may be lost.
    lost_files: Vec<Digest>,
    /// Packs of which that is true.
    lost_packs: Vec<i64>,
    /// Folders could not be synced: nothing is said about what is in them.
    failed: bool,
}

impl Unsynced {
    pub(super) fn add_file(&mut self, digest: Digest) {
        self.files.push(digest);
        self.add_bytes(digest.size_bytes);
    }

    pub(super) fn add_pack(&mut self, number: i64, bytes: u64) {
        self.packs.insert(number);
        self.add_bytes(bytes);
    }

    /// A name was taken from a folder: should it come back, it is found only after a stop out of order.
    pub(super) fn add_folder(&mut self, folder: Option<&Path>) {
        self.folders.extend(folder.map(PathBuf::from));
        self.add_bytes(0);
    }

    fn add_bytes(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.since.get_or_insert_with(Instant::now);
    }

    /// How long until a sync is due; none while one runs or nothing waits.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let since = self.since.filter(|_| !self.running)?;
        if self.bytes >= SYNC_BYTES || self.files.len() >= SYNC_FILES {
            return Some(Duration::ZERO);
        }
        Some(SYNC_INTERVAL.saturating_sub(since.elapsed()))
    }
}

impl SyncJob {
    /// Does it.
    pub(super) fn run(self, layout: &Layout, handles: &PackHandles) -> Synced {
        let mut synced = Synced { cut: self.cut, ..Synced::default() };
        let mut folders = self.folders;
        for digest in self.files {
            match layout.open_blob(&digest).map(|found| found.map(|(file, path)| (file.sync(), path))) {
                Ok(None) => {}
                Ok(Some((Ok(()), path))) => folders.extend(path.ancestors().skip(1).take(2).map(PathBuf::from)),
                Ok(Some((Err(error), path))) => {
                    let path = path.display();
                    NOT_SYNCED.tell(|untold| tracing::error!(%path, %error, untold, "a stored file could not be synced and is given up"));
                    synced.lost_files.push(digest);
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    NOT_SYNCED.tell(|untold| tracing::error!(error, untold, "a stored file could not be synced"));
                    synced.lost_files.push(digest);
                }
            }
        }
        for number in self.packs {
            let path = layout.pack_path(number);
            // A pack that is gone holds nothing that has to be durable.
            let Ok(file) = handles.get(number) else { continue };
            folders.extend(path.parent().map(PathBuf::from));
            if let Err(error) = file.sync() {
                let path = path.display();
                NOT_SYNCED.tell(
                    |untold| tracing::error!(%path, %error, untold, "a pack could not be synced and is given up"),
                );
                synced.lost_packs.push(number);
            }
        }
        for folder in folders {
            if let Err(error) = layout.sync_folder(&folder) {
                let error = &error as &dyn std::error::Error;
                NOT_SYNCED.tell(|untold| tracing::error!(error, untold, "a folder could not be synced"));
                synced.failed = true;
            }
        }
        synced
    }
}

impl Index {
    /// Everything that waits, if anything does. Between batches only.
    pub(super) fn take_unsynced(&mut self) -> Option<SyncJob> {
        self.unsynced.since?;
        let job = SyncJob {
            files: std::mem::take(&mut self.unsynced.files),
            packs: std::mem::take(&mut self.unsynced.packs),
            folders: std::mem::take(&mut self.unsynced.folders),
            cut: self.totals.clock,
        };
        self.unsynced = Unsynced { running: true, frozen: self.unsynced.frozen, ..Unsynced::default() };
        Some(job)
    }

    /// Whether everything is durable, so that nothing has to be looked at when the store is opened again.
    pub(super) fn may_close(&self) -> bool {
        !self.unsynced.frozen
            && self.unsynced.since.is_none()
            && !self.unsynced.running
            && !self.damaged
            && !self.untidy
    }

    /// Notes what is durable, and gives up what may be lost. Between batches only.
    pub(super) fn finish_sync(&mut self, synced: Synced) {
        self.unsynced.running = false;
        self.begin_batch();
        for digest in &synced.lost_files {
            self.attempt(|index| index.forget(digest));
        }
        for number in &synced.lost_packs {
            self.attempt(|index| index.give_up_pack(*number));
        }
        let done = self.commit_batch();
        self.unsynced.frozen |= synced.failed || done.all.is_some();
        if !self.unsynced.frozen && self.lost.is_empty() {
            self.note_durable(synced.cut, false);
        }
    }

    /// Writes, and syncs, that all rows up to `cut` are durable, and whether the store is closed in order.
    pub(super) fn note_durable(&mut self, cut: i64, closed: bool) {
        let noted = self.synced_transaction(|connection| {
            connection
                .prepare_cached("UPDATE state SET durable = max(durable, ?), closed = ?")?
                .execute(params![cut, closed])
                .map(drop)
        });
        if let Err(error) = noted {
            NOT_SYNCED.tell(|untold| tracing::error!(%error, untold, "the cache's index could not be synced"));
            self.note_damage(&error);
        }
    }

    /// A transaction after which everything in the index so far is durable.
    pub(super) fn synced_transaction(
        &mut self,
        write: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        self.connection.execute_batch("PRAGMA synchronous = FULL; BEGIN")?;
        // SQLite writes and syncs nothing for a row that is updated to what it was, so something has to change.
        let counted =
            self.connection.prepare_cached("UPDATE state SET syncs = syncs + 1").and_then(|mut s| s.execute([]));
        let done = counted.and_then(|_| write(&self.connection)).and_then(|()| self.connection.execute_batch("COMMIT"));
        if done.is_err() && !self.connection.is_autocommit() {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
        self.connection.execute_batch("PRAGMA synchronous = NORMAL")?;
        done
    }

    /// Drops what is not as its row says, among the rows that were not known to be durable when the last process ended out of order.
    pub(super) fn verify_after(&mut self, durable: i64) -> Result<(), StoreError> {
        let doubtful: Vec<(Digest, Row)> = {
            let mut statement = self.connection.prepare(
                "SELECT function, hash, size, id, copies, pack, offset FROM blobs WHERE id > ? ORDER BY id DESC",
            )?;
            let rows = statement.query_map([durable], |row| {
                Ok((digest_from(row.get(0)?, row.get(1)?, row.get(2)?)?, Row::from_columns(row, 3)?))
            })?;
            rows.collect::<Result<_, _>>()?
        };
        let mut budget = UNSYNCED_BYTES_VERIFIED_MAX;
        let (mut kept, mut dropped) = (0_u64, 0_u64);
        for (digest, row) in doubtful {
            let affordable = budget >= digest.size_bytes;
            budget = budget.saturating_sub(digest.size_bytes);
            if affordable && self.verifies(&digest, &row) {
                kept += 1;
                match row.place {
                    Some(place) => self.unsynced.add_pack(place.pack, digest.size_bytes),
                    None => self.unsynced.add_file(digest),
                }
            } else {
                dropped += 1;
                self.forget(&digest)?;
            }
        }
        tracing::info!(kept, dropped, "looked at what the last process left behind");
        Ok(())
    }

    fn verifies(&self, digest: &Digest, row: &Row) -> bool {
        match row.place {
            Some(place) => self.handles.read(digest, place).is_ok(),
            None => match self.layout.open_blob(digest) {
                Ok(Some((file, path))) => copy_verified(&*file, &path, *digest, |_| Ok(())).is_ok(),
                _ => false,
            },
        }
    }
}

/// The thread that syncs, until its jobs' sender is gone.
pub(super) fn run(
    layout: &Arc<Layout>,
    handles: &Arc<PackHandles>,
    jobs: &std::sync::mpsc::Receiver<SyncJob>,
    mut report: impl FnMut(Synced),
) {
    while let Ok(job) = jobs.recv() {
        report(job.run(layout, handles));
    }
}
