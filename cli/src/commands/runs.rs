//! `muster runs`: what was run, what came of it, and where the time went.

use clap::{Args, Subcommand};
use muster_proto::v1::{AttemptSummary, ListRunsRequest, RunSummary, ShowRunRequest, ShowRunResponse, TargetSummary};
use serde_json::{Value, json};

use super::fleet_access::{AskArguments, ask};
use super::{Format, answer, answer_json};
use super::{action_why, runs_why};
use crate::client::{lookup_refusal, refusal};
use crate::error::ExpectedError;
use crate::paint::{ColorChoice, Paint};
use crate::reporter::{case_fields, efficiency_fields, has_leaked, merged, render_case, summary_fields};
use crate::table::{Align, Table};
use crate::text;

/// `muster runs …`
#[derive(Debug, Subcommand)]
pub(super) enum RunsCommand {
    /// List runs, newest first
    List {
        /// How many
        #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        ask: AskArguments,
    },
    /// Show a run: counts, targets, and every case that did not simply pass, with its output
    Show(OneRun),
    /// Show where a run's time went, or a remotely executed action's, and what would make it faster
    Why(WhyArguments),
}

/// Which run.
#[derive(Debug, Args)]
pub(super) struct OneRun {
    /// The run's number; the newest unless one is given
    #[arg(value_name = "RUN", value_parser = clap::value_parser!(u64).range(1..))]
    run: Option<u64>,
    #[command(flatten)]
    ask: AskArguments,
}

impl OneRun {
    async fn look_up(&self) -> Result<ShowRunResponse, ExpectedError> {
        let run = self.run.unwrap_or(0);
        ask(&self.ask, true, async |client| {
            let answer = client.runs().show_run(ShowRunRequest { run }).await;
            Ok(answer.map_err(lookup_refusal(client.url(), run))?.into_inner())
        })
        .await
    }
}

/// Which run or action.
#[derive(Debug, Args)]
pub(super) struct WhyArguments {
    /// A run's number, or the name of an operation of the Remote Execution API as `muster fleet status` shows it; the newest run unless one is given
    #[arg(value_name = "RUN|OPERATION")]
    subject: Option<String>,
    #[command(flatten)]
    ask: AskArguments,
}

impl WhyArguments {
    async fn run(self) -> Result<(), ExpectedError> {
        let format = self.ask.format;
        let run = match self.subject.as_deref().map(str::parse::<u64>) {
            None => None,
            Some(Ok(run)) => Some(run),
            Some(Err(_)) => return action_why::run(self.subject.unwrap_or_default(), &self.ask).await,
        };
        let shown = OneRun { run, ask: self.ask }.look_up().await?;
        match format {
            Format::Human => answer(&runs_why::page(&shown)),
            Format::Json => answer_json(&runs_why::object(&shown)),
        }
    }
}

impl RunsCommand {
    pub(super) fn format(&self) -> Format {
        match self {
            Self::List { ask, .. } => ask.format,
            Self::Show(one) => one.ask.format,
            Self::Why(why) => why.ask.format,
        }
    }

    pub(super) async fn run(self, color: ColorChoice) -> Result<(), ExpectedError> {
        let paint = Paint::for_stream(color, &std::io::stdout());
        match (self.format(), self) {
            (format, Self::List { limit, ask: arguments }) => {
                let runs = ask(&arguments, true, async |client| {
                    let answer = client.runs().list_runs(ListRunsRequest { limit }).await;
                    Ok(answer.map_err(refusal(client.url(), "list runs"))?.into_inner().runs)
                })
                .await?;
                match format {
                    Format::Human => answer(&list_page(&runs)),
                    Format::Json => answer_json(&json!({"runs": runs.iter().map(summary_fields).collect::<Vec<_>>()})),
                }
            }
            (Format::Human, Self::Show(one)) => answer(&show_page(&one.look_up().await?, paint)),
            (Format::Json, Self::Show(one)) => answer_json(&show_object(&one.look_up().await?)),
            (_, Self::Why(why)) => why.run().await,
        }
    }
}

fn list_page(runs: &[RunSummary]) -> String {
    if runs.is_empty() {
        return "no runs yet\n  hint: muster test\n".into();
    }
    let mut table = Table::new(&[
        ("run", Align::Right),
        ("project", Align::Left),
        ("outcome", Align::Left),
        ("passed", Align::Right),
        ("failed", Align::Right),
        ("flaky", Align::Right),
        ("cached", Align::Right),
        ("executed", Align::Right),
        ("time", Align::Right),
        ("started (UTC)", Align::Left),
    ]);
    for run in runs {
        table.row([
            run.run.to_string(),
            text::escape_line(&run.project),
            text::escape_line(&run.outcome).replace('_', " "),
            run.passed.to_string(),
            run.failed.to_string(),
            run.flaky.to_string(),
            run.cached.to_string(),
            run.executed.to_string(),
            text::millis(run.wall_ms),
            text::date(run.started_unix_ms),
        ]);
    }
    table.render()
}

fn show_page(shown: &ShowRunResponse, paint: Paint) -> String {
    let summary = shown.summary.clone().unwrap_or_default();
    let mut page = format!(
        "run {} of {}: {} after {}\n{} planned, {} passed ({} cached), {} failed, {} skipped, {} flaky, {} interference, {} executed\n\n",
        summary.run,
        text::escape_line(&summary.project),
        text::escape_line(&summary.outcome).replace('_', " "),
        text::millis(summary.wall_ms),
        summary.planned,
        summary.passed,
        summary.cached,
        summary.failed,
        summary.skipped,
        summary.flaky,
        summary.interference,
        summary.executed,
    );
    let mut table = Table::new(&[
        ("target", Align::Left),
        ("suite", Align::Left),
        ("cases", Align::Right),
        ("environment", Align::Left),
        ("base", Align::Left),
    ]);
    for target in &shown.targets {
        table.row([
            text::escape_line(&target.name),
            text::escape_line(&target.suite),
            target.planned.to_string(),
            text::escape_line(&target.environment),
            text::escape_line(&target.base),
        ]);
    }
    page.push_str(&table.render());
    let remarkable = shown
        .cases
        .iter()
        .filter(|case| has_leaked(case) || !matches!(case.outcome.as_str(), "passed" | "skipped" | "cancelled"));
    for case in remarkable {
        page.push('\n');
        render_case(&mut page, case, paint);
    }
    page
}

fn show_object(shown: &ShowRunResponse) -> Value {
    let target = |target: &TargetSummary| {
        json!({
            "name": target.name,
            "suite": target.suite,
            "planned": target.planned,
            "environment": target.environment,
            "base": target.base,
            "without": target.without,
            "profile": target.profile,
        })
    };
    let target_name = |attempt: &AttemptSummary| {
        let found = shown.targets.iter().find(|target| target.target == attempt.target);
        found.map(|target| target.name.clone())
    };
    let summary = shown.summary.clone().unwrap_or_default();
    let efficiency = shown.efficiency.unwrap_or_default();
    let mut object = merged([efficiency_fields(&efficiency), summary_fields(&summary)]);
    object.insert("targets".into(), shown.targets.iter().map(target).collect());
    object.insert("cases".into(), shown.cases.iter().map(case_fields).collect());
    let attempts = shown.attempts.iter().map(|attempt| attempt_fields(attempt, target_name(attempt)));
    object.insert("attempts".into(), attempts.collect());
    Value::Object(object)
}

/// The fields of an attempt, in `runs show` and `runs why`.
pub(super) fn attempt_fields(attempt: &AttemptSummary, target: Option<String>) -> Value {
    json!({
        "epoch": attempt.epoch,
        "agent": attempt.agent,
        "target": target,
        "discover": attempt.discover,
        "cases": attempt.cases,
        "alone": attempt.alone,
        "queued_ms": attempt.queued_ms,
        "assigned_ms": attempt.assigned_ms,
        "finished_ms": attempt.finished_ms,
        "waited_us": attempt.waited_us,
        "transfer_us": attempt.transfer_us,
        "environment_us": attempt.environment_us,
        "execution_us": attempt.execution_us,
        "result": (!attempt.result.is_empty()).then_some(&attempt.result),
        "memory_peak_bytes": attempt.memory_peak_bytes,
        "cpu_us": attempt.cpu_us,
        "fetched_bytes": attempt.fetched_bytes,
        "reused_bytes": attempt.reused_bytes,
        "written_bytes": attempt.written_bytes,
        "processes_peak": attempt.processes_peak,
        "processes_created": attempt.processes_created,
    })
}

#[cfg(test)]
#[path = "runs_tests.rs"]
pub(super) mod tests;
