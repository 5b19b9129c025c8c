//! Suites of Python: what runs them, and one whose tests ask PostgreSQL.

use std::path::PathBuf;

use crate::programs::Place;

/// The cases of [`sql_suite`].
pub const SQL_CASES: u64 = 200;

/// An interpreter with pytest and psycopg.
///
/// # Panics
///
/// When `scripts/prepare` did not install it.
pub fn interpreter() -> PathBuf {
    crate::prepared("python/bin/python")
}

/// The project `fixtures/sql`, whose server can be found among the machine's processes by a mark.
///
/// # Panics
///
/// When it can't be copied.
pub fn sql_suite(mark: &str) -> Place {
    let place = Place::of("sql");
    let text = std::fs::read_to_string(place.project().join("muster.toml")).expect("the fixture has one");
    let python = interpreter().display().to_string();
    let project = place.project().display().to_string();
    let text = text.replace("PYTHON", &python).replace("PROJECT", &project).replace("MARK", mark);
    place.write("muster.toml", &text);
    place
}
