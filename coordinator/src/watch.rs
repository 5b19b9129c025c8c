//! One watcher: events from the ledger, then live ones, then the end.

use muster_model::RunId;
use muster_proto::v1;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::ledger::{Ledger, read};

/// Sends a run's events from `next` on until the run has no more, or until nobody listens.
pub(crate) async fn watch(
    ledger: Ledger,
    run: RunId,
    mut next: u64,
    mut progress: watch::Receiver<u64>,
    events: mpsc::Sender<Result<v1::RunEvent, Status>>,
) {
    loop {
        let reached = *progress.borrow_and_update();
        if !send_until(&ledger, run, &mut next, reached, &events).await {
            return;
        }
        let changed = tokio::select! {
            changed = progress.changed() => changed,
            () = events.closed() => return,
        };
        if changed.is_err() {
            // The run is over, or the coordinator stops: what is in the ledger is all there is now.
            send_until(&ledger, run, &mut next, u64::MAX, &events).await;
            return;
        }
    }
}

/// Whether there is still somebody who listens, and a ledger to read.
async fn send_until(
    ledger: &Ledger,
    run: RunId,
    next: &mut u64,
    reached: u64,
    events: &mpsc::Sender<Result<v1::RunEvent, Status>>,
) -> bool {
    while *next <= reached {
        let from = *next;
        let page = match ledger.read(move |connection| read::events(connection, run, from)).await {
            Ok(page) => page,
            Err(error) => {
                // A watcher that has gone needs no words.
                let _ = events.send(Err(Status::from(error))).await;
                return false;
            }
        };
        if page.is_empty() {
            return true;
        }
        for event in page.into_iter().take_while(|event| event.sequence <= reached) {
            *next = event.sequence + 1;
            if events.send(Ok(event)).await.is_err() {
                return false;
            }
        }
    }
    true
}
