//! The functions of digests, run over bytes as they pass.

use muster_model::{Digest, DigestFunction};
use sha2::Digest as _;

/// Hashes bytes as they pass, and counts them.
#[derive(Clone, Debug)]
pub struct Hasher {
    state: State,
    size_bytes: u64,
}

#[derive(Clone, Debug)]
enum State {
    Blake3(Box<blake3::Hasher>),
    Sha256(sha2::Sha256),
}

impl Hasher {
    /// A hasher that nothing has passed yet.
    pub fn new(function: DigestFunction) -> Self {
        let state = match function {
            DigestFunction::Blake3 => State::Blake3(Box::default()),
            DigestFunction::Sha256 => State::Sha256(sha2::Sha256::new()),
        };
        Self { state, size_bytes: 0 }
    }

    /// Lets bytes pass.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Blake3(hasher) => {
                hasher.update(bytes);
            }
            State::Sha256(hasher) => hasher.update(bytes),
        }
        self.size_bytes += bytes.len() as u64;
    }

    /// How many bytes have passed.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest of what has passed.
    pub fn digest(&self) -> Digest {
        let (function, hash) = match &self.state {
            State::Blake3(hasher) => (DigestFunction::Blake3, *hasher.finalize().as_bytes()),
            State::Sha256(hasher) => (DigestFunction::Sha256, hasher.clone().finalize().into()),
        };
        Digest { function, hash, size_bytes: self.size_bytes }
    }
}

/// The digest of `bytes` under `function`.
pub fn digest_of(function: DigestFunction, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(function);
    hasher.update(bytes);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_abc_is_the_published_one() {
        assert_eq!(
            digest_of(DigestFunction::Sha256, b"abc").to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/3"
        );
    }

    #[test]
    fn blake3_is_the_models() {
        assert_eq!(digest_of(DigestFunction::Blake3, b"abc"), Digest::of(b"abc"));
    }
}
