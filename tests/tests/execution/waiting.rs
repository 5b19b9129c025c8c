//! Operations: streams that break, waiters, cancellation.

use std::path::Path;

use muster_proto::longrunning::{DeleteOperationRequest, GetOperationRequest, ListOperationsRequest};
use muster_proto::reapi;
use muster_tests::programs::eventually;
use muster_tests::remote::{Script, finish};
use serde_json::Value;
use tonic::Code;

use super::World;

/// Whether any process on this machine has this text as an argument.
fn is_running(marker: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("is mounted").flatten();
    let has = |path: &Path| {
        std::fs::read(path.join("cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes()))
    };
    processes.into_iter().any(|entry| has(&entry.path()))
}

/// An action that runs until it is killed, and the marker by which its process is found.
fn endless(number: u32) -> (Script, String) {
    let marker = format!("{}.{number}", 100_000 + std::process::id());
    (Script::new(&format!("exec sleep {marker}")), marker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_is_taken_up_again_by_the_operations_name() {
    let world = World::start(1).await;
    let action = world.remote.prepare(&Script::new("sleep 1; echo done")).await;
    let mut stream = world.remote.begin(world.remote.request(&action)).await.expect("a stream");
    let name = stream.message().await.expect("it goes on").expect("the name at once").name;
    drop(stream);
    let executed = finish(world.remote.wait(&name).await.expect("it is known")).await;
    assert_eq!((executed.name.as_str(), &executed.result().stdout_raw[..]), (name.as_str(), &b"done\n"[..]));
    // It is kept for those who ask later.
    let again = finish(world.remote.wait(&name).await.expect("it is kept")).await;
    assert_eq!(again.response, executed.response);
    let operation = world.remote.operations().get_operation(GetOperationRequest { name: name.clone() }).await;
    assert!(operation.expect("it is kept").into_inner().done);
    let list = ListOperationsRequest { name: "operations".into(), ..Default::default() };
    let listed = world.remote.operations().list_operations(list).await.expect("a list").into_inner().operations;
    assert_eq!(listed.iter().map(|operation| operation.name.as_str()).collect::<Vec<_>>(), [&name]);
    world.remote.operations().delete_operation(DeleteOperationRequest { name: name.clone() }).await.expect("forgotten");
    assert_eq!(world.remote.wait(&name).await.expect_err("it is forgotten").code(), Code::NotFound);
    let unknown = world.remote.operations().get_operation(GetOperationRequest { name: "operations/0".into() }).await;
    assert_eq!(unknown.expect_err("never known").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_identical_requests_share_one_execution() {
    let world = World::start(1).await;
    let action = world.remote.prepare(&Script::new("sleep 1; date +%s%N")).await;
    let requests = (0..10).map(|_| {
        let (remote, action) = (world.remote.clone(), action.clone());
        tokio::spawn(async move { remote.execute(&action).await })
    });
    let mut executed = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        executed.push(request.await.expect("no panic"));
    }
    let first = executed[0].result().stdout_raw.clone();
    assert!(!first.is_empty() && executed.iter().all(|one| one.result().stdout_raw == first), "{executed:?}");
    let names: std::collections::BTreeSet<&str> = executed.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names.len(), 10, "each request has an operation of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_must_not_be_cached_are_not_shared() {
    let world = World::start(1).await;
    let mut script = Script::new("date +%s%N");
    script.action.do_not_cache = true;
    let action = world.remote.prepare(&script).await;
    let (first, second) = tokio::join!(world.remote.execute(&action), world.remote.execute(&action));
    assert_ne!(first.result().stdout_raw, second.result().stdout_raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_cancellation_kills_and_the_ones_before_do_not() {
    let world = World::start(1).await;
    let (script, marker) = endless(1);
    let action = world.remote.prepare(&script).await;
    let mut first = world.remote.begin(world.remote.request(&action)).await.expect("a stream");
    let mut second = world.remote.begin(world.remote.request(&action)).await.expect("a stream");
    let name = |operation: Option<muster_proto::longrunning::Operation>| operation.expect("a name").name;
    let (one, other) = (name(first.message().await.unwrap()), name(second.message().await.unwrap()));
    let seen = marker.clone();
    tokio::task::spawn_blocking(move || eventually("it runs", || is_running(&seen))).await.expect("it runs");
    world.remote.cancel(&one).await.expect("known");
    let cancelled = finish(first).await;
    assert_eq!(cancelled.code(), Code::Cancelled);
    assert!(is_running(&marker), "somebody still waits for it");
    world.remote.cancel(&other).await.expect("known");
    assert_eq!(finish(second).await.code(), Code::Cancelled);
    tokio::task::spawn_blocking(move || eventually("it is killed", || !is_running(&marker))).await.expect("killed");
    // Cancelling what is over changes nothing, and what is not known is not found.
    world.remote.cancel(&one).await.expect("known");
    let unknown = world.remote.cancel("operations/0").await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("\nhint: `muster fleet status`"), "{unknown:?}");
    // The slot is free again.
    assert_eq!(world.remote.run(&Script::new("exit 0")).await.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_why_know_actions() {
    let mut world = World::start(1).await;
    world.remote.metadata = reapi::RequestMetadata {
        tool_details: Some(reapi::ToolDetails { tool_name: "bazel".into(), tool_version: "4.2.3".into() }),
        tool_invocation_id: "an-invocation".into(),
        action_mnemonic: "CppCompile".into(),
        target_id: "//shapes:volume".into(),
        ..Default::default()
    };
    let (script, marker) = endless(2);
    let action = world.remote.prepare(&script).await;
    let mut stream = world.remote.begin(world.remote.request(&action)).await.expect("a stream");
    let name = stream.message().await.unwrap().expect("a name").name;
    let world = tokio::task::spawn_blocking(move || {
        eventually("it runs", || is_running(&marker));
        let status = world.fleet.status(&world.place);
        let attempt = &status["agents"][0]["attempts"][0];
        assert_eq!(attempt["operation"], *name, "{status:#}");
        assert_eq!((&attempt["mnemonic"], &attempt["target"]), (&"CppCompile".into(), &"//shapes:volume".into()));
        assert_eq!(status["running_actions"], 1);
        let why = |name: &str| -> Value {
            let arguments = ["runs", "why", name, "--format", "json", "--fleet", &world.fleet.url()];
            let output = world.place.muster(arguments).output().expect("muster starts");
            serde_json::from_slice(&output.stdout).expect("an object")
        };
        let under_way = why(&name);
        assert_eq!((&under_way["mnemonic"], &under_way["agent"]), (&"CppCompile".into(), &"agent-0".into()));
        (world, name)
    });
    let (world, name) = world.await.expect("no panic");
    world.remote.cancel(&name).await.expect("known");
    let executed = world.remote.run(&Script::new("sleep 0.2")).await;
    let (world, shown) = tokio::task::spawn_blocking(move || {
        let arguments = ["runs", "why", &executed.name, "--format", "json", "--fleet", &world.fleet.url()];
        let output = world.place.muster(arguments).output().expect("muster starts");
        (world, serde_json::from_slice::<Value>(&output.stdout).expect("an object"))
    })
    .await
    .expect("no panic");
    assert_eq!(shown["stage"], "done", "{shown:#}");
    assert!(shown["execute_us"].as_u64().is_some_and(|time| time >= 200_000), "{shown:#}");
    drop(world);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_coordinator_forgets_operations_and_runs_what_it_is_asked_again() {
    let mut world = World::start(1).await;
    let action = world.remote.prepare(&Script::new("exit 0")).await;
    let name = world.remote.execute(&action).await.name;
    let world = tokio::task::spawn_blocking(move || {
        drop(world.fleet.coordinator.take());
        world.fleet.start_coordinator();
        world
    });
    let mut world = world.await.expect("restarted");
    world.remote = muster_tests::remote::Remote::connect(&world.fleet.url()).await;
    assert_eq!(world.remote.wait(&name).await.expect_err("forgotten").code(), Code::NotFound);
    let executed = world.remote.execute(&action).await;
    assert!(executed.response.cached_result, "the cache outlives the coordinator: {executed:?}");
    assert_eq!(world.remote.run(&Script::new("echo new")).await.code(), Code::Ok);
}
