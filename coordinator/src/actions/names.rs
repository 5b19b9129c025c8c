//! Names of operations. A name is all that is needed to cancel an operation, so it can't be guessed.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};

/// Digits of a name; 128 bits.
const DIGITS: usize = 32;

/// Makes names from a secret and a count.
pub(super) struct Names {
    secret: [u8; 32],
    count: AtomicU64,
}

impl Names {
    /// Draws the secret (random(4)).
    pub(super) fn draw() -> io::Result<Self> {
        let mut secret = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut secret)?;
        Ok(Self { secret, count: AtomicU64::new(0) })
    }

    /// The next name in an instance: `[{instance}/]operations/{digits}`.
    pub(super) fn next(&self, instance: &str) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let hash = blake3::keyed_hash(&self.secret, &count.to_le_bytes()).to_hex();
        let digits = &hash.as_str()[..DIGITS];
        format!("{}{digits}", prefix(instance))
    }
}

/// What every name of an instance begins with.
pub(super) fn prefix(instance: &str) -> String {
    if instance.is_empty() { "operations/".into() } else { format!("{instance}/operations/") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_begin_with_their_instance() {
        let names = Names::draw().unwrap();
        let (first, second) = (names.next(""), names.next("team/main"));
        assert!(first.starts_with("operations/") && second.starts_with("team/main/operations/"));
        assert_ne!(first.rsplit('/').next(), second.rsplit('/').next());
        assert_ne!(Names::draw().unwrap().next(""), first);
    }
}
