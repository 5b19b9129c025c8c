use std::time::Duration;

use muster_model::attempt::{Timings, Usage, Work};
use muster_model::outcome::{CaseOutcome, RunOutcome, Verdict};
use muster_model::{AgentId, CaseIndex, Epoch, RunId, TargetIndex};
use muster_proto::v1;
use muster_scheduler::{CaseTries, DiscoveryTries};
use prost::Message;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::history::{CaseHistory, TargetHash};

const TARGET: TargetIndex = TargetIndex(0);

async fn accepted(ledger: &Ledger, token: &str) -> RunId {
    let target = v1::TargetSpec { name: "lib".into(), ..v1::TargetSpec::default() };
    let spec = v1::RunSpec { project: "project".into(), targets: vec![target], policy: None };
    let record = RunRecord {
        token: token.into(),
        project: "project".into(),
        spec: spec.encode_to_vec(),
        targets: 1,
        started_unix_ms: 1000,
    };
    ledger.accept_run(record).await.unwrap().run
}

fn planned(run: RunId, names: &[&str]) -> Record {
    let planned = v1::Discovered { names: names.iter().map(|&name| name.into()).collect(), ignored: Vec::new() };
    Record::Planned { run, target: TARGET, planned: names.len() as u32, names: planned.encode_to_vec() }
}

async fn run_with_cases(ledger: &Ledger, token: &str, names: &[&str]) -> RunId {
    let run = accepted(ledger, token).await;
    ledger.append(planned(run, names));
    run
}

fn decide(ledger: &Ledger, run: RunId, case: u32, outcome: CaseOutcome, sequence: u64) -> Ticket {
    ledger.append(decided(run, case, outcome, sequence))
}

fn decided(run: RunId, case: u32, outcome: CaseOutcome, sequence: u64) -> Record {
    let event = told(sequence).encode_to_vec();
    Record::Outcome(Box::new(OutcomeRecord {
        run,
        target: TARGET,
        case: CaseIndex(case),
        outcome,
        cached: false,
        attempts: 1,
        duration_us: 5,
        epoch: Some(Epoch(1)),
        sequence,
        event,
    }))
}

fn event(run: RunId, sequence: u64) -> Record {
    Record::Event { run, sequence, event: told(sequence).encode_to_vec() }
}

fn told(sequence: u64) -> v1::RunEvent {
    v1::RunEvent { sequence, at_unix_ms: 7, event: None }
}

async fn finish(ledger: &Ledger, run: RunId, planned: u32, reported: u32) -> v1::RunFinished {
    let (reply, answer) = oneshot::channel();
    let finish = FinishRecord {
        run,
        outcome: RunOutcome::Passed,
        planned,
        reported,
        efficiency: v1::Efficiency::default(),
        faults: Vec::new(),
        sequence: 100,
        at_unix_ms: 2000,
        wall_ms: 1000,
    };
    ledger.append(Record::Finish(Box::new(finish), reply));
    match answer.await.unwrap().event {
        Some(v1::run_event::Event::RunFinished(finished)) => finished,
        other => panic!("{other:?}"),
    }
}

fn lease(ledger: &Ledger, run: RunId, epoch: u64) -> Ticket {
    ledger.append(Record::Lease(Box::new(LeaseRecord {
        epoch: Epoch(epoch),
        agent: AgentId(u64::MAX),
        agent_name: "agent".into(),
        run,
        target: TARGET,
        work: Work::Cases { cases: vec![CaseIndex(0), CaseIndex(70_000)], alone: true },
        exclusive: vec!["database".into(), "port 80".into()],
        queued_unix_ms: 1,
        assigned_unix_ms: 2,
    })))
}

const PASSED: CaseOutcome = CaseOutcome::Verdict(Verdict::Passed);
const FAILED: CaseOutcome = CaseOutcome::Verdict(Verdict::Failed);

fn open() -> (TempDir, Ledger) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(folder.path()).unwrap();
    (folder, ledger)
}

#[tokio::test]
async fn the_first_outcome_of_a_case_stays_and_another_one_is_a_fault() {
    let (_folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one", "two"]).await;
    decide(&ledger, run, 0, PASSED, 1);
    decide(&ledger, run, 0, PASSED, 2);
    decide(&ledger, run, 0, FAILED, 3);
    decide(&ledger, run, 1, PASSED, 4);
    let finished = finish(&ledger, run, 2, 2).await;
    assert_eq!(finished.faults, ["1 cases were decided twice, differently; the first outcome stands"]);
    let summary = finished.summary.unwrap();
    assert_eq!((summary.outcome.as_str(), summary.passed, summary.failed), ("fault", 2, 0));
}

#[tokio::test]
async fn the_same_outcome_again_changes_nothing() {
    let (_folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one"]).await;
    decide(&ledger, run, 0, PASSED, 1);
    decide(&ledger, run, 0, PASSED, 2);
    let finished = finish(&ledger, run, 1, 1).await;
    assert_eq!(finished.faults, Vec::<String>::new());
    assert_eq!(finished.summary.unwrap().outcome, "passed");
}

#[tokio::test]
async fn a_planned_case_without_a_row_is_a_fault_whatever_the_scheduler_says() {
    let (_folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one", "two", "three"]).await;
    decide(&ledger, run, 1, PASSED, 1);
    let finished = finish(&ledger, run, 3, 3).await;
    assert_eq!(
        finished.faults,
        [
            "2 planned cases of lib were never reported: one, three",
            "the scheduler counted 3 planned and 3 reported cases, the ledger 3 and 1",
        ]
    );
    assert_eq!(finished.summary.unwrap().outcome, "fault");
}

#[tokio::test]
async fn an_outcome_outside_the_plan_is_a_fault() {
    let (_folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one"]).await;
    decide(&ledger, run, 0, PASSED, 1);
    decide(&ledger, run, 9, PASSED, 2);
    let finished = finish(&ledger, run, 1, 2).await;
    assert!(finished.faults.contains(&"1 outcomes belong to no planned case".to_owned()), "{:?}", finished.faults);
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_restart() {
    let (folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one", "two"]).await;
    lease(&ledger, run, 41);
    let event = v1::RunEvent { sequence: 1, at_unix_ms: 5, event: None };
    ledger.append(Record::Event { run, sequence: 1, event: event.encode_to_vec() });
    let last = decide(&ledger, run, 1, CaseOutcome::Verdict(Verdict::Crashed { signal: 11 }), 2);
    ledger.wait(last).await.unwrap();
    let generation = ledger.generation();
    drop(ledger);

    let ledger = Ledger::open(folder.path()).unwrap();
    assert_eq!((ledger.generation(), ledger.first_epoch()), (generation + 1, Epoch(42)));
    let open = ledger.read_now(read::open_runs).unwrap();
    assert_eq!((open.len(), open[0].run, open[0].last_sequence), (1, run, 2));
    assert_eq!(open[0].targets[0].planned.as_ref().unwrap().names, ["one", "two"]);
    let decided = [(CaseIndex(1), CaseOutcome::Verdict(Verdict::Crashed { signal: 11 }))];
    assert_eq!(open[0].targets[0].outcomes, decided);
    let attempts = ledger.read_now(|connection| read::attempts(connection, run)).unwrap();
    assert_eq!((attempts[0].agent, attempts[0].is_open), (AgentId(u64::MAX), true));
    assert_eq!(attempts[0].work, Work::Cases { cases: vec![CaseIndex(0), CaseIndex(70_000)], alone: true });
    assert_eq!(ledger.read_now(|connection| read::events(connection, run, 0)).unwrap(), [event, told(2)]);
}

#[tokio::test]
async fn a_closed_lease_stays_as_it_was_closed_first() {
    let (_folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one"]).await;
    lease(&ledger, run, 1);
    let usage = Usage {
        memory_peak_bytes: 1,
        cpu: Duration::from_micros(2),
        written_bytes: 3,
        processes_peak: 4,
        processes_created: 5,
        fetched_bytes: 6,
        reused_bytes: 7,
    };
    let end = |result| AttemptEndRecord {
        epoch: Epoch(1),
        finished_unix_ms: 9,
        result,
        timings: Timings { execution: Duration::from_micros(7), ..Timings::default() },
        usage,
    };
    ledger.append(Record::AttemptEnded(Box::new(end("ran"))));
    let last = ledger.append(Record::AttemptEnded(Box::new(end("withdrawn"))));
    ledger.wait(last).await.unwrap();
    let attempts = ledger.read_now(|connection| read::attempts(connection, run)).unwrap();
    assert_eq!((attempts[0].result.as_str(), attempts[0].execution_us, attempts[0].is_open), ("ran", 7, false));
    assert_eq!(attempts[0].usage, usage);
}

#[tokio::test]
async fn attempts_that_may_not_have_ended_are_known_with_their_groups() {
    let (_folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one"]).await;
    for epoch in 1..=4 {
        lease(&ledger, run, epoch);
    }
    for (epoch, result, finished_unix_ms) in [(1, "withdrawn", 100), (2, "ran", 100), (3, "agent_lost", 99)] {
        let (timings, usage, epoch) = (Timings::default(), Usage::default(), Epoch(epoch));
        ledger.append(Record::AttemptEnded(Box::new(AttemptEndRecord {
            epoch,
            finished_unix_ms,
            result,
            timings,
            usage,
        })));
    }
    let read = |since| ledger.read_now(|connection| read::vacating(connection, since)).unwrap();
    finish(&ledger, run, 1, 0).await;
    let epochs = |since| read(since).into_iter().map(|row| row.epoch.0).collect::<Vec<_>>();
    assert_eq!((epochs(99), epochs(100), epochs(3000)), (vec![1, 3, 4], vec![1, 4], vec![]), "the last with its run");
    assert_eq!(read(100)[0].exclusive, ["database", "port 80"]);
}

#[tokio::test]
async fn a_token_is_accepted_once() {
    let (_folder, ledger) = open();
    let first = run_with_cases(&ledger, "same", &[]).await;
    let second = run_with_cases(&ledger, "same", &[]).await;
    let third = run_with_cases(&ledger, "other", &[]).await;
    assert_eq!(first, second);
    assert_ne!(first, third);
}

#[tokio::test]
async fn history_is_kept_by_target_and_name() {
    let (_folder, ledger) = open();
    let mut history = CaseHistory::from_row(&[], true, true);
    history.push(Duration::from_millis(4));
    let target = TargetHash::of("project", "lib");
    let record = HistoryRecord { target, case_name: "one".into(), history: history.clone(), run: RunId(1) };
    let last = ledger.append(Record::History(Box::new(record)));
    ledger.wait(last).await.unwrap();
    let read = ledger.read_now(|connection| read::history(connection, target)).unwrap();
    assert_eq!(read.get("one"), Some(&history));
    let other = TargetHash::of("project", "other");
    assert!(ledger.read_now(|connection| read::history(connection, other)).unwrap().is_empty());
}

#[test]
fn a_folder_has_one_ledger_at_a_time_and_a_newer_format_is_refused() {
    let (folder, ledger) = open();
    assert!(matches!(Ledger::open(folder.path()), Err(LedgerError::Locked(_))));
    drop(ledger);
    let connection = rusqlite::Connection::open(folder.path().join("ledger.sqlite3")).unwrap();
    connection.pragma_update(None, "user_version", 1000).unwrap();
    drop(connection);
    assert!(matches!(Ledger::open(folder.path()), Err(LedgerError::Newer { found: 1000, .. })));
}

#[tokio::test]
async fn old_finished_runs_are_forgotten_and_their_epochs_never_come_back() {
    let (folder, ledger) = open();
    let first = run_with_cases(&ledger, "first", &[]).await;
    lease(&ledger, first, 77);
    finish(&ledger, first, 0, 0).await;
    let mut last = first;
    for token in 0..muster_model::limits::RUNS_KEPT_MAX {
        last = run_with_cases(&ledger, &token.to_string(), &[]).await;
    }
    finish(&ledger, last, 0, 0).await;
    assert!(ledger.read_now(|connection| read::run(connection, first)).unwrap().is_none());
    assert!(ledger.read_now(|connection| read::attempts(connection, first)).unwrap().is_empty());
    drop(ledger);
    assert_eq!(Ledger::open(folder.path()).unwrap().first_epoch(), Epoch(78));
}

#[tokio::test]
async fn what_is_charged_to_a_case_outlives_a_restart_and_not_its_run() {
    let (folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one", "two"]).await;
    let tries = CaseTries { attempts: 2, failed_tries: 1, failed_in_company: Some(Epoch(7)), ..CaseTries::default() };
    let failure = v1::CaseReport { message: "it broke".into(), ..v1::CaseReport::default() };
    let record = |tries| TriesRecord { run, target: TARGET, case: CaseIndex(1), tries, failure: Some(failure.clone()) };
    ledger.append(Record::Tries(Box::new(record(CaseTries::default()))));
    let ticket = ledger.append(Record::Tries(Box::new(record(tries))));
    ledger.wait(ticket).await.unwrap();
    drop(ledger);
    let ledger = Ledger::open(folder.path()).unwrap();
    let rows = ledger.read_now(|connection| tries::read(connection, run)).unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((row.case, row.tries, row.failure.as_ref()), (CaseIndex(1), tries, Some(&failure)));
    decide(&ledger, run, 0, PASSED, 1);
    decide(&ledger, run, 1, PASSED, 2);
    finish(&ledger, run, 2, 2).await;
    assert_eq!(ledger.read_now(|connection| tries::read(connection, run)).unwrap().len(), 0);
}

#[tokio::test]
async fn what_is_charged_to_a_discovery_outlives_a_restart_and_not_its_run() {
    let (folder, ledger) = open();
    let run = run_with_cases(&ledger, "a", &["one"]).await;
    for faults in [1, 2] {
        let tries = DiscoveryTries { faults, losses_uncharged: 3 };
        ledger.wait(ledger.append(Record::DiscoveryTries { run, target: TARGET, tries })).await.unwrap();
    }
    drop(ledger);
    let ledger = Ledger::open(folder.path()).unwrap();
    let read = || ledger.read_now(|connection| tries::read_discoveries(connection, run)).unwrap();
    assert_eq!(read()[&TARGET], DiscoveryTries { faults: 2, losses_uncharged: 3 });
    decide(&ledger, run, 0, PASSED, 1);
    finish(&ledger, run, 1, 1).await;
    assert!(read().is_empty());
}

#[tokio::test]
async fn a_ledger_of_the_first_format_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(folder.path().join("ledger.sqlite3")).unwrap();
    connection.execute_batch(include_str!("schema.sql")).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    drop(connection);
    let ledger = Ledger::open(folder.path()).unwrap();
    let run = run_with_cases(&ledger, "a", &["one"]).await;
    assert_eq!(ledger.read_now(|connection| tries::read(connection, run)).unwrap().len(), 0);
}

/// After a stop at any moment between two writes, or in the middle of one, either all of it is there or nothing.
#[tokio::test]
async fn a_plan_what_is_told_of_it_and_what_it_decides_are_durable_together() {
    let (folder, ledger) = open();
    let run = accepted(&ledger, "a").await;
    // Names that fill more than one page each, so that there is much to tear.
    let names = ["a", "b", "c"].map(|name| name.repeat(9000));
    let names = names.each_ref().map(String::as_str);
    let plan = vec![planned(run, &names), event(run, 1), event(run, 2), decided(run, 1, PASSED, 3)];
    ledger.wait(ledger.append(Record::Together(plan))).await.unwrap();
    let last = ledger.append(Record::Together(vec![Record::Announced(run), event(run, 4)]));
    ledger.wait(last).await.unwrap();
    let files = ["ledger.sqlite3", "ledger.sqlite3-wal"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    let [database, log] = files;
    let mut seen = std::collections::BTreeSet::new();
    // A quarter of a page at a time.
    for length in (0..=log.len()).step_by(1024).chain([log.len()]) {
        let torn = tempfile::tempdir().unwrap();
        std::fs::write(torn.path().join("ledger.sqlite3"), &database).unwrap();
        std::fs::write(torn.path().join("ledger.sqlite3-wal"), &log[..length]).unwrap();
        let connection = rusqlite::Connection::open(torn.path().join("ledger.sqlite3")).unwrap();
        // Before the tables are there, nothing is.
        let Ok(runs) = read::open_runs(&connection) else { continue };
        let Some(open) = runs.first() else { continue };
        let events = read::events(&connection, run, 0).unwrap().len();
        let target = &open.targets[0];
        seen.insert((target.planned.is_some(), target.outcomes.len(), events, open.announced));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(false, 0, 0, false), (true, 1, 3, false), (true, 1, 4, true)]);
}

/// T3.7 for the ledger: whatever bit is wrong, it is refused with what is wrong, or opened and read without a panic.
#[tokio::test]
async fn t3_7_a_ledger_with_a_flipped_bit_is_refused_or_read() {
    let (folder, ledger) = open();
    for token in ["a", "b", "c"] {
        let run = run_with_cases(&ledger, token, &["one", "two"]).await;
        lease(&ledger, run, 41 + run.0);
        decide(&ledger, run, 0, PASSED, 1);
    }
    drop(ledger);
    let whole = std::fs::read(folder.path().join("ledger.sqlite3")).unwrap();
    for round in 0..250_usize {
        // Spread over the whole file, and every fifth in the words that it begins with.
        let is_header = round % 5 == 0;
        let place = if is_header { round / 5 % 16 } else { round * 7919 % whole.len() };
        let mut bytes = whole.clone();
        bytes[place] ^= 1 << (round % 8);
        let torn = tempfile::tempdir().unwrap();
        std::fs::write(torn.path().join("ledger.sqlite3"), &bytes).unwrap();
        match Ledger::open(torn.path()) {
            Ok(ledger) => {
                assert!(!is_header, "byte {place}");
                let runs = ledger.read_now(read::open_runs).unwrap_or_default();
                for run in runs {
                    drop(ledger.read_now(|connection| read::events(connection, run.run, 0)));
                }
            }
            Err(LedgerError::Corrupt { .. } | LedgerError::Newer { .. } | LedgerError::Damaged(_)) => {
                assert_eq!(std::fs::read(torn.path().join("ledger.sqlite3")).unwrap(), bytes, "it is left as it is");
            }
            Err(error) => panic!("bit {} of byte {place}: {error:?}", round % 8),
        }
    }
}
