//! How a case's outcome is shown.

use muster_proto::v1::CaseFinished;

use crate::text;

/// The classes of outcomes that people tell apart at a glance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It passed.
    Good,
    /// It passed, and something about it wants attention.
    Suspicious,
    /// It failed.
    Bad,
    /// It was not run.
    Quiet,
}

/// The class of an outcome as the wire names it; one nobody knows is bad.
pub(crate) fn class(outcome: &str) -> Class {
    match outcome {
        "passed" => Class::Good,
        "flaky" | "interference" => Class::Suspicious,
        "skipped" | "cancelled" => Class::Quiet,
        _ => Class::Bad,
    }
}

/// The word in front of a case's line.
pub(crate) fn word(outcome: &str) -> &'static str {
    match outcome {
        "passed" => "PASS",
        "failed" => "FAIL",
        "skipped" => "SKIP",
        "crashed" => "CRASH",
        "timed_out" => "TIMEOUT",
        "memory_exceeded" => "MEMORY",
        "output_exceeded" => "OUTPUT",
        "processes_exceeded" => "PROCESSES",
        "flaky" => "FLAKY",
        "interference" => "INTERFERENCE",
        "poison" => "POISON",
        "cancelled" => "CANCELLED",
        _ => "FAULT",
    }
}

/// The case with its target, safe to print.
pub(crate) fn title(case: &CaseFinished) -> String {
    format!("{} {}", text::escape_line(&case.target_name), text::escape_line(&case.name))
}

/// Whether it left something behind.
pub(crate) fn has_leaked(case: &CaseFinished) -> bool {
    case.leaked || !case.strays.is_empty()
}

/// What it left behind, a clause for each kind.
pub(crate) fn leaks(case: &CaseFinished) -> Vec<String> {
    let processes = case.leaked.then(|| "left processes behind".to_owned());
    let strays = (!case.strays.is_empty()).then(|| {
        let strays: Vec<String> = case.strays.iter().map(|path| text::escape_line(path)).collect();
        format!("wrote outside of its own places: {}", strays.join(", "))
    });
    processes.into_iter().chain(strays).collect()
}

/// What an outcome means, where the word alone does not say it.
pub(crate) fn explanation(case: &CaseFinished) -> Option<String> {
    match case.outcome.as_str() {
        // What it passed, with what was used and what the limit was.
        _ if case.message.starts_with("killed: ") => None,
        "crashed" if case.signal == 0 => Some("the process ended without a word while the case was running".into()),
        "crashed" => Some(match signal_name(case.signal) {
            Some(name) => format!("the process was killed by {name}"),
            None => format!("the process was killed by signal {}", case.signal),
        }),
        "timed_out" => Some("it passed its time and was killed".into()),
        "memory_exceeded" => Some("it passed its memory and was killed".into()),
        "output_exceeded" => Some("it wrote more than it may".into()),
        "processes_exceeded" => Some("it wanted more processes than it may have and was killed".into()),
        "flaky" => Some(format!("it passed at the {} attempt", ordinal(case.attempts))),
        "interference" => Some("it failed in company and passed alone".into()),
        "poison" => Some("agents that ran it were lost, in company and alone".into()),
        "fault" => Some("the fleet could not get a verdict".into()),
        _ => None,
    }
}

fn signal_name(signal: u32) -> Option<&'static str> {
    let number = i32::try_from(signal).ok()?;
    nix::sys::signal::Signal::try_from(number).ok().map(nix::sys::signal::Signal::as_str)
}

fn ordinal(number: u32) -> String {
    match (number % 10, number % 100) {
        (1, tens) if tens != 11 => format!("{number}st"),
        (2, tens) if tens != 12 => format!("{number}nd"),
        (3, tens) if tens != 13 => format!("{number}rd"),
        _ => format!("{number}th"),
    }
}

/// The names that a case ran with, cut to a few.
pub(crate) fn company(case: &CaseFinished) -> String {
    const SHOWN_MAX: usize = 10;
    let names: Vec<String> = case.company.iter().take(SHOWN_MAX).map(|name| text::escape_line(name)).collect();
    let mut line = names.join(", ");
    if case.company.len() > SHOWN_MAX {
        line.push_str(&format!(" and {} more", case.company.len() - SHOWN_MAX));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_is_never_good() {
        assert_eq!(class("splendid"), Class::Bad);
        assert_eq!(word("splendid"), "FAULT");
    }

    #[test]
    fn a_crash_names_its_signal() {
        let case = CaseFinished { outcome: "crashed".into(), signal: 11, ..CaseFinished::default() };
        assert_eq!(explanation(&case).as_deref(), Some("the process was killed by SIGSEGV"));
        let case = CaseFinished { signal: 4000, ..case };
        assert_eq!(explanation(&case).as_deref(), Some("the process was killed by signal 4000"));
    }

    #[test]
    fn attempts_are_counted_in_words() {
        assert_eq!(
            [1, 2, 3, 4, 11, 12, 13, 21].map(ordinal),
            ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st"]
        );
    }
}
