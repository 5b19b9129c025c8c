//! Simulation, end-to-end tests, benchmarks and the checks the house holds itself to.
//!
//! [`programs`] starts the real binaries on copies of the projects under `fixtures/`; the files under `tests/` hold one promise each.

pub mod bench;
pub mod clients;
mod guard;
pub mod load;
pub mod programs;
pub mod remote;
pub mod seed;
pub mod simulation;

/// This crate's folder, in the clone that runs: clones that share compiled output may have compiled this in another one.
pub fn folder() -> std::path::PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), Into::into)
}
