//! A coordinator from start to stop.

use std::future::ready;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::middleware::{map_request, map_response};
use futures_util::Stream;
use muster_model::limits;
use muster_proto::longrunning::operations_server::OperationsServer;
use muster_proto::reapi::execution_server::ExecutionServer;
use muster_proto::v1::fleet_server::FleetServer;
use muster_proto::v1::images_server::ImagesServer;
use muster_proto::v1::runs_server::RunsServer;
use muster_proto::v1::status_server::StatusServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::actions::Actions;
use crate::arrivals::Arrivals;
use crate::clock::Clock;
use crate::closure::Closures;
use crate::configuration::{ActionCacheWrites, Config};
use crate::connections::{self, Connection, TellConnections};
use crate::counters::Counters;
use crate::error::CoordinatorError;
use crate::http::HttpCaches;
use crate::images::Images;
use crate::ledger::{Ledger, LedgerError, read};
use crate::reapi;
use crate::reapi::{ExecutionService, OperationsService};
use crate::result_cache::keep_results;
use crate::scheduler_task::{Input, SchedulerTask, Surroundings};
use crate::services::fleet::Fleet;
use crate::services::images::ImagesService;
use crate::services::runs::Runs;
use crate::services::status::StatusService;
use crate::storage::Storage;
use crate::watchers::Watchers;
use crate::{budget, refusals};

/// A running coordinator. Dropping it stops it at once; [`Self::shutdown`] lets it finish what it has begun to write.
#[derive(Debug)]
pub struct Coordinator {
    address: SocketAddr,
    stop_scheduler: Option<oneshot::Sender<()>>,
    stop_server: Option<oneshot::Sender<()>>,
    /// Connections end when it is dropped.
    lifeline: Option<watch::Sender<()>>,
    server: JoinHandle<()>,
    scheduler: JoinHandle<()>,
    results: JoinHandle<()>,
    /// Becomes true when the scheduler's task has ended.
    ended: watch::Receiver<bool>,
}

/// What the parts of a coordinator share.
struct Parts {
    ledger: Ledger,
    storage: Storage,
    counters: Arc<Counters>,
    watchers: Watchers,
    clock: Clock,
    http: HttpCaches,
    clients_write_results: bool,
}

impl Coordinator {
    /// Opens ledger and cache, continues the runs that were open, binds and serves.
    ///
    /// # Errors
    ///
    /// See [`CoordinatorError`].
    pub async fn start(config: Config) -> Result<Self, CoordinatorError> {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| CoordinatorError::Listen { address: config.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| CoordinatorError::Listen { address: config.listen, source })?;
        let parts = Parts::open(&config)?;
        let (inputs, received) = mpsc::channel(limits::SCHEDULER_INPUTS_MAX);
        let (offers, offered) = watch::channel(Arc::default());
        let (results, messages) = mpsc::unbounded_channel();
        let room = Actions::open(parts.storage.clone(), offered.clone(), parts.clock, inputs.downgrade())
            .map_err(CoordinatorError::Random)?;
        let mut task = SchedulerTask::new(
            Surroundings {
                room: room.clone(),
                ledger: parts.ledger.clone(),
                actions: parts.storage.actions.clone(),
                results,
                counters: parts.counters.clone(),
                watchers: parts.watchers.clone(),
                offers,
                inputs: inputs.downgrade(),
                clock: parts.clock,
            },
            config.scheduler,
        );
        restore(&parts, &mut task).await.map_err(|source| parts.failure(&config, source))?;
        let images = Images::open(parts.ledger.clone(), parts.storage.clone()).await;
        let images = images.map_err(|source| parts.failure(&config, source))?;
        let results = tokio::spawn(keep_results(parts.storage.actions.clone(), parts.watchers.clone(), messages));
        let (ended_sender, ended) = watch::channel(false);
        let (watchers, closing) = (parts.watchers.clone(), room.clone());
        let (stop_scheduler, stopped) = oneshot::channel();
        let scheduler = tokio::spawn(async move {
            task.run(received, stopped).await;
            watchers.close_all();
            closing.close_all();
            ended_sender.send_replace(true);
        });
        let (stop_server, stopped) = oneshot::channel();
        let (lifeline, end_of_life) = watch::channel(());
        let connections = connections::accept(listener, end_of_life);
        let server = tokio::spawn(serve(connections, parts.routes(inputs, offered, room, images), stopped));
        Ok(Self {
            address,
            stop_scheduler: Some(stop_scheduler),
            stop_server: Some(stop_server),
            lifeline: Some(lifeline),
            server,
            scheduler,
            results,
            ended,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the coordinator has stopped by itself, which it does when its ledger fails.
    pub async fn failed(&self) {
        // The sender lives in the task, so its end is the end of the task too.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Stops: writes what was begun, ends streams, takes no more calls. Agents keep what they run for the next start.
    pub async fn shutdown(mut self) {
        for stop in [self.stop_scheduler.take(), self.stop_server.take()].into_iter().flatten() {
            // What has ended already needs no word.
            let _ = stop.send(());
        }
        // The end of the scheduler's task ends the streams, and that lets the server end; what still hangs on is cut off.
        for task in [&mut self.scheduler, &mut self.server, &mut self.results] {
            if timeout(limits::SHUTDOWN_GRACE, &mut *task).await.is_err() {
                task.abort();
            }
        }
        self.lifeline = None;
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.server.abort();
        self.scheduler.abort();
        self.results.abort();
    }
}

impl Parts {
    fn open(config: &Config) -> Result<Self, CoordinatorError> {
        let ledger = Ledger::open(&config.data)
            .map_err(|source| CoordinatorError::Ledger { folder: config.data.clone(), source })?;
        let folder = config.data.join("cache");
        let storage = Storage::open(&folder, config.cache_capacity_bytes, config.cache_lease_time)
            .map_err(|source| CoordinatorError::Store { folder: folder.clone(), source })?;
        let counters = Arc::<Counters>::default();
        let clients_write_results = config.action_cache_writes == ActionCacheWrites::Clients;
        let incoming = config.data.join("incoming");
        let http = HttpCaches::new(storage.disk.clone(), counters.clone(), incoming, clients_write_results)
            .map_err(|source| CoordinatorError::Store { folder, source })?;
        let (watchers, clock) = (Watchers::default(), Clock::start());
        let parts = Self { ledger, storage, counters, watchers, clock, http, clients_write_results };
        let restored =
            parts.ledger.read_now(|connection| parts.counters.restore(|name| read::counter(connection, name)));
        restored.map_err(|source| parts.failure(config, source))?;
        Ok(parts)
    }

    fn failure(&self, config: &Config, source: LedgerError) -> CoordinatorError {
        CoordinatorError::Ledger { folder: config.data.clone(), source }
    }

    fn routes(
        self,
        inputs: mpsc::Sender<Input>,
        offers: crate::submission::Offers,
        room: Arc<Actions>,
        images: Images,
    ) -> Routes {
        let Self { ledger, storage, counters, watchers, clock, http, clients_write_results } = self;
        let runs = Runs {
            inputs: inputs.clone(),
            ledger,
            storage: storage.clone(),
            counters: counters.clone(),
            watchers,
            offers,
            closures: Closures::new(storage.lease_time),
            clock,
        };
        let cache = reapi::CacheServices {
            store: storage.blobs.clone(),
            actions: storage.actions.clone(),
            counters: counters.clone(),
            budget: http.budget.clone(),
            executes: true,
            clients_write_results,
        };
        let status = StatusService { inputs: inputs.clone(), storage: storage.clone(), counters, room: room.clone() };
        let images = ImagesService { images: Arc::new(images), clock };
        let limit = limits::MESSAGE_BYTES_MAX;
        let mut routes = Routes::builder();
        cache.add_to(&mut routes);
        routes
            .add_service(ExecutionServer::new(ExecutionService::new(room.clone())).max_decoding_message_size(limit))
            .add_service(OperationsServer::new(OperationsService::new(room)).max_decoding_message_size(limit))
            .add_service(FleetServer::new(Fleet::new(inputs)).max_decoding_message_size(limit))
            .add_service(ImagesServer::new(images).max_decoding_message_size(limit))
            .add_service(RunsServer::new(runs).max_decoding_message_size(limit))
            .add_service(StatusServer::new(status).max_decoding_message_size(limit));
        let mut routes = routes.routes();
        let arrivals = Arrivals::default();
        // Before the HTTP caches are there, which have rules of their own for bodies.
        let services = std::mem::take(routes.axum_router_mut());
        *routes.axum_router_mut() = services.layer(map_request(move |request| ready(arrivals.watch(request))));
        http.add_to(&mut routes);
        routes
    }
}

/// Tells the task of every open run, and puts their targets back into the store, which may have forgotten them.
async fn restore(parts: &Parts, task: &mut SchedulerTask) -> Result<(), LedgerError> {
    task.restore_vacating()?;
    for row in parts.ledger.read_now(read::open_runs)? {
        let run = task.restore(row)?;
        if let Err(status) = parts.storage.put_targets(&run.targets).await {
            // Its agents will report that they lack an input.
            tracing::warn!(run = run.run.0, "targets are not in the store: {}", status.message());
        }
    }
    Ok(())
}

async fn serve(
    connections: impl Stream<Item = std::io::Result<Connection>>,
    routes: Routes,
    stopped: oneshot::Receiver<()>,
) {
    let server = Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(limits::HEADER_BYTES_MAX)
        .http2_max_pending_accept_reset_streams(Some(limits::STREAM_RESETS_PENDING_MAX))
        .http2_max_local_error_reset_streams(Some(limits::STREAM_ERRORS_MAX))
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
        .layer(TellConnections)
        .add_routes(
            routes
                .into_axum_router()
                .layer(map_response(refusals::translate::<axum::body::Body>))
                .layer(map_response(budget::keep_until_sent))
                .into(),
        );
    let stop = async {
        // A sender that is dropped says the same.
        let _ = stopped.await;
    };
    if let Err(error) = server.serve_with_incoming_shutdown(connections, stop).await {
        tracing::error!(error = &error as &dyn std::error::Error, "the server stopped");
    }
}
