//! Counting what a run came to, from its rows and nothing else.

use muster_model::RunId;
use muster_model::outcome::RunOutcome;
use muster_proto::v1;
use prost::Message;
use rusqlite::{Connection, params};

use super::LedgerError;
use super::record::{FinishRecord, signed};

/// Names that one sentence about missing cases lists.
const NAMES_IN_SENTENCE_MAX: usize = 5;

/// The outcomes of a run, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) planned: u32,
    pub(crate) reported: u32,
    /// With those that are cached, flaky or interference.
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
    pub(crate) flaky: u32,
    pub(crate) interference: u32,
    pub(crate) cached: u32,
    pub(crate) executed: u32,
    pub(crate) faults: u32,
    pub(crate) cancelled: u32,
    /// What does not add up, one sentence each.
    pub(crate) broken: Vec<String>,
}

impl Tally {
    /// Writes the counts into a summary.
    pub(crate) fn write_into(&self, summary: &mut v1::RunSummary) {
        summary.planned = self.planned;
        summary.passed = self.passed;
        summary.failed = self.failed;
        summary.skipped = self.skipped;
        summary.flaky = self.flaky;
        summary.interference = self.interference;
        summary.cached = self.cached;
        summary.executed = self.executed;
        summary.faults = self.faults;
        summary.cancelled = self.cancelled;
    }

    fn count(&mut self, outcome: &str, cached: bool, executed: bool, cases: u32) {
        match outcome {
            "passed" => self.passed += cases,
            "flaky" => {
                self.passed += cases;
                self.flaky += cases;
            }
            "interference" => {
                self.passed += cases;
                self.interference += cases;
            }
            "skipped" => self.skipped += cases,
            "fault" => self.faults += cases,
            "cancelled" => self.cancelled += cases,
            _ => self.failed += cases,
        }
        self.reported += cases;
        self.cached += if cached { cases } else { 0 };
        self.executed += if executed { cases } else { 0 };
    }
}

/// Counts a run.
pub(crate) fn tally(connection: &Connection, run: RunId) -> Result<Tally, LedgerError> {
    let mut tally = Tally::default();
    let mut statement = connection.prepare_cached(
        "SELECT outcome, cached, attempts > 0, count(*) FROM outcomes WHERE run = ?1 GROUP BY 1, 2, 3",
    )?;
    let mut rows = statement.query([signed(run.0)])?;
    while let Some(row) = rows.next()? {
        tally.count(&row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    }
    let mut statement = connection.prepare_cached(
        "SELECT target, planned, (SELECT count(*) FROM outcomes WHERE outcomes.run = targets.run \
         AND outcomes.target = targets.target AND case_index < planned) FROM targets WHERE run = ?1 ORDER BY target",
    )?;
    let mut rows = statement.query([signed(run.0)])?;
    let mut in_plan = 0;
    while let Some(row) = rows.next()? {
        let (target, planned, reported): (u32, Option<u32>, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let planned = planned.unwrap_or(0);
        tally.planned += planned;
        in_plan += reported;
        if reported < planned {
            tally.broken.push(missing(connection, run, target, planned - reported)?);
        }
    }
    if tally.reported > in_plan {
        tally.broken.push(format!("{} outcomes belong to no planned case", tally.reported - in_plan));
    }
    let refused: u32 =
        connection.query_row("SELECT refused FROM runs WHERE run = ?1", [signed(run.0)], |row| row.get(0))?;
    if refused > 0 {
        tally.broken.push(format!("{refused} cases were decided twice, differently; the first outcome stands"));
    }
    Ok(tally)
}

fn missing(connection: &Connection, run: RunId, target: u32, count: u32) -> Result<String, LedgerError> {
    let spec: Vec<u8> =
        connection.query_row("SELECT spec FROM runs WHERE run = ?1", [signed(run.0)], |row| row.get(0))?;
    let spec = v1::RunSpec::decode(spec.as_slice()).map_err(|_| LedgerError::Damaged("run"))?;
    let target_name = spec.targets.get(target as usize).map_or("?", |spec| spec.name.as_str());
    let names: Option<Vec<u8>> = connection.query_row(
        "SELECT names FROM targets WHERE run = ?1 AND target = ?2",
        params![signed(run.0), target],
        |row| row.get(0),
    )?;
    let names =
        v1::Discovered::decode(names.unwrap_or_default().as_slice()).map_err(|_| LedgerError::Damaged("target"))?;
    let mut statement =
        connection.prepare_cached("SELECT 1 FROM outcomes WHERE run = ?1 AND target = ?2 AND case_index = ?3")?;
    let mut listed = Vec::new();
    for (case, name) in names.names.iter().enumerate() {
        if listed.len() == NAMES_IN_SENTENCE_MAX {
            listed.push("…");
            break;
        }
        if !statement.exists(params![signed(run.0), target, case as u64 as i64])? {
            listed.push(name);
        }
    }
    Ok(format!("{count} planned cases of {target_name} were never reported: {}", listed.join(", ")))
}

/// What a run comes to, and the event that says so.
pub(super) struct Conclusion {
    pub(super) outcome: RunOutcome,
    pub(super) event: v1::RunEvent,
}

/// Checks once more, against the rows, that every planned case is reported exactly once; whatever the scheduler thought, a run whose rows do not
/// add up is the fleet's fault.
pub(super) fn conclude(connection: &Connection, finish: &FinishRecord) -> Result<Conclusion, LedgerError> {
    let tally = tally(connection, finish.run)?;
    let mut broken = tally.broken.clone();
    if (finish.planned, finish.reported) != (tally.planned, tally.reported) {
        broken.push(format!(
            "the scheduler counted {} planned and {} reported cases, the ledger {} and {}",
            finish.planned, finish.reported, tally.planned, tally.reported
        ));
    }
    let outcome = if broken.is_empty() { finish.outcome } else { RunOutcome::Fault };
    let (project, started_unix_ms): (String, i64) = connection.query_row(
        "SELECT project, started_unix_ms FROM runs WHERE run = ?1",
        [signed(finish.run.0)],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )?;
    let mut summary = v1::RunSummary {
        run: finish.run.0,
        project,
        outcome: outcome.name().into(),
        started_unix_ms,
        wall_ms: finish.wall_ms,
        ..v1::RunSummary::default()
    };
    tally.write_into(&mut summary);
    let finished = v1::RunFinished {
        summary: Some(summary),
        efficiency: Some(finish.efficiency),
        faults: finish.faults.iter().cloned().chain(broken).collect(),
    };
    let event = v1::RunEvent {
        sequence: finish.sequence,
        at_unix_ms: finish.at_unix_ms,
        event: Some(v1::run_event::Event::RunFinished(finished)),
    };
    Ok(Conclusion { outcome, event })
}
