//! Simulation, end-to-end tests, benchmarks and the checks the house holds itself to.
//!
//! [`programs`] starts the real binaries on copies of the projects under `fixtures/`; the files under `tests/` hold one promise each.

pub mod bench;
pub mod clients;
mod guard;
pub mod load;
pub mod programs;
pub mod python;
pub mod remote;
pub mod seed;
pub mod simulation;

use std::path::PathBuf;

/// This crate's folder, in the clone that runs: clones that share compiled output may have compiled this in another one.
pub fn folder() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), Into::into)
}

/// A file that `scripts/prepare` put into the build cache.
///
/// # Panics
///
/// When it is not there.
pub(crate) fn prepared(path: &str) -> PathBuf {
    let cache = std::env::var_os("MUSTER_BUILD_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("a home directory");
        let caches =
            std::env::var_os("XDG_CACHE_HOME").map_or_else(|| PathBuf::from(home).join(".cache"), PathBuf::from);
        caches.join("muster-build")
    });
    let file = cache.join(path);
    assert!(file.exists(), "{} is not there; hint: scripts/prepare", file.display());
    file
}
