//! Any program that takes a shard through Bazel's variables and writes JUnit XML (Bazel, "Test encyclopedia", sections "Initial conditions" and
//! "Test sharding").
//!
//! A case of such a target is one shard of the program, so each has a process of its own; the agent never puts two into one. The exit status
//! decides; the report it wrote gives the words.

use muster_model::attempt::{DiscoveredCase, Interruption};
use muster_model::limits::{CASES_PER_TARGET_MAX, RESULT_FILE_BYTES_MAX};
use muster_model::outcome::Verdict;
use muster_model::spec::TargetSpec;
use muster_model::{CaseIndex, Instant};

use crate::alone::{Alone, exit_code, verdict_of_status};
use crate::junit::{self, JunitReport};
use crate::{
    CaseEvent, DiscoveryError, DiscoveryOutput, Ending, Framework, FrameworkCommand, ResultReader, Shard, Stream,
    Summary,
};

/// See the module.
pub(crate) struct Command;

impl Framework for Command {
    fn discovery_commands(&self, _target: &TargetSpec, _nonce: &str) -> Vec<FrameworkCommand> {
        Vec::new()
    }

    fn read_discovery(
        &self,
        target: &TargetSpec,
        _nonce: &str,
        _outputs: &[DiscoveryOutput],
    ) -> Result<Vec<DiscoveredCase>, DiscoveryError> {
        let shards = target.shards.max(1);
        if shards as usize > CASES_PER_TARGET_MAX {
            return Err(DiscoveryError::Protocol(format!("more than {CASES_PER_TARGET_MAX} shards in one target")));
        }
        let case = |shard| DiscoveredCase { name: format!("shard {shard}/{shards}"), ignored: false };
        Ok((1..=shards).map(case).collect())
    }

    fn run_command(&self, shard: &Shard<'_>) -> FrameworkCommand {
        let files = Files::new(shard.nonce);
        let (index, total) = shard.cases.first().and_then(|(_, name)| read_name(name)).unwrap_or((0, 1));
        let mut command = shard.target.command.clone();
        let variables = [
            ("TEST_TOTAL_SHARDS", total.to_string()),
            ("TEST_SHARD_INDEX", index.to_string()),
            ("TEST_SHARD_STATUS_FILE", files.status.clone()),
            ("XML_OUTPUT_FILE", files.xml.clone()),
            ("TEST_TMPDIR", "/tmp".to_owned()),
        ];
        for (name, value) in variables {
            command.environment.retain(|(existing, _)| existing != name);
            command.environment.push((name.to_owned(), value));
        }
        command.environment.sort();
        FrameworkCommand { command, collect: vec![files.status, files.xml] }
    }

    fn reader(&self, shard: &Shard<'_>) -> Box<dyn ResultReader> {
        let mut cases = shard.cases.iter();
        let first = cases.next();
        Box::new(Reader {
            alone: first.map(|(case, _)| Alone::new(*case)),
            total: first.and_then(|(_, name)| read_name(name)).map_or(1, |(_, total)| total),
            left_over: cases.next().is_some(),
            files: Files::new(shard.nonce),
        })
    }
}

/// The files that a program of this attempt may write. `/tmp` is the environment's own; the nonce keeps attempts apart where it is shared.
struct Files {
    status: String,
    xml: String,
}

impl Files {
    fn new(nonce: &str) -> Self {
        Self { status: format!("/tmp/muster-{nonce}-shard-status"), xml: format!("/tmp/muster-{nonce}-test.xml") }
    }
}

/// Reads `shard 2/3` as (1, 3): Bazel counts from 0.
fn read_name(name: &str) -> Option<(u32, u32)> {
    let (number, total) = name.strip_prefix("shard ")?.split_once('/')?;
    let (number, total) = (number.parse::<u32>().ok()?, total.parse::<u32>().ok()?);
    (1..=total).contains(&number).then(|| (number - 1, total))
}

/// Reads the first case of its shard, and leaves others open.
struct Reader {
    alone: Option<Alone>,
    total: u32,
    left_over: bool,
    files: Files,
}

impl Reader {
    fn verdict(&self, ending: &Ending) -> (Verdict, String) {
        let code = match exit_code(ending) {
            Ok(code) => code,
            Err(death) => return death,
        };
        let file = |path: &str| ending.files.iter().find(|(found, _)| found == path).map(|(_, bytes)| bytes);
        let has_status = file(&self.files.status).is_some();
        let report = match file(&self.files.xml) {
            Some(bytes) if bytes.len() as u64 > RESULT_FILE_BYTES_MAX => Err("the report is too long".to_owned()),
            Some(bytes) => junit::read(bytes).map_err(|error| format!("the report is unreadable: {error}")),
            None => Err("no report".to_owned()),
        };
        match (code, report) {
            (0, _) if self.total > 1 && !has_status => (
                Verdict::Failed,
                format!(
                    "the program does not support sharding: it did not touch TEST_SHARD_STATUS_FILE, so each of {} shards ran everything; \
                     hint: set `shards = 1`",
                    self.total
                ),
            ),
            (0, Ok(report)) if report.failed > 0 => {
                (Verdict::Failed, format!("exit status 0 but the report has failures: {}", describe(&report)))
            }
            (0, Ok(report)) => (Verdict::Passed, describe(&report)),
            (0, Err(reason)) => (Verdict::Passed, reason),
            (code, Ok(report)) => (Verdict::Failed, format!("exit status {code}: {}", describe(&report))),
            (code, Err(_)) => verdict_of_status(code),
        }
    }
}

/// How many failing names a message has.
const NAMES_MAX: usize = 3;

fn describe(report: &JunitReport) -> String {
    let mut text = format!("{} {}", report.tests, if report.tests == 1 { "test" } else { "tests" });
    if report.skipped > 0 {
        text += &format!(", {} skipped", report.skipped);
    }
    if report.failed > 0 {
        text += &format!(", {} failed: ", report.failed);
        let names: Vec<&str> = report.failures.iter().take(NAMES_MAX).map(|failure| failure.name.as_str()).collect();
        text += &names.join(", ");
        if report.failed > names.len() {
            text += &format!(" and {} more", report.failed - names.len());
        }
    }
    crate::output::message(&text)
}

impl ResultReader for Reader {
    fn push(&mut self, now: Instant, stream: Stream, bytes: &[u8]) {
        if let Some(alone) = &mut self.alone {
            alone.push(now, stream, bytes, |_| ());
        }
    }

    fn poll(&mut self) -> Option<CaseEvent> {
        self.alone.as_mut()?.poll()
    }

    fn finish(mut self: Box<Self>, now: Instant, ending: Ending) -> Summary {
        let (verdict, message) = self.verdict(&ending);
        let failures = match ending.files.iter().find(|(path, _)| *path == self.files.xml) {
            Some((_, bytes)) if verdict != Verdict::Passed && bytes.len() as u64 <= RESULT_FILE_BYTES_MAX => {
                junit::read(bytes).map(|report| report.failures).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let left_over: Option<(Interruption, Option<CaseIndex>)> =
            self.left_over.then_some((Interruption::Contradicted, None));
        let report = self.alone.take().map(|mut alone| {
            for failure in failures {
                let text = format!("\n--- {}: {}\n{}", failure.name, failure.message, failure.text);
                alone.push(now, Stream::Standard, text.as_bytes(), |_| ());
            }
            alone.report(now, &ending, verdict, message)
        });
        Summary { reports: report.into_iter().collect(), interruption: left_over }
    }
}
