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
    crate::prepared(&format!("clients/bin/{name}"))
}
