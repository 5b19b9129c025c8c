//! What must hold after every step, seen from outside: not by what the scheduler believes but by what was leased, run and decided.

use std::collections::{BTreeMap, BTreeSet};

use muster_model::attempt::Work;
use muster_model::limits::PREFETCH_PER_AGENT;
use muster_model::outcome::{CaseOutcome, FaultKind, RunOutcome, Verdict};
use muster_model::platform::Resources;
use muster_model::{AgentId, CaseIndex, Epoch, RunId, TargetIndex};

use super::ledger::State;
use super::network::Content;
use super::plan::{Behaviour, PlannedRun};

/// A case of a run.
pub(super) type CaseName = (RunId, TargetIndex, CaseIndex);

/// Leases as an outsider counts them.
#[derive(Debug, Default)]
pub(super) struct LeaseCheck {
    open: BTreeMap<Epoch, (AgentId, Vec<CaseName>, u32)>,
    by_case: BTreeMap<CaseName, BTreeSet<Epoch>>,
    recalled: BTreeSet<Epoch>,
    closed: BTreeSet<Epoch>,
}

impl LeaseCheck {
    /// A lease was made.
    ///
    /// # Panics
    ///
    /// When its epoch was used before, or one of its cases is leased already (I5): twice is allowed for the copy of a straggler, on
    /// another agent, and never while a recalled lease has not been answered; or the agent has no room (I7), of which nothing is ahead of its slots
    /// for what takes more than any one of them.
    pub(super) fn opened(&mut self, epoch: Epoch, agent: AgentId, slots: u32, content: &Content, taken: &Resources) {
        assert!(!self.closed.contains(&epoch) && !self.open.contains_key(&epoch), "epoch {epoch} was used before");
        let cases = cases_of(content);
        for case in &cases {
            let epochs = self.by_case.entry(*case).or_default();
            for other in epochs.iter() {
                assert!(!self.recalled.contains(other), "I5: {case:?} is leased again before its recall was answered");
                assert_ne!(self.open[other].0, agent, "I5: {case:?} is leased twice to agent {agent}");
            }
            epochs.insert(epoch);
            assert!(epochs.len() <= 2, "I5: {case:?} has {} leases", epochs.len());
        }
        self.open.insert(epoch, (agent, cases, taken.slots_taken()));
        let held = self.held(agent);
        let room = slots + if taken.is_special() { 0 } else { PREFETCH_PER_AGENT };
        assert!(held <= room, "I7: agent {agent} was given attempts for {held} slots and has room for {room}");
    }

    pub(super) fn recalled(&mut self, epoch: Epoch) {
        self.recalled.insert(epoch);
    }

    /// The agent says that it has started the attempt: the recall came too late.
    pub(super) fn started(&mut self, epoch: Epoch) {
        self.recalled.remove(&epoch);
    }

    pub(super) fn closed(&mut self, epoch: Epoch) {
        self.recalled.remove(&epoch);
        self.closed.insert(epoch);
        if let Some((_, cases, _)) = self.open.remove(&epoch) {
            for case in cases {
                if let Some(epochs) = self.by_case.get_mut(&case) {
                    epochs.remove(&epoch);
                }
            }
        }
    }

    /// The slots of the attempts that an agent holds.
    pub(super) fn held(&self, agent: AgentId) -> u32 {
        self.open.values().filter(|(holder, ..)| *holder == agent).map(|(.., slots)| slots).sum()
    }

    /// Whether somebody has any of these cases already.
    pub(super) fn is_leased(&self, content: &Content) -> bool {
        cases_of(content).iter().any(|case| self.by_case.get(case).is_some_and(|epochs| !epochs.is_empty()))
    }

    /// How many leases are open.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_closed(&self, epoch: Epoch) -> bool {
        self.closed.contains(&epoch)
    }

    /// After a crash of the coordinator: what its ledger holds open is open, also what it was about to close when it lost its power, and
    /// nothing else is; nothing from `first` on has ever been told to anybody.
    pub(super) fn restore(
        &mut self,
        open: &BTreeMap<Epoch, (AgentId, Content)>,
        first: Epoch,
        taken: impl Fn(&Content) -> u32,
    ) {
        self.closed.extend(std::mem::take(&mut self.open).into_keys());
        self.closed.retain(|epoch| !open.contains_key(epoch) && *epoch < first);
        self.by_case.clear();
        self.recalled.clear();
        for (&epoch, (agent, content)) in open {
            let cases = cases_of(content);
            for case in &cases {
                self.by_case.entry(*case).or_default().insert(epoch);
            }
            self.open.insert(epoch, (*agent, cases, taken(content)));
        }
    }
}

fn cases_of(content: &Content) -> Vec<CaseName> {
    match &content.work {
        Work::Discover => Vec::new(),
        // An action stands for itself.
        Work::Action => vec![(content.run, content.target, CaseIndex(0))],
        Work::Cases { cases, .. } => cases.iter().map(|&case| (content.run, content.target, case)).collect(),
    }
}

/// What may excuse an outcome.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excuses {
    /// Agents that were lost with the case in their hands: killed, frozen or cut off, which nobody can tell apart from afar.
    pub(super) losses: u32,
    /// The run was cancelled, or fails fast.
    pub(super) cancelled: bool,
    /// Environments fail now and then, or no agent may be there.
    pub(super) faults: bool,
}

/// Whether an outcome can be the truth about a case that behaves like this.
///
/// # Panics
///
/// When it can't.
pub(super) fn check_outcome(
    case: CaseName,
    behaviour: Behaviour,
    retries: u32,
    outcome: CaseOutcome,
    excuses: Excuses,
) {
    let truthful = match outcome {
        CaseOutcome::Cancelled => excuses.cancelled,
        CaseOutcome::Fault(FaultKind::AgentLost | FaultKind::Returned) => false,
        CaseOutcome::Fault(_) => excuses.faults,
        CaseOutcome::Poison => excuses.losses >= 2,
        CaseOutcome::Flaky => retries > 0 && matches!(behaviour, Behaviour::FailsAtFirst(_)),
        CaseOutcome::Interference => {
            matches!(behaviour, Behaviour::SuffersFromCompany | Behaviour::FailsAtFirst(_))
        }
        CaseOutcome::Verdict(verdict) => match behaviour {
            Behaviour::Passes | Behaviour::SuffersFromCompany => verdict == Verdict::Passed,
            Behaviour::Fails => verdict == Verdict::Failed,
            Behaviour::FailsAtFirst(_) => matches!(verdict, Verdict::Passed | Verdict::Failed),
            Behaviour::Crashes => matches!(verdict, Verdict::Crashed { .. }),
            Behaviour::Hangs => verdict == Verdict::TimedOut,
            Behaviour::KillsAgents => false,
        },
    };
    assert!(truthful, "{case:?}, which {behaviour:?}, was reported as {outcome:?} ({excuses:?})");
}

/// Whether a run's end agrees with what was decided about its cases (I10: planned and reported are the same set).
///
/// # Panics
///
/// When it does not.
pub(super) fn check_run(run: RunId, planned: &PlannedRun, outcome: RunOutcome, ledger: &State, undiscovered: usize) {
    if undiscovered > 0 {
        assert_ne!(outcome, RunOutcome::Passed, "run {run} passed with {undiscovered} targets unknown");
        return;
    }
    let mut all_succeeded = true;
    let mut count = 0;
    for (target, cases) in planned.targets.iter().enumerate() {
        if !ledger.discovered.contains(&(run, TargetIndex(target as u32))) {
            // Nobody knows the cases of a target whose discovery was cancelled.
            assert!(
                outcome == RunOutcome::Cancelled || planned.policy.fail_fast,
                "run {run} ended as {outcome:?} without knowing target {target}"
            );
            continue;
        }
        let is_told = ledger.decided.keys().any(|(id, index, _)| (*id, index.0 as usize) == (run, target));
        if !is_told && planned.policy.fail_fast && outcome == RunOutcome::Failed {
            // The run was over before anybody had told the scheduler what was discovered.
            all_succeeded = false;
            continue;
        }
        for case in 0..cases.cases.len() {
            let name = (run, TargetIndex(target as u32), CaseIndex(case as u32));
            match ledger.decided.get(&name) {
                Some(outcome) => all_succeeded &= outcome.is_success(),
                None => {
                    assert_eq!(outcome, RunOutcome::Cancelled, "I10: run {run} ended as {outcome:?} without {name:?}");
                    all_succeeded = false;
                }
            }
            count += 1;
        }
    }
    match outcome {
        RunOutcome::Passed => assert!(all_succeeded && count > 0, "run {run} passed with failures"),
        RunOutcome::NothingToRun => assert_eq!(count, 0, "run {run} had something to run"),
        RunOutcome::Failed | RunOutcome::Fault => assert!(!all_succeeded, "run {run} failed without a failure"),
        RunOutcome::Cancelled => {}
    }
}
