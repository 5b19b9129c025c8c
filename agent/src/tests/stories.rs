//! What a coordinator can rely on.

use std::path::Path;
use std::time::Duration;

use muster_model::attempt::{AttemptResult, Work};
use muster_model::outcome::{FaultKind, Verdict};
use muster_proto::v1::Stage;

use super::World;
use super::coordinator::{PATIENCE, lists};

/// Writes its process id, then waits for ever.
const HANG: &str = "echo $$ > $FOLDER/pid.partial; mv $FOLDER/pid.partial $FOLDER/pid; exec sleep 1000";

fn is_alive(folder: &Path) -> bool {
    let pid = std::fs::read_to_string(folder.join("pid")).unwrap();
    Path::new("/proc").join(pid.trim()).join("cmdline").exists()
}

async fn hangs(world: &World) {
    let waiting = async {
        while !world.path().join("pid").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the program starts");
}

fn verdicts(reports: &[muster_model::attempt::CaseReport]) -> Vec<Verdict> {
    reports.iter().map(|report| report.verdict).collect()
}

#[tokio::test]
async fn an_exit_status_becomes_a_verdict() {
    let mut world = World::new(2, &["exit 0", "echo why >&2; exit 3", "kill -SEGV $$"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    stream.say(&[world.case(1, 0), world.case(2, 1), world.case(3, 2)], &[]).await;
    assert_eq!(verdicts(&stream.cases(1).await), [Verdict::Passed]);
    let failed = stream.cases(2).await;
    assert_eq!(verdicts(&failed), [Verdict::Failed]);
    assert!(failed[0].output.contains("why"), "{:?}", failed[0]);
    assert_eq!(verdicts(&stream.cases(3).await), [Verdict::Crashed { signal: 11 }]);
    let report = stream.finished(1).await;
    assert!(report.timings.execution > Duration::ZERO);
    assert_eq!((report.usage.fetched_bytes, report.usage.reused_bytes), (1, 2));
    agent.stop().await;
}

#[tokio::test]
async fn discovery_answers_with_the_cases() {
    let mut world = World::new(1, &["exit 0"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    stream.say(&[world.assignment(1, 0, Work::Discover)], &[]).await;
    let AttemptResult::Discovered { cases } = stream.finished(1).await.result else { panic!("a list") };
    assert_eq!(cases.len(), 1);
    agent.stop().await;
}

#[tokio::test]
async fn a_case_that_passes_its_time_is_killed_and_the_next_one_runs() {
    // The first of the three processes hangs.
    let mut world = World::new(1, &["mkdir $FOLDER/first 2>/dev/null && exec sleep 1000; exit 0"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    let assignment = World::changed(world.alone(1, 0, 3), |task| task.case_timeout = Duration::from_secs(2));
    stream.say(&[assignment], &[]).await;
    let reports = stream.cases(1).await;
    assert_eq!(verdicts(&reports), [Verdict::TimedOut, Verdict::Passed, Verdict::Passed]);
    assert_eq!(reports.iter().map(|report| report.case.0).collect::<Vec<_>>(), [0, 1, 2]);
    agent.stop().await;
}

#[tokio::test]
async fn a_withdrawn_attempt_is_killed_and_never_reported() {
    let mut world = World::new(1, &[HANG, "exit 0"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    stream.say(&[world.case(1, 0)], &[]).await;
    hangs(&world).await;
    assert!(is_alive(world.path()));
    stream.say(&[world.case(2, 1)], &[]).await;
    assert_eq!(verdicts(&stream.cases(2).await), [Verdict::Passed], "its slot is free");
    assert!(!is_alive(world.path()));
    assert_eq!(stream.seen.len(), 1);
    agent.stop().await;
}

#[tokio::test]
async fn doubled_and_late_messages_start_nothing_twice() {
    let mut world = World::new(2, &["echo x >> $FOLDER/started; exit 0"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    for _ in 0..3 {
        stream.say(&[world.case(1, 0)], &[]).await;
    }
    stream.cases(1).await;
    stream.say(&[], &[1]).await;
    stream.until(|report| report.attempts.is_empty()).await;
    stream.say(&[world.case(1, 0)], &[]).await;
    stream.say(&[world.case(2, 0)], &[]).await;
    stream.cases(2).await;
    let started = std::fs::read_to_string(world.path().join("started")).unwrap();
    assert_eq!(started.lines().count(), 2, "one for each of the two epochs");
    agent.stop().await;
}

#[tokio::test]
async fn a_lost_stream_costs_no_work_and_reports_are_sent_again_until_acknowledged() {
    let mut world = World::new(2, &["exit 0", "while [ ! -e $FOLDER/go ]; do sleep 0.01; done"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    let wanted = [world.case(1, 0), world.case(2, 1)];
    stream.say(&wanted, &[]).await;
    stream.cases(1).await;
    stream.until(|report| lists(report, 2, Stage::Running)).await;
    drop(stream);
    let mut stream = world.coordinator.accept().await;
    let first = stream.next().await.unwrap();
    assert!(lists(&first, 1, Stage::Finished) && lists(&first, 2, Stage::Running), "{first:?}");
    assert_eq!(first.finished.len(), 1);
    stream.say(&wanted, &[1]).await;
    stream.until(|report| report.attempts.len() == 1).await;
    std::fs::write(world.path().join("go"), "").unwrap();
    assert_eq!(verdicts(&stream.cases(2).await), [Verdict::Passed]);
    agent.stop().await;
}

#[tokio::test]
async fn a_report_outlives_its_agent() {
    let mut world = World::new(1, &["exit 1"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    stream.say(&[world.case(7, 0)], &[]).await;
    let before = stream.finished(7).await;
    let identity = agent.id();
    agent.stop().await;
    let agent = world.start_agent();
    assert_eq!(agent.id(), identity);
    let mut stream = world.coordinator.accept().await;
    assert_eq!(stream.finished(7).await, before);
    stream.say(&[], &[7]).await;
    stream.until(|report| report.attempts.is_empty()).await;
    agent.stop().await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    assert_eq!(stream.next().await.unwrap().attempts, [], "acknowledged is forgotten");
    agent.stop().await;
}

#[tokio::test]
async fn a_draining_agent_finishes_gives_back_and_leaves() {
    let mut world = World::new(1, &["while [ ! -e $FOLDER/go ]; do sleep 0.01; done", "exit 0"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    let wanted = [world.case(1, 0), world.case(2, 1)];
    stream.say(&wanted, &[]).await;
    stream.until(|report| lists(report, 1, Stage::Running)).await;
    let left = async {
        agent.drain().await;
    };
    let coordinate = async {
        let AttemptResult::Fault(fault) = stream.finished(2).await.result else { panic!("a fault") };
        assert_eq!(fault.kind, FaultKind::Returned);
        std::fs::write(world.path().join("go"), "").unwrap();
        assert_eq!(verdicts(&stream.cases(1).await), [Verdict::Passed]);
        stream.until(|report| report.draining).await;
        stream.say(&[], &[1, 2]).await;
        stream.ended().await;
    };
    tokio::join!(left, coordinate);
}

#[tokio::test]
async fn a_stopped_agent_leaves_no_process() {
    let mut world = World::new(1, &[HANG]).await;
    let agent = world.start_agent();
    let stream = world.coordinator.accept().await;
    stream.say(&[world.case(1, 0)], &[]).await;
    hangs(&world).await;
    agent.stop().await;
    assert!(!is_alive(world.path()));
}

#[tokio::test]
async fn a_missing_input_is_the_fleets_fault() {
    let mut world = World::new(1, &["exit 0"]).await;
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    let nobody_has = muster_model::Digest::of(b"nobody has this");
    let assignment = World::changed(world.case(1, 0), |task| task.target_spec = nobody_has);
    stream.say(&[assignment], &[]).await;
    let AttemptResult::Fault(fault) = stream.finished(1).await.result else { panic!("a fault") };
    assert_eq!(fault.kind, FaultKind::Inputs);
    assert!(fault.message.contains("is not in the store"), "{}", fault.message);
    agent.stop().await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_a_fault_of_the_start() {
    let mut world = World::new(1, &["exit 0"]).await;
    let mut target = world.target(0);
    target.command.arguments = vec!["/no/such/program".to_owned()];
    let assignment = World::changed(world.case(1, 0), |task| task.target_spec = super::digest(&target));
    world.extra.push(target);
    let agent = world.start_agent();
    let mut stream = world.coordinator.accept().await;
    stream.say(&[assignment], &[]).await;
    let AttemptResult::Fault(fault) = stream.finished(1).await.result else { panic!("a fault") };
    assert_eq!(fault.kind, FaultKind::Start, "{}", fault.message);
    agent.stop().await;
}
