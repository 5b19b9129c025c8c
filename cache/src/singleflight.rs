//! One fetch of a blob at a time. One needs it in front of a store that is far away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_model::Digest;
use tokio::sync::watch;

/// Which blobs somebody is fetching.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flights(Arc<Mutex<HashMap<Digest, watch::Sender<()>>>>);

/// Who fetches a blob.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The caller, until the flight is dropped.
    Mine(Flight),
    /// Somebody else; the caller waits and then looks again, because that fetch may have failed.
    Theirs(Wait),
}

/// The right to fetch a blob.
#[derive(Debug)]
pub(crate) struct Flight {
    digest: Digest,
    flights: Flights,
}

/// The end of somebody else's fetch.
#[derive(Debug)]
pub(crate) struct Wait(watch::Receiver<()>);

impl Flights {
    pub(crate) fn claim(&self, digest: Digest) -> Claim {
        let mut flying = self.flying();
        match flying.get(&digest) {
            Some(sender) => Claim::Theirs(Wait(sender.subscribe())),
            None => {
                flying.insert(digest, watch::Sender::new(()));
                Claim::Mine(Flight { digest, flights: self.clone() })
            }
        }
    }

    fn flying(&self) -> MutexGuard<'_, HashMap<Digest, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.flying().remove(&self.digest);
    }
}

impl Wait {
    /// Returns when the flight is over, whatever came of it.
    pub(crate) async fn over(mut self) {
        // Nothing is ever sent: the sender's end is the news.
        while self.0.changed().await.is_ok() {}
    }
}
