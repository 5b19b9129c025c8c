//! Rules of the ActionCache service.

use muster_proto::reapi::{
    Action, ActionResult, Command, Digest, Directory, ExecutedActionMetadata, FileNode, GetActionResultRequest,
    OutputDirectory, OutputFile, Tree, UpdateActionResultRequest,
};
use tonic::{Code, Status};

use super::session::Session;
use super::{Answer, Check, Finding, broken, checks, refused, require};

pub(super) const CHECKS: &[Check] = checks![
    Must "action-cache/miss", "ActionCache.GetActionResult":
        "an action without a result is NOT_FOUND" => miss;
    Must "action-cache/hit", "ActionCache.UpdateActionResult":
        "a result that was uploaded is returned for its action" => hit;
    Must "action-cache/exit-code", "ActionResult.exit_code":
        "outputs, executable bits and exit code come back as they went in" => exit_code;
    Should "action-cache/inline-stdout", "GetActionResultRequest.inline_stdout":
        "small standard output is in the answer when that is asked for" => inline_stdout;
    Should "action-cache/no-inline-unasked", "ActionResult.stdout_raw":
        "standard output is not in the answer when nobody asks for it" => no_inline;
    Should "action-cache/output-missing", "ActionCache.GetActionResult":
        "a result is only returned while its output files are in the store" => output_missing;
    Should "action-cache/tree-missing", "ActionCache.GetActionResult":
        "a result is only returned while the Tree of its output directory is in the store" => tree_missing;
    Should "action-cache/file-in-tree-missing", "ActionCache.GetActionResult":
        "a result is only returned while the files inside its output directories are in the store" => file_in_tree_missing;
    Should "action-cache/stdout-missing", "ActionCache.GetActionResult":
        "a result is only returned while its standard output is in the store" => stdout_missing;
    Must "action-cache/size-is-part-of-digest", "Digest":
        "an action's hash with another size is refused or has no result" => size_is_part;
    Should "action-cache/without-digest", "ActionCache.GetActionResult":
        "a request without an action is INVALID_ARGUMENT" => without_digest;
];

pub(super) async fn get(session: &Session, action: &Digest, inline_stdout: bool) -> Result<ActionResult, Status> {
    let request = GetActionResultRequest {
        instance_name: session.instance(),
        action_digest: Some(action.clone()),
        inline_stdout,
        digest_function: session.function_number(),
        ..GetActionResultRequest::default()
    };
    Ok(session.action_cache().get_action_result(request).await?.into_inner())
}

async fn update(session: &Session, action: &Digest, result: &ActionResult) -> Result<ActionResult, Status> {
    let request = UpdateActionResultRequest {
        instance_name: session.instance(),
        action_digest: Some(action.clone()),
        action_result: Some(result.clone()),
        results_cache_policy: None,
        digest_function: session.function_number(),
    };
    Ok(session.action_cache().update_action_result(request).await?.into_inner())
}

fn writable(session: &Session) -> Answer {
    let updates = session.cache_capabilities()?.action_cache_update_capabilities.unwrap_or_default();
    match updates.update_enabled {
        true => Ok(()),
        false => Err(Finding::NotOffered("update_enabled is false".into())),
    }
}

/// An action that is in the store, with its command and input root, as a client has to upload it before its result.
async fn action(session: &Session) -> Result<Digest, Finding> {
    let command = Command { arguments: vec!["true".into(), session.word()], ..Command::default() };
    let action = Action {
        command_digest: Some(session.upload_message(&command).await?),
        input_root_digest: Some(session.upload_message(&Directory::default()).await?),
        ..Action::default()
    };
    session.upload_message(&action).await
}

fn worker() -> Option<ExecutedActionMetadata> {
    Some(ExecutedActionMetadata { worker: "muster conformance".into(), ..ExecutedActionMetadata::default() })
}

fn file(path: &str, digest: Digest) -> OutputFile {
    OutputFile { path: path.into(), digest: Some(digest), ..OutputFile::default() }
}

async fn miss(session: &Session) -> Answer {
    session.cache_capabilities()?;
    refused(get(session, &session.unknown_digest(100), false).await, &[Code::NotFound], "it")
}

async fn hit(session: &Session) -> Answer {
    writable(session)?;
    let action = action(session).await?;
    refused(get(session, &action, false).await, &[Code::NotFound], "asking before the upload")?;
    let output = session.upload(session.bytes(100)).await?;
    let result = ActionResult {
        output_files: vec![file("out", output)],
        execution_metadata: worker(),
        ..ActionResult::default()
    };
    update(session, &action, &result).await?;
    let found = get(session, &action, false).await?;
    require!(found.output_files == result.output_files, "its outputs are {:?}", found.output_files);
    Ok(())
}

async fn exit_code(session: &Session) -> Answer {
    writable(session)?;
    let action = action(session).await?;
    let executable = OutputFile { is_executable: true, ..file("bin/tool", session.upload(session.bytes(10)).await?) };
    let tree = Tree { root: Some(Directory::default()), children: Vec::new() };
    let directory = OutputDirectory {
        path: "empty".into(),
        tree_digest: Some(session.upload_message(&tree).await?),
        ..OutputDirectory::default()
    };
    let result = ActionResult {
        output_files: vec![executable],
        output_directories: vec![directory],
        exit_code: 0,
        stderr_digest: Some(session.upload(session.bytes(10)).await?),
        execution_metadata: worker(),
        ..ActionResult::default()
    };
    update(session, &action, &result).await?;
    let found = get(session, &action, false).await?;
    require!(found.output_files == result.output_files, "the files are {:?}", found.output_files);
    require!(
        found.output_directories == result.output_directories,
        "the directories are {:?}",
        found.output_directories
    );
    require!(found.stderr_digest == result.stderr_digest, "standard error is {:?}", found.stderr_digest);
    require!(found.exit_code == 0, "the exit code is {}", found.exit_code);
    Ok(())
}

/// A result with 100 bytes of standard output in the store.
async fn with_stdout(session: &Session) -> Result<(Digest, bytes::Bytes), Finding> {
    writable(session)?;
    let action = action(session).await?;
    let stdout = session.bytes(100);
    let result = ActionResult {
        stdout_digest: Some(session.upload(stdout.clone()).await?),
        execution_metadata: worker(),
        ..ActionResult::default()
    };
    update(session, &action, &result).await?;
    Ok((action, stdout))
}

async fn inline_stdout(session: &Session) -> Answer {
    let (action, stdout) = with_stdout(session).await?;
    let found = get(session, &action, true).await?;
    require!(found.stdout_raw == stdout, "{} bytes are in the answer", found.stdout_raw.len());
    Ok(())
}

async fn no_inline(session: &Session) -> Answer {
    let (action, _) = with_stdout(session).await?;
    let found = get(session, &action, false).await?;
    require!(found.stdout_raw.is_empty(), "{} bytes are in the answer", found.stdout_raw.len());
    Ok(())
}

/// Whether a result that refers to something that is not there is refused, or is not returned.
async fn not_returned(session: &Session, result: ActionResult) -> Answer {
    writable(session)?;
    let action = action(session).await?;
    let result = ActionResult { execution_metadata: worker(), ..result };
    if let Err(status) = update(session, &action, &result).await {
        let expected = [Code::FailedPrecondition, Code::InvalidArgument, Code::NotFound];
        return refused(Err::<(), _>(status), &expected, "the upload");
    }
    match get(session, &action, false).await {
        Ok(_) => broken!("a result whose blob was never uploaded was returned"),
        refusal => refused(refusal, &[Code::NotFound], "it"),
    }
}

async fn output_missing(session: &Session) -> Answer {
    let output_files = vec![file("out", session.unknown_digest(100))];
    not_returned(session, ActionResult { output_files, ..ActionResult::default() }).await
}

async fn tree_missing(session: &Session) -> Answer {
    let directory = OutputDirectory {
        path: "out".into(),
        tree_digest: Some(session.unknown_digest(100)),
        ..OutputDirectory::default()
    };
    not_returned(session, ActionResult { output_directories: vec![directory], ..ActionResult::default() }).await
}

async fn file_in_tree_missing(session: &Session) -> Answer {
    let node = FileNode { name: "lost".into(), digest: Some(session.unknown_digest(100)), ..FileNode::default() };
    let tree = Tree { root: Some(Directory { files: vec![node], ..Directory::default() }), children: Vec::new() };
    let directory = OutputDirectory {
        path: "out".into(),
        tree_digest: Some(session.upload_message(&tree).await?),
        ..OutputDirectory::default()
    };
    not_returned(session, ActionResult { output_directories: vec![directory], ..ActionResult::default() }).await
}

async fn stdout_missing(session: &Session) -> Answer {
    let stdout_digest = Some(session.unknown_digest(100));
    not_returned(session, ActionResult { stdout_digest, ..ActionResult::default() }).await
}

async fn size_is_part(session: &Session) -> Answer {
    let (action, _) = with_stdout(session).await?;
    let other = Digest { size_bytes: action.size_bytes + 1, ..action };
    refused(get(session, &other, false).await, &[Code::NotFound, Code::InvalidArgument], "it")
}

async fn without_digest(session: &Session) -> Answer {
    session.cache_capabilities()?;
    let request = GetActionResultRequest { instance_name: session.instance(), ..GetActionResultRequest::default() };
    refused(session.action_cache().get_action_result(request).await, &[Code::InvalidArgument], "it")
}
