//! What a shard's frames and its end come to.

use std::collections::VecDeque;
use std::time::Duration;

use muster_model::attempt::{CaseReport, Interruption};
use muster_model::limits::{CASE_OUTPUT_BYTES_MAX, SHARD_OUTPUT_BYTES_MAX};
use muster_model::outcome::Verdict;
use muster_model::{CaseIndex, Instant};

use super::frame::{self, Frame, Said};
use crate::alone::{exit_code, verdict_of_silence};
use crate::output::{Excerpt, Lines, is_sanitizer_report, message};
use crate::{CaseEvent, Ending, EndingStatus, ResultReader, Shard, Stream, Summary};

/// The time that a frame may claim for one case, in seconds; more is not a time.
const DURATION_SECONDS_MAX: f64 = 1e9;

pub(super) struct Reader {
    nonce: String,
    cases: Vec<Case>,
    standard: Lines,
    error: Lines,
    /// What is not framed, for a case that runs alone and dies.
    words: Excerpt,
    began: Option<Instant>,
    running: Option<u32>,
    /// A frame made no sense: a case twice, a result without a start.
    is_contradicted: bool,
    collection_errors: String,
    end: Option<(i32, usize, usize)>,
    output_bytes_left: usize,
    events: VecDeque<CaseEvent>,
}

struct Case {
    index: CaseIndex,
    is_started: bool,
    report: Option<CaseReport>,
    never_retry: bool,
}

impl Reader {
    pub(super) fn new(shard: &Shard<'_>) -> Self {
        let case =
            |&(index, _): &(CaseIndex, String)| Case { index, is_started: false, report: None, never_retry: false };
        Self {
            nonce: shard.nonce.to_owned(),
            cases: shard.cases.iter().map(case).collect(),
            standard: Lines::default(),
            error: Lines::default(),
            words: Excerpt::new(CASE_OUTPUT_BYTES_MAX),
            began: None,
            running: None,
            is_contradicted: false,
            collection_errors: String::new(),
            end: None,
            output_bytes_left: SHARD_OUTPUT_BYTES_MAX,
            events: VecDeque::new(),
        }
    }

    fn read_frame(&mut self, frame: Frame) {
        match frame {
            Frame::Start { case } => match self.cases.get_mut(case as usize) {
                Some(found) if !found.is_started && self.running.is_none() => {
                    found.is_started = true;
                    self.running = Some(case);
                    self.events.push_back(CaseEvent::Started(case));
                }
                _ => self.is_contradicted = true,
            },
            Frame::Result { case, verdict, duration, message, output } => {
                if self.running != Some(case) {
                    self.is_contradicted = true;
                    return;
                }
                self.running = None;
                self.events.push_back(CaseEvent::Ended(case));
                self.keep(case, verdict, duration, &message, &output);
            }
            Frame::CollectionError { name, output } => {
                if self.collection_errors.len() < CASE_OUTPUT_BYTES_MAX {
                    self.collection_errors.push_str(&format!("error collecting {name}\n{output}\n"));
                }
            }
            Frame::End { status, count, errors } if self.end.is_none() => self.end = Some((status, count, errors)),
            Frame::End { .. } | Frame::Case { .. } => self.is_contradicted = true,
        }
    }

    fn keep(&mut self, case: u32, said: Said, seconds: f64, words: &str, output: &str) {
        let mut excerpt = Excerpt::new(self.output_bytes_left.min(CASE_OUTPUT_BYTES_MAX));
        excerpt.push(output.as_bytes());
        let output = excerpt.into_text();
        self.output_bytes_left = self.output_bytes_left.saturating_sub(output.len());
        let duration = match seconds {
            seconds if (0.0..DURATION_SECONDS_MAX).contains(&seconds) => Duration::from_secs_f64(seconds),
            _ => Duration::ZERO,
        };
        let verdict = match said {
            Said::Passed => Verdict::Passed,
            Said::Failed => Verdict::Failed,
            Said::Skipped => Verdict::Skipped,
        };
        let case = &mut self.cases[case as usize];
        let report = CaseReport {
            case: case.index,
            verdict,
            duration,
            message: message(words),
            output,
            never_retry: false,
            leaked: false,
            strays: Vec::new(),
        };
        case.report = Some(report);
    }

    /// Whether the end frame, the results and the exit status say the same.
    fn is_consistent(&self, code: i32) -> bool {
        let reports = || self.cases.iter().filter_map(|case| case.report.as_ref());
        let has_failed = reports().any(|report| report.verdict == Verdict::Failed);
        let count = reports().count();
        match self.end {
            Some((status, said, errors)) => {
                let expected = i32::from(has_failed || errors > 0);
                let is_empty = count == 0 && code == super::NOTHING_COLLECTED;
                !self.is_contradicted
                    && status == code
                    && said == count
                    && self.running.is_none()
                    && (code == expected || is_empty)
            }
            None => false,
        }
    }

    /// A process that held one case: how it ended decides.
    fn finish_alone(mut self, now: Instant, ending: &Ending) -> Summary {
        let code = exit_code(ending);
        let is_consistent = code.as_ref().is_ok_and(|code| self.is_consistent(*code));
        let case = self.cases.remove(0);
        let written = |(verdict, message), output| CaseReport {
            case: case.index,
            verdict,
            duration: self.began.map_or(Duration::ZERO, |began| now.since(began)),
            message,
            output,
            never_retry: false,
            leaked: false,
            strays: Vec::new(),
        };
        let words = self.words.into_text();
        let failed = |message: String| (Verdict::Failed, message);
        let mut report = match (code, case.report) {
            (Err(death), _) => written(death, words),
            (Ok(_), Some(report)) if is_consistent || report.verdict == Verdict::Failed => report,
            (Ok(code), Some(_)) => {
                written(failed(format!("pytest says that the case is fine, and exits with status {code}")), words)
            }
            (Ok(code), None) if case.is_started => written(verdict_of_silence(code), words),
            (Ok(_), None) if !self.collection_errors.is_empty() => {
                let reason = self.collection_errors.lines().next().unwrap_or_default();
                written(failed(message(reason)), self.collection_errors)
            }
            (Ok(0 | super::NOTHING_COLLECTED), None) => {
                written(failed("pytest listed this case, and does not find it when it is run".to_owned()), words)
            }
            (Ok(code), None) => {
                written(failed(format!("pytest exited with status {code} before the case started")), words)
            }
        };
        report.leaked = ending.leaked;
        report.never_retry = case.never_retry && !report.verdict.is_success();
        Summary { reports: vec![report], interruption: None }
    }

    /// A process that held several: what is beyond doubt counts, the rest is left open.
    fn finish_batch(self, ending: &Ending) -> Summary {
        let running = self.running.map(|position| self.cases[position as usize].index);
        let interruption = match (ending.killed, ending.status) {
            (Some(_), _) | (None, EndingStatus::Signal(_)) if self.end.is_some() => (Interruption::Contradicted, None),
            (Some(reason), _) => (reason, running),
            (None, EndingStatus::Signal(signal)) => (Interruption::Crashed { signal }, running),
            (None, EndingStatus::Code(code)) if self.is_consistent(code) => (Interruption::Contradicted, None),
            // `pytest.exit`, an interrupt, or an exit from inside a test: the case under way did it.
            (None, EndingStatus::Code(_)) if self.running.is_some() => (Interruption::Crashed { signal: 0 }, running),
            (None, EndingStatus::Code(_)) => (Interruption::Contradicted, None),
        };
        let is_believed = !self.is_contradicted
            && match ending.status {
                EndingStatus::Code(code) if ending.killed.is_none() => self.is_consistent(code) || running.is_some(),
                _ => self.end.is_none(),
            };
        let count = self.cases.len();
        let reports: Vec<CaseReport> =
            self.cases.into_iter().filter(|_| is_believed).filter_map(Case::into_report).collect();
        let interruption = (reports.len() < count).then_some(interruption);
        Summary { reports, interruption }
    }
}

impl Case {
    fn into_report(self) -> Option<CaseReport> {
        let never_retry = self.never_retry;
        self.report.map(|report| CaseReport { never_retry: never_retry && !report.verdict.is_success(), ..report })
    }
}

impl ResultReader for Reader {
    fn push(&mut self, now: Instant, stream: Stream, mut bytes: &[u8]) {
        self.began.get_or_insert(now);
        match stream {
            Stream::Standard => {
                while self.standard.fill(&mut bytes) {
                    let line = self.standard.line();
                    match frame::read(&self.nonce, line) {
                        Some(frame) => self.read_frame(frame),
                        None if line.is_empty() => {}
                        None => {
                            self.words.push(line);
                            self.words.push(b"\n");
                        }
                    }
                }
            }
            Stream::Error => {
                self.words.push(bytes);
                while self.error.fill(&mut bytes) {
                    if is_sanitizer_report(self.error.line())
                        && let Some(running) = self.running
                    {
                        self.cases[running as usize].never_retry = true;
                    }
                }
            }
        }
    }

    fn poll(&mut self) -> Option<CaseEvent> {
        self.events.pop_front()
    }

    fn finish(self: Box<Self>, now: Instant, ending: Ending) -> Summary {
        match self.cases.len() {
            1 => self.finish_alone(now, &ending),
            _ => self.finish_batch(&ending),
        }
    }
}
