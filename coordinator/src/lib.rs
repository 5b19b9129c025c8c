//! The coordinator: services, the task that owns the scheduler, the ledger.
//!
//! [`Coordinator`] is the whole of it, in this process: the program (see [`program`]) and the embedded fleet of `muster test` start the same one.
//!
//! ```text
//! services      convert, check, ask      ->  inputs   ->  scheduler_task  ->  records  ->  ledger (one thread, group commit)
//!    ^                                                          |                             |
//!    +---- watchers, desired states, answers  <-  effects  <----+  <------- durable  <--------+
//! ```
//!
//! Architecture Invariant: nothing is told to anybody (an agent, a watcher, a client) before the ledger has it.

mod actions;
mod agents;
mod arrivals;
mod budget;
mod clock;
mod closure;
mod configuration;
mod connections;
mod coordinator;
mod counters;
mod effects;
mod efficiency;
mod error;
mod history;
mod http;
mod images;
mod impatience;
mod ledger;
mod lookup;
mod open_run;
mod planning;
pub mod program;
pub mod reapi;
mod refusals;
mod result_cache;
mod scheduler_task;
mod services;
mod storage;
mod submission;
mod traffic;
mod watch;
mod watchers;
mod words;

pub use budget::UploadBudget;
pub use configuration::{
    ActionCacheWrites, Config, ConfigurationError, ConfigurationFile, DATA_DEFAULT, LISTEN_DEFAULT, Size, SizeError,
};
pub use coordinator::Coordinator;
pub use counters::{Counters, Kind};
pub use error::{CoordinatorError, EXIT_FAILED, EXIT_STOPPED, EXIT_USAGE};
pub use ledger::LedgerError;
