//! What the test said, apart from what the fleet did.

use alloc::string::String;

/// What one attempt at one case said. Never mixed with a [`Fault`]: a verdict is the test's, a fault is the fleet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It ran and said that it failed.
    Failed,
    /// It said that it was not to be run.
    Skipped,
    /// Its process died of this signal, or, as 0, ended without a word while the case was running.
    Crashed {
        /// The signal's number; 0 for an exit without a word.
        signal: u8,
    },
    /// It passed its wall-clock time and was killed.
    TimedOut,
    /// It passed its memory and was killed.
    MemoryExceeded,
    /// It wrote more than it may.
    OutputExceeded,
    /// It wanted more processes and threads at one time than it may have, and was killed.
    ProcessesExceeded,
}

impl Verdict {
    /// Whether a run with this as a final verdict can pass.
    pub fn is_success(self) -> bool {
        matches!(self, Self::Passed | Self::Skipped)
    }

    /// The name used on the wire, in JSON and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Crashed { .. } => "crashed",
            Self::TimedOut => "timed_out",
            Self::MemoryExceeded => "memory_exceeded",
            Self::OutputExceeded => "output_exceeded",
            Self::ProcessesExceeded => "processes_exceeded",
        }
    }
}

/// What the fleet did wrong in one attempt. Costs the test nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Its class, which decides what happens next.
    pub kind: FaultKind,
    /// One sentence for people, causes included.
    pub message: String,
}

/// The classes of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FaultKind {
    /// The agent went away, or its lease ran out. Charged as a suspicion to the cases that were running.
    AgentLost,
    /// An input could not be had or did not verify.
    Inputs,
    /// The environment could not be made.
    Environment,
    /// The program could not be started at all.
    Start,
    /// The agent was asked to stop, or gave unstarted work back. Never counted against anything.
    Returned,
    /// Discovery's or a case's output could not be understood.
    Protocol,
}

impl FaultKind {
    /// The name used on the wire, in JSON and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::AgentLost => "agent_lost",
            Self::Inputs => "inputs",
            Self::Environment => "environment",
            Self::Start => "start",
            Self::Returned => "returned",
            Self::Protocol => "protocol",
        }
    }
}

/// How a case ended in a run: the one thing that is reported, and never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CaseOutcome {
    /// A verdict reached on the first try, or taken from the cache.
    Verdict(Verdict),
    /// Passed after it had failed alone.
    Flaky,
    /// Failed in company, passed alone.
    Interference,
    /// Took agents down with it, in company and alone.
    Poison,
    /// The fleet's own fault: no verdict could be had.
    Fault(FaultKind),
    /// Cancelled before it had a verdict.
    Cancelled,
}

impl CaseOutcome {
    /// Whether the run can still pass.
    pub fn is_success(self) -> bool {
        match self {
            Self::Verdict(verdict) => verdict.is_success(),
            Self::Flaky | Self::Interference => true,
            Self::Poison | Self::Fault(_) | Self::Cancelled => false,
        }
    }

    /// The name used on the wire, in JSON and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Verdict(verdict) => verdict.name(),
            Self::Flaky => "flaky",
            Self::Interference => "interference",
            Self::Poison => "poison",
            Self::Fault(_) => "fault",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RunOutcome {
    /// Every planned case was reported exactly once and none failed.
    Passed,
    /// At least one case failed.
    Failed,
    /// The fleet could not keep its promise: a case without a verdict, or planned and reported differ.
    Fault,
    /// Somebody cancelled it.
    Cancelled,
    /// Nothing matched.
    NothingToRun,
}

impl RunOutcome {
    /// The name used on the wire, in JSON and in the ledger.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Fault => "fault",
            Self::Cancelled => "cancelled",
            Self::NothingToRun => "nothing_to_run",
        }
    }
}
