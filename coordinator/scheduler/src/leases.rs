//! Open leases: who does what under which epoch.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use muster_model::attempt::{Stage, Work};
use muster_model::{AgentId, CaseIndex, Epoch, Instant, RunId, TargetIndex};

use crate::classes::ClassIndex;

/// Whether an attempt was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recall {
    /// Not asked for.
    No,
    /// Asked for, and neither returned nor started yet.
    Asked,
    /// It started before it could be returned.
    TooLate,
}

/// One open lease.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) agent: AgentId,
    pub(crate) run: RunId,
    pub(crate) target: TargetIndex,
    pub(crate) class: ClassIndex,
    pub(crate) work: Work,
    /// As far as the agent has said; [`Stage::Waiting`] too when it has said nothing.
    pub(crate) stage: Stage,
    /// The agent has listed it.
    pub(crate) is_listed: bool,
    /// When it was listed last, or leased.
    pub(crate) seen: Instant,
    pub(crate) leased: Instant,
    pub(crate) started: Option<Instant>,
    /// The case under way, as a position in the work's cases.
    pub(crate) running: Option<u32>,
    pub(crate) recall: Recall,
    /// Expected time of its cases together.
    pub(crate) expected: Duration,
    /// Slots that it takes.
    pub(crate) slots: u32,
    /// Memory that it has set aside on its agent.
    pub(crate) memory_bytes: u64,
    /// The groups that it holds.
    pub(crate) exclusive: Vec<String>,
    /// The ledger says that it was given before a restart.
    pub(crate) is_restored: bool,
    /// Cases without an outcome.
    pub(crate) undecided: u32,
    /// The lease whose cases it runs a second time.
    pub(crate) copy_of: Option<Epoch>,
    /// Its key among its class's stragglers.
    pub(crate) straggles_at: Option<Instant>,
}

impl Lease {
    pub(crate) fn new(
        agent: AgentId,
        run: RunId,
        target: TargetIndex,
        class: ClassIndex,
        work: Work,
        now: Instant,
    ) -> Self {
        Self {
            agent,
            run,
            target,
            class,
            work,
            stage: Stage::Waiting,
            is_listed: false,
            seen: now,
            leased: now,
            started: None,
            running: None,
            recall: Recall::No,
            expected: Duration::ZERO,
            slots: 1,
            memory_bytes: 0,
            exclusive: Vec::new(),
            is_restored: false,
            undecided: 0,
            copy_of: None,
            straggles_at: None,
        }
    }

    pub(crate) fn cases(&self) -> &[CaseIndex] {
        match &self.work {
            Work::Discover => &[],
            Work::Cases { cases, .. } => cases,
            // The one case of the target that stands for it.
            Work::Action => &[CaseIndex(0)],
        }
    }

    /// Whether no two of its cases share a process.
    pub(crate) fn is_alone(&self) -> bool {
        match &self.work {
            Work::Discover | Work::Action => true,
            Work::Cases { cases, alone } => *alone || cases.len() == 1,
        }
    }

    /// The case under way.
    pub(crate) fn running_case(&self) -> Option<CaseIndex> {
        self.cases().get(self.running? as usize).copied()
    }

    /// Whether its program may have begun.
    pub(crate) fn has_run(&self) -> bool {
        matches!(self.stage, Stage::Running | Stage::Uploading)
    }
}

/// A closed lease, with what its handling needs.
pub(crate) struct Closed {
    pub(crate) epoch: Epoch,
    pub(crate) lease: Lease,
    /// Those of its cases that have no outcome and are in no other lease.
    pub(crate) loose: Vec<CaseIndex>,
    /// Those that have none and are in another.
    pub(crate) shared: Vec<CaseIndex>,
}
