//! What was charged to cases that have no outcome yet, and to discoveries that have not succeeded: written with each charge, read after a restart, dropped at the run's end.

use std::collections::HashMap;

use muster_model::{CaseIndex, Epoch, RunId, TargetIndex};
use muster_proto::v1;
use muster_scheduler::{CaseTries, DiscoveryTries};
use prost::Message;
use rusqlite::{Connection, Row, Transaction, params};

use super::LedgerError;
use super::record::signed;

/// What is charged to a case from now on.
pub(crate) struct TriesRecord {
    pub(crate) run: RunId,
    pub(crate) target: TargetIndex,
    pub(crate) case: CaseIndex,
    pub(crate) tries: CaseTries,
    /// The words of its last failure, if it had any.
    pub(crate) failure: Option<v1::CaseReport>,
}

/// The same, as the ledger has it.
#[derive(Clone, Debug)]
pub(crate) struct TriesRow {
    pub(crate) target: TargetIndex,
    pub(crate) case: CaseIndex,
    pub(crate) tries: CaseTries,
    pub(crate) failure: Option<v1::CaseReport>,
}

/// Writes one; the last word about a case counts.
pub(super) fn write(transaction: &Transaction<'_>, record: &TriesRecord) -> Result<(), LedgerError> {
    let TriesRecord { run, target, case, tries, failure } = record;
    let mut statement = transaction.prepare_cached(
        "INSERT OR REPLACE INTO tries (run, target, case_index, attempts, failed_tries, faults, losses, losses_alone, \
         losses_uncharged, alone, company_epoch, failure) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?;
    statement.execute(params![
        signed(run.0),
        target.0,
        case.0,
        tries.attempts,
        tries.failed_tries,
        tries.faults,
        tries.losses,
        tries.losses_alone,
        tries.losses_uncharged,
        tries.alone,
        signed(tries.failed_in_company.map_or(0, |epoch| epoch.0)),
        failure.as_ref().map(Message::encode_to_vec),
    ])?;
    Ok(())
}

/// Writes what is charged to a discovery from now on; the last word counts.
pub(super) fn write_discovery(
    transaction: &Transaction<'_>,
    run: RunId,
    target: TargetIndex,
    tries: DiscoveryTries,
) -> Result<(), LedgerError> {
    let mut statement = transaction.prepare_cached(
        "INSERT OR REPLACE INTO discovery_tries (run, target, faults, losses_uncharged) VALUES (?1, ?2, ?3, ?4)",
    )?;
    statement.execute(params![signed(run.0), target.0, tries.faults, tries.losses_uncharged])?;
    Ok(())
}

/// What was charged to the discoveries of a run.
pub(crate) fn read_discoveries(
    connection: &Connection,
    run: RunId,
) -> Result<HashMap<TargetIndex, DiscoveryTries>, LedgerError> {
    let mut statement =
        connection.prepare_cached("SELECT target, faults, losses_uncharged FROM discovery_tries WHERE run = ?1")?;
    let rows = statement.query_map([signed(run.0)], |row| {
        Ok((TargetIndex(row.get(0)?), DiscoveryTries { faults: row.get(1)?, losses_uncharged: row.get(2)? }))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What was charged to the cases of a run.
pub(crate) fn read(connection: &Connection, run: RunId) -> Result<Vec<TriesRow>, LedgerError> {
    let mut statement = connection.prepare_cached(
        "SELECT target, case_index, attempts, failed_tries, faults, losses, losses_alone, losses_uncharged, alone, \
         company_epoch, failure FROM tries WHERE run = ?1",
    )?;
    let rows = statement.query_map([signed(run.0)], row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn row(row: &Row<'_>) -> rusqlite::Result<TriesRow> {
    let company: i64 = row.get(9)?;
    let failure: Option<Vec<u8>> = row.get(10)?;
    Ok(TriesRow {
        target: TargetIndex(row.get(0)?),
        case: CaseIndex(row.get(1)?),
        tries: CaseTries {
            attempts: row.get(2)?,
            failed_tries: row.get(3)?,
            faults: row.get(4)?,
            losses: row.get(5)?,
            losses_alone: row.get(6)?,
            losses_uncharged: row.get(7)?,
            alone: row.get(8)?,
            failed_in_company: (company > 0).then(|| Epoch(company.unsigned_abs())),
        },
        // Words guide and decide nothing, so some that can't be read are none.
        failure: failure.and_then(|bytes| v1::CaseReport::decode(bytes.as_slice()).ok()),
    })
}
