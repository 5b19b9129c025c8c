//! `muster cache`: what the cache holds, what it saved, and why it did not help.

mod blobs;
mod gc;
mod ls;
mod stats;
mod why_miss;

use clap::Subcommand;
use muster_model::{Digest, DigestFunction};

use super::Format;
use crate::error::ExpectedError;

/// `muster cache …`
#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Show blobs, bytes, hit rates and the bytes that did not have to travel, by kind
    Stats(stats::StatsArguments),
    /// Write a blob to a file, or to standard output
    Get(blobs::GetArguments),
    /// Store files, and print their digests
    Put(blobs::PutArguments),
    /// List blobs, results, or results that differ from their key's first one
    Ls(ls::LsArguments),
    /// Evict what was not used for longest, down to a size or an age
    Gc(gc::GcArguments),
    /// Name everything in which two actions differ, or a run's case and the last time it ran
    WhyMiss(why_miss::WhyMissArguments),
}

impl CacheCommand {
    pub(super) fn format(&self) -> Format {
        match self {
            Self::Stats(arguments) => arguments.ask.format,
            Self::Get(arguments) => arguments.ask.format,
            Self::Put(arguments) => arguments.ask.format,
            Self::Ls(arguments) => arguments.ask.format,
            Self::Gc(arguments) => arguments.ask.format,
            Self::WhyMiss(arguments) => arguments.ask.format,
        }
    }

    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        match self {
            Self::Stats(arguments) => arguments.run().await,
            Self::Get(arguments) => arguments.run().await,
            Self::Put(arguments) => arguments.run().await,
            Self::Ls(arguments) => arguments.run().await,
            Self::Gc(arguments) => arguments.run().await,
            Self::WhyMiss(arguments) => arguments.run().await,
        }
    }
}

/// Reads `[sha256:|blake3:]HASH/SIZE`; without a function it is SHA-256, as in the Remote Execution API's resource names.
fn parse_digest(text: &str) -> Result<Digest, String> {
    const FORM: &str = "a digest is written [sha256:|blake3:]HASH/SIZE";
    let (function, rest) = match text.split_once(':') {
        None => (DigestFunction::Sha256, text),
        Some(("sha256", rest)) => (DigestFunction::Sha256, rest),
        Some(("blake3", rest)) => (DigestFunction::Blake3, rest),
        Some((other, _)) => return Err(format!("`{other}` is no digest function that is known here; {FORM}")),
    };
    let (hash, size) = rest.split_once('/').ok_or_else(|| format!("`{text}` has no size; {FORM}"))?;
    let size_bytes = size.parse().map_err(|_| format!("`{size}` is no size in bytes; {FORM}"))?;
    Digest::parse(function, hash, size_bytes).map_err(|error| format!("{error}; {FORM}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_in_the_forms_that_other_tools_print() {
        let blob = Digest::of(b"x");
        assert_eq!(parse_digest(&blob.to_string()), Ok(blob));
        let sha256 = Digest { function: DigestFunction::Sha256, ..blob };
        assert_eq!(parse_digest(&format!("{}/1", blob.hex())), Ok(sha256));
        for wrong in ["", "abc", "abc/1", "md5:abc/1"] {
            assert!(parse_digest(wrong).is_err_and(|words| words.contains("HASH/SIZE")), "{wrong}");
        }
        assert!(parse_digest(&format!("{}/-1", blob.hex())).is_err());
    }
}
