//! What a collection would take out, without taking it out: the same steps as in [`super::eviction`], on sums instead of rows.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use muster_model::Digest;
use rusqlite::OptionalExtension;

use super::collect::{COLLECTED_PER_TURN, CollectGoal, Collected};
use super::index::{ENTRY_BYTES, Index, Row, digest_from, file_charge};
use super::packs::{HEADER_BYTES, Pack, footprint};
use super::records;
use crate::StoreError;

/// The number of the pack into which everything goes that would be moved; real ones are times, and positive.
const MOVED: i64 = -1;

/// A collection that is thought through, some entries at a time.
#[derive(Debug)]
pub(super) struct Foresight {
    goal: CollectGoal,
    /// The store's clock when it was begun: what is used after that stays.
    newest: i64,
    /// The uses up to which blobs and results were looked at.
    blobs_until: i64,
    records_until: i64,
    packs: HashMap<i64, Pack>,
    moved: HashSet<i64>,
    gone_records: HashSet<i64>,
    collected: Collected,
    done: bool,
}

impl Foresight {
    /// Whether there is nothing more to look at.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// What would go, as far as it was looked at.
    pub(super) fn collected(&self) -> Collected {
        self.collected
    }

    fn uncharge(&mut self, bytes: u64) {
        self.collected.charged_bytes = self.collected.charged_bytes.saturating_sub(bytes);
    }

    fn drop_record(&mut self, id: i64, payload_bytes: u64) {
        if self.gone_records.insert(id) {
            self.collected.records += 1;
            self.uncharge(records::charge(payload_bytes));
        }
    }

    fn drop_blob(&mut self, digest: &Digest, row: &Row) {
        self.collected.blobs += 1;
        self.collected.bytes += digest.size_bytes;
        match row.place {
            None => self.uncharge(file_charge(digest, row.copies)),
            Some(place) => {
                self.uncharge(ENTRY_BYTES);
                self.release(if self.moved.contains(&place.pack) { MOVED } else { place.pack }, footprint(digest));
            }
        }
    }

    /// As when a place in a pack becomes free: the pack goes, or what is in use moves, when that pays.
    fn release(&mut self, number: i64, bytes: u64) {
        let Some(pack) = self.packs.get_mut(&number) else { return };
        pack.live = pack.live.saturating_sub(bytes);
        let Pack { size, live } = *pack;
        if live > 0 && live.saturating_mul(2) > size.saturating_sub(HEADER_BYTES) {
            return;
        }
        self.packs.remove(&number);
        self.uncharge(size);
        if live > 0 {
            let target = self.packs.entry(MOVED).or_insert(Pack { size: 0, live: 0 });
            target.size += live;
            target.live += live;
            self.collected.charged_bytes += live;
            self.moved.insert(number);
        }
    }
}

impl Index {
    pub(super) fn start_foresight(&mut self, goal: CollectGoal) -> Result<Foresight, StoreError> {
        self.flush_uses()?;
        let mut state = self.presence.lock();
        let now = Instant::now();
        Ok(Foresight {
            goal,
            newest: self.totals.clock,
            blobs_until: i64::MIN,
            records_until: i64::MIN,
            packs: self.packs.numbers().collect(),
            moved: HashSet::new(),
            gone_records: HashSet::new(),
            collected: Collected {
                charged_bytes: self.charged(),
                leased_blobs: state.leases.count(now) as u64,
                leased_bytes: state.leases.bytes(now),
                ..Collected::default()
            },
            done: false,
        })
    }

    /// Looks at the next entries.
    pub(super) fn look_ahead(&mut self, mut foresight: Foresight) -> Result<Foresight, StoreError> {
        for _ in 0..COLLECTED_PER_TURN {
            let evictable = foresight.goal.evictable(foresight.collected.charged_bytes, foresight.newest);
            if !evictable.map_or(Ok(false), |used| self.foresee_one(&mut foresight, used))? {
                foresight.done = true;
                break;
            }
        }
        Ok(foresight)
    }

    /// Looks at the next entry, if it was used up to `newest`: whether there was one.
    fn foresee_one(&mut self, foresight: &mut Foresight, newest: i64) -> Result<bool, StoreError> {
        let blob = self.next_blob(foresight.blobs_until)?.filter(|(used, ..)| *used <= newest);
        let record = self.next_record(foresight.records_until)?.filter(|(used, ..)| *used <= newest);
        match (blob, record) {
            (None, None) => return Ok(false),
            (blob, Some((used, id, payload_bytes)))
                if blob.as_ref().is_none_or(|(blob_used, ..)| used < *blob_used) =>
            {
                foresight.records_until = used;
                foresight.drop_record(id, payload_bytes);
            }
            (Some((used, digest, row)), _) => {
                foresight.blobs_until = used;
                if !self.presence.lock().leases.is_held(&digest, Instant::now()) {
                    for (id, payload_bytes) in self.records_of(row.id)? {
                        foresight.drop_record(id, payload_bytes);
                    }
                    foresight.drop_blob(&digest, &row);
                }
            }
            (None, Some(_)) => {}
        }
        Ok(true)
    }

    fn next_blob(&self, after: i64) -> Result<Option<(i64, Digest, Row)>, StoreError> {
        Ok(self
            .connection
            .prepare_cached(
                "SELECT used, function, hash, size, id, copies, pack, offset FROM blobs WHERE used > ? ORDER BY used LIMIT 1",
            )?
            .query_row([after], |row| {
                let digest = digest_from(row.get(1)?, row.get(2)?, row.get(3)?)?;
                Ok((row.get(0)?, digest, Row::from_columns(row, 4)?))
            })
            .optional()?)
    }

    /// The next result: when it was used, its id, and the bytes of its payload.
    fn next_record(&self, after: i64) -> Result<Option<(i64, i64, u64)>, StoreError> {
        Ok(self
            .connection
            .prepare_cached("SELECT used, id, length(payload) FROM records WHERE used > ? ORDER BY used LIMIT 1")?
            .query_row([after], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned())))
            .optional()?)
    }

    /// The results that point at a blob: their ids, and the bytes of their payloads.
    fn records_of(&self, blob: i64) -> Result<Vec<(i64, u64)>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT DISTINCT id, length(payload) FROM record_references JOIN records ON records.id = record WHERE blob = ?",
        )?;
        let rows = statement.query_map([blob], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
