//! Taking things out on request: by size, by age, by name.

use std::time::{Duration, Instant};

use muster_model::Digest;
use muster_model::key::ActionKey;
use rusqlite::OptionalExtension;

use super::DiskStore;
use super::index::{Index, now};
use crate::StoreError;

/// Entries evicted in one turn of the index, so that others get theirs.
pub(super) const COLLECTED_PER_TURN: u64 = 256;

/// Until when to evict what was not used for longest: as long as either of the two asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollectGoal {
    /// Everything together takes more than so many bytes of the capacity.
    pub charged_bytes_max: Option<u64>,
    /// There is an entry that was not used for so long.
    pub unused_for: Option<Duration>,
}

impl CollectGoal {
    /// Down to so many bytes, however old what goes is.
    pub fn size(charged_bytes_max: u64) -> Self {
        Self { charged_bytes_max: Some(charged_bytes_max), unused_for: None }
    }

    /// The newest use, on the store's clock, that may be evicted while this much is taken; none when the goal is reached. `newest` is the
    /// clock at the start.
    pub(super) fn evictable(&self, charged_bytes: u64, newest: i64) -> Option<i64> {
        if self.charged_bytes_max.is_some_and(|most| charged_bytes > most) {
            return Some(newest);
        }
        let age = self.unused_for?;
        Some(now().saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)).min(newest))
    }
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
    /// Blobs that can't be evicted now because they are leased.
    pub leased_blobs: u64,
    /// What they keep from being freed, in bytes of the capacity.
    pub leased_bytes: u64,
}

impl DiskStore {
    /// Evicts what was not used for longest, until the goal is reached or only leased blobs are left.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] when the index can't be written.
    pub async fn collect(&self, goal: CollectGoal) -> Result<Collected, StoreError> {
        let mut total = Collected::default();
        loop {
            let turn = self.index.call(move |index| index.collect(goal)).await?;
            total = Collected {
                blobs: total.blobs + turn.blobs,
                bytes: total.bytes + turn.bytes,
                records: total.records + turn.records,
                ..turn
            };
            if turn.blobs + turn.records == 0 {
                return Ok(total);
            }
        }
    }

    /// What [`Self::collect`] would do now, without doing it. How full packs are after it is foreseen as if all that is moved went into one
    /// of them, so where small blobs go the bytes that are taken then may differ by what one pack holds.
    ///
    /// # Errors
    ///
    /// [`StoreError::Index`] when the index can't be read.
    pub async fn foresee(&self, goal: CollectGoal) -> Result<Collected, StoreError> {
        let mut foresight = self.index.call(move |index| index.start_foresight(goal)).await?;
        while !foresight.is_done() {
            foresight = self.index.call(move |index| index.look_ahead(foresight)).await?;
        }
        Ok(foresight.collected())
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
    fn collect(&mut self, goal: CollectGoal) -> Result<Collected, StoreError> {
        self.counting(|index| {
            index.flush_uses()?;
            let newest = index.totals.clock;
            for _ in 0..COLLECTED_PER_TURN {
                let Some(used) = goal.evictable(index.charged(), newest) else { break };
                if !index.evict_one(used)? {
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
        let mut state = self.presence.lock();
        let now = Instant::now();
        Ok(Collected {
            blobs: before.blobs - self.totals.blobs,
            bytes: before.bytes - self.totals.bytes,
            records: before.records - self.totals.records,
            charged_bytes: self.charged(),
            leased_blobs: state.leases.count(now) as u64,
            leased_bytes: state.leases.bytes(now),
        })
    }
}
