//! Carries out one action of the Remote Execution API: its input root over the base, its command, its outputs.
//!
//! The input root is shown at [`INPUT_ROOT`] and is writable; what the program writes there is thrown away but for the declared outputs, which
//! are looked at when everything inside is dead. The program sees the variables of its command and no others.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use muster_cache::{UploadSource, digest_of};
use muster_environment::{Collector, EnvironmentError, EnvironmentSpec, KillSwitch, Variables};
use muster_frameworks::{Ending, EndingStatus};
use muster_model::attempt::{ActionEnding, ActionReport, ActionTask, AttemptResult, Interruption, Stage};
use muster_model::outcome::{Fault, FaultKind};
use muster_model::spec::{CommandSpec, EnvironmentLimits};
use muster_model::{Digest, DigestFunction, Epoch, limits};
use muster_proto::reapi;
use nix::errno::Errno;
use prost::Message;
use tokio::sync::mpsc;

use super::observers::Recorder;
use super::process::{Account, Process};
use super::{Executor, Progress, environment_fault, fault};
use crate::error_text::chain;
use crate::inputs::StagedInputs;
use crate::outputs::{Collected, Declared, OutputRequest, Outputs, ParentDirectories, collector};

/// Where an action's input root is. One path for all actions, so that what programs write of it is the same everywhere.
pub(crate) const INPUT_ROOT: &str = "/build";

/// Exit code of a command whose program is not there, as shells have it (POSIX, Shell Command Language, 2.8.2).
const EXIT_NOT_FOUND: i32 = 127;
/// Exit code of a command whose program can't be executed.
const EXIT_NOT_EXECUTABLE: i32 = 126;

/// Folders for what actions need and make beside their environments.
#[derive(Debug)]
pub(crate) struct ActionFolders {
    root: PathBuf,
    count: AtomicU64,
    /// Whom staged files must belong to.
    owner: Option<(u32, u32)>,
}

impl ActionFolders {
    /// Folders below `root`, which is empty.
    pub(crate) fn new(root: PathBuf, owner: Option<(u32, u32)>) -> Self {
        Self { root, count: AtomicU64::new(0), owner }
    }

    /// A name that is not in use.
    fn next(&self, what: &str) -> PathBuf {
        self.root.join(format!("{what}-{}", self.count.fetch_add(1, Ordering::Relaxed)))
    }
}

/// One attempt at an action under way.
pub(super) struct ActionAttempt<'a> {
    pub(super) executor: &'a Executor,
    pub(super) epoch: Epoch,
    pub(super) task: &'a ActionTask,
    pub(super) withdrawn: &'a KillSwitch,
}

/// What is to be run, read and checked.
struct Request {
    command: reapi::Command,
    input_root: Digest,
    declared: Vec<(String, Declared)>,
}

/// What the program left.
struct Left {
    ending: ActionEnding,
    message: String,
    standard: Bytes,
    error: Bytes,
    outputs: Option<Outputs>,
}

impl ActionAttempt<'_> {
    pub(super) async fn run(self, account: &mut Account) -> Result<AttemptResult, Fault> {
        let clock = self.executor.clock;
        let began = clock.now();
        let _ = self.executor.progress.send(Progress::Stage(self.epoch, Stage::Fetching)).await;
        let request = self.read()?;
        let staged = tokio::select! {
            staged = self.executor.inputs.tree(&request.input_root, INPUT_ROOT) => staged,
            () = self.withdrawn.pulled() => return Err(fault(FaultKind::Returned, "withdrawn".to_owned())),
        };
        let inputs = staged.map_err(|error| fault(FaultKind::Inputs, chain(&error)))?;
        account.timings.transfer = clock.now().since(began);
        account.usage.fetched_bytes = inputs.fetched_bytes;
        account.usage.reused_bytes = inputs.reused_bytes;
        let _ = self.executor.progress.send(Progress::Stage(self.epoch, Stage::Running)).await;
        let left = self.execute(&request, &inputs, account).await?;
        // The layers must not go before the last environment over them has gone.
        drop(inputs);
        let _ = self.executor.progress.send(Progress::EnvironmentGone(self.epoch)).await;
        let uploading = clock.now();
        let (ending, message, result) = self.deliver(left).await?;
        let (upload, elapsed) = (clock.now().since(uploading), clock.now().since(began));
        Ok(AttemptResult::ActionRan(ActionReport { ending, result: result.encode_to_vec(), message, upload, elapsed }))
    }

    /// Nothing is believed that does not have its digest.
    fn read(&self) -> Result<Request, Fault> {
        let function = self.task.action.function;
        let refused = |what: &str, why: String| fault(FaultKind::Protocol, format!("the {what} {why}"));
        let check = |what: &str, bytes: &[u8], digest: &Digest| {
            let is_it = digest_of(function, bytes) == *digest;
            if is_it { Ok(()) } else { Err(refused(what, format!("does not have the digest {digest}"))) }
        };
        check("Action", &self.task.encoded_action, &self.task.action)?;
        let action = reapi::Action::decode(self.task.encoded_action.as_slice())
            .map_err(|error| refused("Action", format!("can't be read: {error}")))?;
        let named = |what: &str, digest: Option<&reapi::Digest>| {
            let digest = digest.ok_or_else(|| refused("Action", format!("names no {what}")))?;
            digest.to_model(function).map_err(|error| refused("Action", format!("names no {what}: {error}")))
        };
        check("Command", &self.task.encoded_command, &named("Command", action.command_digest.as_ref())?)?;
        let command = reapi::Command::decode(self.task.encoded_command.as_slice())
            .map_err(|error| refused("Command", format!("can't be read: {error}")))?;
        let input_root = named("input root", action.input_root_digest.as_ref())?;
        Ok(Request { declared: declared(&command), command, input_root })
    }

    async fn execute(&self, request: &Request, inputs: &StagedInputs, account: &mut Account) -> Result<Left, Fault> {
        let environment = self.executor.environment(&self.task.requirements)?;
        let parents = self.parents(request).map_err(|error| fault(FaultKind::Environment, error.to_string()))?;
        let (collector, collected) = self.collector(request);
        let mut layers = inputs.layers.clone();
        layers.push(parents.layer().clone());
        let working_directory = Path::new(INPUT_ROOT).join(&request.command.working_directory);
        let variables = &request.command.environment_variables;
        let spec = EnvironmentSpec {
            with_base: self.task.requirements.base.shows_base(),
            image: None,
            layers,
            command: CommandSpec {
                arguments: request.command.arguments.clone(),
                environment: variables.iter().map(|entry| (entry.name.clone(), entry.value.clone())).collect(),
                working_directory: working_directory.to_string_lossy().into_owned(),
            },
            variables: Variables::Exact,
            network: None,
            memory_bytes: limits::ENVIRONMENT_MEMORY_BYTES_DEFAULT,
            processes: limits::ENVIRONMENT_PROCESSES_DEFAULT,
            output_bytes: limits::ENVIRONMENT_OUTPUT_BYTES_DEFAULT,
            profile: Default::default(),
            collect: Vec::new(),
            collector: Some(collector),
        };
        let prepared = environment.prepare(spec).await.map_err(environment_fault)?;
        let mut recorder = Recorder::default();
        // No case begins in an action.
        let (cases, _) = mpsc::channel(1);
        let process = Process {
            environment: &*environment,
            clock: self.executor.clock,
            case_timeout: self.task.timeout,
            withdrawn: self.withdrawn,
            cases: &cases,
            observer: &mut recorder,
            limits: EnvironmentLimits::default(),
        };
        let ended = process.run(prepared, account).await;
        drop(parents);
        let (ending, mut message) = match ended {
            Ok(ended) => (ending_of(&ended), String::new()),
            Err(EnvironmentError::Start { program, source }) if is_own_fault(&source) => {
                let is_there = source.kind() != std::io::ErrorKind::NotFound;
                let code = if is_there { EXIT_NOT_EXECUTABLE } else { EXIT_NOT_FOUND };
                let said = format!("cannot start {program}: {source}\n");
                recorder.error.extend_from_slice(said.as_bytes());
                (ActionEnding::Exited { code }, said.trim_end().to_owned())
            }
            Err(error) => return Err(environment_fault(error)),
        };
        let (outputs, refusal) = match collected.into_result() {
            Some(Ok(outputs)) => (Some(outputs), None),
            Some(Err(error)) => (None, Some(chain(&error))),
            None => (None, None),
        };
        // A program that was killed has not had the time to make good outputs.
        let is_whole = matches!(ending, ActionEnding::Exited { .. });
        let ending = if refusal.is_some() && is_whole { ActionEnding::OutputsRefused } else { ending };
        if let Some(refusal) = refusal {
            message = refusal;
        }
        Ok(Left { ending, message, standard: recorder.standard.into(), error: recorder.error.into(), outputs })
    }

    fn parents(&self, request: &Request) -> std::io::Result<ParentDirectories> {
        let folders = &self.executor.folders;
        let working_directory = &request.command.working_directory;
        let (folder, root) = (folders.next("parents"), PathBuf::from(INPUT_ROOT));
        ParentDirectories::create(folder, root, folders.owner, working_directory, &request.declared)
    }

    fn collector(&self, request: &Request) -> (Collector, Collected) {
        use reapi::command::OutputDirectoryFormat as Format;
        let format = request.command.output_directory_format();
        let wants = |property: &str| request.command.output_node_properties.iter().any(|name| name == property);
        let request = OutputRequest {
            working_directory: Path::new(INPUT_ROOT).join(&request.command.working_directory),
            declared: request.declared.clone(),
            with_mtime: wants("mtime"),
            with_mode: wants("unix_mode"),
            with_trees: format != Format::DirectoryOnly,
            with_roots: format != Format::TreeOnly,
            function: self.task.action.function,
        };
        collector(request, self.executor.folders.next("outputs"))
    }

    /// Uploads what was made, and says what it was.
    async fn deliver(&self, left: Left) -> Result<(ActionEnding, String, reapi::ActionResult), Fault> {
        let function = self.task.action.function;
        let mut result = reapi::ActionResult::default();
        let mut blobs: Vec<(Digest, UploadSource)> = Vec::new();
        (result.stdout_raw, result.stdout_digest) = stream(function, left.standard, &mut blobs);
        (result.stderr_raw, result.stderr_digest) = stream(function, left.error, &mut blobs);
        if let Some(outputs) = &left.outputs {
            outputs.write_to(&mut result);
            blobs.extend(outputs.blobs());
        }
        let (mut ending, mut message) = (left.ending, left.message);
        if result.encoded_len() > limits::ACTION_RESULT_BYTES_MAX {
            (ending, message) = (ActionEnding::OutputsRefused, too_large(&result));
            result = reapi::ActionResult {
                stdout_raw: result.stdout_raw,
                stdout_digest: result.stdout_digest,
                stderr_raw: result.stderr_raw,
                stderr_digest: result.stderr_digest,
                ..reapi::ActionResult::default()
            };
        }
        if !blobs.is_empty() {
            let uploaded = tokio::select! {
                uploaded = self.executor.inputs.upload(blobs) => uploaded,
                () = self.withdrawn.pulled() => return Err(fault(FaultKind::Returned, "withdrawn".to_owned())),
            };
            // It has run, but what it made can't be had: like an agent that went away with it.
            uploaded.map_err(|error| fault(FaultKind::Environment, chain(&error)))?;
        }
        Ok((ending, message, result))
    }
}

fn too_large(result: &reapi::ActionResult) -> String {
    let (bytes, most) = (result.encoded_len(), limits::ACTION_RESULT_BYTES_MAX);
    format!(
        "the list of outputs has {bytes} bytes and passes the limit of {most}; declare directories instead of files"
    )
}

/// The outputs that a command declares. Since 2.1 `output_paths` stands for the older two fields, which are passed over beside it.
fn declared(command: &reapi::Command) -> Vec<(String, Declared)> {
    let of = |paths: &[String], kind| paths.iter().map(|path| (path.clone(), kind)).collect::<Vec<_>>();
    if !command.output_paths.is_empty() {
        return of(&command.output_paths, Declared::Path);
    }
    #[expect(deprecated, reason = "clients before 2.1 send nothing else")]
    let (files, directories) = (&command.output_files, &command.output_directories);
    [of(files, Declared::File), of(directories, Declared::Directory)].concat()
}

/// A stream's place in the result: inside when it is small, otherwise a blob.
fn stream(
    function: DigestFunction,
    bytes: Bytes,
    blobs: &mut Vec<(Digest, UploadSource)>,
) -> (Bytes, Option<reapi::Digest>) {
    if bytes.len() <= limits::ACTION_OUTPUT_INLINE_BYTES_MAX {
        return (bytes, None);
    }
    let digest = digest_of(function, &bytes);
    blobs.push((digest, UploadSource::Bytes(bytes)));
    (Bytes::new(), Some(digest.into()))
}

fn ending_of(ending: &Ending) -> ActionEnding {
    match (ending.killed, ending.status) {
        (Some(Interruption::TimedOut), _) => ActionEnding::TimedOut,
        (Some(Interruption::MemoryExceeded), _) => ActionEnding::MemoryExceeded,
        (Some(Interruption::OutputExceeded), _) => ActionEnding::OutputExceeded,
        (Some(Interruption::ProcessesExceeded), _) => ActionEnding::ProcessesExceeded,
        (_, EndingStatus::Code(code)) => ActionEnding::Exited { code },
        (_, EndingStatus::Signal(signal)) => ActionEnding::Signalled { signal },
    }
}

/// Whether a program could not be started because of what the action brought, and not because of this machine.
fn is_own_fault(error: &std::io::Error) -> bool {
    let own = [Errno::ENOENT, Errno::EACCES, Errno::ENOEXEC, Errno::ENOTDIR, Errno::EISDIR, Errno::ELOOP, Errno::E2BIG];
    error.raw_os_error().is_some_and(|code| own.contains(&Errno::from_raw(code)))
}
