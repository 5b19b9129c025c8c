//! Actions against scripted agents: whose word counts.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use bytes::Bytes;
use muster_model::attempt::{ActionEnding, ActionReport, AttemptReport, AttemptResult, Timings, Usage};
use muster_model::{Digest, DigestFunction, Epoch};
use muster_proto::longrunning::operation;
use muster_proto::reapi;
use muster_proto::reapi::action_cache_client::ActionCacheClient;
use muster_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use muster_proto::reapi::execution_client::ExecutionClient;
use muster_proto::v1;
use muster_proto::v1::fleet_client::FleetClient;
use prost::Message;
use std::time::Duration;
use support::{connect, hello, start};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::codec::Streaming;
use tonic::transport::Channel;

/// The instance whose digests are BLAKE3.
const INSTANCE: &str = "blake3";

/// A stream of an agent, by hand.
struct Agent {
    hello: muster_proto::convert::AgentHello,
    reports: mpsc::Sender<v1::AgentReport>,
    states: Streaming<v1::DesiredState>,
    held: Vec<u64>,
}

impl Agent {
    async fn join(channel: &Channel, id: u64) -> Self {
        let hello = hello(id, 1);
        let (reports, receiver) = mpsc::channel(64);
        let mut first = v1::AgentReport::default();
        hello.write_into(&mut first);
        reports.send(first).await.unwrap();
        let states = FleetClient::new(channel.clone()).sync(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { hello, reports, states, held: Vec::new() }
    }

    /// Says what it holds and what it has finished, and hears what it should hold.
    async fn exchange(&mut self, finished: Vec<v1::AttemptReport>) -> v1::DesiredState {
        let status =
            |epoch: &u64| v1::AttemptStatus { epoch: *epoch, stage: v1::Stage::Running.into(), running_plus_one: 0 };
        let mut report = v1::AgentReport {
            attempts: self.held.iter().map(status).collect(),
            finished,
            ..v1::AgentReport::default()
        };
        self.hello.write_into(&mut report);
        self.reports.send(report).await.unwrap();
        self.states.message().await.unwrap().unwrap()
    }

    /// Waits for an attempt at an action, and holds it from then on.
    async fn wait_for_action(&mut self) -> u64 {
        loop {
            let state = self.exchange(Vec::new()).await;
            let action =
                |attempt: &&v1::DesiredAttempt| attempt.assignment.as_ref().is_some_and(|one| one.action.is_some());
            if let Some(attempt) = state.attempts.iter().find(action) {
                self.held.push(attempt.epoch);
                return attempt.epoch;
            }
        }
    }

    /// Reports a success under `epoch` until the coordinator has acknowledged it, fenced or not.
    async fn claim(&mut self, epoch: u64, output: &str) {
        let result =
            reapi::ActionResult { stdout_raw: Bytes::copy_from_slice(output.as_bytes()), ..Default::default() };
        let report = AttemptReport {
            epoch: Epoch(epoch),
            result: AttemptResult::ActionRan(ActionReport {
                ending: ActionEnding::Exited { code: 0 },
                result: result.encode_to_vec(),
                message: String::new(),
                upload: Duration::ZERO,
                elapsed: Duration::ZERO,
            }),
            timings: Timings::default(),
            usage: Usage::default(),
        };
        if !self.held.contains(&epoch) {
            self.held.push(epoch);
        }
        while !self.exchange(vec![(&report).into()]).await.acknowledged.contains(&epoch) {}
        self.held.retain(|held| *held != epoch);
    }
}

/// Uploads an action of this salt and returns its digest.
async fn prepare(channel: &Channel, salt: &str) -> Digest {
    let command = reapi::Command { arguments: vec!["true".into()], ..Default::default() }.encode_to_vec();
    let root = reapi::Directory::default().encode_to_vec();
    let action = reapi::Action {
        command_digest: Some(Digest::of(&command).into()),
        input_root_digest: Some(Digest::of(&root).into()),
        salt: Bytes::copy_from_slice(salt.as_bytes()),
        ..Default::default()
    };
    let action = action.encode_to_vec();
    let digest = Digest::of(&action);
    let requests = [command, root, action].map(|data| reapi::batch_update_blobs_request::Request {
        digest: Some(Digest::of(&data).into()),
        data: data.into(),
        ..Default::default()
    });
    let request = reapi::BatchUpdateBlobsRequest {
        instance_name: INSTANCE.into(),
        requests: requests.to_vec(),
        digest_function: reapi::digest_function::Value::from(DigestFunction::Blake3).into(),
    };
    ContentAddressableStorageClient::new(channel.clone()).batch_update_blobs(request).await.unwrap();
    digest
}

async fn execute(channel: &Channel, action: &Digest) -> Streaming<muster_proto::longrunning::Operation> {
    let request = reapi::ExecuteRequest {
        instance_name: INSTANCE.into(),
        action_digest: Some(action.into()),
        ..Default::default()
    };
    ExecutionClient::new(channel.clone()).execute(request).await.unwrap().into_inner()
}

async fn answer(mut stream: Streaming<muster_proto::longrunning::Operation>) -> reapi::ExecuteResponse {
    loop {
        let operation = stream.message().await.unwrap().expect("it is not over");
        if let Some(operation::Result::Response(response)) = operation.result {
            return reapi::ExecuteResponse::decode(response.value.as_slice()).unwrap();
        }
    }
}

async fn cached(channel: &Channel, action: &Digest) -> Option<reapi::ActionResult> {
    let request = reapi::GetActionResultRequest {
        instance_name: INSTANCE.into(),
        action_digest: Some(action.into()),
        ..Default::default()
    };
    match ActionCacheClient::new(channel.clone()).get_action_result(request).await {
        Ok(result) => Some(result.into_inner()),
        Err(status) => {
            assert_eq!(status.code(), Code::NotFound);
            None
        }
    }
}

/// An agent's word is taken under the lease that it holds and under no other: its claims without a lease, under the lease of another agent and
/// under an old epoch are acknowledged as fenced, and neither the action cache nor anybody who waits hears of them.
#[tokio::test]
async fn t2_8_an_agent_without_the_live_lease_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let action = prepare(&channel, "one").await;
    let mut honest = Agent::join(&channel, 1).await;
    let waiting = execute(&channel, &action).await;
    let epoch = honest.wait_for_action().await;

    let mut liar = Agent::join(&channel, 2).await;
    // Without any lease, and with one that was given to somebody else.
    liar.claim(epoch + 1000, "never leased").await;
    liar.claim(epoch, "leased to another").await;
    assert_eq!(cached(&channel, &action).await, None);

    honest.claim(epoch, "the truth").await;
    let response = answer(waiting).await;
    assert_eq!(response.result.unwrap().stdout_raw, "the truth");
    // Under an epoch that is over, by the agent that held it.
    honest.claim(epoch, "second thoughts").await;
    let kept = cached(&channel, &action).await.expect("it is kept");
    assert_eq!(kept.stdout_raw, "the truth");
    coordinator.shutdown().await;
}

/// What an agent names must be there: a result that points at nothing is not kept and not handed on as a success.
#[tokio::test]
async fn a_result_whose_blobs_are_not_there_is_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = start(folder.path()).await;
    let channel = connect(&coordinator).await;
    let action = prepare(&channel, "two").await;
    let mut agent = Agent::join(&channel, 1).await;
    let waiting = execute(&channel, &action).await;
    let epoch = agent.wait_for_action().await;
    let nowhere = reapi::OutputFile {
        path: "made".into(),
        digest: Some(Digest::of(b"never uploaded").into()),
        ..Default::default()
    };
    let result = reapi::ActionResult { output_files: vec![nowhere], ..Default::default() };
    let report = v1::AttemptReport {
        epoch,
        result: Some(v1::attempt_report::Result::Action(v1::ActionReport {
            ending: v1::ActionEndingKind::Exited.into(),
            result: result.encode_to_vec().into(),
            ..Default::default()
        })),
        ..Default::default()
    };
    agent.exchange(vec![report]).await;
    let response = answer(waiting).await;
    assert_eq!((response.status.unwrap().code, response.result), (Code::Unavailable.into(), None));
    assert_eq!(cached(&channel, &action).await, None);
    coordinator.shutdown().await;
}
