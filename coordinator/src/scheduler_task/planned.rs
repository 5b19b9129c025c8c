//! A target whose cases are known.

use muster_model::{CaseIndex, RunId, TargetIndex, limits};
use muster_proto::v1;
use muster_scheduler::{CaseSeed, Event};
use prost::Message;

use super::SchedulerTask;
use crate::effects::Effect;
use crate::ledger::{OutcomeRecord, Record};
use crate::open_run::OpenCase;
use crate::planning::{Decided, Plan, PlannedCase, mark_groups};
use crate::words::without;

impl SchedulerTask {
    /// Writes the plan and what is decided by it, tells watchers, and hands the rest to the scheduler. All of it is one record: after a stop
    /// in between, cases that are decided here would be run, and watchers would miss what was discovered.
    pub(super) fn take_plan(&mut self, run: RunId, target: TargetIndex, plan: Plan) {
        let queued_unix_ms = self.surroundings.clock.unix_ms();
        let Some(open) = self.runs.get_mut(&run) else { return };
        let Some(entry) = open.targets.get_mut(target.0 as usize) else { return };
        let Plan { cases, filtered, listed } = plan;
        let mut seeds: Vec<CaseSeed> = cases.iter().map(PlannedCase::seed).collect();
        let framework = entry.prepared.spec.framework;
        mark_groups(framework, cases.iter().map(|case| case.name.as_str()), &mut seeds);
        let decided: Vec<(usize, Decided)> =
            cases.iter().enumerate().filter_map(|(case, planned)| Some((case, planned.decided?))).collect();
        entry.cases = cases
            .into_iter()
            .map(|case| OpenCase { name: case.name, history: case.history, is_decided: false })
            .collect();
        entry.queued_unix_ms = queued_unix_ms;
        let names =
            v1::Discovered { names: entry.cases.iter().map(|case| case.name.clone()).collect(), ignored: Vec::new() };
        let planned = names.names.len() as u32;
        let mut records = vec![Record::Planned { run, target, planned, names: names.encode_to_vec() }];
        self.tell_discovered(
            run,
            target,
            v1::TargetDiscovered { planned, filtered, ..Default::default() },
            listed,
            &mut records,
        );
        for (case, how) in decided {
            self.report_decided(run, target, CaseIndex(case as u32), how, &mut records);
        }
        self.append(Record::Together(records));
        self.publish_all(run);
        self.tell(Event::CasesDiscovered { run, target, cases: seeds });
    }

    /// Names go out in pages: all of them may not fit into one message.
    fn tell_discovered(
        &mut self,
        run: RunId,
        target: TargetIndex,
        first: v1::TargetDiscovered,
        listed: Vec<String>,
        records: &mut Vec<Record>,
    ) {
        let mut pages = vec![v1::TargetDiscovered { target: target.0, ..first }];
        let mut bytes = 0;
        for name in listed {
            bytes += name.len();
            if bytes > limits::CHUNK_BYTES_MAX {
                pages.push(v1::TargetDiscovered { target: target.0, ..v1::TargetDiscovered::default() });
                bytes = name.len();
            }
            if let Some(page) = pages.last_mut() {
                page.names.push(name);
            }
        }
        for page in pages {
            records.extend(self.event_record(run, v1::run_event::Event::TargetDiscovered(page)).1);
        }
    }

    fn report_decided(
        &mut self,
        run: RunId,
        target: TargetIndex,
        case: CaseIndex,
        how: Decided,
        records: &mut Vec<Record>,
    ) {
        let Some(open) = self.runs.get_mut(&run) else { return };
        open.note_decided(target, case);
        let Some(entry) = open.target(target) else { return };
        let (cached, duration_us, message) = match how {
            Decided::Ignored => (false, 0, "ignored"),
            Decided::Cached { duration } => (true, u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), ""),
        };
        let spec = &entry.prepared.spec;
        let event = v1::CaseFinished {
            target: target.0,
            target_name: spec.name.clone(),
            suite: spec.suite.clone(),
            name: open.case_name(target, case).to_owned(),
            outcome: how.outcome().name().into(),
            duration_us,
            message: message.into(),
            cached,
            environment: spec.requirements.environment.name().into(),
            without: without(&spec.requirements),
            case: case.0,
            ..v1::CaseFinished::default()
        };
        let failed_before = entry.cases[case.0 as usize].history.as_ref().is_some_and(|history| history.failed_last);
        let (sequence, event) = self.number_event(run, v1::run_event::Event::CaseFinished(event));
        records.push(Record::Outcome(Box::new(OutcomeRecord {
            run,
            target,
            case,
            outcome: how.outcome(),
            cached,
            attempts: 0,
            duration_us,
            epoch: None,
            sequence,
            event,
        })));
        if cached && failed_before {
            records.extend(self.learned(run, target, case, |history| history.failed_last = false));
        }
    }

    /// Lets watchers read everything so far, once for many events.
    fn publish_all(&mut self, run: RunId) {
        if let Some(sequence) = self.runs.get(&run).map(|run| run.last_sequence) {
            self.effect(Effect::Publish { run, sequence });
        }
    }
}
