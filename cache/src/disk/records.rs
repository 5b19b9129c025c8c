//! The action cache's half of the index: a record dies with the first blob it points at, in the same transaction.

use muster_model::key::ActionKey;
use rusqlite::{OptionalExtension, params};

use super::index::{ENTRY_BYTES, Entry, Index, digest_from};
use super::is_empty;
use crate::{ActionRecord, StoreError};

impl Index {
    /// One record; it and what it points at count as used, and the latter stays for the lease time.
    pub(super) fn record(&mut self, key: &ActionKey) -> Result<Option<ActionRecord>, StoreError> {
        let found: Option<(i64, Vec<u8>)> = self
            .connection
            .prepare_cached("SELECT id, payload FROM records WHERE key = ?")?
            .query_row([key.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((id, payload)) = found else { return Ok(None) };
        let references: Vec<_> = {
            let mut statement = self.connection.prepare_cached(
                "SELECT function, hash, size FROM record_references JOIN blobs ON blobs.id = blob WHERE record = ? ORDER BY position",
            )?;
            let rows = statement.query_map([id], |row| digest_from(row.get(0)?, row.get(1)?, row.get(2)?))?;
            rows.collect::<Result<_, _>>()?
        };
        self.touch(Entry::Record(id));
        for digest in &references {
            self.confirm(digest)?;
        }
        Ok(Some(ActionRecord { payload: payload.into(), references }))
    }

    /// Stores records: all of them, or none when a blob that one points at is not here.
    pub(super) fn put_records(&mut self, records: &[(ActionKey, ActionRecord)]) -> Result<(), StoreError> {
        // Room first: making it may evict, and what is pointed at must be here after that.
        for (_, record) in records {
            for digest in &record.references {
                if !is_empty(digest) && !self.confirm(digest)? {
                    return Err(StoreError::NotFound(*digest));
                }
            }
        }
        let needed = records.iter().map(|(_, record)| charge(record.payload.len())).sum();
        self.make_room(needed)?;
        // Blobs could still go where the lease time is zero: then the record must not be stored.
        for digest in records.iter().flat_map(|(_, record)| &record.references) {
            if !is_empty(digest) && self.row(digest)?.is_none() {
                return Err(StoreError::NotFound(*digest));
            }
        }
        for (key, record) in records {
            self.put_record(key, record)?;
        }
        Ok(())
    }

    fn put_record(&mut self, key: &ActionKey, record: &ActionRecord) -> Result<(), StoreError> {
        let before: Option<i64> = self
            .connection
            .prepare_cached("SELECT id FROM records WHERE key = ?")?
            .query_row([key.0], |row| row.get(0))
            .optional()?;
        if let Some(id) = before {
            self.delete_record(id)?;
        }
        let used = self.tick();
        let id: i64 = self
            .connection
            .prepare_cached("INSERT INTO records (key, used, payload) VALUES (?, ?, ?) RETURNING id")?
            .query_row(params![key.0, used, &record.payload[..]], |row| row.get(0))?;
        for (position, digest) in record.references.iter().enumerate() {
            if let Some(row) = self.row(digest)? {
                self.connection
                    .prepare_cached("INSERT INTO record_references (blob, record, position) VALUES (?, ?, ?)")?
                    .execute(params![row.id, id, position as i64])?;
            }
        }
        self.totals.charged += charge(record.payload.len());
        self.totals.records += 1;
        Ok(())
    }

    /// Drops every record that points at a blob.
    pub(super) fn delete_records_of(&mut self, blob: i64) -> Result<(), StoreError> {
        let records: Vec<i64> = {
            let mut statement =
                self.connection.prepare_cached("SELECT DISTINCT record FROM record_references WHERE blob = ?")?;
            let rows = statement.query_map([blob], |row| row.get(0))?;
            rows.collect::<Result<_, _>>()?
        };
        for id in records {
            self.delete_record(id)?;
        }
        Ok(())
    }

    pub(super) fn delete_record(&mut self, id: i64) -> Result<(), StoreError> {
        self.connection.prepare_cached("DELETE FROM record_references WHERE record = ?")?.execute([id])?;
        let size: i64 = self
            .connection
            .prepare_cached("DELETE FROM records WHERE id = ? RETURNING length(payload)")?
            .query_row([id], |row| row.get(0))?;
        self.untouch(Entry::Record(id));
        self.mark_dirty();
        self.totals.charged = self.totals.charged.saturating_sub(charge(size.cast_unsigned() as usize));
        self.totals.records -= 1;
        Ok(())
    }

    /// The oldest record: when it was used, and which it is.
    pub(super) fn oldest_record(&self) -> Result<Option<(i64, i64)>, StoreError> {
        Ok(self
            .connection
            .prepare_cached("SELECT used, id FROM records ORDER BY used LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?)
    }
}

/// What a record takes from the capacity.
fn charge(payload_bytes: usize) -> u64 {
    payload_bytes as u64 + ENTRY_BYTES
}
