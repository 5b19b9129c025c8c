//! The one clock of an agent, and its one source of chance.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_model::Instant;
use muster_model::digest::hex;

/// A monotonic clock that starts at the agent's start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: tokio::time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: tokio::time::Instant::now() }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::default() + self.start.elapsed()
    }

    /// The same moment as the timer knows it.
    pub(crate) fn moment(&self, at: Instant) -> tokio::time::Instant {
        self.start + Duration::from_nanos(at.0)
    }
}

/// Random numbers that nobody outside can guess: a keyed hash of a counter, whose key is drawn once.
#[derive(Debug)]
pub(crate) struct Chance {
    key: [u8; 32],
    drawn: AtomicU64,
}

impl Chance {
    /// Draws the key from the kernel.
    ///
    /// # Errors
    ///
    /// When `/dev/urandom` can't be read.
    pub(crate) fn draw() -> std::io::Result<Self> {
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(Self { key, drawn: AtomicU64::new(0) })
    }

    fn bytes(&self) -> [u8; 32] {
        let number = self.drawn.fetch_add(1, Ordering::Relaxed);
        *blake3::keyed_hash(&self.key, &number.to_le_bytes()).as_bytes()
    }

    pub(crate) fn number(&self) -> u64 {
        let bytes = self.bytes();
        u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
    }

    /// 128 bits as hexadecimal digits, for one process.
    pub(crate) fn nonce(&self) -> String {
        hex(&self.bytes()[..16])
    }
}
