//! Readers that stop in time, and readers that know what passed.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use muster_cache::Hasher;
use muster_model::limits::{IMAGE_BYTES_MAX, IMAGE_EXPANSION_BYTES_FREE, IMAGE_EXPANSION_RATIO_MAX};
use muster_model::{Digest, DigestFunction};

/// The largest window of a zstd archive, as a power of two: 128 MiB, what `zstd --ultra` uses by itself.
const WINDOW_LOG_MAX: u32 = 27;

/// What bytes unfold to: those of a gzip or zstd archive, known by its first bytes, or themselves.
///
/// # Errors
///
/// When they can't be read.
pub(super) fn decompressed<'a>(mut source: impl Read + 'a) -> io::Result<Unfolded<'a>> {
    let mut magic = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let kind = [magic.first(), magic.get(1), magic.get(2), magic.get(3)].map(|byte| byte.copied().unwrap_or_default());
    let whole = io::BufReader::new(io::Cursor::new(magic).chain(source));
    let (bytes, is_compressed): (Box<dyn Read + 'a>, bool) = match kind {
        [0x1f, 0x8b, ..] => (Box::new(flate2::bufread::MultiGzDecoder::new(whole)), true),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            (Box::new(decoder), true)
        }
        _ => (Box::new(whole), false),
    };
    Ok(Unfolded { bytes, is_compressed })
}

/// See [`decompressed`].
pub(super) struct Unfolded<'a> {
    pub(super) bytes: Box<dyn Read + 'a>,
    pub(super) is_compressed: bool,
}

/// Counts what is read.
pub(super) struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    /// Counts on from what `count` says.
    pub(super) fn new(inner: R, count: Rc<Cell<u64>>) -> Self {
        Self { inner, count }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get().saturating_add(read as u64));
        Ok(read)
    }
}

/// Hashes what is read.
pub(super) struct Hashed<R> {
    inner: R,
    hasher: Hasher,
}

impl<R> Hashed<R> {
    /// Nothing has passed yet.
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::new(DigestFunction::Sha256) }
    }

    /// The SHA-256 of what has passed.
    pub(super) fn digest(&self) -> Digest {
        self.hasher.digest()
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// What may be unfolded, by one reader or by several one after another.
#[derive(Clone)]
pub(super) struct Allowance {
    given: Rc<Cell<u64>>,
    compressed: Option<Rc<Cell<u64>>>,
}

impl Allowance {
    /// Of what is not compressed.
    pub(super) fn plain() -> Self {
        Self { given: Rc::default(), compressed: None }
    }

    /// Of what is made from so many bytes, which may grow in the meantime.
    pub(super) fn of_compressed(compressed: Rc<Cell<u64>>) -> Self {
        Self { given: Rc::default(), compressed: Some(compressed) }
    }
}

/// Gives no more than an image may have, and no more than compressed bytes may become.
pub(super) struct Bounded<R> {
    inner: R,
    allowance: Allowance,
}

impl<R: Read> Bounded<R> {
    /// Takes from `allowance`.
    pub(super) fn new(inner: R, allowance: Allowance) -> Self {
        Self { inner, allowance }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let given = self.allowance.given.get().saturating_add(read as u64);
        self.allowance.given.set(given);
        let passed = |what: &str, limit: u64| Err(io::Error::other(format!("{what} passes the limit of {limit}")));
        if given > IMAGE_BYTES_MAX {
            return passed("its size in bytes", IMAGE_BYTES_MAX);
        }
        if let Some(compressed) = &self.allowance.compressed {
            let most = compressed.get().saturating_mul(IMAGE_EXPANSION_RATIO_MAX);
            if given > IMAGE_EXPANSION_BYTES_FREE.saturating_add(most) {
                return passed("what one compressed byte becomes", IMAGE_EXPANSION_RATIO_MAX);
            }
        }
        Ok(read)
    }
}
