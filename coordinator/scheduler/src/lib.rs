//! The coordinator's decisions: which attempt runs where, what its end means, when a run is over.
//!
//! One state machine, [`Scheduler`], driven by five methods: `handle_event(now, Event)`, `handle_timeout(now)`, `poll_command()`,
//! `poll_timeout()` and `view()`. It is given the time and never reads it; it answers with [`Command`]s that the loud half carries out *in
//! order*: a [`Command::RecordLease`] or [`Command::DecideCase`] must be durable before any later command takes effect.
//!
//! Architecture Invariant: no lock, no await, no clock, no I/O, no names of cases. A case here is an index and a few bytes.
#![no_std]

extern crate alloc;

mod command;
mod event;

pub use command::Command;
pub use event::{AttemptEnd, CaseEnd, CaseSeed, Event, SchedulingPolicy, TargetSeed};
