//! Runs over the real services, with scripted agents.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muster_model::attempt::DiscoveredCase;
use muster_model::outcome::Verdict;
use muster_model::platform::BaseRequest;
use muster_proto::v1;
use muster_proto::v1::run_event::Event;
use muster_proto::v1::runs_client::RunsClient;
use muster_proto::v1::status_client::StatusClient;
use support::{
    Journal, agent, connect, finished, fleet_status, outcomes, passing, run_of, start, submit, submit_as, summary,
    target, token, until, watch, watch_from,
};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reports_every_case_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let mut behaviour = passing(&["a", "b", "c"]);
    behaviour.cases.push(DiscoveredCase { name: "ignored".into(), ignored: true });
    behaviour.script = Arc::new(|name, _| if name == "b" { Verdict::Failed } else { Verdict::Passed });
    agent(channel.clone(), behaviour, Journal::default());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    let events = watch(&channel, run).await;
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=events.len() as u64).collect::<Vec<_>>());
    assert!(matches!(events[0].event, Some(Event::RunStarted(_))));
    assert!(events.iter().any(|event| matches!(event.event, Some(Event::RunPlanned(_)))));
    let expected = [("a", "passed"), ("b", "failed"), ("c", "passed"), ("ignored", "skipped")];
    assert_eq!(outcomes(&events), expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())));
    let summary = summary(&events);
    assert_eq!((summary.planned, summary.passed, summary.failed, summary.skipped), (4, 2, 1, 1));
    assert_eq!((summary.executed, summary.outcome.as_str()), (3, "failed"));
    assert_eq!(finished(&events).faults, Vec::<String>::new());
    let failure = events.iter().find_map(|event| match &event.event {
        Some(Event::CaseFinished(case)) if case.name == "b" => Some(case.clone()),
        _ => None,
    });
    let failure = failure.unwrap();
    assert_eq!((failure.message.as_str(), failure.agent.as_str()), ("b failed", "agent-7"));
    assert_eq!((failure.environment.as_str(), failure.target_name.as_str()), ("sandbox", "lib"));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_run_again_executes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let journal = Journal::default();
    let names: Vec<String> = (0..200).map(|case| format!("case_{case}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    agent(channel.clone(), passing(&names), journal.clone());
    let spec = run_of(vec![target("lib")]);
    let first = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!((summary(&first).executed, summary(&first).cached), (200, 0));
    journal.take();
    let second = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!((summary(&second).executed, summary(&second).cached), (0, 200));
    assert_eq!((summary(&second).planned, summary(&second).outcome.as_str()), (200, "passed"));
    assert_eq!(journal.take(), Vec::<String>::new());
    let stats = StatusClient::new(channel).cache_stats(v1::CacheStatsRequest {}).await.unwrap().into_inner();
    let kind = |name: &str| stats.kinds.iter().find(|kind| kind.kind == name).unwrap().hits;
    assert_eq!((kind("case_result"), kind("discovery")), (200, 1));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_cache_executes_every_case_again_and_lists_them_once() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    agent(channel.clone(), passing(&["a", "b"]), Journal::default());
    let mut spec = run_of(vec![target("lib")]);
    watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    spec.policy.read_cache = false;
    let again = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!((summary(&again).executed, summary(&again).cached), (2, 0));
    let stats = StatusClient::new(channel).cache_stats(v1::CacheStatsRequest {}).await.unwrap().into_inner();
    let kind = |name: &str| stats.kinds.iter().find(|kind| kind.kind == name).unwrap().hits;
    assert_eq!((kind("case_result"), kind("discovery")), (0, 1));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_failed_last_time_is_planned_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let mut behaviour = passing(&["a", "b", "c"]);
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = is_broken.clone();
    behaviour.script = Arc::new(move |name, _| match (name, broken.load(Ordering::SeqCst)) {
        ("b", true) => Verdict::Failed,
        _ => Verdict::Passed,
    });
    agent(channel.clone(), behaviour, Journal::default());
    let mut spec = run_of(vec![target("lib")]);
    let first = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!(summary(&first).failed, 1);
    is_broken.store(false, Ordering::SeqCst);
    spec.policy.only_failed = true;
    let second = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!(outcomes(&second), [("b".to_owned(), "passed".to_owned())]);
    let third = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!(summary(&third).outcome, "nothing_to_run");
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_leave_cases_out_of_the_plan_and_a_list_names_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    agent(channel.clone(), passing(&["tests::a", "tests::b", "other"]), Journal::default());
    let mut spec = run_of(vec![target("lib")]);
    spec.policy.filters = vec!["tests::".into()];
    let events = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!(summary(&events).planned, 2);
    spec.policy.list_only = true;
    let events = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    let listed = events.iter().find_map(|event| match &event.event {
        Some(Event::TargetDiscovered(target)) => Some((target.names.clone(), target.filtered)),
        _ => None,
    });
    assert_eq!(listed, Some((vec!["tests::a".to_owned(), "tests::b".to_owned()], 1)));
    assert_eq!(outcomes(&events), []);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_after_a_failure_alone_is_flaky_and_never_cached() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let mut behaviour = passing(&["a"]);
    behaviour.script = Arc::new(|_, count| if count == 3 { Verdict::Passed } else { Verdict::Failed });
    agent(channel.clone(), behaviour, Journal::default());
    let mut spec = run_of(vec![target("lib")]);
    spec.policy.retries = 3;
    let events = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!(outcomes(&events), [("a".to_owned(), "flaky".to_owned())]);
    assert_eq!((summary(&events).flaky, summary(&events).outcome.as_str()), (1, "passed"));
    let again = watch(&channel, submit(&channel, &spec).await.unwrap()).await;
    assert_eq!(summary(&again).cached, 0);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_can_take_is_refused_with_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let spec = run_of(vec![target("lib")]);
    let refused = submit(&channel, &spec).await.expect_err("no agent");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().starts_with("no agent is connected"), "{refused}");
    agent(channel.clone(), passing(&["a"]), Journal::default());
    let mut other = spec.clone();
    other.targets[0].requirements.base = BaseRequest::Named("alpine".into());
    let refused = submit(&channel, &other).await.expect_err("another base");
    assert_eq!(
        refused.message(),
        "no agent can run lib: agent agent-7 lacks base alpine and offers debian-12@de8f3fcf327e"
    );
    let mut other = spec.clone();
    other.targets[0].requirements.properties.set("arch".into(), "aarch64".into());
    let refused = submit(&channel, &other).await.expect_err("another architecture");
    assert!(refused.message().contains("property arch=aarch64 (it has arch=x86_64)"), "{refused}");
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_layers_are_missing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    agent(channel.clone(), passing(&["a"]), Journal::default());
    let root = muster_model::Digest::of(b"a directory that nobody stored");
    let mut spec = run_of(vec![target("lib")]);
    spec.targets[0].layers.push(muster_model::spec::Layer { root, mount_path: "/".into(), purpose: "binary".into() });
    let refused = submit(&channel, &spec).await.expect_err("a missing layer");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), format!("1 blobs are missing: {root}"));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_names_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    agent(channel.clone(), passing(&["a"]), Journal::default());
    let (spec, token) = (run_of(vec![target("lib")]), token());
    let submissions = (0..8).map(|_| submit_as(&channel, &spec, token.clone()));
    let runs: Vec<u64> = futures_util::future::join_all(submissions).await.into_iter().map(Result::unwrap).collect();
    assert!(runs.iter().all(|run| *run == runs[0]), "{runs:?}");
    let events = watch(&channel, runs[0]).await;
    assert_eq!(summary(&events).planned, 1);
    let listed = RunsClient::new(channel.clone()).list_runs(v1::ListRunsRequest { limit: 0 }).await.unwrap();
    assert_eq!(listed.into_inner().runs.len(), 1);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_reports_what_has_no_verdict_as_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let mut behaviour = passing(&["a", "b"]);
    behaviour.holds = true;
    let journal = Journal::default();
    agent(channel.clone(), behaviour, journal.clone());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    until(async || journal.entries.lock().unwrap().len() >= 3).await;
    let status = fleet_status(&channel).await;
    assert_eq!((status.open_runs, status.agents[0].name.as_str()), (1, "agent-7"));
    assert!(!status.agents[0].attempts.is_empty());
    RunsClient::new(channel.clone()).cancel_run(v1::CancelRunRequest { run }).await.unwrap();
    let events = watch(&channel, run).await;
    assert_eq!((summary(&events).cancelled, summary(&events).outcome.as_str()), (2, "cancelled"));
    until(async || fleet_status(&channel).await.agents[0].attempts.is_empty()).await;
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_continues_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    agent(channel.clone(), passing(&["a", "b", "c"]), Journal::default());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    let all = watch(&channel, run).await;
    let rest = watch_from(&channel, run, 4).await;
    assert_eq!(rest, all[3..]);
    let unknown = RunsClient::new(channel.clone()).watch_run(v1::WatchRunRequest { run: 99, from_sequence: 0 }).await;
    assert_eq!(unknown.expect_err("no such run").code(), Code::NotFound);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_can_be_looked_up() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    agent(channel.clone(), passing(&["a", "b"]), Journal::default());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    let events = watch(&channel, run).await;
    let shown = RunsClient::new(channel.clone()).show_run(v1::ShowRunRequest { run: 0 }).await.unwrap().into_inner();
    assert_eq!(shown.summary, finished(&events).summary);
    assert_eq!(shown.efficiency, finished(&events).efficiency);
    assert_eq!(shown.cases.len(), 2);
    assert_eq!((shown.targets[0].base.as_str(), shown.targets[0].planned), ("debian-12", 2));
    assert!(shown.attempts[0].discover && shown.attempts.iter().all(|attempt| !attempt.result.is_empty()));
    coordinator.shutdown().await;
}
