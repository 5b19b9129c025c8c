//! What is to be done: the outputs of the scheduler.

use alloc::vec::Vec;
use core::time::Duration;

use muster_model::attempt::{Stage, Work};
use muster_model::outcome::{CaseOutcome, FaultKind, RunOutcome};
use muster_model::{ActionId, AgentId, CaseIndex, Epoch, RunId, TargetIndex};

/// How an action ended for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionEnd {
    /// Its program was run to an end, whichever: the report of the attempt says how.
    Ran,
    /// The fleet could not run it.
    Fault(FaultKind),
    /// It took agents down with it.
    Poison,
    /// Nobody waits for it any more.
    Cancelled,
}

impl From<CaseOutcome> for ActionEnd {
    fn from(outcome: CaseOutcome) -> Self {
        match outcome {
            CaseOutcome::Verdict(_) | CaseOutcome::Flaky | CaseOutcome::Interference => Self::Ran,
            CaseOutcome::Fault(kind) => Self::Fault(kind),
            CaseOutcome::Poison => Self::Poison,
            CaseOutcome::Cancelled => Self::Cancelled,
        }
    }
}

use crate::tries::{CaseTries, DiscoveryTries};

/// Something to do. Names are imperatives. Carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Write a lease to the ledger. Durable before the `Assign` that follows it.
    RecordLease {
        /// The fencing number.
        epoch: Epoch,
        /// Who gets it.
        agent: AgentId,
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// What is to be done.
        work: Work,
    },
    /// Give an attempt to an agent: add it to the agent's desired state.
    Assign {
        /// Who.
        agent: AgentId,
        /// The attempt, as `RecordLease` described it.
        epoch: Epoch,
    },
    /// Ask for an attempt back if it has not started. The agent answers with a `Returned` fault, or by running it.
    Recall {
        /// Who.
        agent: AgentId,
        /// Which.
        epoch: Epoch,
    },
    /// Take an attempt out of an agent's desired state: it is to be killed and forgotten. Its lease is closed.
    Withdraw {
        /// Who.
        agent: AgentId,
        /// Which.
        epoch: Epoch,
    },
    /// Tell an agent that it may forget a finished attempt: what it said is in the ledger, or it was fenced.
    Acknowledge {
        /// Who.
        agent: AgentId,
        /// Which.
        epoch: Epoch,
        /// The report came under an epoch that was not open: nothing of it counts, and it is kept as evidence only.
        fenced: bool,
    },
    /// Take the cases of this finished discovery: apply filters, history and cache, and answer with `CasesDiscovered`.
    AcceptDiscovery {
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// The attempt whose report has the names.
        epoch: Epoch,
    },
    /// Every target is discovered.
    PlanRun {
        /// Which.
        run: RunId,
        /// Cases that will be reported.
        planned: u32,
        /// Expected execution time of those that must be executed, over all of them.
        expected: Duration,
    },
    /// Tell watchers that a case is under way.
    ReportCaseStarted {
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// The case.
        case: CaseIndex,
        /// Where.
        agent: AgentId,
    },
    /// Tell watchers of a fault that does not decide anything by itself.
    ReportFault {
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// The attempt.
        epoch: Epoch,
        /// Where.
        agent: AgentId,
        /// Its class.
        kind: FaultKind,
        /// The cases that were in the attempt and have no verdict.
        cases: Vec<CaseIndex>,
    },
    /// Write a case's outcome to the ledger, publish it, and put it into the cache if it may go there. Never said twice for a case.
    DecideCase {
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// The case.
        case: CaseIndex,
        /// How it ended.
        outcome: CaseOutcome,
        /// The attempt that decided it, if one did; its report has the words.
        epoch: Option<Epoch>,
        /// For interference: the attempt in which it failed in company.
        company: Option<Epoch>,
        /// How many attempts were made at it.
        attempts: u32,
    },
    /// Write to the ledger what has been charged to a case that has no outcome yet; the last word counts. Durable before the case's next
    /// lease is.
    RecordTries {
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// The case.
        case: CaseIndex,
        /// All that has been charged so far.
        tries: CaseTries,
    },
    /// Write to the ledger what has been charged to a discovery that is tried again; the last word counts. Durable before its next lease is.
    RecordDiscoveryTries {
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// All that has been charged so far.
        tries: DiscoveryTries,
    },
    /// Remember how a case has to be isolated from now on.
    RememberIsolation {
        /// The run.
        run: RunId,
        /// The target.
        target: TargetIndex,
        /// The case.
        case: CaseIndex,
        /// Whether it needs a process of its own.
        needs_alone: bool,
    },
    /// Reserve in the ledger every epoch below this one, so that none of them is drawn again after a restart. Durable before an
    /// `AssignAction` that follows it.
    ReserveEpochs {
        /// The first epoch that is not reserved.
        below: Epoch,
    },
    /// Give an action to an agent: add it to the agent's desired state. Its lease is not recorded; its epoch is a reserved one.
    AssignAction {
        /// Who.
        agent: AgentId,
        /// The attempt.
        epoch: Epoch,
        /// The action.
        action: ActionId,
    },
    /// Tell those who wait for an action how far it is.
    ReportActionStage {
        /// The action.
        action: ActionId,
        /// The attempt.
        epoch: Epoch,
        /// Where.
        agent: AgentId,
        /// How far.
        stage: Stage,
    },
    /// Note a fault that does not decide anything by itself.
    ReportActionFault {
        /// The action.
        action: ActionId,
        /// The attempt.
        epoch: Epoch,
        /// Where.
        agent: AgentId,
        /// Its class.
        kind: FaultKind,
    },
    /// Answer everybody who waits for an action. Never said twice for one.
    FinishAction {
        /// The action.
        action: ActionId,
        /// How it ended.
        end: ActionEnd,
        /// The attempt that decided it, if one did; its report has the result.
        epoch: Option<Epoch>,
        /// How many attempts were made at it.
        attempts: u32,
    },
    /// Close a run in the ledger and tell its watchers.
    FinishRun {
        /// Which.
        run: RunId,
        /// How.
        outcome: RunOutcome,
        /// Cases planned.
        planned: u32,
        /// Cases decided; differs from `planned` only in an outcome of fault.
        reported: u32,
        /// Targets whose discovery failed.
        undiscovered: Vec<TargetIndex>,
    },
}
