//! What a person reads when a run is over: what wants attention with its output, then one line.

use muster_proto::v1::CaseFinished;

use super::Tally;
use super::outcome::{Class, class, company, explanation, has_leaked, leaks, title, word};
use crate::paint::Paint;
use crate::text;

/// The word of an outcome in its colour.
pub(super) fn painted_word(outcome: &str, paint: Paint) -> String {
    let word = word(outcome);
    match class(outcome) {
        Class::Good => paint.good(word),
        Class::Suspicious => paint.attention(word),
        Class::Bad => paint.bad(word),
        Class::Quiet => paint.quiet(word),
    }
}

/// What puts a word in front of a line flush with the longest of them.
pub(super) fn padding(word: &str) -> String {
    const LONGEST: usize = "INTERFERENCE".len();
    " ".repeat(LONGEST.saturating_sub(word.len()))
}

/// One case on one line.
pub(super) fn case_line(case: &CaseFinished, paint: Paint) -> String {
    let padding = padding(word(&case.outcome));
    let time = if case.cached { "cached".into() } else { text::micros(case.duration_us) };
    let leaked = if case.leaked { paint.attention("  leaked processes") } else { String::new() };
    let strays = if case.strays.is_empty() { String::new() } else { paint.attention("  wrote outside") };
    format!(
        "{padding}{} {} {}{leaked}{strays}",
        painted_word(&case.outcome, paint),
        paint.quiet(&format!("[{time:>9}]")),
        title(case)
    )
}

/// The whole end of the report.
pub(super) fn closing(tally: &Tally, paint: Paint) -> String {
    let mut report = String::new();
    if tally.finished.is_some() && !tally.listed.is_empty() {
        return listing(tally);
    }
    for (target, failure) in &tally.discovery_failures {
        report.push_str(&heading("FAIL", &format!("{} cannot list its cases", text::escape_line(target)), paint));
        push_indented(&mut report, failure);
    }
    let of_class = |wanted: Class| tally.remarkable.iter().filter(move |case| class(&case.outcome) == wanted);
    for case in of_class(Class::Good).chain(of_class(Class::Quiet)).filter(|case| has_leaked(case)) {
        for leak in leaks(case) {
            report.push_str(&heading("LEAK", &format!("{} {leak}", title(case)), paint));
        }
    }
    for case in of_class(Class::Suspicious).chain(of_class(Class::Bad)) {
        render_case(&mut report, case, paint);
    }
    for fault in tally.faults() {
        report.push_str(&format!("{} {}\n", paint.bad("fault:"), text::escape_line(&fault)));
    }
    if tally.finished.is_some() {
        report.push_str(&summary_line(tally, paint));
        report.push('\n');
    }
    report
}

fn heading(word: &str, title: &str, paint: Paint) -> String {
    format!("{} {}\n", paint.bad(&format!("--- {word}")), paint.strong(title))
}

/// One case with everything about it, its output included.
pub fn render_case(report: &mut String, case: &CaseFinished, paint: Paint) {
    let environment = match case.environment.as_str() {
        "" | "sandbox" => String::new(),
        other => format!(" ({})", text::escape_line(other)),
    };
    let agent = if case.agent.is_empty() { String::new() } else { format!(" on {}", text::escape_line(&case.agent)) };
    report.push_str(&format!(
        "--- {} {}  {}{agent}{environment}\n",
        painted_word(&case.outcome, paint),
        paint.strong(&title(case)),
        text::micros(case.duration_us),
    ));
    if let Some(explanation) = explanation(case) {
        report.push_str(&format!("    {explanation}\n"));
    }
    for leak in leaks(case) {
        report.push_str(&format!("    it {leak}\n"));
    }
    if !case.company.is_empty() {
        report.push_str(&format!("    company: {}\n", company(case)));
    }
    if !case.message.is_empty() && !case.output.contains(&case.message) {
        push_indented(report, &case.message);
    }
    push_indented(report, &case.output);
}

fn push_indented(report: &mut String, words: &str) {
    for line in text::escape_block(words).trim_end().lines() {
        report.push_str(if line.is_empty() { "" } else { "    " });
        report.push_str(line);
        report.push('\n');
    }
}

fn listing(tally: &Tally) -> String {
    let mut report = String::new();
    for (target, names) in &tally.listed {
        let target = text::escape_line(tally.target_name(*target));
        for name in names {
            report.push_str(&format!("{target} {}\n", text::escape_line(name)));
        }
    }
    report
}

/// `42 passed (40 cached), 1 failed in 1.23 s  efficiency 93 %  run 17`.
fn summary_line(tally: &Tally, paint: Paint) -> String {
    let (summary, efficiency) = tally.summary();
    let mut parts = Vec::new();
    let passed = match summary.cached {
        0 => format!("{} passed", summary.passed),
        cached => format!("{} passed ({cached} cached)", summary.passed),
    };
    parts.push(if summary.passed > 0 { paint.good(&passed) } else { passed });
    let mut part = |count: u32, word: &str, painted: fn(Paint, &str) -> String| {
        if count > 0 {
            parts.push(painted(paint, &format!("{count} {word}")));
        }
    };
    part(summary.failed, "failed", Paint::bad);
    part(summary.faults, "without a verdict", Paint::bad);
    part(summary.skipped, "skipped", Paint::quiet);
    part(summary.cancelled, "cancelled", Paint::quiet);
    part(summary.flaky, "flaky", Paint::attention);
    part(summary.interference, "interference", Paint::attention);
    let mut line = format!("{} in {}", parts.join(", "), text::millis(summary.wall_ms));
    if summary.executed > 0 && efficiency.wall_ms > 0 {
        line.push_str(&format!("  efficiency {}", text::percent(u64::from(efficiency.efficiency_milli), 1000)));
    }
    if tally.filtered > 0 {
        line.push_str(&format!("  {} filtered out", tally.filtered));
    }
    line.push_str(&format!("  run {}", summary.run));
    match tally.outcome().as_str() {
        "passed" | "failed" => line,
        "nothing_to_run" => format!("{}: {line}", paint.attention("nothing to run")),
        "cancelled" => format!("{}: {line}", paint.attention("cancelled")),
        _ => format!("{}: {line}", paint.bad("the fleet's fault")),
    }
}
