//! A running agent.

use std::sync::Arc;
use std::time::Duration;

use muster_agent_state::Machine;
use muster_model::platform::Offer;
use muster_model::{AgentId, limits};
use muster_proto::convert::AgentHello;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

use crate::clock::{Chance, Clock};
use crate::connection::Connection;
use crate::data::{DataDirectory, file_error};
use crate::executor::{ActionFolders, Executor};
use crate::inputs::{CachedInputs, Inputs};
use crate::offers::Offered;
use crate::services::Services;
use crate::spool::Spool;
use crate::sync_loop::{Control, Parts, SyncLoop};
use crate::{AgentError, Config};

/// How long one try to reach the coordinator may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Progress that may wait for the loop.
const PROGRESS_WAITING: usize = 256;

/// An agent that runs in this process. Dropping it stops it, but does not wait until everything is cleaned; see [`Agent::stop`].
#[derive(Debug)]
pub struct Agent {
    id: AgentId,
    control: mpsc::Sender<Control>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Agent {
    /// Starts an agent: takes the data directory, finds out what this machine can offer, and connects from then on.
    ///
    /// # Errors
    ///
    /// See [`AgentError`]. A coordinator that cannot be reached is not an error: the agent tries again until it can.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        config.check()?;
        let endpoint = endpoint(&config.coordinator)?;
        let data = DataDirectory::open(&config.data)?;
        let offered = Offered::find(&config, &data).await?;
        let inputs = CachedInputs::open(data.cache(), config.cache_bytes, &endpoint, offered.owner).await?;
        Self::launch(&config, endpoint, data, offered, Arc::new(inputs))
    }

    /// Starts an agent that has found what it offers and where its inputs come from.
    pub(crate) fn launch(
        config: &Config,
        endpoint: Endpoint,
        data: DataDirectory,
        offered: Offered,
        inputs: Arc<dyn Inputs>,
    ) -> Result<Self, AgentError> {
        let chance = Arc::new(Chance::draw().map_err(file_error("read", "/dev/urandom".as_ref()))?);
        let id = data.identity(&chance)?;
        let (spool, restored) = Spool::open(&data.spool())?;
        let clock = Clock::start();
        let offer = Offer { slots: config.slots, memory_bytes: config.memory_bytes, ..offered.offer };
        let hello = AgentHello {
            agent: id,
            name: config.name.clone(),
            slots: config.slots,
            offer: offer.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let (progress_sender, progress) = mpsc::channel(PROGRESS_WAITING);
        let executor = Arc::new(Executor {
            inputs,
            environments: offered.environments,
            folders: ActionFolders::new(data.actions()?, offered.owner),
            services: Services::new(data.services()?, offered.owner),
            offer,
            clock,
            chance: Arc::clone(&chance),
            progress: progress_sender,
        });
        let (control, controls) = mpsc::channel(4);
        let (signals, connection) = Connection::open(endpoint, chance);
        let machine = Machine::new(muster_agent_state::Config::new(config.slots));
        let parts = Parts { machine, clock, hello, executor, spool, restored, progress, signals, control: controls };
        let task = tokio::spawn(async move {
            SyncLoop::new(parts).run().await;
            connection.abort();
            // Held until nothing uses it any more.
            drop(data);
        });
        Ok(Self { id, control, task: Mutex::new(Some(task)) })
    }

    /// Its identity, kept in the data directory.
    pub fn id(&self) -> AgentId {
        self.id
    }

    /// Gives back what has not started, finishes what runs, and returns when every report is acknowledged and the agent has left.
    pub async fn drain(&self) {
        // A loop that is over has left already.
        let _ = self.control.send(Control::Drain).await;
        self.left().await;
    }

    /// Kills what runs and returns when everything is cleaned and the agent has left.
    pub async fn stop(&self) {
        let _ = self.control.send(Control::Stop).await;
        self.left().await;
    }

    async fn left(&self) {
        // `drain` and `stop` may wait at the same time; cancelled, they leave the handle for the other.
        let mut task = self.task.lock().await;
        if let Some(running) = task.as_mut() {
            if let Err(error) = running.await {
                tracing::error!(%error, "the agent's loop failed");
            }
            *task = None;
        }
    }
}

pub(crate) fn endpoint(url: &str) -> Result<Endpoint, AgentError> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|source| AgentError::Coordinator { url: url.to_owned(), source })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        // A link that is silently dead is given up well within a lease.
        .http2_keep_alive_interval(limits::LEASE_TIME / 4)
        .keep_alive_timeout(limits::LEASE_TIME / 4)
        .keep_alive_while_idle(true))
}
