//! The `muster` program as a library, so that its parts can be tested and embedded.
//!
//! [`project`] turns a path into targets and blobs; [`embedded`] or a `--fleet` gives somebody to run them; [`submit`] and [`watch`] speak to
//! that coordinator; [`reporter`] says what happened. [`image`] turns an archive into a root file system that environments can show.
//!
//! Architecture Invariant: commands reach a coordinator through [`client`] only, whether it is embedded or not.

pub mod cache_error;
pub mod client;
pub mod commands;
pub mod conformance;
pub mod embedded;
pub mod error;
pub mod exit_code;
pub mod image;
pub mod interrupts;
pub mod paint;
pub mod project;
pub mod reporter;
pub mod submit;
pub mod table;
pub mod text;
pub mod watch;
pub mod why_miss;
