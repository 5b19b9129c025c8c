//! F2: only the canonical form of a digest is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi;

fuzz_target!(|input: (bool, i64, &str)| {
    let (sha256, size_bytes, hash) = input;
    let function = if sha256 { DigestFunction::Sha256 } else { DigestFunction::Blake3 };
    let canonical = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let message = reapi::Digest { hash: hash.to_owned(), size_bytes };
    match message.to_model(function) {
        Ok(digest) => {
            assert!(canonical && size_bytes >= 0, "{hash:?} and {size_bytes} were read");
            assert_eq!(digest.function, function);
            assert_eq!(reapi::Digest::from(&digest), message);
        }
        Err(_) => assert!(!canonical || size_bytes < 0, "{hash:?} and {size_bytes} were refused"),
    }
    assert_eq!(Digest::parse(function, hash, 0).is_ok(), canonical);
});
