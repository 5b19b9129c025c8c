//! Building: `cargo test --no-run` with the user's own flags, and `cargo metadata` beside it.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::messages::{Artifact, BuildScript, Message, Metadata};
use crate::project::{BuildOutput, ProjectError};

/// Bytes of the compiler's words that are kept: the end, where the errors are summed up.
const BUILD_OUTPUT_BYTES_MAX: usize = 1024 * 1024;

/// What a build came to.
#[derive(Debug)]
pub(super) struct Build {
    /// What was compiled or fresh.
    pub(super) artifacts: Vec<Artifact>,
    /// What the build scripts said.
    pub(super) build_scripts: Vec<BuildScript>,
    /// The workspace.
    pub(super) metadata: Metadata,
}

/// Builds the tests of the package or workspace in `directory`.
pub(super) async fn build(directory: &Path, arguments: &[String], output: BuildOutput) -> Result<Build, ProjectError> {
    // Asking for metadata takes as long as a fresh build needs to find out that it is fresh, so both go at once.
    let (messages, metadata) =
        tokio::try_join!(build_tests(directory, arguments, output), read_metadata(directory, arguments))?;
    let mut build = Build { artifacts: Vec::new(), build_scripts: Vec::new(), metadata };
    for line in messages.split(|&byte| byte == b'\n').filter(|line| line.first() == Some(&b'{')) {
        match serde_json::from_slice(line).map_err(|error| not_understood("cargo test", &error))? {
            Message::CompilerArtifact(artifact) => build.artifacts.push(artifact),
            Message::BuildScriptExecuted(script) => build.build_scripts.push(script),
            Message::Other => {}
        }
    }
    Ok(build)
}

async fn build_tests(directory: &Path, arguments: &[String], output: BuildOutput) -> Result<Vec<u8>, ProjectError> {
    let mut command = cargo(directory);
    command.args(["test", "--no-run", "--message-format=json-render-diagnostics"]).args(arguments);
    match output {
        BuildOutput::Inherited => command.stderr(Stdio::inherit()),
        BuildOutput::Captured => command.stderr(Stdio::piped()),
    };
    let child = command.spawn().map_err(not_started)?;
    let (status, messages, words) = collect(child).await.map_err(not_started)?;
    if status.success() {
        return Ok(messages);
    }
    let words = &words[words.len().saturating_sub(BUILD_OUTPUT_BYTES_MAX)..];
    let mut command = "cargo test --no-run".to_owned();
    for argument in arguments {
        command.push(' ');
        command.push_str(argument);
    }
    let output = String::from_utf8_lossy(words).into_owned();
    Err(ProjectError::BuildFailed { command, status: status.to_string(), output })
}

async fn read_metadata(directory: &Path, arguments: &[String]) -> Result<Metadata, ProjectError> {
    let mut command = cargo(directory);
    command.args(["metadata", "--no-deps", "--format-version=1"]).args(metadata_arguments(arguments));
    let child = command.stderr(Stdio::piped()).spawn().map_err(not_started)?;
    let (status, answer, words) = collect(child).await.map_err(not_started)?;
    if !status.success() {
        let output = String::from_utf8_lossy(&words).into_owned();
        return Err(ProjectError::BuildFailed { command: "cargo metadata".into(), status: status.to_string(), output });
    }
    serde_json::from_slice(&answer).map_err(|error| not_understood("cargo metadata", &error))
}

/// The flags of `cargo test` that decide which workspace is meant and that `cargo metadata` takes too.
fn metadata_arguments(arguments: &[String]) -> Vec<String> {
    const WITH_VALUE: [&str; 3] = ["--manifest-path", "--config", "-Z"];
    const ALONE: [&str; 3] = ["--locked", "--offline", "--frozen"];
    let mut kept = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            kept.push(argument.clone());
            kept.extend(arguments.next().cloned());
        } else if ALONE.contains(&argument.as_str())
            || WITH_VALUE
                .iter()
                .any(|flag| argument.strip_prefix(flag).is_some_and(|rest| rest.starts_with('=') || *flag == "-Z"))
        {
            kept.push(argument.clone());
        }
    }
    kept
}

fn cargo(directory: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

async fn collect(mut child: Child) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let (mut standard, mut error) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let read_standard = async {
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut standard).await?;
        }
        io::Result::Ok(())
    };
    let read_error = async {
        if let Some(mut stderr) = stderr {
            stderr.read_to_end(&mut error).await?;
        }
        io::Result::Ok(())
    };
    tokio::try_join!(read_standard, read_error)?;
    Ok((child.wait().await?, standard, error))
}

fn not_started(source: io::Error) -> ProjectError {
    ProjectError::Start {
        program: "cargo".into(),
        hint: "install Rust from https://rustup.rs, or put cargo on PATH".into(),
        source,
    }
}

fn not_understood(program: &str, error: &serde_json::Error) -> ProjectError {
    ProjectError::Output { program: program.into(), message: error.to_string() }
}
