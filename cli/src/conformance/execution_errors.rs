//! Rules of the Execution service for actions that can't be executed.

use std::time::{Duration, Instant};

use muster_proto::code_name;
use muster_proto::reapi::{Action, Directory, DirectoryNode, ExecuteRequest, FileNode, Platform, platform};
use tonic::Code;

use super::action_cache;
use super::jobs::{self, Job, Refusal};
use super::session::Session;
use super::{Answer, Check, Finding, broken, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "errors/timeout", "Action.timeout":
        "an action that takes longer is killed, and its status is DEADLINE_EXCEEDED" => timeout;
    Should "errors/timeout-output", "ExecuteResponse.status":
        "what an action wrote before its time was up is returned" => timeout_output;
    Must "errors/timeout-not-cached", "ExecuteResponse.status":
        "an action with an error status is not cached" => timeout_not_cached;
    Must "errors/timeout-too-long", "Action.timeout":
        "a timeout above the server's own is rejected" => timeout_too_long;
    Must "errors/missing-action", "Execution.Execute":
        "an action that is not in the store is FAILED_PRECONDITION" => missing_action;
    Must "errors/missing-command", "Execution.Execute":
        "a command that is not in the store is FAILED_PRECONDITION" => missing_command;
    Must "errors/missing-root", "Execution.Execute":
        "an input root that is not in the store is FAILED_PRECONDITION" => missing_root;
    Must "errors/missing-input", "Execution.Execute":
        "an input file that is not in the store is FAILED_PRECONDITION" => missing_input;
    Should "errors/missing-named", "google.rpc.PreconditionFailure":
        "each missing blob is a violation of type MISSING, its subject the blob's resource name" => missing_named;
    Clients "errors/missing-in-response", "ExecuteResponse.status":
        "missing blobs are said in the response, in exactly one detail: Pants and BuildStream look nowhere else" => missing_in_response;
    Clients "errors/upload-after-refusal", "Execution.Execute":
        "after the missing blobs were uploaded the same action is executed" => upload_after_refusal;
    Should "errors/unknown-property", "Platform.Property":
        "a platform property that no worker has is rejected, not queued for ever" => unknown_property;
    Clients "errors/unknown-property-not-missing", "Platform.Property":
        "that rejection has no MISSING violation: Bazel would upload and try again without end" => property_not_missing;
    Must "errors/no-such-program", "Command.arguments":
        "a program that does not exist is an error, or a failed command" => no_such_program;
    Must "errors/no-arguments", "Command.arguments":
        "a command without arguments is rejected" => no_arguments;
    Should "errors/absolute-output", "Command.output_paths":
        "an output path that is absolute, or leaves the input root, is rejected" => absolute_output;
    Must "errors/no-action-message", "Execution.Execute":
        "an action that is no Action message is INVALID_ARGUMENT" => no_action_message;
    Must "errors/without-digest", "ExecuteRequest.action_digest":
        "a request without an action is INVALID_ARGUMENT" => without_digest;
    Must "errors/killed", "ActionResult.exit_code":
        "a command that a signal ends does not pass for a success" => killed;
];

async fn timed_out(session: &Session, script: &str) -> Result<(muster_proto::reapi::Digest, jobs::Ended), Finding> {
    let mut job = Job::shell(session, script);
    job.action.timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let action = job.upload(session).await?;
    let ended = jobs::execute(session, &action, false).await?;
    Ok((action, ended))
}

async fn timeout(session: &Session) -> Answer {
    let start = Instant::now();
    let (_, ended) = timed_out(session, "sleep 30").await?;
    require!(
        ended.code() == Code::DeadlineExceeded,
        "the status is {}: {}",
        code_name(ended.code()),
        ended.status().message
    );
    require!(start.elapsed() < Duration::from_secs(25), "it was answered after {:?}", start.elapsed());
    Ok(())
}

async fn timeout_output(session: &Session) -> Answer {
    let (_, ended) = timed_out(session, "echo before; sleep 30").await?;
    let Some(result) = ended.response.result else { broken!("the response has no result") };
    let stdout = jobs::stdout(session, &result).await?;
    require!(stdout == "before\n", "standard output is {stdout:?}");
    Ok(())
}

async fn timeout_not_cached(session: &Session) -> Answer {
    let (action, _) = timed_out(session, "sleep 30").await?;
    refused(action_cache::get(session, &action, false).await, &[Code::NotFound], "asking the action cache for it")
}

async fn timeout_too_long(session: &Session) -> Answer {
    let mut job = Job::shell(session, "true");
    job.action.timeout = Some(prost_types::Duration { seconds: 20 * 365 * 24 * 3600, nanos: 0 });
    let refusal = jobs::refusal(session, &job.upload(session).await?).await?;
    require!(refusal.code == Code::InvalidArgument, "it is {}: {}", code_name(refusal.code), refusal.message);
    Ok(())
}

fn precondition(refusal: &Refusal) -> Answer {
    require!(refusal.code == Code::FailedPrecondition, "it is {}: {}", code_name(refusal.code), refusal.message);
    Ok(())
}

async fn missing_action(session: &Session) -> Answer {
    precondition(&jobs::refusal(session, &session.unknown_digest(100)).await?)
}

async fn missing_command(session: &Session) -> Answer {
    session.execution_capabilities()?;
    let action = Action {
        command_digest: Some(session.unknown_digest(100)),
        input_root_digest: Some(session.upload_message(&Directory::default()).await?),
        ..Action::default()
    };
    precondition(&jobs::refusal(session, &session.upload_message(&action).await?).await?)
}

async fn missing_root(session: &Session) -> Answer {
    let job = Job::shell(session, "true");
    session.execution_capabilities()?;
    let action = Action {
        command_digest: Some(session.upload_message(&job.command).await?),
        input_root_digest: Some(session.unknown_digest(100)),
        ..job.action
    };
    precondition(&jobs::refusal(session, &session.upload_message(&action).await?).await?)
}

/// An action with two files that are not in the store, one of them deep in the tree: the blobs, and the action.
async fn with_gaps(session: &Session) -> Result<([bytes::Bytes; 2], muster_proto::reapi::Digest), Finding> {
    let blobs = [session.bytes(100), session.bytes(200)];
    let file =
        |name: &str, bytes| FileNode { name: name.into(), digest: Some(session.digest(bytes)), ..FileNode::default() };
    let inner = Directory { files: vec![file("deep", &blobs[0])], ..Directory::default() };
    let mut job = Job::shell(session, "cat shallow dir/deep | wc -c");
    job.root.directories =
        vec![DirectoryNode { name: "dir".into(), digest: Some(session.upload_message(&inner).await?) }];
    job.root.files = vec![file("shallow", &blobs[1])];
    let action = job.upload(session).await?;
    Ok((blobs, action))
}

async fn missing_input(session: &Session) -> Answer {
    let (_, action) = with_gaps(session).await?;
    precondition(&jobs::refusal(session, &action).await?)
}

async fn missing_named(session: &Session) -> Answer {
    let (blobs, action) = with_gaps(session).await?;
    let refusal = jobs::refusal(session, &action).await?;
    precondition(&refusal)?;
    let mut subjects = refusal.details.concat();
    subjects.sort();
    let mut expected = blobs.map(|bytes| format!("blobs/{}", session.name_of(&session.digest(&bytes))));
    expected.sort();
    require!(subjects == expected, "the subjects are {subjects:?}, and {expected:?} are missing");
    Ok(())
}

async fn missing_in_response(session: &Session) -> Answer {
    let (_, action) = with_gaps(session).await?;
    let refusal = jobs::refusal(session, &action).await?;
    precondition(&refusal)?;
    require!(refusal.in_response, "it is the method's own status");
    require!(refusal.details.len() == 1, "there are {} details", refusal.details.len());
    Ok(())
}

async fn upload_after_refusal(session: &Session) -> Answer {
    let (blobs, action) = with_gaps(session).await?;
    precondition(&jobs::refusal(session, &action).await?)?;
    for bytes in blobs {
        session.upload(bytes).await?;
    }
    let result = jobs::execute(session, &action, false).await?.result()?;
    let stdout = jobs::stdout(session, &result).await?;
    require!(stdout.trim() == "300", "the files together have {} bytes, not 300", stdout.trim());
    Ok(())
}

#[expect(deprecated, reason = "clients before 2.2 have properties in the command")]
async fn unknown_property_refusal(session: &Session) -> Result<Refusal, Finding> {
    let mut job = Job::shell(session, "true");
    let property = platform::Property { name: "conformance-no-such-property".into(), value: session.word() };
    job.action.platform.get_or_insert_with(Platform::default).properties.push(property.clone());
    job.command.platform.get_or_insert_with(Platform::default).properties.push(property);
    for platform in [&mut job.action.platform, &mut job.command.platform].into_iter().flatten() {
        platform.properties.sort_by(|one, other| (&one.name, &one.value).cmp(&(&other.name, &other.value)));
    }
    let action = job.upload(session).await?;
    match tokio::time::timeout(Duration::from_secs(20), jobs::refusal(session, &action)).await {
        Ok(refusal) => refusal,
        Err(_) => broken!("it was not answered within 20 s"),
    }
}

async fn unknown_property(session: &Session) -> Answer {
    unknown_property_refusal(session).await.map(|_| ())
}

async fn property_not_missing(session: &Session) -> Answer {
    let refusal = unknown_property_refusal(session).await?;
    require!(refusal.details.concat().is_empty(), "its violations are {:?}", refusal.details);
    Ok(())
}

/// Whether an action ended in an error status or a failed command.
async fn error_or_failure(session: &Session, job: &Job) -> Answer {
    let action = job.upload(session).await?;
    let ended = match jobs::start(session, &action, false).await {
        Ok(stream) => jobs::follow(stream).await,
        Err(status) => Err(jobs::Stopped::Status(status)),
    };
    match ended {
        Ok(ended) if ended.code() != Code::Ok => Ok(()),
        Ok(ended) => match ended.result()?.exit_code {
            0 => broken!("it ended with exit code 0"),
            _ => Ok(()),
        },
        Err(jobs::Stopped::Status(status)) => {
            let expected = [Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound];
            refused(Err::<(), _>(status), &expected, "it")
        }
        Err(other) => Err(other.into()),
    }
}

async fn no_such_program(session: &Session) -> Answer {
    let mut job = Job::shell(session, "");
    job.command.arguments = vec!["/no/such/program".into()];
    error_or_failure(session, &job).await
}

async fn no_arguments(session: &Session) -> Answer {
    let mut job = Job::shell(session, "");
    job.command.arguments.clear();
    let refusal = jobs::refusal(session, &job.upload(session).await?).await?;
    let expected = [Code::InvalidArgument, Code::FailedPrecondition];
    require!(expected.contains(&refusal.code), "it is {}: {}", code_name(refusal.code), refusal.message);
    Ok(())
}

async fn absolute_output(session: &Session) -> Answer {
    for path in ["/etc/hostname", "../outside"] {
        let job = Job::shell(session, "true").outputs(&[path]);
        let refusal = jobs::refusal(session, &job.upload(session).await?).await?;
        require!(refusal.code == Code::InvalidArgument, "{path} is {}: {}", code_name(refusal.code), refusal.message);
    }
    Ok(())
}

async fn no_action_message(session: &Session) -> Answer {
    session.execution_capabilities()?;
    // A field number 0, which no message has.
    let action = session.upload([&[0], session.word().as_bytes()].concat().into()).await?;
    let refusal = jobs::refusal(session, &action).await?;
    require!(refusal.code == Code::InvalidArgument, "it is {}: {}", code_name(refusal.code), refusal.message);
    Ok(())
}

async fn without_digest(session: &Session) -> Answer {
    session.execution_capabilities()?;
    let request = ExecuteRequest { instance_name: session.instance(), ..ExecuteRequest::default() };
    match session.execution().execute(request).await {
        Ok(stream) => match jobs::follow(stream.into_inner()).await {
            Ok(ended) => require!(ended.code() == Code::InvalidArgument, "it is {}", code_name(ended.code())),
            Err(jobs::Stopped::Status(status)) => refused(Err::<(), _>(status), &[Code::InvalidArgument], "it")?,
            Err(other) => return Err(other.into()),
        },
        refusal => refused(refusal, &[Code::InvalidArgument], "it")?,
    }
    Ok(())
}

async fn killed(session: &Session) -> Answer {
    let ended = Job::shell(session, "kill -KILL $$").run(session).await?;
    if ended.code() == Code::Ok {
        let code = ended.result()?.exit_code;
        require!(code != 0, "the exit code is 0");
    }
    Ok(())
}
