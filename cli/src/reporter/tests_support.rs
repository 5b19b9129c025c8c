//! Recorded events that the reporters' tests share.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use muster_proto::v1::run_event::Event;
use muster_proto::v1::{
    AttemptFault, CaseFinished, CaseStarted, Efficiency, RunEvent, RunFinished, RunPlanned, RunStarted, RunSummary,
    TargetDiscovered,
};

use super::{Note, Reporter, Tally};

/// A step of preparing.
pub(crate) fn step() -> Note {
    let elapsed = std::time::Duration::from_millis(12);
    Note::Step { suite: "cargo".into(), step: "building", words: "building cargo".into(), elapsed }
}

/// A buffer that a test keeps a hand on.
#[derive(Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    /// What was written so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One event at a fixed time.
pub(crate) fn event(sequence: u64, event: Event) -> RunEvent {
    RunEvent { sequence, at_unix_ms: 1_700_000_000_000, event: Some(event) }
}

fn finished_case(case: u32, name: &str, outcome: &str) -> CaseFinished {
    CaseFinished {
        case,
        target_name: "shapes (lib)".into(),
        suite: "cargo".into(),
        name: name.into(),
        outcome: outcome.into(),
        duration_us: 12_345,
        agent: "agent-0".into(),
        environment: "sandbox".into(),
        attempts: 1,
        ..CaseFinished::default()
    }
}

/// One finished case as an event.
pub(crate) fn case(name: &str, outcome: &str, output: &str) -> RunEvent {
    let mut case = finished_case(0, name, outcome);
    case.case = u32::try_from(name.len()).unwrap() * 1000 + name.bytes().map(u32::from).sum::<u32>();
    case.output = output.into();
    event(1, Event::CaseFinished(case))
}

/// A run in which everything happens once.
pub(crate) fn events() -> Vec<RunEvent> {
    let company = vec!["tests::area".to_owned(), "tests::volume".to_owned()];
    let cases = [
        CaseFinished { cached: true, ..finished_case(0, "tests::area", "passed") },
        CaseFinished {
            message: "assertion failed: 1 == 2".into(),
            output:
                "thread 'tests::volume' panicked at src/lib.rs:12:5:\n\u{1b}[31massertion failed: 1 == 2\u{1b}[0m\n"
                    .into(),
            ..finished_case(1, "tests::volume", "failed")
        },
        finished_case(2, "tests::slow", "skipped"),
        CaseFinished { signal: 11, ..finished_case(3, "tests::raw", "crashed") },
        CaseFinished { attempts: 2, output: "first try\n".into(), ..finished_case(4, "tests::network", "flaky") },
        CaseFinished { company, attempts: 2, ..finished_case(5, "tests::global", "interference") },
        CaseFinished { leaked: true, environment: "host".into(), ..finished_case(6, "tests::daemon", "passed") },
    ];
    let summary = RunSummary {
        run: 17,
        project: "shapes".into(),
        outcome: "failed".into(),
        started_unix_ms: 1_700_000_000_000,
        wall_ms: 1234,
        planned: 7,
        passed: 2,
        failed: 2,
        skipped: 1,
        flaky: 1,
        interference: 1,
        cached: 1,
        executed: 5,
        ..RunSummary::default()
    };
    let efficiency = Efficiency {
        wall_ms: 1234,
        lower_bound_ms: 1148,
        efficiency_milli: 930,
        tail_ms: 40,
        slots: 4,
        ..Efficiency::default()
    };
    let mut events = vec![
        Event::RunStarted(RunStarted {
            run: 17,
            project: "shapes".into(),
            targets: vec!["shapes (lib)".into(), "shapes (test broken)".into()],
        }),
        Event::TargetDiscovered(TargetDiscovered { target: 0, planned: 7, filtered: 3, ..TargetDiscovered::default() }),
        Event::TargetDiscovered(TargetDiscovered {
            target: 1,
            failure: "ImportError: no module named y".into(),
            ..TargetDiscovered::default()
        }),
        Event::CaseStarted(CaseStarted { target: 0, case: 1, name: "tests::volume".into(), agent: "agent-0".into() }),
        Event::RunPlanned(RunPlanned { planned: 7, expected_ms: 2000, slots: 4 }),
        Event::AttemptFault(AttemptFault {
            epoch: 8,
            agent: "agent-1".into(),
            kind: "agent_lost".into(),
            message: "its lease ran out".into(),
            cases: vec!["tests::raw".into()],
        }),
    ];
    events.extend(cases.map(Event::CaseFinished));
    events.push(Event::RunFinished(RunFinished {
        summary: Some(summary),
        efficiency: Some(efficiency),
        faults: Vec::new(),
    }));
    events.into_iter().zip(1..).map(|(kind, sequence)| event(sequence, kind)).collect()
}

/// Plays events to a reporter, as a run does.
pub(crate) fn play(reporter: &mut dyn Reporter, events: &[RunEvent]) -> Tally {
    let mut tally = Tally::default();
    for event in events {
        tally.count(event);
        reporter.event(event, &tally).unwrap();
    }
    reporter.finish(&tally).unwrap();
    tally
}
