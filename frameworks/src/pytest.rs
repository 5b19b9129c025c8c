//! pytest, through a plugin of our own.
//!
//! The plugin travels as the `-c` argument of the interpreter, so nothing is installed and no file is written. It speaks in frames (see
//! `pytest/plugin.py`): lines that begin with the attempt's nonce and hold one JSON object. A line without the nonce, or with half an object, is
//! noise. A case's result is one whole frame, sent after its teardown.

mod frame;
mod reader;

use muster_model::attempt::DiscoveredCase;
use muster_model::limits::{CASE_NAME_BYTES_MAX, CASE_OUTPUT_BYTES_MAX, CASES_PER_TARGET_MAX};
use muster_model::spec::TargetSpec;

use crate::{DiscoveryError, DiscoveryOutput, Framework, FrameworkCommand, ResultReader, Shard, alone, output};
use frame::Frame;

const PLUGIN: &str = include_str!("pytest/plugin.py");

/// pytest's exit code when nothing was collected (`pytest.ExitCode.NO_TESTS_COLLECTED`).
const NOTHING_COLLECTED: i32 = 5;

/// The file that a node id is of; all of it for one without parts.
pub(crate) fn file(node: &str) -> Option<&str> {
    node.split("::").next()
}

/// See the module.
pub(crate) struct Pytest;

impl Framework for Pytest {
    fn discovery_commands(&self, target: &TargetSpec, nonce: &str) -> Vec<FrameworkCommand> {
        vec![command(target, nonce, "list", std::iter::empty())]
    }

    fn read_discovery(
        &self,
        _target: &TargetSpec,
        nonce: &str,
        outputs: &[DiscoveryOutput],
    ) -> Result<Vec<DiscoveredCase>, DiscoveryError> {
        let [output] = outputs else {
            return Err(DiscoveryError::Protocol(format!("one list was asked for, {} came back", outputs.len())));
        };
        read_list(nonce, output)
    }

    fn run_command(&self, shard: &Shard<'_>) -> FrameworkCommand {
        command(shard.target, shard.nonce, "run", shard.cases.iter().map(|(_, name)| name.as_str()))
    }

    fn reader(&self, shard: &Shard<'_>) -> Box<dyn ResultReader> {
        Box::new(reader::Reader::new(shard))
    }
}

/// The target's arguments are the interpreter and pytest's own arguments; the names follow them, because one variable or one argument may not
/// be longer than 128 KiB on Linux.
fn command<'a>(target: &TargetSpec, nonce: &str, mode: &str, names: impl Iterator<Item = &'a str>) -> FrameworkCommand {
    let mut command = target.command.clone();
    let own = command.arguments.split_off(command.arguments.len().min(1));
    command.arguments.extend(["-c", PLUGIN, mode].map(str::to_owned));
    command.arguments.push(own.len().to_string());
    command.arguments.extend(own);
    command.arguments.extend(names.map(str::to_owned));
    let limit = CASE_OUTPUT_BYTES_MAX.to_string();
    for (name, value) in [("MUSTER_FRAME_NONCE", nonce), ("MUSTER_FRAME_OUTPUT", &limit)] {
        command.environment.retain(|(existing, _)| existing != name);
        command.environment.push((name.to_owned(), value.to_owned()));
    }
    command.environment.sort();
    FrameworkCommand { command, collect: Vec::new() }
}

fn read_list(nonce: &str, output: &DiscoveryOutput) -> Result<Vec<DiscoveredCase>, DiscoveryError> {
    let words = || output::both_streams(&[], &output.error);
    let code = alone::exit_code(&output.ending)
        .map_err(|(_, message)| DiscoveryError::Project(format!("pytest {message}\n{}", words())))?;
    let mut cases = Vec::new();
    let mut errors = String::new();
    let mut end = None;
    for line in output.standard.split(|byte| *byte == b'\n') {
        match frame::read(nonce, line) {
            Some(Frame::Case { name }) if name.len() > CASE_NAME_BYTES_MAX => {
                return Err(DiscoveryError::Protocol(format!(
                    "a case's name has {} bytes, at most {CASE_NAME_BYTES_MAX} are allowed",
                    name.len()
                )));
            }
            Some(Frame::Case { name }) => cases.push(DiscoveredCase { name, ignored: false }),
            Some(Frame::CollectionError { name, output }) if errors.len() < CASE_OUTPUT_BYTES_MAX => {
                errors.push_str(&format!("error collecting {name}\n{output}\n"));
            }
            Some(Frame::End { status, count, .. }) => end = Some((status, count)),
            _ => {}
        }
    }
    if !errors.is_empty() {
        return Err(DiscoveryError::Project(errors));
    }
    match end {
        Some((status, count)) if status == code && count == cases.len() && cases.len() <= CASES_PER_TARGET_MAX => {
            match code {
                0 | NOTHING_COLLECTED => Ok(cases),
                _ => Err(DiscoveryError::Project(format!("pytest exited with status {code}\n{}", words()))),
            }
        }
        Some((_, count)) if count > CASES_PER_TARGET_MAX => {
            Err(DiscoveryError::Protocol(format!("more than {CASES_PER_TARGET_MAX} cases in one target")))
        }
        Some(_) => Err(DiscoveryError::Protocol("pytest's list does not agree with its exit status".to_owned())),
        None => Err(DiscoveryError::Project(format!("pytest exited with status {code}\n{}", words()))),
    }
}
