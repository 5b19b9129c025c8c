//! The agent: stages inputs, runs attempts in environments, reports what happened.
//!
//! [`Agent`] is the whole of it, for programs that embed one; [`program`] is the program `muster-agent`, which `muster agent start` runs too. Inside,
//! one task owns the state machine of `muster-agent-state` and turns its commands into attempts: inputs are staged, an environment is
//! prepared, the framework reads the output as it comes, and the report is on disk before the coordinator hears of it.
//!
//! Architecture Invariant: nothing in this crate decides what to start, kill, report or give back; see `muster-agent-state`.

mod agent;
mod clock;
mod config;
mod connection;
mod data;
mod error;
mod error_text;
mod executor;
mod inputs;
mod offers;
mod outputs;
pub mod program;
mod reports;
mod services;
mod spool;
mod sync_loop;

#[cfg(test)]
mod tests;

pub use agent::Agent;
pub use config::{Config, machine_memory};
pub use error::AgentError;
