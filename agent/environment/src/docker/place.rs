//! A container that is made: its program's run, end and results.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::cleaning::Remains;
use super::{Shared, step};
use crate::collect::{Root, Uppers, collect_all};
use crate::first_process::{Held, Look, Overseer, exit_status, has_ended};
use crate::groups::{ForeignGroup, GroupUsage};
use crate::kill::Killed;
use crate::output::{OutputLimit, pump};
use crate::sandbox::protocol::{Report, ReportKind};
use crate::{
    EnvironmentError, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch, OutputChunk, OutputStream, Prepared,
    ResourceUsage,
};

/// A container whose first process waits for the word to start.
pub(super) struct Place {
    pub(super) first: Held,
    /// Its first process, as this machine numbers it.
    pub(super) process: u32,
    pub(super) counters: Counters,
    pub(super) roots: Vec<Root>,
    pub(super) uppers: Uppers,
    /// Dropped after the process.
    pub(super) remains: Remains,
    pub(super) shared: Arc<Shared>,
    pub(super) spec: EnvironmentSpec,
    pub(super) preparation: Duration,
}

impl Prepared for Place {
    fn preparation(&self) -> Duration {
        self.preparation
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}

/// The engine's control group of a container.
pub(super) struct Counters(pub(super) Option<ForeignGroup>);

impl Overseer for Counters {
    fn usage(&self) -> GroupUsage {
        self.0.as_ref().map(ForeignGroup::usage).unwrap_or_default()
    }

    /// The first process waits to be killed then, however the program ended or did not start.
    fn is_enough(&self, _report: &Report) -> bool {
        true
    }

    fn freeze(&self) -> bool {
        self.0.as_ref().is_some_and(ForeignGroup::freeze)
    }

    fn is_frozen(&self) -> bool {
        self.0.as_ref().is_some_and(ForeignGroup::is_frozen)
    }

    fn thaw(&self) {
        if let Some(group) = &self.0 {
            group.thaw();
        }
    }

    fn processes(&self) -> Vec<u32> {
        self.0.as_ref().map(ForeignGroup::processes).unwrap_or_default()
    }
}

impl Place {
    /// Runs the program to its end, kills what it left, and takes everything away.
    ///
    /// # Errors
    ///
    /// When the program could not be started or something could not be removed; never for how the program ended.
    pub(super) async fn run(
        self,
        output: mpsc::Sender<OutputChunk>,
        switch: KillSwitch,
    ) -> Result<Exit, EnvironmentError> {
        let Self { first, counters, roots, uppers, remains, shared, spec, .. } = self;
        let started = Instant::now();
        let [standard, error] = first.start(Some(shared.owner))?;
        let killed = Killed::default();
        let limit = OutputLimit::new(spec.output_bytes);
        let exceeded = || killed.set(KillReason::Output);
        let mut seen = Look::at_start();
        let ended = async {
            let ended = first.ended(&counters, &killed, &switch, started, &mut seen).await?;
            // Whatever the program left, and the first process, which waits for it.
            first.end_all(&counters, &mut seen).await;
            first.dead().await?;
            Ok::<_, io::Error>(ended)
        };
        let (ended, standard, error) = tokio::join!(
            ended,
            pump(&standard, OutputStream::Standard, &output, &limit, exceeded),
            pump(&error, OutputStream::Error, &output, &limit, exceeded),
        );
        let (report, ended_at) = ended.map_err(|error| step("wait for the container", error))?;
        standard.and(error).map_err(|error| step("read the program's output", error))?;
        let usage = counters.usage();
        let mut reason = killed.get().or_else(|| usage.excess());
        let (status, leaked, execution) = match &report {
            Some(report) if has_ended(report) => {
                (exit_status(report.status), report.leaked, Duration::from_nanos(report.execution_nanoseconds))
            }
            Some(report) if report.kind == ReportKind::StartFailed as u32 => {
                let error = first.start_error(*report);
                remains.clean().await?;
                return Err(error);
            }
            _ => {
                // Nobody is left to say why: the engine has seen it.
                if reason.is_none() && shared.is_out_of_memory(&remains).await {
                    reason = Some(KillReason::Memory);
                }
                (ExitStatus::Signal(9), 0, ended_at - started)
            }
        };
        let (files, collector) = (spec.collect, spec.collector);
        let collecting = move || collect_all(&roots, Some(&uppers), &files, collector.as_ref());
        let collected = tokio::task::spawn_blocking(collecting).await;
        let collected = collected.map_err(|error| step("collect files", io::Error::other(error)))?;
        remains.clean().await?;
        let told = report.filter(has_ended);
        let mut usage = ResourceUsage {
            memory_peak_bytes: match usage.memory_peak_bytes {
                0 => told.map_or(0, |report| report.resident_bytes),
                peak => peak,
            },
            cpu: usage.cpu.unwrap_or_else(|| Duration::from_nanos(told.map_or(0, |report| report.cpu_nanoseconds))),
            written_bytes: told.map_or(0, |report| report.written_bytes).max(limit.written()),
            processes_peak: usage.processes_peak.max(leaked),
            processes_created: told.map_or(0, |report| report.created.into()),
        };
        seen.tell(&mut usage);
        Ok(Exit {
            status,
            killed: reason,
            leaked_processes: leaked,
            collected,
            execution,
            cleaning: ended_at.elapsed(),
            usage,
        })
    }
}
