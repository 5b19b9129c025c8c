//! Carrying out commands, one function each.

use std::sync::Arc;
use std::time::Duration;

use muster_model::attempt::{AttemptResult, Timings, Usage, Work};
use muster_model::outcome::{CaseOutcome, FaultKind, Verdict};
use muster_model::{AgentId, CaseIndex, Epoch, RunId, TargetIndex};
use muster_proto::v1;
use muster_scheduler::{CaseTries, Command};
use prost::Message;

use super::SchedulerTask;
use crate::effects::Effect;
use crate::ledger::{AttemptEndRecord, HistoryRecord, LeaseRecord, OutcomeRecord, Record, TriesRecord};
use crate::open_run::{AttemptEndNote, LeaseNote};
use crate::planning::{discovery_record, passed_record};
use crate::words::{self, DecidedCase, KeptReport, fault_sentence};

impl SchedulerTask {
    /// Carries out everything that the scheduler wants, in order.
    pub(super) fn carry_out(&mut self) {
        while let Some(command) = self.scheduler.poll_command() {
            self.carry_out_one(command);
        }
    }

    fn carry_out_one(&mut self, command: Command) {
        match command {
            Command::RecordLease { epoch, agent, run, target, work } => {
                self.record_lease(epoch, agent, run, target, work);
            }
            Command::Assign { agent, epoch } => self.assign(agent, epoch),
            Command::Recall { agent, epoch } if self.actions.has(epoch) => {
                self.actions.push_effect(epoch, Effect::Recall { agent, epoch });
            }
            Command::Recall { agent, epoch } => self.effect(Effect::Recall { agent, epoch }),
            Command::Withdraw { agent, epoch } if self.actions.has(epoch) => {
                self.end_action_attempt(epoch, Effect::Withdraw { agent, epoch });
            }
            Command::Withdraw { agent, epoch } => {
                self.end_attempt(epoch, "withdrawn", Timings::default(), Usage::default());
                self.effect(Effect::Withdraw { agent, epoch });
            }
            Command::Acknowledge { agent, epoch, fenced } => self.acknowledge(agent, epoch, fenced),
            Command::ReserveEpochs { below } => self.reserve_epochs(below),
            Command::AssignAction { agent, epoch, action } => self.assign_action(agent, epoch, action),
            Command::ReportActionStage { action, agent, stage, .. } => self.report_action_stage(action, agent, stage),
            Command::ReportActionFault { action, epoch, agent, kind } => {
                self.report_action_fault(action, epoch, agent, kind);
            }
            Command::FinishAction { action, end, epoch, attempts } => self.finish_action(action, end, epoch, attempts),
            Command::AcceptDiscovery { run, target, epoch } => self.accept_discovery(run, target, epoch),
            Command::PlanRun { run, planned, expected } => self.announce_plan(run, planned, expected),
            Command::ReportCaseStarted { run, target, case, agent } => {
                self.report_case_started(run, target, case, agent);
            }
            Command::ReportFault { run, target, epoch, agent, kind, cases } => {
                self.report_fault(run, target, epoch, agent, kind, &cases);
            }
            Command::DecideCase { run, target, case, outcome, epoch, company, attempts } => {
                self.decide(run, DecidedCase { target, case, outcome, epoch, company, attempts });
            }
            Command::RecordTries { run, target, case, tries } => self.record_tries(run, target, case, tries),
            Command::RecordDiscoveryTries { run, target, tries } => {
                self.append(Record::DiscoveryTries { run, target, tries });
            }
            Command::RememberIsolation { run, target, case, needs_alone } => {
                self.learn(run, target, case, |history| history.needs_alone = needs_alone);
            }
            Command::FinishRun { run, outcome, planned, reported, undiscovered } => {
                self.finish_run(run, outcome, planned, reported, &undiscovered);
            }
        }
    }

    fn record_lease(&mut self, epoch: Epoch, agent: AgentId, run: RunId, target: TargetIndex, work: Work) {
        let Some(open) = self.runs.get_mut(&run) else { return };
        let assigned_unix_ms = self.surroundings.clock.unix_ms();
        let queued_unix_ms = open.target(target).map_or(assigned_unix_ms, |target| target.queued_unix_ms);
        let agent_name = self.agents.name(agent);
        let exclusive = open.target(target).map(|target| target.prepared.spec.requirements.resources.exclusive.clone());
        let note = LeaseNote {
            agent_name: agent_name.clone(),
            target,
            work: work.clone(),
            assigned_unix_ms,
            queued_unix_ms,
            ended: None,
        };
        open.leases.insert(epoch, note);
        self.run_of_epoch.insert(epoch, run);
        self.append(Record::Lease(Box::new(LeaseRecord {
            epoch,
            agent,
            agent_name,
            run,
            target,
            work,
            exclusive: exclusive.unwrap_or_default(),
            queued_unix_ms,
            assigned_unix_ms,
        })));
    }

    fn record_tries(&mut self, run: RunId, target: TargetIndex, case: CaseIndex, tries: CaseTries) {
        let Some(open) = self.runs.get(&run) else { return };
        let failure = open.failures.get(&(target, case)).map(v1::CaseReport::from);
        self.append(Record::Tries(Box::new(TriesRecord { run, target, case, tries, failure })));
    }

    fn assign(&mut self, agent: AgentId, epoch: Epoch) {
        let run = self.run_of_epoch.get(&epoch).and_then(|run| self.runs.get(run));
        if let Some(assignment) = run.and_then(|run| run.assignment(epoch)) {
            self.effect(Effect::Assign { agent, assignment: Arc::new(assignment) });
        }
    }

    pub(super) fn end_attempt(&mut self, epoch: Epoch, result: &'static str, timings: Timings, usage: Usage) {
        let finished_unix_ms = self.surroundings.clock.unix_ms();
        let run = self.run_of_epoch.get(&epoch).and_then(|run| self.runs.get_mut(run));
        if let Some(lease) = run.and_then(|run| run.leases.get_mut(&epoch)) {
            let cases = self.reports.get(&epoch).map(KeptReport::cases).unwrap_or_default();
            let longest_case = cases.iter().map(|case| case.duration).max().unwrap_or_default();
            lease.ended.get_or_insert(AttemptEndNote { finished_unix_ms, timings, longest_case });
        }
        let end = AttemptEndRecord { epoch, finished_unix_ms, result, timings, usage };
        self.append(Record::AttemptEnded(Box::new(end)));
    }

    fn acknowledge(&mut self, agent: AgentId, epoch: Epoch, fenced: bool) {
        if self.actions.has(epoch) {
            return self.end_action_attempt(epoch, Effect::Acknowledge { agent, epoch });
        }
        let received_unix_ms = self.surroundings.clock.unix_ms();
        let kept = self.reports.get(&epoch);
        let result = kept.map_or("unknown", KeptReport::result_name);
        if fenced {
            self.append(Record::Fenced { epoch, agent, received_unix_ms, result });
        } else {
            let (timings, usage) = kept.map(|kept| (kept.report.timings, kept.report.usage)).unwrap_or_default();
            let failure = match kept.map(|kept| &kept.report.result) {
                Some(AttemptResult::DiscoveryFailed { message }) => Some(message.clone()),
                _ => None,
            };
            self.end_attempt(epoch, result, timings, usage);
            if let Some(failure) = failure {
                self.refuse_target(epoch, failure);
            }
        }
        self.effect(Effect::Acknowledge { agent, epoch });
    }

    /// Tells watchers that a target's cases can't be listed, in the framework's words.
    fn refuse_target(&mut self, epoch: Epoch, failure: String) {
        let Some(&run) = self.run_of_epoch.get(&epoch) else { return };
        let Some(open) = self.runs.get_mut(&run) else { return };
        let Some(index) = open.leases.get(&epoch).map(|lease| lease.target) else { return };
        let Some(target) = open.targets.get_mut(index.0 as usize) else { return };
        if !std::mem::replace(&mut target.is_refused, true) {
            let event = v1::TargetDiscovered { target: index.0, failure, ..v1::TargetDiscovered::default() };
            self.publish(run, v1::run_event::Event::TargetDiscovered(event));
        }
    }

    fn accept_discovery(&mut self, run: RunId, target: TargetIndex, epoch: Epoch) {
        let Some(AttemptResult::Discovered { cases }) = self.reports.get(&epoch).map(|kept| &kept.report.result) else {
            return;
        };
        let cases = cases.clone();
        let discovered = v1::Discovered::from(cases.as_slice()).encode_to_vec();
        let prepared = self.runs.get(&run).and_then(|run| run.target(target)).map(|target| target.prepared.clone());
        let cached = prepared.and_then(|prepared| discovery_record(&prepared, &discovered));
        self.append(Record::Discovered { run, target, discovered });
        if let Some((key, record)) = cached {
            self.effect(Effect::Cache(key, record));
        }
        self.plan_target(run, target, cases);
    }

    fn announce_plan(&mut self, run: RunId, planned: u32, expected: Duration) {
        let slots = self.agents.slots();
        let Some(open) = self.runs.get_mut(&run) else { return };
        if !std::mem::replace(&mut open.is_announced, true) {
            let expected_ms = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
            let event = v1::run_event::Event::RunPlanned(v1::RunPlanned { planned, expected_ms, slots });
            let (sequence, event) = self.event_record(run, event);
            // Apart, the one could be lost and the other not: then nobody would ever be told.
            self.append(Record::Together([Record::Announced(run)].into_iter().chain(event).collect()));
            self.effect(Effect::Publish { run, sequence });
        }
    }

    fn report_case_started(&mut self, run: RunId, target: TargetIndex, case: CaseIndex, agent: AgentId) {
        let Some(open) = self.runs.get(&run) else { return };
        let name = open.case_name(target, case).to_owned();
        let started = v1::CaseStarted { target: target.0, case: case.0, name, agent: self.agents.name(agent) };
        self.publish(run, v1::run_event::Event::CaseStarted(started));
    }

    fn report_fault(
        &mut self,
        run: RunId,
        target: TargetIndex,
        epoch: Epoch,
        agent: AgentId,
        kind: FaultKind,
        cases: &[CaseIndex],
    ) {
        let Some(open) = self.runs.get(&run) else { return };
        let said = self.reports.get(&epoch).and_then(KeptReport::fault_message);
        let agent_name = open.leases.get(&epoch).map(|lease| lease.agent_name.clone());
        let fault = v1::AttemptFault {
            epoch: epoch.0,
            agent: agent_name.unwrap_or_else(|| self.agents.name(agent)),
            kind: kind.name().into(),
            message: said.unwrap_or_else(|| fault_sentence(kind)).to_owned(),
            cases: open.case_names(target, cases),
        };
        if kind == FaultKind::AgentLost {
            self.end_attempt(epoch, kind.name(), Timings::default(), Usage::default());
        }
        self.publish(run, v1::run_event::Event::AttemptFault(fault));
    }

    fn decide(&mut self, run: RunId, decided: DecidedCase) {
        let Some(open) = self.runs.get(&run) else { return };
        let kept = decided.epoch.and_then(|epoch| self.reports.get(&epoch));
        let duration = words::duration(kept, decided.case);
        let event = words::case_finished(open, decided, kept);
        let duration_us = event.duration_us;
        let (sequence, event) = self.number_event(run, v1::run_event::Event::CaseFinished(event));
        let DecidedCase { target, case, outcome, epoch, attempts, .. } = decided;
        self.append(Record::Outcome(Box::new(OutcomeRecord {
            run,
            target,
            case,
            outcome,
            cached: false,
            attempts,
            duration_us,
            epoch,
            sequence,
            event,
        })));
        self.effect(Effect::Publish { run, sequence });
        if let Some(open) = self.runs.get_mut(&run) {
            open.failures.remove(&(target, case));
            open.note_decided(target, case);
        }
        self.cache_passed(run, decided, duration);
        self.learn_outcome(run, decided, duration);
    }

    /// Only what passed at the first try is a result that others may use.
    fn cache_passed(&mut self, run: RunId, decided: DecidedCase, duration: Option<Duration>) {
        let DecidedCase { target, case, outcome, .. } = decided;
        let (CaseOutcome::Verdict(Verdict::Passed), Some(duration)) = (outcome, duration) else { return };
        let Some(open) = self.runs.get(&run) else { return };
        let Some(prepared) = open.target(target).map(|target| &target.prepared) else { return };
        if prepared.is_cacheable {
            let (key, record) = passed_record(prepared, open.case_name(target, case), duration, run);
            self.effect(Effect::Cache(key, record));
        }
    }

    fn learn_outcome(&mut self, run: RunId, decided: DecidedCase, duration: Option<Duration>) {
        let failed_last = match decided.outcome {
            CaseOutcome::Verdict(verdict) => !verdict.is_success(),
            CaseOutcome::Flaky | CaseOutcome::Interference => false,
            CaseOutcome::Poison => true,
            CaseOutcome::Fault(_) | CaseOutcome::Cancelled => return,
        };
        self.learn(run, decided.target, decided.case, |history| {
            history.failed_last = failed_last;
            if let Some(duration) = duration {
                history.push(duration);
            }
        });
    }

    fn learn(
        &mut self,
        run: RunId,
        target: TargetIndex,
        case: CaseIndex,
        change: impl FnOnce(&mut crate::history::CaseHistory),
    ) {
        if let Some(record) = self.learned(run, target, case, change) {
            self.append(record);
        }
    }

    /// Learns about a case; what has to be appended for it.
    pub(super) fn learned(
        &mut self,
        run: RunId,
        target: TargetIndex,
        case: CaseIndex,
        change: impl FnOnce(&mut crate::history::CaseHistory),
    ) -> Option<Record> {
        let target = self.runs.get_mut(&run)?.targets.get_mut(target.0 as usize)?;
        let case = target.cases.get_mut(case.0 as usize)?;
        let history = case.history.get_or_insert_default();
        change(history);
        Some(Record::History(Box::new(HistoryRecord {
            target: target.prepared.history,
            case_name: case.name.clone(),
            history: history.clone(),
            run,
        })))
    }
}
