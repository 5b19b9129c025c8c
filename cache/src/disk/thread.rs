//! The one thread that owns the index. Jobs that wait together are committed together. What is due without being asked for (syncing, ageing,
//! tidying) is done between batches.
//!
//! Architecture Invariant: one connection, one thread. Answers about what is here, leases and evictions are therefore in one order, and no
//! reader can lease a blob that a writer is deleting.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::durability::{self, SyncJob, Synced};
use super::index::Index;
use crate::{StoreError, Trouble};

/// Jobs committed together at most.
const BATCH_JOBS_MAX: usize = 512;
/// How long last uses are only remembered in memory when nothing else happens.
const IDLE: Duration = Duration::from_secs(1);
/// How often entries are looked at for their age.
const AGE_INTERVAL: Duration = Duration::from_secs(60);

/// Work on the index. It gives back what to do once its batch is committed, or has failed.
type Job = Box<dyn FnOnce(&mut Index) -> Completion + Send>;
type Completion = Box<dyn FnOnce(Option<StoreError>) + Send>;

enum Message {
    Job(Job),
    Synced(Synced),
    /// Answers once nothing is due any more.
    #[cfg(test)]
    Settle(Sender<()>),
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
        let (jobs, syncs) = channel();
        let (layout, handles, synced) = (index.layout.clone(), index.handles.clone(), Self(sender.clone()));
        let syncer = std::thread::Builder::new().name("cache-sync".into()).spawn(move || {
            durability::run(&layout, &handles, &syncs, |done| drop(synced.0.send(Message::Synced(done))));
        })?;
        let thread = std::thread::Builder::new().name("cache-index".into()).spawn(move || {
            let mut owner = Owner { index, jobs, aged: Instant::now(), open: true, syncing: false };
            owner.run(&receiver);
            let Owner { mut index, jobs, .. } = owner;
            drop(jobs);
            if syncer.join().is_err() {
                tracing::error!("the thread that syncs the cache had panicked");
            }
            // What it synced last is said in messages that nobody has taken yet.
            for message in receiver.try_iter() {
                if let Message::Synced(done) = message {
                    index.finish_sync(done);
                }
            }
            index.close();
        })?;
        Ok((Self(sender), thread))
    }

    /// Does everything that is due, and returns when it is done.
    #[cfg(test)]
    pub(super) fn settle(&self) {
        let (sender, receiver) = channel();
        drop(self.0.send(Message::Settle(sender)));
        receiver.recv().unwrap();
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
                static NOT_UPDATED: Trouble = Trouble::new();
                NOT_UPDATED.tell(|untold| tracing::warn!(%error, untold, "the cache's index could not be updated"));
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
            // Outside of a transaction, which a failure may have ended, every statement would hold by itself.
            let result = if index.has_failed() { Err(StoreError::Closed) } else { work(index) };
            index.doubt_space();
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

/// The thread's state.
struct Owner {
    index: Index,
    jobs: Sender<SyncJob>,
    aged: Instant,
    open: bool,
    syncing: bool,
}

impl Owner {
    fn run(&mut self, receiver: &Receiver<Message>) {
        while self.open {
            match self.wait(receiver) {
                Ok(message) => self.batch(message, receiver),
                Err(RecvTimeoutError::Timeout) => {
                    if self.index.has_pending_uses() {
                        self.index.flush_uses_alone();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.do_what_is_due();
        }
    }

    /// The next message, or a timeout when something is due before it comes.
    fn wait(&self, receiver: &Receiver<Message>) -> Result<Message, RecvTimeoutError> {
        let mut times = [
            self.index.has_pending_uses().then_some(IDLE),
            self.index.unsynced.due_in(),
            (!self.index.unswept.is_empty()).then_some(Duration::ZERO),
            self.index.age_max.map(|_| AGE_INTERVAL.saturating_sub(self.aged.elapsed())),
        ]
        .into_iter()
        .flatten();
        match times.by_ref().min() {
            Some(time) => receiver.recv_timeout(time),
            None => receiver.recv().map_err(Into::into),
        }
    }

    fn batch(&mut self, first: Message, receiver: &Receiver<Message>) {
        let mut next = Some(first);
        let mut completions = Vec::new();
        let mut begun = false;
        while let Some(message) = next {
            match message {
                Message::Job(job) => {
                    if !std::mem::replace(&mut begun, true) {
                        self.rebuild_if_damaged();
                        self.index.begin_batch();
                    }
                    self.index.begin_job();
                    completions.push(job(&mut self.index));
                }
                other => {
                    self.commit(&mut begun, &mut completions);
                    self.take(other, receiver);
                }
            }
            next = if self.open && completions.len() < BATCH_JOBS_MAX { receiver.try_recv().ok() } else { None };
        }
        self.commit(&mut begun, &mut completions);
    }

    fn commit(&mut self, begun: &mut bool, completions: &mut Vec<Completion>) {
        if !std::mem::take(begun) {
            return;
        }
        let mut failures = self.index.commit_batch();
        for (number, complete) in std::mem::take(completions).into_iter().enumerate() {
            complete(failures.failure_of(number));
        }
        self.rebuild_if_damaged();
    }

    fn rebuild_if_damaged(&mut self) {
        if !std::mem::take(&mut self.index.damaged) {
            return;
        }
        if let Err(error) = self.index.rebuild() {
            static NOT_MADE: Trouble = Trouble::new();
            NOT_MADE.tell(|untold| {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, untold, "no new index could be made; the next use tries again");
            });
            self.index.damaged = true;
        }
    }

    /// A message that is no job.
    fn take(&mut self, message: Message, _receiver: &Receiver<Message>) {
        match message {
            Message::Job(_) => {}
            Message::Synced(done) => {
                self.syncing = false;
                self.index.finish_sync(done);
            }
            #[cfg(test)]
            Message::Settle(done) => {
                while self.index.sweep() {}
                while self.index.evict_aged() {}
                while self.syncing {
                    match _receiver.recv() {
                        Ok(Message::Synced(synced)) => {
                            self.syncing = false;
                            self.index.finish_sync(synced);
                        }
                        // A test that settles does nothing else meanwhile.
                        Ok(_) => {}
                        Err(_) => break,
                    }
                }
                if let Some(job) = self.index.take_unsynced() {
                    let synced = job.run(&self.index.layout, &self.index.handles);
                    self.index.finish_sync(synced);
                }
                done.send(()).unwrap();
            }
            Message::Close => self.open = false,
        }
    }

    fn do_what_is_due(&mut self) {
        if self.index.unsynced.due_in().is_some_and(|time| time.is_zero())
            && let Some(job) = self.index.take_unsynced()
        {
            self.syncing = true;
            drop(self.jobs.send(job));
        }
        self.index.sweep();
        if self.index.age_max.is_some() && self.aged.elapsed() >= AGE_INTERVAL && !self.index.evict_aged() {
            self.aged = Instant::now();
        }
    }
}

/// Why a whole batch was rolled back.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) reason: Arc<str>,
    /// The disk is full.
    pub(super) full: bool,
}

impl Failure {
    pub(super) fn to_error(&self) -> StoreError {
        let code = if self.full { rusqlite::ffi::SQLITE_FULL } else { rusqlite::ffi::SQLITE_ABORT };
        StoreError::Index(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(code),
            Some(self.reason.to_string()),
        ))
    }
}

/// Which jobs of a batch failed after they had run.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// The whole batch was rolled back.
    pub(super) all: Option<Failure>,
    /// Single jobs whose files could not be put in place.
    pub(super) single: std::collections::HashMap<usize, StoreError>,
}

impl Failures {
    fn failure_of(&mut self, number: usize) -> Option<StoreError> {
        match &self.all {
            Some(failure) => Some(failure.to_error()),
            None => self.single.remove(&number),
        }
    }
}
