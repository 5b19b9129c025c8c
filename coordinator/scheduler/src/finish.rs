//! Attempts coming to an end.

use alloc::collections::BTreeSet;
use core::time::Duration;

use muster_model::attempt::{Interruption, Work};
use muster_model::outcome::{CaseOutcome, FaultKind, Verdict};
use muster_model::{AgentId, CaseIndex, Epoch, RunId, TargetIndex};

use crate::case::CaseState;
use crate::event::{AttemptEnd, CaseEnd};
use crate::ladder::{self, Facts, Step};
use crate::leases::Closed;
use crate::run::Discovery;
use crate::{Command, Scheduler};

impl Scheduler {
    pub(crate) fn finish_attempt(&mut self, agent: AgentId, epoch: Epoch, end: AttemptEnd) {
        if self.leases.get(&epoch).is_none_or(|lease| lease.agent != agent) {
            self.groups.end(agent, epoch);
            self.fence(agent, epoch, &end);
            return;
        }
        let Some(closed) = self.close(epoch) else { return };
        self.groups.end(agent, epoch);
        let (run, target) = (closed.lease.run, closed.lease.target);
        self.note_accepted(agent, epoch);
        let acknowledge = Command::Acknowledge { agent, epoch, fenced: false };
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::AcknowledgeBeforeDecide) {
            self.push(acknowledge.clone());
        }
        match (&closed.lease.work, end) {
            (Work::Discover, AttemptEnd::Discovered) => self.push(Command::AcceptDiscovery { run, target, epoch }),
            (Work::Discover, AttemptEnd::DiscoveryFailed) => self.fail_discovery(run, target, None),
            (Work::Cases { .. }, AttemptEnd::Ran { cases, interruption, leaked_in_company }) => {
                self.learn_overhead(&closed, &cases);
                self.take_reports(&closed, &cases, interruption);
                if leaked_in_company {
                    self.remember_all(&closed);
                }
            }
            (Work::Action, AttemptEnd::ActionRan { duration }) => {
                let (case, verdict) = (CaseIndex(0), Verdict::Passed);
                let end = CaseEnd { case, verdict, duration, never_retry: false, leaked: false };
                self.take_reports(&closed, &[end], None);
            }
            (_, AttemptEnd::Fault(kind)) => self.take_fault(&closed, kind),
            _ => self.take_fault(&closed, FaultKind::Protocol),
        }
        self.push(acknowledge);
        self.refresh_target(run, target);
        self.settle_run(run);
    }

    /// Answers a report under an epoch that is not open.
    fn fence(&mut self, agent: AgentId, epoch: Epoch, end: &AttemptEnd) {
        let was_accepted = self.agents.get(&agent).is_some_and(|agent| agent.accepted.contains(&epoch));
        #[cfg(feature = "planted-bugs")]
        self.believe_fenced(epoch, end);
        #[cfg(not(feature = "planted-bugs"))]
        let _ = end;
        self.push(Command::Acknowledge { agent, epoch, fenced: !was_accepted });
    }

    #[cfg(feature = "planted-bugs")]
    fn believe_fenced(&mut self, epoch: Epoch, end: &AttemptEnd) {
        let Some(&(run, target, action)) = self.closed.get(&epoch) else { return };
        if let (Some(action), AttemptEnd::ActionRan { .. }) = (action, end) {
            return self.believe_fenced_action(run, target, action, epoch);
        }
        let AttemptEnd::Ran { cases, .. } = end else { return };
        for end in cases {
            let is_decided = self.case_state(run, target, end.case) == Some(CaseState::Decided);
            let outcome = CaseOutcome::Verdict(end.verdict);
            if is_decided && self.is_planted(crate::PlantedBug::VerdictOverwritten) {
                self.decide_again(run, target, end.case, outcome, epoch);
            } else if !is_decided && self.is_planted(crate::PlantedBug::NoEpochCheck) {
                self.decide(run, target, end.case, outcome, Some(epoch), None);
            }
        }
        self.refresh_target(run, target);
        self.settle_run(run);
    }

    #[cfg(feature = "planted-bugs")]
    fn believe_fenced_action(&mut self, run: RunId, target: TargetIndex, action: muster_model::ActionId, epoch: Epoch) {
        let is_open = self.actions.contains_key(&action);
        if is_open && self.is_planted(crate::PlantedBug::FencedActionResultTaken) {
            self.decide(run, target, CaseIndex(0), CaseOutcome::Verdict(Verdict::Passed), Some(epoch), None);
        } else if !is_open && self.is_planted(crate::PlantedBug::ActionFinishedAgain) {
            let end = crate::ActionEnd::Ran;
            self.push(Command::FinishAction { action, end, epoch: Some(epoch), attempts: 2 });
        }
    }

    fn take_reports(
        &mut self,
        closed: &Closed,
        ends: &[CaseEnd],
        interruption: Option<(Interruption, Option<CaseIndex>)>,
    ) {
        let mut open: BTreeSet<CaseIndex> = closed.loose.iter().chain(&closed.shared).copied().collect();
        for end in ends {
            if open.remove(&end.case) {
                self.learn(closed, end);
                self.apply_verdict(closed, end);
                continue;
            }
            #[cfg(feature = "planted-bugs")]
            if self.is_planted(crate::PlantedBug::CopyDecidedAgain) && closed.lease.cases().contains(&end.case) {
                let (run, target) = (closed.lease.run, closed.lease.target);
                self.decide_again(run, target, end.case, CaseOutcome::Verdict(end.verdict), closed.epoch);
            }
        }
        if open.is_empty() {
            return;
        }
        if closed.lease.is_alone() {
            self.take_unaccounted_alone(closed, open, interruption);
        } else {
            self.take_unaccounted_in_company(closed, &open, interruption);
        }
    }

    /// What the attempt took besides its cases. Alone each case has a process of its own, and that belongs to it.
    fn learn_overhead(&mut self, closed: &Closed, ends: &[CaseEnd]) {
        let Some(started) = closed.lease.started.filter(|_| !closed.lease.is_alone()) else { return };
        let ran: Duration = ends.iter().map(|end| end.duration).sum();
        let overhead = self.now.since(started).saturating_sub(ran);
        self.with_target(closed.lease.run, closed.lease.target, |target| target.overhead.add(overhead));
    }

    fn learn(&mut self, closed: &Closed, end: &CaseEnd) {
        let Some(run) = self.runs.get_mut(&closed.lease.run) else { return };
        run.mean.add(end.duration);
        run.target_mut(closed.lease.target).mean.add(end.duration);
    }

    /// What a verdict means for a case that is loose, or still in another lease.
    fn apply_verdict(&mut self, closed: &Closed, end: &CaseEnd) {
        let (run, target, epoch) = (closed.lease.run, closed.lease.target, closed.epoch);
        let alone = closed.lease.is_alone();
        let facts = self.with_target(run, target, |target| {
            let retries = target.retries;
            let case = target.case_mut(end.case);
            case.attempts = case.attempts.saturating_add(1);
            Facts {
                alone,
                failed_in_company: case.has_failed_in_company(),
                failed_tries: case.failed_tries.into(),
                retries: retries.min(u32::from(u16::MAX) - 1),
            }
        });
        let Some(facts) = facts else { return };
        if alone && end.leaked {
            self.note_leaker(run, target, end.case);
        }
        match ladder::judge(facts, end.verdict, end.never_retry) {
            Step::Decide(outcome) => {
                let company = self.company_of(run, target, end.case, outcome);
                self.decide(run, target, end.case, outcome, Some(epoch), company);
                if outcome == CaseOutcome::Interference {
                    self.remember(run, target, end.case, true);
                } else if alone && !end.leaked && outcome == CaseOutcome::Verdict(Verdict::Passed) {
                    self.note_clean(run, target, end.case);
                }
            }
            Step::Again { failed_try } => {
                self.with_target(run, target, |target| {
                    let case = target.case_mut(end.case);
                    case.failed_tries = case.failed_tries.saturating_add(failed_try.into());
                    case.send_alone();
                    if !alone && !end.verdict.is_success() {
                        case.mark_failed_in_company();
                        target.company_failures.insert(end.case, epoch);
                    }
                });
                self.record_tries(run, target, end.case);
                self.enqueue_if_loose(run, target, end.case);
            }
        }
    }

    fn company_of(&self, run: RunId, target: TargetIndex, case: CaseIndex, outcome: CaseOutcome) -> Option<Epoch> {
        if outcome != CaseOutcome::Interference {
            return None;
        }
        self.runs.get(&run)?.target(target)?.company_failures.get(&case).copied()
    }

    fn enqueue_if_loose(&mut self, run: RunId, target: TargetIndex, case: CaseIndex) {
        if self.case_state(run, target, case) == Some(CaseState::Loose) {
            self.enqueue(run, target, case);
        }
    }

    /// The process of several cases ended before these had a verdict: each is run again alone.
    fn take_unaccounted_in_company(
        &mut self,
        closed: &Closed,
        open: &BTreeSet<CaseIndex>,
        interruption: Option<(Interruption, Option<CaseIndex>)>,
    ) {
        let (run, target, epoch) = (closed.lease.run, closed.lease.target, closed.epoch);
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::UnaccountedDropped) {
            return;
        }
        if let Some((kind, Some(suspect))) = interruption
            && open.contains(&suspect)
        {
            self.with_target(run, target, |target| {
                let case = target.case_mut(suspect);
                case.attempts = case.attempts.saturating_add(1);
                if ladder::is_failure_of_running(kind) {
                    case.mark_failed_in_company();
                    target.company_failures.insert(suspect, epoch);
                }
            });
            self.remember(run, target, suspect, true);
        }
        for &case in open {
            self.with_target(run, target, |target| target.case_mut(case).send_alone());
            self.record_tries(run, target, case);
            self.enqueue_if_loose(run, target, case);
        }
    }

    /// Cases without a verdict although each had a process of its own: the interruption is the verdict of the one that was running, and
    /// the others have not been run. Without an interruption, or without a culprit, the report makes no sense.
    fn take_unaccounted_alone(
        &mut self,
        closed: &Closed,
        mut open: BTreeSet<CaseIndex>,
        interruption: Option<(Interruption, Option<CaseIndex>)>,
    ) {
        let (run, target) = (closed.lease.run, closed.lease.target);
        let only = if open.len() == 1 { open.first().copied() } else { None };
        let culprit =
            interruption.and_then(|(kind, suspect)| Some((kind, suspect.filter(|case| open.contains(case)).or(only)?)));
        let Some((kind, case)) = culprit else {
            self.charge_fault(closed, FaultKind::Protocol, &open);
            return;
        };
        open.remove(&case);
        if kind != Interruption::Contradicted {
            self.remember(run, target, case, true);
        }
        let duration = closed.lease.started.map(|started| self.now.since(started)).unwrap_or_default();
        let verdict = ladder::verdict_alone(kind);
        self.apply_verdict(closed, &CaseEnd { case, verdict, duration, never_retry: false, leaked: false });
        for case in open {
            self.enqueue_if_loose(run, target, case);
        }
    }

    fn take_fault(&mut self, closed: &Closed, kind: FaultKind) {
        let (run, target) = (closed.lease.run, closed.lease.target);
        match kind {
            FaultKind::Returned => {
                #[cfg(feature = "planted-bugs")]
                if self.is_planted(crate::PlantedBug::ReturnedDropped) {
                    return;
                }
                if closed.lease.work == Work::Discover {
                    self.with_target(run, target, |target| target.discovery = Discovery::Queued);
                }
                for &case in &closed.loose {
                    self.enqueue(run, target, case);
                }
            }
            FaultKind::AgentLost => {
                self.report_fault(closed, kind);
                self.charge_loss(closed);
            }
            FaultKind::Inputs | FaultKind::Environment | FaultKind::Start | FaultKind::Protocol => {
                self.report_fault(closed, kind);
                self.avoid(run, target, closed.lease.agent);
                if closed.lease.work == Work::Discover {
                    self.charge_discovery(run, target, kind, true);
                } else {
                    self.charge_fault(closed, kind, &closed.loose.iter().copied().collect());
                }
            }
        }
    }

    /// Charges a fault to each of `cases` that is loose; one that is still in another lease has that other chance.
    fn charge_fault(&mut self, closed: &Closed, kind: FaultKind, cases: &BTreeSet<CaseIndex>) {
        let (run, target) = (closed.lease.run, closed.lease.target);
        let faults_max = self.config.faults_per_case_max;
        for &index in cases {
            if self.case_state(run, target, index) != Some(CaseState::Loose) {
                continue;
            }
            let faults = self.with_target(run, target, |target| {
                let case = target.case_mut(index);
                case.attempts = case.attempts.saturating_add(1);
                case.faults = case.faults.saturating_add(1);
                case.faults
            });
            if faults.is_some_and(|faults| faults >= faults_max) {
                self.decide(run, target, index, CaseOutcome::Fault(kind), Some(closed.epoch), None);
            } else {
                self.record_tries(run, target, index);
                self.enqueue(run, target, index);
            }
        }
    }

    /// Queues a discovery again after a fault, or gives it up. An agent lost before the discovery had started is charged only after
    /// many.
    pub(crate) fn charge_discovery(&mut self, run: RunId, target: TargetIndex, kind: FaultKind, is_charged: bool) {
        let config = self.config;
        let tries = self.with_target(run, target, |target| {
            let tries = &mut target.discovery_tries;
            tries.losses_uncharged = tries.losses_uncharged.saturating_add((!is_charged).into());
            let is_charged = is_charged || tries.losses_uncharged >= config.losses_uncharged_max;
            tries.faults = tries.faults.saturating_add(is_charged.into());
            if tries.faults < config.faults_per_case_max {
                target.discovery = Discovery::Queued;
            }
            target.discovery_tries
        });
        match tries {
            Some(tries) if tries.faults < config.faults_per_case_max => {
                self.push(Command::RecordDiscoveryTries { run, target, tries });
            }
            Some(_) => self.fail_discovery(run, target, Some(kind)),
            None => {}
        }
    }
}
