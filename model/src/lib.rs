//! The nouns of Muster.
//!
//! Every other crate speaks in these types. The crate performs no input or output, reads no clock and draws no random number; it is
//! `no_std` so that the compiler holds it to that.
//!
//! Architecture Invariant: nothing here knows the wire, a database or a file system. `muster-proto` is the only place where wire
//! becomes model.
#![no_std]

extern crate alloc;

pub mod attempt;
pub mod digest;
pub mod id;
pub mod image;
pub mod key;
pub mod limits;
pub mod outcome;
pub mod pattern;
pub mod platform;
pub mod service;
pub mod spec;
pub mod time;

pub use digest::{Digest, DigestFunction};
pub use id::{ActionId, AgentId, CaseIndex, Epoch, InvocationId, RunId, TargetIndex};
pub use time::Instant;
