//! The real scheduler and real agent machines in one seeded, single-threaded world.
//!
//! A seed draws everything: how many agents with how many slots, what the cases do, how messages are delayed, dropped, doubled and reordered, when
//! agents are killed, frozen and cut off, when the coordinator crashes and how much of its ledger's tail is lost,
//! which actions clients ask for and when they change their minds. After every step the invariants of `checks` and `actions` hold or the seed has failed. There are two phases: in the first anything may fail (safety); then all faults
//! stop and everything accepted must come to an end (liveness).
//!
//! What is modelled rather than real: the loud halves (`coordinator` and `agent` here), the ledger (a list whose tail is not durable yet), the
//! network and the clocks, which drift.

mod actions;
mod agent;
mod checks;
mod coordinator;
mod ledger;
mod network;
mod plan;
mod warm;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use plan::Planted;

/// What one seed came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// A hash over everything that happened, in order: the same seed gives the same one.
    pub trace: u64,
    /// Steps taken.
    pub steps: u64,
    /// How often each kind of thing happened that a simulation should see now and then.
    pub sometimes: BTreeMap<&'static str, u64>,
}

/// Everything that a hundred seeds must have seen: a simulation in which something never happens says nothing about it.
pub const SOMETIMES: [&str; 38] = [
    "action asked for again",
    "action assigned",
    "action cancelled",
    "action cancelled under way",
    "action copied",
    "action given up",
    "action is poison",
    "action joined",
    "action known",
    "action left by one of several",
    "action lost",
    "action ran",
    "action result fenced",
    "agent connected",
    "agent disconnected",
    "agent drained and left",
    "agent frozen",
    "agent killed",
    "cancelled",
    "charges restored",
    "connection reset",
    "coordinator crashed",
    "failed",
    "fault",
    "group taken",
    "ledger tail lost",
    "message doubled",
    "message lost",
    "nothing_to_run",
    "partition",
    "passed",
    "recall",
    "returned",
    "run cancelled",
    "services started",
    "services warm",
    "several slots taken",
    "withdrawal",
];

/// Runs one seed to its end.
///
/// # Errors
///
/// The promise that was broken, in words.
pub fn simulate(seed: u64, planted: Planted, narrate: bool) -> Result<History, String> {
    let run = AssertUnwindSafe(|| {
        let mut world = world::World::new(seed, planted, narrate);
        world.run();
        world.into_history()
    });
    catch_unwind(run).map_err(|panic| match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => {
            panic.downcast_ref::<&str>().map_or_else(|| "a panic without words".into(), |text| (*text).into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_history() {
        for seed in 1..=10 {
            let first = simulate(seed, Planted::default(), false);
            assert_eq!(first, simulate(seed, Planted::default(), false), "seed {seed}");
        }
    }

    #[test]
    fn a_hundred_seeds_keep_every_promise_and_see_everything() {
        let mut seen = BTreeMap::new();
        for seed in 1..=100 {
            match simulate(seed, Planted::default(), false) {
                Ok(history) => {
                    for (what, times) in history.sometimes {
                        *seen.entry(what).or_insert(0) += times;
                    }
                }
                Err(broken) => {
                    panic!("seed {seed}: {broken}\nhint: cargo run -p muster-tests --bin simulate -- --seed {seed}")
                }
            }
        }
        let seen: Vec<&str> = seen.into_keys().collect();
        assert_eq!(seen, SOMETIMES);
    }
}
