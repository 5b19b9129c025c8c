//! Runs and their targets.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::time::Duration;

use muster_model::outcome::{CaseOutcome, RunOutcome};
use muster_model::{AgentId, CaseIndex, Epoch, Instant, TargetIndex};

use crate::case::Case;
use crate::classes::ClassIndex;
use crate::event::SchedulingPolicy;
use crate::queue::Queue;
use crate::shard::{Load, Mean};

/// How soon a target's first piece of work is due: discovery before cases, then by the case's priority.
pub(crate) type Urgency = u64;

/// Urgency of a discovery; above that of any case.
pub(crate) const DISCOVERY: Urgency = 1 << 32;

/// How far the listing of a target's cases is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Discovery {
    /// Waits for an agent.
    Queued,
    /// In an open lease.
    Leased(Epoch),
    /// The cases are about to be told.
    Awaited,
    /// The cases are known.
    Done,
    /// Given up.
    Failed,
}

/// A target.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) class: ClassIndex,
    /// How often a case that failed alone is tried again.
    pub(crate) retries: u32,
    pub(crate) discovery: Discovery,
    /// Faults of discovery, lost agents included.
    pub(crate) discovery_faults: u8,
    /// Agents lost with it before they said that it had started.
    pub(crate) discovery_losses_uncharged: u8,
    pub(crate) cases: Vec<Case>,
    pub(crate) company: Queue,
    pub(crate) alone: Queue,
    pub(crate) queued: u32,
    pub(crate) mean: Mean,
    /// Agents on which it met a fault, and until when it keeps away from them.
    pub(crate) avoided: Vec<(AgentId, Instant)>,
    /// The attempts in which cases failed in company.
    pub(crate) company_failures: BTreeMap<CaseIndex, Epoch>,
    /// Cases in two leases.
    pub(crate) twins: BTreeMap<CaseIndex, [Epoch; 2]>,
    /// A case that leaves processes behind was found.
    pub(crate) has_leaker: bool,
    /// Its key among its run's ready targets.
    pub(crate) urgency: Option<Urgency>,
}

impl Target {
    pub(crate) fn new(class: ClassIndex, needs_discovery: bool, retries: u32) -> Self {
        Self {
            class,
            retries,
            discovery: if needs_discovery { Discovery::Queued } else { Discovery::Awaited },
            discovery_faults: 0,
            discovery_losses_uncharged: 0,
            cases: Vec::new(),
            company: Queue::default(),
            alone: Queue::default(),
            queued: 0,
            mean: Mean::default(),
            avoided: Vec::new(),
            company_failures: BTreeMap::new(),
            twins: BTreeMap::new(),
            has_leaker: false,
            urgency: None,
        }
    }

    /// The queue whose head is due first, and that head.
    pub(crate) fn head(&mut self) -> Option<(bool, u32, CaseIndex)> {
        let company = self.company.head(&self.cases).map(|(priority, index)| (false, priority, CaseIndex(index)));
        let alone = self.alone.head(&self.cases).map(|(priority, index)| (true, priority, CaseIndex(index)));
        match (company, alone) {
            (Some(company), Some(alone)) if alone.1 >= company.1 => Some(alone),
            (Some(company), _) => Some(company),
            (None, alone) => alone,
        }
    }

    pub(crate) fn find_urgency(&mut self) -> Option<Urgency> {
        match self.discovery {
            Discovery::Queued => Some(DISCOVERY),
            Discovery::Done => self.head().map(|(_, priority, _)| priority.into()),
            Discovery::Leased(_) | Discovery::Awaited | Discovery::Failed => None,
        }
    }

    pub(crate) fn case(&self, case: CaseIndex) -> Option<&Case> {
        self.cases.get(case.0 as usize)
    }

    pub(crate) fn case_mut(&mut self, case: CaseIndex) -> &mut Case {
        &mut self.cases[case.0 as usize]
    }
}

/// Queued work of a run for one class.
#[derive(Debug, Default)]
pub(crate) struct Ready {
    pub(crate) targets: BTreeSet<(Reverse<Urgency>, TargetIndex)>,
    pub(crate) load: Load,
}

/// How a run is going to end early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody cancelled it.
    Cancelled,
    /// Its first failure ends it.
    FailedFast,
}

/// An open run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) policy: SchedulingPolicy,
    pub(crate) submitted: Instant,
    pub(crate) targets: Vec<Target>,
    /// Targets whose cases are not known yet.
    pub(crate) undiscovered: u32,
    pub(crate) failed_targets: Vec<TargetIndex>,
    pub(crate) is_planned: bool,
    /// Cases told by `CasesDiscovered`.
    pub(crate) planned: u32,
    /// Those of them that were not decided by then.
    pub(crate) to_execute: Load,
    /// Cases in a state other than decided.
    pub(crate) undecided: u32,
    /// Outcomes published, or told as decided; counted apart from `undecided`.
    pub(crate) reported: u32,
    pub(crate) leases: BTreeSet<Epoch>,
    pub(crate) ready: BTreeMap<ClassIndex, Ready>,
    pub(crate) mean: Mean,
    pub(crate) has_failure: bool,
    pub(crate) has_fault: bool,
    pub(crate) stop: Option<Stop>,
}

impl Run {
    pub(crate) fn target(&self, target: TargetIndex) -> Option<&Target> {
        self.targets.get(target.0 as usize)
    }

    pub(crate) fn target_mut(&mut self, target: TargetIndex) -> &mut Target {
        &mut self.targets[target.0 as usize]
    }

    /// Attempts under way.
    pub(crate) fn in_use(&self) -> u32 {
        self.leases.len() as u32
    }

    /// Expected time of what is queued, with `estimate` for each unknown case.
    pub(crate) fn expected(&self, estimate: Duration) -> Duration {
        self.ready.values().map(|ready| ready.load.expected(estimate)).sum()
    }

    /// Counts an outcome towards the run's own.
    pub(crate) fn tally(&mut self, outcome: CaseOutcome) {
        self.reported += 1;
        if outcome.is_success() {
            return;
        }
        match outcome {
            CaseOutcome::Fault(_) => self.has_fault = true,
            CaseOutcome::Cancelled => {}
            _ => self.has_failure = true,
        }
        if self.policy.fail_fast && outcome != CaseOutcome::Cancelled && self.stop.is_none() {
            self.stop = Some(Stop::FailedFast);
        }
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_over(&self) -> bool {
        self.undecided == 0 && self.undiscovered == 0
    }

    /// How it ended. A fault outweighs a failure: what was not run may have failed too.
    pub(crate) fn outcome(&self) -> RunOutcome {
        if self.planned != self.reported {
            return RunOutcome::Fault;
        }
        match self.stop {
            Some(Stop::Cancelled) => RunOutcome::Cancelled,
            _ if self.has_fault => RunOutcome::Fault,
            _ if self.has_failure || !self.failed_targets.is_empty() => RunOutcome::Failed,
            _ if self.planned == 0 => RunOutcome::NothingToRun,
            _ => RunOutcome::Passed,
        }
    }
}
