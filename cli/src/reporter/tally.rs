//! What is known of a run so far, and the client's own check of the promise that every planned case is reported exactly once.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use muster_proto::v1::run_event::Event;
use muster_proto::v1::{CaseFinished, Efficiency, RunEvent, RunFinished, RunSummary};

use super::outcome::{Class, class, has_leaked};
use crate::exit_code::ExitCode;

/// A case under way.
#[derive(Clone, Debug)]
pub struct Running {
    /// The target's name.
    pub target: String,
    /// The case's name.
    pub name: String,
    /// When this client heard of it.
    pub since: Instant,
}

/// Counts over the events of one run.
#[derive(Debug, Default)]
pub struct Tally {
    /// The run's number; 0 before it has started.
    pub run: u64,
    /// The project's name.
    pub project: String,
    /// The targets' names, by index.
    pub targets: Vec<String>,
    /// Cases that will be reported, as far as targets are discovered.
    pub planned: u64,
    /// Cases left out by filters.
    pub filtered: u64,
    /// Whether every target is discovered.
    pub planned_is_final: bool,
    /// Cases reported.
    pub done: u64,
    /// Reported cases that passed, on whatever try.
    pub passed: u64,
    /// Reported cases that failed, faults included.
    pub failed: u64,
    /// Reported cases that were skipped.
    pub skipped: u64,
    /// Reported cases that were flaky.
    pub flaky: u64,
    /// Reported cases taken from the cache.
    pub cached: u64,
    /// Reports that want to be shown again at the end: everything but passed, skipped and cancelled cases, and what leaked.
    pub remarkable: Vec<CaseFinished>,
    /// With `--list`: every target's cases.
    pub listed: BTreeMap<u32, Vec<String>>,
    /// Targets whose discovery failed, and the framework's words.
    pub discovery_failures: Vec<(String, String)>,
    /// Faults of attempts so far.
    pub attempt_faults: u64,
    /// The end, once it is known.
    pub finished: Option<RunFinished>,
    running: BTreeMap<(u32, u32), Running>,
    reported: HashSet<(u32, u32)>,
    doubled: u64,
    expected: Duration,
    measured: Duration,
    executed: u64,
    slots: u32,
}

impl Tally {
    /// Counts one event.
    pub fn count(&mut self, event: &RunEvent) {
        match &event.event {
            Some(Event::RunStarted(started)) => {
                self.run = started.run;
                self.project.clone_from(&started.project);
                self.targets.clone_from(&started.targets);
            }
            Some(Event::TargetDiscovered(discovered)) => {
                self.planned += u64::from(discovered.planned);
                self.filtered += u64::from(discovered.filtered);
                if !discovered.names.is_empty() {
                    self.listed.insert(discovered.target, discovered.names.clone());
                }
                if !discovered.failure.is_empty() {
                    let name = self.target_name(discovered.target).to_owned();
                    self.discovery_failures.push((name, discovered.failure.clone()));
                }
            }
            Some(Event::RunPlanned(planned)) => {
                self.planned = u64::from(planned.planned);
                self.planned_is_final = true;
                self.expected = Duration::from_millis(planned.expected_ms);
                self.slots = planned.slots;
            }
            Some(Event::CaseStarted(case)) => {
                let target = self.target_name(case.target).to_owned();
                let running = Running { target, name: case.name.clone(), since: Instant::now() };
                self.running.insert((case.target, case.case), running);
            }
            Some(Event::CaseFinished(case)) => self.count_case(case),
            Some(Event::AttemptFault(_)) => self.attempt_faults += 1,
            Some(Event::RunFinished(finished)) => {
                self.running.clear();
                self.finished = Some(finished.clone());
            }
            None => {}
        }
    }

    fn count_case(&mut self, case: &CaseFinished) {
        self.running.remove(&(case.target, case.case));
        if !self.reported.insert((case.target, case.case)) {
            self.doubled += 1;
            return;
        }
        self.done += 1;
        self.cached += u64::from(case.cached);
        if !case.cached {
            self.executed += 1;
            self.measured = self.measured.saturating_add(Duration::from_micros(case.duration_us));
        }
        let class = class(&case.outcome);
        match class {
            Class::Good | Class::Suspicious => self.passed += 1,
            Class::Bad => self.failed += 1,
            Class::Quiet => self.skipped += 1,
        }
        self.flaky += u64::from(case.outcome == "flaky");
        if matches!(class, Class::Bad | Class::Suspicious) || has_leaked(case) {
            self.remarkable.push(case.clone());
        }
    }

    /// The name of a target, or a placeholder for one that was never announced.
    pub fn target_name(&self, target: u32) -> &str {
        self.targets.get(target as usize).map_or("an unknown target", String::as_str)
    }

    /// The cases under way, longest first.
    pub fn running(&self) -> Vec<&Running> {
        let mut running: Vec<&Running> = self.running.values().collect();
        running.sort_by_key(|case| case.since);
        running
    }

    /// How long the rest will take, from history refined by what was measured; none before anything is known.
    ///
    /// Work is started longest first, so what is left is what history expected less what was done, and at most as much as if every case that is
    /// open took the mean of those that are done. The mean alone counts once more was measured than history expected: then history is wrong.
    pub fn remaining(&self) -> Option<Duration> {
        let open = self.planned.saturating_sub(self.done);
        if !self.planned_is_final || open == 0 {
            return None;
        }
        let by_history = self.expected.checked_sub(self.measured).filter(|rest| !rest.is_zero());
        let by_mean = (self.executed > 0).then(|| {
            let mean = self.measured / u32::try_from(self.executed).unwrap_or(u32::MAX);
            mean.saturating_mul(u32::try_from(open).unwrap_or(u32::MAX))
        });
        let work = match (by_history, by_mean) {
            (Some(history), Some(mean)) => history.min(mean),
            (one, other) => one.or(other)?,
        };
        let lanes = u64::from(self.slots.max(1)).min(open);
        Some(work / u32::try_from(lanes).unwrap_or(1))
    }

    /// The end's summary and efficiency, with zeros for what the coordinator left out.
    pub fn summary(&self) -> (RunSummary, Efficiency) {
        let finished = self.finished.as_ref();
        (
            finished.and_then(|finished| finished.summary.clone()).unwrap_or_default(),
            finished.and_then(|finished| finished.efficiency).unwrap_or_default(),
        )
    }

    /// What the fleet could not keep: its own words, and what this client counted otherwise.
    pub fn faults(&self) -> Vec<String> {
        let Some(finished) = &self.finished else { return Vec::new() };
        let mut faults = finished.faults.clone();
        let summary = finished.summary.clone().unwrap_or_default();
        if summary.outcome == "passed" && self.done != u64::from(summary.planned) && self.listed.is_empty() {
            faults.push(format!("{} cases were planned and {} reported", summary.planned, self.done));
        }
        if summary.outcome == "passed" && self.failed > 0 {
            faults.push(format!("the run was called passed although {} of its cases failed", self.failed));
        }
        if self.doubled > 0 {
            faults.push(format!("{} cases were reported more than once", self.doubled));
        }
        faults
    }

    /// The outcome, as the wire names it: the coordinator's, unless this client's own count contradicts it.
    pub fn outcome(&self) -> String {
        let (summary, _) = self.summary();
        match summary.outcome.as_str() {
            "passed" | "nothing_to_run" if !self.faults().is_empty() => "fault".into(),
            "nothing_to_run" if !self.listed.is_empty() => "passed".into(),
            _ => summary.outcome,
        }
    }

    /// The exit code of the run; a run whose end was never heard of is the fleet's fault.
    pub fn exit_code(&self) -> ExitCode {
        match &self.finished {
            Some(_) => ExitCode::of_outcome(&self.outcome()),
            None => ExitCode::FleetFault,
        }
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
