//! The client's own count.

use muster_proto::v1::{RunPlanned, TargetDiscovered};

use super::super::tests_support::{event, events};
use super::*;

fn counted(events: &[RunEvent]) -> Tally {
    let mut tally = Tally::default();
    events.iter().for_each(|event| tally.count(event));
    tally
}

fn with_outcome(mut events: Vec<RunEvent>, outcome: &str) -> Vec<RunEvent> {
    if let Some(Event::RunFinished(finished)) = &mut events.last_mut().unwrap().event {
        finished.summary.as_mut().unwrap().outcome = outcome.into();
    }
    events
}

#[test]
fn a_whole_run_is_counted() {
    let tally = counted(&events());
    assert_eq!((tally.planned, tally.done, tally.passed, tally.failed, tally.skipped), (7, 7, 4, 2, 1));
    assert_eq!((tally.flaky, tally.cached, tally.filtered, tally.attempt_faults), (1, 1, 3, 1));
    assert_eq!(tally.exit_code(), ExitCode::TestFailed);
    assert!(tally.running().is_empty());
    assert!(tally.faults().is_empty());
}

#[test]
fn a_pass_with_a_missing_case_is_a_fault() {
    let mut events = with_outcome(events(), "passed");
    events.retain(|event| !matches!(&event.event, Some(Event::CaseFinished(case)) if case.outcome != "passed"));
    let tally = counted(&events);
    assert_eq!(tally.faults(), ["7 cases were planned and 2 reported"]);
    assert_eq!(tally.exit_code(), ExitCode::FleetFault);
}

#[test]
fn a_pass_with_a_doubled_or_a_failed_case_is_a_fault() {
    let mut events = with_outcome(events(), "passed");
    let doubled = events[6].clone();
    events.insert(7, doubled);
    let tally = counted(&events);
    assert_eq!(
        tally.faults(),
        ["the run was called passed although 2 of its cases failed", "1 cases were reported more than once"]
    );
    assert_eq!(tally.exit_code(), ExitCode::FleetFault);
}

#[test]
fn a_run_without_an_end_never_passes() {
    let mut events = events();
    events.pop();
    assert_eq!(counted(&events).exit_code(), ExitCode::FleetFault);
}

#[test]
fn a_listing_is_not_empty_handed() {
    let listed = TargetDiscovered { target: 0, names: vec!["a".into()], ..TargetDiscovered::default() };
    let end = with_outcome(events(), "nothing_to_run").pop().unwrap();
    let with_names = counted(&[event(1, Event::TargetDiscovered(listed)), end.clone()]);
    assert_eq!(with_names.exit_code(), ExitCode::Passed);
    assert_eq!(counted(&[end]).exit_code(), ExitCode::NothingToRun);
}

#[test]
fn the_time_left_follows_history_and_then_what_was_measured() {
    let case = |case, duration_us| {
        let finished = CaseFinished { case, duration_us, outcome: "passed".into(), ..CaseFinished::default() };
        event(1, Event::CaseFinished(finished))
    };
    let plan = |expected_ms| event(1, Event::RunPlanned(RunPlanned { planned: 10, expected_ms, slots: 2 }));
    let mut tally = counted(&[plan(10_000)]);
    assert_eq!(tally.remaining(), Some(Duration::from_secs(5)));
    tally.count(&case(0, 4_000_000));
    assert_eq!(tally.remaining(), Some(Duration::from_secs(3)));
    tally.count(&case(1, 8_000_000));
    assert_eq!(tally.remaining(), Some(Duration::from_secs(24)), "eight cases of six seconds on two slots");
    let unknown = counted(&[plan(1_000_000), case(0, 1_000_000)]);
    assert_eq!(unknown.remaining(), Some(Duration::from_millis(4500)), "nine like the one that is done");
    assert_eq!(counted(&[plan(0)]).remaining(), None, "nothing is known yet");
    assert_eq!(counted(&[]).remaining(), None);
}
