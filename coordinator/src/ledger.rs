//! The ledger: what a coordinator has promised, in SQLite.
//!
//! What is acknowledged here survives a loss of power: write-ahead log with `synchronous=FULL`, one writer connection on a thread of its
//! own, and many records in one transaction, because a commit costs milliseconds and a record microseconds. Records become durable in
//! the order in which they were appended; [`Ticket`]s say how far that has come.
//!
//! Architecture Invariant: one writer, no memory mapping, and SQLite of at least 3.51.3, which mended a corruption of write-ahead logs.

mod open;
mod outcome;
pub(crate) mod read;
mod record;
pub(crate) mod tally;
pub(crate) mod tries;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use muster_model::Epoch;
use tokio::sync::{oneshot, watch};

pub(crate) use read::{AttemptRow, OpenRunRow, TargetRow, VacatingRow};
pub(crate) use record::{
    AttemptEndRecord, FinishRecord, HistoryRecord, LeaseRecord, OutcomeRecord, Record, RunAccepted, RunRecord,
};
pub(crate) use tries::TriesRecord;

/// Why the ledger can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Its folder or file can't be had.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another coordinator has it.
    #[error("{} is in use by another coordinator", .0.display())]
    Locked(PathBuf),
    /// A later Muster wrote it.
    #[error("{} has format {found}, and this build knows formats up to {known}", path.display())]
    Newer {
        /// The ledger.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest one known.
        known: i64,
    },
    /// The library is one that can damage a ledger.
    #[error("SQLite {0} can damage a write-ahead log; 3.51.3 or later is needed")]
    Library(&'static str),
    /// SQLite said no.
    #[error("the ledger failed")]
    Database(#[from] rusqlite::Error),
    /// The file is not what was written.
    #[error("{} is damaged: {why}", path.display())]
    Corrupt {
        /// The ledger.
        path: PathBuf,
        /// What SQLite found.
        why: String,
    },
    /// A row is not what was written.
    #[error("the ledger's {0} can't be read")]
    Damaged(&'static str),
    /// The writer has stopped.
    #[error("the ledger is closed")]
    Closed,
}

/// How far the ledger has come: everything appended up to and including this ticket is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// An open ledger. Closing it (dropping the last clone) makes what was appended durable first.
#[derive(Clone)]
pub(crate) struct Ledger {
    shared: Arc<Shared>,
}

struct Shared {
    writer: writer::Handle,
    readers: read::Readers,
    generation: u64,
    first_epoch: Epoch,
    thread: Option<thread::JoinHandle<()>>,
    _lock: std::fs::File,
}

impl Ledger {
    /// Opens or makes the ledger in `folder` and counts one more generation.
    ///
    /// # Errors
    ///
    /// See [`LedgerError`].
    pub(crate) fn open(folder: &std::path::Path) -> Result<Self, LedgerError> {
        let opened = open::open(folder)?;
        let readers = read::Readers::new(opened.path.clone());
        let (writer, thread) = writer::start(opened.connection)?;
        Ok(Self {
            shared: Arc::new(Shared {
                writer,
                readers,
                generation: opened.generation,
                first_epoch: opened.first_epoch,
                thread: Some(thread),
                _lock: opened.lock,
            }),
        })
    }

    /// Grows with every start.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// Above every epoch that was ever recorded.
    pub(crate) fn first_epoch(&self) -> Epoch {
        self.shared.first_epoch
    }

    /// Appends a record. It is durable when [`Self::durable`] has reached the ticket.
    pub(crate) fn append(&self, record: Record) -> Ticket {
        self.shared.writer.append(record)
    }

    /// How far the ledger has come; the channel closes when the ledger has failed, and then nothing may be promised any more.
    pub(crate) fn durable(&self) -> watch::Receiver<Ticket> {
        self.shared.writer.durable()
    }

    /// Accepts a run, or finds the one that has the same token.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Closed`] when the ledger has failed.
    pub(crate) async fn accept_run(&self, run: RunRecord) -> Result<RunAccepted, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.append(Record::Run(Box::new(run), reply));
        answer.await.map_err(|_| LedgerError::Closed)
    }

    /// Waits until `ticket` is durable.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Closed`] when the ledger has failed.
    pub(crate) async fn wait(&self, ticket: Ticket) -> Result<(), LedgerError> {
        let mut durable = self.durable();
        durable.wait_for(|reached| *reached >= ticket).await.map_err(|_| LedgerError::Closed)?;
        Ok(())
    }

    /// Reads on a thread where blocking is allowed.
    ///
    /// # Errors
    ///
    /// Those of `question`.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        question: impl FnOnce(&rusqlite::Connection) -> Result<T, LedgerError> + Send + 'static,
    ) -> Result<T, LedgerError> {
        let ledger = self.clone();
        let answer = tokio::task::spawn_blocking(move || ledger.shared.readers.with(question));
        answer.await.map_err(|_| LedgerError::Closed)?
    }

    /// Reads on the calling thread, while nothing else runs yet.
    ///
    /// # Errors
    ///
    /// Those of `question`.
    pub(crate) fn read_now<T>(
        &self,
        question: impl FnOnce(&rusqlite::Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.shared.readers.with(question)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.writer.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the writer was reported by the closed channel already.
            let _ = thread.join();
        }
    }
}
