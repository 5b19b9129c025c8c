//! Several cases in one process.
//!
//! The text of a case runs from its own `test NAME ... ` to the next one's, or to the closing section, which the harness writes when all have been
//! run. Its last line that is not blank holds the result. Cases may write there too, so a result is believed in two ways only:
//!
//! - The process ended by itself, and the exit status, the closing counts and the results read here say the same. If some results could not be
//!   read, only those count whose text is the harness's word and nothing else.
//! - The process died. Then only such clean results count, and never the one of the last case that had started: nothing the harness wrote
//!   afterwards vouches for it.
//!
//! A second start of a case that is not under way (a forged line, or a case that runs its own test binary) withdraws belief in all of it.
//! What is not believed is left open and runs again alone.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use muster_model::attempt::{CaseReport, Interruption};
use muster_model::limits::{CASE_OUTPUT_BYTES_MAX, SHARD_OUTPUT_BYTES_MAX};
use muster_model::outcome::Verdict;
use muster_model::{CaseIndex, Instant};

use super::line::{self, Reason, Said, Totals};
use crate::output::{Excerpt, Lines, is_sanitizer_report};
use crate::{CaseEvent, Ending, EndingStatus, ResultReader, Stream, Summary};

pub(super) struct Reader {
    positions: HashMap<Vec<u8>, u32>,
    cases: Vec<Case>,
    standard: Lines,
    error: Lines,
    /// How far the line that is growing has been searched for a case's start.
    searched: usize,
    /// Where, in the line that is growing, the text of the case that it starts begins.
    text_start: Option<usize>,
    announced: Option<usize>,
    started: usize,
    section: Section,
    doubt: Doubt,
    totals: Option<Totals>,
    output_bytes_left: usize,
    events: VecDeque<CaseEvent>,
}

/// What is known of one case.
struct Case {
    index: CaseIndex,
    began: Option<Instant>,
    ended: Option<Instant>,
    said: Option<Said>,
    /// Its text is the harness's word and nothing else.
    is_clean: bool,
    never_retry: bool,
    words: Option<Words>,
}

/// What a failed case wrote, as the closing section repeats it.
struct Words {
    output: Excerpt,
    reason: Reason,
}

/// Which part of the output is being read.
enum Section {
    Head,
    /// A case's text, and what its last line that is not blank said.
    Case {
        position: u32,
        lines: usize,
        last: Option<(Said, bool)>,
    },
    /// What the cases wrote, one after the other, and the counts.
    Closing {
        position: Option<u32>,
    },
}

/// How much a strange start of a case took away.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Doubt {
    None,
    /// The case under way seemed to start again: only a whole account is believed.
    Some,
    /// Another case seemed to start again: nothing is believed.
    All,
}

impl Reader {
    pub(super) fn new(cases: &[(CaseIndex, String)]) -> Self {
        let positions = (0..).zip(cases).map(|(position, (_, name))| (name.as_bytes().to_vec(), position)).collect();
        let case = |&(index, _): &(CaseIndex, String)| Case {
            index,
            began: None,
            ended: None,
            said: None,
            is_clean: false,
            never_retry: false,
            words: None,
        };
        Self {
            positions,
            cases: cases.iter().map(case).collect(),
            standard: Lines::default(),
            error: Lines::default(),
            searched: 0,
            text_start: None,
            announced: None,
            started: 0,
            section: Section::Head,
            doubt: Doubt::None,
            totals: None,
            output_bytes_left: SHARD_OUTPUT_BYTES_MAX,
            events: VecDeque::new(),
        }
    }

    /// Looks for a case's start in the line as far as it is there.
    fn read_start(&mut self, now: Instant) {
        if self.text_start.is_some() || matches!(self.section, Section::Closing { .. }) {
            return;
        }
        let positions = &self.positions;
        let find = |name: &[u8]| positions.get(name).copied();
        let Some((position, text_start)) = line::start(self.standard.line(), &mut self.searched, find) else { return };
        if let Section::Case { position: running, .. } = self.section
            && running == position
        {
            self.doubt = self.doubt.max(Doubt::Some);
            return;
        }
        self.close_case();
        self.text_start = Some(text_start);
        let case = &mut self.cases[position as usize];
        if case.began.is_some() {
            self.doubt = Doubt::All;
        } else {
            self.started += 1;
            case.began = Some(now);
            self.events.push_back(CaseEvent::Started(position));
        }
        self.section = Section::Case { position, lines: 0, last: None };
    }

    fn read_line(&mut self, now: Instant) {
        let line = self.standard.line();
        let text_start = self.text_start.take();
        self.searched = 0;
        if text_start.is_none() && self.starts_closing(line) {
            self.totals = line::totals(line);
            self.close_case();
            self.section = Section::Closing { position: None };
            return;
        }
        match &mut self.section {
            Section::Head => self.announced = self.announced.or_else(|| line::announced(line)),
            Section::Case { position, lines, last } => {
                let text = &line[text_start.unwrap_or(0)..];
                if !text.is_empty() {
                    *lines += 1;
                    *last = if self.standard.is_overlong() { None } else { line::result(text) };
                    self.cases[*position as usize].ended = Some(now);
                }
            }
            Section::Closing { .. } => self.read_closing_line(),
        }
    }

    fn starts_closing(&self, line: &[u8]) -> bool {
        let is_in_section = match self.section {
            // With nothing to run the counts follow the head.
            Section::Head => true,
            Section::Case { .. } => true,
            Section::Closing { .. } => false,
        };
        let expected = self.announced.map_or(self.cases.len(), |announced| announced.min(self.cases.len()));
        is_in_section
            && self.started >= expected
            && (line == b"failures:" || line == b"successes:" || line::totals(line).is_some())
    }

    fn read_closing_line(&mut self) {
        let Section::Closing { position } = &mut self.section else { return };
        let line = self.standard.line();
        if let Some(totals) = line::totals(line) {
            self.totals = Some(totals);
        }
        if line == b"failures:" {
            *position = None;
        } else if let Some(name) = line.strip_prefix(b"---- ").and_then(|rest| rest.strip_suffix(b" stdout ----"))
            && let Some(&found) = self.positions.get(name)
            && self.cases[found as usize].words.is_none()
        {
            let output = Excerpt::new(self.output_bytes_left.min(CASE_OUTPUT_BYTES_MAX));
            self.cases[found as usize].words = Some(Words { output, reason: Reason::default() });
            *position = Some(found);
        } else if let Some(words) = position.and_then(|position| self.cases[position as usize].words.as_mut()) {
            let before = words.output.kept_bytes();
            words.output.push(line);
            words.output.push(b"\n");
            self.output_bytes_left =
                self.output_bytes_left.saturating_sub(words.output.kept_bytes().saturating_sub(before));
            words.reason.push(line);
        }
    }

    /// The text of the case under way is over.
    fn close_case(&mut self) {
        if let Section::Case { position, lines, last } = std::mem::replace(&mut self.section, Section::Head) {
            let case = &mut self.cases[position as usize];
            case.is_clean = lines == 1 && last.as_ref().is_some_and(|(_, alone)| *alone);
            case.said = last.map(|(said, _)| said);
            self.events.push_back(CaseEvent::Ended(position));
        }
    }

    /// Whether what was read, the counts and the exit status say the same; cases without a result are allowed for.
    fn is_consistent(&self, totals: Totals, code: i32) -> bool {
        let count =
            |wanted: fn(&Said) -> bool| self.cases.iter().filter(|case| case.said.as_ref().is_some_and(wanted)).count();
        let passed = count(|said| *said == Said::Passed);
        let failed = count(|said| *said == Said::Failed);
        let ignored = count(|said| matches!(said, Said::Ignored(_)));
        let unread = self.cases.len() - passed - failed - ignored;
        totals.agrees_with(code)
            && totals.passed >= passed
            && totals.failed >= failed
            && totals.ignored >= ignored
            && totals.sum() - (passed + failed + ignored) <= unread
    }

    /// What is believed, and why the rest is not.
    fn judge(&mut self, ending: &Ending) -> (Belief, (Interruption, Option<CaseIndex>)) {
        let contradicted = (Interruption::Contradicted, None);
        let code = match (ending.killed, ending.status) {
            (None, EndingStatus::Code(code)) => Some(code),
            _ => None,
        };
        match (self.totals, code) {
            (Some(totals), Some(code)) if self.doubt < Doubt::All && self.is_consistent(totals, code) => {
                let is_whole = self.cases.iter().all(|case| case.said.is_some());
                let belief = match (is_whole, self.doubt) {
                    (true, _) => Belief::All,
                    (false, Doubt::None) => Belief::Clean,
                    (false, _) => Belief::Nothing,
                };
                (belief, contradicted)
            }
            (Some(_), _) => (Belief::Nothing, contradicted),
            (None, _) => {
                let last = match self.section {
                    Section::Case { position, .. } => Some(position),
                    Section::Head | Section::Closing { .. } => self.last_started(),
                };
                let suspect = last.map(|position| self.cases[position as usize].index);
                let belief = if self.doubt == Doubt::None { Belief::CleanBefore(last) } else { Belief::Nothing };
                (belief, (interruption(ending), suspect))
            }
        }
    }

    fn last_started(&self) -> Option<u32> {
        let began = |position: &u32| self.cases[*position as usize].began;
        (0..).take(self.cases.len()).filter(|position| began(position).is_some()).max_by_key(began)
    }
}

/// Which of the results that were read count.
enum Belief {
    Nothing,
    All,
    Clean,
    /// The clean ones but for the last case that had started.
    CleanBefore(Option<u32>),
}

impl Belief {
    fn covers(&self, position: u32, case: &Case) -> bool {
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Clean => case.is_clean,
            Self::CleanBefore(last) => case.is_clean && *last != Some(position),
        }
    }
}

/// Why a process that never closed its account is gone.
fn interruption(ending: &Ending) -> Interruption {
    match (ending.killed, ending.status) {
        (Some(reason), _) => reason,
        (None, EndingStatus::Signal(signal)) => Interruption::Crashed { signal },
        (None, EndingStatus::Code(_)) => Interruption::Crashed { signal: 0 },
    }
}

impl Case {
    fn into_report(self) -> Option<CaseReport> {
        let (verdict, mut message) = match self.said? {
            Said::Passed => (Verdict::Passed, String::new()),
            Said::Failed => (Verdict::Failed, String::new()),
            Said::Ignored(reason) => (Verdict::Skipped, crate::output::message(&reason)),
        };
        let mut output = String::new();
        if let Some(words) = self.words.filter(|_| verdict == Verdict::Failed) {
            output = words.output.into_text();
            message = words.reason.into_message();
        }
        let duration = self.began.zip(self.ended).map_or(Duration::ZERO, |(began, ended)| ended.since(began));
        let never_retry = self.never_retry && verdict == Verdict::Failed;
        Some(CaseReport {
            case: self.index,
            verdict,
            duration,
            message,
            output,
            never_retry,
            leaked: false,
            strays: Vec::new(),
        })
    }
}

impl ResultReader for Reader {
    fn push(&mut self, now: Instant, stream: Stream, mut bytes: &[u8]) {
        match stream {
            Stream::Standard => {
                while self.standard.fill(&mut bytes) {
                    self.read_start(now);
                    self.read_line(now);
                }
                self.read_start(now);
            }
            Stream::Error => {
                while self.error.fill(&mut bytes) {
                    if is_sanitizer_report(self.error.line())
                        && let Section::Case { position, .. } = self.section
                    {
                        self.cases[position as usize].never_retry = true;
                    }
                }
            }
        }
    }

    fn poll(&mut self) -> Option<CaseEvent> {
        self.events.pop_front()
    }

    fn finish(mut self: Box<Self>, _now: Instant, ending: Ending) -> Summary {
        let (belief, interruption) = self.judge(&ending);
        if matches!(self.section, Section::Case { .. }) {
            self.close_case();
        }
        let count = self.cases.len();
        let reports: Vec<CaseReport> = (0..)
            .zip(self.cases)
            .filter(|(position, case)| belief.covers(*position, case))
            .filter_map(|(_, case)| case.into_report())
            .collect();
        let interruption = (reports.len() < count).then_some(interruption);
        Summary { reports, interruption }
    }
}
