//! Execution: Execute and WaitExecution.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use muster_model::limits::INSTANCE_NAME_BYTES_MAX;
use muster_proto::longrunning::Operation;
use muster_proto::reapi::{self, execution_server::Execution};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::instance::{of_request, required_digest};
use crate::actions::{Actions, ExecuteRequest, InlineWanted, Requester};

/// The header that says who asks.
const REQUEST_METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";
/// Bytes of each text of it that are kept.
const TEXT_BYTES_MAX: usize = INSTANCE_NAME_BYTES_MAX;

/// The service.
#[derive(Clone)]
pub(crate) struct ExecutionService {
    actions: Arc<Actions>,
}

impl ExecutionService {
    pub(crate) fn new(actions: Arc<Actions>) -> Self {
        Self { actions }
    }
}

type Operations = Pin<Box<dyn Stream<Item = Result<Operation, Status>> + Send>>;

#[tonic::async_trait]
impl Execution for ExecutionService {
    type ExecuteStream = Operations;
    type WaitExecutionStream = Operations;

    async fn execute(&self, request: Request<reapi::ExecuteRequest>) -> Result<Response<Operations>, Status> {
        let requester = requester(request.metadata());
        let request = request.into_inner();
        let (instance, function) = of_request(&request.instance_name, request.digest_function)?;
        let action = required_digest("action_digest", request.action_digest.as_ref(), function)?;
        let listener = self.actions.execute(ExecuteRequest {
            key: instance.action_key(&action),
            instance: instance.name().to_owned(),
            action,
            skip_cache_lookup: request.skip_cache_lookup,
            priority: request.execution_policy.unwrap_or_default().priority,
            requester,
            inline: InlineWanted {
                stdout: request.inline_stdout,
                stderr: request.inline_stderr,
                files: request.inline_output_files,
            },
        })?;
        Ok(Response::new(Box::pin(listener.into_stream().map(Ok))))
    }

    async fn wait_execution(
        &self,
        request: Request<reapi::WaitExecutionRequest>,
    ) -> Result<Response<Operations>, Status> {
        let name = request.into_inner().name;
        // Clients take this for the word to execute again.
        let listener = self.actions.listen(&name).ok_or_else(|| super::operations::unknown(&name))?;
        Ok(Response::new(Box::pin(listener.into_stream().map(Ok))))
    }
}

/// Who asks, as far as the header says and as much as is kept of it.
fn requester(metadata: &MetadataMap) -> Requester {
    let encoded = metadata.get_bin(REQUEST_METADATA).and_then(|value| value.to_bytes().ok());
    let said = encoded.and_then(|bytes| reapi::RequestMetadata::decode(bytes).ok()).unwrap_or_default();
    let tool = said.tool_details.unwrap_or_default();
    let tool =
        if tool.tool_version.is_empty() { tool.tool_name } else { format!("{} {}", tool.tool_name, tool.tool_version) };
    Requester {
        tool: cut(tool),
        invocation: cut(said.tool_invocation_id),
        mnemonic: cut(said.action_mnemonic),
        target: cut(said.target_id),
    }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}
