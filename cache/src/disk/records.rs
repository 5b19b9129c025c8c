//! The action cache's half of the index: a record dies with the first blob it points at, in the same transaction.

use std::time::Instant;

use muster_model::Digest;
use muster_model::key::ActionKey;
use muster_model::limits::{DIVERGENT_RESULTS_MAX, DIVERGENT_RESULTS_PER_ACTION_MAX};
use rusqlite::{OptionalExtension, Row, params};

use super::eviction::Candidate;
use super::index::{ENTRY_BYTES, Entry, Index, digest_from, function_number};
use super::{is_empty, listing};
use crate::{ActionRecord, DivergentRecord, Recorded, StoreError};

/// Bytes of one packed digest: the function's number, the hash, the size with its lowest byte first.
const PACKED_DIGEST_BYTES: usize = 1 + 32 + 8;

/// A record's row: its id, payload, outcome and proof.
type StoredColumns = (i64, Vec<u8>, Vec<u8>, Vec<u8>);

impl Index {
    /// One record; it and what it points at count as used, and the latter stays for the lease time.
    pub(super) fn record(&mut self, key: &ActionKey) -> Result<Option<ActionRecord>, StoreError> {
        let Some((id, record)) = self.stored_record(key)? else { return Ok(None) };
        self.touch(Entry::Record(id));
        for digest in &record.references {
            self.confirm(digest)?;
        }
        Ok(Some(record))
    }

    /// One record as it is stored; one that does not verify goes.
    fn stored_record(&mut self, key: &ActionKey) -> Result<Option<(i64, ActionRecord)>, StoreError> {
        let found: Option<StoredColumns> = self
            .connection
            .prepare_cached("SELECT id, payload, outcome, proof FROM records WHERE key = ?")?
            .query_row([key.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        let Some((id, payload, outcome, proof)) = found else { return Ok(None) };
        let references: Vec<_> = {
            let mut statement = self.connection.prepare_cached(
                "SELECT function, hash, size FROM record_references JOIN blobs ON blobs.id = blob WHERE record = ? ORDER BY position",
            )?;
            let rows = statement.query_map([id], |row| digest_from(row.get(0)?, row.get(1)?, row.get(2)?))?;
            rows.collect::<Result<_, _>>()?
        };
        match outcome_from(&outcome) {
            Ok(outcome) if proof == proof_of(key, &payload, &outcome, &references) => {
                Ok(Some((id, ActionRecord { payload: payload.into(), references, outcome })))
            }
            _ => {
                tracing::error!(key = %key.hex(), "a stored result does not verify");
                self.quarantined_records += 1;
                self.delete_record(id)?;
                Ok(None)
            }
        }
    }

    /// Stores records: all of them, or none when a blob that one points at is not here.
    pub(super) fn put_records(&mut self, records: &[(ActionKey, ActionRecord)]) -> Result<Vec<Recorded>, StoreError> {
        // Room first: making it may evict, and what is pointed at must be here after that.
        for (_, record) in records {
            for digest in &record.references {
                if !is_empty(digest) && !self.confirm(digest)? {
                    return Err(StoreError::NotFound(*digest));
                }
            }
        }
        let needed = records.iter().map(|(_, record)| charge(record.payload.len() as u64)).sum();
        self.make_room(needed)?;
        // Blobs could still go where the lease time is zero: then the record must not be stored.
        for digest in records.iter().flat_map(|(_, record)| &record.references) {
            if !is_empty(digest) && self.row(digest)?.is_none() {
                return Err(StoreError::NotFound(*digest));
            }
        }
        records.iter().map(|(key, record)| self.put_record(key, record)).collect()
    }

    fn put_record(&mut self, key: &ActionKey, record: &ActionRecord) -> Result<Recorded, StoreError> {
        let recorded = match self.stored_record(key)? {
            None => Recorded::Stored,
            Some((id, before)) if before.outcome == record.outcome => {
                self.delete_record(id)?;
                Recorded::Refreshed
            }
            Some((id, before)) => {
                self.touch(Entry::Record(id));
                self.keep_divergent(key, &before.outcome, record)?;
                return Ok(Recorded::Divergent { first: before.outcome });
            }
        };
        let used = self.tick();
        let references: Vec<Digest> = record.references.iter().filter(|digest| !is_empty(digest)).copied().collect();
        let proof = proof_of(key, &record.payload, &record.outcome, &references);
        let id: i64 = self
            .connection
            .prepare_cached(
                "INSERT INTO records (key, used, payload, outcome, proof) VALUES (?, ?, ?, ?, ?) RETURNING id",
            )?
            .query_row(params![key.0, used, &record.payload[..], packed(&[record.outcome]), proof], |row| row.get(0))?;
        for (position, digest) in references.iter().enumerate() {
            if let Some(row) = self.row(digest)? {
                self.connection
                    .prepare_cached("INSERT INTO record_references (blob, record, position) VALUES (?, ?, ?)")?
                    .execute(params![row.id, id, position as i64])?;
            }
        }
        self.totals.charged += charge(record.payload.len() as u64);
        self.space.note_written(record.payload.len() as u64);
        self.totals.records += 1;
        Ok(recorded)
    }

    /// Keeps a result of another outcome than the first one's. The oldest go when there are too many.
    fn keep_divergent(&mut self, key: &ActionKey, first: &Digest, record: &ActionRecord) -> Result<(), StoreError> {
        self.divergent_results += 1;
        tracing::warn!(key = %key.hex(), %first, outcome = %record.outcome, "an action came to another result than before");
        let seen = self.tick();
        let outcome = packed(&[record.outcome]);
        let known = self
            .connection
            .prepare_cached(
                "UPDATE divergent SET first = ?, payload = ?, points_at = ?, seen = ?, times = times + 1 WHERE key = ? AND outcome = ?",
            )?
            .execute(params![packed(&[*first]), &record.payload[..], packed(&record.references), seen, key.0, outcome])?;
        if known > 0 {
            return Ok(());
        }
        self.connection
            .prepare_cached(
                "INSERT INTO divergent (id, key, first, outcome, payload, points_at, times, seen) VALUES (?, ?, ?, ?, ?, ?, 1, ?)",
            )?
            .execute(params![
                seen,
                key.0,
                packed(&[*first]),
                outcome,
                &record.payload[..],
                packed(&record.references),
                seen
            ])?;
        for (statement, most) in [
            (
                "DELETE FROM divergent WHERE key = ?1 AND id NOT IN (SELECT id FROM divergent WHERE key = ?1 ORDER BY id DESC LIMIT ?2)",
                DIVERGENT_RESULTS_PER_ACTION_MAX,
            ),
            (
                "DELETE FROM divergent WHERE ?1 = ?1 AND id <= (SELECT id FROM divergent ORDER BY id DESC LIMIT 1 OFFSET ?2)",
                DIVERGENT_RESULTS_MAX,
            ),
        ] {
            self.connection.prepare_cached(statement)?.execute(params![key.0, most as i64])?;
        }
        Ok(())
    }

    /// Drops every record that points at a blob.
    pub(super) fn delete_records_of(&mut self, blob: i64) -> Result<(), StoreError> {
        for (id, _) in self.records_of(blob)? {
            self.delete_record(id)?;
        }
        Ok(())
    }

    /// The records that point at a blob: their ids, and the bytes of their payloads.
    pub(super) fn records_of(&self, blob: i64) -> Result<Vec<(i64, u64)>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT DISTINCT id, length(payload) FROM record_references JOIN records ON records.id = record WHERE blob = ?",
        )?;
        let rows = statement.query_map([blob], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether a record points at a blob that is leased: whoever was told of the one relies on the other.
    pub(super) fn is_record_held(&self, id: i64) -> Result<bool, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT function, hash, size FROM record_references JOIN blobs ON blobs.id = blob WHERE record = ?",
        )?;
        let mut rows = statement.query([id])?;
        let now = Instant::now();
        while let Some(row) = rows.next()? {
            let digest = digest_from(row.get(0)?, row.get(1)?, row.get(2)?)?;
            if self.presence.lock().leases.is_held(&digest, now) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn delete_record(&mut self, id: i64) -> Result<(), StoreError> {
        self.connection.prepare_cached("DELETE FROM record_references WHERE record = ?")?.execute([id])?;
        let size: Option<i64> = self
            .connection
            .prepare_cached("DELETE FROM records WHERE id = ? RETURNING length(payload)")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let Some(size) = size else { return Ok(()) };
        self.untouch(Entry::Record(id));
        self.mark_dirty();
        self.totals.charged = self.totals.charged.saturating_sub(charge(size.cast_unsigned()));
        self.totals.records = self.totals.records.saturating_sub(1);
        Ok(())
    }

    /// The record that was not used for longest, of those used after `after`.
    pub(super) fn next_record(&self, after: i64) -> Result<Option<Candidate>, StoreError> {
        Ok(self
            .connection
            .prepare_cached("SELECT used, id, length(payload) FROM records WHERE used > ? ORDER BY used LIMIT 1")?
            .query_row([after], |row| {
                let payload_bytes = row.get::<_, i64>(2)?.cast_unsigned();
                Ok(Candidate::Record { used: row.get(0)?, id: row.get(1)?, payload_bytes })
            })
            .optional()?)
    }
}

/// What a record takes from the capacity.
pub(super) fn charge(payload_bytes: u64) -> u64 {
    payload_bytes + ENTRY_BYTES
}

/// What must be so for a row to be the record that was stored: its bytes are verified on their way out as a blob's are.
fn proof_of(key: &ActionKey, payload: &[u8], outcome: &Digest, references: &[Digest]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("muster cache: a stored action record, version 1");
    hasher.update(&key.0);
    hasher.update(&packed(&[*outcome]));
    hasher.update(&(references.len() as u64).to_le_bytes());
    hasher.update(&packed(references));
    hasher.update(payload);
    *hasher.finalize().as_bytes()
}

/// Digests as one value of a row.
fn packed(digests: &[Digest]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(digests.len() * PACKED_DIGEST_BYTES);
    for digest in digests {
        bytes.push(function_number(digest.function) as u8);
        bytes.extend_from_slice(&digest.hash);
        bytes.extend_from_slice(&digest.size_bytes.to_le_bytes());
    }
    bytes
}

fn unpacked(bytes: &[u8]) -> rusqlite::Result<Vec<Digest>> {
    let damaged = || rusqlite::Error::InvalidColumnType(0, "digests".into(), rusqlite::types::Type::Blob);
    let (chunks, rest) = bytes.as_chunks::<PACKED_DIGEST_BYTES>();
    if !rest.is_empty() {
        return Err(damaged());
    }
    chunks
        .iter()
        .map(|chunk| {
            let (function, rest) = chunk.split_first().ok_or_else(damaged)?;
            let (hash, size) = rest.split_first_chunk::<32>().ok_or_else(damaged)?;
            let size = size.first_chunk::<8>().ok_or_else(damaged)?;
            digest_from(i64::from(*function), *hash, i64::from_le_bytes(*size))
        })
        .collect()
}

/// One packed digest.
pub(super) fn outcome_from(bytes: &[u8]) -> rusqlite::Result<Digest> {
    match unpacked(bytes)?[..] {
        [outcome] => Ok(outcome),
        _ => Err(rusqlite::Error::InvalidColumnType(0, "outcome".into(), rusqlite::types::Type::Blob)),
    }
}

/// A row of the divergent: its id, then the columns in the order of [`DivergentRecord`]'s fields.
pub(super) fn divergent_from(row: &Row<'_>) -> rusqlite::Result<DivergentRecord> {
    Ok(DivergentRecord {
        key: ActionKey(row.get(1)?),
        first: outcome_from(&row.get::<_, Vec<u8>>(2)?)?,
        outcome: outcome_from(&row.get::<_, Vec<u8>>(3)?)?,
        payload: row.get::<_, Vec<u8>>(4)?.into(),
        references: unpacked(&row.get::<_, Vec<u8>>(5)?)?,
        times: row.get::<_, i64>(6)?.cast_unsigned(),
        seen: listing::time(row.get(7)?),
    })
}
