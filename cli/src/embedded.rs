//! The embedded fleet: a coordinator on a loopback port and agents in this process.
//!
//! Architecture Invariant: nothing is shared with them but the port. Every question and every byte goes through the same services as on
//! another host, so nothing works only embedded or only remote.
//!
//! The data directory holds `coordinator/` (ledger and cache survive, so history and results do), `agent-0/`, `agent-1/` …, `lock`, which one
//! process holds at a time, and `url`, where that process's coordinator answers as long as it is there.

use std::fs::{self, File, TryLockError};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use muster_agent::{Agent, machine_memory};
use muster_coordinator::Coordinator;
use muster_environment::{BaseConfig, HostBase};
use muster_model::platform::Weakness;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::error::{EmbeddedError, ExpectedError};

/// How long another muster's data directory is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked at.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How an embedded fleet is started.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Its data directory, made when it is not there.
    pub data: PathBuf,
    /// How many agents; none for a coordinator that only answers questions.
    pub agents: u32,
    /// Slots of each.
    pub slots: u32,
    /// What their sandboxes may lack.
    pub allow_without: Vec<Weakness>,
}

/// A running embedded fleet.
pub struct Embedded {
    client: Client,
    coordinator: Coordinator,
    agents: Vec<Agent>,
    // Released last, when nothing uses the directory any more.
    lock: DataLock,
}

impl Embedded {
    /// Starts the coordinator, then the agents, and returns when the coordinator answers.
    ///
    /// # Errors
    ///
    /// [`EmbeddedError`], [`EmbeddedError::Busy`] among them when another process keeps the directory.
    pub async fn start(options: EmbeddedOptions) -> Result<Self, ExpectedError> {
        // Once for all agents, and while everything else starts.
        let base = (options.agents > 0).then(|| spawn_blocking(|| HostBase::identify(&BaseConfig::default())));
        let lock = DataLock::wait(&options.data).await?;
        let config = muster_coordinator::Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: options.data.join("coordinator"),
            ..muster_coordinator::Config::default()
        };
        let coordinator = Coordinator::start(config).await.map_err(|error| start_error("coordinator", error))?;
        let url = format!("http://{}", coordinator.address());
        lock.announce(&url)?;
        let starting = async {
            let base = match base {
                Some(base) => Some(base.await.unwrap_or_else(|panic| resume_unwind(panic.into_panic()))),
                None => None,
            };
            match base.transpose() {
                Ok(base) => {
                    let starting = (0..options.agents).map(|number| start_agent(&url, &options, number, base.clone()));
                    futures_util::future::join_all(starting).await
                }
                Err(error) => vec![Err(start_error("base", error))],
            }
        };
        let (agents, client) = tokio::join!(starting, Client::connect(&url));
        let (agents, failures): (Vec<_>, Vec<_>) = agents.into_iter().partition(Result::is_ok);
        let agents: Vec<Agent> = agents.into_iter().flatten().collect();
        let failure = failures.into_iter().find_map(Result::err).map(ExpectedError::from);
        match (client, failure) {
            (Ok(client), None) => Ok(Self { client, coordinator, agents, lock }),
            (client, failure) => {
                stop(agents, coordinator).await;
                drop(lock);
                Err(failure.or_else(|| client.err().map(Into::into)).unwrap_or(ExpectedError::Cancelled))
            }
        }
    }

    /// The way to its coordinator.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Kills what runs, waits until every environment is cleaned and everything promised is written.
    pub async fn stop(self) {
        let Self { client, coordinator, agents, lock } = self;
        drop(client);
        stop(agents, coordinator).await;
        drop(lock);
    }
}

async fn stop(agents: Vec<Agent>, coordinator: Coordinator) {
    futures_util::future::join_all(agents.iter().map(Agent::stop)).await;
    coordinator.shutdown().await;
}

async fn start_agent(
    url: &str,
    options: &EmbeddedOptions,
    number: u32,
    base: Option<HostBase>,
) -> Result<Agent, EmbeddedError> {
    let name = format!("agent-{number}");
    let mut config = muster_agent::Config::new(url, options.data.join(&name));
    config.slots = options.slots;
    config.memory_bytes = machine_memory() / u64::from(options.agents.max(1));
    config.allow_without.clone_from(&options.allow_without);
    config.name.clone_from(&name);
    config.base = base;
    Agent::start(config).await.map_err(|error| start_error(&name, error))
}

fn start_error(part: &str, source: impl std::error::Error + Send + Sync + 'static) -> EmbeddedError {
    EmbeddedError::Start { part: part.to_owned(), source: Box::new(source) }
}

/// The processors of this machine shared among so many agents, at least one each.
pub fn default_slots(agents: u32) -> u32 {
    let processors = available_parallelism().map_or(1, usize::from);
    (u32::try_from(processors).unwrap_or(1) / agents.max(1)).max(1)
}

/// `$XDG_DATA_HOME/muster`, or the place that the XDG Base Directory Specification gives for it.
///
/// # Errors
///
/// [`EmbeddedError::NoHome`].
pub fn default_data() -> Result<PathBuf, EmbeddedError> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|directory| directory.join("muster"))
        .ok_or(EmbeddedError::NoHome)
}

/// Where the coordinator of the process that holds the directory answers; none when nobody holds it.
pub fn running_url(data: &Path) -> Option<String> {
    let file = File::open(data.join("lock")).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => fs::read_to_string(data.join("url")).ok(),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// The right to a data directory, held by one process at a time (`flock`, so it ends with the process).
#[derive(Debug)]
struct DataLock {
    file: File,
    url: PathBuf,
}

impl DataLock {
    async fn wait(data: &Path) -> Result<Self, EmbeddedError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| EmbeddedError::File { action, path, source }
        };
        fs::create_dir_all(data).map_err(failed("make", data))?;
        let path = data.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        let started = Instant::now();
        let mut said = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file, url: data.join("url") }),
                Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
                Err(TryLockError::WouldBlock) if started.elapsed() > LOCK_PATIENCE => {
                    return Err(EmbeddedError::Busy { data: data.to_owned() });
                }
                Err(TryLockError::WouldBlock) if !said && started.elapsed() > LOCK_PAUSE * 4 => {
                    said = true;
                    eprintln!("waiting for another muster that uses {}", data.display());
                }
                Err(TryLockError::WouldBlock) => sleep(LOCK_PAUSE).await,
            }
        }
    }

    fn announce(&self, url: &str) -> Result<(), EmbeddedError> {
        fs::write(&self.url, url).map_err(|source| EmbeddedError::File {
            action: "write",
            path: self.url.clone(),
            source,
        })
    }
}

impl Drop for DataLock {
    fn drop(&mut self) {
        // A file that stays says nothing without the lock, and the lock ends with the process at the latest.
        let _ = fs::remove_file(&self.url);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_agent_has_a_slot() {
        assert_eq!(default_slots(10_000), 1);
        assert!(default_slots(1) >= default_slots(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_belongs_to_one_process_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let held = DataLock::wait(directory.path()).await.unwrap();
        held.announce("http://127.0.0.1:1").unwrap();
        assert_eq!(running_url(directory.path()).as_deref(), Some("http://127.0.0.1:1"));
        let refused = DataLock::wait(directory.path()).await.expect_err("it is held");
        assert!(matches!(refused, EmbeddedError::Busy { .. }));
        drop(held);
        assert_eq!(running_url(directory.path()), None);
        DataLock::wait(directory.path()).await.unwrap();
    }
}
