//! Actions that do little, to measure what is around them.

use std::time::Duration;

use bytes::Bytes;
use muster_model::DigestFunction;
use muster_proto::longrunning::operation;
use muster_proto::reapi::{self, ActionResult, ExecuteResponse};
use prost::Message;
use tonic::{Code, Status};

use super::Client;
use super::blobs::digest_of;

/// What an action's time went into.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// From being queued to being taken up by an agent, by their own clocks.
    pub queued: Duration,
}

/// Makes actions of one command, each of them another one.
#[derive(Clone, Debug)]
pub struct Actions {
    client: Client,
    command: reapi::Digest,
    root: reapi::Digest,
}

impl Actions {
    /// Uploads the command and an empty input root.
    ///
    /// # Errors
    ///
    /// What the server answers.
    pub async fn new(client: Client, arguments: &[&str]) -> Result<Self, Status> {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let command = reapi::Command { arguments, ..Default::default() }.encode_to_vec();
        let root = reapi::Directory::default().encode_to_vec();
        let digests = upload(&client, vec![command.into(), root.into()]).await?;
        let [command, root] = digests.try_into().map_err(|_| Status::internal("two blobs have two digests"))?;
        Ok(Self { client, command, root })
    }

    /// Uploads the actions of some numbers. They are not cached, so that each of them runs.
    ///
    /// # Errors
    ///
    /// What the server answers.
    pub async fn upload(&self, numbers: std::ops::Range<u64>) -> Result<Vec<reapi::Digest>, Status> {
        let action = |number: u64| reapi::Action {
            command_digest: Some(self.command.clone()),
            input_root_digest: Some(self.root.clone()),
            do_not_cache: true,
            salt: number.to_le_bytes().to_vec().into(),
            ..Default::default()
        };
        upload(&self.client, numbers.map(|number| action(number).encode_to_vec().into()).collect()).await
    }

    /// Executes one, to its end.
    ///
    /// # Errors
    ///
    /// What the server answers; [`Code::Aborted`] when the action itself failed.
    pub async fn execute(&self, action: reapi::Digest) -> Result<Spent, Status> {
        let result = self.client.execute(action).await?;
        if result.exit_code != 0 {
            let said = String::from_utf8_lossy(&result.stderr_raw).into_owned();
            return Err(Status::aborted(format!("exit code {}: {said}", result.exit_code)));
        }
        let metadata = result.execution_metadata.unwrap_or_default();
        match (metadata.queued_timestamp, metadata.worker_start_timestamp) {
            (Some(queued), Some(started)) => {
                let nanoseconds = |time: prost_types::Timestamp| time.seconds * 1_000_000_000 + i64::from(time.nanos);
                let queued = nanoseconds(started).saturating_sub(nanoseconds(queued));
                Ok(Spent { queued: Duration::from_nanos(u64::try_from(queued).unwrap_or_default()) })
            }
            _ => Err(Status::data_loss("the result does not say when it was queued and started")),
        }
    }
}

impl Client {
    /// Executes an action whose blobs are there, without a look at the cache.
    ///
    /// # Errors
    ///
    /// What the server answers, however it does: as the call's status, the operation's or the response's.
    pub async fn execute(&self, action: reapi::Digest) -> Result<ActionResult, Status> {
        let request =
            reapi::ExecuteRequest { action_digest: Some(action), skip_cache_lookup: true, ..Default::default() };
        let mut operations = self.execution().execute(request).await?.into_inner();
        while let Some(operation) = operations.message().await? {
            if !operation.done {
                continue;
            }
            return match operation.result {
                Some(operation::Result::Response(response)) => read(&response.value),
                Some(operation::Result::Error(status)) => Err(Status::new(status.code.into(), status.message)),
                None => Err(Status::data_loss("a finished operation has a result")),
            };
        }
        Err(Status::unavailable("the stream ended before the operation"))
    }
}

fn read(response: &[u8]) -> Result<ActionResult, Status> {
    let response = ExecuteResponse::decode(response).map_err(|error| Status::data_loss(error.to_string()))?;
    match response.status {
        Some(status) if Code::from_i32(status.code) != Code::Ok => Err(Status::new(status.code.into(), status.message)),
        _ => response.result.ok_or_else(|| Status::data_loss("a good response has a result")),
    }
}

async fn upload(client: &Client, blobs: Vec<Bytes>) -> Result<Vec<reapi::Digest>, Status> {
    let part = |data: Bytes| {
        let digest = digest_of(DigestFunction::Sha256, &data).into();
        reapi::batch_update_blobs_request::Request { digest: Some(digest), data, ..Default::default() }
    };
    let requests: Vec<_> = blobs.into_iter().map(part).collect();
    let digests = requests.iter().filter_map(|part| part.digest.clone()).collect();
    client.update(reapi::BatchUpdateBlobsRequest { requests, ..Default::default() }).await?;
    Ok(digests)
}
