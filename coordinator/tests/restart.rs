//! What survives: restarts, lost connections, repeated reports.

mod support;

use std::sync::Arc;

use muster_coordinator::{Config, Coordinator, CoordinatorError};
use muster_model::outcome::Verdict;
use muster_proto::v1::run_event::Event;
use support::{
    Journal, agent, agent_with, connect, fleet_status, outcomes, passing, run_of, start, submit, summary, target,
    until, watch,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_coordinator_continues_the_run_and_keeps_what_was_decided() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let journal = Journal::default();
    let mut behaviour = passing(&["a", "b", "c", "d"]);
    behaviour.slots = 1;
    behaviour.holds = true;
    let first = agent(channel.clone(), behaviour.clone(), journal.clone());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    until(async || journal.entries.lock().unwrap().len() > 1).await;
    let generation = fleet_status(&channel).await.generation;
    coordinator.shutdown().await;
    let memory = first.await.unwrap();
    drop(channel);

    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    assert_eq!(fleet_status(&channel).await.generation, generation + 1);
    assert_eq!(fleet_status(&channel).await.open_runs, 1);
    journal.take();
    behaviour.holds = false;
    behaviour.id = 8;
    // The agent that held work does not come back; another one gets it once the lease is over.
    drop(memory);
    agent(channel.clone(), behaviour, journal.clone());
    let events = watch(&channel, run).await;
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=events.len() as u64).collect::<Vec<_>>());
    assert_eq!(summary(&events).outcome, "passed");
    assert_eq!(outcomes(&events).len(), 4);
    assert!(!journal.take().contains(&"discover".to_owned()));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_comes_back_after_a_restart_keeps_its_work() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let journal = Journal::default();
    let mut behaviour = passing(&["a"]);
    behaviour.holds = true;
    let held = agent(channel.clone(), behaviour.clone(), journal.clone());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    until(async || journal.entries.lock().unwrap().contains(&"a".to_owned())).await;
    coordinator.shutdown().await;
    let mut memory = held.await.unwrap();
    drop(channel);

    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    journal.take();
    memory.finish_all();
    behaviour.holds = false;
    agent_with(channel.clone(), behaviour, journal.clone(), memory);
    let events = watch(&channel, run).await;
    assert_eq!(outcomes(&events), [("a".to_owned(), "passed".to_owned())]);
    assert_eq!(journal.take(), Vec::<String>::new());
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interference_is_shown_although_the_coordinator_was_restarted_on_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let journal = Journal::default();
    // Two of four unknown cases make the first shard; the second of them fails in that company only.
    let mut behaviour = passing(&["a", "b", "c", "d"]);
    behaviour.slots = 1;
    behaviour.script =
        Arc::new(|name, count| if name == "b" && count == 1 { Verdict::Failed } else { Verdict::Passed });
    behaviour.holds_after = Some(1);
    let held = agent(channel.clone(), behaviour.clone(), journal.clone());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    until(async || journal.entries.lock().unwrap().iter().filter(|name| *name == "b").count() == 2).await;
    coordinator.shutdown().await;
    let mut memory = held.await.unwrap();
    drop(channel);

    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    memory.finish_all();
    behaviour.holds_after = None;
    agent_with(channel.clone(), behaviour, journal, memory);
    let events = watch(&channel, run).await;
    let case = events.iter().find_map(|event| match &event.event {
        Some(Event::CaseFinished(case)) if case.name == "b" => Some(case),
        _ => None,
    });
    let case = case.expect("it was reported");
    assert_eq!((case.outcome.as_str(), case.attempts), ("interference", 2));
    assert_eq!((case.company.as_slice(), case.message.as_str()), (["a".to_owned()].as_slice(), "b failed"));
    assert_eq!(summary(&events).interference, 1);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_comes_again_and_again_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let journal = Journal::default();
    let mut behaviour = passing(&["a", "b", "c"]);
    behaviour.doubles = true;
    behaviour.slots = 4;
    agent(channel.clone(), behaviour, journal.clone());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    let events = watch(&channel, run).await;
    assert_eq!(outcomes(&events).len(), 3);
    assert_eq!((summary(&events).planned, summary(&events).outcome.as_str()), (3, "passed"));
    let epochs = journal.acknowledged.lock().unwrap().len();
    until(async || journal.acknowledged.lock().unwrap().len() > epochs).await;
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_stream_of_an_agent_replaces_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let first = agent(channel.clone(), passing(&["a"]), Journal::default());
    until(async || fleet_status(&channel).await.agents.len() == 1).await;
    let journal = Journal::default();
    agent(channel.clone(), passing(&["a"]), journal.clone());
    first.await.unwrap();
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    watch(&channel, run).await;
    assert_eq!(fleet_status(&channel).await.agents.len(), 1);
    assert_eq!(journal.take(), ["discover", "a"]);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_agents_cases_run_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let journal = Journal::default();
    let mut holding = passing(&["a", "b"]);
    holding.holds = true;
    let lost = agent(channel.clone(), holding, journal.clone());
    let run = submit(&channel, &run_of(vec![target("lib")])).await.unwrap();
    until(async || journal.entries.lock().unwrap().len() > 1).await;
    lost.abort();
    let mut other = passing(&["a", "b"]);
    other.id = 8;
    agent(channel.clone(), other, journal.clone());
    let events = watch(&channel, run).await;
    assert_eq!((summary(&events).passed, summary(&events).outcome.as_str()), (2, "passed"));
    let agents: Vec<&str> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::CaseFinished(case)) => Some(case.agent.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(agents, ["agent-8", "agent-8"]);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_coordinators_never_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let config = Config { listen: "127.0.0.1:0".parse().unwrap(), data: folder.path().to_owned(), ..Config::default() };
    let error = Coordinator::start(config).await.expect_err("the folder is in use");
    assert!(matches!(error, CoordinatorError::Ledger { .. }));
    let report = error.report().replace(&folder.path().display().to_string(), "DATA");
    assert_eq!(
        report,
        "error: the ledger in DATA can't be opened\n  cause: DATA is in use by another coordinator\n\
         hint: stop the other coordinator, or choose another folder with --data\n"
    );
    coordinator.shutdown().await;
}
