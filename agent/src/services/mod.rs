//! Services that tests talk to: started for an attempt, lent to one at a time, kept warm for the next, evicted like a cache.
//!
//! A *set* is all services of one environment in one network. An attempt borrows a set, so that no two attempts meet in it, and gets clones of its
//! own of whatever can be cloned. Given back, a set is made as new in the background and waits, known by its content, until it is asked for, or
//! others are wanted more, or it has waited too long. Whatever happens to the agent, the kernel takes the services along.
//!
//! Architecture Invariant: what fails here is a fault of the fleet with the service's own log; it never becomes a verdict.

mod data;
mod error;
mod log;
mod postgres;
mod running;
mod set;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_environment::Environment;
use muster_model::key::{ActionKey, services_key};
use muster_model::limits;
use muster_model::spec::TargetSpec;
use muster_proto::v1;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::inputs::Inputs;
use data::DataFolders;
pub(crate) use error::ServiceError;
pub(crate) use set::Set;

/// The services of one agent.
pub(crate) struct Services {
    folders: Arc<DataFolders>,
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    warm: Vec<Warm>,
    is_closed: bool,
}

/// A set that nobody uses.
struct Warm {
    key: ActionKey,
    set: Set,
    since: Instant,
}

/// A set that an attempt uses. One that is not given back is killed.
pub(crate) struct Lease {
    key: ActionKey,
    pub(crate) set: Set,
}

impl Services {
    /// None yet. Data of setups is kept below `root`, which is empty, for files that belong to `owner`.
    pub(crate) fn new(root: PathBuf, owner: Option<(u32, u32)>) -> Arc<Self> {
        let folders = Arc::new(DataFolders::new(root, owner));
        Arc::new(Self { folders, state: Mutex::default(), tasks: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Services of a target that are ready: warm ones of the same content, or new ones.
    ///
    /// # Errors
    ///
    /// The service that could not be started.
    pub(crate) async fn lease(
        &self,
        environment: Arc<dyn Environment>,
        inputs: &dyn Inputs,
        target: &TargetSpec,
    ) -> Result<Lease, ServiceError> {
        let key = services_key(target);
        while let Some(warm) = self.take(key) {
            match warm.check("") {
                Ok(()) => return Ok(Lease { key, set: warm }),
                Err(error) => tracing::warn!(%error, "a warm service is replaced"),
            }
        }
        let set = Set::start(environment, inputs, &self.folders, target).await?;
        Ok(Lease { key, set })
    }

    fn take(&self, key: ActionKey) -> Option<Set> {
        let mut state = self.state();
        let found = state.warm.iter().rposition(|warm| warm.key == key)?;
        Some(state.warm.remove(found).set)
    }

    /// Makes a set as new, behind the caller's back, and keeps it for the next who asks.
    pub(crate) fn give_back(self: &Arc<Self>, lease: Lease) {
        let services = self.clone();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let Lease { key, mut set } = lease;
            if let Err(error) = set.drop_clones().await {
                tracing::warn!(error = crate::error_text::chain(&error), "services are not kept");
                return set.stop().await;
            }
            let surplus = services.keep(key, set);
            if let Some(surplus) = surplus {
                surplus.stop().await;
            }
            services.evict_later();
        });
    }

    fn evict_later(self: &Arc<Self>) {
        let agent = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(limits::WARM_SERVICES_IDLE_TIME).await;
            if let Some(services) = agent.upgrade() {
                services.evict().await;
            }
        });
    }

    /// The set that has to go instead, if one has.
    fn keep(&self, key: ActionKey, set: Set) -> Option<Set> {
        let mut state = self.state();
        if state.is_closed {
            return Some(set);
        }
        state.warm.push(Warm { key, set, since: Instant::now() });
        // They lie in the order in which they were given back.
        (state.warm.len() > limits::WARM_SERVICES_MAX).then(|| state.warm.remove(0).set)
    }

    async fn evict(&self) {
        let old: Vec<Warm> = {
            let mut state = self.state();
            let is_old = |warm: &mut Warm| warm.since.elapsed() >= limits::WARM_SERVICES_IDLE_TIME;
            state.warm.extract_if(.., is_old).collect()
        };
        for warm in old {
            warm.set.stop().await;
        }
    }

    /// The sets that nobody uses, the one used longest ago first.
    pub(crate) fn warm(&self) -> Vec<v1::WarmServices> {
        let of = |warm: &Warm| v1::WarmServices {
            key: warm.key.hex(),
            names: warm.set.names(),
            idle_ms: u64::try_from(warm.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        self.state().warm.iter().map(of).collect()
    }

    /// Kills all that nobody uses and waits until nothing of it is left; what is given back afterwards is killed too.
    pub(crate) async fn stop(&self) {
        let warm = {
            let mut state = self.state();
            state.is_closed = true;
            std::mem::take(&mut state.warm)
        };
        for warm in warm {
            warm.set.stop().await;
        }
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
        self.folders.clear();
    }
}
