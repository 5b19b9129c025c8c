//! A coordinator that follows a script.

use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use muster::client::Client;
use muster_proto::v1::run_event::Event;
use muster_proto::v1::runs_server::{Runs, RunsServer};
use muster_proto::v1::status_server::{Status as StatusService, StatusServer};
use muster_proto::v1::{
    CacheStatsRequest, CacheStatsResponse, CancelRunRequest, CancelRunResponse, CaseFinished, CollectCacheRequest,
    CollectCacheResponse, FleetStatusRequest, FleetStatusResponse, ListBlobsResponse, ListCacheRequest,
    ListDivergentRequest, ListDivergentResponse, ListResultsResponse, ListRunsRequest, ListRunsResponse, RunEvent,
    RunFinished, RunPlanned, RunSpec, RunStarted, RunSummary, ShowActionRequest, ShowActionResponse, ShowRunRequest,
    ShowRunResponse, SubmitRunRequest, SubmitRunResponse, TargetDiscovered, WatchRunRequest,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What the coordinator does.
#[derive(Clone, Default)]
pub(crate) struct Script {
    /// The first watches break after so many events; later ones do not.
    pub(crate) breaks_after: Vec<usize>,
    /// Watches begin at the run's first event, wherever they were asked to.
    pub(crate) repeats: bool,
    /// An event that is never sent.
    pub(crate) leaves_out: Option<u64>,
    /// After its first event the run waits until it is cancelled.
    pub(crate) waits_for_cancel: bool,
    /// What a submission is answered with.
    pub(crate) refusal: Option<Status>,
}

/// The whole life of a run of one case.
pub(crate) fn events(outcome: &str) -> Vec<RunEvent> {
    let summary = RunSummary {
        run: 17,
        project: "shapes".into(),
        outcome: outcome.into(),
        planned: 1,
        passed: 1,
        ..Default::default()
    };
    let case = CaseFinished { name: "area".into(), outcome: "passed".into(), ..Default::default() };
    let kinds = [
        Event::RunStarted(RunStarted { run: 17, project: "shapes".into(), targets: vec!["shapes".into()] }),
        Event::TargetDiscovered(TargetDiscovered { planned: 1, ..Default::default() }),
        Event::RunPlanned(RunPlanned { planned: 1, expected_ms: 0, slots: 1 }),
        Event::CaseFinished(case),
        Event::RunFinished(RunFinished { summary: Some(summary), ..Default::default() }),
    ];
    let numbered = kinds.into_iter().zip(1..);
    numbered.map(|(kind, sequence)| RunEvent { sequence, at_unix_ms: 0, event: Some(kind) }).collect()
}

struct Service {
    script: Script,
    watched_from: Arc<Mutex<Vec<u64>>>,
    cancelled: Arc<Notify>,
}

type Events = Pin<Box<dyn Stream<Item = Result<RunEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Runs for Service {
    async fn submit_run(&self, _: Request<SubmitRunRequest>) -> Result<Response<SubmitRunResponse>, Status> {
        self.script.refusal.clone().map_or(Ok(Response::new(SubmitRunResponse { run: 17 })), Err)
    }

    type WatchRunStream = Events;

    async fn watch_run(&self, request: Request<WatchRunRequest>) -> Result<Response<Events>, Status> {
        let from = request.into_inner().from_sequence;
        let watch = {
            let mut watched = self.watched_from.lock().expect("nobody panicked with it");
            watched.push(from);
            watched.len() - 1
        };
        let first = if self.script.repeats { 1 } else { from };
        let outcome = if self.script.waits_for_cancel { "cancelled" } else { "passed" };
        let wanted: Vec<_> = events(outcome)
            .into_iter()
            .filter(|event| event.sequence >= first && Some(event.sequence) != self.script.leaves_out)
            .map(Ok)
            .collect();
        let wanted = stream::iter(wanted);
        if let Some(count) = self.script.breaks_after.get(watch) {
            let broken = stream::iter([Err(Status::unavailable("the script says so"))]);
            return Ok(Response::new(Box::pin(wanted.take(*count).chain(broken))));
        }
        if self.script.waits_for_cancel {
            let cancelled = Arc::clone(&self.cancelled);
            let gated = wanted.enumerate().then(move |(position, event)| {
                let cancelled = Arc::clone(&cancelled);
                async move {
                    if position == 1 {
                        cancelled.notified().await;
                    }
                    event
                }
            });
            return Ok(Response::new(Box::pin(gated)));
        }
        Ok(Response::new(Box::pin(wanted)))
    }

    async fn cancel_run(&self, _: Request<CancelRunRequest>) -> Result<Response<CancelRunResponse>, Status> {
        self.cancelled.notify_one();
        Ok(Response::new(CancelRunResponse {}))
    }

    async fn list_runs(&self, _: Request<ListRunsRequest>) -> Result<Response<ListRunsResponse>, Status> {
        let summary = RunSummary { run: 17, project: "shapes".into(), outcome: "passed".into(), ..Default::default() };
        Ok(Response::new(ListRunsResponse { runs: vec![summary] }))
    }

    async fn show_run(&self, request: Request<ShowRunRequest>) -> Result<Response<ShowRunResponse>, Status> {
        Err(Status::not_found(format!("run {}", request.into_inner().run)))
    }

    async fn show_spec(&self, request: Request<ShowRunRequest>) -> Result<Response<RunSpec>, Status> {
        Err(Status::not_found(format!("run {}", request.into_inner().run)))
    }
}

#[tonic::async_trait]
impl StatusService for Service {
    async fn fleet_status(&self, _: Request<FleetStatusRequest>) -> Result<Response<FleetStatusResponse>, Status> {
        Ok(Response::new(FleetStatusResponse::default()))
    }

    async fn cache_stats(&self, _: Request<CacheStatsRequest>) -> Result<Response<CacheStatsResponse>, Status> {
        Ok(Response::new(CacheStatsResponse::default()))
    }

    async fn list_blobs(&self, _: Request<ListCacheRequest>) -> Result<Response<ListBlobsResponse>, Status> {
        Ok(Response::new(ListBlobsResponse::default()))
    }

    async fn list_results(&self, _: Request<ListCacheRequest>) -> Result<Response<ListResultsResponse>, Status> {
        Ok(Response::new(ListResultsResponse::default()))
    }

    async fn list_divergent(
        &self,
        _: Request<ListDivergentRequest>,
    ) -> Result<Response<ListDivergentResponse>, Status> {
        Ok(Response::new(ListDivergentResponse::default()))
    }

    async fn collect_cache(&self, _: Request<CollectCacheRequest>) -> Result<Response<CollectCacheResponse>, Status> {
        Ok(Response::new(CollectCacheResponse::default()))
    }

    async fn show_action(&self, request: Request<ShowActionRequest>) -> Result<Response<ShowActionResponse>, Status> {
        Err(Status::not_found(request.into_inner().operation))
    }
}

/// A running scripted coordinator.
pub(crate) struct Scripted {
    /// Where it answers.
    pub(crate) url: String,
    watched_from: Arc<Mutex<Vec<u64>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// Starts one on a free port.
    pub(crate) async fn start(script: Script) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let watched_from = Arc::default();
        let cancelled = Arc::default();
        let service = || Service {
            script: script.clone(),
            watched_from: Arc::clone(&watched_from),
            cancelled: Arc::clone(&cancelled),
        };
        let server = tonic::transport::Server::builder()
            .add_service(RunsServer::new(service()))
            .add_service(StatusServer::new(service()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.expect("the server ends when it is asked to") });
        Self { url, watched_from, task }
    }

    /// A client of it.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.url).await.expect("the script listens")
    }

    /// The sequence numbers that watches were asked to begin at.
    pub(crate) fn watched_from(&self) -> Vec<u64> {
        self.watched_from.lock().expect("nobody panicked with it").clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs the program: exit code, standard output, standard error.
pub(crate) async fn muster(arguments: &[&str]) -> (i32, String, String) {
    let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(arguments)
        .env_remove("MUSTER_FLEET")
        .env_remove("GITHUB_ACTIONS")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = child.await.expect("the program ends");
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}
