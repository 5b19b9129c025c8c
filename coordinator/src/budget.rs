//! What clients may cost: memory, all of them together, and patience, each for itself.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use muster_model::limits::{UPLOAD_BYTES_IN_FLIGHT_MAX, UPLOAD_PROGRESS_BYTES_MIN, UPLOAD_PROGRESS_TIME};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Bytes in memory of what clients upload, ask in long questions and get in batches, and of what is read ahead of them, all together.
#[derive(Clone, Debug)]
pub struct UploadBudget(Arc<Semaphore>);

/// A part of the budget, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    _permit: OwnedSemaphorePermit,
}

impl Share {
    /// The same bytes, which keep the share for as long as anybody holds them.
    pub(crate) fn charge(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Charged { bytes, _share: self.clone() })
    }
}

/// Bytes with the part of the budget that they are in.
struct Charged {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Keeps the share that a service has put into its response's extensions until the last byte of the encoded body was sent: what a client does not
/// take stays in the buffers of its stream, and in memory.
pub(crate) async fn keep_until_sent(mut response: Response) -> Response {
    let Some(share) = response.extensions_mut().remove::<Arc<Share>>() else { return response };
    response.map(|body| Body::new(body.map_frame(move |frame| frame.map_data(|bytes| share.charge(bytes)))))
}

/// All of the budget is taken.
#[derive(Debug, thiserror::Error)]
#[error("the coordinator has {UPLOAD_BYTES_IN_FLIGHT_MAX} bytes of requests in hand; try again soon")]
pub(crate) struct BudgetExceeded;

impl UploadBudget {
    /// Takes `bytes` for as long as they are in memory.
    pub(crate) fn take(&self, bytes: usize) -> Result<Share, BudgetExceeded> {
        let count = u32::try_from(bytes).map_err(|_| BudgetExceeded)?;
        let permit = self.0.clone().try_acquire_many_owned(count).map_err(|_| BudgetExceeded)?;
        Ok(Share { _permit: permit })
    }
}

impl Default for UploadBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(UPLOAD_BYTES_IN_FLIGHT_MAX)))
    }
}

/// How long an upload may keep the coordinator waiting. Only waiting counts: the time that the disk needs is not the client's.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Duration,
    bytes: u64,
}

/// An upload is too slow.
#[derive(Debug, thiserror::Error)]
#[error("fewer than {UPLOAD_PROGRESS_BYTES_MIN} bytes came in {} seconds", UPLOAD_PROGRESS_TIME.as_secs())]
pub(crate) struct TooSlow;

impl Default for Patience {
    fn default() -> Self {
        Self { left: UPLOAD_PROGRESS_TIME, bytes: 0 }
    }
}

impl Patience {
    /// Waits for what comes next.
    pub(crate) async fn wait<T>(&mut self, next: impl Future<Output = T>) -> Result<T, TooSlow> {
        let start = Instant::now();
        let came = timeout(self.left, next).await.map_err(|_| TooSlow)?;
        self.left = self.left.saturating_sub(start.elapsed());
        Ok(came)
    }

    /// Counts what came.
    pub(crate) fn came(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes >= UPLOAD_PROGRESS_BYTES_MIN {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_for_all_together_and_comes_back() {
        let budget = UploadBudget::default();
        let most = budget.take(UPLOAD_BYTES_IN_FLIGHT_MAX - 1).unwrap();
        assert!(budget.clone().take(2).is_err());
        drop(budget.take(1).unwrap());
        drop(most);
        assert!(budget.take(2).is_ok());
        assert!(budget.take(usize::MAX).is_err());
    }

    #[tokio::test]
    async fn an_answer_gives_its_share_back_when_its_bytes_are_gone_and_not_before() {
        let budget = UploadBudget::default();
        let mut response = Response::new(Body::from("encoded"));
        response.extensions_mut().insert(Arc::new(budget.take(UPLOAD_BYTES_IN_FLIGHT_MAX).unwrap()));
        let mut body = keep_until_sent(response).await.into_body();
        assert!(budget.take(1).is_err(), "it is not even read");
        let waiting = body.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!(waiting, "encoded");
        assert!(budget.take(1).is_err(), "it waits in a buffer");
        drop(waiting);
        assert!(budget.take(UPLOAD_BYTES_IN_FLIGHT_MAX).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_runs_out_of_patience_and_a_steady_upload_does_not() {
        let second = || tokio::time::sleep(Duration::from_secs(1));
        let mut steady = Patience::default();
        for _ in 0..100 {
            steady.wait(second()).await.unwrap();
            steady.came(UPLOAD_PROGRESS_BYTES_MIN as usize / 16);
        }
        let mut trickle = Patience::default();
        let mut seconds = 0;
        while trickle.wait(second()).await.is_ok() {
            trickle.came(1);
            seconds += 1;
            assert!(seconds <= UPLOAD_PROGRESS_TIME.as_secs());
        }
        assert!(seconds + 1 >= UPLOAD_PROGRESS_TIME.as_secs());
    }
}
