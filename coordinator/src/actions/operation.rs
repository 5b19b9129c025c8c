//! One operation: what its client is told, and who listens.

use std::sync::{Arc, Weak};

use futures_util::{Stream, StreamExt, stream};
use muster_model::{ActionId, Digest, Instant};
use muster_proto::{longrunning, reapi};
use prost::Message;
use reapi::execution_stage::Value as ExecutionStage;
use tokio::sync::watch;

use super::Actions;
use super::answers::pack;

/// Who asks, as its `RequestMetadata` says; every text may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requester {
    /// The tool and its version.
    pub(crate) tool: String,
    /// One run of the tool.
    pub(crate) invocation: String,
    /// What kind of action it is.
    pub(crate) mnemonic: String,
    /// What it is for.
    pub(crate) target: String,
}

impl Requester {
    /// The text by which requests share a place in the queue.
    pub(super) fn queue(&self) -> String {
        if self.invocation.is_empty() { format!("tool {}", self.tool) } else { self.invocation.clone() }
    }

    /// The text under which times are remembered; empty when the client does not say what kind of action it is.
    pub(super) fn kind(&self) -> String {
        if self.mnemonic.is_empty() { String::new() } else { format!("{}\0{}", self.mnemonic, self.target) }
    }
}

/// An operation's state, as it is shared with its listeners.
pub(super) type State = Arc<longrunning::Operation>;

/// An operation.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) requester: Requester,
    pub(super) action_digest: Digest,
    /// What it waits for; none before it is queued, and when it is done.
    pub(super) action: Option<ActionId>,
    pub(super) state: watch::Sender<State>,
    pub(super) listeners: usize,
    /// Since when nobody listens.
    pub(super) abandoned: Option<Instant>,
}

impl Operation {
    pub(super) fn is_done(&self) -> bool {
        self.state.borrow().done
    }

    /// Tells listeners how far it is.
    pub(super) fn advance(&self, stage: ExecutionStage, execution: Option<reapi::ExecutedActionMetadata>) {
        let name = self.state.borrow().name.clone();
        self.state.send_replace(Arc::new(unfinished(name, self.action_digest, stage, execution)));
    }

    /// Tells listeners how it ended. Returns the bytes that are kept.
    pub(super) fn finish(&mut self, response: &reapi::ExecuteResponse) -> usize {
        let name = self.state.borrow().name.clone();
        let execution = response.result.as_ref().and_then(|result| result.execution_metadata.clone());
        let metadata = metadata(self.action_digest, ExecutionStage::Completed, execution);
        let response = pack("build.bazel.remote.execution.v2.ExecuteResponse", response);
        let bytes = response.value.len();
        let result = Some(longrunning::operation::Result::Response(response));
        self.state.send_replace(Arc::new(longrunning::Operation { name, metadata, done: true, result }));
        self.action = None;
        bytes
    }
}

/// An operation that is not done.
pub(super) fn unfinished(
    name: String,
    action: Digest,
    stage: ExecutionStage,
    execution: Option<reapi::ExecutedActionMetadata>,
) -> longrunning::Operation {
    longrunning::Operation { name, metadata: metadata(action, stage, execution), done: false, result: None }
}

fn metadata(
    action: Digest,
    stage: ExecutionStage,
    execution: Option<reapi::ExecutedActionMetadata>,
) -> Option<prost_types::Any> {
    let metadata = reapi::ExecuteOperationMetadata {
        stage: stage.into(),
        action_digest: Some(action.into()),
        partial_execution_metadata: execution,
        digest_function: reapi::digest_function::Value::from(action.function).into(),
        ..reapi::ExecuteOperationMetadata::default()
    };
    debug_assert!(metadata.encoded_len() < muster_model::limits::MESSAGE_BYTES_MAX);
    Some(pack("build.bazel.remote.execution.v2.ExecuteOperationMetadata", &metadata))
}

/// Somebody who listens to an operation; counted, so that what nobody listens to can be found.
pub(crate) struct Listener {
    name: String,
    states: watch::Receiver<State>,
    actions: Weak<Actions>,
}

impl Listener {
    pub(super) fn new(name: String, states: watch::Receiver<State>, actions: &Arc<Actions>) -> Self {
        Self { name, states, actions: Arc::downgrade(actions) }
    }

    /// The state now, then each later one that is not overtaken, up to the one that is done. It ends early when the operation is forgotten.
    pub(crate) fn into_stream(self) -> impl Stream<Item = longrunning::Operation> {
        let fresh = stream::unfold((self, None), |(mut listener, told)| async move {
            // Whether it was done when it was told last.
            if told == Some(true) || (told == Some(false) && listener.states.changed().await.is_err()) {
                return None;
            }
            let state = listener.states.borrow_and_update().clone();
            let is_done = state.done;
            Some((state, (listener, Some(is_done))))
        });
        fresh.map(|state| (*state).clone())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(actions) = self.actions.upgrade() {
            let now = actions.now();
            actions.table().stop_listening(&self.name, now);
        }
    }
}
