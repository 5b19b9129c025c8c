//! Runs and their targets.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::Range;
use core::time::Duration;

use muster_model::key::ActionKey;
use muster_model::outcome::{CaseOutcome, RunOutcome};
use muster_model::{ActionId, AgentId, CaseIndex, Epoch, Instant, TargetIndex};

use crate::case::Case;
use crate::classes::ClassIndex;
use crate::event::SchedulingPolicy;
use crate::queue::Queue;
use crate::shard::{Load, Mean};
use crate::share::Share;
use crate::tries::DiscoveryTries;

/// How soon a target's first piece of work is due: lower numbers of an action's priority first, then discovery before cases, then by the
/// case's priority.
pub(crate) type Urgency = (Reverse<i32>, u64);

/// Urgency of a discovery; above that of any case.
const DISCOVERY: u64 = 1 << 32;

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

/// What is known of a target that stands for an action: it has one case, which is discovered from the start and always runs alone.
#[derive(Debug)]
pub(crate) struct ActionNote {
    pub(crate) id: ActionId,
    /// As the client gave it: lower goes first.
    pub(crate) priority: i32,
    /// The leases on it: at most one and its copy.
    pub(crate) leases: Vec<Epoch>,
}

/// A target.
#[derive(Debug)]
pub(crate) struct Target {
    /// For a target that stands for an action.
    pub(crate) action: Option<ActionNote>,
    pub(crate) class: ClassIndex,
    /// The key of the services that its attempts need.
    pub(crate) services: Option<ActionKey>,
    /// How often a case that failed alone is tried again.
    pub(crate) retries: u32,
    pub(crate) discovery: Discovery,
    pub(crate) discovery_tries: DiscoveryTries,
    pub(crate) cases: Vec<Case>,
    pub(crate) company: Queue,
    pub(crate) alone: Queue,
    pub(crate) queued: u32,
    pub(crate) mean: Mean,
    /// What an attempt of several cases took besides its cases.
    pub(crate) overhead: Mean,
    /// Agents on which it met a fault, and until when it keeps away from them.
    pub(crate) avoided: Vec<(AgentId, Instant)>,
    /// The attempts in which cases failed in company.
    pub(crate) company_failures: BTreeMap<CaseIndex, Epoch>,
    /// Cases in two leases.
    pub(crate) twins: BTreeMap<CaseIndex, [Epoch; 2]>,
    /// A case that leaves processes behind was found.
    pub(crate) has_leaker: bool,
    /// Its cases come in groups.
    pub(crate) has_groups: bool,
    /// Its key among its run's ready targets.
    pub(crate) urgency: Option<Urgency>,
}

impl Target {
    pub(crate) fn new(class: ClassIndex, needs_discovery: bool, retries: u32) -> Self {
        Self {
            action: None,
            class,
            services: None,
            retries,
            discovery: if needs_discovery { Discovery::Queued } else { Discovery::Awaited },
            discovery_tries: DiscoveryTries::default(),
            cases: Vec::new(),
            company: Queue::default(),
            alone: Queue::default(),
            queued: 0,
            mean: Mean::default(),
            overhead: Mean::default(),
            avoided: Vec::new(),
            company_failures: BTreeMap::new(),
            twins: BTreeMap::new(),
            has_leaker: false,
            has_groups: false,
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
        let priority = Reverse(self.action.as_ref().map_or(0, |action| action.priority));
        match self.discovery {
            Discovery::Queued => Some((priority, DISCOVERY)),
            Discovery::Done => self.head().map(|(_, case, _)| (priority, case.into())),
            Discovery::Leased(_) | Discovery::Awaited | Discovery::Failed => None,
        }
    }

    pub(crate) fn case(&self, case: CaseIndex) -> Option<&Case> {
        self.cases.get(case.0 as usize)
    }

    /// The cases of a case's group, in order of discovery, as far as they are at most `reach` away from it; only itself in a target without
    /// groups.
    pub(crate) fn group_of(&self, case: CaseIndex, reach: usize) -> Range<u32> {
        let position = case.0 as usize;
        if !self.has_groups {
            return case.0..case.0 + 1;
        }
        let (least, most) = (position.saturating_sub(reach), position.saturating_add(reach).min(self.cases.len()));
        let first =
            self.cases[least..=position].iter().rposition(Case::opens_group).map_or(least, |first| least + first);
        let next = self.cases[position + 1..most.max(position + 1)].iter().position(Case::opens_group);
        first as u32..next.map_or(most.max(position + 1), |next| position + 1 + next) as u32
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
    /// Its key among the class's ready runs.
    pub(crate) listed: Option<Share>,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A run of tests, with targets that are known from the start. It has an outcome.
    Tests,
    /// The actions of one invocation: each is a target of its own, which comes and goes. Without any it goes too, and nobody is told.
    Actions {
        /// The index of the next one.
        next: u32,
    },
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
    pub(crate) purpose: Purpose,
    pub(crate) policy: SchedulingPolicy,
    pub(crate) submitted: Instant,
    pub(crate) targets: BTreeMap<TargetIndex, Target>,
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
    /// An open run without targets.
    pub(crate) fn new(purpose: Purpose, policy: SchedulingPolicy, submitted: Instant) -> Self {
        Self {
            purpose,
            policy,
            submitted,
            targets: BTreeMap::new(),
            undiscovered: 0,
            failed_targets: Vec::new(),
            is_planned: false,
            planned: 0,
            to_execute: Load::default(),
            undecided: 0,
            reported: 0,
            leases: BTreeSet::new(),
            ready: BTreeMap::new(),
            mean: Mean::default(),
            has_failure: false,
            has_fault: false,
            stop: None,
        }
    }

    pub(crate) fn target(&self, target: TargetIndex) -> Option<&Target> {
        self.targets.get(&target)
    }

    pub(crate) fn target_mut(&mut self, target: TargetIndex) -> &mut Target {
        self.targets.get_mut(&target).expect("a target lives as long as anything of it is open")
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
