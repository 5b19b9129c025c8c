//! From a program's pipes to the receiver, with a limit.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::{EnvironmentError, OutputChunk, OutputStream};

/// What one read takes at most, in bytes: what a pipe holds.
const READ_BYTES: usize = 64 * 1024;
/// What one read takes as long as none was full; most programs write less.
const SHORT_READ_BYTES: usize = 4096;

/// Counts the bytes of both streams.
#[derive(Debug)]
pub(crate) struct OutputLimit {
    limit: u64,
    written: AtomicU64,
}

impl OutputLimit {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, written: AtomicU64::new(0) }
    }

    /// The bytes of both so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Takes `length` more bytes into account and tells how many of them may be passed on.
    fn admit(&self, length: usize) -> usize {
        let length = length as u64;
        let before = self.written.fetch_add(length, Ordering::Relaxed);
        usize::try_from(self.limit.saturating_sub(before).min(length)).unwrap_or(usize::MAX)
    }
}

/// Passes on one stream to its end. A slow receiver slows the writer; without a receiver the rest is read and dropped. `exceeded` is
/// called when the limit is passed.
pub(crate) async fn pump(
    pipe: &AsyncFd<OwnedFd>,
    stream: OutputStream,
    output: &mpsc::Sender<OutputChunk>,
    limit: &OutputLimit,
    exceeded: impl Fn(),
) -> io::Result<()> {
    let mut buffer = vec![0_u8; SHORT_READ_BYTES];
    let mut is_received = true;
    loop {
        let mut ready = pipe.readable().await?;
        let read = ready.try_io(|pipe| nix::unistd::read(pipe, &mut buffer).map_err(io::Error::from));
        let length = match read {
            Err(_would_block) => continue,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(length) => length?,
        };
        if length == 0 {
            return Ok(());
        }
        let admitted = limit.admit(length);
        if admitted > 0 && is_received {
            let bytes = buffer[..admitted].to_vec();
            is_received = output.send(OutputChunk { stream, bytes }).await.is_ok();
        }
        if admitted < length {
            exceeded();
        }
        if length == buffer.len() {
            buffer.resize(READ_BYTES, 0);
        }
    }
}

/// A pipe whose reading end does not block, as (reading, writing).
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reading, writing) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    // SAFETY: only a descriptor that we own and numbers are passed.
    if unsafe { libc::fcntl(reading.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((reading, writing))
}

/// Registers a descriptor with the runtime.
pub(crate) fn watch<T: AsRawFd + AsFd>(descriptor: T) -> Result<AsyncFd<T>, EnvironmentError> {
    // SAFETY: the descriptor is owned by what is handed over, which never changes it and closes it only after it is registered no more.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(|error| EnvironmentError::Step { step: "register a descriptor".into(), source: error.into() })
}
