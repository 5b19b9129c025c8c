//! Readers that stop in time.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use muster_model::limits::{IMAGE_BYTES_MAX, IMAGE_EXPANSION_BYTES_FREE, IMAGE_EXPANSION_RATIO_MAX};

/// The largest window of a zstd archive, as a power of two: 128 MiB, what `zstd --ultra` uses by itself.
pub(super) const WINDOW_LOG_MAX: u32 = 27;

/// Counts what is read.
pub(super) struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, count: Rc::default() }
    }

    /// What was read so far, in bytes.
    pub(super) fn count(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// Gives no more than an image may have, and no more than compressed bytes may become.
pub(super) struct Bounded<R> {
    inner: R,
    given: u64,
    compressed: Option<Rc<Cell<u64>>>,
}

impl<R: Read> Bounded<R> {
    /// Of what is not compressed.
    pub(super) fn plain(inner: R) -> Self {
        Self { inner, given: 0, compressed: None }
    }

    /// Of what is made from so many bytes.
    pub(super) fn ratio(inner: R, compressed: Rc<Cell<u64>>) -> Self {
        Self { inner, given: 0, compressed: Some(compressed) }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.given += read as u64;
        let passed = |what: &str, limit: u64| Err(io::Error::other(format!("{what} passes the limit of {limit}")));
        if self.given > IMAGE_BYTES_MAX {
            return passed("its size in bytes", IMAGE_BYTES_MAX);
        }
        if let Some(compressed) = &self.compressed {
            let most = compressed.get().saturating_mul(IMAGE_EXPANSION_RATIO_MAX);
            if self.given > IMAGE_EXPANSION_BYTES_FREE.saturating_add(most) {
                return passed("what one compressed byte becomes", IMAGE_EXPANSION_RATIO_MAX);
            }
        }
        Ok(read)
    }
}
