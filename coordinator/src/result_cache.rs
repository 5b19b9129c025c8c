//! The task that puts results into the action cache, many in one transaction.

use std::sync::Arc;

use muster_cache::{ActionCache, ActionRecord, Trouble};
use muster_model::key::ActionKey;
use muster_model::{RunId, limits};
use tokio::sync::mpsc;

use crate::watchers::Watchers;

/// What the task is told, in order.
pub(crate) enum CacheMessage {
    /// A result.
    Put(ActionKey, ActionRecord),
    /// A run is over: once everything before this is in the cache its watchers are told, so that who runs the same again at once finds it.
    Finish { run: RunId, sequence: u64 },
}

/// Runs until every sender is gone.
pub(crate) async fn keep_results(
    actions: Arc<dyn ActionCache>,
    watchers: Watchers,
    mut messages: mpsc::UnboundedReceiver<CacheMessage>,
) {
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, limits::LEDGER_BATCH_RECORDS_MAX).await > 0 {
        let (mut records, mut finished) = (Vec::new(), Vec::new());
        for message in batch.drain(..) {
            match message {
                CacheMessage::Put(key, record) => records.push((key, record)),
                CacheMessage::Finish { run, sequence } => finished.push((run, sequence)),
            }
        }
        if !records.is_empty()
            && let Err(error) = actions.put(records).await
        {
            // The cache may forget: the cases will be run again.
            static NOT_CACHED: Trouble = Trouble::new();
            let error = &error as &dyn std::error::Error;
            NOT_CACHED.tell(|untold| tracing::warn!(error, untold, "results were not cached"));
        }
        for (run, sequence) in finished {
            watchers.publish(run, sequence);
            watchers.close(run);
        }
    }
}
