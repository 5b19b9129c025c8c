//! For a person at a terminal: a progress bar with counts, what runs right now and how long it will take; above it what failed.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use muster_proto::v1::RunEvent;

use super::closing::closing;
use super::plain::{event_line, note_line};
use super::{Note, Reporter, Tally};
use crate::paint::Paint;
use crate::text;

/// Cases under way that are shown by name.
const RUNNING_SHOWN_MAX: usize = 6;
/// A case that has run for less is not worth a line that is gone at once.
const RUNNING_SHOWN_AFTER: Duration = Duration::from_millis(500);

/// Draws on standard error, writes the report to standard output.
pub struct HumanReporter<W> {
    output: W,
    paint: Paint,
    verbose: bool,
    bar: ProgressBar,
    columns: usize,
}

impl<W: Write + Send> HumanReporter<W> {
    /// A reporter that writes the report to `output` and draws on `target`, which is `columns` wide.
    pub fn new(output: W, target: ProgressDrawTarget, columns: u16, paint: Paint, verbose: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(step_style());
        Self { output, paint, verbose, bar, columns: usize::from(columns.max(20)) }
    }

    fn print(&mut self, lines: &str) -> io::Result<()> {
        let Self { bar, output, .. } = self;
        bar.suspend(|| {
            output.write_all(lines.as_bytes())?;
            output.flush()
        })
    }

    fn draw(&self, tally: &Tally) {
        self.bar.set_length(tally.planned.max(1));
        self.bar.set_position(tally.done.min(tally.planned));
        self.bar.set_message(status(tally, self.paint, self.columns));
    }
}

fn step_style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn run_style() -> ProgressStyle {
    ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {pos}/{len} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// The words after the bar: counts and time left, then a line for each case that takes long.
fn status(tally: &Tally, paint: Paint, columns: usize) -> String {
    let mut words = format!("{} passed", tally.passed);
    for (count, word, painted) in [
        (tally.failed, "failed", Paint::bad as fn(Paint, &str) -> String),
        (tally.flaky, "flaky", Paint::attention),
        (tally.cached, "cached", Paint::quiet),
    ] {
        if count > 0 {
            words.push_str(&format!(", {}", painted(paint, &format!("{count} {word}"))));
        }
    }
    if let Some(remaining) = tally.remaining() {
        words.push_str(&format!(", about {} left", text::estimate(remaining)));
    } else if !tally.planned_is_final {
        words.push_str(", still looking for cases");
    }
    let running = tally.running();
    let slow: Vec<_> = running.iter().filter(|case| case.since.elapsed() >= RUNNING_SHOWN_AFTER).collect();
    for case in slow.iter().take(RUNNING_SHOWN_MAX) {
        let time = text::duration(case.since.elapsed());
        let line = format!("  {time:>11}  {} {}", text::escape_line(&case.target), text::escape_line(&case.name));
        words.push('\n');
        words.push_str(&console::truncate_str(&line, columns.saturating_sub(1), "…"));
    }
    if slow.len() > RUNNING_SHOWN_MAX {
        words.push_str(&format!("\n  and {} more", slow.len() - RUNNING_SHOWN_MAX));
    }
    words
}

impl<W: Write + Send> Reporter for HumanReporter<W> {
    fn note(&mut self, note: &Note) -> io::Result<()> {
        if let Note::Step { words: step, .. } = note {
            self.bar.set_message(text::escape_line(step));
            // Drawn once and then wiped for the build's own words, which go to the same terminal.
            self.bar.tick();
            self.bar.suspend(|| {});
            return Ok(());
        }
        let line = note_line(note, self.paint).map(|line| line + "\n");
        self.bar.suspend(|| line.map_or(Ok(()), |line| io::stderr().write_all(line.as_bytes())))
    }

    fn event(&mut self, event: &RunEvent, tally: &Tally) -> io::Result<()> {
        if matches!(event.event, Some(muster_proto::v1::run_event::Event::RunStarted(_))) {
            self.bar.set_style(run_style());
            self.bar.reset_elapsed();
        }
        if let Some(line) = event_line(event, tally, self.paint, self.verbose) {
            self.print(&(line + "\n"))?;
        }
        Ok(())
    }

    fn tick(&mut self, tally: &Tally) {
        if tally.run > 0 && tally.finished.is_none() {
            self.draw(tally);
            self.bar.tick();
        }
    }

    fn finish(&mut self, tally: &Tally) -> io::Result<()> {
        self.bar.finish_and_clear();
        write!(self.output, "{}", closing(tally, self.paint))?;
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{Shared, events};
    use super::*;

    #[test]
    fn the_bar_shows_counts_and_leaves_only_the_report_behind() {
        let output = Shared::default();
        let mut reporter = HumanReporter::new(output.clone(), ProgressDrawTarget::hidden(), 80, Paint::PLAIN, false);
        let mut tally = Tally::default();
        let events = events();
        for (position, event) in events.iter().enumerate() {
            tally.count(event);
            reporter.event(event, &tally).unwrap();
            reporter.tick(&tally);
            if position + 2 == events.len() {
                insta::assert_snapshot!(reporter.bar.message(), @"4 passed, 2 failed, 1 flaky, 1 cached");
            }
        }
        reporter.finish(&tally).unwrap();
        assert!(output.text().ends_with("run 17\n"));
        assert!(reporter.bar.is_finished());
    }

    #[test]
    fn a_long_name_is_cut_to_the_terminal() {
        let mut tally = Tally::default();
        for event in events().iter().take(4) {
            tally.count(event);
        }
        std::thread::sleep(RUNNING_SHOWN_AFTER);
        for line in status(&tally, Paint::PLAIN, 24).lines().skip(1) {
            assert!(console::measure_text_width(line) < 24, "{line:?}");
        }
    }
}
