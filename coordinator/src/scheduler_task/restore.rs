//! After a restart: the open runs of the ledger, told again.

use std::collections::HashMap;
use std::time::Duration;

use muster_model::attempt::{CaseReport, DiscoveredCase, Timings, Usage, Work};
use muster_model::spec::RunSpec;
use muster_model::{CaseIndex, RunId, TargetIndex, limits};
use muster_proto::v1;
use muster_scheduler::{CaseSeed, Event};

use super::{SchedulerTask, submitted};
use crate::history::CaseHistory;
use crate::ledger::tries::{self, TriesRow};
use crate::ledger::{AttemptRow, LedgerError, OpenRunRow, TargetRow, VacatingRow, read};
use crate::open_run::{AttemptEndNote, LeaseNote, OpenCase, OpenRun, PreparedRun};
use crate::planning::{mark_groups, seed};

impl SchedulerTask {
    /// Tells the scheduler of attempts in exclusive groups that may not have ended yet although their leases are closed.
    pub(crate) fn restore_vacating(&mut self) -> Result<(), LedgerError> {
        // Times of the ledger are this machine's own, and so is now.
        let lease_ms = i64::try_from(limits::LEASE_TIME.as_millis()).unwrap_or(i64::MAX);
        let since = self.surroundings.clock.unix_ms().saturating_sub(lease_ms);
        for row in self.surroundings.ledger.read_now(|connection| read::vacating(connection, since))? {
            let VacatingRow { epoch, agent, exclusive } = row;
            self.tell(Event::VacatingRestored { epoch, agent, exclusive });
        }
        Ok(())
    }

    /// Tells the scheduler of a run that was open when the coordinator stopped: its plan, what is decided, and the leases that agents may still
    /// hold.
    pub(crate) fn restore(&mut self, row: OpenRunRow) -> Result<PreparedRun, LedgerError> {
        let run = row.run;
        let spec = RunSpec::try_from(&row.spec).map_err(|_| LedgerError::Damaged("run"))?;
        let prepared = PreparedRun::new(run, row.started_unix_ms, spec);
        let mut open = OpenRun::new(prepared.clone(), row.last_sequence);
        open.is_announced = row.announced;
        let attempts = self.surroundings.ledger.read_now(|connection| read::attempts(connection, run))?;
        for attempt in &attempts {
            open.leases.insert(attempt.epoch, lease_note(attempt));
            self.run_of_epoch.insert(attempt.epoch, run);
        }
        self.runs.insert(run, open);
        self.surroundings.watchers.publish(run, row.last_sequence);
        if row.last_sequence == 0 {
            self.tell_started(run);
        }
        let is_known = |target: usize| {
            row.targets.get(target).is_some_and(|target| target.discovered.is_some() || target.planned.is_some())
        };
        let discovery_tries =
            self.surroundings.ledger.read_now(|connection| tries::read_discoveries(connection, run))?;
        self.tell(submitted(&prepared, |target| !is_known(target), &discovery_tries));
        let mut tries: HashMap<TargetIndex, Vec<TriesRow>> = HashMap::new();
        for row in self.surroundings.ledger.read_now(|connection| tries::read(connection, run))? {
            tries.entry(row.target).or_default().push(row);
        }
        for (target, row) in row.targets.iter().enumerate() {
            let target = TargetIndex(target as u32);
            self.restore_target(run, target, row, tries.remove(&target).unwrap_or_default())?;
        }
        for attempt in attempts.into_iter().filter(|attempt| attempt.is_open) {
            let is_discovered = is_known(attempt.target.0 as usize);
            self.restore_lease(run, attempt, is_discovered);
        }
        if row.cancelled {
            self.tell(Event::RunCancelled { run });
        }
        tracing::info!(run = run.0, "run continues");
        Ok(prepared)
    }

    fn tell_started(&mut self, run: RunId) {
        let Some(open) = self.runs.get(&run) else { return };
        let started = v1::RunStarted {
            run: run.0,
            project: open.project.clone(),
            targets: open.targets.iter().map(|target| target.prepared.spec.name.clone()).collect(),
        };
        self.publish(run, v1::run_event::Event::RunStarted(started));
    }

    fn restore_target(
        &mut self,
        run: RunId,
        target: TargetIndex,
        row: &TargetRow,
        tries: Vec<TriesRow>,
    ) -> Result<(), LedgerError> {
        if let Some(planned) = &row.planned {
            let mut seeds = self.restore_cases(run, target, planned, row)?;
            self.restore_tries(run, target, &mut seeds, tries);
            self.tell(Event::CasesDiscovered { run, target, cases: seeds });
        } else if let Some(discovered) = &row.discovered {
            let discovered: Vec<DiscoveredCase> = discovered.try_into().map_err(|_| LedgerError::Damaged("target"))?;
            self.plan_target(run, target, discovered);
        }
        Ok(())
    }

    fn restore_cases(
        &mut self,
        run: RunId,
        target: TargetIndex,
        planned: &v1::Discovered,
        row: &TargetRow,
    ) -> Result<Vec<CaseSeed>, LedgerError> {
        let Some(open) = self.runs.get_mut(&run) else { return Ok(Vec::new()) };
        let entry = open.targets.get_mut(target.0 as usize).ok_or(LedgerError::Damaged("target"))?;
        let hash = entry.prepared.history;
        let mut history: HashMap<String, CaseHistory> =
            self.surroundings.ledger.read_now(|connection| read::history(connection, hash))?;
        let mut seeds = Vec::with_capacity(planned.names.len());
        for name in &planned.names {
            let history = history.remove(name);
            seeds.push(seed(history.as_ref(), None));
            entry.cases.push(OpenCase { name: name.clone(), history, is_decided: false });
        }
        mark_groups(entry.prepared.spec.framework, planned.names.iter().map(String::as_str), &mut seeds);
        for &(CaseIndex(case), outcome) in &row.outcomes {
            // A row without a plan's case is found and reported when the run is counted.
            if let (Some(seed), Some(case)) = (seeds.get_mut(case as usize), entry.cases.get_mut(case as usize)) {
                seed.decided = Some(outcome);
                case.is_decided = true;
            }
        }
        Ok(seeds)
    }

    /// A row of a case that is decided meanwhile says nothing any more.
    fn restore_tries(&mut self, run: RunId, target: TargetIndex, seeds: &mut [CaseSeed], rows: Vec<TriesRow>) {
        let Some(open) = self.runs.get_mut(&run) else { return };
        for row in rows {
            let Some(seed) = seeds.get_mut(row.case.0 as usize).filter(|seed| seed.decided.is_none()) else { continue };
            seed.tries = row.tries;
            let failure = row.failure.as_ref().and_then(|failure| CaseReport::try_from(failure).ok());
            if let Some(failure) = failure {
                open.failures.insert((target, row.case), failure);
            }
        }
    }

    fn restore_lease(&mut self, run: RunId, attempt: AttemptRow, is_discovered: bool) {
        let AttemptRow { epoch, agent, target, work, .. } = attempt;
        if work == Work::Discover && is_discovered {
            // Its report was accepted before the stop and only the end of the lease was lost.
            self.end_attempt(epoch, "discovered", Timings::default(), Usage::default());
            return;
        }
        self.tell(Event::LeaseRestored { epoch, agent, run, target, work });
        let assignment = self.runs.get(&run).and_then(|run| run.assignment(epoch));
        if let Some(assignment) = assignment {
            self.agents.assign(self.surroundings.clock.now(), agent, assignment.into());
        }
    }
}

fn lease_note(attempt: &AttemptRow) -> LeaseNote {
    LeaseNote {
        agent_name: attempt.agent_name.clone(),
        target: attempt.target,
        work: attempt.work.clone(),
        assigned_unix_ms: attempt.assigned_unix_ms,
        queued_unix_ms: attempt.queued_unix_ms,
        ended: attempt.finished_unix_ms.map(|finished_unix_ms| AttemptEndNote {
            finished_unix_ms,
            timings: Timings {
                waited: Duration::from_micros(attempt.waited_us),
                transfer: Duration::from_micros(attempt.transfer_us),
                environment: Duration::from_micros(attempt.environment_us),
                execution: Duration::from_micros(attempt.execution_us),
            },
            longest_case: Duration::ZERO,
        }),
    }
}
