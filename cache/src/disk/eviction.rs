//! Making room: by last use and by age, in packs and in files, on the store's budget and on the disk.
//!
//! Packs are charged with the bytes of their files, the dead ones included. A pack of which no more than half is in use is rewritten: what
//! is in use goes to the end of the newest pack, and the file goes. So a rewrite never writes more than it frees, and packs never take more
//! than twice what is in them. Each eviction pays for at most as many bytes of rewriting as it freed, so its cost does not depend on how
//! much is in the store.

use std::time::{Duration, Instant};

use muster_model::Digest;
use muster_model::limits::DISK_RESERVE_BYTES;
use rusqlite::OptionalExtension;

use super::index::{FileWork, Index, Row, digest_from, now, pack_bytes};
use super::packs::{Fate, Location};
use crate::files::Space;
use crate::{StoreError, digest_of};

/// How long an answer about room on the disk is believed.
const SPACE_BELIEVED: Duration = Duration::from_millis(200);
/// Share of the capacity that is evicted beyond what is needed, so that making evictions durable is paid for once in a while only.
const SLACK_SHARE: u64 = 256;
/// Entries evicted for their age in one turn.
const AGED_PER_TURN: usize = 256;

/// Room on the disk, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct DiskSpace {
    asked: Option<(Instant, Space)>,
    written_bytes: u64,
    freed_bytes: u64,
}

impl DiskSpace {
    pub(super) fn note_written(&mut self, bytes: u64) {
        self.written_bytes = self.written_bytes.saturating_add(bytes);
    }

    pub(super) fn note_freed(&mut self, bytes: u64) {
        self.freed_bytes = self.freed_bytes.saturating_add(bytes);
    }
}

/// What may go next.
#[derive(Debug)]
pub(super) enum Candidate {
    Blob { used: i64, digest: Digest, row: Row },
    Record { used: i64, id: i64, payload_bytes: u64 },
}

impl Candidate {
    fn used(&self) -> i64 {
        match self {
            Self::Blob { used, .. } | Self::Record { used, .. } => *used,
        }
    }
}

/// The uses up to which blobs and results were looked at already.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    blobs: i64,
    records: i64,
}

impl Default for Cursor {
    fn default() -> Self {
        Self { blobs: i64::MIN, records: i64::MIN }
    }
}

impl Cursor {
    /// Leaves a candidate behind.
    pub(super) fn pass(&mut self, candidate: &Candidate) {
        match candidate {
            Candidate::Blob { used, .. } => self.blobs = *used,
            Candidate::Record { used, .. } => self.records = *used,
        }
    }
}

impl Index {
    /// Evicts what was not used for longest until `needed_bytes` more fit, on the budget and on the disk.
    pub(super) fn make_room(&mut self, needed_bytes: u64) -> Result<(), StoreError> {
        let claimed = self.reserved_bytes.saturating_add(needed_bytes);
        // A rewrite is done before its old pack is gone.
        let budget = self.capacity_bytes.saturating_sub(pack_bytes(self.capacity_bytes) / 2);
        if self.charged().saturating_add(claimed) > budget {
            let leased_bytes = self.presence.lock().leases.bytes(Instant::now());
            let full = || StoreError::Full { needed_bytes, leased_bytes, capacity_bytes: self.capacity_bytes };
            if claimed.saturating_add(leased_bytes) > budget {
                return Err(full());
            }
            let full = full();
            self.flush_uses()?;
            let newest = self.totals.clock;
            let roomy = budget.saturating_sub(claimed).saturating_sub(budget / SLACK_SHARE);
            while self.charged() > roomy {
                if !self.evict_one(newest)? {
                    break;
                }
            }
            if self.charged().saturating_add(claimed) > budget {
                return Err(full);
            }
        }
        self.make_room_on_disk(needed_bytes)
    }

    fn make_room_on_disk(&mut self, needed_bytes: u64) -> Result<(), StoreError> {
        if self.fits_on_disk(needed_bytes, SPACE_BELIEVED)?.is_none() {
            return Ok(());
        }
        self.flush_uses()?;
        let newest = self.totals.clock;
        loop {
            let Some(full) = self.fits_on_disk(needed_bytes, Duration::ZERO)? else { return Ok(()) };
            if !self.evict_one(newest)? {
                return Err(full);
            }
        }
    }

    /// Why `needed_bytes` more do not fit on the disk, if they do not.
    fn fits_on_disk(&mut self, needed_bytes: u64, believed: Duration) -> Result<Option<StoreError>, StoreError> {
        let nothing_freed = self.space.freed_bytes == 0;
        let space = match self.space.asked {
            Some((asked, space)) if asked.elapsed() <= believed || !nothing_freed => space,
            _ => {
                let space = self.layout.space()?;
                self.space = DiskSpace { asked: Some((Instant::now(), space)), ..DiskSpace::default() };
                space
            }
        };
        let reserve_bytes = DISK_RESERVE_BYTES.min(space.total_bytes / 16);
        let available_bytes = space
            .available_bytes
            .saturating_add(self.space.freed_bytes)
            .saturating_sub(self.space.written_bytes)
            .saturating_sub(self.reserved_bytes);
        let fits = available_bytes.saturating_sub(needed_bytes) >= reserve_bytes;
        Ok((!fits).then_some(StoreError::DiskFull { needed_bytes, available_bytes, reserve_bytes }))
    }

    /// What everything takes from the capacity, in bytes.
    pub(super) fn charged(&self) -> u64 {
        self.totals.charged.saturating_add(self.packs.bytes())
    }

    /// What was freed is free once the files are gone: asks again next time.
    pub(super) fn doubt_space(&mut self) {
        if self.space.freed_bytes > 0 {
            self.space = DiskSpace::default();
        }
    }

    /// Evicts the entry that was not used for longest, among those used up to `newest`. Blobs that are leased stay, and so do results that
    /// point at one of them.
    pub(super) fn evict_one(&mut self, newest: i64) -> Result<bool, StoreError> {
        while let Some(candidate) = self.next_candidate(Cursor::default(), newest)? {
            match candidate {
                Candidate::Record { id, .. } if self.is_record_held(id)? => {
                    self.put_last("UPDATE records SET used = ? WHERE id = ?", id)?;
                }
                Candidate::Record { id, .. } => {
                    self.delete_record(id)?;
                    return Ok(true);
                }
                Candidate::Blob { digest, row, .. } if !self.presence.unlearn_unless_held(&digest) => {
                    self.put_last("UPDATE blobs SET used = ? WHERE id = ?", row.id)?;
                }
                Candidate::Blob { digest, row, .. } => {
                    self.evict(&digest, &row)?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What is held is used: out of the way of the next look, so that looks stay short.
    fn put_last(&mut self, update: &str, id: i64) -> Result<(), StoreError> {
        let used = self.tick();
        self.connection.prepare_cached(update)?.execute([used, id])?;
        Ok(())
    }

    /// The entry behind the cursor that was not used for longest, if it was used up to `newest`.
    pub(super) fn next_candidate(&self, cursor: Cursor, newest: i64) -> Result<Option<Candidate>, StoreError> {
        let blob = self.next_blob(cursor.blobs)?;
        let record = self.next_record(cursor.records)?;
        let first = match (blob, record) {
            (Some(blob), Some(record)) if record.used() < blob.used() => Some(record),
            (blob, record) => blob.or(record),
        };
        Ok(first.filter(|candidate| candidate.used() <= newest))
    }

    fn next_blob(&self, after: i64) -> Result<Option<Candidate>, StoreError> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT used, function, hash, size, id, copies, pack, offset FROM blobs WHERE used > ? ORDER BY used LIMIT 1",
            )?
            .query_row([after], |row| {
                let digest = digest_from(row.get(1)?, row.get(2)?, row.get(3)?)?;
                Ok(Candidate::Blob { used: row.get(0)?, digest, row: Row::from_columns(row, 4)? })
            })
            .optional()?)
    }

    fn evict(&mut self, digest: &Digest, row: &Row) -> Result<(), StoreError> {
        self.delete(row, digest)?;
        if row.place.is_none() {
            self.file_work.push((self.job, FileWork::Remove(*digest)));
        }
        self.evicted_blobs += 1;
        self.evicted_bytes += digest.size_bytes;
        Ok(())
    }

    /// Evicts entries that were not used for the configured age, if there is one; whether there may be more. Between batches only.
    pub(super) fn evict_aged(&mut self) -> bool {
        let Some(age) = self.age_max else { return false };
        let newest = now().saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let mut count = 0;
        self.begin_batch();
        self.attempt(|index| {
            index.flush_uses()?;
            while count < AGED_PER_TURN && index.evict_one(newest)? {
                count += 1;
            }
            Ok(())
        });
        self.commit_batch();
        count == AGED_PER_TURN
    }

    /// Notes that a place in a pack is free, and rewrites or drops the pack when that pays.
    pub(super) fn release_place(&mut self, place: Location, digest: &Digest) -> Result<(), StoreError> {
        self.packs.release(place.pack, digest);
        match self.packs.get(place.pack).map(|pack| pack.fate()) {
            None | Some(Fate::Stays) => {}
            Some(Fate::Goes) => self.drop_pack(place.pack),
            Some(Fate::Moves) => self.rewrite(place.pack)?,
        }
        Ok(())
    }

    fn drop_pack(&mut self, number: i64) {
        if let Some(pack) = self.packs.drop_pack(number) {
            self.space.note_freed(pack.size);
            self.moved_into.remove(&number);
            self.file_work.push((self.job, FileWork::RemovePack(number)));
            self.mark_dirty();
        }
    }

    /// Moves what is in use out of a pack and drops it.
    fn rewrite(&mut self, number: i64) -> Result<(), StoreError> {
        if self.packs.active() == Some(number) {
            self.packs.seal()?;
        }
        let bytes = match self.packs.read(number) {
            Err(error) if super::packs::is_absent(&error) => Vec::new(),
            read => read?,
        };
        for (digest, row) in self.rows_of_pack(number)? {
            let content = row.place.and_then(|place| {
                let start = usize::try_from(place.offset).ok()?;
                bytes.get(start..start.checked_add(usize::try_from(digest.size_bytes).ok()?)?)
            });
            let Some(content) = content.filter(|content| digest_of(digest.function, content) == digest) else {
                self.quarantined_blobs += 1;
                tracing::error!(%digest, "a stored blob does not verify");
                self.drop_row_of_pack(&row, &digest)?;
                continue;
            };
            let place = self.append(&digest, content)?;
            self.moved_into.insert(place.pack);
            self.connection.prepare_cached("UPDATE blobs SET pack = ?, offset = ? WHERE id = ?")?.execute([
                place.pack,
                place.offset.cast_signed(),
                row.id,
            ])?;
            self.forget_seen(&digest);
            self.packs.release(number, &digest);
            self.compacted_bytes += digest.size_bytes;
        }
        self.drop_pack(number);
        Ok(())
    }

    fn rows_of_pack(&self, number: i64) -> Result<Vec<(Digest, Row)>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT function, hash, size, id, copies, pack, offset FROM blobs WHERE pack = ? ORDER BY offset",
        )?;
        let rows = statement.query_map([number], |row| {
            Ok((digest_from(row.get(0)?, row.get(1)?, row.get(2)?)?, Row::from_columns(row, 3)?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Drops a pack and every row that points into it.
    pub(super) fn give_up_pack(&mut self, number: i64) -> Result<(), StoreError> {
        for (digest, row) in self.rows_of_pack(number)? {
            self.drop_row_of_pack(&row, &digest)?;
        }
        self.drop_pack(number);
        Ok(())
    }

    /// [`Self::delete`] for a row whose pack is about to go.
    fn drop_row_of_pack(&mut self, row: &Row, digest: &Digest) -> Result<(), StoreError> {
        // As if it had no place: the pack must not be looked at again from here.
        self.delete(&Row { place: None, copies: 1, ..*row }, digest)?;
        self.totals.charged += digest.size_bytes;
        if let Some(place) = row.place {
            self.packs.release(place.pack, digest);
        }
        Ok(())
    }
}
