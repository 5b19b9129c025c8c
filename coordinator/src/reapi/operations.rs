//! Operations: Get, List, Cancel, Delete and Wait.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use muster_model::limits::{OPERATION_KEPT_TIME, OPERATIONS_LISTED_MAX};
use muster_proto::longrunning::operations_server::Operations;
use muster_proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse,
    Operation, WaitOperationRequest,
};
use tonic::{Request, Response, Status};

use super::instance::Instance;
use crate::actions::Actions;

/// The service.
#[derive(Clone)]
pub(crate) struct OperationsService {
    actions: Arc<Actions>,
}

impl OperationsService {
    pub(crate) fn new(actions: Arc<Actions>) -> Self {
        Self { actions }
    }
}

/// Characters of a name that a refusal repeats: names of operations are shorter, and what else somebody sends may be as long as a message.
const NAME_SHOWN_MAX: usize = 100;

/// There is no operation of that name, or not any more.
pub(crate) fn unknown(name: &str) -> Status {
    let shown: String = name.chars().take(NAME_SHOWN_MAX).collect();
    let kept = OPERATION_KEPT_TIME.as_secs();
    Status::not_found(format!(
        "operation {shown:?} is not known, or was forgotten, which it is {kept} s after its end at the latest\n\
         hint: `muster fleet status` shows operations that run and wait"
    ))
}

#[tonic::async_trait]
impl Operations for OperationsService {
    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let request = request.into_inner();
        if !request.filter.is_empty() {
            return Err(Status::invalid_argument("filter: is not supported"));
        }
        // The collection may be named by itself, as `{instance}/operations`.
        let instance =
            request.name.strip_suffix("operations").map_or(request.name.as_str(), |name| name.trim_end_matches('/'));
        let instance = Instance::parse(instance).map_err(|error| Status::invalid_argument(format!("name: {error}")))?;
        let wanted =
            usize::try_from(request.page_size).map_err(|_| Status::invalid_argument("page_size: is negative"))?;
        let count = if wanted == 0 { OPERATIONS_LISTED_MAX } else { wanted.min(OPERATIONS_LISTED_MAX) };
        // One more tells whether there is another page.
        let mut operations = self.actions.list(instance.name(), &request.page_token, count + 1);
        let has_more = operations.len() > count;
        operations.truncate(count);
        let last = operations.last().filter(|_| has_more).map(|operation| operation.name.clone());
        let next_page_token = last.unwrap_or_default();
        Ok(Response::new(ListOperationsResponse { operations, next_page_token, unreachable: Vec::new() }))
    }

    async fn get_operation(&self, request: Request<GetOperationRequest>) -> Result<Response<Operation>, Status> {
        let name = request.into_inner().name;
        self.actions.get(&name).map(Response::new).ok_or_else(|| unknown(&name))
    }

    async fn delete_operation(&self, request: Request<DeleteOperationRequest>) -> Result<Response<()>, Status> {
        let name = request.into_inner().name;
        if self.actions.forget(&name) { Ok(Response::new(())) } else { Err(unknown(&name)) }
    }

    async fn cancel_operation(&self, request: Request<CancelOperationRequest>) -> Result<Response<()>, Status> {
        let name = request.into_inner().name;
        if self.actions.cancel(&name).await { Ok(Response::new(())) } else { Err(unknown(&name)) }
    }

    async fn wait_operation(&self, request: Request<WaitOperationRequest>) -> Result<Response<Operation>, Status> {
        let request = request.into_inner();
        let listener = self.actions.listen(&request.name).ok_or_else(|| unknown(&request.name))?;
        let done = async {
            let mut states = std::pin::pin!(listener.into_stream());
            while let Some(operation) = states.next().await {
                if operation.done {
                    break;
                }
            }
        };
        match request.timeout.map(Duration::try_from) {
            None => done.await,
            // Whatever it is then is the answer.
            Some(Ok(timeout)) => drop(tokio::time::timeout(timeout, done).await),
            Some(Err(_)) => return Err(Status::invalid_argument("timeout: is negative")),
        }
        self.actions.get(&request.name).map(Response::new).ok_or_else(|| unknown(&request.name))
    }
}
