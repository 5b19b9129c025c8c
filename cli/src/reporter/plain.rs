//! Plain lines, for logs: one for every case that did not simply pass, a sign of life now and then, and the end.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use muster_proto::v1::RunEvent;
use muster_proto::v1::run_event::Event;

use super::closing::{case_line, closing, padding};
use super::outcome::has_leaked;
use super::{Note, Reporter, Tally};
use crate::paint::Paint;
use crate::text;

/// Silence after which a line says how far the run is.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Writes plain lines.
pub struct PlainReporter<W, V> {
    output: W,
    words: V,
    paint: Paint,
    verbose: bool,
    last_line: Instant,
}

impl<W: Write + Send, V: Write + Send> PlainReporter<W, V> {
    /// A reporter that writes the report to `output` and everything about preparing it to `words`; with `verbose`, every case gets its line.
    pub fn new(output: W, words: V, paint: Paint, verbose: bool) -> Self {
        Self { output, words, paint, verbose, last_line: Instant::now() }
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.last_line = Instant::now();
        writeln!(self.output, "{line}")?;
        self.output.flush()
    }
}

/// A note on one line, or none for the steps, which only matter on a terminal.
pub(super) fn note_line(note: &Note, paint: Paint) -> Option<String> {
    match note {
        Note::Step { .. } => None,
        Note::Notice(notice) => Some(format!("{} {}", paint.attention("note:"), text::escape_line(notice))),
        Note::NotRun { suite, what, why, hint } => {
            let line = format!("{} {}: {}", text::escape_line(suite), text::escape_line(what), text::escape_line(why));
            let hint = if hint.is_empty() { String::new() } else { format!("\n  hint: {}", text::escape_line(hint)) };
            Some(format!("{} {line}{hint}", paint.attention("not run:")))
        }
    }
}

/// The line of an event that a person wants to read as it happens.
pub(super) fn event_line(event: &RunEvent, tally: &Tally, paint: Paint, verbose: bool) -> Option<String> {
    match event.event.as_ref()? {
        Event::CaseFinished(case) => {
            let simple = matches!(case.outcome.as_str(), "passed" | "skipped" | "cancelled") && !has_leaked(case);
            (verbose || !simple).then(|| case_line(case, paint))
        }
        Event::TargetDiscovered(target) if !target.failure.is_empty() => Some(format!(
            "{}{} {} cannot list its cases",
            padding("FAIL"),
            paint.bad("FAIL"),
            text::escape_line(tally.target_name(target.target))
        )),
        Event::AttemptFault(fault) => Some(format!(
            "{}{} {} on {}: {} ({} tried again)",
            padding("FAULT"),
            paint.attention("FAULT"),
            text::escape_line(&fault.kind),
            text::escape_line(&fault.agent),
            text::escape_line(&fault.message),
            text::counted(fault.cases.len() as u64, "case is", "cases are"),
        )),
        Event::RunPlanned(planned) if planned.planned > 0 => {
            let expected = match tally.remaining() {
                Some(remaining) => format!(", about {}", text::estimate(remaining)),
                None => String::new(),
            };
            Some(format!(
                "run {}: {} on {}{expected}",
                tally.run,
                text::counted(u64::from(planned.planned), "case", "cases"),
                text::counted(u64::from(planned.slots), "slot", "slots"),
            ))
        }
        _ => None,
    }
}

impl<W: Write + Send, V: Write + Send> Reporter for PlainReporter<W, V> {
    fn note(&mut self, note: &Note) -> io::Result<()> {
        match note_line(note, self.paint) {
            Some(line) => writeln!(self.words, "{line}"),
            None => Ok(()),
        }
    }

    fn event(&mut self, event: &RunEvent, tally: &Tally) -> io::Result<()> {
        match event_line(event, tally, self.paint, self.verbose) {
            Some(line) => self.line(&line),
            None => Ok(()),
        }
    }

    fn tick(&mut self, tally: &Tally) {
        if self.last_line.elapsed() < SIGN_OF_LIFE || tally.run == 0 || tally.finished.is_some() {
            return;
        }
        let remaining =
            tally.remaining().map_or_else(String::new, |rest| format!(", about {} left", text::estimate(rest)));
        let line = match tally.planned {
            0 => "still looking for cases".to_owned(),
            planned => format!("{}/{planned} done, {} failed{remaining}", tally.done, tally.failed),
        };
        // A failure to write it shows at the next event, which can report it.
        let _ = self.line(&line);
    }

    fn finish(&mut self, tally: &Tally) -> io::Result<()> {
        write!(self.output, "{}", closing(tally, self.paint))?;
        self.output.flush()
    }
}

#[cfg(test)]
#[path = "plain_tests.rs"]
mod tests;
