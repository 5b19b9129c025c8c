//! `Runs`: submitted, watched, cancelled, looked up.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use muster_model::spec::{RunPolicy, RunSpec};
use muster_model::{RunId, limits};
use muster_proto::convert::ConvertError;
use muster_proto::v1;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::stopping;
use crate::clock::Clock;
use crate::closure::{ClosureError, Closures};
use crate::counters::Counters;
use crate::ledger::{Ledger, RunAccepted, RunRecord, read};
use crate::lookup;
use crate::open_run::{PreparedRun, PreparedTarget};
use crate::planning::cached_discoveries;
use crate::scheduler_task::Input;
use crate::storage::Storage;
use crate::submission::{Offers, pin};
use crate::watch::watch;
use crate::watchers::Watchers;

/// Pages of events that wait for a slow watcher.
const WATCH_EVENTS_WAITING_MAX: usize = 64;

/// The service.
pub(crate) struct Runs {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) ledger: Ledger,
    pub(crate) storage: Storage,
    pub(crate) counters: Arc<Counters>,
    pub(crate) watchers: Watchers,
    pub(crate) offers: Offers,
    pub(crate) closures: Closures,
    pub(crate) clock: Clock,
}

#[tonic::async_trait]
impl v1::runs_server::Runs for Runs {
    async fn submit_run(
        &self,
        request: Request<v1::SubmitRunRequest>,
    ) -> Result<Response<v1::SubmitRunResponse>, Status> {
        let v1::SubmitRunRequest { spec, token } = request.into_inner();
        let mut spec = checked(spec, &token)?;
        let asked = token.clone();
        if let Some(known) = self.ledger.read(move |connection| read::run_of_token(connection, &asked)).await? {
            return Ok(Response::new(v1::SubmitRunResponse { run: known.0 }));
        }
        if self.ledger.read(read::open_run_count).await? >= limits::RUNS_OPEN_MAX {
            return Err(Status::resource_exhausted(format!("{} runs are open already", limits::RUNS_OPEN_MAX)));
        }
        pin(self.offers.clone(), &mut spec).await.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let accepted = self.accept(spec, token).await?;
        Ok(Response::new(v1::SubmitRunResponse { run: accepted.run.0 }))
    }

    type WatchRunStream = Pin<Box<dyn Stream<Item = Result<v1::RunEvent, Status>> + Send>>;

    async fn watch_run(&self, request: Request<v1::WatchRunRequest>) -> Result<Response<Self::WatchRunStream>, Status> {
        let v1::WatchRunRequest { run, from_sequence } = request.into_inner();
        let run = RunId(run);
        // Subscribed before the ledger is asked, so that an end in between is not missed.
        let progress = self.watchers.subscribe(run);
        let row = self.ledger.read(move |connection| read::run(connection, run)).await;
        let is_open = matches!(&row, Ok(Some(row)) if row.is_open());
        if !is_open {
            self.watchers.close(run);
        }
        row?.ok_or_else(|| unknown(run))?;
        let (sender, events) = mpsc::channel(WATCH_EVENTS_WAITING_MAX);
        tokio::spawn(watch(self.ledger.clone(), run, from_sequence.max(1), progress, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn cancel_run(
        &self,
        request: Request<v1::CancelRunRequest>,
    ) -> Result<Response<v1::CancelRunResponse>, Status> {
        let run = RunId(request.into_inner().run);
        self.ledger.read(move |connection| read::run(connection, run)).await?.ok_or_else(|| unknown(run))?;
        let (sender, answer) = oneshot::channel();
        self.inputs.send(Input::RunCancelled { run, answer: sender }).await.map_err(|_| stopping())?;
        // No answer means that the run is over, which is what was asked for.
        let _ = answer.await;
        Ok(Response::new(v1::CancelRunResponse {}))
    }

    async fn list_runs(&self, request: Request<v1::ListRunsRequest>) -> Result<Response<v1::ListRunsResponse>, Status> {
        let limit = request.into_inner().limit as usize;
        let now_unix_ms = self.clock.unix_ms();
        let runs = self.ledger.read(move |connection| lookup::list(connection, limit, now_unix_ms)).await?;
        Ok(Response::new(v1::ListRunsResponse { runs }))
    }

    async fn show_run(&self, request: Request<v1::ShowRunRequest>) -> Result<Response<v1::ShowRunResponse>, Status> {
        let run = RunId(request.into_inner().run);
        let now_unix_ms = self.clock.unix_ms();
        let shown = self.ledger.read(move |connection| lookup::show(connection, run, now_unix_ms)).await?;
        shown.map(Response::new).ok_or_else(|| unknown(run))
    }

    async fn show_spec(&self, request: Request<v1::ShowRunRequest>) -> Result<Response<v1::RunSpec>, Status> {
        let run = RunId(request.into_inner().run);
        let spec = self.ledger.read(move |connection| lookup::spec(connection, run)).await?;
        spec.map(Response::new).ok_or_else(|| unknown(run))
    }
}

impl Runs {
    /// Stores what agents need, writes the run to the ledger and hands it to the scheduler's task.
    async fn accept(&self, spec: RunSpec, token: String) -> Result<RunAccepted, Status> {
        let targets = self.prepare_targets(&spec.project, &spec.policy, &spec).await?;
        let started_unix_ms = self.clock.unix_ms();
        let record = RunRecord {
            token,
            project: spec.project.clone(),
            spec: v1::RunSpec::from(&spec).encode_to_vec(),
            // At most `TARGETS_PER_RUN_MAX`.
            targets: targets.len() as u32,
            started_unix_ms,
        };
        let accepted = self.ledger.accept_run(record).await?;
        if accepted.is_new {
            let actions = &*self.storage.actions;
            let discovered = cached_discoveries(actions, &self.counters, &targets).await;
            let RunSpec { project, policy, .. } = spec;
            let run = Box::new(PreparedRun { run: accepted.run, project, policy, started_unix_ms, targets });
            self.inputs.send(Input::RunAccepted { run, discovered }).await.map_err(|_| stopping())?;
        }
        Ok(accepted)
    }

    async fn prepare_targets(
        &self,
        project: &str,
        policy: &RunPolicy,
        spec: &RunSpec,
    ) -> Result<Vec<Arc<PreparedTarget>>, Status> {
        let layers = spec.targets.iter().flat_map(|target| &target.layers);
        let roots: Vec<_> = layers.map(|layer| layer.root).collect();
        self.closures.check(&*self.storage.blobs, &roots).await.map_err(refusal)?;
        let targets = spec.targets.iter().map(|target| Arc::new(PreparedTarget::new(project, policy, target.clone())));
        let targets: Vec<Arc<PreparedTarget>> = targets.collect();
        self.storage.put_targets(&targets).await?;
        Ok(targets)
    }
}

fn checked(spec: Option<v1::RunSpec>, token: &str) -> Result<RunSpec, Status> {
    if token.is_empty() || token.len() > limits::RUN_TOKEN_BYTES_MAX {
        let why = format!("token: must have from 1 to {} bytes", limits::RUN_TOKEN_BYTES_MAX);
        return Err(Status::invalid_argument(why));
    }
    let spec = spec.ok_or_else(|| Status::invalid_argument("spec: is missing"))?;
    let spec = RunSpec::try_from(&spec).map_err(|error: ConvertError| Status::from(error))?;
    if spec.project.len() > limits::PROJECT_NAME_BYTES_MAX {
        let why = format!("spec.project: passes the limit of {} bytes", limits::PROJECT_NAME_BYTES_MAX);
        return Err(Status::invalid_argument(why));
    }
    Ok(spec)
}

fn refusal(error: ClosureError) -> Status {
    match error {
        ClosureError::Missing { .. } => Status::failed_precondition(error.to_string()),
        ClosureError::Malformed { .. } => Status::invalid_argument(error.to_string()),
        ClosureError::Store(error) => crate::storage::status(&error),
    }
}

fn unknown(run: RunId) -> Status {
    Status::not_found(match run.0 {
        0 => "there are no runs yet".to_owned(),
        number => format!("run {number} is not known, or was forgotten"),
    })
}
