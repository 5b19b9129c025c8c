//! The action cache's service. An answer is a promise: everything that the result points at is in the store and stays for its lease time.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use muster_cache::{ActionCache, BlobStore, Recorded, StoreError};
use muster_model::limits::MESSAGE_BYTES_MAX;
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi::action_cache_server::ActionCache as ActionCacheApi;
use muster_proto::reapi::{self, ActionResult};
use prost::Message;
use tonic::{Request, Response, Status};

use super::errors::status_of;
use super::instance::{Instance, of_request, required_digest};
use super::results::{ResultError, record_of};
use crate::counters::Counters;
use crate::traffic::{Protocol, client_of};

/// The service.
#[derive(Clone)]
pub struct ActionCacheService {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) actions: Arc<dyn ActionCache>,
    pub(super) counters: Arc<Counters>,
    /// Clients may store results of their own.
    pub(super) clients_write_results: bool,
}

impl fmt::Debug for ActionCacheService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ActionCacheService")
    }
}

/// What of a result is wanted inside the answer.
#[derive(Debug, Default)]
pub(crate) struct Inline<'a> {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) files: &'a [String],
}

#[tonic::async_trait]
impl ActionCacheApi for ActionCacheService {
    async fn get_action_result(
        &self,
        request: Request<reapi::GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let meter = self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let request = request.into_inner();
        let (instance, function) = of_request(&request.instance_name, request.digest_function)?;
        let action = required_digest("action_digest", request.action_digest.as_ref(), function)?;
        let found = find(&*self.actions, &instance, &action).await.map_err(|error| status_of(&error))?;
        meter.lookup(found.is_some());
        let mut result =
            found.ok_or_else(|| Status::not_found(format!("there is no result of the action {action}")))?;
        let inline = Inline {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: &request.inline_output_files,
        };
        add_inline(&*self.store, function, &mut result, &inline).await;
        Ok(Response::new(result))
    }

    async fn update_action_result(
        &self,
        request: Request<reapi::UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let meter = self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        if !self.clients_write_results {
            return Err(Status::permission_denied("only the coordinator stores results here (action_cache_writes)"));
        }
        let request = request.into_inner();
        let (instance, function) = of_request(&request.instance_name, request.digest_function)?;
        let action = required_digest("action_digest", request.action_digest.as_ref(), function)?;
        let result = request.action_result.ok_or_else(|| Status::invalid_argument("action_result: is missing"))?;
        meter.written(result.encoded_len() as u64);
        let stored = store_result(&*self.store, &*self.actions, &instance, &action, &result).await;
        match stored.map_err(|error| error.status())? {
            Recorded::Stored | Recorded::Refreshed => Ok(Response::new(result)),
            // The first result stays the answer, so it is the answer here too.
            Recorded::Divergent { .. } => {
                tracing::warn!(%action, instance = instance.name(), "another result of an action is kept as divergent");
                Ok(Response::new(
                    find(&*self.actions, &instance, &action)
                        .await
                        .map_err(|error| status_of(&error))?
                        .unwrap_or(result),
                ))
            }
        }
    }
}

/// The result of an action, if there is one and all of it is in the store.
pub(crate) async fn find(
    actions: &dyn ActionCache,
    instance: &Instance,
    action: &Digest,
) -> Result<Option<ActionResult>, StoreError> {
    let found = actions.get(&[instance.action_key(action)]).await?;
    // A payload that is no result can only be damage, and damage is a miss.
    Ok(found.into_iter().flatten().next().and_then(|record| ActionResult::decode(record.payload).ok()))
}

/// Stores the result of an action after everything that it points at was found in the store.
pub(crate) async fn store_result(
    store: &dyn BlobStore,
    actions: &dyn ActionCache,
    instance: &Instance,
    action: &Digest,
    result: &ActionResult,
) -> Result<Recorded, ResultError> {
    let record = record_of(store, action.function, result).await?;
    let recorded = actions.put(vec![(instance.action_key(action), record)]).await?;
    Ok(recorded.into_iter().next().unwrap_or(Recorded::Stored))
}

/// Puts into a result what a client wants inline, as far as one message has room. What can't be read is left out: its digest is there.
pub(crate) async fn add_inline(
    store: &dyn BlobStore,
    function: DigestFunction,
    result: &mut ActionResult,
    inline: &Inline<'_>,
) {
    let mut room = MESSAGE_BYTES_MAX.saturating_sub(result.encoded_len()) as u64;
    if inline.stdout {
        read_inline(store, function, &result.stdout_digest, &mut result.stdout_raw, &mut room).await;
    }
    if inline.stderr {
        read_inline(store, function, &result.stderr_digest, &mut result.stderr_raw, &mut room).await;
    }
    for file in result.output_files.iter_mut().filter(|file| inline.files.contains(&file.path)) {
        read_inline(store, function, &file.digest, &mut file.contents, &mut room).await;
    }
}

async fn read_inline(
    store: &dyn BlobStore,
    function: DigestFunction,
    digest: &Option<reapi::Digest>,
    place: &mut Bytes,
    room: &mut u64,
) {
    let Some(Ok(digest)) = digest.as_ref().map(|digest| digest.to_model(function)) else { return };
    if !place.is_empty() || digest.size_bytes > *room {
        return;
    }
    if let Ok(blob) = store.get(&digest).await
        && let Ok(bytes) = blob.into_bytes(*room).await
    {
        *room -= bytes.len() as u64;
        *place = bytes;
    }
}
