//! Test frameworks: commands out, bytes to case events, without I/O.
//!
//! A [`Framework`] says what to start and what the bytes that come back mean. It runs on the agent, next to the hostile bytes; the coordinator sees
//! only what it concluded.
//!
//! A shard of one case is a case that runs alone: its reader always reports a verdict, [`muster_model::outcome::Verdict::Crashed`] and its like
//! included, because a process that held one case leaves nobody else to blame. A shard of several reports what is beyond doubt and leaves the rest
//! open by an interruption.
//!
//! Architecture Invariant: a printed line never outranks an exit status, and no case's result is taken from a process that died before
//! naming it.

mod alone;
mod command;
mod exit_code;
mod junit;
mod libtest;
mod output;
mod pytest;

use muster_model::Instant;
use muster_model::attempt::{CaseReport, DiscoveredCase, Interruption};
use muster_model::spec::{CommandSpec, TargetSpec};
use muster_model::{CaseIndex, spec::FrameworkKind};

/// What is loaded once for all cases of a target that share it, by a case's name: for pytest its file. None where there is no such thing.
pub fn group(kind: FrameworkKind, case: &str) -> Option<&str> {
    match kind {
        FrameworkKind::Pytest => pytest::file(case),
        FrameworkKind::Libtest | FrameworkKind::ExitCode | FrameworkKind::Command => None,
    }
}

/// A program to start for a framework, and the files to read back when it is dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameworkCommand {
    /// The program.
    pub command: CommandSpec,
    /// Absolute paths in the environment.
    pub collect: Vec<String>,
}

/// How a program ended, as far as a framework needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Its exit code, or the signal it died of.
    pub status: EndingStatus,
    /// Why the agent killed it, if it did.
    pub killed: Option<Interruption>,
    /// For people, what it passed: `killed: memory (512.0 MiB of 512.0 MiB)`. Empty when it was not killed.
    pub excess: String,
    /// Processes left behind.
    pub leaked: bool,
    /// The files asked for: path and bytes; those that do not exist are not listed.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Exit code or signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndingStatus {
    /// It exited.
    Code(i32),
    /// It was killed by a signal.
    Signal(u8),
}

/// Which of a program's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Standard,
    /// Standard error.
    Error,
}

/// Something seen in the output while the program still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseEvent {
    /// The case at this position of the shard began.
    Started(u32),
    /// The case at this position ended; its verdict comes with the summary only.
    Ended(u32),
}

/// What a shard's output and end come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// One report for each case with a verdict, no case twice.
    pub reports: Vec<CaseReport>,
    /// Why others have none, and which was running.
    pub interruption: Option<(Interruption, Option<CaseIndex>)>,
}

/// Why discovery did not give a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// The project's own fault: an import error, a binary that does not know the protocol. The framework's words.
    #[error("{0}")]
    Project(String),
    /// A limit was passed or the output makes no sense.
    #[error("{0}")]
    Protocol(String),
}

/// One shard as a framework sees it.
#[derive(Clone, Debug)]
pub struct Shard<'a> {
    /// The target.
    pub target: &'a TargetSpec,
    /// The cases and their names, in the order to run.
    pub cases: &'a [(CaseIndex, String)],
    /// A random text drawn by the agent for this one process, that output can't guess beforehand.
    pub nonce: &'a str,
}

/// What one of the programs of a discovery came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryOutput {
    /// Its standard output.
    pub standard: Vec<u8>,
    /// Its standard error.
    pub error: Vec<u8>,
    /// How it ended.
    pub ending: Ending,
}

/// One test framework.
pub trait Framework: Send + Sync {
    /// What lists the target's cases: programs to run one after the other, each in an environment like that of a shard. None at all: the list is
    /// known without running anything, see [`Framework::read_discovery`].
    fn discovery_commands(&self, target: &TargetSpec, nonce: &str) -> Vec<FrameworkCommand>;

    /// Reads the list from what [`Framework::discovery_commands`] came to, one output for each command, in their order.
    ///
    /// # Errors
    ///
    /// See [`DiscoveryError`].
    fn read_discovery(
        &self,
        target: &TargetSpec,
        nonce: &str,
        outputs: &[DiscoveryOutput],
    ) -> Result<Vec<DiscoveredCase>, DiscoveryError>;

    /// What runs a shard in one process.
    fn run_command(&self, shard: &Shard<'_>) -> FrameworkCommand;

    /// Reads what that process writes.
    fn reader(&self, shard: &Shard<'_>) -> Box<dyn ResultReader>;
}

/// Makes sense of one process's output.
pub trait ResultReader: Send {
    /// Takes bytes as they come; `now` is when they came. The first call, which may bring no bytes, is the start of the program.
    fn push(&mut self, now: Instant, stream: Stream, bytes: &[u8]);

    /// The next thing seen.
    fn poll(&mut self) -> Option<CaseEvent>;

    /// The process is dead: what it came to. Every case of the shard is either reported or left open by the interruption.
    fn finish(self: Box<Self>, now: Instant, ending: Ending) -> Summary;
}

/// The framework of a kind.
pub fn framework(kind: FrameworkKind) -> &'static dyn Framework {
    match kind {
        FrameworkKind::Libtest => &libtest::Libtest,
        FrameworkKind::ExitCode => &exit_code::ExitCode,
        FrameworkKind::Pytest => &pytest::Pytest,
        FrameworkKind::Command => &command::Command,
    }
}
