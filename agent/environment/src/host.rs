//! The bare host, for machines that can't make sandboxes.
//!
//! Layers are copied into a scratch directory, and paths beneath their mount paths in the command are rewritten to it. What a program reads by
//! a path that it has compiled in is the host's own: that is why every result made here is labelled.

mod keeper;
mod place;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use muster_model::platform::EnvironmentKind;
use tokio::sync::mpsc;

use self::keeper::{Keeper, Told};
use self::place::Scratch;
use crate::collect::{Root, collect_all};
use crate::groups::{ControlGroup, GroupUsage, Groups};
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
    groups: Groups,
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
        Ok(Self { directory, groups: Groups::discover(), count: AtomicU64::new(0) })
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
        let mut notes =
            vec!["programs run on the bare host: they see its files, its network and its processes".to_owned()];
        if let Groups::None(reason) = &self.groups {
            notes.push(format!("memory and the number of processes are not limited: {reason}"));
        }
        Ok(Readiness { notes })
    }

    async fn prepare(&self, spec: EnvironmentSpec) -> Result<Box<dyn Prepared>, EnvironmentError> {
        if spec.network.is_some() {
            return Err(EnvironmentError::Invalid("a bare host has no networks of its own".into()));
        }
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
        let mut group = self.groups.create().map_err(|error| step("make a control group", error))?;
        let limits = (place.spec.memory_bytes, place.spec.processes);
        group.begin(limits.0, limits.1).map_err(|error| step("limit memory and processes", error))?;
        run(*place, group, output, kill).await
    }
}

/// Reads back the files asked for and removes the scratch directory.
async fn collect_and_clean(mut place: Place) -> Result<Vec<(std::path::PathBuf, Vec<u8>)>, EnvironmentError> {
    let (wanted, collector) = (std::mem::take(&mut place.spec.collect), place.spec.collector.take());
    let collected = tokio::task::spawn_blocking(move || {
        let root = place.scratch.open_root().map(|directory| Root { path: "/".into(), directory });
        let collected = root.map(|root| collect_all(&[root], None, &wanted, collector.as_ref()));
        drop(place);
        collected
    });
    collected.await.map_err(joined)?.map_err(|error| step("collect files", error))
}

/// Starts the program in its control group, under a keeper of its own.
fn start(
    place: &Place,
    group: &dyn ControlGroup,
    standard: OwnedFd,
    error: OwnedFd,
) -> Result<(tokio::process::Child, Keeper), EnvironmentError> {
    let mut command = place.scratch.command(&place.spec)?;
    command.stdin(Stdio::null()).stdout(standard).stderr(error);
    let doors = group.doors().map_err(|error| step("limit memory and processes", error))?;
    let program = place.spec.command.arguments.first().cloned().unwrap_or_default();
    Keeper::start(command.into(), doors).map_err(|source| EnvironmentError::Start { program, source })
}

async fn run(
    place: Place,
    group: Box<dyn ControlGroup>,
    output: mpsc::Sender<OutputChunk>,
    switch: KillSwitch,
) -> Result<Exit, EnvironmentError> {
    let spec = &place.spec;
    let pipes = |error| step("make a pipe", error);
    let (standard, child_standard) = pipe().map_err(pipes)?;
    let (error, child_error) = pipe().map_err(pipes)?;
    let (standard, error) = (watch(standard)?, watch(error)?);
    let started = Instant::now();
    let (mut child, mut keeper) = start(&place, group.as_ref(), child_standard, child_error)?;

    let killed = Killed::default();
    let limit = OutputLimit::new(spec.output_bytes);
    let exceeded = || killed.set(KillReason::Output);
    let ended = async {
        let status = loop {
            tokio::select! {
                status = child.wait() => break status,
                () = switch.pulled(), if killed.get().is_none() => killed.set(KillReason::Requested),
                () = killed.pulled() => keeper.kill(),
            }
        };
        let ended_at = Instant::now();
        (status, ended_at, keeper.told())
    };
    let pumps = async {
        tokio::try_join!(
            pump(&standard, OutputStream::Standard, &output, &limit, exceeded),
            pump(&error, OutputStream::Error, &output, &limit, exceeded),
        )
    };
    tokio::pin!(pumps);
    let mut pumped = None;
    let (status, ended_at, told) = tokio::select! {
        biased;
        ended = ended => ended,
        never = async { pumped = Some((&mut pumps).await); std::future::pending().await } => never,
    };
    if pumped.is_none() {
        // Nobody is left who could hold the pipes, unless the kernel keeps one from dying.
        pumped = tokio::time::timeout(place::DRAIN_TIME, pumps).await.ok();
    }
    pumped.transpose().map_err(|error| step("read the program's output", error))?;
    let status = status.map_err(|error| step("wait for the program", error))?;
    let used = group.usage();
    if let Some(reason) = used.excess() {
        killed.set(reason);
    }
    let collected = collect_and_clean(place).await?;
    let signal = status.signal().and_then(|signal| u8::try_from(signal).ok());
    Ok(Exit {
        status: signal.map_or_else(|| ExitStatus::Code(status.code().unwrap_or(-1)), ExitStatus::Signal),
        killed: killed.get(),
        leaked_processes: told.left,
        collected,
        execution: ended_at - started,
        cleaning: ended_at.elapsed(),
        usage: ResourceUsage { written_bytes: told.written_bytes.max(limit.written()), ..usage(&used, &told) },
    })
}

/// What the program's group and its keeper know of what it used.
fn usage(used: &GroupUsage, told: &Told) -> ResourceUsage {
    ResourceUsage {
        // Without control groups, the largest process is the best that is known.
        memory_peak_bytes: if used.memory_peak_bytes == 0 { told.resident_bytes } else { used.memory_peak_bytes },
        cpu: used.cpu.unwrap_or(told.cpu),
        written_bytes: told.written_bytes,
        processes_peak: used.processes_peak.max(told.left),
        // Nobody counts them in the namespace that everybody shares.
        processes_created: 0,
    }
}
