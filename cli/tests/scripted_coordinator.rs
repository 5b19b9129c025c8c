//! The program against a coordinator that follows a script: broken streams, cancellation, refusals.
//!
//! The scripted coordinator has no blob service, so runs are made by the library's own parts; the commands that only ask are run as programs.

mod script;

use std::time::Duration;

use muster::client::Client;
use muster::error::{ExpectedError, FleetError};
use muster::reporter::Tally;
use muster::{submit, watch};
use muster_model::spec::{RunPolicy, RunSpec};
use muster_proto::v1::RunEvent;
use muster_proto::v1::run_event::Event;
use tonic::Status;

use script::{Script, Scripted, events};

async fn collect(client: &Client, patience: Duration) -> Result<Vec<RunEvent>, FleetError> {
    let mut receiver = watch::follow(client.clone(), 17, patience);
    let mut received = Vec::new();
    while let Some(event) = receiver.recv().await {
        received.push(event?);
    }
    Ok(received)
}

fn sequences(events: &[RunEvent]) -> Vec<u64> {
    events.iter().map(|event| event.sequence).collect()
}

#[tokio::test]
async fn a_broken_stream_is_taken_up_where_it_broke() {
    let script = Script { breaks_after: vec![2, 1], ..Script::default() };
    let server = Scripted::start(script).await;
    let received = collect(&server.client().await, watch::PATIENCE).await.unwrap();
    assert_eq!(sequences(&received), [1, 2, 3, 4, 5]);
    assert_eq!(server.watched_from(), [1, 3, 4]);
}

#[tokio::test]
async fn events_that_come_again_are_reported_once() {
    let server = Scripted::start(Script { repeats: true, breaks_after: vec![3], ..Script::default() }).await;
    let received = collect(&server.client().await, watch::PATIENCE).await.unwrap();
    assert_eq!(sequences(&received), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_gap_is_never_passed_over() {
    let server = Scripted::start(Script { leaves_out: Some(3), ..Script::default() }).await;
    let error = collect(&server.client().await, Duration::from_millis(300)).await.expect_err("event 3 never comes");
    assert!(matches!(error, FleetError::Lost { run: 17, .. }), "{error:?}");
    assert_eq!(ExpectedError::from(error).causes(), ["event 4 came where event 3 was due"]);
}

#[tokio::test]
async fn a_coordinator_that_stays_away_is_given_up() {
    let always = vec![2, 0, 0, 0, 0, 0, 0, 0, 0];
    let server = Scripted::start(Script { breaks_after: always, ..Script::default() }).await;
    let mut receiver = watch::follow(server.client().await, 17, Duration::from_millis(300));
    let mut received = Vec::new();
    while let Some(event) = receiver.recv().await {
        received.push(event);
    }
    let last = received.pop();
    assert!(matches!(last, Some(Err(FleetError::Lost { run: 17, .. }))), "{last:?}");
    let events: Vec<RunEvent> = received.into_iter().map(Result::unwrap).collect();
    assert!(matches!(events[0].event, Some(Event::RunStarted(_))));
    assert_eq!(sequences(&events), [1, 2]);
}

#[tokio::test]
async fn a_cancelled_run_ends_as_cancelled() {
    let server = Scripted::start(Script { waits_for_cancel: true, ..Script::default() }).await;
    let client = server.client().await;
    let mut receiver = watch::follow(client.clone(), 17, watch::PATIENCE);
    let mut tally = Tally::default();
    tally.count(&receiver.recv().await.unwrap().unwrap());
    watch::cancel(&client, 17).await.unwrap();
    while let Some(event) = receiver.recv().await {
        tally.count(&event.unwrap());
    }
    assert_eq!(tally.exit_code().number(), 130);
}

#[tokio::test]
async fn a_refused_run_names_what_is_missing() {
    let refusal = "no agent can run shapes: agent a lacks property gpu=h100\nhint: ask for less";
    let server =
        Scripted::start(Script { refusal: Some(Status::failed_precondition(refusal)), ..Script::default() }).await;
    let spec = RunSpec { project: "shapes".into(), targets: Vec::new(), policy: RunPolicy::default() };
    let error = submit::submit(&server.client().await, &spec, "token".into()).await.expect_err("it is refused");
    insta::assert_snapshot!(ExpectedError::from(error).render(), @r"
    error: the fleet cannot run this
      cause: no agent can run shapes: agent a lacks property gpu=h100
      hint: ask for less
    ");
}

#[tokio::test]
async fn the_program_asks_and_answers() {
    let server = Scripted::start(Script::default()).await;
    let listed = script::muster(&["runs", "list", "--fleet", &server.url]).await;
    assert_eq!(listed.0, 0, "{listed:?}");
    assert!(listed.1.contains("shapes"), "{listed:?}");
    let shown = script::muster(&["runs", "show", "99", "--fleet", &server.url]).await;
    assert_eq!(shown.0, 3, "{shown:?}");
    assert!(shown.2.contains("error: there is no run 99"), "{shown:?}");
    let status = script::muster(&["fleet", "status", "--format", "json", "--fleet", &server.url]).await;
    assert!(status.1.contains("\"agents\": []"), "{status:?}");
}

#[tokio::test]
async fn the_program_leaves_with_the_documented_codes() {
    let empty = tempfile::tempdir().unwrap();
    let nothing = script::muster(&["test", empty.path().to_str().unwrap(), "--fleet", "http://127.0.0.1:9"]).await;
    assert_eq!(nothing.0, 4, "{nothing:?}");
    assert_eq!(script::muster(&["test", "--no-such-flag"]).await.0, 2);
    assert_eq!(script::muster(&["runs", "list", "--fleet", "nonsense"]).await.0, 2);
    let unreachable = script::muster(&["runs", "list", "--format", "json", "--fleet", "http://127.0.0.1:9"]).await;
    assert_eq!(unreachable.0, 3, "{unreachable:?}");
    assert!(unreachable.1.starts_with("{\"causes\""), "{unreachable:?}");
}

#[test]
fn the_script_is_a_whole_run() {
    let mut tally = Tally::default();
    events("passed").iter().for_each(|event| tally.count(event));
    assert_eq!(tally.exit_code().number(), 0);
}
