//! Actions for the checks of execution: made, uploaded, executed and followed to their end.

use std::time::Duration;

use futures_util::StreamExt;
use muster_proto::code_name;
use muster_proto::longrunning::Operation;
use muster_proto::longrunning::operation;
use muster_proto::reapi::{
    Action, ActionResult, Command, Digest, Directory, ExecuteOperationMetadata, ExecuteRequest, ExecuteResponse,
    Platform, WaitExecutionRequest, command, execution_stage, platform,
};
use muster_proto::rpc::{PreconditionFailure, Status as RpcStatus};
use prost::Message;
use tonic::{Code, Status, Streaming};

use super::session::Session;
use super::{Finding, said};

/// An action in the making.
#[derive(Clone, Default)]
pub(super) struct Job {
    pub(super) command: Command,
    pub(super) action: Action,
    pub(super) root: Directory,
}

impl Job {
    /// A shell script, and a word in its environment that makes it an action of its own.
    #[expect(deprecated, reason = "servers before 2.2 read properties from the command")]
    pub(super) fn shell(session: &Session, script: &str) -> Self {
        let mut job = Self::default();
        job.command.arguments = ["/bin/sh", "-c", script].map(str::to_owned).into();
        job.command.environment_variables =
            vec![command::EnvironmentVariable { name: "CONFORMANCE".into(), value: session.word() }];
        let named = |(name, value): &(String, String)| platform::Property { name: name.clone(), value: value.clone() };
        let properties: Vec<_> = session.options.properties.iter().map(named).collect();
        if !properties.is_empty() {
            let platform = Platform { properties };
            // Since 2.2 in the action; before that in the command.
            job.action.platform = Some(platform.clone());
            job.command.platform = Some(platform);
        }
        job
    }

    /// The same with paths of outputs, of any kind.
    pub(super) fn outputs(mut self, paths: &[&str]) -> Self {
        self.command.output_paths = paths.iter().map(|path| (*path).to_owned()).collect();
        self
    }

    /// Uploads command, root and action.
    pub(super) async fn upload(&self, session: &Session) -> Result<Digest, Finding> {
        session.execution_capabilities()?;
        let action = Action {
            command_digest: Some(session.upload_message(&self.command).await?),
            input_root_digest: Some(session.upload_message(&self.root).await?),
            ..self.action.clone()
        };
        session.upload_message(&action).await
    }

    /// Executes it to its end, whatever that is.
    pub(super) async fn run(&self, session: &Session) -> Result<Ended, Finding> {
        let action = self.upload(session).await?;
        execute(session, &action, false).await
    }

    /// Executes it, and expects that it was executed.
    pub(super) async fn result(&self, session: &Session) -> Result<ActionResult, Finding> {
        self.run(session).await?.result()
    }
}

/// How an execution went.
#[derive(Debug)]
pub(super) struct Ended {
    /// Every message of the stream.
    pub(super) operations: Vec<Operation>,
    pub(super) response: ExecuteResponse,
}

impl Ended {
    pub(super) fn status(&self) -> RpcStatus {
        self.response.status.clone().unwrap_or_default()
    }

    pub(super) fn code(&self) -> Code {
        Code::from(self.status().code)
    }

    /// The result of an action that has one.
    pub(super) fn result(self) -> Result<ActionResult, Finding> {
        let status = self.status();
        match (Code::from(status.code), self.response.result) {
            (Code::Ok, Some(result)) => Ok(result),
            (Code::Ok, None) => Err(Finding::Broken("the response has no result".into())),
            (code, _) => {
                Err(Finding::Broken(format!("the action was not executed: {}: {}", code_name(code), status.message)))
            }
        }
    }

    /// How an action ended that can't be executed.
    pub(super) fn refusal(&self) -> Result<Refusal, Finding> {
        let status = self.status();
        match Code::from(status.code) {
            Code::Ok => Err(Finding::Broken("the action was executed".into())),
            code => {
                Ok(Refusal { code, message: status.message.clone(), details: violations(&status), in_response: true })
            }
        }
    }
}

/// Why an action was not executed, wherever it was said.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
    /// The subjects of `MISSING` violations, for each PreconditionFailure.
    pub(super) details: Vec<Vec<String>>,
    /// Whether it was said in `ExecuteResponse.status`, and not by the method's own status.
    pub(super) in_response: bool,
}

fn violations(status: &RpcStatus) -> Vec<Vec<String>> {
    let failures = status.details.iter().filter(|any| any.type_url.ends_with("/google.rpc.PreconditionFailure"));
    let decoded = failures.filter_map(|any| PreconditionFailure::decode(&any.value[..]).ok());
    decoded
        .map(|failure| {
            failure.violations.into_iter().filter(|one| one.r#type == "MISSING").map(|one| one.subject).collect()
        })
        .collect()
}

/// What an action that can't be executed was answered, in either of the two places.
pub(super) async fn refusal(session: &Session, action: &Digest) -> Result<Refusal, Finding> {
    session.execution_capabilities()?;
    let stream = match start(session, action, false).await {
        Ok(stream) => stream,
        Err(status) => return Ok(of_status(&status)),
    };
    match follow(stream).await {
        Ok(ended) => ended.refusal(),
        Err(Stopped::Status(status)) => Ok(of_status(&status)),
        Err(Stopped::Finding(finding)) => Err(finding),
    }
}

fn of_status(status: &Status) -> Refusal {
    let details = RpcStatus::decode(status.details()).map(|status| violations(&status)).unwrap_or_default();
    Refusal { code: status.code(), message: status.message().to_owned(), details, in_response: false }
}

/// Begins an execution.
pub(super) async fn start(session: &Session, action: &Digest, skip: bool) -> Result<Streaming<Operation>, Status> {
    let request = ExecuteRequest {
        instance_name: session.instance(),
        skip_cache_lookup: skip,
        action_digest: Some(action.clone()),
        digest_function: session.function_number(),
        ..ExecuteRequest::default()
    };
    Ok(session.execution().execute(request).await?.into_inner())
}

/// Executes an action that is in the store to its end.
pub(super) async fn execute(session: &Session, action: &Digest, skip: bool) -> Result<Ended, Finding> {
    Ok(follow(start(session, action, skip).await?).await?)
}

/// Joins an execution.
pub(super) async fn wait(session: &Session, name: &str) -> Result<Streaming<Operation>, Status> {
    let request = WaitExecutionRequest { name: name.to_owned() };
    Ok(session.execution().wait_execution(request).await?.into_inner())
}

/// Why a stream did not lead to an end.
pub(super) enum Stopped {
    Status(Status),
    Finding(Finding),
}

impl From<Stopped> for Finding {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Status(status) => Self::Broken(format!("the stream ended in {}", said(&status))),
            Stopped::Finding(finding) => finding,
        }
    }
}

fn wrong(words: &str) -> Stopped {
    Stopped::Finding(Finding::Broken(words.to_owned()))
}

/// Follows a stream to the operation that is done.
pub(super) async fn follow(mut stream: Streaming<Operation>) -> Result<Ended, Stopped> {
    let mut operations: Vec<Operation> = Vec::new();
    while let Some(operation) = stream.next().await {
        operations.push(operation.map_err(Stopped::Status)?);
    }
    let Some(last) = operations.last().filter(|last| last.done) else {
        return Err(wrong("the stream ended before the operation was done"));
    };
    match &last.result {
        Some(operation::Result::Response(any))
            if any.type_url.ends_with("/build.bazel.remote.execution.v2.ExecuteResponse") =>
        {
            let response =
                ExecuteResponse::decode(&any.value[..]).map_err(|_| wrong("the response can't be decoded"))?;
            Ok(Ended { operations, response })
        }
        Some(operation::Result::Response(any)) => Err(wrong(&format!("the response is a {}", any.type_url))),
        Some(operation::Result::Error(status)) => Err(wrong(&format!("Operation.error is set: {}", status.message))),
        None => Err(wrong("the operation is done and has no response")),
    }
}

/// The metadata of an operation.
pub(super) fn metadata(operation: &Operation) -> Result<ExecuteOperationMetadata, Finding> {
    let Some(any) = &operation.metadata else { return Err(Finding::Broken("an operation has no metadata".into())) };
    if !any.type_url.ends_with("/build.bazel.remote.execution.v2.ExecuteOperationMetadata") {
        return Err(Finding::Broken(format!("the metadata is a {}", any.type_url)));
    }
    ExecuteOperationMetadata::decode(&any.value[..])
        .map_err(|_| Finding::Broken("the metadata can't be decoded".into()))
}

/// Reads a stream until the action is being executed, and answers its operation.
pub(super) async fn until_executing(stream: &mut Streaming<Operation>) -> Result<Operation, Finding> {
    while let Some(operation) = stream.next().await {
        let operation = operation?;
        if operation.done {
            return Err(Finding::Broken("it was done before it was seen executing".into()));
        }
        if metadata(&operation)?.stage == i32::from(execution_stage::Value::Executing) {
            return Ok(operation);
        }
    }
    Err(Finding::Broken("the stream ended before the action was executed".into()))
}

/// The bytes of an output that is inline, or in the store, or empty.
pub(super) async fn output(session: &Session, raw: &[u8], digest: Option<&Digest>) -> Result<Vec<u8>, Finding> {
    match digest {
        _ if !raw.is_empty() => Ok(raw.to_vec()),
        Some(digest) => Ok(session.read(&session.read_name(digest), 0, 0).await?.to_vec()),
        None => Ok(Vec::new()),
    }
}

pub(super) async fn stdout(session: &Session, result: &ActionResult) -> Result<String, Finding> {
    let bytes = output(session, &result.stdout_raw, result.stdout_digest.as_ref()).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A while that is enough for something that takes no time to have been noticed.
pub(super) const SHORTLY: Duration = Duration::from_millis(300);
