//! The agent's decisions: what to start, what to kill, what to report, when to leave.
//!
//! One state machine, [`Machine`], driven by the same five methods as the coordinator's scheduler: `handle_event(now, Event)`,
//! `handle_timeout(now)`, `poll_command()`, `poll_timeout()` and `view()`. A sixth, `report()`, says what goes into a report when
//! [`Command::Report`] asks for one.
//!
//! The rules, in the order in which a reader will ask for them:
//!
//! - The desired state is exact. An unknown epoch that carries its assignment is taken on; one held and missing is killed, or dropped
//!   when it has not started; a finished one stays until it is acknowledged, wanted or not.
//! - An epoch that ended here is never started again, however often and however late a message asks for it. One that ended without a
//!   report and is asked for again is given back, so that the coordinator never waits for it.
//! - Whoever has heard nothing for [`muster_model::limits::LEASE_SELF_FENCE`] of the lease kills its own work: the coordinator is about
//!   to give it to somebody else.
//! - A slot is for an environment: an attempt whose environment is gone leaves it while what it made is on its way, unless as many as there
//!   are slots are on their way already.
//! - A draining agent gives back what waits and what still comes, finishes what runs, and leaves when every report is acknowledged.
//!
//! Architecture Invariant: an attempt here is an epoch and a stage. What it does, and what it said, stays with the loud half.
#![no_std]

extern crate alloc;

mod command;
mod config;
mod event;
mod machine;
mod memory;
#[cfg(feature = "planted-bugs")]
mod planted;

#[cfg(test)]
mod tests;

pub use command::Command;
pub use config::Config;
pub use event::{Desired, Event};
pub use machine::{Machine, View};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
