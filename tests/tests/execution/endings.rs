//! How an action can end, and what its client is told.

use muster_proto::reapi::execution_stage::Value as Stage;
use muster_tests::remote::{Script, digest_of};
use nix::sys::signal::Signal;
use tonic::Code;

use super::World;

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_does_nothing_runs_once_and_is_a_hit_afterwards() {
    let world = World::start(1).await;
    let action = world.remote.prepare(&Script::new("exit 0")).await;
    let first = world.remote.execute(&action).await;
    assert_eq!((first.code(), first.result().exit_code), (Code::Ok, 0), "{first:?}\n{}", world.fleet.logs());
    assert!(!first.response.cached_result);
    assert_eq!(first.stages.last(), Some(&Stage::Completed));
    let metadata = first.result().execution_metadata.clone().expect("metadata");
    assert!(!metadata.worker.is_empty() && metadata.queued_timestamp.is_some(), "{metadata:?}");
    let second = world.remote.execute(&action).await;
    assert!(second.response.cached_result, "{second:?}");
    assert_eq!(second.result().execution_metadata, first.result().execution_metadata);
}

/// Ends that are the command's own: none of them is an error, none is kept, and each keeps what was written.
#[tokio::test(flavor = "multi_thread")]
async fn failures_and_signals_are_results_with_their_output_and_are_never_kept() {
    let world = World::start(1).await;
    for (script, code, message) in [
        ("echo out; echo err >&2; exit 3", 3, ""),
        ("echo out; echo err >&2; kill -SEGV $$", 139, "killed by signal 11 (SIGSEGV)"),
        ("echo out; echo err >&2; kill -TERM $$", 143, "killed by signal 15 (SIGTERM)"),
    ] {
        let action = world.remote.prepare(&Script::new(script)).await;
        for _ in 0..2 {
            let executed = world.remote.execute(&action).await;
            assert_eq!((executed.code(), executed.result().exit_code), (Code::Ok, code), "{executed:?}");
            assert!(executed.response.message.contains(message), "{executed:?}");
            assert_eq!(executed.result().stdout_raw, "out\n");
            assert_eq!(executed.result().stderr_raw, "err\n");
            assert!(!executed.response.cached_result, "a failure may pass next time");
        }
    }
    let mut script = Script::new("");
    script.command.arguments = vec!["no-such-program".into()];
    let executed = world.remote.run(&script).await;
    assert_eq!((executed.code(), executed.result().exit_code), (Code::Ok, 127), "{executed:?}");
    assert!(String::from_utf8_lossy(&executed.result().stderr_raw).contains("no-such-program"), "{executed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_is_told_as_such_and_keeps_output_and_outputs() {
    let world = World::start(1).await;
    let script = Script::new("echo begun; echo half > made; exec sleep 1000").outputs(&["made"]).timeout(1);
    let executed = world.remote.run(&script).await;
    assert_eq!(executed.code(), Code::DeadlineExceeded, "{executed:?}");
    assert_eq!(executed.result().stdout_raw, "begun\n");
    assert_eq!(executed.result().output_files.len(), 1, "{executed:?}");
    assert_eq!(executed.result().exit_code, 137);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_inputs_are_named_inside_the_response_with_exactly_one_detail() {
    let world = World::start(1).await;
    let script = Script::new("cat folder/input").file("folder/input", "content").file("other", "too");
    let (action, blobs) = script.blobs();
    // Nothing is there: only the action itself can be known to be missing.
    let executed = world.remote.execute(&action).await;
    assert_eq!(executed.code(), Code::FailedPrecondition, "{executed:?}");
    assert_eq!(executed.missing(), [format!("blobs/{}/{}", action.hash, action.size_bytes)]);
    // Everything but two files, of which one is below a directory.
    let lacks = |bytes: &bytes::Bytes| bytes == "content" || bytes == "too";
    world.remote.upload(blobs.iter().filter(|blob| !lacks(blob)).cloned()).await;
    let executed = world.remote.execute(&action).await;
    let mut missing = executed.missing();
    missing.sort();
    let subject = |bytes: &[u8]| format!("blobs/{}/{}", digest_of(bytes).hash, bytes.len());
    let mut expected = [subject(b"content"), subject(b"too")];
    expected.sort();
    assert_eq!(missing, expected);
    world.remote.upload(blobs).await;
    let executed = world.remote.execute(&action).await;
    assert_eq!((executed.code(), &executed.result().stdout_raw[..]), (Code::Ok, &b"content"[..]), "{executed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_agent_offers_is_refused_at_once_without_details() {
    let world = World::start(1).await;
    let executed = world.remote.run(&Script::new("exit 0").property("container-image", "docker://gcc")).await;
    assert_eq!(executed.code(), Code::FailedPrecondition, "{executed:?}");
    assert!(executed.response.status.as_ref().is_some_and(|status| status.details.is_empty()), "{executed:?}");
    let said = executed.said();
    assert!(said.contains("container-image=docker://gcc") && said.contains("agent-0"), "{said}");
    let known = Script::new("exit 0").property("OSFamily", "Linux").property("ISA", "x86-64");
    assert_eq!(world.remote.run(&known).await.code(), Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_cached_runs_every_time() {
    let world = World::start(1).await;
    let mut script = Script::new("exit 0");
    script.action.do_not_cache = true;
    let action = world.remote.prepare(&script).await;
    for _ in 0..2 {
        let executed = world.remote.execute(&action).await;
        assert!(executed.code() == Code::Ok && !executed.response.cached_result, "{executed:?}");
    }
    let looked_up = muster_proto::reapi::GetActionResultRequest { action_digest: Some(action), ..Default::default() };
    let status = world.remote.action_cache().get_action_result(looked_up).await.expect_err("not kept");
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_that_is_skipped_runs_again_and_a_different_result_never_replaces_the_first() {
    let world = World::start(1).await;
    let script = Script::new("head -c 8 /dev/urandom > made").outputs(&["made"]);
    let action = world.remote.prepare(&script).await;
    let first = world.remote.execute(&action).await;
    let mut again = world.remote.request(&action);
    again.skip_cache_lookup = true;
    let second = muster_tests::remote::finish(world.remote.begin(again).await.expect("a stream")).await;
    assert!(!second.response.cached_result);
    assert_ne!(second.result().output_files, first.result().output_files);
    let kept = world.remote.execute(&action).await;
    assert!(kept.response.cached_result);
    assert_eq!(kept.result().output_files, first.result().output_files);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_costs_an_action_only_time() {
    let mut world = World::start(2).await;
    let action = world.remote.prepare(&Script::new("sleep 2; echo done")).await;
    let mut stream = world.remote.begin(world.remote.request(&action)).await.expect("a stream");
    let worker = loop {
        let operation = stream.message().await.expect("it goes on").expect("it is not over");
        let metadata = operation.metadata.expect("metadata").value;
        let metadata: muster_proto::reapi::ExecuteOperationMetadata =
            prost::Message::decode(metadata.as_slice()).expect("of an execution");
        if let Some(execution) = metadata.partial_execution_metadata {
            break execution.worker;
        }
    };
    let victim = usize::from(worker == "agent-1");
    world.fleet.agents[victim].signal(Signal::SIGKILL);
    let executed = muster_tests::remote::finish(stream).await;
    assert_eq!((executed.code(), &executed.result().stdout_raw[..]), (Code::Ok, &b"done\n"[..]), "{executed:?}");
    let metadata = executed.result().execution_metadata.clone().expect("metadata");
    assert_ne!(metadata.worker, worker);
    drop(world.fleet.agents.remove(victim));
}
