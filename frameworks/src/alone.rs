//! A program that holds one case: whatever it wrote belongs to that case, and how it ended decides.

use std::collections::VecDeque;
use std::time::Duration;

use muster_model::attempt::{CaseReport, Interruption};
use muster_model::limits::CASE_OUTPUT_BYTES_MAX;
use muster_model::outcome::Verdict;
use muster_model::{CaseIndex, Instant};

use crate::output::{Excerpt, Lines, is_sanitizer_report};
use crate::{CaseEvent, Ending, EndingStatus, Stream};

/// What one case that has a process of its own leaves behind.
#[derive(Debug)]
pub(crate) struct Alone {
    case: CaseIndex,
    began: Option<Instant>,
    output: Excerpt,
    lines: [Lines; 2],
    never_retry: bool,
    events: VecDeque<CaseEvent>,
}

impl Alone {
    pub(crate) fn new(case: CaseIndex) -> Self {
        Self {
            case,
            began: None,
            output: Excerpt::new(CASE_OUTPUT_BYTES_MAX),
            lines: [Lines::default(), Lines::default()],
            never_retry: false,
            events: VecDeque::from([CaseEvent::Started(0)]),
        }
    }

    /// Keeps the bytes, and hands every line that they complete to `on_line`.
    pub(crate) fn push(&mut self, now: Instant, stream: Stream, mut bytes: &[u8], mut on_line: impl FnMut(&[u8])) {
        self.began.get_or_insert(now);
        self.output.push(bytes);
        let lines = &mut self.lines[usize::from(stream == Stream::Error)];
        while lines.fill(&mut bytes) {
            self.never_retry |= is_sanitizer_report(lines.line());
            on_line(lines.line());
        }
    }

    pub(crate) fn poll(&mut self) -> Option<CaseEvent> {
        self.events.pop_front()
    }

    /// The report under a verdict, with everything that was written unless the case passed.
    pub(crate) fn report(self, now: Instant, ending: &Ending, verdict: Verdict, message: String) -> CaseReport {
        let output = if verdict == Verdict::Passed { String::new() } else { self.output.into_text() };
        CaseReport {
            case: self.case,
            verdict,
            duration: self.began.map_or(Duration::ZERO, |began| now.since(began)),
            message,
            output,
            never_retry: self.never_retry && !verdict.is_success(),
            leaked: ending.leaked,
            strays: Vec::new(),
        }
    }
}

/// The exit code of a program that ended by itself.
///
/// # Errors
///
/// The verdict on one that did not get to say anything: killed by the agent, or dead of a signal.
pub(crate) fn exit_code(ending: &Ending) -> Result<i32, (Verdict, String)> {
    let killed = |verdict| Err((verdict, ending.excess.clone()));
    match (ending.killed, ending.status) {
        (None, EndingStatus::Code(code)) => Ok(code),
        (Some(Interruption::TimedOut), _) => killed(Verdict::TimedOut),
        (Some(Interruption::MemoryExceeded), _) => killed(Verdict::MemoryExceeded),
        (Some(Interruption::OutputExceeded), _) => killed(Verdict::OutputExceeded),
        (Some(Interruption::ProcessesExceeded), _) => killed(Verdict::ProcessesExceeded),
        (Some(Interruption::Crashed { signal }), _) | (None, EndingStatus::Signal(signal)) => {
            Err((Verdict::Crashed { signal }, format!("died of signal {signal}{}", signal_name(signal))))
        }
        (Some(Interruption::Contradicted), _) => Err((Verdict::Crashed { signal: 0 }, "was killed".to_owned())),
    }
}

/// The verdict on a program that exited although it had not said how its case ended.
pub(crate) fn verdict_of_silence(code: i32) -> (Verdict, String) {
    (Verdict::Crashed { signal: 0 }, format!("the process exited with status {code} while the test was running"))
}

/// The verdict of a bare exit status.
pub(crate) fn verdict_of_status(code: i32) -> (Verdict, String) {
    match code {
        0 => (Verdict::Passed, String::new()),
        _ => (Verdict::Failed, format!("exit status {code}")),
    }
}

/// Linux numbers its signals alike on every architecture that agents run on (`signal(7)`).
fn signal_name(signal: u8) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        13 => " (SIGPIPE)",
        15 => " (SIGTERM)",
        31 => " (SIGSYS)",
        _ => "",
    }
}
