//! F6: whatever a frame says about its size, no more comes out than was declared, and nothing less is accepted.
#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use muster_coordinator::reapi::compression::{Inflater, inflate};

#[derive(Arbitrary, Debug)]
struct Input {
    frame: Frame,
    declared: Declared,
    /// Bytes that come at one time, less one.
    cut: u8,
}

#[derive(Arbitrary, Debug)]
enum Frame {
    Any(Vec<u8>),
    /// A frame as it should be, and then not: the decoder's own code is not seen by the fuzzer, which would never guess one.
    Changed {
        data: Vec<u8>,
        times: u16,
        changes: Vec<(u16, u8)>,
        more: Vec<u8>,
    },
}

#[derive(Arbitrary, Debug)]
enum Declared {
    /// The size of the data.
    Right,
    Small(u16),
    Any(u32),
    /// As large as a size on the wire can be.
    Largest,
}

fuzz_target!(|input: Input| {
    let (frame, right) = input.frame.bytes();
    let declared = match input.declared {
        Declared::Right => right,
        Declared::Small(size) => u64::from(size),
        Declared::Any(size) => u64::from(size),
        Declared::Largest => i64::MAX.cast_unsigned(),
    };
    let whole = inflate(Bytes::from(frame.clone()), declared);
    if let Ok(bytes) = &whole {
        assert_eq!(bytes.len() as u64, declared);
    }
    let pieces = in_pieces(&frame, usize::from(input.cut) + 1, declared);
    // The decoder is stricter about some corrupt frames when it has all of one. What is stored is decided by its digest in either case.
    if let (Ok(whole), Some(pieces)) = (&whole, &pieces) {
        assert_eq!(whole, pieces, "the pieces make another whole");
    }
    if input.frame.is_sound() && declared == right {
        assert!(whole.is_ok() && pieces.is_some(), "a sound frame is refused");
    }
});

/// Decompresses as a stream would, and counts what comes out on the way.
fn in_pieces(frame: &[u8], cut: usize, declared: u64) -> Option<Vec<u8>> {
    let mut inflater = Inflater::new(declared).ok()?;
    let mut all = Vec::new();
    for piece in frame.chunks(cut) {
        inflater.push(Bytes::copy_from_slice(piece));
        while let Some(bytes) = inflater.next_chunk().ok()? {
            all.extend_from_slice(&bytes);
            assert!(all.len() as u64 <= declared, "{} of {declared} bytes came out", all.len());
        }
    }
    inflater.finish().ok()?;
    Some(all)
}

impl Frame {
    /// Whether it is as it should be.
    fn is_sound(&self) -> bool {
        matches!(self, Self::Changed { changes, more, .. } if more.is_empty() && changes.iter().all(|(_, byte)| *byte == 0))
    }

    /// The frame, and the size of what was compressed.
    fn bytes(&self) -> (Vec<u8>, u64) {
        match self {
            Self::Any(bytes) => (bytes.clone(), 0),
            Self::Changed { data, times, changes, more } => {
                // Repetition makes frames that are small and yet become large.
                let data = data.repeat(usize::from(*times) % 1024 + 1);
                let mut frame = zstd::bulk::compress(&data, 1).expect("memory suffices");
                for (position, byte) in changes {
                    let position = usize::from(*position) % frame.len();
                    frame[position] ^= byte;
                }
                frame.extend_from_slice(more);
                (frame, data.len() as u64)
            }
        }
    }
}
