//! One case as the scheduler sees it: an index and these few bytes.

use core::time::Duration;

use muster_model::Epoch;

use crate::event::CaseSeed;
use crate::tries::CaseTries;

/// Where a case is. Every case is in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaseState {
    /// Waits for an agent; has an entry in one of its target's queues.
    Queued,
    /// In one open lease.
    Leased,
    /// In two open leases, on different agents.
    LeasedTwice,
    /// Between two states; only ever inside the handling of one event.
    Loose,
    /// Has its outcome.
    Decided,
}

/// Must run in a process of its own.
const ALONE: u8 = 1;
/// Goes before everything of its target: failed last time, or is being tried again.
const URGENT: u8 = 2;
/// Failed, or was running when the process died, in company.
const FAILED_IN_COMPANY: u8 = 4;
/// History holds, or was told in this run, that it needs a process of its own.
const REMEMBERED: u8 = 8;
/// Ended well and alone, leaving nothing behind.
const CLEAN_ALONE: u8 = 16;

/// First of its group, in order of discovery.
const OPENS_GROUP: u8 = 32;

/// 16 bytes; with its 4 bytes in a queue's order, a queued case costs 20 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    /// Expected time in microseconds; [`u32::MAX`] when nothing is known.
    expected_micros: u32,
    /// Attempts in which it ran, or may have run.
    pub(crate) attempts: u16,
    /// Tries alone that failed.
    pub(crate) failed_tries: u16,
    /// Faults other than lost agents.
    pub(crate) faults: u8,
    /// Agents lost with it, before it came under suspicion.
    pub(crate) losses: u8,
    /// Agents lost with it running alone, as a suspect.
    pub(crate) losses_alone: u8,
    /// Agents lost with it before they said that they had started.
    pub(crate) losses_uncharged: u8,
    flags: u8,
    pub(crate) state: CaseState,
}

impl Case {
    pub(crate) fn new(seed: &CaseSeed, always_alone: bool) -> Self {
        let mut flags = 0;
        if always_alone || seed.needs_alone {
            flags |= ALONE;
        }
        if seed.needs_alone {
            flags |= REMEMBERED;
        }
        if seed.failed_last {
            flags |= URGENT;
        }
        if seed.opens_group {
            flags |= OPENS_GROUP;
        }
        let tries = &seed.tries;
        if tries.alone {
            flags |= ALONE | URGENT;
        }
        if tries.failed_in_company.is_some() {
            flags |= FAILED_IN_COMPANY;
        }
        Self {
            expected_micros: seed.expected.map_or(u32::MAX, known_micros),
            attempts: tries.attempts,
            failed_tries: tries.failed_tries,
            faults: tries.faults,
            losses: tries.losses,
            losses_alone: tries.losses_alone,
            losses_uncharged: tries.losses_uncharged,
            flags,
            state: if seed.decided.is_some() { CaseState::Decided } else { CaseState::Loose },
        }
    }

    /// What has been charged to it.
    pub(crate) fn tries(&self, failed_in_company: Option<Epoch>) -> CaseTries {
        CaseTries {
            attempts: self.attempts,
            failed_tries: self.failed_tries,
            faults: self.faults,
            losses: self.losses,
            losses_alone: self.losses_alone,
            losses_uncharged: self.losses_uncharged,
            alone: self.is_alone(),
            failed_in_company,
        }
    }

    /// Higher goes first: failed before unknown before long before short.
    pub(crate) fn priority(&self) -> u32 {
        if self.flags & URGENT != 0 { u32::MAX } else { self.expected_micros.min(u32::MAX - 1) }
    }

    /// Its expected time, if anything is known.
    pub(crate) fn expected(&self) -> Option<Duration> {
        (self.expected_micros != u32::MAX).then(|| Duration::from_micros(self.expected_micros.into()))
    }

    pub(crate) fn opens_group(&self) -> bool {
        self.flags & OPENS_GROUP != 0
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.flags & ALONE != 0
    }

    pub(crate) fn is_remembered(&self) -> bool {
        self.flags & REMEMBERED != 0
    }

    pub(crate) fn has_failed_in_company(&self) -> bool {
        self.flags & FAILED_IN_COMPANY != 0
    }

    pub(crate) fn is_clean_alone(&self) -> bool {
        self.flags & CLEAN_ALONE != 0
    }

    /// Whether it may take agents down with it, so that nothing may travel in its shard.
    pub(crate) fn is_suspect(&self) -> bool {
        self.losses > 0
    }

    /// From now on in a process of its own, and before everything else of its target.
    pub(crate) fn send_alone(&mut self) {
        self.flags |= ALONE | URGENT;
    }

    pub(crate) fn mark_alone(&mut self) {
        self.flags |= ALONE;
    }

    pub(crate) fn mark_failed_in_company(&mut self) {
        self.flags |= FAILED_IN_COMPANY;
    }

    pub(crate) fn set_remembered(&mut self, needs_alone: bool) {
        if needs_alone {
            self.flags |= REMEMBERED;
        } else {
            self.flags &= !REMEMBERED;
        }
    }

    pub(crate) fn mark_clean_alone(&mut self) {
        self.flags |= CLEAN_ALONE;
    }
}

fn known_micros(expected: Duration) -> u32 {
    u32::try_from(expected.as_micros()).unwrap_or(u32::MAX).min(u32::MAX - 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_sixteen_bytes() {
        assert_eq!(size_of::<Case>(), 16);
    }

    #[test]
    fn failed_goes_before_unknown_before_long_before_short() {
        let priority = |expected: Option<u64>, failed_last| {
            let seed = CaseSeed { expected: expected.map(Duration::from_secs), failed_last, ..CaseSeed::default() };
            Case::new(&seed, false).priority()
        };
        let order =
            [priority(Some(1), true), priority(None, false), priority(Some(u64::MAX), false), priority(Some(1), false)];
        assert!(order.windows(2).all(|pair| pair[0] > pair[1]), "{order:?}");
    }
}
