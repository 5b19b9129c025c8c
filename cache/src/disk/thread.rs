//! The one thread that owns the index. Jobs that wait together are committed together.
//!
//! Architecture Invariant: one connection, one thread. Answers about what is here, leases and evictions are therefore in one order, and no
//! reader can lease a blob that a writer is deleting.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::index::Index;
use crate::StoreError;

/// Jobs committed together at most.
const BATCH_JOBS_MAX: usize = 512;
/// How long last uses are only remembered in memory when nothing else happens.
const IDLE: Duration = Duration::from_secs(1);

/// Work on the index. It gives back what to do once its batch is committed, or has failed.
type Job = Box<dyn FnOnce(&mut Index) -> Completion + Send>;
type Completion = Box<dyn FnOnce(Option<StoreError>) + Send>;

enum Message {
    Job(Job),
    Close,
}

/// The way to the index from any thread or task.
#[derive(Clone)]
pub(super) struct IndexHandle(Sender<Message>);

impl std::fmt::Debug for IndexHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("IndexHandle")
    }
}

impl IndexHandle {
    /// Starts the thread. It ends after [`Self::close`], or when all handles are gone.
    pub(super) fn start(index: Index) -> Result<(Self, std::thread::JoinHandle<()>), std::io::Error> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("cache-index".into()).spawn(move || run(index, &receiver))?;
        Ok((Self(sender), thread))
    }

    /// Runs `work` in a transaction with whatever else is waiting, and answers after the commit.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Index) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        self.send(work, move |result| drop(sender.send(result)));
        receiver.await.unwrap_or(Err(StoreError::Closed))
    }

    /// [`Self::call`] for threads that may block.
    pub(super) fn call_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Index) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = channel();
        self.send(work, move |result| drop(sender.send(result)));
        receiver.recv().unwrap_or(Err(StoreError::Closed))
    }

    /// Runs `work` some time, for nobody who waits.
    pub(super) fn cast(&self, work: impl FnOnce(&mut Index) -> Result<(), StoreError> + Send + 'static) {
        self.send(work, |result| {
            if let Err(error) = result {
                tracing::warn!(%error, "the cache's index could not be updated");
            }
        });
    }

    /// Ends the thread after the jobs sent so far.
    pub(super) fn close(&self) {
        // A thread that is gone is closed already.
        drop(self.0.send(Message::Close));
    }

    fn send<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Index) -> Result<T, StoreError> + Send + 'static,
        reply: impl FnOnce(Result<T, StoreError>) + Send + 'static,
    ) {
        let job: Job = Box::new(move |index| {
            let result = work(index);
            if let Err(StoreError::Index(error)) = &result {
                index.fail_batch(error);
            }
            Box::new(move |failure| match failure {
                Some(failure) => reply(Err(failure)),
                None => reply(result),
            })
        });
        // When the thread is gone the job is dropped with its reply, which the caller sees as closed.
        drop(self.0.send(Message::Job(job)));
    }
}

fn run(mut index: Index, receiver: &Receiver<Message>) {
    let mut open = true;
    while open {
        let first =
            if index.has_pending_uses() { receiver.recv_timeout(IDLE) } else { receiver.recv().map_err(Into::into) };
        let mut next = match first {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => {
                index.flush_uses_alone();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let mut completions = Vec::new();
        index.begin_batch();
        while let Some(message) = next {
            match message {
                Message::Job(job) => {
                    index.begin_job();
                    completions.push(job(&mut index));
                }
                Message::Close => {
                    open = false;
                    break;
                }
            }
            next = if completions.len() < BATCH_JOBS_MAX { receiver.try_recv().ok() } else { None };
        }
        let mut failures = index.commit_batch();
        for (number, complete) in completions.into_iter().enumerate() {
            complete(failures.failure_of(number));
        }
    }
    index.close();
}

/// Which jobs of a batch failed after they had run.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// The whole batch was rolled back.
    pub(super) all: Option<Arc<str>>,
    /// Single jobs whose files could not be put in place.
    pub(super) single: std::collections::HashMap<usize, StoreError>,
}

impl Failures {
    fn failure_of(&mut self, number: usize) -> Option<StoreError> {
        match &self.all {
            Some(reason) => Some(StoreError::Index(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT),
                Some(reason.to_string()),
            ))),
            None => self.single.remove(&number),
        }
    }
}
