//! A conformance runner of the Remote Execution API: asks a server, any server, for what the specification says it does.
//!
//! One [`Check`] holds one rule, in a few words of ours, with the method or message of the specification that states it. Checks only use what
//! the server's capabilities offer; what is not offered is said, not failed. Every blob is made from one seed, so that nothing a server has
//! already can answer for it, and a run can be repeated byte by byte.
//!
//! [`session`] is the connection and what checks share; one file for each service holds its rules; [`report`] says what came of it.
//!
//! Source of the rules: `build/bazel/remote/execution/v2/remote_execution.proto`, `build/bazel/remote/asset/v1/remote_asset.proto`,
//! `google/bytestream/bytestream.proto` and `google/longrunning/operations.proto`; and what published clients need beyond them.

mod action_cache;
mod asset;
mod byte_stream;
mod capabilities;
mod cas;
mod chunking;
mod compression;
mod execution;
mod execution_errors;
mod execution_outputs;
mod functions;
mod jobs;
mod operations;
pub mod report;
pub mod session;
mod tree;

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use muster_proto::code_name;
use session::Session;
use tonic::{Code, Status};

/// How much a rule binds a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The specification says MUST, or names the error.
    Must,
    /// The specification says SHOULD.
    Should,
    /// The specification leaves it open, and clients in wide use break without it.
    Clients,
}

impl Level {
    /// As it is written in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
            Self::Clients => "clients need",
        }
    }
}

/// What keeps a check from passing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The server did something else than the rule says: what it did.
    Broken(String),
    /// The server says that it does not offer this.
    NotOffered(String),
}

impl Finding {
    /// What a method that a server may leave out ended in: UNIMPLEMENTED is no fault then.
    fn of_optional(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::NotOffered(said(&status)),
            _ => status.into(),
        }
    }
}

impl From<Status> for Finding {
    fn from(status: Status) -> Self {
        Self::Broken(said(&status))
    }
}

fn said(status: &Status) -> String {
    format!("{}: {}", code_name(status.code()), status.message())
}

/// Codes in words.
fn named(codes: &[Code]) -> String {
    codes.iter().map(|code| code_name(*code)).collect::<Vec<_>>().join(", ")
}

type Answer = Result<(), Finding>;
type Running<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

/// One rule, and how it is asked for.
#[derive(Clone, Copy)]
pub struct Check {
    /// `service/what-is-expected`; never used twice.
    pub name: &'static str,
    /// How much the rule binds.
    pub level: Level,
    /// The method, message or field of the specification that states it.
    pub section: &'static str,
    /// The rule in a few words.
    pub rule: &'static str,
    run: for<'a> fn(&'a Session) -> Running<'a>,
}

/// Writes a service's checks as a table: level, name, section, rule, and the function that asks.
macro_rules! checks {
    ($($level:ident $name:literal, $section:literal: $rule:literal => $function:path;)*) => {
        &[$($crate::conformance::Check {
            name: $name,
            level: $crate::conformance::Level::$level,
            section: $section,
            rule: $rule,
            run: |session| Box::pin($function(session)),
        }),*]
    };
}
use checks;

/// Ends a check that found something else than the rule says.
macro_rules! broken {
    ($($words:tt)*) => { return Err($crate::conformance::Finding::Broken(format!($($words)*))) };
}
use broken;

/// Ends a check unless something holds.
macro_rules! require {
    ($holds:expr, $($words:tt)*) => { if !$holds { $crate::conformance::broken!($($words)*) } };
}
use require;

/// Whether a call failed with one of `codes`, as it has to.
fn refused<T>(answer: Result<T, Status>, codes: &[Code], what: &str) -> Answer {
    match answer {
        Err(status) if codes.contains(&status.code()) => Ok(()),
        Err(status) => Err(Finding::Broken(format!("{what} was answered {}", said(&status)))),
        Ok(_) => Err(Finding::Broken(format!("{what} was answered OK"))),
    }
}

/// Every check, in the order in which they are run.
pub fn all() -> Vec<Check> {
    [
        capabilities::CHECKS,
        cas::CHECKS,
        byte_stream::CHECKS,
        compression::CHECKS,
        functions::CHECKS,
        tree::CHECKS,
        chunking::CHECKS,
        action_cache::CHECKS,
        execution::CHECKS,
        execution_outputs::CHECKS,
        execution_errors::CHECKS,
        operations::CHECKS,
        asset::CHECKS,
    ]
    .concat()
}

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is kept.
    Passed,
    /// It is not: what was seen instead.
    Failed(String),
    /// The server does not offer what the rule is about: how it said so.
    NotOffered(String),
    /// No answer within the patience.
    Unanswered,
}

/// A check that was run.
pub struct Ran {
    /// Which.
    pub check: Check,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

/// Runs one check for as long as `patience` allows.
pub async fn run(check: Check, session: &Session, patience: Duration) -> Ran {
    let start = Instant::now();
    let outcome = match tokio::time::timeout(patience, (check.run)(session)).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(Finding::Broken(what))) => Outcome::Failed(what),
        Ok(Err(Finding::NotOffered(how))) => Outcome::NotOffered(how),
        Err(_) => Outcome::Unanswered,
    };
    Ran { check, outcome, took: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_used_twice_and_each_says_its_rule() {
        let mut names: Vec<_> = all().iter().map(|check| check.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for check in all() {
            assert!(check.name.contains('/') && !check.section.is_empty(), "{}", check.name);
            assert!(!check.rule.is_empty() && !check.rule.ends_with('.'), "{}: {}", check.name, check.rule);
        }
    }
}
