//! What can be written, and how each record is.

use muster_model::attempt::Work;
use muster_model::attempt::{Timings, Usage};
use muster_model::outcome::{CaseOutcome, RunOutcome};
use muster_model::{AgentId, CaseIndex, Epoch, RunId, TargetIndex, limits};
use muster_proto::v1;
use muster_scheduler::DiscoveryTries;
use prost::Message;
use rusqlite::{OptionalExtension, Transaction, params};
use tokio::sync::oneshot;

use super::tally::{Conclusion, conclude};
use super::tries::{self, TriesRecord};
use super::{LedgerError, open, outcome};
use crate::history::{CaseHistory, TargetHash};

/// Something to be made durable.
pub(crate) enum Record {
    /// A run is accepted, unless its token is known.
    Run(Box<RunRecord>, oneshot::Sender<RunAccepted>),
    /// Somebody cancelled a run.
    Cancelled(RunId),
    /// A target's discovery was accepted.
    Discovered { run: RunId, target: TargetIndex, discovered: Vec<u8> },
    /// Filters were applied: these cases will be reported.
    Planned { run: RunId, target: TargetIndex, planned: u32, names: Vec<u8> },
    /// Watchers were told the plan of the whole run.
    Announced(RunId),
    /// A lease is given.
    Lease(Box<LeaseRecord>),
    /// A lease is closed.
    AttemptEnded(Box<AttemptEndRecord>),
    /// A report came under an epoch that was not open.
    Fenced { epoch: Epoch, agent: AgentId, received_unix_ms: i64, result: &'static str },
    /// Something that watchers are told.
    Event { run: RunId, sequence: u64, event: Vec<u8> },
    /// A case is decided: compare-and-set. Watchers are told with it.
    Outcome(Box<OutcomeRecord>),
    /// What is charged to a case that has no outcome yet.
    Tries(Box<TriesRecord>),
    /// What is charged to a discovery that has not succeeded.
    DiscoveryTries { run: RunId, target: TargetIndex, tries: DiscoveryTries },
    /// What was learned about a case.
    History(Box<HistoryRecord>),
    /// A run is over. The answer is the event that says so.
    Finish(Box<FinishRecord>, oneshot::Sender<v1::RunEvent>),
    /// Counters of the cache, by name.
    Counters(Vec<(String, u64)>),
    /// A name is given to an image (an encoded muster.v1.Image), or taken away.
    Image { name: String, image: Option<Vec<u8>> },
    /// Epochs below this one are drawn without a record of their own.
    EpochsReserved(Epoch),
    /// Records of which all are durable or none is.
    Together(Vec<Record>),
}

/// A run as it is accepted.
pub(crate) struct RunRecord {
    pub(crate) token: String,
    pub(crate) project: String,
    pub(crate) spec: Vec<u8>,
    pub(crate) targets: u32,
    pub(crate) started_unix_ms: i64,
}

/// The answer to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunAccepted {
    pub(crate) run: RunId,
    /// Whether this submission made it.
    pub(crate) is_new: bool,
}

/// A lease as it is given.
pub(crate) struct LeaseRecord {
    pub(crate) epoch: Epoch,
    pub(crate) agent: AgentId,
    pub(crate) agent_name: String,
    pub(crate) run: RunId,
    pub(crate) target: TargetIndex,
    pub(crate) work: Work,
    /// The groups that it is in.
    pub(crate) exclusive: Vec<String>,
    pub(crate) queued_unix_ms: i64,
    pub(crate) assigned_unix_ms: i64,
}

/// A lease as it is closed.
pub(crate) struct AttemptEndRecord {
    pub(crate) epoch: Epoch,
    pub(crate) finished_unix_ms: i64,
    pub(crate) result: &'static str,
    pub(crate) timings: Timings,
    pub(crate) usage: Usage,
}

/// A case as it is decided, and what is told of it: both are durable or neither is, so that no case is told of twice.
pub(crate) struct OutcomeRecord {
    pub(crate) run: RunId,
    pub(crate) target: TargetIndex,
    pub(crate) case: CaseIndex,
    pub(crate) outcome: CaseOutcome,
    pub(crate) cached: bool,
    pub(crate) attempts: u32,
    pub(crate) duration_us: u64,
    pub(crate) epoch: Option<Epoch>,
    /// The number of the event.
    pub(crate) sequence: u64,
    /// The event, encoded.
    pub(crate) event: Vec<u8>,
}

/// What history keeps of a case from now on.
pub(crate) struct HistoryRecord {
    pub(crate) target: TargetHash,
    pub(crate) case_name: String,
    pub(crate) history: CaseHistory,
    pub(crate) run: RunId,
}

/// A run as it ends.
pub(crate) struct FinishRecord {
    pub(crate) run: RunId,
    pub(crate) outcome: RunOutcome,
    /// What the scheduler says was planned and reported; checked against the rows.
    pub(crate) planned: u32,
    pub(crate) reported: u32,
    pub(crate) efficiency: v1::Efficiency,
    /// What is known to be wrong already, one sentence each.
    pub(crate) faults: Vec<String>,
    pub(crate) sequence: u64,
    pub(crate) at_unix_ms: i64,
    pub(crate) wall_ms: u64,
}

/// An answer that may be given once the transaction is durable.
pub(super) enum Reply {
    Run(oneshot::Sender<RunAccepted>, RunAccepted),
    Finish(oneshot::Sender<v1::RunEvent>, Box<v1::RunEvent>),
}

impl Reply {
    /// Answers; a question nobody waits for any more is none.
    pub(super) fn send(self) {
        match self {
            Self::Run(sender, accepted) => drop(sender.send(accepted)),
            Self::Finish(sender, event) => drop(sender.send(*event)),
        }
    }
}

/// SQLite's integers are signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Agents' identities use all 64 bits: their bits are kept, not their value.
pub(super) fn bits(agent: AgentId) -> i64 {
    i64::from_ne_bytes(agent.0.to_ne_bytes())
}

impl Record {
    /// Writes it. What may be answered once that is durable is added to `replies`.
    pub(super) fn apply(self, transaction: &Transaction<'_>, replies: &mut Vec<Reply>) -> Result<(), LedgerError> {
        match self {
            Self::Run(run, reply) => replies.push(Reply::Run(reply, accept(transaction, &run)?)),
            Self::Finish(finish, reply) => {
                let event = close(transaction, *finish)?;
                replies.push(Reply::Finish(reply, Box::new(event)));
            }
            Self::Together(records) => {
                for record in records {
                    record.apply(transaction, replies)?;
                }
            }
            Self::Cancelled(run) => update(transaction, "UPDATE runs SET cancelled = 1 WHERE run = ?1", run)?,
            Self::Announced(run) => update(transaction, "UPDATE runs SET announced = 1 WHERE run = ?1", run)?,
            Self::Discovered { run, target, discovered } => {
                let mut statement =
                    transaction.prepare_cached("UPDATE targets SET discovered = ?3 WHERE run = ?1 AND target = ?2")?;
                statement.execute(params![signed(run.0), target.0, discovered])?;
            }
            Self::Planned { run, target, planned, names } => {
                let mut statement = transaction
                    .prepare_cached("UPDATE targets SET planned = ?3, names = ?4 WHERE run = ?1 AND target = ?2")?;
                statement.execute(params![signed(run.0), target.0, planned, names])?;
            }
            Self::Lease(lease) => write_lease(transaction, &lease)?,
            Self::AttemptEnded(end) => write_end(transaction, &end)?,
            Self::Fenced { epoch, agent, received_unix_ms, result } => {
                let row = params![signed(epoch.0), bits(agent), received_unix_ms, result];
                let mut statement = transaction.prepare_cached(
                    "INSERT INTO fenced (epoch, agent, received_unix_ms, result) VALUES (?1, ?2, ?3, ?4)",
                )?;
                statement.execute(row)?;
            }
            Self::Event { run, sequence, event } => write_event(transaction, run, sequence, &event)?,
            Self::Outcome(decided) => decide(transaction, &decided)?,
            Self::Tries(record) => tries::write(transaction, &record)?,
            Self::DiscoveryTries { run, target, tries } => tries::write_discovery(transaction, run, target, tries)?,
            Self::History(learned) => learn(transaction, &learned)?,
            Self::EpochsReserved(below) => raise_epoch(transaction, Epoch(below.0.saturating_sub(1)))?,
            Self::Image { name, image: Some(image) } => {
                let mut statement = transaction.prepare_cached(
                    "INSERT INTO images (name, image) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET image = excluded.image",
                )?;
                statement.execute((name, image))?;
            }
            Self::Image { name, image: None } => {
                transaction.prepare_cached("DELETE FROM images WHERE name = ?1")?.execute([name])?;
            }
            Self::Counters(counters) => {
                for (name, count) in counters {
                    open::set_counter(transaction, &name, count)?;
                }
            }
        }
        Ok(())
    }
}

fn update(transaction: &Transaction<'_>, statement: &str, run: RunId) -> Result<(), LedgerError> {
    transaction.prepare_cached(statement)?.execute([signed(run.0)])?;
    Ok(())
}

fn accept(transaction: &Transaction<'_>, run: &RunRecord) -> Result<RunAccepted, LedgerError> {
    let known: Option<i64> =
        transaction.query_row("SELECT run FROM runs WHERE token = ?1", [&run.token], |row| row.get(0)).optional()?;
    if let Some(known) = known {
        return Ok(RunAccepted { run: RunId(known.unsigned_abs()), is_new: false });
    }
    transaction.execute(
        "INSERT INTO runs (token, project, spec, state, started_unix_ms) VALUES (?1, ?2, ?3, 'running', ?4)",
        params![run.token, run.project, run.spec, run.started_unix_ms],
    )?;
    let number = transaction.last_insert_rowid();
    let mut statement = transaction.prepare_cached("INSERT INTO targets (run, target) VALUES (?1, ?2)")?;
    for target in 0..run.targets {
        statement.execute((number, target))?;
    }
    Ok(RunAccepted { run: RunId(number.unsigned_abs()), is_new: true })
}

fn write_lease(transaction: &Transaction<'_>, lease: &LeaseRecord) -> Result<(), LedgerError> {
    let (discover, alone, cases) = match &lease.work {
        Work::Discover => (true, false, Vec::new()),
        // An action's lease is not recorded.
        Work::Action => (false, true, Vec::new()),
        Work::Cases { cases, alone } => (false, *alone, cases.iter().flat_map(|case| case.0.to_le_bytes()).collect()),
    };
    let mut statement = transaction.prepare_cached(
        "INSERT INTO attempts (epoch, run, target, agent, agent_name, discover, alone, cases, queued_unix_ms, \
         assigned_unix_ms, exclusive) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    statement.execute(params![
        signed(lease.epoch.0),
        signed(lease.run.0),
        lease.target.0,
        bits(lease.agent),
        lease.agent_name,
        discover,
        alone,
        cases,
        lease.queued_unix_ms,
        lease.assigned_unix_ms,
        lease.exclusive.iter().flat_map(|group| [b"\0", group.as_bytes()].concat()).collect::<Vec<u8>>(),
    ])?;
    raise_epoch(transaction, lease.epoch)
}

/// Makes sure that no epoch up to this one is drawn after a restart.
fn raise_epoch(transaction: &Transaction<'_>, epoch: Epoch) -> Result<(), LedgerError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO counters (name, count) VALUES (?1, ?2) \
         ON CONFLICT (name) DO UPDATE SET count = max(count, excluded.count)",
    )?;
    statement.execute((open::EPOCH_HIGHEST, signed(epoch.0)))?;
    Ok(())
}

fn write_end(transaction: &Transaction<'_>, end: &AttemptEndRecord) -> Result<(), LedgerError> {
    let micros = |duration: std::time::Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    // Only an open lease can be closed: what closed it first stays.
    let mut statement = transaction.prepare_cached(
        "UPDATE attempts SET open = 0, finished_unix_ms = ?2, result = ?3, waited_us = ?4, transfer_us = ?5, \
         environment_us = ?6, execution_us = ?7, memory_peak_bytes = ?8, cpu_us = ?9, fetched_bytes = ?10, \
         reused_bytes = ?11, written_bytes = ?12, processes_peak = ?13, processes_created = ?14 WHERE epoch = ?1 AND open = 1",
    )?;
    statement.execute(params![
        signed(end.epoch.0),
        end.finished_unix_ms,
        end.result,
        micros(end.timings.waited),
        micros(end.timings.transfer),
        micros(end.timings.environment),
        micros(end.timings.execution),
        signed(end.usage.memory_peak_bytes),
        micros(end.usage.cpu),
        signed(end.usage.fetched_bytes),
        signed(end.usage.reused_bytes),
        signed(end.usage.written_bytes),
        end.usage.processes_peak,
        signed(end.usage.processes_created),
    ])?;
    Ok(())
}

fn write_event(transaction: &Transaction<'_>, run: RunId, sequence: u64, event: &[u8]) -> Result<(), LedgerError> {
    let mut statement = transaction.prepare_cached("INSERT INTO events (run, sequence, event) VALUES (?1, ?2, ?3)")?;
    statement.execute(params![signed(run.0), signed(sequence), event])?;
    Ok(())
}

/// The compare-and-set: the first outcome of a case stays. The same again changes nothing; another one is counted as refused, which
/// makes the whole run a fault.
fn decide(transaction: &Transaction<'_>, decided: &OutcomeRecord) -> Result<(), LedgerError> {
    write_event(transaction, decided.run, decided.sequence, &decided.event)?;
    let (name, detail) = (decided.outcome.name(), outcome::detail(decided.outcome));
    let mut statement = transaction.prepare_cached(
        "INSERT INTO outcomes (run, target, case_index, outcome, detail, cached, attempts, duration_us, epoch, sequence) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (run, target, case_index) DO NOTHING",
    )?;
    let inserted = statement.execute(params![
        signed(decided.run.0),
        decided.target.0,
        decided.case.0,
        name,
        detail,
        decided.cached,
        decided.attempts,
        signed(decided.duration_us),
        signed(decided.epoch.map_or(0, |epoch| epoch.0)),
        signed(decided.sequence),
    ])?;
    if inserted == 1 {
        return Ok(());
    }
    let mut statement = transaction.prepare_cached(
        "UPDATE runs SET refused = refused + 1 WHERE run = ?1 AND NOT EXISTS (SELECT 1 FROM outcomes \
         WHERE run = ?1 AND target = ?2 AND case_index = ?3 AND outcome = ?4 AND detail = ?5)",
    )?;
    statement.execute(params![signed(decided.run.0), decided.target.0, decided.case.0, name, detail])?;
    Ok(())
}

fn learn(transaction: &Transaction<'_>, learned: &HistoryRecord) -> Result<(), LedgerError> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO history (target_hash, case_name, durations, failed_last, needs_alone, last_run) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (target_hash, case_name) DO UPDATE SET \
         durations = excluded.durations, failed_last = excluded.failed_last, needs_alone = excluded.needs_alone, \
         last_run = excluded.last_run",
    )?;
    statement.execute(params![
        learned.target.0,
        learned.case_name,
        learned.history.durations_to_bytes(),
        learned.history.failed_last,
        learned.history.needs_alone,
        signed(learned.run.0),
    ])?;
    Ok(())
}

fn close(transaction: &Transaction<'_>, finish: FinishRecord) -> Result<v1::RunEvent, LedgerError> {
    let run = signed(finish.run.0);
    let Conclusion { outcome, event } = conclude(transaction, &finish)?;
    transaction.execute(
        "UPDATE runs SET state = ?2, wall_ms = ?3, efficiency = ?4 WHERE run = ?1",
        params![run, outcome.name(), signed(finish.wall_ms), finish.efficiency.encode_to_vec()],
    )?;
    transaction.execute(
        "UPDATE attempts SET open = 0, result = 'withdrawn', finished_unix_ms = ?2 WHERE run = ?1 AND open = 1",
        params![run, finish.at_unix_ms],
    )?;
    transaction.execute("DELETE FROM tries WHERE run = ?1", [run])?;
    transaction.execute("DELETE FROM discovery_tries WHERE run = ?1", [run])?;
    write_event(transaction, finish.run, finish.sequence, &event.encode_to_vec())?;
    forget_old_runs(transaction, finish.run)?;
    Ok(event)
}

fn forget_old_runs(transaction: &Transaction<'_>, newest: RunId) -> Result<(), LedgerError> {
    let last = signed(newest.0.saturating_sub(limits::RUNS_KEPT_MAX));
    let mut statement = transaction.prepare_cached("SELECT run FROM runs WHERE run <= ?1 AND state <> 'running'")?;
    let old: Vec<i64> = statement.query_map([last], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for run in old {
        for table in ["events", "outcomes", "attempts", "targets", "runs"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE run = ?1"), [run])?;
        }
    }
    transaction.execute(
        "DELETE FROM fenced WHERE evidence <= (SELECT max(evidence) FROM fenced) - ?1",
        [signed(limits::FENCED_REPORTS_KEPT_MAX)],
    )?;
    Ok(())
}
