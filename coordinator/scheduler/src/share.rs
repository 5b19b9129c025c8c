//! How much of the fleet a run has, as a number to be compared.

/// Attempts under way, weighed by the priority of what comes next: a hundred steps of priority are a factor of two, so that an urgent client
/// gets more of the fleet than another, and none gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Share(u64);

/// Steps of priority that double or halve a share.
const STEPS_PER_FACTOR: i32 = 100;
/// Factors of two that priority can make at most, either way.
const FACTORS_MAX: i32 = 8;
/// Fraction bits, so that the smallest share can still be halved.
const FRACTION_BITS: u32 = 24;

impl Share {
    /// The share of a run with `in_use` attempts under way, of which the next one has this priority; lower is more urgent.
    pub(crate) fn new(in_use: u32, priority: i32) -> Self {
        let bound = STEPS_PER_FACTOR * FACTORS_MAX;
        let priority = priority.clamp(-bound, bound);
        let (factors, rest) = (priority.div_euclid(STEPS_PER_FACTOR), priority.rem_euclid(STEPS_PER_FACTOR));
        // Counted from one, so that priority weighs between runs with nothing under way too.
        let attempts = (u64::from(in_use.min(1 << 20)) + 1) << FRACTION_BITS;
        // A straight line between two powers of two.
        let weighed = attempts * u64::from((STEPS_PER_FACTOR + rest).unsigned_abs()) / STEPS_PER_FACTOR as u64;
        Self(if factors < 0 { weighed >> factors.unsigned_abs() } else { weighed << factors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_hundred_steps_are_a_factor_of_two() {
        assert_eq!(Share::new(3, 0), Share::new(1, 100));
        assert_eq!(Share::new(0, 0), Share::new(3, -200));
        assert!(Share::new(1, 0) < Share::new(0, 150));
    }

    proptest! {
        #[test]
        fn more_under_way_and_less_urgent_are_a_larger_share(in_use in 0_u32..1000, more in 1_u32..1000, priority: i32) {
            prop_assert!(Share::new(in_use, priority) < Share::new(in_use + more, priority));
            prop_assert!(Share::new(in_use, priority) <= Share::new(in_use, priority.saturating_add(1)));
        }
    }
}
