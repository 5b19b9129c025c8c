//! A coordinator that says what a test tells it to say.

use std::time::Duration;

use muster_model::attempt::{Assignment, AttemptReport, AttemptResult, CaseReport};
use muster_model::{Epoch, limits};
use muster_proto::convert::{AgentHello, DesiredEntry};
use muster_proto::v1;
use muster_proto::v1::fleet_server::{Fleet, FleetServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Far more than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

struct Service {
    streams: mpsc::Sender<Stream>,
}

#[tonic::async_trait]
impl Fleet for Service {
    type SyncStream = ReceiverStream<Result<v1::DesiredState, Status>>;

    async fn sync(&self, request: Request<Streaming<v1::AgentReport>>) -> Result<Response<Self::SyncStream>, Status> {
        let (desired, receiver) = mpsc::channel(16);
        let stream = Stream { reports: request.into_inner(), desired, seen: Vec::new() };
        self.streams.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// The server; it stops with the test's runtime.
pub(super) struct Coordinator {
    pub(super) url: String,
    streams: mpsc::Receiver<Stream>,
}

impl Coordinator {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, streams) = mpsc::channel(4);
        let service = FleetServer::new(Service { streams: sender });
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        Self { url, streams }
    }

    pub(super) async fn accept(&mut self) -> Stream {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("the agent connects").unwrap()
    }
}

/// One connection of the agent. Dropping it ends the stream.
pub(super) struct Stream {
    reports: Streaming<v1::AgentReport>,
    desired: mpsc::Sender<Result<v1::DesiredState, Status>>,
    /// Every finished report so far, in the order they came.
    pub(super) seen: Vec<AttemptReport>,
}

impl Stream {
    pub(super) async fn say(&self, assignments: &[Assignment], acknowledged: &[u64]) {
        let entries = assignments.iter().map(|assignment| DesiredEntry {
            epoch: assignment.epoch,
            assignment: Some(assignment.clone()),
            recall: false,
        });
        let state = v1::DesiredState {
            attempts: entries.map(|entry| v1::DesiredAttempt::from(&entry)).collect(),
            acknowledged: acknowledged.to_vec(),
            generation: 1,
            lease_ms: u64::try_from(limits::LEASE_TIME.as_millis()).unwrap(),
            number: 0,
        };
        self.desired.send(Ok(state)).await.unwrap();
    }

    /// The next report of the agent; nothing when it ended the stream.
    pub(super) async fn next(&mut self) -> Option<v1::AgentReport> {
        let message = tokio::time::timeout(PATIENCE, self.reports.message()).await.expect("the agent reports");
        let report = message.ok().flatten()?;
        AgentHello::try_from(&report).expect("every report says who the agent is");
        for finished in &report.finished {
            self.seen.push(AttemptReport::try_from(finished).unwrap());
        }
        Some(report)
    }

    /// Reads reports until one is as wanted.
    pub(super) async fn until(&mut self, wanted: impl Fn(&v1::AgentReport) -> bool) -> v1::AgentReport {
        let waiting = async {
            loop {
                let report = self.next().await.expect("the stream stays open");
                if wanted(&report) {
                    return report;
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("a report like that comes")
    }

    /// Reads reports until this attempt's comes.
    pub(super) async fn finished(&mut self, epoch: u64) -> AttemptReport {
        loop {
            if let Some(report) = self.seen.iter().find(|report| report.epoch == Epoch(epoch)) {
                return report.clone();
            }
            self.next().await.expect("the stream stays open");
        }
    }

    /// The same for an attempt that ran: its cases.
    pub(super) async fn cases(&mut self, epoch: u64) -> Vec<CaseReport> {
        match self.finished(epoch).await.result {
            AttemptResult::Ran { reports, interruption: None, .. } => reports,
            other => panic!("{other:?}"),
        }
    }

    /// Reads reports until the agent ends the stream.
    pub(super) async fn ended(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// Whether the report lists this attempt, in this stage.
pub(super) fn lists(report: &v1::AgentReport, epoch: u64, stage: v1::Stage) -> bool {
    report.attempts.iter().any(|status| status.epoch == epoch && status.stage() == stage)
}
