//! The `muster` program as a library, so that its parts can be tested and embedded.

pub mod error;
pub mod exit_code;
pub mod paint;
pub mod project;
pub mod reporter;
pub mod table;
pub mod text;
