//! Where a run's time went.
//!
//! # Definition
//!
//! A run has `slots` slots for `wall`. No schedule beats the *lower bound*: the longest case, or all execution spread evenly over
//! the slots, whichever is longer. (Where copies ran, their execution counts too; the bound never exceeds `wall`.) *Efficiency* is
//! the lower bound divided by `wall`.
//!
//! The *loss*, `wall` less the lower bound, is split by what the slots did instead of executing, in slot time:
//!
//! - *transfer* and *environment*: as the attempts report them;
//! - *tail*: slots idle after the last attempt was assigned, when there was nothing left to give them;
//! - *dispatch*: slots idle before that, although there was something left.
//!
//! Where spreading evenly is the bound, these divided by `slots` are exactly the loss. Where the longest case is, the loss is smaller,
//! and each part is scaled down alike. The parts are rounded so that they add up to the loss exactly.

use core::time::Duration;

/// One attempt that is over. The first three are times since the start of the run; an attempt need not have run to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptFacts {
    /// When its work could have been given to somebody.
    pub queued: Duration,
    /// When it was given to an agent.
    pub assigned: Duration,
    /// When its report came.
    pub finished: Duration,
    /// Fetching and staging inputs, by the agent's clock.
    pub transfer: Duration,
    /// Making and cleaning the environment, by the agent's clock.
    pub environment: Duration,
    /// From the start of the program to its end, by the agent's clock.
    pub execution: Duration,
    /// Its longest case.
    pub longest_case: Duration,
}

/// A run's wall time and what it consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Efficiency {
    /// From the run's start to its end.
    pub wall: Duration,
    /// What no schedule on these slots could beat.
    pub lower_bound: Duration,
    /// How `wall - lower_bound` came about.
    pub loss: Loss,
}

/// What time was lost to. The parts add up to the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Idle slots when nothing was left to be given out.
    pub tail: Duration,
    /// Idle slots before that.
    pub dispatch: Duration,
    /// Fetching and staging inputs.
    pub transfer: Duration,
    /// Making and cleaning environments.
    pub environment: Duration,
}

impl Efficiency {
    /// Of a run that took `wall` on `slots` slots; no slot counts as one.
    pub fn new(wall: Duration, slots: u32, attempts: &[AttemptFacts]) -> Self {
        let slots = u128::from(slots.max(1));
        let total =
            |part: fn(&AttemptFacts) -> Duration| attempts.iter().map(|facts| part(facts).as_nanos()).sum::<u128>();
        let execution = total(|facts| facts.execution);
        let longest = attempts.iter().map(|facts| facts.longest_case.as_nanos()).max().unwrap_or_default();
        let lower_bound = longest.max(execution / slots).min(wall.as_nanos());
        let (tail, dispatch) = idle(wall.as_nanos(), slots, attempts);
        let weights = [tail, dispatch, total(|facts| facts.transfer), total(|facts| facts.environment)];
        let [tail, dispatch, transfer, environment] = split(wall.as_nanos() - lower_bound, weights).map(nanos);
        Self { wall, lower_bound: nanos(lower_bound), loss: Loss { tail, dispatch, transfer, environment } }
    }

    /// The lower bound's share of the wall time, in `0.0..=1.0`; 1 for a run that took no time.
    pub fn ratio(&self) -> f64 {
        if self.wall.is_zero() { 1.0 } else { self.lower_bound.as_secs_f64() / self.wall.as_secs_f64() }
    }
}

impl Loss {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.tail + self.dispatch + self.transfer + self.environment
    }
}

/// Idle slot time after and before the last assignment.
fn idle(wall: u128, slots: u128, attempts: &[AttemptFacts]) -> (u128, u128) {
    let dry = attempts.iter().map(|facts| facts.assigned.as_nanos()).max().unwrap_or(wall).min(wall);
    let (mut before, mut after) = (0, 0);
    for facts in attempts {
        let end = facts.finished.as_nanos().min(wall);
        let busy = facts.transfer.as_nanos() + facts.environment.as_nanos() + facts.execution.as_nanos();
        let start = end.saturating_sub(busy);
        before += end.min(dry).saturating_sub(start);
        after += end.saturating_sub(start.max(dry));
    }
    ((slots * (wall - dry)).saturating_sub(after), (slots * dry).saturating_sub(before))
}

/// Splits `loss` in the proportion of the weights; what rounding leaves goes to the largest, and everything to dispatch if there are none.
fn split(loss: u128, weights: [u128; 4]) -> [u128; 4] {
    let sum: u128 = weights.iter().sum();
    if sum == 0 {
        return [0, loss, 0, 0];
    }
    let mut parts = weights.map(|weight| mul_div(loss, weight, sum));
    let rest = loss - parts.iter().sum::<u128>();
    let largest = (0..4).max_by_key(|&part| weights[part]).unwrap_or_default();
    parts[largest] += rest;
    parts
}

/// `value * weight / sum`, rounded down, where `weight <= sum`. Loses some of its precision before it overflows.
fn mul_div(value: u128, weight: u128, sum: u128) -> u128 {
    let shift = (128 - sum.leading_zeros()).saturating_sub(63);
    value.saturating_mul(weight >> shift) / ((sum >> shift) + u128::from(shift > 0))
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const SECOND: Duration = Duration::from_secs(1);

    fn facts(assigned: u32, finished: u32, execution: u32) -> AttemptFacts {
        AttemptFacts {
            assigned: SECOND * assigned,
            finished: SECOND * finished,
            execution: SECOND * execution,
            longest_case: SECOND,
            ..AttemptFacts::default()
        }
    }

    #[test]
    fn a_full_fleet_loses_nothing() {
        let efficiency = Efficiency::new(SECOND * 4, 2, &[facts(0, 4, 4), facts(0, 4, 4)]);
        assert_eq!(efficiency.lower_bound, SECOND * 4);
        assert_eq!(efficiency.loss, Loss::default());
    }

    #[test]
    fn slots_idle_at_the_end_are_tail_and_slots_idle_before_are_dispatch() {
        let efficiency = Efficiency::new(SECOND * 8, 2, &[facts(0, 2, 2), facts(4, 8, 4)]);
        assert_eq!(efficiency.lower_bound, SECOND * 3);
        assert_eq!((efficiency.loss.tail, efficiency.loss.dispatch), (SECOND * 2, SECOND * 3));
    }

    #[test]
    fn the_longest_case_bounds_what_more_slots_can_do() {
        let long = AttemptFacts { longest_case: SECOND * 6, ..facts(0, 6, 6) };
        let efficiency = Efficiency::new(SECOND * 6, 4, &[long, facts(0, 1, 1)]);
        assert_eq!(efficiency.lower_bound, SECOND * 6);
        assert_eq!(efficiency.ratio(), 1.0);
    }

    fn any_facts() -> impl Strategy<Value = AttemptFacts> {
        let time = || (0_u64..1 << 40).prop_map(Duration::from_nanos);
        (time(), time(), time(), time(), time(), time(), time()).prop_map(|times| AttemptFacts {
            queued: times.0,
            assigned: times.1,
            finished: times.2,
            transfer: times.3,
            environment: times.4,
            execution: times.5,
            longest_case: times.6,
        })
    }

    proptest! {
        #[test]
        fn the_parts_add_up_to_the_loss_whatever_agents_say(
            wall in 0_u64..1 << 41, slots in 0_u32..2000, attempts in proptest::collection::vec(any_facts(), 0..20),
        ) {
            let attempts: Vec<AttemptFacts> = attempts;
            let efficiency = Efficiency::new(Duration::from_nanos(wall), slots, &attempts);
            prop_assert_eq!(efficiency.loss.total(), efficiency.wall - efficiency.lower_bound);
            prop_assert!((0.0..=1.0).contains(&efficiency.ratio()));
        }
    }
}
