//! The thread that writes: group commit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use muster_model::limits;
use rusqlite::Connection;
use tokio::sync::watch;

use super::record::{Record, Reply};
use super::{LedgerError, Ticket};

/// Where records are handed in.
pub(super) struct Handle {
    queue: Mutex<Queue>,
    durable: watch::Receiver<Ticket>,
    closed: AtomicBool,
}

struct Queue {
    sender: Option<Sender<Record>>,
    last: Ticket,
}

impl Handle {
    pub(super) fn append(&self, record: Record) -> Ticket {
        // Number and place in the queue are given under one lock, so that they agree.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.last.0 += 1;
        if let Some(sender) = &queue.sender {
            // A writer that is gone has closed the channel of durable tickets: nobody will wait for this one in vain.
            let _ = sender.send(record);
        }
        queue.last
    }

    pub(super) fn durable(&self) -> watch::Receiver<Ticket> {
        self.durable.clone()
    }

    /// Lets the thread finish what it has and end.
    pub(super) fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner).sender = None;
        }
    }
}

pub(super) fn start(connection: Connection) -> Result<(Handle, thread::JoinHandle<()>), LedgerError> {
    let (sender, receiver) = channel();
    let (progress, durable) = watch::channel(Ticket::default());
    let thread = thread::Builder::new()
        .name("muster-ledger".into())
        .spawn(move || write_all(connection, &receiver, &progress))
        .map_err(|source| LedgerError::File { action: "start the writer of", path: "the ledger".into(), source })?;
    let queue = Mutex::new(Queue { sender: Some(sender), last: Ticket::default() });
    Ok((Handle { queue, durable, closed: AtomicBool::new(false) }, thread))
}

/// Writes until nobody can append any more, or until a commit fails: then the end of `progress` says that nothing may be promised.
fn write_all(mut connection: Connection, records: &Receiver<Record>, progress: &watch::Sender<Ticket>) {
    let mut written = Ticket::default();
    while let Ok(first) = records.recv() {
        match write_batch(&mut connection, first, records) {
            Ok((count, replies)) => {
                written.0 += count;
                replies.into_iter().for_each(Reply::send);
                progress.send_replace(written);
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the ledger could not be written");
                return;
            }
        }
    }
}

fn write_batch(
    connection: &mut Connection,
    first: Record,
    records: &Receiver<Record>,
) -> Result<(u64, Vec<Reply>), LedgerError> {
    let transaction = connection.transaction()?;
    let mut replies = Vec::new();
    let mut count = 0;
    let mut next = Some(first);
    while let Some(record) = next {
        record.apply(&transaction, &mut replies)?;
        count += 1;
        next = if count < limits::LEDGER_BATCH_RECORDS_MAX { records.try_recv().ok() } else { None };
    }
    transaction.commit()?;
    Ok((count as u64, replies))
}
