//! One program in one environment: its output as it comes, its timer, its end.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use muster_environment::{
    Collector, Environment, EnvironmentError, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch, OutputChunk,
    OutputStream, Prepared, SharedNetwork, StagedLayer,
};
use muster_frameworks::{Ending, EndingStatus, FrameworkCommand, Stream};
use muster_model::attempt::{Interruption, Timings, Usage};
use muster_model::spec::{CommandSpec, EnvironmentLimits, TargetSpec};
use muster_model::{Instant, limits};
use tokio::sync::mpsc;

use crate::clock::Clock;

/// Chunks between the environment and the framework; a framework that is slow slows the program.
const OUTPUT_CHUNKS: usize = 16;

/// Where every program may leave what it likes.
const OWN_PLACES: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/home/muster"];
/// Variables that name more such places.
const OWN_VARIABLES: [&str; 3] = ["HOME", "TMPDIR", "CARGO_TARGET_TMPDIR"];

/// What is done with a program's output.
pub(super) trait Observer: Send {
    /// Takes bytes as they come. The first call brings none and is the start of the program.
    fn observe(&mut self, now: Instant, stream: Stream, bytes: &[u8]) -> Observed;
}

/// What a few bytes of output told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Observed {
    /// A case began or ended, so the timer starts again.
    pub(super) moved: bool,
    /// The last case that began, as a position in the assignment.
    pub(super) started: Option<u32>,
}

/// What an attempt's processes have taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Account {
    pub(super) timings: Timings,
    pub(super) usage: Usage,
}

impl Account {
    fn add(&mut self, exit: &Exit) {
        self.timings.environment += exit.cleaning;
        self.timings.execution += exit.execution;
        self.usage.cpu += exit.usage.cpu;
        self.usage.memory_peak_bytes = self.usage.memory_peak_bytes.max(exit.usage.memory_peak_bytes);
        self.usage.written_bytes += exit.usage.written_bytes;
        self.usage.processes_peak = self.usage.processes_peak.max(exit.usage.processes_peak);
        self.usage.processes_created += exit.usage.processes_created;
    }
}

/// What the last program changed outside of its own places.
#[derive(Clone, Default)]
pub(super) struct Strays(Arc<Mutex<Vec<String>>>);

impl Strays {
    /// What was noted since it was asked last.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn collector(&self, own: Vec<PathBuf>) -> Collector {
        let strays = self.clone();
        Collector::new(move |remains| {
            let found = remains.changed_outside(&own).into_iter().map(|path| path.to_string_lossy().into_owned());
            let found = found.filter(|path| path.len() <= limits::PATH_BYTES_MAX);
            *strays.0.lock().unwrap_or_else(PoisonError::into_inner) = found.collect();
        })
    }
}

/// Where a program may leave what it likes: its package's directory, temporary directories, its home, and what it was told to write.
fn own_places(command: &CommandSpec, collect: &[String]) -> Vec<PathBuf> {
    let told = command.environment.iter().filter(|(name, _)| OWN_VARIABLES.contains(&name.as_str()));
    let told =
        told.map(|(_, value)| value).chain([&command.working_directory]).chain(collect).filter(|path| path.len() > 1);
    OWN_PLACES.into_iter().map(PathBuf::from).chain(told.map(PathBuf::from)).collect()
}

/// The place that every process of an attempt gets one like.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) environment: Arc<dyn Environment>,
    pub(super) target: Arc<TargetSpec>,
    pub(super) layers: Vec<StagedLayer>,
    /// That of the target's services.
    pub(super) network: Option<SharedNetwork>,
    /// By which its services are found; they win over the command's own.
    pub(super) variables: Vec<(String, String)>,
}

impl Place {
    /// Makes one.
    ///
    /// With `strays`, what its program changes outside of its own places is noted there.
    pub(super) async fn prepare(
        &self,
        command: FrameworkCommand,
        strays: Option<&Strays>,
    ) -> Result<Box<dyn Prepared>, EnvironmentError> {
        let wanted = self.target.limits;
        let FrameworkCommand { mut command, collect } = command;
        let is_own = |(name, _): &(String, String)| !self.variables.iter().any(|(other, _)| other == name);
        command.environment.retain(is_own);
        command.environment.extend(self.variables.iter().cloned());
        let collector = strays.map(|strays| strays.collector(own_places(&command, &collect)));
        let spec = EnvironmentSpec {
            with_base: self.target.requirements.base.shows_base(),
            image: self.target.requirements.base.image().cloned(),
            layers: self.layers.clone(),
            command,
            memory_bytes: memory_bytes(wanted),
            processes: processes(wanted),
            output_bytes: output_bytes(wanted),
            profile: wanted.profile,
            collect: collect.into_iter().map(PathBuf::from).collect(),
            collector,
            variables: Default::default(),
            network: self.network.clone(),
        };
        self.environment.prepare(spec).await
    }
}

fn or_default<T: Default + PartialEq>(wanted: T, default: T) -> T {
    if wanted == T::default() { default } else { wanted }
}

/// One program, prepared.
pub(super) struct Process<'a, O> {
    pub(super) environment: &'a dyn Environment,
    pub(super) clock: Clock,
    /// How long it may go without a case that begins or ends.
    pub(super) case_timeout: Duration,
    /// Kills it because the attempt is not wanted any more.
    pub(super) withdrawn: &'a KillSwitch,
    /// Hears of the cases that begin.
    pub(super) cases: &'a mpsc::Sender<u32>,
    pub(super) observer: &'a mut O,
    /// What the place was made with.
    pub(super) limits: EnvironmentLimits,
}

impl<O: Observer> Process<'_, O> {
    /// Runs it to its end.
    pub(super) async fn run(
        self,
        prepared: Box<dyn Prepared>,
        account: &mut Account,
    ) -> Result<Ending, EnvironmentError> {
        account.timings.environment += prepared.preparation();
        let Self { environment, clock, case_timeout, withdrawn, cases, observer, limits } = self;
        let switch = KillSwitch::default();
        let (sender, mut output) = mpsc::channel::<OutputChunk>(OUTPUT_CHUNKS);
        let mut program = pin!(environment.run(prepared, sender, switch.clone()));
        let mut timer = pin!(tokio::time::sleep(case_timeout));
        let mut withdrawal = pin!(withdrawn.pulled());
        let mut is_withdrawn = false;
        let mut is_late = false;
        let mut moved_at = tokio::time::Instant::now();
        let mut unmoved = Duration::ZERO;
        let mut is_silent = false;
        tell(cases, observer.observe(clock.now(), Stream::Standard, &[])).await;
        let exit = loop {
            tokio::select! {
                biased;
                () = &mut withdrawal, if !is_withdrawn => {
                    is_withdrawn = true;
                    switch.pull();
                }
                () = &mut timer, if !is_late => {
                    is_late = true;
                    unmoved = moved_at.elapsed();
                    switch.pull();
                }
                chunk = output.recv(), if !is_silent => match chunk {
                    Some(chunk) => {
                        let observed = take(observer, &clock, &chunk);
                        if observed.moved && !is_late {
                            moved_at = tokio::time::Instant::now();
                            timer.as_mut().reset(moved_at + case_timeout);
                        }
                        tell(cases, observed).await;
                    }
                    None => is_silent = true,
                },
                exit = &mut program => break exit?,
            }
        };
        while let Some(chunk) = output.recv().await {
            tell(cases, take(observer, &clock, &chunk)).await;
        }
        account.add(&exit);
        let excess = exit.killed.map(|reason| match reason {
            KillReason::Requested => excess_of_time(unmoved, case_timeout),
            KillReason::Memory => excess_of_memory(exit.usage.memory_peak_bytes, limits),
            KillReason::Output => excess_of_output(limits),
            KillReason::Processes => excess_of_processes(limits),
        });
        Ok(ending(exit, excess.unwrap_or_default()))
    }
}

fn take(observer: &mut impl Observer, clock: &Clock, chunk: &OutputChunk) -> Observed {
    let stream = match chunk.stream {
        OutputStream::Standard => Stream::Standard,
        OutputStream::Error => Stream::Error,
    };
    observer.observe(clock.now(), stream, &chunk.bytes)
}

async fn tell(cases: &mpsc::Sender<u32>, observed: Observed) {
    if let Some(position) = observed.started {
        // Nobody listens any more when the agent stops.
        let _ = cases.send(position).await;
    }
}

fn excess_of_time(used: Duration, limit: Duration) -> String {
    format!("killed: time ({:.2} s of {} s)", used.as_secs_f64(), limit.as_secs_f64())
}

fn excess_of_memory(used: u64, limits: EnvironmentLimits) -> String {
    format!("killed: memory ({} of {})", size(used), size(memory_bytes(limits)))
}

/// The rest was not read.
fn excess_of_output(limits: EnvironmentLimits) -> String {
    let limit = size(output_bytes(limits));
    format!("killed: output ({limit} of {limit}, and more to come)")
}

/// The kernel refuses the next one when there are as many as may be.
fn excess_of_processes(limits: EnvironmentLimits) -> String {
    let limit = processes(limits);
    format!("killed: processes ({limit} of {limit}, and another was asked for)")
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    let kib = bytes as f64 / KIB;
    if kib < KIB { format!("{kib:.1} KiB") } else { format!("{:.1} MiB", kib / KIB) }
}

fn memory_bytes(limits: EnvironmentLimits) -> u64 {
    or_default(limits.memory_bytes, limits::ENVIRONMENT_MEMORY_BYTES_DEFAULT)
}

fn processes(limits: EnvironmentLimits) -> u32 {
    or_default(limits.processes, limits::ENVIRONMENT_PROCESSES_DEFAULT)
}

fn output_bytes(limits: EnvironmentLimits) -> u64 {
    or_default(limits.output_bytes, limits::ENVIRONMENT_OUTPUT_BYTES_DEFAULT)
}

fn ending(exit: Exit, excess: String) -> Ending {
    Ending {
        status: match exit.status {
            ExitStatus::Code(code) => EndingStatus::Code(code),
            ExitStatus::Signal(signal) => EndingStatus::Signal(signal),
        },
        killed: exit.killed.map(|reason| match reason {
            // The report of a withdrawn attempt is thrown away, so a switch that mattered was pulled by the timer.
            KillReason::Requested => Interruption::TimedOut,
            KillReason::Memory => Interruption::MemoryExceeded,
            KillReason::Output => Interruption::OutputExceeded,
            KillReason::Processes => Interruption::ProcessesExceeded,
        }),
        excess,
        leaked: exit.leaked_processes > 0,
        files: exit.collected.into_iter().map(|(path, bytes)| (path.to_string_lossy().into_owned(), bytes)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_and_what_the_limit_was_is_told() {
        let given =
            EnvironmentLimits { memory_bytes: 64 << 20, processes: 20, output_bytes: 1500, ..Default::default() };
        let told = [
            excess_of_time(Duration::from_millis(60_020), Duration::from_secs(60)),
            excess_of_memory(64 << 20, given),
            excess_of_output(given),
            excess_of_processes(given),
            excess_of_processes(EnvironmentLimits::default()),
        ];
        insta::assert_snapshot!(told.join("\n"), @r"
        killed: time (60.02 s of 60 s)
        killed: memory (64.0 MiB of 64.0 MiB)
        killed: output (1.5 KiB of 1.5 KiB, and more to come)
        killed: processes (20 of 20, and another was asked for)
        killed: processes (512 of 512, and another was asked for)
        ");
    }
}
