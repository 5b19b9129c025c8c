//! Opening a ledger: lock, format, generation.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use muster_model::{Epoch, limits};
use rusqlite::Connection;

use super::LedgerError;

/// What each format added to the one before it.
const FORMATS: [&str; 6] = [
    include_str!("schema.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
];
/// The newest format that this build knows, kept as SQLite's `user_version`.
pub(super) const FORMAT: i64 = FORMATS.len() as i64;
/// The first SQLite whose write-ahead log can't be damaged by a checkpoint that runs beside a write.
const LIBRARY_MIN: i32 = 3_051_003;

/// The ledger's name in its folder.
const FILE: &str = "ledger.sqlite3";
/// The counter of starts.
const GENERATION: &str = "generation";
/// The counter that keeps the highest epoch ever recorded or reserved, also of runs that are forgotten.
pub(super) const EPOCH_HIGHEST: &str = "epoch_highest";

/// An open ledger before its threads run.
pub(super) struct Opened {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    pub(super) generation: u64,
    pub(super) first_epoch: Epoch,
    pub(super) lock: File,
}

pub(super) fn open(folder: &Path) -> Result<Opened, LedgerError> {
    open_unless_damaged(folder).map_err(|error| match error {
        LedgerError::Database(error) if is_damage(&error) => {
            LedgerError::Corrupt { path: folder.join(FILE), why: error.to_string() }
        }
        error => error,
    })
}

fn open_unless_damaged(folder: &Path) -> Result<Opened, LedgerError> {
    if rusqlite::version_number() < LIBRARY_MIN {
        return Err(LedgerError::Library(rusqlite::version()));
    }
    fs::create_dir_all(folder).map_err(|source| file("make", folder, source))?;
    let lock = lock(&folder.join("lock"))?;
    let path = folder.join(FILE);
    // A log that is left says that the process before did not stop in order.
    let log = fs::metadata(folder.join(format!("{FILE}-wal"))).map_or(0, |log| log.len());
    let size = fs::metadata(&path).map_or(0, |file| file.len());
    let mut connection = Connection::open(&path)?;
    configure(&connection)?;
    if log > 0 || size <= limits::LEDGER_CHECKED_BYTES_MAX {
        check(&connection, &path)?;
    }
    prepare(&mut connection, &path)?;
    let generation = count_generation(&mut connection)?;
    let highest = counter(&connection, EPOCH_HIGHEST)?;
    forget_old_history(&connection)?;
    Ok(Opened { path, connection, generation, first_epoch: Epoch(highest + 1), lock })
}

/// Looks at the structure of all of it. A ledger that is damaged is left as it is: what it says is not believed in part.
fn check(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    let why = found.replace('\n', " ");
    if found == "ok" { Ok(()) } else { Err(LedgerError::Corrupt { path: path.to_owned(), why }) }
}

/// Whether SQLite says that the file is not what it wrote.
fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode;
    match error {
        rusqlite::Error::SqliteFailure(failure, message) => {
            matches!(failure.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                // A damaged schema has no longer what statements name.
                || message.as_deref().is_some_and(|text| text.contains("no such") || text.contains("malformed"))
        }
        rusqlite::Error::SqlInputError { .. } | rusqlite::Error::InvalidColumnType(..) => true,
        _ => false,
    }
}

fn file(action: &'static str, path: &Path, source: std::io::Error) -> LedgerError {
    LedgerError::File { action, path: path.to_owned(), source }
}

fn lock(path: &Path) -> Result<File, LedgerError> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|source| file("open", path, source))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(LedgerError::Locked(path.parent().map_or_else(|| path.to_owned(), Path::to_owned)))
        }
        Err(TryLockError::Error(source)) => Err(file("lock", path, source)),
    }
}

/// The settings of every connection. `synchronous=FULL` is the durability that the ledger promises.
pub(super) fn configure(connection: &Connection) -> Result<(), LedgerError> {
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if found > FORMAT {
        return Err(LedgerError::Newer { path: path.to_owned(), found, known: FORMAT });
    }
    if found < FORMAT {
        let transaction = connection.transaction()?;
        for missing in FORMATS.iter().skip(usize::try_from(found).unwrap_or(0)) {
            transaction.execute_batch(missing)?;
        }
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()?;
    }
    Ok(())
}

fn count_generation(connection: &mut Connection) -> Result<u64, LedgerError> {
    let transaction = connection.transaction()?;
    let generation = counter(&transaction, GENERATION)? + 1;
    set_counter(&transaction, GENERATION, generation)?;
    transaction.commit()?;
    Ok(generation)
}

/// The value of a counter; 0 when it was never set.
pub(super) fn counter(connection: &Connection, name: &str) -> Result<u64, LedgerError> {
    let mut statement = connection.prepare_cached("SELECT count FROM counters WHERE name = ?1")?;
    let mut rows = statement.query([name])?;
    let count: i64 = rows.next()?.map_or(Ok(0), |row| row.get(0))?;
    u64::try_from(count).map_err(|_| LedgerError::Damaged("counters"))
}

/// Sets a counter.
pub(super) fn set_counter(connection: &Connection, name: &str, count: u64) -> Result<(), LedgerError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO counters (name, count) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET count = excluded.count",
    )?;
    statement.execute((name, i64::try_from(count).unwrap_or(i64::MAX)))?;
    Ok(())
}

fn forget_old_history(connection: &Connection) -> Result<(), LedgerError> {
    let kept: i64 = connection.query_row("SELECT count(*) FROM history", [], |row| row.get(0))?;
    let excess = u64::try_from(kept).unwrap_or(0).saturating_sub(limits::HISTORY_CASES_MAX);
    if excess > 0 {
        connection.execute(
            "DELETE FROM history WHERE (target_hash, case_name) IN \
             (SELECT target_hash, case_name FROM history ORDER BY last_run LIMIT ?1)",
            [i64::try_from(excess).unwrap_or(i64::MAX)],
        )?;
    }
    Ok(())
}
