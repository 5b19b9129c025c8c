//! Which blobs must not be evicted: held by guards, or for a time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use muster_model::Digest;

/// The leases of one store. The owner asks before it evicts; nothing here knows the index.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: HashMap<Digest, Held>,
    /// Ends of timed leases in order, at most one entry per digest: a later end found at expiry is queued again.
    ends: VecDeque<(Instant, Digest)>,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Held {
    guards: u32,
    until: Option<Instant>,
    charge: u64,
}

impl Leases {
    /// Holds a blob until [`Self::release`] has been called as often as this.
    pub(super) fn hold(&mut self, digest: Digest, charge: u64) {
        self.entry(digest, charge).guards += 1;
    }

    /// Gives back one [`Self::hold`].
    pub(super) fn release(&mut self, digest: &Digest) {
        if let Some(held) = self.held.get_mut(digest) {
            held.guards = held.guards.saturating_sub(1);
            self.drop_if_free(digest);
        }
    }

    /// Holds a blob for `time` from `now`, or longer if it is held longer already. Callers always pass the same `time`.
    pub(super) fn hold_for(&mut self, digest: Digest, charge: u64, now: Instant, time: Duration) {
        if time.is_zero() {
            return;
        }
        let end = now + time;
        let held = self.entry(digest, charge);
        let queued = held.until.is_some();
        held.until = held.until.max(Some(end));
        if !queued {
            self.ends.push_back((end, digest));
        }
    }

    /// Whether a blob is held at `now`.
    pub(super) fn is_held(&mut self, digest: &Digest, now: Instant) -> bool {
        self.expire(now);
        self.held.contains_key(digest)
    }

    /// What the held blobs are charged with, in bytes.
    pub(super) fn bytes(&mut self, now: Instant) -> u64 {
        self.expire(now);
        self.bytes
    }

    /// Changes what a blob is charged with, if it is held.
    pub(super) fn recharge(&mut self, digest: &Digest, charge: u64) {
        if let Some(held) = self.held.get_mut(digest) {
            self.bytes = self.bytes - held.charge + charge;
            held.charge = charge;
        }
    }

    /// How many blobs are held.
    pub(super) fn count(&mut self, now: Instant) -> usize {
        self.expire(now);
        self.held.len()
    }

    /// Forgets a blob that is gone whether or not it was held; later releases of it do nothing.
    pub(super) fn forget(&mut self, digest: &Digest) {
        if let Some(held) = self.held.remove(digest) {
            self.bytes -= held.charge;
        }
    }

    fn entry(&mut self, digest: Digest, charge: u64) -> &mut Held {
        self.held.entry(digest).or_insert_with(|| {
            self.bytes += charge;
            Held { charge, ..Held::default() }
        })
    }

    fn expire(&mut self, now: Instant) {
        while let Some((end, digest)) = self.ends.front().copied() {
            if end > now {
                return;
            }
            self.ends.pop_front();
            let Some(held) = self.held.get_mut(&digest) else { continue };
            match held.until {
                Some(until) if until > now => self.ends.push_back((until, digest)),
                _ => {
                    held.until = None;
                    self.drop_if_free(&digest);
                }
            }
        }
    }

    fn drop_if_free(&mut self, digest: &Digest) {
        if self.held.get(digest).is_some_and(|held| held.guards == 0 && held.until.is_none()) {
            self.forget(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    #[test]
    fn a_timed_lease_ends_and_a_renewed_one_ends_later() {
        let mut leases = Leases::default();
        let start = Instant::now();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        leases.hold_for(one, 5, start, TIME);
        leases.hold_for(two, 7, start, TIME);
        leases.hold_for(one, 5, start + TIME / 2, TIME);
        assert_eq!(leases.bytes(start), 12);
        assert!(leases.is_held(&one, start + TIME));
        assert!(!leases.is_held(&two, start + TIME));
        assert!(!leases.is_held(&one, start + TIME * 3 / 2));
        assert_eq!((leases.bytes(start + TIME * 2), leases.ends.len()), (0, 0));
    }

    #[test]
    fn a_guard_outlives_the_time_and_guards_are_counted() {
        let mut leases = Leases::default();
        let start = Instant::now();
        let one = Digest::of(b"1");
        leases.hold(one, 5);
        leases.hold(one, 5);
        leases.hold_for(one, 5, start, TIME);
        leases.release(&one);
        assert!(leases.is_held(&one, start + TIME * 2));
        leases.release(&one);
        assert!(!leases.is_held(&one, start + TIME * 2));
        leases.release(&one);
        assert_eq!(leases.bytes(start + TIME * 2), 0);
    }
}
