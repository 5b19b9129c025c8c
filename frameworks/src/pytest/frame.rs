//! The frames of `plugin.py`.

use serde::Deserialize;

/// One frame.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Frame {
    /// A collected case.
    Case { name: String },
    /// A file that could not be collected.
    CollectionError { name: String, output: String },
    /// The case at this position of the shard begins.
    Start { case: u32 },
    /// The case at this position of the shard is over, teardown included.
    Result { case: u32, verdict: Said, duration: f64, message: String, output: String },
    /// pytest returned this status, after so many cases and collection errors.
    End { status: i32, count: usize, errors: usize },
}

/// How a case ended, as pytest counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    Passed,
    Failed,
    Skipped,
}

/// Reads a line; none if it is not a whole frame under this nonce.
pub(super) fn read(nonce: &str, line: &[u8]) -> Option<Frame> {
    let json = line.strip_prefix(nonce.as_bytes())?.strip_prefix(b" ")?;
    serde_json::from_slice(json).ok()
}
