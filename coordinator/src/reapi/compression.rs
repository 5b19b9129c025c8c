//! Blobs compressed on the wire with Zstandard (RFC 8878), in either direction. Digests are always of the uncompressed bytes.
//!
//! What comes in is one frame whose window has at most [`ZSTD_WINDOW_BYTES_MAX`] bytes and that decompresses to exactly the size that the digest
//! names. Output stops one byte past that size, so that a small upload can't become a big one; whatever follows the frame is an error.

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use muster_cache::StoreError;
use muster_model::limits::{CHUNK_BYTES_MAX, ZSTD_WINDOW_BYTES_MAX};
use zstd::stream::raw::{Decoder, Encoder, InBuffer, Operation, OutBuffer};
use zstd::zstd_safe::{CParameter, DParameter};

/// Fastest of the levels without a penalty in size; build outputs travel more often than they are stored.
const LEVEL: i32 = 1;

/// Why compressed bytes are refused.
#[derive(Debug, thiserror::Error)]
pub enum CompressionError {
    /// They decompress to more than they should.
    #[error("the data decompresses to more than {0} bytes")]
    TooLong(u64),
    /// They end early, or decompress to less than they should.
    #[error("the data decompresses to {found} bytes of {expected}")]
    TooShort {
        /// What the digest says.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// Something follows the frame.
    #[error("data follows the end of the frame")]
    Trailing,
    /// They are no Zstandard frame, or one with too big a window.
    #[error("the data is not a Zstandard frame with a window of at most {ZSTD_WINDOW_BYTES_MAX} bytes")]
    Malformed(#[source] std::io::Error),
}

/// Decompresses one frame, piece by piece as it comes.
pub struct Inflater {
    decoder: Decoder<'static>,
    input: Bytes,
    expected: u64,
    produced: u64,
    /// The frame is over.
    ended: bool,
    /// The output buffer was filled to its end, so the decoder may hold more.
    flush: bool,
}

impl Inflater {
    /// Decompresses to exactly `expected` bytes.
    ///
    /// # Errors
    ///
    /// When there is no memory for a decoder.
    pub fn new(expected: u64) -> Result<Self, CompressionError> {
        let mut decoder = Decoder::new().map_err(CompressionError::Malformed)?;
        decoder
            .set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_BYTES_MAX.ilog2()))
            .map_err(CompressionError::Malformed)?;
        Ok(Self { decoder, input: Bytes::new(), expected, produced: 0, ended: false, flush: false })
    }

    /// Takes compressed bytes; [`Self::next_chunk`] has used up those before.
    pub fn push(&mut self, input: Bytes) {
        debug_assert!(self.input.is_empty());
        self.input = input;
    }

    /// The next decompressed bytes, at most [`CHUNK_BYTES_MAX`]; none when the input is used up.
    ///
    /// # Errors
    ///
    /// [`CompressionError`], after which nothing more comes.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, CompressionError> {
        while !self.ended && (self.flush || !self.input.is_empty()) {
            // One byte more than there should be shows that there are too many.
            let room = (self.expected - self.produced + 1).min(CHUNK_BYTES_MAX as u64) as usize;
            let mut buffer = vec![0; room];
            let mut input = InBuffer::around(&self.input);
            let mut output = OutBuffer::around(&mut buffer[..]);
            let hint = self.decoder.run(&mut input, &mut output).map_err(CompressionError::Malformed)?;
            let (read, written) = (input.pos(), output.pos());
            self.input.advance_by(read);
            self.ended = hint == 0;
            self.flush = written == room;
            self.produced += written as u64;
            if self.produced > self.expected {
                return Err(CompressionError::TooLong(self.expected));
            }
            if written > 0 {
                buffer.truncate(written);
                return Ok(Some(buffer.into()));
            }
            if read == 0 && !self.ended {
                break;
            }
        }
        if self.ended && !self.input.is_empty() {
            return Err(CompressionError::Trailing);
        }
        Ok(None)
    }

    /// Ends the input.
    ///
    /// # Errors
    ///
    /// [`CompressionError::TooShort`] when the frame is not over, or had less in it.
    pub fn finish(self) -> Result<(), CompressionError> {
        if self.ended && self.produced == self.expected {
            return Ok(());
        }
        Err(CompressionError::TooShort { expected: self.expected, found: self.produced })
    }
}

/// Drops what was read from the front of bytes.
trait AdvanceBy {
    fn advance_by(&mut self, count: usize);
}

impl AdvanceBy for Bytes {
    fn advance_by(&mut self, count: usize) {
        drop(self.split_to(count));
    }
}

/// Decompresses bytes that are whole.
///
/// # Errors
///
/// [`CompressionError`].
pub fn inflate(data: Bytes, expected: u64) -> Result<Bytes, CompressionError> {
    let mut inflater = Inflater::new(expected)?;
    inflater.push(data);
    let mut only = Bytes::new();
    let mut all = BytesMut::new();
    while let Some(chunk) = inflater.next_chunk()? {
        if only.is_empty() && all.is_empty() {
            only = chunk;
        } else {
            all.extend_from_slice(&std::mem::take(&mut only));
            all.extend_from_slice(&chunk);
        }
    }
    inflater.finish()?;
    Ok(if all.is_empty() { only } else { all.freeze() })
}

/// Compresses bytes that are whole, if that makes them fewer.
pub(super) fn deflate(data: &Bytes) -> Option<Bytes> {
    let mut deflater = Deflater::new(data.len() as u64).ok()?;
    let mut compressed = deflater.take(data).ok()?;
    compressed.extend_from_slice(&deflater.end().ok()?);
    (compressed.len() < data.len()).then(|| compressed.freeze())
}

/// Compresses one blob into one frame.
struct Deflater(Encoder<'static>);

impl Deflater {
    fn new(size: u64) -> Result<Self, std::io::Error> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_pledged_src_size(Some(size))?;
        encoder.set_parameter(CParameter::ContentSizeFlag(true))?;
        Ok(Self(encoder))
    }

    fn take(&mut self, data: &[u8]) -> Result<BytesMut, std::io::Error> {
        let mut compressed = BytesMut::with_capacity(data.len() / 2);
        let mut input = InBuffer::around(data);
        while input.pos() < data.len() {
            self.step(&mut compressed, |encoder, output| encoder.run(&mut input, output))?;
        }
        Ok(compressed)
    }

    fn end(&mut self) -> Result<BytesMut, std::io::Error> {
        let mut compressed = BytesMut::new();
        while self.step(&mut compressed, |encoder, output| encoder.finish(output, true))? > 0 {}
        Ok(compressed)
    }

    fn step(
        &mut self,
        compressed: &mut BytesMut,
        run: impl FnOnce(&mut Encoder<'static>, &mut OutBuffer<'_, [u8]>) -> std::io::Result<usize>,
    ) -> Result<usize, std::io::Error> {
        let mut buffer = [0; 16 * 1024];
        let mut output = OutBuffer::around(&mut buffer[..]);
        let rest = run(&mut self.0, &mut output)?;
        let written = output.pos();
        compressed.extend_from_slice(&buffer[..written]);
        Ok(rest)
    }
}

/// The chunks of a blob's last `size` bytes as the chunks of one frame. A blob that turns out not to verify ends in its error, and the frame stays
/// without an end.
pub(super) fn deflate_stream(
    chunks: BoxStream<'static, Result<Bytes, StoreError>>,
    size: u64,
) -> BoxStream<'static, Result<Bytes, StoreError>> {
    let deflater = match Deflater::new(size) {
        Ok(deflater) => deflater,
        Err(error) => return stream::iter([Err(failed(error))]).boxed(),
    };
    let compressed = stream::unfold(Some((chunks, deflater)), |state| async move {
        let (mut chunks, mut deflater) = state?;
        let next = chunks.next().await;
        let ends = next.is_none();
        let chunk = match next {
            Some(Ok(chunk)) => Some(chunk),
            Some(Err(error)) => return Some((Err(error), None)),
            None => None,
        };
        // Compressing a chunk takes milliseconds, which is too long for a thread that others wait for.
        let work = tokio::task::spawn_blocking(move || {
            let compressed = match &chunk {
                Some(chunk) => deflater.take(chunk),
                None => deflater.end(),
            };
            (compressed, deflater)
        });
        match work.await {
            Ok((Ok(compressed), deflater)) => Some((Ok(compressed.freeze()), (!ends).then_some((chunks, deflater)))),
            Ok((Err(error), _)) => Some((Err(failed(error)), None)),
            Err(_) => Some((Err(StoreError::Closed), None)),
        }
    });
    compressed.filter(|chunk| std::future::ready(!chunk.as_ref().is_ok_and(Bytes::is_empty))).boxed()
}

fn failed(error: std::io::Error) -> StoreError {
    StoreError::Remote(Box::new(tonic::Status::internal(format!("the blob can't be compressed: {error}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(data: &[u8]) -> Bytes {
        let mut deflater = Deflater::new(data.len() as u64).unwrap();
        let mut frame = deflater.take(data).unwrap();
        frame.extend_from_slice(&deflater.end().unwrap());
        frame.freeze()
    }

    #[test]
    fn nothing_but_one_whole_frame_of_the_right_size_is_taken() {
        let data = vec![7; 100_000];
        let whole = frame(&data);
        assert_eq!(inflate(whole.clone(), 100_000).unwrap(), data);
        assert!(matches!(inflate(whole.clone(), 99_999), Err(CompressionError::TooLong(99_999))));
        assert!(matches!(inflate(whole.clone(), 100_001), Err(CompressionError::TooShort { .. })));
        assert!(matches!(inflate(whole.slice(..whole.len() - 1), 100_000), Err(CompressionError::TooShort { .. })));
        let twice: Bytes = [&whole[..], &whole[..]].concat().into();
        assert!(matches!(inflate(twice.clone(), 200_000), Err(CompressionError::Trailing)));
        assert!(matches!(inflate(twice, 100_000), Err(CompressionError::Trailing)));
        assert!(matches!(inflate(Bytes::from_static(b"no frame at all"), 5), Err(CompressionError::Malformed(_))));
        assert!(matches!(inflate(Bytes::new(), 5), Err(CompressionError::TooShort { .. })));
    }

    #[test]
    fn a_window_past_the_limit_is_refused() {
        let mut encoder = Encoder::new(1).unwrap();
        encoder.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_BYTES_MAX.ilog2() + 1)).unwrap();
        let mut deflater = Deflater(encoder);
        let data = vec![1; 1 << 20];
        let mut frame = deflater.take(&data).unwrap();
        frame.extend_from_slice(&deflater.end().unwrap());
        assert!(matches!(inflate(frame.freeze(), 1 << 20), Err(CompressionError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back_however_they_are_cut(data in proptest::collection::vec(0_u8..4, 0..5000), cut in 1_usize..200) {
            let whole = frame(&data);
            let mut inflater = Inflater::new(data.len() as u64).unwrap();
            let mut found = Vec::new();
            for piece in whole.chunks(cut) {
                inflater.push(Bytes::copy_from_slice(piece));
                while let Some(chunk) = inflater.next_chunk().unwrap() {
                    found.extend_from_slice(&chunk);
                }
            }
            prop_assert!(inflater.finish().is_ok());
            prop_assert_eq!(found, data);
        }

        #[test]
        fn arbitrary_input_gives_an_error_and_never_more_than_was_said(data in proptest::collection::vec(any::<u8>(), 0..300), size in 0_u64..1000) {
            if let Ok(bytes) = inflate(data.into(), size) {
                prop_assert_eq!(bytes.len() as u64, size);
            }
        }
    }
}
