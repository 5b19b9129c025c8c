//! Blobs of any size that are made while they are sent, so that the one who sends them needs no memory for them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use muster_model::{Digest, DigestFunction};
use sha2::{Digest as _, Sha256};

use crate::seed::Random;

/// Bytes of one message of a streamed blob. Large enough that the message costs little beside its bytes.
pub const MESSAGE_BYTES: usize = 128 * 1024;
/// Bytes of the number that tells blobs apart.
const NUMBER_BYTES: u64 = 8;

/// A blob that is known by a number: one pattern again and again, and the number in its last eight bytes.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Its digest.
    pub digest: Digest,
    pattern: Bytes,
    /// The last message.
    tail: Bytes,
}

impl Generated {
    /// The blob of a number; different numbers give different blobs of at least eight bytes. Only the first blob of a size takes the time
    /// to hash it.
    ///
    /// # Panics
    ///
    /// When the size is less than eight bytes.
    pub fn new(function: DigestFunction, number: u64, size_bytes: u64) -> Self {
        let pattern = pattern();
        // The number is in the tail alone, so that is never shorter than the number.
        let tail_bytes = size_bytes - (size_bytes - NUMBER_BYTES) / MESSAGE_BYTES as u64 * MESSAGE_BYTES as u64;
        let mut tail: Vec<u8> = pattern.iter().copied().cycle().take(tail_bytes as usize).collect();
        let number_at = tail.len() - NUMBER_BYTES as usize;
        tail[number_at..].copy_from_slice(&number.to_le_bytes());
        let mut hasher = before_tail(function, &pattern, size_bytes - tail_bytes);
        hasher.update(&tail);
        let digest = Digest { function, hash: hasher.finish(), size_bytes };
        Self { digest, pattern, tail: tail.into() }
    }

    /// Its bytes, in messages of [`MESSAGE_BYTES`]; nothing is copied.
    pub fn messages(&self) -> impl Iterator<Item = Bytes> + Send + 'static {
        let whole = (self.digest.size_bytes - self.tail.len() as u64) / MESSAGE_BYTES as u64;
        let pattern = self.pattern.clone();
        (0..whole).map(move |_| pattern.clone()).chain(std::iter::once(self.tail.clone()))
    }

    /// All of its bytes at once.
    pub fn bytes(&self) -> Bytes {
        self.messages().collect::<Vec<_>>().concat().into()
    }

    /// The name to read it by; only SHA-256 goes without its function (Remote Execution API, `ContentAddressableStorage`).
    pub fn read_name(&self) -> String {
        resource_name(&self.digest)
    }

    /// A name to write it by.
    pub fn write_name(&self, upload: u64) -> String {
        format!("uploads/00000000-0000-4000-8000-{upload:012x}/{}", self.read_name())
    }
}

/// `blobs/[{function}/]{hash}/{size}`.
pub fn resource_name(digest: &Digest) -> String {
    let function = match digest.function {
        DigestFunction::Sha256 => "",
        DigestFunction::Blake3 => "blake3/",
    };
    format!("blobs/{function}{}/{}", digest.hex(), digest.size_bytes)
}

/// Bytes that do not compress, the same in every run.
fn pattern() -> Bytes {
    let mut random = Random::new(0x6c6f_6164);
    (0..MESSAGE_BYTES / 8).flat_map(|_| random.draw().to_le_bytes()).collect::<Vec<_>>().into()
}

/// The hasher of what stands before the last message of all blobs of one size.
fn before_tail(function: DigestFunction, pattern: &Bytes, bytes: u64) -> Hasher {
    static HASHERS: Mutex<BTreeMap<(DigestFunction, u64), Hasher>> = Mutex::new(BTreeMap::new());
    let mut hashers = HASHERS.lock().unwrap_or_else(PoisonError::into_inner);
    let made = || {
        let mut hasher = Hasher::new(function);
        (0..bytes / MESSAGE_BYTES as u64).for_each(|_| hasher.update(pattern));
        hasher
    };
    hashers.entry((function, bytes)).or_insert_with(made).clone()
}

/// Hashes bytes that come in pieces.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// BLAKE3.
    Blake3(Box<blake3::Hasher>),
    /// SHA-256.
    Sha256(Sha256),
}

impl Hasher {
    /// The hasher of a function.
    pub fn new(function: DigestFunction) -> Self {
        match function {
            DigestFunction::Blake3 => Self::Blake3(Box::default()),
            DigestFunction::Sha256 => Self::Sha256(Sha256::new()),
        }
    }

    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// The hash of all pieces.
    pub fn finish(self) -> [u8; 32] {
        match self {
            Self::Blake3(hasher) => hasher.finalize().into(),
            Self::Sha256(hasher) => hasher.finalize().into(),
        }
    }
}

/// The digest of bytes.
pub fn digest_of(function: DigestFunction, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(function);
    hasher.update(bytes);
    Digest { function, hash: hasher.finish(), size_bytes: bytes.len() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_what_its_digest_says() {
        for size in [8, 9, 100, 4096, MESSAGE_BYTES as u64, MESSAGE_BYTES as u64 + 1, 3 * MESSAGE_BYTES as u64] {
            let blob = Generated::new(DigestFunction::Blake3, 5, size);
            assert_eq!(blob.bytes().len() as u64, size);
            assert_eq!(blob.digest, Digest::of(&blob.bytes()));
            assert_ne!(blob.digest, Generated::new(DigestFunction::Blake3, 6, size).digest);
        }
    }
}
