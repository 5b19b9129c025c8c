//! The agent's decisions: what to start, what to kill, what to report, when to leave.
//!
//! One state machine, [`Machine`], driven by the same five methods as the coordinator's scheduler: `handle_event(now, Event)`,
//! `handle_timeout(now)`, `poll_command()`, `poll_timeout()` and `view()`.
//!
//! Architecture Invariant: an attempt here is an epoch and a stage. What it does, and what it said, stays with the loud half.
#![no_std]

extern crate alloc;

mod command;
mod event;

pub use command::Command;
pub use event::{Desired, Event};
