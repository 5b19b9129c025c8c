//! Questions to the ledger.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_model::attempt::{Usage, Work};
use muster_model::outcome::{CaseOutcome, FaultKind};
use muster_model::{AgentId, CaseIndex, Epoch, RunId, TargetIndex, limits};
use muster_proto::v1;
use prost::Message;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::record::signed;
use super::{LedgerError, open, outcome};
use crate::history::{CaseHistory, TargetHash};

/// Connections for reading: writers never block them, nor they a writer.
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// Reading connections that are kept open.
const IDLE_READERS_MAX: usize = 4;

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()) }
    }

    pub(super) fn with<T>(
        &self,
        question: impl FnOnce(&Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = Connection::open(&self.path)?;
                open::configure(&connection)?;
                connection.pragma_update(None, "query_only", true)?;
                connection
            }
        };
        let answer = question(&connection)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_READERS_MAX {
            idle.push(connection);
        }
        Ok(answer)
    }
}

/// A run as the ledger has it.
#[derive(Clone, Debug)]
pub(crate) struct RunRow {
    pub(crate) run: RunId,
    pub(crate) project: String,
    pub(crate) state: String,
    pub(crate) started_unix_ms: i64,
    pub(crate) wall_ms: u64,
    pub(crate) efficiency: Option<v1::Efficiency>,
}

impl RunRow {
    /// Whether it still runs.
    pub(crate) fn is_open(&self) -> bool {
        self.state == "running"
    }
}

/// A run that was open when the coordinator stopped.
#[derive(Clone, Debug)]
pub(crate) struct OpenRunRow {
    pub(crate) run: RunId,
    pub(crate) spec: v1::RunSpec,
    pub(crate) started_unix_ms: i64,
    pub(crate) announced: bool,
    pub(crate) cancelled: bool,
    /// The highest sequence number of its events.
    pub(crate) last_sequence: u64,
    pub(crate) targets: Vec<TargetRow>,
}

/// A target of such a run.
#[derive(Clone, Debug)]
pub(crate) struct TargetRow {
    pub(crate) discovered: Option<v1::Discovered>,
    /// The names of the planned cases.
    pub(crate) planned: Option<v1::Discovered>,
    pub(crate) outcomes: Vec<(CaseIndex, CaseOutcome)>,
}

/// An attempt.
#[derive(Clone, Debug)]
pub(crate) struct AttemptRow {
    pub(crate) epoch: Epoch,
    pub(crate) target: TargetIndex,
    pub(crate) agent: AgentId,
    pub(crate) agent_name: String,
    pub(crate) work: Work,
    pub(crate) is_open: bool,
    pub(crate) queued_unix_ms: i64,
    pub(crate) assigned_unix_ms: i64,
    pub(crate) finished_unix_ms: Option<i64>,
    pub(crate) result: String,
    pub(crate) waited_us: u64,
    pub(crate) transfer_us: u64,
    pub(crate) environment_us: u64,
    pub(crate) execution_us: u64,
    pub(crate) usage: Usage,
}

const RUN_COLUMNS: &str = "SELECT run, project, state, started_unix_ms, wall_ms, efficiency FROM runs";

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let efficiency: Option<Vec<u8>> = row.get(5)?;
    Ok(RunRow {
        run: RunId(row.get::<_, i64>(0)?.unsigned_abs()),
        project: row.get(1)?,
        state: row.get(2)?,
        started_unix_ms: row.get(3)?,
        wall_ms: row.get::<_, i64>(4)?.unsigned_abs(),
        // It guides and decides nothing, so one that can't be read is none.
        efficiency: efficiency.and_then(|bytes| v1::Efficiency::decode(bytes.as_slice()).ok()),
    })
}

/// The newest runs.
pub(crate) fn runs(connection: &Connection, limit: usize) -> Result<Vec<RunRow>, LedgerError> {
    let mut statement = connection.prepare_cached(&format!("{RUN_COLUMNS} ORDER BY run DESC LIMIT ?1"))?;
    let rows = statement.query_map([signed(limit as u64)], run_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One run; none when it is not known.
pub(crate) fn run(connection: &Connection, run: RunId) -> Result<Option<RunRow>, LedgerError> {
    let mut statement = connection.prepare_cached(&format!("{RUN_COLUMNS} WHERE run = ?1"))?;
    Ok(statement.query_row([signed(run.0)], run_row).optional()?)
}

/// The run that was submitted with a token.
pub(crate) fn run_of_token(connection: &Connection, token: &str) -> Result<Option<RunId>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT run FROM runs WHERE token = ?1")?;
    let run: Option<i64> = statement.query_row([token], |row| row.get(0)).optional()?;
    Ok(run.map(|run| RunId(run.unsigned_abs())))
}

/// The newest run.
pub(crate) fn newest_run(connection: &Connection) -> Result<Option<RunId>, LedgerError> {
    let newest: Option<i64> = connection.query_row("SELECT max(run) FROM runs", [], |row| row.get(0))?;
    Ok(newest.map(|run| RunId(run.unsigned_abs())))
}

/// The events that told of a run's outcomes, those that did not pass first, then in order of target and case, as long as they fit
/// into `bytes_max`.
pub(crate) fn outcomes(
    connection: &Connection,
    run: RunId,
    bytes_max: usize,
) -> Result<Vec<v1::CaseFinished>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT event FROM outcomes JOIN events USING (run, sequence) WHERE run = ?1 \
         ORDER BY outcome IN ('passed', 'skipped'), target, case_index",
    )?;
    let mut rows = statement.query([signed(run.0)])?;
    let (mut cases, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let encoded = row.get_ref(0)?.as_blob().map_err(|_| LedgerError::Damaged("event"))?;
        let event = v1::RunEvent::decode(encoded).map_err(|_| LedgerError::Damaged("event"))?;
        if let Some(v1::run_event::Event::CaseFinished(case)) = event.event {
            bytes += case.encoded_len();
            if bytes > bytes_max {
                break;
            }
            cases.push(case);
        }
    }
    Ok(cases)
}

/// The specification of a run, with pinned bases.
pub(crate) fn spec(connection: &Connection, run: RunId) -> Result<v1::RunSpec, LedgerError> {
    let bytes: Vec<u8> =
        connection.query_row("SELECT spec FROM runs WHERE run = ?1", [signed(run.0)], |row| row.get(0))?;
    v1::RunSpec::decode(bytes.as_slice()).map_err(|_| LedgerError::Damaged("run"))
}

/// How many cases each target of a run has planned.
pub(crate) fn planned(connection: &Connection, run: RunId) -> Result<Vec<u32>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT planned FROM targets WHERE run = ?1 ORDER BY target")?;
    let rows = statement.query_map([signed(run.0)], |row| Ok(row.get::<_, Option<u32>>(0)?.unwrap_or(0)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many runs are open.
pub(crate) fn open_run_count(connection: &Connection) -> Result<usize, LedgerError> {
    let count: i64 = connection.query_row("SELECT count(*) FROM runs WHERE state = 'running'", [], |row| row.get(0))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// A page of a run's events from a sequence number on, bounded in number and, but for the first, in bytes.
pub(crate) fn events(connection: &Connection, run: RunId, from: u64) -> Result<Vec<v1::RunEvent>, LedgerError> {
    let mut statement = connection
        .prepare_cached("SELECT event FROM events WHERE run = ?1 AND sequence >= ?2 ORDER BY sequence LIMIT ?3")?;
    let mut rows =
        statement.query(params![signed(run.0), signed(from), signed(limits::WATCH_PAGE_EVENTS_MAX as u64)])?;
    let mut events = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let encoded = row.get_ref(0)?.as_blob().map_err(|_| LedgerError::Damaged("event"))?;
        bytes += encoded.len();
        if bytes > limits::WATCH_PAGE_BYTES_MAX && !events.is_empty() {
            break;
        }
        events.push(v1::RunEvent::decode(encoded).map_err(|_| LedgerError::Damaged("event"))?);
    }
    Ok(events)
}

/// The attempts of a run, or only those that are leases.
pub(crate) fn attempts(connection: &Connection, run: RunId) -> Result<Vec<AttemptRow>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT epoch, target, agent, agent_name, discover, alone, cases, open, queued_unix_ms, assigned_unix_ms, \
         finished_unix_ms, result, waited_us, transfer_us, environment_us, execution_us, memory_peak_bytes, cpu_us, \
         fetched_bytes, reused_bytes, written_bytes, processes_peak, processes_created FROM attempts WHERE run = ?1 ORDER BY epoch",
    )?;
    let rows = statement.query_map([signed(run.0)], attempt_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn attempt_row(row: &Row<'_>) -> rusqlite::Result<AttemptRow> {
    let unsigned = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    let cases: Vec<u8> = row.get(6)?;
    let work = if row.get(4)? {
        Work::Discover
    } else {
        let cases = cases.as_chunks::<4>().0.iter().map(|bytes| CaseIndex(u32::from_le_bytes(*bytes))).collect();
        Work::Cases { cases, alone: row.get(5)? }
    };
    Ok(AttemptRow {
        epoch: Epoch(unsigned(0)?),
        target: TargetIndex(row.get(1)?),
        agent: AgentId(u64::from_ne_bytes(row.get::<_, i64>(2)?.to_ne_bytes())),
        agent_name: row.get(3)?,
        work,
        is_open: row.get(7)?,
        queued_unix_ms: row.get(8)?,
        assigned_unix_ms: row.get(9)?,
        finished_unix_ms: row.get(10)?,
        result: row.get(11)?,
        waited_us: unsigned(12)?,
        transfer_us: unsigned(13)?,
        environment_us: unsigned(14)?,
        execution_us: unsigned(15)?,
        usage: Usage {
            memory_peak_bytes: unsigned(16)?,
            cpu: Duration::from_micros(unsigned(17)?),
            fetched_bytes: unsigned(18)?,
            reused_bytes: unsigned(19)?,
            written_bytes: unsigned(20)?,
            processes_peak: row.get(21)?,
            processes_created: unsigned(22)?,
        },
    })
}

/// An attempt that was withdrawn or lost, with the groups that it was in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VacatingRow {
    pub(crate) epoch: Epoch,
    pub(crate) agent: AgentId,
    pub(crate) exclusive: Vec<String>,
}

/// The attempts in exclusive groups that were withdrawn or lost since a time, so that they may not have ended yet.
pub(crate) fn vacating(connection: &Connection, since_unix_ms: i64) -> Result<Vec<VacatingRow>, LedgerError> {
    let mut statement = connection.prepare(
        "SELECT epoch, agent, exclusive FROM attempts WHERE open = 0 AND exclusive <> x'' AND finished_unix_ms >= ?1 \
         AND result IN ('withdrawn', ?2) ORDER BY epoch",
    )?;
    let rows = statement.query_map(params![since_unix_ms, FaultKind::AgentLost.name()], |row| {
        let exclusive: Vec<u8> = row.get(2)?;
        let groups = exclusive.split(|byte| *byte == 0).skip(1);
        Ok(VacatingRow {
            epoch: Epoch(row.get::<_, i64>(0)?.unsigned_abs()),
            agent: AgentId(u64::from_ne_bytes(row.get::<_, i64>(1)?.to_ne_bytes())),
            exclusive: groups.map(|group| String::from_utf8_lossy(group).into_owned()).collect(),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every run that is open.
pub(crate) fn open_runs(connection: &Connection) -> Result<Vec<OpenRunRow>, LedgerError> {
    let mut statement = connection.prepare(
        "SELECT run, started_unix_ms, announced, cancelled, \
         (SELECT coalesce(max(sequence), 0) FROM events WHERE events.run = runs.run) \
         FROM runs WHERE state = 'running' ORDER BY run",
    )?;
    let rows = statement.query_map([], |row| {
        let run = RunId(row.get::<_, i64>(0)?.unsigned_abs());
        Ok((run, row.get(1)?, row.get(2)?, row.get(3)?, row.get::<_, i64>(4)?.unsigned_abs()))
    })?;
    let mut runs = Vec::new();
    for row in rows {
        let (run, started_unix_ms, announced, cancelled, last_sequence) = row?;
        let (spec, targets) = (spec(connection, run)?, targets(connection, run)?);
        runs.push(OpenRunRow { run, spec, started_unix_ms, announced, cancelled, last_sequence, targets });
    }
    Ok(runs)
}

fn targets(connection: &Connection, run: RunId) -> Result<Vec<TargetRow>, LedgerError> {
    let decode = |bytes: Option<Vec<u8>>| {
        bytes
            .map(|bytes| v1::Discovered::decode(bytes.as_slice()).map_err(|_| LedgerError::Damaged("target")))
            .transpose()
    };
    let mut targets = Vec::new();
    let mut statement =
        connection.prepare_cached("SELECT discovered, names FROM targets WHERE run = ?1 ORDER BY target")?;
    let mut rows = statement.query([signed(run.0)])?;
    while let Some(row) = rows.next()? {
        let (discovered, planned) = (decode(row.get(0)?)?, decode(row.get(1)?)?);
        targets.push(TargetRow { discovered, planned, outcomes: Vec::new() });
    }
    let mut statement =
        connection.prepare_cached("SELECT target, case_index, outcome, detail FROM outcomes WHERE run = ?1")?;
    let mut rows = statement.query([signed(run.0)])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(2)?;
        let decided = outcome::parse(&name, row.get(3)?).ok_or(LedgerError::Damaged("outcome"))?;
        let target = targets.get_mut(row.get::<_, u32>(0)? as usize).ok_or(LedgerError::Damaged("outcome"))?;
        target.outcomes.push((CaseIndex(row.get(1)?), decided));
    }
    Ok(targets)
}

/// What is remembered of a target's cases, by name.
pub(crate) fn history(
    connection: &Connection,
    target: TargetHash,
) -> Result<HashMap<String, CaseHistory>, LedgerError> {
    let mut statement = connection
        .prepare_cached("SELECT case_name, durations, failed_last, needs_alone FROM history WHERE target_hash = ?1")?;
    let rows = statement.query_map([target.0], |row| {
        let durations: Vec<u8> = row.get(1)?;
        Ok((row.get(0)?, CaseHistory::from_row(&durations, row.get(2)?, row.get(3)?)))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Images that have names, sorted by them.
pub(crate) fn images(connection: &Connection) -> Result<Vec<v1::Image>, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT image FROM images ORDER BY name")?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|image| v1::Image::decode(image?.as_slice()).map_err(|_| LedgerError::Damaged("images"))).collect()
}

/// The value of a counter; 0 when it was never set.
pub(crate) fn counter(connection: &Connection, name: &str) -> Result<u64, LedgerError> {
    open::counter(connection, name)
}
