//! What is known to be here without asking the index: leases, and the rows that were looked up last.
//!
//! Whoever asks whether a blob is here, or where, looks here first, on its own thread. The thread of the index changes both under the same
//! lock: a blob that it is about to evict is either leased by then, and stays, or no longer known, and whoever asks next asks the index.
//!
//! Architecture Invariant: a row is known only after the batch in which it was seen is committed, and not known from the moment at which
//! its removal is decided.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muster_model::Digest;
use muster_model::limits::KNOWN_BLOBS_MAX;

use super::index::Row;
use super::leases::Leases;

/// Uses that are remembered here before the thread of the index is asked to take them.
const USES_WAITING_MAX: usize = 4096;
/// Digests looked at under one lock.
const LOCKED_LOOKS_MAX: usize = 1024;

/// Shared by the store and the thread of its index.
#[derive(Debug)]
pub(super) struct Presence {
    state: Mutex<State>,
    lease_time: Duration,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) leases: Leases,
    known: Known,
    uses: Vec<i64>,
}

/// The rows looked up last, in two halves: when the young one is full it becomes the old one.
#[derive(Debug, Default)]
struct Known {
    young: HashMap<Digest, Row>,
    old: HashMap<Digest, Row>,
}

impl Known {
    fn get(&mut self, digest: &Digest) -> Option<Row> {
        if let Some(row) = self.young.get(digest) {
            return Some(*row);
        }
        let row = self.old.remove(digest)?;
        self.insert(*digest, row);
        Some(row)
    }

    fn insert(&mut self, digest: Digest, row: Row) {
        if self.young.len() >= KNOWN_BLOBS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, row);
    }

    fn remove(&mut self, digest: &Digest) {
        self.young.remove(digest);
        self.old.remove(digest);
    }
}

impl Presence {
    pub(super) fn new(lease_time: Duration) -> Self {
        Self { state: Mutex::default(), lease_time }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a blob stays after it was said to be here.
    pub(super) fn lease_time(&self) -> Duration {
        self.lease_time
    }

    /// Leases those of `digests` that are known to be here, and answers which are not. Says too whether [`Self::take_uses`] is due.
    pub(super) fn confirm(&self, digests: &[Digest]) -> (Vec<Digest>, bool) {
        let mut unknown = Vec::new();
        let mut due = false;
        for digests in digests.chunks(LOCKED_LOOKS_MAX) {
            let mut state = self.lock();
            let now = Instant::now();
            for digest in digests {
                match state.known.get(digest) {
                    Some(row) => {
                        state.leases.hold_for(*digest, row.held_charge(digest), now, self.lease_time);
                        state.uses.push(row.id);
                    }
                    None => unknown.push(*digest),
                }
            }
            due = state.uses.len() >= USES_WAITING_MAX;
        }
        (unknown, due)
    }

    /// Where blobs are, as far as it is known; they count as used.
    pub(super) fn find(&self, digests: &[Digest]) -> (Vec<Option<Row>>, bool) {
        let mut rows = Vec::with_capacity(digests.len());
        let mut due = false;
        for digests in digests.chunks(LOCKED_LOOKS_MAX) {
            let mut state = self.lock();
            for digest in digests {
                let row = state.known.get(digest);
                state.uses.extend(row.map(|row| row.id));
                rows.push(row);
            }
            due = state.uses.len() >= USES_WAITING_MAX;
        }
        (rows, due)
    }

    /// The rows used since this was asked last, in their order.
    pub(super) fn take_uses(&self) -> Vec<i64> {
        std::mem::take(&mut self.lock().uses)
    }

    /// Makes rows known.
    pub(super) fn learn(&self, rows: impl IntoIterator<Item = (Digest, Row)>) {
        let mut state = self.lock();
        for (digest, row) in rows {
            state.known.insert(digest, row);
        }
    }

    /// Makes a row unknown: it changes or goes.
    pub(super) fn unlearn(&self, digest: &Digest) {
        self.lock().known.remove(digest);
    }

    /// Makes a row unknown unless its blob is leased, which it answers: from then on nobody can lease it without asking the index.
    pub(super) fn unlearn_unless_held(&self, digest: &Digest) -> bool {
        let mut state = self.lock();
        if state.leases.is_held(digest, Instant::now()) {
            return false;
        }
        state.known.remove(digest);
        true
    }

    /// Makes everything unknown.
    pub(super) fn unlearn_all(&self) {
        let mut state = self.lock();
        state.known = Known::default();
        state.uses.clear();
    }
}
