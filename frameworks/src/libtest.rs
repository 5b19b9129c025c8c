//! Rust's standard test harness, by its stable output (`library/test/src/formatters/pretty.rs`), with no flag of the nightly compiler.
//!
//! A shard runs in one process with one thread. The harness then writes `test NAME ... ` *before* a case and its result after it, so the case that
//! is running is always known, and times come from when the lines come. What a case writes past the harness's capture (another process, the
//! descriptor itself) lands between the two; [`batch`] says what is believed then.

mod alone;
mod batch;
mod line;

use std::collections::HashSet;

use muster_model::attempt::DiscoveredCase;
use muster_model::limits::{CASE_NAME_BYTES_MAX, CASES_PER_TARGET_MAX};
use muster_model::spec::TargetSpec;

use crate::{DiscoveryError, DiscoveryOutput, EndingStatus, Framework, FrameworkCommand, ResultReader, Shard, output};

/// See the module.
pub(crate) struct Libtest;

impl Framework for Libtest {
    fn discovery_commands(&self, target: &TargetSpec, _nonce: &str) -> Vec<FrameworkCommand> {
        // The list does not mark ignored cases: a second call names them. The short format is one line a case in every release.
        let list = ["--list", "--format", "terse"];
        vec![command(target, list), command(target, list.into_iter().chain(["--ignored"]))]
    }

    fn read_discovery(
        &self,
        _target: &TargetSpec,
        _nonce: &str,
        outputs: &[DiscoveryOutput],
    ) -> Result<Vec<DiscoveredCase>, DiscoveryError> {
        let [all, ignored] = outputs else {
            return Err(DiscoveryError::Protocol(format!("two lists were asked for, {} came back", outputs.len())));
        };
        let ignored: HashSet<&str> = read_list(ignored)?.into_iter().collect();
        let names = read_list(all)?;
        let mut seen = HashSet::with_capacity(names.len());
        if let Some(double) = names.iter().find(|name| !seen.insert(**name)) {
            return Err(DiscoveryError::Protocol(format!("the test binary lists `{double}` twice")));
        }
        let discovered = |name: &str| DiscoveredCase { name: name.to_owned(), ignored: ignored.contains(name) };
        Ok(names.into_iter().map(discovered).collect())
    }

    fn run_command(&self, shard: &Shard<'_>) -> FrameworkCommand {
        // Ignored cases are in a shard only when somebody asked for them.
        let flags = ["--exact", "--include-ignored", "--test-threads=1", "--"];
        command(shard.target, flags.into_iter().chain(shard.cases.iter().map(|(_, name)| name.as_str())))
    }

    fn reader(&self, shard: &Shard<'_>) -> Box<dyn ResultReader> {
        match shard.cases {
            [(case, name)] => Box::new(alone::Reader::new(*case, name)),
            cases => Box::new(batch::Reader::new(cases)),
        }
    }
}

fn command<'a>(target: &TargetSpec, arguments: impl IntoIterator<Item = &'a str>) -> FrameworkCommand {
    let mut command = target.command.clone();
    command.arguments.extend(arguments.into_iter().map(str::to_owned));
    FrameworkCommand { command, collect: Vec::new() }
}

/// The names of tests in one list; benchmarks are left out.
fn read_list(output: &DiscoveryOutput) -> Result<Vec<&str>, DiscoveryError> {
    if output.ending.killed.is_some() || output.ending.status != EndingStatus::Code(0) {
        let words = output::both_streams(&output.standard, &output.error);
        return Err(DiscoveryError::Project(format!(
            "the test binary could not list its cases: {}\n{words}",
            output::how_it_ended(&output.ending)
        )));
    }
    let text = str::from_utf8(&output.standard)
        .map_err(|_| DiscoveryError::Protocol("the list of cases is not UTF-8".to_owned()))?;
    let mut names = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.rsplit_once(": ") {
            Some((name, "test")) if name.len() > CASE_NAME_BYTES_MAX => {
                return Err(DiscoveryError::Protocol(format!(
                    "a case's name has {} bytes, at most {CASE_NAME_BYTES_MAX} are allowed",
                    name.len()
                )));
            }
            Some((name, "test")) => names.push(name),
            Some((_, "benchmark")) => {}
            _ => {
                return Err(DiscoveryError::Project(format!(
                    "the test binary answered `--list` with `{}`, which is not the list of the standard harness; \
                     hint: with `harness = false` its exit status is its one case",
                    output::message(line)
                )));
            }
        }
        if names.len() > CASES_PER_TARGET_MAX {
            return Err(DiscoveryError::Protocol(format!("more than {CASES_PER_TARGET_MAX} cases in one target")));
        }
    }
    Ok(names)
}
