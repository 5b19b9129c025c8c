//! The real clients that the fleet serves: where they are, what their pages in `docs/` say, and projects for them to build.

pub mod bazel;
pub mod page;

use std::path::PathBuf;

/// A program that `scripts/prepare` put into the build cache's own Python environment: `bgd`, `sccache`.
///
/// # Panics
///
/// When it is not there.
pub fn prepared(name: &str) -> PathBuf {
    let cache = std::env::var_os("MUSTER_BUILD_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let home = std::env::var_os("HOME").expect("a home directory");
        let caches =
            std::env::var_os("XDG_CACHE_HOME").map_or_else(|| PathBuf::from(home).join(".cache"), PathBuf::from);
        caches.join("muster-build")
    });
    let program = cache.join("clients/bin").join(name);
    assert!(program.exists(), "{} is not there; hint: scripts/prepare", program.display());
    program
}
