//! Reporters: one stream of run events in, something to read out.
//!
//! Architecture Invariant: a reporter renders, it decides nothing. Counts, outcome and efficiency come from the coordinator's events; what
//! the client checks for itself is in [`Tally`].

mod closing;
mod denied;
pub mod github;
mod human;
mod json;
mod junit;
mod outcome;
mod plain;
mod tally;
#[cfg(test)]
mod tests_support;

use std::io;
use std::time::Duration;

use muster_proto::v1::RunEvent;

pub use closing::render_case;
pub use denied::DeniedLeaks;
pub use github::GithubReporter;
pub use human::HumanReporter;
pub use json::{JsonReporter, case_fields, efficiency_fields, error_line, merged, summary_fields};
pub use junit::JunitReporter;
pub(crate) use outcome::has_leaked;
pub use plain::PlainReporter;
pub use tally::Tally;

/// Something that is reported and is not a run's event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// Where preparing the run has come to.
    Step {
        /// Of which suite.
        suite: String,
        /// `building`, `hashing` or `ready`: that begins, or is so, now.
        step: &'static str,
        /// The same for people.
        words: String,
        /// Since the command was started.
        elapsed: Duration,
    },
    /// What the user should know, one sentence.
    Notice(String),
    /// Something that was found and is not run.
    NotRun {
        /// The suite's name.
        suite: String,
        /// What is not run.
        what: String,
        /// Why.
        why: String,
        /// The next thing to type to have it run.
        hint: String,
    },
}

/// Renders one run.
pub trait Reporter: Send {
    /// Something besides the run's events.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    fn note(&mut self, note: &Note) -> io::Result<()>;

    /// One event; each exactly once, in order. `tally` has counted it already.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    fn event(&mut self, event: &RunEvent, tally: &Tally) -> io::Result<()>;

    /// No event is waiting, or time has passed: what is held back is shown, and a display with a clock in it is drawn again.
    fn tick(&mut self, tally: &Tally);

    /// Nothing follows. Called once, also when the run was lost or cancelled before its last event.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    fn finish(&mut self, tally: &Tally) -> io::Result<()>;
}

/// Several reporters as one.
#[derive(Default)]
pub struct Reporters(Vec<Box<dyn Reporter>>);

impl Reporters {
    /// Adds one; it hears everything after those that are there.
    pub fn push(&mut self, reporter: Box<dyn Reporter>) {
        self.0.push(reporter);
    }
}

impl Reporter for Reporters {
    fn note(&mut self, note: &Note) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|reporter| reporter.note(note))
    }

    fn event(&mut self, event: &RunEvent, tally: &Tally) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|reporter| reporter.event(event, tally))
    }

    fn tick(&mut self, tally: &Tally) {
        for reporter in &mut self.0 {
            reporter.tick(tally);
        }
    }

    fn finish(&mut self, tally: &Tally) -> io::Result<()> {
        // Each gets its chance: a full disk under one report costs the others nothing.
        self.0.iter_mut().map(|reporter| reporter.finish(tally)).fold(Ok(()), Result::and)
    }
}
