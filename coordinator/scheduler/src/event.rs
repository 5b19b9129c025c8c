//! What has happened: the inputs of the scheduler.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use muster_model::attempt::{AttemptStatus, Interruption, Work};
use muster_model::key::ActionKey;
use muster_model::outcome::{CaseOutcome, FaultKind, Verdict};
use muster_model::platform::{Offer, Requirements};
use muster_model::spec::Isolation;
use muster_model::{ActionId, AgentId, CaseIndex, Epoch, InvocationId, RunId, TargetIndex};

use crate::tries::{CaseTries, DiscoveryTries};

/// Something that has happened. Names are past participles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An agent opened a stream. If it was known, it has come back: what it still holds follows in [`Event::AgentReported`], and it gets no
    /// work before that.
    AgentConnected {
        /// Who.
        agent: AgentId,
        /// How many attempts it runs at one time; at least 1.
        slots: u32,
        /// What it has.
        offer: Offer,
    },
    /// An agent said what it is doing. Every message of an agent comes here and renews its leases.
    AgentReported {
        /// Who.
        agent: AgentId,
        /// It takes no new work.
        draining: bool,
        /// Every attempt that it holds.
        attempts: Vec<AttemptStatus>,
        /// The keys of the sets of services that it keeps running for nobody ([`muster_model::key::services_key`]), once for each set.
        warm: Vec<ActionKey>,
    },
    /// An agent's stream ended, and it has no newer one.
    AgentDisconnected {
        /// Who.
        agent: AgentId,
    },
    /// A run was accepted and is in the ledger.
    RunSubmitted {
        /// Which.
        run: RunId,
        /// How it behaves.
        policy: SchedulingPolicy,
        /// Its targets, by position.
        targets: Vec<TargetSeed>,
    },
    /// A target's cases are known: from the cache, or from an attempt that [`crate::Command::AcceptDiscovery`] accepted.
    CasesDiscovered {
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// Its planned cases, by position; those left out by filters are not among them.
        cases: Vec<CaseSeed>,
    },
    /// An attempt ended; the loud half keeps the whole report under its epoch until the commands that follow are carried out.
    AttemptFinished {
        /// Who says so.
        agent: AgentId,
        /// Which attempt.
        epoch: Epoch,
        /// How.
        end: AttemptEnd,
    },
    /// Somebody cancelled a run.
    RunCancelled {
        /// Which.
        run: RunId,
    },
    /// An action is to be run: its inputs are there, and nobody knows its result.
    ActionSubmitted {
        /// Which; never used before.
        action: ActionId,
        /// With whose other actions it shares its place in the queue.
        invocation: InvocationId,
        /// How it is to be run.
        seed: ActionSeed,
    },
    /// Nobody waits for an action any more.
    ActionCancelled {
        /// Which.
        action: ActionId,
    },
    /// After a restart: a lease that the ledger holds open. Given after the run's `RunSubmitted` and `CasesDiscovered`; the agent has one
    /// lease time to come back with it. Who gives it counts it to the agent's desired state, as after an `Assign`; a lease that is of no use
    /// any more is answered with [`crate::Command::Withdraw`].
    LeaseRestored {
        /// The fencing number.
        epoch: Epoch,
        /// Who holds it.
        agent: AgentId,
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// What it is doing.
        work: Work,
    },
    /// An agent is known to have put an end to an attempt that was withdrawn or lost: it has taken in a desired state without it, and neither holds
    /// it nor is still ending it.
    AttemptVacated {
        /// Who.
        agent: AgentId,
        /// Which attempt.
        epoch: Epoch,
    },
    /// After a restart: an attempt that was withdrawn or lost less than a lease before, so that it may not have ended yet. Given before anything
    /// is leased.
    VacatingRestored {
        /// The fencing number.
        epoch: Epoch,
        /// Who held it.
        agent: AgentId,
        /// The exclusive groups that it was in.
        exclusive: Vec<String>,
    },
}

/// The part of a run's policy that scheduling needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulingPolicy {
    /// How cases share processes.
    pub isolation: Isolation,
    /// How often a case that failed alone is tried again.
    pub retries: u32,
    /// Cancel what has no verdict after the first final failure.
    pub fail_fast: bool,
}

/// A target as a run is submitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetSeed {
    /// What an agent must offer.
    pub requirements: Requirements,
    /// Whether an attempt has to list its cases; otherwise `CasesDiscovered` follows by itself.
    pub needs_discovery: bool,
    /// How often a case that failed alone is tried again, where that is not what the run's policy says.
    pub retries: Option<u32>,
    /// The key of the services that its attempts need, if they need any.
    pub services: Option<ActionKey>,
    /// After a restart: what was charged to its discovery before, as the last [`crate::Command::RecordDiscoveryTries`] said.
    pub discovery_tries: DiscoveryTries,
}

/// A case as its target is discovered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaseSeed {
    /// From history; none is *unknown* and sorts as longest.
    pub expected: Option<Duration>,
    /// Failed when it was last run: goes first.
    pub failed_last: bool,
    /// History says that it needs a process of its own.
    pub needs_alone: bool,
    /// Already decided: from the cache, by being ignored, or before a restart. Whoever gives it has published it: it is counted, and no
    /// [`crate::Command::DecideCase`] follows.
    pub decided: Option<CaseOutcome>,
    /// It is the first of a group, in order of discovery: cases that need the same to be loaded, so that they are best run together. Of a target
    /// without groups, no case is.
    pub opens_group: bool,
    /// After a restart: what was charged to it before, as the last [`crate::Command::RecordTries`] said.
    pub tries: CaseTries,
}

/// An action as it is submitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActionSeed {
    /// What an agent must offer.
    pub requirements: Requirements,
    /// Lower goes first among the actions of one invocation, and between invocations a hundred steps are a factor of two.
    pub priority: i32,
    /// From history; none is *unknown* and sorts as longest.
    pub expected: Option<Duration>,
}

/// How an attempt ended, without its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    /// The cases were listed; their names are in the report.
    Discovered,
    /// Listing failed in a way that is the project's own.
    DiscoveryFailed,
    /// Cases were run.
    Ran {
        /// At most one for each case of the attempt.
        cases: Vec<CaseEnd>,
        /// Why the others have none, and the case that was running then.
        interruption: Option<(Interruption, Option<CaseIndex>)>,
        /// Processes were left behind, and with several cases in the process nobody knows by which.
        leaked_in_company: bool,
    },
    /// An action's program was run to an end, whichever.
    ActionRan {
        /// How long it ran.
        duration: Duration,
    },
    /// The fleet's fault.
    Fault(FaultKind),
}

/// How a case ended in one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseEnd {
    /// Which.
    pub case: CaseIndex,
    /// What the test said.
    pub verdict: Verdict,
    /// How long it ran; teaches the run about cases whose time is unknown.
    pub duration: Duration,
    /// A sanitizer or race detector spoke.
    pub never_retry: bool,
    /// It ran alone and left processes behind.
    pub leaked: bool,
}
