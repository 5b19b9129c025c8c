//! Downloads that nobody takes: what they hold is let go.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use futures_util::stream::{self, BoxStream, StreamExt};
use muster_model::limits::DOWNLOAD_STALL_TIME;
use tonic::Status;

/// A stream that ends in DEADLINE_EXCEEDED when nothing was taken from it for [`DOWNLOAD_STALL_TIME`]. Its file and its buffers are let go at that
/// time, even if the client never asks again: a stream whose window is closed is not polled any more, so it can't end itself.
pub(crate) fn impatient<T: Send + 'static>(
    stream: BoxStream<'static, Result<T, Status>>,
) -> BoxStream<'static, Result<T, Status>> {
    let shared =
        Arc::new(Shared { stream: Mutex::new(Some(stream)), polls: AtomicU64::new(0), is_due: AtomicBool::new(false) });
    let watched = shared.clone();
    let watch = AbortOnDrop(tokio::spawn(async move {
        let mut seen = watched.polls.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(DOWNLOAD_STALL_TIME).await;
            let polls = watched.polls.load(Ordering::Relaxed);
            // What the client waits for is not the client's fault.
            if polls == seen && !watched.is_due.load(Ordering::Relaxed) {
                watched.lock().take();
                return;
            }
            seen = polls;
        }
    }));
    let mut ended = false;
    stream::poll_fn(move |context| {
        let _watch = &watch;
        if ended {
            return Poll::Ready(None);
        }
        shared.polls.fetch_add(1, Ordering::Relaxed);
        let Some(stream) = &mut *shared.lock() else {
            ended = true;
            let seconds = DOWNLOAD_STALL_TIME.as_secs();
            return Poll::Ready(Some(Err(Status::deadline_exceeded(format!(
                "nothing was read for {seconds} seconds"
            )))));
        };
        let next = stream.poll_next_unpin(context);
        shared.is_due.store(next.is_pending(), Ordering::Relaxed);
        next
    })
    .boxed()
}

struct Shared<T> {
    /// Absent once it was given up.
    stream: Mutex<Option<BoxStream<'static, Result<T, Status>>>>,
    polls: AtomicU64,
    /// The client waits for the stream.
    is_due: AtomicBool,
}

impl<T> Shared<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<BoxStream<'static, Result<T, Status>>>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_let_go_and_what_somebody_takes_is_not() {
        let held = Arc::new(());
        let holder = held.clone();
        let endless = stream::repeat_with(move || Ok(holder.clone())).boxed();
        let mut slow = impatient(endless);
        for _ in 0..5 {
            tokio::time::sleep(DOWNLOAD_STALL_TIME - std::time::Duration::from_secs(1)).await;
            assert!(slow.next().await.is_some_and(|item| item.is_ok()), "slow is not stalled");
        }
        tokio::time::sleep(2 * DOWNLOAD_STALL_TIME).await;
        assert_eq!(Arc::strong_count(&held), 1, "what the stream held is let go while nobody asks");
        let end = slow.next().await.expect("an answer").expect_err("which is an error");
        assert_eq!(end.code(), tonic::Code::DeadlineExceeded);
        assert!(slow.next().await.is_none());
    }
}
