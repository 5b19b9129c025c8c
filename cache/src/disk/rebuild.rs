//! An index made anew from what is on the disk, and files that no row names.
//!
//! One needs the former when the index is damaged or gone. Every blob is hashed on the way, because a file's name proves nothing; what does
//! not verify is quarantined. Results are not found again, and the order of use is that of the packs' numbers.

use std::collections::HashMap;
use std::time::Instant;

use muster_model::Digest;
use rusqlite::{Connection, params};

use super::index::{ENTRY_BYTES, Index, Totals, file_charge};
use super::packs::{Location, Pack, entries, footprint};
use crate::blob::copy_verified;
use crate::{StoreError, digest_of};

/// Rows of one transaction.
const BATCH_ROWS: u64 = 10_000;

impl Index {
    /// Sets the damaged index aside and makes a new one.
    pub(super) fn rebuild(&mut self) -> Result<(), StoreError> {
        self.complete = false;
        // Closed first: an open database would write into the file that was set aside.
        self.connection = Connection::open_in_memory()?;
        self.layout.set_index_aside()?;
        self.connect()?;
        self.fill_from_files()
    }

    /// Whether there are blobs for a new index to find.
    pub(super) fn has_content(&self) -> Result<bool, StoreError> {
        Ok(!self.layout.list_packs()?.is_empty() || !self.layout.blob_folders()?.is_empty())
    }

    /// Fills an empty index from packs and files.
    pub(super) fn fill_from_files(&mut self) -> Result<(), StoreError> {
        let started = Instant::now();
        self.presence.unlearn_all();
        self.totals = Totals { clock: self.totals.clock, ..Totals::default() };
        self.damaged = false;
        self.connection.execute_batch("BEGIN")?;
        self.fill_from_packs()?;
        for folder in self.layout.blob_folders()? {
            for (path, digest) in self.layout.blobs_in(&folder)? {
                match digest {
                    Some(digest) if self.verify_file(&digest, &path) => self.found_file(&digest)?,
                    _ => {
                        self.quarantined_blobs += 1;
                        self.quarantined_files += 1;
                        self.layout.quarantine_file(&path, self.quarantined_files)?;
                    }
                }
            }
        }
        self.unswept.clear();
        let (totals, clock) = (self.totals, self.totals.clock);
        self.connection.execute(
            "UPDATE state SET charged = ?, blobs = ?, bytes = ?, records = 0, clock = ?, durable = 0, closed = 0, complete = 1",
            params![totals.charged.cast_signed(), totals.blobs.cast_signed(), totals.bytes.cast_signed(), clock],
        )?;
        self.connection.execute_batch("COMMIT")?;
        self.load()?;
        self.complete = true;
        self.synced_transaction(|_| Ok(()))?;
        tracing::warn!(
            blobs = totals.blobs,
            bytes = totals.bytes,
            seconds = started.elapsed().as_secs_f64(),
            "made a new index from what is on the disk"
        );
        Ok(())
    }

    fn fill_from_packs(&mut self) -> Result<(), StoreError> {
        let mut numbers = self.layout.list_packs()?;
        numbers.sort_unstable();
        let mut packs: HashMap<i64, Pack> = HashMap::new();
        for number in numbers {
            let bytes = self.packs.read(number)?;
            let mut pack = Pack { size: bytes.len() as u64, live: 0 };
            for (digest, offset, content) in entries(number, &bytes) {
                if digest_of(digest.function, content) == digest
                    && self.size_of(digest.function, &digest.hash)?.is_none()
                {
                    self.insert(&digest, Some(Location { pack: number, offset }))?;
                    self.totals.charged += ENTRY_BYTES;
                    pack.live += footprint(&digest);
                    self.unsynced.add_pack(number, footprint(&digest));
                    self.breathe()?;
                }
            }
            if pack.live == 0 {
                self.layout.remove_pack(number)?;
            } else {
                packs.insert(number, pack);
            }
        }
        for (number, pack) in packs {
            self.connection
                .prepare_cached("INSERT OR REPLACE INTO packs (number, size, live) VALUES (?, ?, ?)")?
                .execute([number, pack.size.cast_signed(), pack.live.cast_signed()])?;
        }
        Ok(())
    }

    /// Notes a file that verified. The second form of a blob is one more copy of it; a file of a packed blob is not needed.
    fn found_file(&mut self, digest: &Digest) -> Result<(), StoreError> {
        match self.row(digest)? {
            Some(row) if row.place.is_some() => self.layout.remove(digest),
            Some(row) if row.copies == 1 => {
                self.connection.prepare_cached("UPDATE blobs SET copies = 2 WHERE id = ?")?.execute([row.id])?;
                self.totals.charged += digest.size_bytes;
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                self.insert(digest, None)?;
                self.totals.charged += file_charge(digest, 1);
                self.unsynced.add_file(*digest);
                self.breathe()
            }
        }
    }

    fn verify_file(&self, digest: &Digest, path: &std::path::Path) -> bool {
        self.layout.files().open(path, false).is_ok_and(|file| copy_verified(&*file, path, *digest, |_| Ok(())).is_ok())
    }

    /// Commits now and then, so that a transaction is not as large as the store.
    fn breathe(&mut self) -> Result<(), StoreError> {
        self.seen.clear();
        if self.totals.blobs.is_multiple_of(BATCH_ROWS) {
            self.connection.execute_batch("COMMIT; BEGIN")?;
        }
        Ok(())
    }

    /// Looks for files that no row names, in one folder; whether there are more folders. One needs it after the last process ended out of
    /// order: it may have put a file in place without living to name it. Between batches only.
    pub(super) fn sweep(&mut self) -> bool {
        let Some(folder) = self.unswept.pop() else { return false };
        if let Err(error) = self.sweep_folder(&folder) {
            tracing::warn!(error = &error as &dyn std::error::Error, "a folder of blobs can't be tidied");
        }
        !self.unswept.is_empty()
    }

    fn sweep_folder(&mut self, folder: &std::path::Path) -> Result<(), StoreError> {
        for (path, digest) in self.layout.blobs_in(folder)? {
            let named = match digest {
                Some(digest) => self.size_of(digest.function, &digest.hash)?.is_some(),
                None => false,
            };
            if !named {
                tracing::info!(path = %path.display(), "removing a file that the index does not name");
                self.layout.unlink(&path)?;
            }
        }
        Ok(())
    }
}
