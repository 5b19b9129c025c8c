//! How far each open run may be read by those who watch it.
//!
//! A watcher reads events from the ledger, page by page; what is shared here is one number a run. So a slow watcher costs no memory, and
//! nobody is told of an event that a loss of power could take back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_model::RunId;
use tokio::sync::watch;

/// The open runs and the highest sequence number of each that watchers may see.
#[derive(Clone, Default)]
pub(crate) struct Watchers {
    runs: Arc<Mutex<HashMap<RunId, watch::Sender<u64>>>>,
}

impl Watchers {
    fn runs(&self) -> MutexGuard<'_, HashMap<RunId, watch::Sender<u64>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a run that the ledger says is open.
    pub(crate) fn subscribe(&self, run: RunId) -> watch::Receiver<u64> {
        self.runs().entry(run).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Lets watchers read up to and including `sequence`.
    pub(crate) fn publish(&self, run: RunId, sequence: u64) {
        let mut runs = self.runs();
        let sender = runs.entry(run).or_insert_with(|| watch::Sender::new(0));
        sender.send_if_modified(|reached| {
            let is_later = sequence > *reached;
            *reached = sequence.max(*reached);
            is_later
        });
    }

    /// The run has no further events.
    pub(crate) fn close(&self, run: RunId) {
        self.runs().remove(&run);
    }

    /// Ends every watch.
    pub(crate) fn close_all(&self) {
        self.runs().clear();
    }
}
