//! Following a run to its end: every event once and in order, over however many connections that takes.

use std::time::Duration;

use muster_proto::v1::run_event::Event;
use muster_proto::v1::{CancelRunRequest, RunEvent, WatchRunRequest};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};

use crate::client::Client;
use crate::error::FleetError;

/// How long a lost coordinator is waited for before the run is given up.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// The pause before the first new try; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long one request may take, so that a silent coordinator does not hold the patience up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Batches of events that wait for a slow reporter.
const EVENTS_WAITING_MAX: usize = 1024;

/// Follows a run in a task of its own, so that whoever reads can do something else at the same time. The last item is the run's end or an error.
pub fn follow(client: Client, run: u64, patience: Duration) -> mpsc::Receiver<Result<RunEvent, FleetError>> {
    let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
    tokio::spawn(async move {
        let mut watch = Watch::new(client, run, patience);
        while let Some(next) = watch.next().await.transpose() {
            let is_last = next.is_err();
            if sender.send(next).await.is_err() || is_last {
                return;
            }
        }
    });
    events
}

/// The events of one run.
#[derive(Debug)]
struct Watch {
    client: Client,
    run: u64,
    patience: Duration,
    stream: Option<Streaming<RunEvent>>,
    next_sequence: u64,
    finished: bool,
    broken_since: Option<Instant>,
    pause: Duration,
}

impl Watch {
    /// Watches a run from its beginning. Nothing is asked before the first [`Self::next`].
    fn new(client: Client, run: u64, patience: Duration) -> Self {
        Self {
            client,
            run,
            patience,
            stream: None,
            next_sequence: 1,
            finished: false,
            broken_since: None,
            pause: PAUSE_MIN,
        }
    }

    /// The next event; none after the run's end.
    ///
    /// # Errors
    ///
    /// [`FleetError::Lost`] when the coordinator did not come back in time, [`FleetError::NoSuchRun`] when it does not know the run any more,
    /// [`FleetError::Refused`] when it won't tell.
    async fn next(&mut self) -> Result<Option<RunEvent>, FleetError> {
        while !self.finished {
            let received = match &mut self.stream {
                Some(stream) => stream.message().await,
                None => match self.open().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            match received {
                Ok(Some(event)) if event.sequence < self.next_sequence => {}
                Ok(Some(event)) if event.sequence == self.next_sequence => {
                    self.accept(&event);
                    return Ok(Some(event));
                }
                Ok(Some(event)) => {
                    let gap = format!("event {} came where event {} was due", event.sequence, self.next_sequence);
                    self.interrupted(Status::data_loss(gap)).await?;
                }
                Ok(None) => self.interrupted(Status::unavailable("the stream ended before the run did")).await?,
                Err(status) => self.interrupted(status).await?,
            }
        }
        Ok(None)
    }

    fn accept(&mut self, event: &RunEvent) {
        self.next_sequence += 1;
        self.broken_since = None;
        self.pause = PAUSE_MIN;
        self.finished = matches!(event.event, Some(Event::RunFinished(_)));
    }

    async fn open(&self) -> Result<Streaming<RunEvent>, Status> {
        let request = WatchRunRequest { run: self.run, from_sequence: self.next_sequence };
        let mut runs = self.client.runs();
        match timeout(REQUEST_TIMEOUT, runs.watch_run(request)).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_) => Err(Status::unavailable("it does not answer")),
        }
    }

    /// Waits before the next try, or gives up.
    async fn interrupted(&mut self, status: Status) -> Result<(), FleetError> {
        self.stream = None;
        match status.code() {
            Code::NotFound => return Err(FleetError::NoSuchRun { run: self.run }),
            Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => {
                return Err(FleetError::Refused { action: "tell about the run", source: Box::new(status) });
            }
            _ => {}
        }
        let since = *self.broken_since.get_or_insert_with(Instant::now);
        if since.elapsed() + self.pause > self.patience {
            return Err(FleetError::Lost {
                url: self.client.url().to_owned(),
                run: self.run,
                patience: self.patience,
                source: Box::new(status),
            });
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        sleep(pause).await;
        Ok(())
    }
}

/// Asks the coordinator to cancel a run. Its end comes as an event like any other.
///
/// # Errors
///
/// [`FleetError::Refused`] or [`FleetError::Unreachable`].
pub async fn cancel(client: &Client, run: u64) -> Result<(), FleetError> {
    let mut runs = client.runs();
    let answer = match timeout(REQUEST_TIMEOUT, runs.cancel_run(CancelRunRequest { run })).await {
        Ok(answer) => answer.map(|_| ()),
        Err(_) => Err(Status::unavailable("it does not answer")),
    };
    answer.map_err(crate::client::refusal(client.url(), "cancel the run"))
}
