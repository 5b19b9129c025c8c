//! For GitHub Actions: an annotation for each failure, and a summary of the step.
//!
//! Source: GitHub Docs, "Workflow commands for GitHub Actions": `::error title=…,file=…,line=…::message`; in data `%`, CR and LF are escaped,
//! in properties `:` and `,` too.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use muster_proto::v1::run_event::Event;
use muster_proto::v1::{CaseFinished, RunEvent};

use super::outcome::{Class, class, explanation, word};
use super::{Note, Reporter, Tally};
use crate::text;

/// GitHub shows ten annotations of a kind per step and drops the rest.
const ANNOTATIONS_MAX: usize = 10;
/// Rows of the step summary's table; GitHub refuses a summary over 1 MiB.
const SUMMARY_ROWS_MAX: usize = 500;

/// Writes annotations, and a summary if GitHub named a file for it.
pub struct GithubReporter<W> {
    output: W,
    summary: Option<PathBuf>,
    written: usize,
}

impl<W: Write + Send> GithubReporter<W> {
    /// A reporter that writes annotations to `output` and appends the summary to `summary`.
    pub fn new(output: W, summary: Option<PathBuf>) -> Self {
        Self { output, summary, written: 0 }
    }

    fn annotate(&mut self, level: &str, title: &str, place: Option<(&str, &str)>, message: &str) -> io::Result<()> {
        self.written += 1;
        if self.written > ANNOTATIONS_MAX {
            return Ok(());
        }
        let place = place.map_or_else(String::new, |(file, line)| format!(",file={},line={line}", property(file)));
        writeln!(self.output, "::{level} title={}{place}::{}", property(title), data(message))
    }
}

/// Whether this process is a step of a workflow.
pub fn is_github_actions() -> bool {
    env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// Where GitHub wants the step's summary.
pub fn summary_path() -> Option<PathBuf> {
    env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()).map(PathBuf::from)
}

fn data(words: &str) -> String {
    words.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(words: &str) -> String {
    data(words).replace(':', "%3A").replace(',', "%2C")
}

/// The place that a panic's message names: `panicked at src/lib.rs:12:5:`.
fn panic_place(words: &str) -> Option<(&str, &str)> {
    let (_, place) = words.split_once("panicked at ")?;
    let mut parts = place.split([':', '\n']);
    let (file, line) = (parts.next()?, parts.next()?);
    let is_number = !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !file.starts_with('/') && !file.contains(char::is_whitespace)).then_some((file, line))
}

fn words_of(case: &CaseFinished) -> String {
    let mut words: Vec<String> = explanation(case).into_iter().collect();
    if !case.message.is_empty() {
        words.push(text::escape_block(&case.message));
    } else if !case.output.is_empty() {
        words.push(text::escape_block(&case.output));
    }
    if words.is_empty() { case.outcome.clone() } else { words.join("\n") }
}

fn summary_page(tally: &Tally) -> String {
    let (summary, efficiency) = tally.summary();
    let mut page = format!(
        "### Muster: {}\n\n{} passed ({} cached), {} failed, {} skipped, {} flaky, {} interference in {}, efficiency {}, run {}\n",
        tally.outcome().replace('_', " "),
        summary.passed,
        summary.cached,
        summary.failed,
        summary.skipped,
        summary.flaky,
        summary.interference,
        text::millis(summary.wall_ms),
        text::percent(u64::from(efficiency.efficiency_milli), 1000),
        summary.run,
    );
    for fault in tally.faults() {
        page.push_str(&format!("\n**Fault:** {}\n", cell(&fault)));
    }
    if !tally.remarkable.is_empty() {
        page.push_str("\n| outcome | target | case | time |\n|---|---|---|---|\n");
    }
    for case in tally.remarkable.iter().take(SUMMARY_ROWS_MAX) {
        page.push_str(&format!(
            "| {} | {} | {} | {} |\n",
            word(&case.outcome),
            cell(&case.target_name),
            cell(&case.name),
            text::micros(case.duration_us)
        ));
    }
    if tally.remarkable.len() > SUMMARY_ROWS_MAX {
        page.push_str(&format!("\n… and {} more.\n", tally.remarkable.len() - SUMMARY_ROWS_MAX));
    }
    page
}

/// A stranger's words inside a Markdown table: no column, no markup, no HTML.
fn cell(words: &str) -> String {
    let mut cell = String::new();
    for character in text::escape_line(words).chars() {
        match character {
            '<' => cell.push_str("&lt;"),
            '&' => cell.push_str("&amp;"),
            '|' | '*' | '_' | '`' | '[' | ']' | '\\' | '!' => cell.extend(['\\', character]),
            _ => cell.push(character),
        }
    }
    cell
}

impl<W: Write + Send> Reporter for GithubReporter<W> {
    fn note(&mut self, _note: &Note) -> io::Result<()> {
        Ok(())
    }

    fn event(&mut self, event: &RunEvent, tally: &Tally) -> io::Result<()> {
        match &event.event {
            Some(Event::CaseFinished(case)) => {
                let level = match class(&case.outcome) {
                    Class::Bad => "error",
                    Class::Suspicious => "warning",
                    Class::Good | Class::Quiet => return Ok(()),
                };
                let title = format!("{} {} {}", word(&case.outcome), case.target_name, case.name);
                let place = panic_place(&case.message).or_else(|| panic_place(&case.output));
                self.annotate(level, &title, place, &words_of(case))
            }
            Some(Event::TargetDiscovered(target)) if !target.failure.is_empty() => {
                let title = format!("{} cannot list its cases", tally.target_name(target.target));
                self.annotate("error", &title, None, &text::escape_block(&target.failure))
            }
            _ => Ok(()),
        }
    }

    fn tick(&mut self, _tally: &Tally) {}

    fn finish(&mut self, tally: &Tally) -> io::Result<()> {
        self.output.flush()?;
        match &self.summary {
            Some(path) if tally.finished.is_some() => {
                let mut file = OpenOptions::new().create(true).append(true).open(path)?;
                file.write_all(summary_page(tally).as_bytes())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{Shared, case, events, play};
    use super::*;

    #[test]
    fn failures_are_annotated_and_the_step_is_summed_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("summary.md");
        let output = Shared::default();
        play(&mut GithubReporter::new(output.clone(), Some(path.clone())), &events());
        insta::assert_snapshot!(output.text(), @r"
        ::error title=shapes (test broken) cannot list its cases::ImportError: no module named y
        ::error title=FAIL shapes (lib) tests%3A%3Avolume,file=src/lib.rs,line=12::assertion failed: 1 == 2
        ::error title=CRASH shapes (lib) tests%3A%3Araw::the process was killed by SIGSEGV
        ::warning title=FLAKY shapes (lib) tests%3A%3Anetwork::it passed at the 2nd attempt%0Afirst try%0A
        ::warning title=INTERFERENCE shapes (lib) tests%3A%3Aglobal::it failed in company and passed alone
        ");
        insta::assert_snapshot!(std::fs::read_to_string(path).unwrap(), @r"
        ### Muster: failed

        2 passed (1 cached), 2 failed, 1 skipped, 1 flaky, 1 interference in 1.23 s, efficiency 93 %, run 17

        | outcome | target | case | time |
        |---|---|---|---|
        | FAIL | shapes (lib) | tests::volume | 0.012 s |
        | CRASH | shapes (lib) | tests::raw | 0.012 s |
        | FLAKY | shapes (lib) | tests::network | 0.012 s |
        | INTERFERENCE | shapes (lib) | tests::global | 0.012 s |
        | PASS | shapes (lib) | tests::daemon | 0.012 s |
        ");
    }

    #[test]
    fn a_name_cannot_forge_an_annotation_or_markup() {
        let output = Shared::default();
        let hostile = case("x::error::\n::error title=forged::,a%", "failed", "boom\n::error::forged");
        play(&mut GithubReporter::new(output.clone(), None), std::slice::from_ref(&hostile));
        assert_eq!(output.text().lines().count(), 1, "{}", output.text());
        assert_eq!(cell("a|b<script>`c`"), "a\\|b&lt;script>\\`c\\`");
    }

    #[test]
    fn annotations_stop_where_github_stops() {
        let output = Shared::default();
        let many: Vec<RunEvent> = (0..30).map(|number| case(&format!("case{number}"), "failed", "no")).collect();
        play(&mut GithubReporter::new(output.clone(), None), &many);
        assert_eq!(output.text().lines().count(), ANNOTATIONS_MAX);
    }

    #[test]
    fn the_place_of_a_panic_is_found() {
        assert_eq!(panic_place("thread 'a' panicked at src/lib.rs:12:5:\nno"), Some(("src/lib.rs", "12")));
        assert_eq!(panic_place("panicked at /rustc/abc/library/core.rs:1:2"), None);
        assert_eq!(panic_place("panicked at nothing"), None);
    }
}
