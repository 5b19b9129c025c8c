//! The `muster` program as a library, so that its parts can be tested and embedded.

pub mod project;
