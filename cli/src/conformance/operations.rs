//! Rules of the long-running operations that executions are.

use muster_proto::code_name;
use muster_proto::longrunning::operations_client::OperationsClient;
use muster_proto::longrunning::{
    CancelOperationRequest, DeleteOperationRequest, GetOperationRequest, ListOperationsRequest, Operation,
};
use muster_proto::reapi::Digest;
use tonic::{Code, Status};

use super::jobs::{self, Job};
use super::session::Session;
use super::{Answer, Check, Finding, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "operations/get", "Operations.GetOperation":
        "an execution can be looked at while it goes on" => get_running;
    Must "operations/get-ended", "Operations.GetOperation":
        "an execution that has ended can be looked at for a while" => get_ended;
    Must "operations/get-unknown", "Operations.GetOperation":
        "an operation that nobody knows is NOT_FOUND" => get_unknown;
    Must "operations/list", "Operations.ListOperations":
        "an execution that goes on is listed" => list;
    Must "operations/cancel", "Operations.CancelOperation":
        "an execution that is cancelled ends, with status CANCELLED" => cancel;
    Must "operations/cancel-queued-twice", "Operations.CancelOperation":
        "cancelling again what is cancelled is no error" => cancel_twice;
    Must "operations/cancel-unknown", "Operations.CancelOperation":
        "cancelling what nobody knows is NOT_FOUND" => cancel_unknown;
    Must "operations/cancelled-not-cached", "ExecuteResponse.status":
        "an action that was cancelled has no result in the action cache" => cancelled_not_cached;
    Must "operations/delete", "Operations.DeleteOperation":
        "an operation that was deleted is not known any more" => delete;
];

macro_rules! client {
    ($session:expr) => {{
        $session.execution_capabilities()?;
        let (channel, signature) = $session.transport();
        OperationsClient::with_interceptor(channel, signature)
    }};
}

async fn get(session: &Session, name: &str) -> Result<Result<Operation, Status>, Finding> {
    let request = GetOperationRequest { name: name.to_owned() };
    match client!(session).get_operation(request).await {
        Ok(operation) => Ok(Ok(operation.into_inner())),
        Err(status) if status.code() == Code::Unimplemented => Err(Finding::of_optional(status)),
        Err(status) => Ok(Err(status)),
    }
}

async fn cancel_by_name(session: &Session, name: &str) -> Result<Result<(), Status>, Finding> {
    let request = CancelOperationRequest { name: name.to_owned() };
    match client!(session).cancel_operation(request).await {
        Ok(_) => Ok(Ok(())),
        Err(status) if status.code() == Code::Unimplemented => Err(Finding::of_optional(status)),
        Err(status) => Ok(Err(status)),
    }
}

/// An execution that takes a while, seen executing: its action, its stream, its name.
async fn running(session: &Session, script: &str) -> Result<(Digest, tonic::Streaming<Operation>, String), Finding> {
    let action = Job::shell(session, script).upload(session).await?;
    let mut stream = jobs::start(session, &action, false).await?;
    let name = jobs::until_executing(&mut stream).await?.name;
    Ok((action, stream, name))
}

async fn get_running(session: &Session) -> Answer {
    let (action, stream, name) = running(session, "sleep 1").await?;
    let operation = get(session, &name).await??;
    require!(operation.name == name, "its name is {}", operation.name);
    let of = jobs::metadata(&operation)?.action_digest;
    require!(of == Some(action), "its action is {of:?}");
    jobs::follow(stream).await?;
    Ok(())
}

async fn get_ended(session: &Session) -> Answer {
    let ended = Job::shell(session, "true").run(session).await?;
    let operation = get(session, &ended.operations[0].name).await??;
    require!(operation.done, "it is not done");
    Ok(())
}

fn unknown_name(session: &Session) -> String {
    format!("{}operations/{}", session.prefix(), session.upload_id())
}

async fn get_unknown(session: &Session) -> Answer {
    refused(get(session, &unknown_name(session)).await?, &[Code::NotFound], "it")
}

async fn list(session: &Session) -> Answer {
    let (_, stream, name) = running(session, "sleep 1").await?;
    let mut token = String::new();
    for _ in 0..100 {
        let request = ListOperationsRequest { name: session.instance(), page_token: token, ..Default::default() };
        let page = match client!(session).list_operations(request).await {
            Ok(page) => page.into_inner(),
            Err(status) => return Err(Finding::of_optional(status)),
        };
        if page.operations.iter().any(|operation| operation.name == name) {
            jobs::follow(stream).await?;
            return Ok(());
        }
        token = page.next_page_token;
        if token.is_empty() {
            super::broken!("{name} is not listed");
        }
    }
    super::broken!("{name} is not among the first hundred pages")
}

async fn cancel(session: &Session) -> Answer {
    let (_, stream, name) = running(session, "sleep 30").await?;
    cancel_by_name(session, &name).await??;
    match jobs::follow(stream).await {
        Ok(ended) => require!(ended.code() == Code::Cancelled, "its status is {}", code_name(ended.code())),
        Err(jobs::Stopped::Status(status)) => refused(Err::<(), _>(status), &[Code::Cancelled], "the stream")?,
        Err(other) => return Err(other.into()),
    }
    Ok(())
}

async fn cancel_twice(session: &Session) -> Answer {
    let (_, stream, name) = running(session, "sleep 30").await?;
    cancel_by_name(session, &name).await??;
    // How the stream ends is another check's affair.
    let _ended = jobs::follow(stream).await;
    cancel_by_name(session, &name).await??;
    Ok(())
}

async fn cancel_unknown(session: &Session) -> Answer {
    refused(cancel_by_name(session, &unknown_name(session)).await?, &[Code::NotFound], "it")
}

async fn cancelled_not_cached(session: &Session) -> Answer {
    let (action, stream, name) = running(session, "sleep 1").await?;
    cancel_by_name(session, &name).await??;
    let _ended = jobs::follow(stream).await;
    tokio::time::sleep(jobs::SHORTLY).await;
    let found = super::action_cache::get(session, &action, false).await;
    refused(found, &[Code::NotFound], "asking the action cache for it")
}

async fn delete(session: &Session) -> Answer {
    let ended = Job::shell(session, "true").run(session).await?;
    let name = ended.operations[0].name.clone();
    let request = DeleteOperationRequest { name: name.clone() };
    client!(session).delete_operation(request).await.map_err(Finding::of_optional)?;
    refused(get(session, &name).await?, &[Code::NotFound], "asking for it afterwards")
}
