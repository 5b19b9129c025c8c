//! Deciding cases, remembering what they need, and ending runs.

use alloc::vec::Vec;

use muster_model::outcome::{CaseOutcome, FaultKind};
use muster_model::{CaseIndex, Epoch, RunId, TargetIndex};

use crate::case::CaseState;
use crate::leases::Closed;
use crate::run::{Discovery, Purpose, Stop};
use crate::{Command, Scheduler};

impl Scheduler {
    /// Gives a case its outcome, once: a case that has one keeps it.
    pub(crate) fn decide(
        &mut self,
        run: RunId,
        index: TargetIndex,
        case: CaseIndex,
        outcome: CaseOutcome,
        epoch: Option<Epoch>,
        company: Option<Epoch>,
    ) {
        match self.case_state(run, index, case) {
            None | Some(CaseState::Decided) => return,
            Some(CaseState::Queued) => self.unqueue(run, index, case),
            Some(CaseState::Leased | CaseState::LeasedTwice | CaseState::Loose) => {}
        }
        let Some(open) = self.runs.get_mut(&run) else { return };
        open.undecided -= 1;
        open.tally(outcome);
        let target = open.target_mut(index);
        let twins = target.twins.remove(&case);
        let entry = target.case_mut(case);
        entry.state = CaseState::Decided;
        let attempts = entry.attempts.into();
        self.push(match self.action_of(run, index) {
            Some(action) => Command::FinishAction { action, end: outcome.into(), epoch, attempts },
            None => Command::DecideCase { run, target: index, case, outcome, epoch, company, attempts },
        });
        for other in twins.into_iter().flatten().filter(|&other| Some(other) != epoch) {
            self.release_loser(other, case);
        }
        self.remove_action(run, index);
    }

    /// Takes a decided case off the lease of its slower copy, and withdraws that when nothing is left of it.
    fn release_loser(&mut self, epoch: Epoch, case: CaseIndex) {
        let Some(lease) = self.leases.get_mut(&epoch).filter(|lease| lease.cases().contains(&case)) else { return };
        lease.undecided -= 1;
        if lease.undecided == 0 {
            #[cfg(feature = "planted-bugs")]
            if self.is_planted(crate::PlantedBug::CopyDecidedAgain) {
                return;
            }
            self.withdraw(epoch);
        }
    }

    #[cfg(feature = "planted-bugs")]
    pub(crate) fn decide_again(
        &mut self,
        run: RunId,
        target: TargetIndex,
        case: CaseIndex,
        outcome: CaseOutcome,
        epoch: Epoch,
    ) {
        if let Some(run) = self.runs.get_mut(&run) {
            run.reported += 1;
        }
        let epoch = Some(epoch);
        self.push(Command::DecideCase { run, target, case, outcome, epoch, company: None, attempts: 2 });
    }

    /// Tells that a case needs, or no longer needs, a process of its own; says nothing twice.
    pub(crate) fn remember(&mut self, run: RunId, target: TargetIndex, case: CaseIndex, needs_alone: bool) {
        let is_news = self.with_target(run, target, |target| {
            let is_action = target.action.is_some();
            let case = target.case_mut(case);
            let is_news = case.is_remembered() != needs_alone;
            case.set_remembered(needs_alone);
            is_news && !is_action
        });
        if is_news == Some(true) {
            self.push(Command::RememberIsolation { run, target, case, needs_alone });
        }
    }

    /// Processes were left behind by somebody in this company: all of it runs alone next time, which finds out by whom.
    pub(crate) fn remember_all(&mut self, closed: &Closed) {
        for &case in closed.lease.cases() {
            self.remember(closed.lease.run, closed.lease.target, case, true);
        }
    }

    /// A case left processes behind while it was alone. With the culprit found, what ended cleanly alone is allowed company again.
    pub(crate) fn note_leaker(&mut self, run: RunId, index: TargetIndex, case: CaseIndex) {
        self.remember(run, index, case, true);
        let acquitted = self.with_target(run, index, |target| {
            let is_first = !core::mem::replace(&mut target.has_leaker, true);
            let entries = target.cases.iter().enumerate().filter(|(_, case)| is_first && case.is_clean_alone());
            entries.map(|(position, _)| CaseIndex(position as u32)).collect::<Vec<_>>()
        });
        for case in acquitted.into_iter().flatten() {
            self.remember(run, index, case, false);
        }
    }

    /// A case passed alone at the first try and left nothing behind. That acquits it only where a leaker of its target was found alone in
    /// the same run: a case that needs its own process because of interference passes alone too, and must not swing between the two.
    pub(crate) fn note_clean(&mut self, run: RunId, index: TargetIndex, case: CaseIndex) {
        let is_acquitted = self.with_target(run, index, |target| {
            let has_leaker = target.has_leaker;
            let case = target.case_mut(case);
            if case.is_remembered() && !case.has_failed_in_company() && case.attempts == 1 {
                case.mark_clean_alone();
            }
            has_leaker && case.is_clean_alone()
        });
        if is_acquitted == Some(true) {
            self.remember(run, index, case, false);
        }
    }

    /// Gives a target up; with a fault when the fleet is to blame.
    pub(crate) fn fail_discovery(&mut self, run: RunId, index: TargetIndex, fault: Option<FaultKind>) {
        let Some(run) = self.runs.get_mut(&run) else { return };
        run.target_mut(index).discovery = Discovery::Failed;
        run.undiscovered -= 1;
        run.failed_targets.push(index);
        run.has_fault |= fault.is_some();
        if run.policy.fail_fast && run.stop.is_none() {
            run.stop = Some(Stop::FailedFast);
        }
    }

    pub(crate) fn cancel_run(&mut self, id: RunId) {
        if let Some(run) = self.runs.get_mut(&id) {
            run.stop = Some(Stop::Cancelled);
            self.settle_run(id);
        }
    }

    /// Plans, stops and finishes a run, whatever is due. To be called at the end of whatever may have changed one of these.
    pub(crate) fn settle_run(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id).filter(|run| run.purpose == Purpose::Tests) else { return };
        if run.undiscovered == 0 && !run.is_planned {
            run.is_planned = true;
            let planned = run.planned;
            let estimate = run.mean.get().unwrap_or(self.config.unknown_case_time);
            let expected = run.to_execute.expected(estimate);
            self.push(Command::PlanRun { run: id, planned, expected });
        }
        let Some(run) = self.runs.get(&id) else { return };
        if run.stop.is_some() && !run.is_over() {
            self.cancel_rest(id);
        }
        if self.runs.get(&id).is_some_and(|run| run.is_over()) {
            self.finish_run(id);
        }
    }

    /// Withdraws what is under way and cancels what has no outcome.
    fn cancel_rest(&mut self, id: RunId) {
        let leases: Vec<Epoch> = self.runs[&id].leases.iter().copied().collect();
        for epoch in leases {
            if let Some(closed) = self.close(epoch) {
                self.push(Command::Withdraw { agent: closed.lease.agent, epoch });
            }
        }
        let targets: Vec<TargetIndex> = self.runs[&id].targets.keys().copied().collect();
        for index in targets {
            let Some(run) = self.runs.get_mut(&id) else { return };
            let target = run.target_mut(index);
            if !matches!(target.discovery, Discovery::Done | Discovery::Failed) {
                target.discovery = Discovery::Failed;
                run.undiscovered -= 1;
            }
            let cases = run.target(index).map_or(0, |target| target.cases.len() as u32);
            for case in (0..cases).map(CaseIndex) {
                self.decide(id, index, case, CaseOutcome::Cancelled, None, None);
            }
            self.refresh_target(id, index);
        }
    }

    fn finish_run(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let leftover: Vec<Epoch> = run.leases.iter().copied().collect();
        let targets: Vec<TargetIndex> = run.targets.keys().copied().collect();
        for epoch in leftover {
            self.withdraw(epoch);
        }
        for index in targets {
            self.refresh_target(id, index);
        }
        let Some(run) = self.runs.remove(&id) else { return };
        let (outcome, planned, reported) = (run.outcome(), run.planned, run.reported);
        self.push(Command::FinishRun { run: id, outcome, planned, reported, undiscovered: run.failed_targets });
        for target in run.targets.values() {
            if self.classes.release(target.class) {
                self.unmatch_class(target.class);
            }
        }
    }
}
