//! A thread that takes away what containers leave, however they end: a place that is dropped can't wait for an engine.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use bollard::Docker;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::engine::{connect, remove_all_of, remove_container, remove_leftovers};
use super::step;
use super::tree::Tree;
use crate::EnvironmentError;

/// How often leftovers of other agents are looked for.
const LEASE: Duration = Duration::from_secs(30);

type Outcome = Result<(), EnvironmentError>;

enum Order {
    Remove { container: Option<String>, tree: Option<Tree>, done: Option<oneshot::Sender<Outcome>> },
    Stop,
}

/// What there is of a container so far; all of it goes when this is dropped.
pub(super) struct Remains {
    pub(super) container: Option<String>,
    pub(super) tree: Option<Tree>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Remains {
    /// Takes everything away and waits until it is gone.
    ///
    /// # Errors
    ///
    /// What could not be removed; it is tried again when the agent ends.
    pub(super) async fn clean(mut self) -> Outcome {
        let (done, outcome) = oneshot::channel();
        self.send(Some(done));
        outcome.await.unwrap_or(Ok(()))
    }

    fn send(&mut self, done: Option<oneshot::Sender<Outcome>>) {
        let (container, tree) = (self.container.take(), self.tree.take());
        if container.is_some() || tree.is_some() {
            // Without the thread, the driver is gone and has removed every container; the tree goes when it is dropped.
            let _ = self.orders.send(Order::Remove { container, tree, done });
        }
    }
}

impl Drop for Remains {
    fn drop(&mut self) {
        self.send(None);
    }
}

/// The handle of the thread, which ends with it and takes away everything that is the driver's.
pub(super) struct Cleaner {
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Cleaner {
    /// Starts the thread, which connects to the engine and removes what dead agents have left there.
    ///
    /// # Errors
    ///
    /// An engine that does not answer, or does not let things be listed or removed.
    pub(super) fn start(socket: PathBuf, owner: String) -> Result<(Self, Docker), EnvironmentError> {
        let (orders, received) = mpsc::unbounded_channel();
        let (ready, started) = std::sync::mpsc::channel();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = ready.send(Err(step("start a runtime", error)));
                    return;
                }
            };
            runtime.block_on(async {
                let first = async {
                    let docker = connect(&socket).await?;
                    remove_leftovers(&docker, &owner).await?;
                    Ok(docker)
                };
                match first.await {
                    Ok(docker) => {
                        let _ = ready.send(Ok(docker.clone()));
                        serve(docker, &owner, received).await;
                    }
                    Err(error) => {
                        let _ = ready.send(Err(error));
                    }
                }
            });
        };
        let thread = std::thread::Builder::new().name("muster-docker".into()).spawn(work);
        let thread = thread.map_err(|error| step("start a thread", error))?;
        let docker = started.recv().map_err(|_| EnvironmentError::Invalid("the cleaning thread died".into()))??;
        Ok((Self { orders, thread: Some(thread) }, docker))
    }

    /// For a container that is about to be made.
    pub(super) fn remains(&self) -> Remains {
        Remains { container: None, tree: None, orders: self.orders.clone() }
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that cleans up after containers failed");
        }
    }
}

async fn serve(docker: Docker, owner: &str, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut removals = JoinSet::new();
    let mut lease = tokio::time::interval_at(tokio::time::Instant::now() + LEASE, LEASE);
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Remove { container, tree, done }) => {
                    removals.spawn(remove(docker.clone(), container, tree, done));
                }
                Some(Order::Stop) | None => break,
            },
            Some(_ended) = removals.join_next() => {}
            _ = lease.tick() => {
                if let Err(error) = remove_leftovers(&docker, owner).await {
                    tracing::warn!(error = %chain(&error), "cannot remove what dead agents have left in the engine");
                }
            }
        }
    }
    orders.close();
    while let Ok(order) = orders.try_recv() {
        if let Order::Remove { container, tree, done } = order {
            removals.spawn(remove(docker.clone(), container, tree, done));
        }
    }
    while removals.join_next().await.is_some() {}
    if let Err(error) = remove_all_of(&docker, owner).await {
        tracing::warn!(error = %chain(&error), "cannot remove what is left in the engine");
    }
}

async fn remove(docker: Docker, container: Option<String>, tree: Option<Tree>, done: Option<oneshot::Sender<Outcome>>) {
    let outcome = match &container {
        Some(id) => remove_container(&docker, id).await,
        None => Ok(()),
    };
    if let Err(error) = &outcome {
        tracing::warn!(error = %chain(error), "cannot remove a container");
    }
    // Unmounting waits for nobody, but removing many files takes its time.
    let _ = tokio::task::spawn_blocking(move || drop(tree)).await;
    if let Some(done) = done {
        let _ = done.send(outcome);
    }
}

fn chain(error: &EnvironmentError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}
