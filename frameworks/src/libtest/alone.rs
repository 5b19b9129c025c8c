//! One case in a process of its own: the exit status decides.

use muster_model::attempt::CaseReport;
use muster_model::outcome::Verdict;
use muster_model::{CaseIndex, Instant};

use super::line::{self, FAILED_CODE, Reason, Totals};
use crate::alone::{Alone, exit_code, verdict_of_silence};
use crate::{CaseEvent, Ending, ResultReader, Stream, Summary, output};

pub(super) struct Reader {
    alone: Alone,
    name: String,
    totals: Option<Totals>,
    reason: Reason,
    skip_reason: String,
}

impl Reader {
    pub(super) fn new(case: CaseIndex, name: &str) -> Self {
        Self {
            alone: Alone::new(case),
            name: name.to_owned(),
            totals: None,
            reason: Reason::default(),
            skip_reason: String::new(),
        }
    }

    fn verdict(&mut self, ending: &Ending) -> (Verdict, String) {
        let code = match exit_code(ending) {
            Ok(code) => code,
            Err((verdict, message)) => return (verdict, message),
        };
        let reason = std::mem::take(&mut self.reason).into_message();
        match (code, self.totals) {
            (0, Some(Totals { is_ok: true, passed: 1, failed: 0, ignored: 0 })) => (Verdict::Passed, String::new()),
            (0, Some(Totals { is_ok: true, passed: 0, failed: 0, ignored: 1 })) => {
                (Verdict::Skipped, std::mem::take(&mut self.skip_reason))
            }
            (0, Some(Totals { is_ok: true, passed: 0, failed: 0, ignored: 0 })) => {
                (Verdict::Failed, "the test binary lists this test but does not run it".to_owned())
            }
            (FAILED_CODE, _) if reason.is_empty() => (Verdict::Failed, format!("exit status {FAILED_CODE}")),
            (FAILED_CODE, _) => (Verdict::Failed, reason),
            (0, Some(_)) => {
                (Verdict::Failed, "exit status 0 but the harness does not count one passed test".to_owned())
            }
            (_, Some(_)) => (Verdict::Failed, format!("the harness ended its run, but the exit status is {code}")),
            (_, None) => verdict_of_silence(code),
        }
    }
}

impl ResultReader for Reader {
    fn push(&mut self, now: Instant, stream: Stream, bytes: &[u8]) {
        let Self { alone, name, totals, reason, skip_reason } = self;
        alone.push(now, stream, bytes, |line| {
            if stream == Stream::Standard {
                if let Some(found) = line::totals(line) {
                    *totals = Some(found);
                }
                let is_name = |found: &[u8]| (found == name.as_bytes()).then_some(());
                if let Some(((), end)) = line::start(line, &mut 0, is_name)
                    && let Some(words) = line[end..].strip_prefix(b"ignored, ")
                {
                    *skip_reason = output::message(&String::from_utf8_lossy(words));
                }
            }
            reason.push(line);
        });
    }

    fn poll(&mut self) -> Option<CaseEvent> {
        self.alone.poll()
    }

    fn finish(mut self: Box<Self>, now: Instant, ending: Ending) -> Summary {
        let (verdict, message) = self.verdict(&ending);
        let report: CaseReport = self.alone.report(now, &ending, verdict, message);
        Summary { reports: vec![report], interruption: None }
    }
}
