//! Blobs of any size that are made while they are sent, so that the one who sends them needs no memory for them.

use bytes::Bytes;
use muster_model::{Digest, DigestFunction};
use sha2::{Digest as _, Sha256};

use crate::seed::Random;

/// Bytes of one message of a streamed blob. Large enough that the message costs little beside its bytes.
pub const MESSAGE_BYTES: usize = 128 * 1024;

/// A blob that is known by a number: eight bytes of it, and then one pattern again and again.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Its digest.
    pub digest: Digest,
    head: Bytes,
    pattern: Bytes,
}

impl Generated {
    /// The blob of a number; different numbers give different blobs of at least eight bytes.
    pub fn new(function: DigestFunction, number: u64, size_bytes: u64) -> Self {
        let pattern = pattern();
        let mut head = pattern.to_vec();
        head[..8].copy_from_slice(&number.to_le_bytes());
        let mut blob = Self { digest: Digest { function, hash: [0; 32], size_bytes }, head: head.into(), pattern };
        blob.digest.hash = hash(function, blob.messages());
        blob
    }

    /// Its bytes, in messages of [`MESSAGE_BYTES`]; nothing is copied.
    pub fn messages(&self) -> impl Iterator<Item = Bytes> + Send + 'static {
        let (mut left, pattern) = (self.digest.size_bytes, self.pattern.clone());
        let mut next = self.head.clone();
        std::iter::from_fn(move || {
            let size = left.min(MESSAGE_BYTES as u64);
            left -= size;
            // At most the length of a message.
            let message = std::mem::replace(&mut next, pattern.clone()).slice(..size as usize);
            (size > 0).then_some(message)
        })
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

/// The hash of bytes that come in pieces.
pub fn hash(function: DigestFunction, pieces: impl Iterator<Item = Bytes>) -> [u8; 32] {
    match function {
        DigestFunction::Blake3 => {
            let mut hasher = blake3::Hasher::new();
            pieces.for_each(|piece| {
                hasher.update(&piece);
            });
            hasher.finalize().into()
        }
        DigestFunction::Sha256 => {
            let mut hasher = Sha256::new();
            pieces.for_each(|piece| hasher.update(&piece));
            hasher.finalize().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_what_its_digest_says() {
        for size in [8, 9, 4096, MESSAGE_BYTES as u64, MESSAGE_BYTES as u64 + 1, 3 * MESSAGE_BYTES as u64] {
            let blob = Generated::new(DigestFunction::Blake3, 5, size);
            assert_eq!(blob.bytes().len() as u64, size);
            assert_eq!(blob.digest, Digest::of(&blob.bytes()));
            assert_ne!(blob.digest, Generated::new(DigestFunction::Blake3, 6, size).digest);
        }
    }
}
