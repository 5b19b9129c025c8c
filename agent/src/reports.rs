//! Reports that fit their messages.

use std::time::Duration;

use muster_model::Instant;
use muster_model::attempt::{AttemptReport, AttemptResult};
use muster_model::limits;
use muster_model::outcome::FaultKind;
use muster_proto::v1;
use prost::Message;

use crate::executor::fault;

/// Room for the reports in one message; the rest is for statuses and who the agent is.
const FINISHED_BYTES_MAX: usize = limits::BATCH_BYTES_MAX;
/// Where output was cut.
const CUT: &str = "\n[... cut ...]\n";

/// The report on the wire, small enough for one message: outputs are cut further until it is.
pub(crate) fn fit(mut report: AttemptReport) -> v1::AttemptReport {
    cut_texts(&mut report.result, limits::CASE_OUTPUT_BYTES_MAX);
    let mut wire = v1::AttemptReport::from(&report);
    let mut allowed = limits::CASE_OUTPUT_BYTES_MAX / 2;
    while wire.encoded_len() > FINISHED_BYTES_MAX {
        if allowed == 0 || !matches!(report.result, AttemptResult::Ran { .. }) {
            let limit = FINISHED_BYTES_MAX;
            let message = format!("the report has {} bytes and passes the limit of {limit}", wire.encoded_len());
            report.result = AttemptResult::Fault(fault(FaultKind::Protocol, message));
        }
        cut_texts(&mut report.result, allowed);
        wire = v1::AttemptReport::from(&report);
        allowed /= 2;
    }
    wire
}

fn cut_texts(result: &mut AttemptResult, limit: usize) {
    match result {
        AttemptResult::Ran { reports, .. } => {
            for report in reports {
                cut(&mut report.output, limit);
                cut(&mut report.message, limit);
            }
        }
        AttemptResult::DiscoveryFailed { message } => cut(message, limit),
        AttemptResult::Fault(fault) => cut(&mut fault.message, limit),
        AttemptResult::ActionRan(report) => cut(&mut report.message, limit),
        AttemptResult::Discovered { .. } => {}
    }
}

/// Keeps head and tail.
fn cut(text: &mut String, limit: usize) {
    if text.len() <= limit {
        return;
    }
    let half = limit.saturating_sub(CUT.len()) / 2;
    let head = text.floor_char_boundary(half);
    let tail = text.ceil_char_boundary(text.len() - half);
    let cut = if limit < CUT.len() { "" } else { CUT };
    *text = [&text[..head], cut, &text[tail..]].concat();
}

/// One message after another that together carry all of `finished`; each says the whole state.
pub(crate) fn split(
    state: v1::AgentReport,
    finished: impl Iterator<Item = v1::AttemptReport>,
) -> impl Iterator<Item = v1::AgentReport> {
    let mut groups: Vec<Vec<v1::AttemptReport>> = vec![Vec::new()];
    let mut bytes = 0;
    for report in finished {
        let length = report.encoded_len();
        if bytes > 0 && bytes + length > FINISHED_BYTES_MAX {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += length;
        if let Some(group) = groups.last_mut() {
            group.push(report);
        }
    }
    groups.into_iter().map(move |finished| v1::AgentReport { finished, ..state.clone() })
}

/// The machine's load average over one minute, read again when it is old.
#[derive(Debug, Default)]
pub(crate) struct LoadAverage {
    read: Option<(Instant, u32)>,
}

impl LoadAverage {
    /// In thousandths; 0 where there is none.
    pub(crate) fn read(&mut self, now: Instant) -> u32 {
        const OLD: Duration = limits::REPORT_INTERVAL;
        match self.read {
            Some((at, load)) if now.since(at) < OLD => load,
            _ => {
                let load = std::fs::read_to_string("/proc/loadavg").ok().and_then(|text| thousandths(&text));
                self.read = Some((now, load.unwrap_or(0)));
                load.unwrap_or(0)
            }
        }
    }
}

/// The first number of `/proc/loadavg` (`proc_loadavg(5)`), which has two decimals.
fn thousandths(text: &str) -> Option<u32> {
    let first = text.split_ascii_whitespace().next()?;
    let (whole, decimals) = first.split_once('.')?;
    let decimals: u32 = format!("{decimals:0<3}").get(..3)?.parse().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(decimals)
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::attempt::{CaseReport, Timings, Usage};
    use muster_model::outcome::Verdict;
    use muster_model::{CaseIndex, Epoch};

    fn failed(case: u32, output: String) -> CaseReport {
        CaseReport {
            case: CaseIndex(case),
            verdict: Verdict::Failed,
            duration: Duration::ZERO,
            message: String::new(),
            output,
            never_retry: false,
            leaked: false,
            strays: Vec::new(),
        }
    }

    fn ran(reports: Vec<CaseReport>) -> AttemptReport {
        AttemptReport {
            epoch: Epoch(1),
            result: AttemptResult::Ran { reports, interruption: None, leaked_in_company: false },
            timings: Timings::default(),
            usage: Usage::default(),
        }
    }

    #[test]
    fn a_report_of_a_thousand_loud_failures_fits_and_keeps_every_verdict() {
        let loud = "ä".repeat(limits::CASE_OUTPUT_BYTES_MAX);
        let wire = fit(ran((0..1000).map(|case| failed(case, loud.clone())).collect()));
        assert!(wire.encoded_len() <= FINISHED_BYTES_MAX);
        let report = AttemptReport::try_from(&wire).unwrap();
        let AttemptResult::Ran { reports, .. } = report.result else { panic!("{:?}", report.result) };
        assert_eq!(reports.len(), 1000);
        assert!(
            reports[0].output.contains(CUT) && reports[0].output.starts_with('ä') && reports[0].output.ends_with('ä')
        );
    }

    #[test]
    fn a_quiet_report_is_left_alone() {
        let report = ran(vec![failed(3, "short".to_owned())]);
        assert_eq!(AttemptReport::try_from(&fit(report.clone())), Ok(report));
    }

    #[test]
    fn many_reports_travel_in_several_messages() {
        let long = "x".repeat(limits::CASE_OUTPUT_BYTES_MAX);
        let reports = (0..100).map(|epoch| v1::AttemptReport {
            epoch,
            result: Some(v1::attempt_report::Result::DiscoveryFailed(long.clone())),
            ..v1::AttemptReport::default()
        });
        let messages: Vec<_> = split(v1::AgentReport::default(), reports).collect();
        assert!(messages.len() > 1);
        assert!(messages.iter().all(|message| message.encoded_len() <= limits::MESSAGE_BYTES_MAX));
        assert_eq!(messages.iter().map(|message| message.finished.len()).sum::<usize>(), 100);
        assert_eq!(split(v1::AgentReport::default(), std::iter::empty()).count(), 1);
    }

    #[test]
    fn load_is_read_in_thousandths() {
        assert_eq!(thousandths("1.25 0.80 0.50 2/321 4242\n"), Some(1250));
        assert_eq!(thousandths("12.00"), Some(12_000));
        assert_eq!(thousandths("load"), None);
    }
}
