//! Rules of the Execution service for actions that can be executed.

use std::time::Duration;

use muster_proto::code_name;
use muster_proto::reapi::{
    Directory, DirectoryNode, ExecuteRequest, ExecutionPolicy, FileNode, SymlinkNode, command, execution_stage,
};
use tonic::Code;

use super::action_cache;
use super::jobs::{self, Job};
use super::session::Session;
use super::{Answer, Check, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "execution/success", "Execution.Execute":
        "an action is executed, and its exit code and standard output are in the result" => success;
    Must "execution/operation", "google.longrunning.Operation":
        "each operation of the stream has the same name and ExecuteOperationMetadata; only the last is done" => operation;
    Must "execution/stage-completed", "ExecutionStage":
        "COMPLETED is the stage of an operation that is done, and of no other" => stage_completed;
    Clients "execution/name-at-once", "Execution.Execute":
        "the operation's name comes before its end: without it a client whose stream broke can't wait" => name_at_once;
    Must "execution/failing-command", "ActionResult.exit_code":
        "a command that fails was executed: its exit code and output are in the result, the status is OK" => failing_command;
    Must "execution/large-output", "ActionResult.stdout_digest":
        "standard output and standard error of any length are in the store" => large_output;
    Must "execution/environment", "Command.environment_variables":
        "the command has the variables that it names" => environment;
    Must "execution/path-lookup", "Command.arguments":
        "a program without a slash is looked up in the PATH of the command's own environment" => path_lookup;
    Must "execution/inputs", "Action.input_root_digest":
        "files, directories, executable bits and symbolic links are at their places" => inputs;
    Must "execution/working-directory", "Command.working_directory":
        "the command runs in its working directory below the input root" => working_directory;
    Should "execution/working-directory-missing", "Command.working_directory":
        "a working directory that is not in the input tree is INVALID_ARGUMENT" => working_directory_missing;
    Should "execution/inputs-do-not-leak", "Command":
        "what one action writes is not there for the next" => no_leak;
    Should "execution/cached", "Action":
        "the result of a successful action is in the action cache" => cached;
    Must "execution/cached-result", "ExecuteResponse.cached_result":
        "a result from the cache says so, one from an execution does not" => cached_result;
    Must "execution/skip-cache-lookup", "ExecuteRequest.skip_cache_lookup":
        "the cache is not asked when the request says so" => skip_cache_lookup;
    Must "execution/do-not-cache", "Action.do_not_cache":
        "the result of an action that must not be cached is not" => do_not_cache;
    Must "execution/do-not-cache-no-merging", "Action.do_not_cache":
        "such actions are not merged when they run at once" => do_not_merge;
    Must "execution/same-at-once", "Execution.Execute":
        "the same action executed twice at once is answered twice" => same_at_once;
    Clients "execution/failure-not-cached", "Action":
        "the result of a command that failed is not returned in place of another try" => failure_not_cached;
    Should "execution/inline-stdout", "ExecuteRequest.inline_stdout":
        "small standard output is in the result when that is asked for" => inline_stdout;
    Must "execution/priority", "ExecutionPolicy.priority":
        "an action of any priority is executed" => priority;
    Should "execution/timestamps", "ExecutedActionMetadata":
        "the worker is named, and its timestamps follow each other" => timestamps;
    Must "execution/wait", "Execution.WaitExecution":
        "an execution can be waited for by its name, from another stream" => wait;
    Must "execution/wait-after-broken-stream", "Execution.WaitExecution":
        "an execution goes on when its stream breaks, and can be waited for" => wait_after_broken_stream;
    Clients "execution/wait-after-end", "Execution.WaitExecution":
        "an operation that is done is answered at once, for a while" => wait_after_end;
    Must "execution/wait-unknown", "Execution.WaitExecution":
        "an operation that nobody knows is NOT_FOUND" => wait_unknown;
];

/// A number that differs with every execution of a script that prints it.
const RANDOM: &str = "od -An -N8 -tx8 /dev/urandom";

async fn success(session: &Session) -> Answer {
    let result = Job::shell(session, "echo out; echo err >&2").result(session).await?;
    require!(result.exit_code == 0, "the exit code is {}", result.exit_code);
    let stdout = jobs::stdout(session, &result).await?;
    require!(stdout == "out\n", "standard output is {stdout:?}");
    let stderr = jobs::output(session, &result.stderr_raw, result.stderr_digest.as_ref()).await?;
    require!(stderr == b"err\n", "standard error is {:?}", String::from_utf8_lossy(&stderr));
    Ok(())
}

async fn operation(session: &Session) -> Answer {
    let job = Job::shell(session, "sleep 0.3");
    let action = job.upload(session).await?;
    let ended = jobs::execute(session, &action, false).await?;
    let name = &ended.operations[0].name;
    require!(!name.is_empty(), "it has no name");
    let (last, before) = ended.operations.split_last().unwrap_or((&ended.operations[0], &[]));
    require!(before.iter().all(|one| !one.done) && last.done, "another one than the last is done");
    for one in &ended.operations {
        require!(one.name == *name, "its name changes from {name} to {}", one.name);
        let of = jobs::metadata(one)?.action_digest;
        require!(of.as_ref() == Some(&action), "the metadata's action is {of:?}");
    }
    Ok(())
}

async fn stage_completed(session: &Session) -> Answer {
    let ended = Job::shell(session, "sleep 0.3").run(session).await?;
    for one in &ended.operations {
        let stage = jobs::metadata(one)?.stage;
        let completed = stage == i32::from(execution_stage::Value::Completed);
        require!(completed == one.done, "the stage is {stage}, and done is {}", one.done);
    }
    Ok(())
}

async fn name_at_once(session: &Session) -> Answer {
    let ended = Job::shell(session, "sleep 1").run(session).await?;
    require!(ended.operations.len() > 1, "the first operation is the one that is done");
    Ok(())
}

async fn failing_command(session: &Session) -> Answer {
    let ended = Job::shell(session, "echo why; exit 3").run(session).await?;
    require!(!ended.response.cached_result, "it is from the cache");
    let result = ended.result()?;
    require!(result.exit_code == 3, "the exit code is {}", result.exit_code);
    let stdout = jobs::stdout(session, &result).await?;
    require!(stdout == "why\n", "standard output is {stdout:?}");
    Ok(())
}

async fn large_output(session: &Session) -> Answer {
    let script = "head -c 3000000 /dev/zero; head -c 2000000 /dev/zero >&2";
    let result = Job::shell(session, script).result(session).await?;
    let stdout = jobs::output(session, &result.stdout_raw, result.stdout_digest.as_ref()).await?;
    let stderr = jobs::output(session, &result.stderr_raw, result.stderr_digest.as_ref()).await?;
    require!(stdout.len() == 3_000_000, "{} bytes of standard output of 3000000", stdout.len());
    require!(stderr.len() == 2_000_000, "{} bytes of standard error of 2000000", stderr.len());
    Ok(())
}

fn variable(name: &str, value: &str) -> command::EnvironmentVariable {
    command::EnvironmentVariable { name: name.into(), value: value.into() }
}

async fn environment(session: &Session) -> Answer {
    let mut job = Job::shell(session, "printf '%s|%s' \"$WORDS\" \"${EMPTY-unset}\"");
    job.command.environment_variables.extend([variable("EMPTY", ""), variable("WORDS", "two words = 2")]);
    let stdout = jobs::stdout(session, &job.result(session).await?).await?;
    require!(stdout == "two words = 2|", "WORDS and EMPTY are {stdout:?}");
    Ok(())
}

async fn path_lookup(session: &Session) -> Answer {
    let mut job = Job::shell(session, "echo found");
    job.command.arguments[0] = "sh".into();
    job.command.environment_variables.push(variable("PATH", "/usr/bin:/bin"));
    let stdout = jobs::stdout(session, &job.result(session).await?).await?;
    require!(stdout == "found\n", "standard output is {stdout:?}");
    Ok(())
}

async fn inputs(session: &Session) -> Answer {
    let text = session.upload("text\n".into()).await?;
    let tool = session.upload("#!/bin/sh\necho tool\n".into()).await?;
    let file = |name: &str, digest, is_executable| FileNode {
        name: name.into(),
        digest: Some(digest),
        is_executable,
        ..FileNode::default()
    };
    let inner = Directory {
        files: vec![file("text", text, false), file("tool", tool, true)],
        symlinks: vec![SymlinkNode { name: "up".into(), target: "../empty".into(), ..SymlinkNode::default() }],
        ..Directory::default()
    };
    let mut job = Job::shell(session, "cat in/text && in/tool && test -d in/up && test ! -s empty/file && ls in");
    let empty = Directory { files: vec![file("file", session.digest(b""), false)], ..Directory::default() };
    let node = |name: &str, digest| DirectoryNode { name: name.into(), digest: Some(digest) };
    job.root.directories =
        vec![node("empty", session.upload_message(&empty).await?), node("in", session.upload_message(&inner).await?)];
    let result = job.result(session).await?;
    let stdout = jobs::stdout(session, &result).await?;
    let expected = "text\ntool\ntext\ntool\nup\n";
    require!(result.exit_code == 0 && stdout == expected, "exit code {}, standard output {stdout:?}", result.exit_code);
    Ok(())
}

async fn working_directory(session: &Session) -> Answer {
    let mut job = Job::shell(session, "cat here; echo done > out").outputs(&["out"]);
    let here =
        FileNode { name: "here".into(), digest: Some(session.upload("here\n".into()).await?), ..FileNode::default() };
    let directory = session.upload_message(&Directory { files: vec![here], ..Directory::default() }).await?;
    job.root.directories = vec![DirectoryNode { name: "work".into(), digest: Some(directory) }];
    job.command.working_directory = "work".into();
    let result = job.result(session).await?;
    let stdout = jobs::stdout(session, &result).await?;
    require!(stdout == "here\n", "standard output is {stdout:?}");
    let paths: Vec<_> = result.output_files.iter().map(|file| &file.path).collect();
    require!(paths == ["out"], "outputs, relative to the working directory, are {paths:?}");
    Ok(())
}

async fn working_directory_missing(session: &Session) -> Answer {
    let mut job = Job::shell(session, "true");
    job.command.working_directory = "nowhere/deep".into();
    let refusal = jobs::refusal(session, &job.upload(session).await?).await?;
    let (code, message) = (refusal.code, refusal.message);
    require!(code == tonic::Code::InvalidArgument, "it is answered with {}: {message}", code_name(code));
    Ok(())
}

async fn no_leak(session: &Session) -> Answer {
    let word = session.word();
    let script = format!("ls -a . /tmp; echo x > ./{word}; echo x > /tmp/{word} || true");
    Job::shell(session, &script).result(session).await?;
    let stdout = jobs::stdout(session, &Job::shell(session, &script).result(session).await?).await?;
    require!(!stdout.contains(&word), "the second action sees what the first one wrote");
    Ok(())
}

async fn cached(session: &Session) -> Answer {
    let job = Job::shell(session, "echo out");
    let action = job.upload(session).await?;
    jobs::execute(session, &action, false).await?.result()?;
    action_cache::get(session, &action, false).await?;
    Ok(())
}

async fn cached_result(session: &Session) -> Answer {
    let action = Job::shell(session, RANDOM).upload(session).await?;
    let first = jobs::execute(session, &action, false).await?;
    require!(!first.response.cached_result, "the first one says that it is from the cache");
    let second = jobs::execute(session, &action, false).await?;
    let was_cached = second.response.cached_result;
    let (first, second) = (first.result()?, second.result()?);
    let (first, second) = (jobs::stdout(session, &first).await?, jobs::stdout(session, &second).await?);
    require!(
        was_cached == (first == second),
        "cached_result is {was_cached}; the output was {first:?}, then {second:?}"
    );
    Ok(())
}

async fn skip_cache_lookup(session: &Session) -> Answer {
    let action = Job::shell(session, RANDOM).upload(session).await?;
    let first = jobs::stdout(session, &jobs::execute(session, &action, false).await?.result()?).await?;
    let again = jobs::execute(session, &action, true).await?;
    require!(!again.response.cached_result, "it says that it is from the cache");
    let again = jobs::stdout(session, &again.result()?).await?;
    require!(first != again, "the random output is the same");
    Ok(())
}

async fn do_not_cache(session: &Session) -> Answer {
    let mut job = Job::shell(session, RANDOM);
    job.action.do_not_cache = true;
    let action = job.upload(session).await?;
    let first = jobs::stdout(session, &jobs::execute(session, &action, false).await?.result()?).await?;
    refused(action_cache::get(session, &action, false).await, &[Code::NotFound], "asking the action cache for it")?;
    let again = jobs::stdout(session, &jobs::execute(session, &action, false).await?.result()?).await?;
    require!(first != again, "the random output is the same");
    Ok(())
}

/// Executes a script that takes half a second twice at once, and answers both outputs.
async fn twice(session: &Session, do_not_cache: bool) -> Result<(String, String), super::Finding> {
    let mut job = Job::shell(session, &format!("sleep 0.5; {RANDOM}"));
    job.action.do_not_cache = do_not_cache;
    let action = job.upload(session).await?;
    let (first, second) = tokio::join!(jobs::execute(session, &action, false), jobs::execute(session, &action, false));
    let (first, second) = (first?.result()?, second?.result()?);
    Ok((jobs::stdout(session, &first).await?, jobs::stdout(session, &second).await?))
}

async fn do_not_merge(session: &Session) -> Answer {
    let (first, second) = twice(session, true).await?;
    require!(first != second, "the random output is the same");
    Ok(())
}

async fn same_at_once(session: &Session) -> Answer {
    let (first, second) = twice(session, false).await?;
    require!(!first.is_empty() && !second.is_empty(), "the outputs are {first:?} and {second:?}");
    Ok(())
}

async fn failure_not_cached(session: &Session) -> Answer {
    let action = Job::shell(session, &format!("{RANDOM}; exit 1")).upload(session).await?;
    let first = jobs::stdout(session, &jobs::execute(session, &action, false).await?.result()?).await?;
    let again = jobs::execute(session, &action, false).await?;
    require!(!again.response.cached_result, "the second one is from the cache");
    let again = jobs::stdout(session, &again.result()?).await?;
    require!(first != again, "the random output is the same");
    refused(action_cache::get(session, &action, false).await, &[Code::NotFound], "asking the action cache for it")
}

async fn inline_stdout(session: &Session) -> Answer {
    let action = Job::shell(session, "echo inline").upload(session).await?;
    let request = ExecuteRequest {
        instance_name: session.instance(),
        action_digest: Some(action),
        digest_function: session.function_number(),
        inline_stdout: true,
        ..ExecuteRequest::default()
    };
    let stream = session.execution().execute(request).await?.into_inner();
    let result = jobs::follow(stream).await?.result()?;
    require!(&result.stdout_raw[..] == b"inline\n", "{} bytes are in the result", result.stdout_raw.len());
    Ok(())
}

async fn priority(session: &Session) -> Answer {
    for priority in [-1000, 1000] {
        let action = Job::shell(session, "true").upload(session).await?;
        let request = ExecuteRequest {
            instance_name: session.instance(),
            action_digest: Some(action),
            digest_function: session.function_number(),
            execution_policy: Some(ExecutionPolicy { priority }),
            ..ExecuteRequest::default()
        };
        let stream = session.execution().execute(request).await?.into_inner();
        jobs::follow(stream).await?.result()?;
    }
    Ok(())
}

async fn timestamps(session: &Session) -> Answer {
    let result = Job::shell(session, "true").result(session).await?;
    let metadata = result.execution_metadata.unwrap_or_default();
    require!(!metadata.worker.is_empty(), "the worker has no name");
    let stamps = [
        metadata.queued_timestamp,
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ];
    let known: Vec<_> = stamps.iter().flatten().map(|stamp| (stamp.seconds, stamp.nanos)).collect();
    require!(known.len() == stamps.len(), "{} of {} are set", known.len(), stamps.len());
    // The queue may be on another machine, whose clock is its own.
    require!(known[1..].is_sorted(), "they go back: {known:?}");
    Ok(())
}

async fn wait(session: &Session) -> Answer {
    let action = Job::shell(session, &format!("sleep 1; {RANDOM}")).upload(session).await?;
    let mut stream = jobs::start(session, &action, false).await?;
    let name = jobs::until_executing(&mut stream).await?.name;
    let joined = jobs::wait(session, &name).await?;
    let (first, second) = tokio::join!(jobs::follow(stream), jobs::follow(joined));
    let (first, second) = (first?.result()?, second?.result()?);
    require!(first == second, "the two streams end in different results");
    Ok(())
}

async fn wait_after_broken_stream(session: &Session) -> Answer {
    let action = Job::shell(session, "sleep 1; echo survived").upload(session).await?;
    let mut stream = jobs::start(session, &action, false).await?;
    let name = jobs::until_executing(&mut stream).await?.name;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let joined = jobs::wait(session, &name).await?;
    let stdout = jobs::stdout(session, &jobs::follow(joined).await?.result()?).await?;
    require!(stdout == "survived\n", "standard output is {stdout:?}");
    Ok(())
}

async fn wait_after_end(session: &Session) -> Answer {
    let ended = Job::shell(session, "echo ended").run(session).await?;
    let joined = jobs::wait(session, &ended.operations[0].name).await?;
    let again = jobs::follow(joined).await?;
    require!(again.response.result == ended.response.result, "the result is another one");
    Ok(())
}

async fn wait_unknown(session: &Session) -> Answer {
    session.execution_capabilities()?;
    let name = format!("{}operations/{}", session.prefix(), session.upload_id());
    match jobs::wait(session, &name).await {
        Ok(stream) => match jobs::follow(stream).await {
            Err(jobs::Stopped::Status(status)) => refused(Err::<(), _>(status), &[Code::NotFound], "it"),
            Err(other) => Err(other.into()),
            Ok(_) => super::broken!("it was answered with a result"),
        },
        refusal => refused(refusal, &[Code::NotFound], "it"),
    }
}
