//! `Fleet`: one stream with each agent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::ready;
use futures_util::{Stream, StreamExt};
use muster_model::attempt::{AttemptReport, AttemptResult, AttemptStatus};
use muster_model::outcome::{Fault, FaultKind};
use muster_model::{AgentId, Epoch, limits};
use muster_proto::convert::{AgentHello, ConvertError};
use muster_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

use super::stopping;
use crate::agents::ConnectionNumber;
use crate::scheduler_task::{AgentNews, Input};

type Desired = Option<Arc<v1::DesiredState>>;

/// The service.
pub(crate) struct Fleet {
    inputs: mpsc::Sender<Input>,
    connections: AtomicU64,
}

impl Fleet {
    /// A service that tells the scheduler's task.
    pub(crate) fn new(inputs: mpsc::Sender<Input>) -> Self {
        Self { inputs, connections: AtomicU64::new(0) }
    }
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for Fleet {
    type SyncStream = Pin<Box<dyn Stream<Item = Result<v1::DesiredState, Status>> + Send>>;

    async fn sync(&self, request: Request<Streaming<v1::AgentReport>>) -> Result<Response<Self::SyncStream>, Status> {
        let mut reports = request.into_inner();
        let first = timeout(limits::FIRST_REPORT_TIMEOUT, reports.message())
            .await
            .map_err(|_| Status::deadline_exceeded("an agent speaks first, and this one did not"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before the agent's first report"))?;
        let hello = AgentHello::try_from(&first)?;
        let number = ConnectionNumber(self.connections.fetch_add(1, Ordering::Relaxed) + 1);
        let (desired, states) = watch::channel(None);
        let mut listener =
            Listener { inputs: self.inputs.clone(), agent: hello.agent, number, hello, desired: Some(desired) };
        listener.introduce().await?;
        listener.pass_on(first).await?;
        tokio::spawn(listener.listen(reports, states.clone()));
        // The stream ends when the task drops its sender: the coordinator stops, or the agent has opened another stream.
        let states =
            WatchStream::new(states).filter_map(|state: Desired| ready(state.map(|state| Ok((*state).clone()))));
        Ok(Response::new(Box::pin(states)))
    }
}

/// The reading side of a stream.
struct Listener {
    inputs: mpsc::Sender<Input>,
    agent: AgentId,
    number: ConnectionNumber,
    hello: AgentHello,
    desired: Option<watch::Sender<Desired>>,
}

impl Listener {
    async fn introduce(&mut self) -> Result<(), Status> {
        let Some(desired) = self.desired.take() else { return Ok(()) };
        let input = Input::AgentConnected { hello: self.hello.clone(), connection: self.number, desired };
        self.inputs.send(input).await.map_err(|_| stopping())
    }

    async fn listen(mut self, mut reports: Streaming<v1::AgentReport>, mut states: watch::Receiver<Desired>) {
        let replaced = async { while states.changed().await.is_ok() {} };
        tokio::pin!(replaced);
        loop {
            let report = tokio::select! {
                () = &mut replaced => return,
                report = reports.message() => report,
            };
            let Ok(Some(report)) = report else { break };
            if let Err(status) = self.pass_on(report).await {
                tracing::warn!(agent = self.hello.name, "stream closed: {}", status.message());
                break;
            }
        }
        // A task that is gone has forgotten the agent already.
        let _ = self.inputs.send(Input::AgentDisconnected { agent: self.agent, connection: self.number }).await;
    }

    async fn pass_on(&mut self, report: v1::AgentReport) -> Result<(), Status> {
        let hello = AgentHello::try_from(&report)?;
        if hello != self.hello {
            let why = "an agent that changes what it is opens a new stream";
            return Err(Status::invalid_argument(why));
        }
        let news = news(report)?;
        let input = Input::AgentReported { agent: self.agent, connection: self.number, news };
        self.inputs.send(input).await.map_err(|_| stopping())
    }
}

fn news(report: v1::AgentReport) -> Result<AgentNews, ConvertError> {
    Ok(AgentNews {
        draining: report.draining,
        load_milli: report.load_milli,
        services: report.services.into_iter().take(limits::WARM_SERVICES_MAX).collect(),
        heard: report.heard,
        ending: report.ending.into_iter().take(limits::SLOTS_PER_AGENT_MAX as usize).map(Epoch).collect(),
        attempts: report.attempts.iter().map(AttemptStatus::try_from).collect::<Result<_, _>>()?,
        finished: report.finished.iter().map(finished).collect(),
    })
}

/// A report that makes no sense is the fleet's fault in that one attempt. Refusing the message instead would have the agent send it
/// for ever.
fn finished(report: &v1::AttemptReport) -> AttemptReport {
    AttemptReport::try_from(report).unwrap_or_else(|error| AttemptReport {
        epoch: Epoch(report.epoch),
        result: AttemptResult::Fault(Fault {
            kind: FaultKind::Protocol,
            message: format!("the agent's report can't be read: {error}"),
        }),
        timings: Default::default(),
        usage: Default::default(),
    })
}
