//! Rows of blobs: finding, storing and dropping them.

use std::time::Instant;

use muster_model::{Digest, DigestFunction};
use rusqlite::{OptionalExtension, params};

use super::index::{ENTRY_BYTES, Entry, FileWork, Index, Row, file_charge, function_number};
use super::packs::{Location, footprint};
use crate::StoreError;
use crate::blob::Partial;

/// What to do with a blob that is offered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is here.
    Present,
    /// There is room, reserved until it is stored or [`Index::unreserve`]d.
    Wanted,
}

impl Index {
    pub(super) fn row(&self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        Ok(self
            .connection
            .prepare_cached("SELECT id, copies, pack, offset FROM blobs WHERE hash = ? AND function = ? AND size = ?")?
            .query_row(params![digest.hash, function_number(digest.function), digest.size_bytes.cast_signed()], |row| {
                Row::from_columns(row, 0)
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

    /// [`Self::row`] of a blob that is used now.
    fn used_row(&mut self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        let Some(row) = self.row(digest)? else { return Ok(None) };
        self.touch(Entry::Blob(row.id));
        self.seen.insert(*digest, row);
        Ok(Some(row))
    }

    /// Where a blob is; it counts as used.
    pub(super) fn find(&mut self, digest: &Digest) -> Result<Option<Row>, StoreError> {
        self.used_row(digest)
    }

    /// Whether a blob is here; if so it counts as used and stays for the lease time.
    pub(super) fn confirm(&mut self, digest: &Digest) -> Result<bool, StoreError> {
        let Some(row) = self.used_row(digest)? else { return Ok(false) };
        let time = self.presence.lease_time();
        self.presence.lock().leases.hold_for(*digest, row.held_charge(digest), Instant::now(), time);
        Ok(true)
    }

    /// Holds blobs until they are released: all of them or none.
    pub(super) fn hold(&mut self, digests: &[Digest]) -> Result<(), StoreError> {
        for (position, digest) in digests.iter().enumerate() {
            match self.used_row(digest) {
                Ok(Some(row)) => self.presence.lock().leases.hold(*digest, row.held_charge(digest)),
                missing => {
                    self.release(&digests[..position]);
                    return Err(missing.err().unwrap_or(StoreError::NotFound(*digest)));
                }
            }
        }
        Ok(())
    }

    pub(super) fn release(&mut self, digests: &[Digest]) {
        let mut state = self.presence.lock();
        for digest in digests {
            state.leases.release(digest);
        }
    }

    /// Says whether a blob is wanted, and reserves room for it if so.
    pub(super) fn offer(&mut self, digest: &Digest) -> Result<Offer, StoreError> {
        if self.used_row(digest)?.is_some() {
            return Ok(Offer::Present);
        }
        let needed = file_charge(digest, 1);
        self.make_room(needed)?;
        self.reserved_bytes += needed;
        Ok(Offer::Wanted)
    }

    /// Gives back what [`Self::offer`] reserved.
    pub(super) fn unreserve(&mut self, digest: &Digest) {
        self.reserved_bytes = self.reserved_bytes.saturating_sub(file_charge(digest, 1));
    }

    /// Stores a small blob whose bytes were verified. Room is made here.
    pub(super) fn insert_packed(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
        if self.used_row(digest)?.is_some() {
            return Ok(());
        }
        self.make_room(footprint(digest) + ENTRY_BYTES)?;
        self.space.note_written(footprint(digest));
        let place = self.append(digest, bytes)?;
        self.unsynced.add_pack(place.pack, footprint(digest));
        self.insert(digest, Some(place))?;
        self.totals.charged += ENTRY_BYTES;
        Ok(())
    }

    /// Puts bytes at the end of the packs.
    pub(super) fn append(&mut self, digest: &Digest, bytes: &[u8]) -> Result<Location, StoreError> {
        let fresh = self.tick();
        self.packs.append(digest, bytes, fresh)
    }

    /// Stores a blob whose bytes were verified into a file that waits in `incoming/`. Room was reserved by [`Self::offer`].
    pub(super) fn insert_file(&mut self, digest: &Digest, partial: Partial) -> Result<(), StoreError> {
        if self.used_row(digest)?.is_some() {
            return Ok(());
        }
        self.insert(digest, None)?;
        self.space.note_written(digest.size_bytes);
        self.totals.charged += file_charge(digest, 1);
        self.unsynced.add_file(*digest);
        self.verified.insert(*digest);
        self.file_work.push((self.job, FileWork::Publish(*digest, partial)));
        Ok(())
    }

    /// Writes the row; its id is its time, so that rows are numbered in the order in which they were written.
    pub(super) fn insert(&mut self, digest: &Digest, place: Option<Location>) -> Result<(), StoreError> {
        let id = self.tick();
        self.connection
            .prepare_cached(
                "INSERT INTO blobs (id, function, hash, size, used, pack, offset) VALUES (?1, ?2, ?3, ?4, ?1, ?5, ?6)",
            )?
            .execute(params![
                id,
                function_number(digest.function),
                digest.hash,
                digest.size_bytes.cast_signed(),
                place.map(|place| place.pack),
                place.map(|place| place.offset.cast_signed())
            ])?;
        self.seen.insert(*digest, Row { id, copies: 1, place });
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
            self.presence.lock().leases.recharge(digest, file_charge(digest, 2));
            self.forget_seen(digest);
            self.mark_dirty();
        }
        Ok(())
    }

    /// Takes a blob that did not verify out of the store. Where it was moved since it was read, it stays.
    pub(super) fn quarantine(&mut self, digest: &Digest, read_from: Option<Location>) -> Result<(), StoreError> {
        let Some(row) = self.row(digest)? else { return Ok(()) };
        if row.place != read_from {
            return Ok(());
        }
        self.delete(&row, digest)?;
        self.quarantined_blobs += 1;
        if row.place.is_none() {
            self.quarantined_files += 1;
            self.file_work.push((self.job, FileWork::Quarantine(*digest, self.quarantined_files)));
        }
        tracing::error!(%digest, "a stored blob does not verify");
        Ok(())
    }

    /// Drops a blob, with its file if it has one.
    pub(super) fn forget(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let Some(row) = self.row(digest)? else { return Ok(()) };
        self.delete(&row, digest)?;
        if row.place.is_none() {
            self.file_work.push((self.job, FileWork::Remove(*digest)));
        }
        Ok(())
    }

    /// [`Self::forget`], unless its bytes are there after all.
    pub(super) fn forget_if_missing(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let there = match self.row(digest)? {
            None => true,
            Some(Row { place: None, .. }) => self.layout.open_blob(digest)?.is_some(),
            Some(Row { place: Some(place), .. }) => match self.handles.get(place.pack) {
                Err(error) if super::packs::is_absent(&error) => {
                    self.give_up_pack(place.pack)?;
                    // In a damaged index the row may not be among those of the pack that it names.
                    false
                }
                opened => opened.map(|_| true)?,
            },
        };
        if there { Ok(()) } else { self.forget(digest) }
    }

    /// Drops a row and what points at it. The blob's file, if it has one, is the caller's to remove.
    pub(super) fn delete(&mut self, row: &Row, digest: &Digest) -> Result<(), StoreError> {
        self.forget_seen(digest);
        self.delete_records_of(row.id)?;
        self.mark_dirty();
        self.connection.prepare_cached("DELETE FROM blobs WHERE id = ?")?.execute([row.id])?;
        self.untouch(Entry::Blob(row.id));
        self.presence.lock().leases.forget(digest);
        self.verified.forget(digest);
        self.totals.charged = self.totals.charged.saturating_sub(row.charge(digest));
        self.totals.blobs = self.totals.blobs.saturating_sub(1);
        self.totals.bytes = self.totals.bytes.saturating_sub(digest.size_bytes);
        match row.place {
            Some(place) => self.release_place(place, digest),
            None => {
                self.space.note_freed(digest.size_bytes.saturating_mul(row.copies));
                Ok(())
            }
        }
    }

    pub(super) fn forget_seen(&mut self, digest: &Digest) {
        self.seen.remove(digest);
        self.presence.unlearn(digest);
    }
}
