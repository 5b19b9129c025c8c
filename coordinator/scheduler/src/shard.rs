//! How much work travels in one shard: guided self-scheduling (Polychronopoulos and Kuck, 1987) by expected time.

use alloc::vec::Vec;
use core::time::Duration;

use muster_model::CaseIndex;

use crate::Config;

/// Queued work that agents of one kind can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Cases queued.
    pub(crate) cases: u32,
    /// Those of them whose time is unknown.
    pub(crate) unknown: u32,
    /// Time of the others together, in microseconds.
    pub(crate) known_micros: u64,
}

impl Load {
    pub(crate) fn add(&mut self, expected: Option<Duration>) {
        self.cases += 1;
        match expected {
            Some(time) => self.known_micros += time.as_micros() as u64,
            None => self.unknown += 1,
        }
    }

    pub(crate) fn remove(&mut self, expected: Option<Duration>) {
        self.cases -= 1;
        match expected {
            Some(time) => self.known_micros -= time.as_micros() as u64,
            None => self.unknown -= 1,
        }
    }

    /// All of it, with `estimate` for each unknown case.
    pub(crate) fn expected(&self, estimate: Duration) -> Duration {
        Duration::from_micros(self.known_micros) + estimate.saturating_mul(self.unknown)
    }
}

/// The running mean of finished cases.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    sum: Duration,
    count: u32,
}

impl Mean {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.sum = self.sum.saturating_add(duration);
        self.count = self.count.saturating_add(1);
    }

    pub(crate) fn get(&self) -> Option<Duration> {
        (self.count > 0).then(|| self.sum / self.count)
    }
}

/// Bounds on the next shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardSize {
    /// No case is added once the shard's expected time has reached this.
    pub(crate) time: Duration,
    /// Cases at most.
    pub(crate) cases: usize,
}

/// A shard being filled.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) cases: Vec<CaseIndex>,
    pub(crate) expected: Duration,
    size: ShardSize,
    /// What a case of unknown time is taken for.
    estimate: Duration,
}

impl Shard {
    pub(crate) fn new(size: ShardSize, estimate: Duration) -> Self {
        Self { cases: Vec::new(), expected: Duration::ZERO, size, estimate }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.cases.len() >= self.size.cases || self.expected >= self.size.time
    }

    pub(crate) fn add(&mut self, case: CaseIndex, time: Option<Duration>) {
        self.cases.push(case);
        self.expected += time.unwrap_or(self.estimate);
    }
}

/// How many times its overhead a shard takes at least.
const OVERHEAD_TIMES_MIN: u32 = 2;
/// How many times its overhead a shard may take at most, where that is more than is configured.
const OVERHEAD_TIMES_MAX: u32 = 10;

/// The size of the next shard of `load` over `slots`.
///
/// A half of each slot's share of what is left, so that shards shrink towards the end and the slots finish together, but not below what makes
/// up for `overhead`: what a shard of this target takes besides its cases, such as the start of an interpreter. `learned` is the estimate for
/// unknown cases; without one the count is bounded as well, because a guess may be off by orders of magnitude.
pub(crate) fn size(
    config: &Config,
    load: &Load,
    slots: u32,
    learned: Option<Duration>,
    overhead: Duration,
) -> ShardSize {
    let slots = slots.max(1);
    let left = load.expected(learned.unwrap_or(config.unknown_case_time));
    let most = config.shard_time_max.max(overhead * OVERHEAD_TIMES_MAX);
    let least = config.shard_time_min.max(overhead * OVERHEAD_TIMES_MIN).min(most);
    let time = (left / slots.saturating_mul(2)).clamp(least, most);
    let mut cases = config.shard_cases_max;
    if learned.is_none() && load.unknown > 0 {
        let exploring = (load.cases / slots.saturating_mul(8)) as usize;
        cases = cases.min(exploring.max(4).min(config.shard_unknown_cases_max));
    }
    ShardSize { time, cases: cases.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(cases: u32, seconds: u64) -> Load {
        Load { cases, unknown: 0, known_micros: seconds * 1_000_000 }
    }

    #[test]
    fn shards_shrink_towards_the_end_within_their_bounds() {
        let config = Config::default();
        let time = |seconds| size(&config, &known(100, seconds), 10, None, Duration::ZERO).time;
        assert_eq!(time(1000), config.shard_time_max);
        assert_eq!(time(20), Duration::from_secs(1));
        assert_eq!(time(0), config.shard_time_min);
    }

    #[test]
    fn shards_of_unknown_cases_are_small_until_something_is_learned() {
        let config = Config::default();
        let load = Load { cases: 1000, unknown: 1000, known_micros: 0 };
        let cases = |slots, learned| size(&config, &load, slots, learned, Duration::ZERO).cases;
        assert_eq!(cases(25, None), 5);
        assert_eq!(cases(1, None), config.shard_unknown_cases_max);
        assert_eq!(cases(25, Some(Duration::from_millis(1))), config.shard_cases_max);
    }

    #[test]
    fn a_shard_makes_up_for_what_it_costs_besides_its_cases() {
        let config = Config::default();
        let time =
            |seconds, overhead| size(&config, &known(100, seconds), 10, None, Duration::from_secs(overhead)).time;
        assert_eq!(time(0, 1), Duration::from_secs(2));
        assert_eq!(time(1000, 1), Duration::from_secs(10));
        assert_eq!(time(80, 1), Duration::from_secs(4));
    }
}
