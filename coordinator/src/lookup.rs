//! What is known of runs, from the ledger alone.

use muster_model::attempt::Work;
use muster_model::{RunId, limits};
use muster_proto::v1;
use rusqlite::Connection;

use crate::ledger::LedgerError;
use crate::ledger::read::{self, AttemptRow, RunRow};
use crate::ledger::tally::tally;

/// Runs in a list when the client does not say how many.
const RUNS_LISTED_DEFAULT: usize = 20;

/// The newest runs; 0 means the default number.
pub(crate) fn list(
    connection: &Connection,
    limit: usize,
    now_unix_ms: i64,
) -> Result<Vec<v1::RunSummary>, LedgerError> {
    let limit = if limit == 0 { RUNS_LISTED_DEFAULT } else { limit.min(limits::RUNS_LISTED_MAX) };
    let rows = read::runs(connection, limit)?;
    rows.iter().map(|row| summary(connection, row, now_unix_ms)).collect()
}

/// One run, or with 0 the newest; none when it is not known.
pub(crate) fn show(
    connection: &Connection,
    run: RunId,
    now_unix_ms: i64,
) -> Result<Option<v1::ShowRunResponse>, LedgerError> {
    let Some(row) = row(connection, run)? else { return Ok(None) };
    let run = row.run;
    let attempts = read::attempts(connection, run)?;
    Ok(Some(v1::ShowRunResponse {
        summary: Some(summary(connection, &row, now_unix_ms)?),
        targets: targets(connection, run)?,
        cases: read::outcomes(connection, run, limits::BATCH_BYTES_MAX)?,
        attempts: attempts.iter().map(|attempt| attempt_summary(attempt, row.started_unix_ms)).collect(),
        efficiency: row.efficiency,
    }))
}

/// What a run was asked to do, or with 0 the newest; none when it is not known.
pub(crate) fn spec(connection: &Connection, run: RunId) -> Result<Option<v1::RunSpec>, LedgerError> {
    let row = row(connection, run)?;
    row.map(|row| read::spec(connection, row.run)).transpose()
}

/// A run's row; 0 means the newest run.
fn row(connection: &Connection, run: RunId) -> Result<Option<RunRow>, LedgerError> {
    let run = match run.0 {
        0 => read::newest_run(connection)?,
        _ => Some(run),
    };
    run.map_or(Ok(None), |run| read::run(connection, run))
}

fn summary(connection: &Connection, row: &RunRow, now_unix_ms: i64) -> Result<v1::RunSummary, LedgerError> {
    let wall_ms = if row.is_open() { since(row.started_unix_ms, now_unix_ms) } else { row.wall_ms };
    let mut summary = v1::RunSummary {
        run: row.run.0,
        project: row.project.clone(),
        outcome: row.state.clone(),
        started_unix_ms: row.started_unix_ms,
        wall_ms,
        ..v1::RunSummary::default()
    };
    tally(connection, row.run)?.write_into(&mut summary);
    Ok(summary)
}

fn targets(connection: &Connection, run: RunId) -> Result<Vec<v1::TargetSummary>, LedgerError> {
    let spec = read::spec(connection, run)?;
    let planned = read::planned(connection, run)?;
    let targets = spec.targets.into_iter().zip(planned).enumerate().map(|(target, (spec, planned))| {
        let requirements = spec.requirements.unwrap_or_default();
        let environment = match requirements.environment() {
            v1::EnvironmentKind::Host => "host",
            v1::EnvironmentKind::Docker => "docker",
            v1::EnvironmentKind::Sandbox | v1::EnvironmentKind::Unspecified => "sandbox",
        };
        let profile = match spec.limits.unwrap_or_default().profile() {
            v1::Profile::Debug => "debug",
            v1::Profile::Strict | v1::Profile::Unspecified => "strict",
        };
        let base = requirements.base.and_then(|base| [base.name, base.image].into_iter().find(|name| !name.is_empty()));
        v1::TargetSummary {
            target: target as u32,
            name: spec.name,
            suite: spec.suite,
            planned,
            environment: environment.into(),
            base: base.unwrap_or_else(|| "none".into()),
            without: requirements.without,
            profile: profile.into(),
        }
    });
    Ok(targets.collect())
}

fn since(start_unix_ms: i64, end_unix_ms: i64) -> u64 {
    end_unix_ms.saturating_sub(start_unix_ms).max(0).unsigned_abs()
}

fn attempt_summary(row: &AttemptRow, started_unix_ms: i64) -> v1::AttemptSummary {
    let (discover, cases, alone) = match &row.work {
        Work::Discover => (true, 0, false),
        Work::Action => (false, 0, true),
        Work::Cases { cases, alone } => (false, cases.len() as u32, *alone),
    };
    let usage = v1::Usage::from(&row.usage);
    v1::AttemptSummary {
        epoch: row.epoch.0,
        agent: row.agent_name.clone(),
        target: row.target.0,
        discover,
        cases,
        alone,
        queued_ms: since(started_unix_ms, row.queued_unix_ms),
        assigned_ms: since(started_unix_ms, row.assigned_unix_ms),
        finished_ms: row.finished_unix_ms.map_or(0, |finished| since(started_unix_ms, finished)),
        waited_us: row.waited_us,
        transfer_us: row.transfer_us,
        environment_us: row.environment_us,
        execution_us: row.execution_us,
        result: row.result.clone(),
        memory_peak_bytes: usage.memory_peak_bytes,
        cpu_us: usage.cpu_us,
        fetched_bytes: usage.fetched_bytes,
        reused_bytes: usage.reused_bytes,
        written_bytes: usage.written_bytes,
        processes_peak: usage.processes_peak,
        processes_created: usage.processes_created,
    }
}
