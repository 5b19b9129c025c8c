//! A load generator for servers of the Remote Execution API, with latencies that leave nothing out.
//!
//! A closed loop ([`Pace::Closed`]) has a fixed number of callers that each wait for an answer before they call again: it finds the
//! throughput, and its latencies flatter a server that stalls, because nobody calls while it does. An open loop ([`Pace::Open`]) calls at
//! times that were drawn beforehand (a Poisson process from one seed), whatever the server does, and counts each latency from the time at
//! which the call *should* have begun. A stall therefore shows in every call that fell into it (Tene, *How NOT to measure latency*, 2013:
//! "coordinated omission").
//!
//! One target is measured at a time, as a process of its own, so that its processor time and memory can be read from `/proc`.

pub mod actions;
pub mod blobs;
pub mod client;
pub mod echo;
pub mod frames;
pub mod overload;
pub mod pace;
pub mod process;
pub mod raw;
pub mod scenario;
pub mod servers;

pub use client::Client;
pub use pace::{Attempt, Load, Pace, Tally, drive};
pub use process::Figures;
pub use scenario::{Prepared, Scenario};
