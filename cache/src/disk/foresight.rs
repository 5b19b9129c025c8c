//! What a collection would take out, without taking it out: what goes next, and when a pack pays, is asked of [`super::eviction`] and
//! [`super::packs`]; here sums change instead of rows.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use muster_model::Digest;

use super::collect::{COLLECTED_PER_TURN, CollectGoal, Collected};
use super::eviction::{Candidate, Cursor};
use super::index::{Index, Row};
use super::packs::{Fate, Pack, footprint};
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
    cursor: Cursor,
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
        self.uncharge(row.charge(digest));
        if let Some(place) = row.place {
            self.release(if self.moved.contains(&place.pack) { MOVED } else { place.pack }, footprint(digest));
        }
    }

    /// As when a place in a pack becomes free.
    fn release(&mut self, number: i64, bytes: u64) {
        let Some(pack) = self.packs.get_mut(&number) else { return };
        pack.live = pack.live.saturating_sub(bytes);
        let (Pack { size, live }, fate) = (*pack, pack.fate());
        if fate == Fate::Stays {
            return;
        }
        self.packs.remove(&number);
        self.uncharge(size);
        if fate == Fate::Moves {
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
            cursor: Cursor::default(),
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
        let Some(candidate) = self.next_candidate(foresight.cursor, newest)? else { return Ok(false) };
        foresight.cursor.pass(&candidate);
        match candidate {
            Candidate::Record { id, payload_bytes, .. } => {
                if !self.is_record_held(id)? {
                    foresight.drop_record(id, payload_bytes);
                }
            }
            Candidate::Blob { digest, row, .. } => {
                if !self.presence.lock().leases.is_held(&digest, Instant::now()) {
                    for (id, payload_bytes) in self.records_of(row.id)? {
                        foresight.drop_record(id, payload_bytes);
                    }
                    foresight.drop_blob(&digest, &row);
                }
            }
        }
        Ok(true)
    }
}
