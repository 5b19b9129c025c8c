//! The bare host, for machines that can't make sandboxes.
//!
//! Layers are copied into a scratch directory, and paths beneath their mount paths in the command are rewritten to it. What a program reads by
//! a path that it has compiled in is the host's own: that is why every result made here is labelled.

mod place;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use muster_model::platform::EnvironmentKind;
use tokio::sync::mpsc;

use self::place::Scratch;
use crate::collect::{Root, collect_all};
use crate::kill::Killed;
use crate::output::{OutputLimit, pipe, pump, watch};
use crate::owned::OwnedDirectory;
use crate::{
    Environment, EnvironmentError, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch, OutputChunk,
    OutputStream, Prepared, Readiness, ResourceUsage,
};

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Where scratch directories are made; made when missing.
    pub directory: PathBuf,
}

impl HostConfig {
    /// Scratch directories in `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }
}

/// The driver.
pub struct HostEnvironment {
    directory: OwnedDirectory,
    count: AtomicU64,
}

impl fmt::Debug for HostEnvironment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HostEnvironment").field("directory", &self.directory.path()).finish_non_exhaustive()
    }
}

impl HostEnvironment {
    /// A driver that keeps its scratch directories in the given one; what a dead process left there is removed.
    ///
    /// # Errors
    ///
    /// When the directory can't be made.
    pub fn new(config: HostConfig) -> Result<Self, EnvironmentError> {
        let directory = OwnedDirectory::create(&config.directory, "host-")
            .map_err(|error| step(&format!("make a directory in {}", config.directory.display()), error))?;
        Ok(Self { directory, count: AtomicU64::new(0) })
    }
}

struct Place {
    scratch: Scratch,
    spec: EnvironmentSpec,
    preparation: Duration,
}

impl Prepared for Place {
    fn preparation(&self) -> Duration {
        self.preparation
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}

fn step(step: &str, source: io::Error) -> EnvironmentError {
    EnvironmentError::Step { step: step.to_owned(), source }
}

fn joined(error: tokio::task::JoinError) -> EnvironmentError {
    step("wait for a thread", io::Error::other(error))
}

#[async_trait]
impl Environment for HostEnvironment {
    fn kind(&self) -> EnvironmentKind {
        EnvironmentKind::Host
    }

    fn check_readiness(&self) -> Result<Readiness, EnvironmentError> {
        Ok(Readiness {
            notes: vec![
                "programs run on the bare host: they see its files, its network and its processes".into(),
                "memory and the number of processes are not limited".into(),
            ],
        })
    }

    async fn prepare(&self, spec: EnvironmentSpec) -> Result<Box<dyn Prepared>, EnvironmentError> {
        let started = Instant::now();
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.path().to_path_buf();
        let made = tokio::task::spawn_blocking(move || {
            let scratch = Scratch::create(&directory, number, &spec)?;
            Ok(Place { scratch, spec, preparation: started.elapsed() })
        });
        Ok(Box::new(made.await.map_err(joined)?.map_err(|error| step("copy the layers", error))?))
    }

    async fn run(
        &self,
        prepared: Box<dyn Prepared>,
        output: mpsc::Sender<OutputChunk>,
        kill: KillSwitch,
    ) -> Result<Exit, EnvironmentError> {
        let other = |_| EnvironmentError::Invalid("another driver made this place".into());
        let place = prepared.into_any().downcast::<Place>().map_err(other)?;
        run(*place, output, kill).await
    }
}

/// A process group that is killed when dropped.
struct Group(nix::unistd::Pid);

impl Group {
    fn kill(&self) {
        // It may be gone already.
        let _ = nix::sys::signal::killpg(self.0, nix::sys::signal::Signal::SIGKILL);
    }

    /// Whether anything besides the (reaped) leader is in it.
    fn is_empty(&self) -> bool {
        nix::sys::signal::killpg(self.0, None).is_err()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the program as the leader of a session of its own.
fn start(
    command: std::process::Command,
    spec: &EnvironmentSpec,
) -> Result<(tokio::process::Child, Group), EnvironmentError> {
    let mut command = tokio::process::Command::from(command);
    // SAFETY: `setsid` is async-signal-safe.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from)) };
    command.kill_on_drop(true);
    let program = spec.command.arguments.first().cloned().unwrap_or_default();
    // The command dies with this function, and with it our copies of the pipes' writing ends: with them open the pumps would never end.
    let child = command.spawn().map_err(|source| EnvironmentError::Start { program, source })?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(i32::MAX);
    Ok((child, Group(nix::unistd::Pid::from_raw(id))))
}

/// Reads back the files asked for and removes the scratch directory.
async fn collect_and_clean(mut place: Place) -> Result<Vec<(std::path::PathBuf, Vec<u8>)>, EnvironmentError> {
    let (wanted, collector) = (std::mem::take(&mut place.spec.collect), place.spec.collector.take());
    let collected = tokio::task::spawn_blocking(move || {
        let root = place.scratch.open_root().map(|directory| Root { path: "/".into(), directory });
        let collected = root.map(|root| collect_all(&[root], &wanted, collector.as_ref()));
        drop(place);
        collected
    });
    collected.await.map_err(joined)?.map_err(|error| step("collect files", error))
}

async fn run(place: Place, output: mpsc::Sender<OutputChunk>, switch: KillSwitch) -> Result<Exit, EnvironmentError> {
    let spec = &place.spec;
    let pipes = |error| step("make a pipe", error);
    let (standard, child_standard) = pipe().map_err(pipes)?;
    let (error, child_error) = pipe().map_err(pipes)?;
    let (standard, error) = (watch(standard)?, watch(error)?);
    let mut command = place.scratch.command(spec)?;
    command.stdin(Stdio::null()).stdout(child_standard).stderr(child_error);
    let started = Instant::now();
    let (mut child, group) = start(command, spec)?;

    let killed = Killed::default();
    let limit = OutputLimit::new(spec.output_bytes);
    let exceeded = || killed.set(KillReason::Output);
    let ended = async {
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                () = switch.pulled(), if killed.get().is_none() => {
                    killed.set(KillReason::Requested);
                    group.kill();
                }
                () = killed.pulled() => group.kill(),
            }
        };
        let ended_at = Instant::now();
        let leaked = u32::from(!group.is_empty());
        group.kill();
        (status, ended_at, leaked)
    };
    let pumps = async {
        tokio::try_join!(
            pump(&standard, OutputStream::Standard, &output, &limit, exceeded),
            pump(&error, OutputStream::Error, &output, &limit, exceeded),
        )
    };
    tokio::pin!(pumps);
    let mut pumped = None;
    let (status, ended_at, leaked) = tokio::select! {
        biased;
        ended = ended => ended,
        never = async { pumped = Some((&mut pumps).await); std::future::pending().await } => never,
    };
    if pumped.is_none() {
        // A daemon that has left the group may hold the pipes for ever.
        pumped = tokio::time::timeout(place::DRAIN_TIME, pumps).await.ok();
    }
    pumped.transpose().map_err(|error| step("read the program's output", error))?;
    let status = status.map_err(|error| step("wait for the program", error))?;
    let collected = collect_and_clean(place).await?;
    let signal = status.signal().and_then(|signal| u8::try_from(signal).ok());
    Ok(Exit {
        status: signal.map_or_else(|| ExitStatus::Code(status.code().unwrap_or(-1)), ExitStatus::Signal),
        killed: killed.get(),
        leaked_processes: leaked,
        collected,
        execution: ended_at - started,
        cleaning: ended_at.elapsed(),
        usage: ResourceUsage::default(),
    })
}
