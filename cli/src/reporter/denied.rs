//! `--deny-leaks`: what left something behind has failed.
//!
//! The verdict is the test's own and stays in the ledger and the cache as it is; who denies leaks is told of a failure instead, and the run's
//! summary counts it as one.

use muster_proto::v1::RunEvent;
use muster_proto::v1::run_event::Event;

use super::outcome::{Class, class, has_leaked, leaks};

/// Turns events of a run into those that somebody who denies leaks wants to see.
#[derive(Debug, Default)]
pub struct DeniedLeaks {
    count: u32,
    flaky: u32,
    interference: u32,
}

impl DeniedLeaks {
    /// Changes one event, in the order of the run.
    pub fn apply(&mut self, event: &mut RunEvent) {
        match &mut event.event {
            Some(Event::CaseFinished(case)) if has_leaked(case) => {
                if !matches!(class(&case.outcome), Class::Good | Class::Suspicious) {
                    return;
                }
                self.count += 1;
                self.flaky += u32::from(case.outcome == "flaky");
                self.interference += u32::from(case.outcome == "interference");
                case.outcome = "failed".into();
                case.message = format!("it {}, which --deny-leaks forbids", leaks(case).join(" and "));
            }
            Some(Event::RunFinished(finished)) => {
                let Some(summary) = finished.summary.as_mut().filter(|_| self.count > 0) else { return };
                summary.passed = summary.passed.saturating_sub(self.count);
                summary.failed += self.count;
                summary.flaky = summary.flaky.saturating_sub(self.flaky);
                summary.interference = summary.interference.saturating_sub(self.interference);
                if summary.outcome == "passed" {
                    summary.outcome = "failed".into();
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{CaseFinished, RunFinished, RunSummary};

    use super::*;
    use crate::exit_code::ExitCode;
    use crate::reporter::Tally;

    fn event(event: Event) -> RunEvent {
        RunEvent { event: Some(event), ..RunEvent::default() }
    }

    #[test]
    fn a_leak_is_a_failure_and_the_summary_says_so() {
        let case = |number, outcome: &str, leaked, strays: &[&str]| {
            let strays = strays.iter().map(|path| (*path).to_owned()).collect();
            event(Event::CaseFinished(CaseFinished {
                case: number,
                outcome: outcome.into(),
                leaked,
                strays,
                ..CaseFinished::default()
            }))
        };
        let summary =
            RunSummary { outcome: "passed".into(), planned: 4, passed: 3, skipped: 1, ..RunSummary::default() };
        let events = [
            case(0, "passed", false, &[]),
            case(1, "passed", true, &[]),
            case(2, "passed", true, &["/usr/a", "/etc/b"]),
            case(3, "skipped", true, &[]),
            event(Event::RunFinished(RunFinished { summary: Some(summary), ..RunFinished::default() })),
        ];
        let (mut denied, mut tally, mut said) = (DeniedLeaks::default(), Tally::default(), Vec::new());
        for mut event in events {
            denied.apply(&mut event);
            tally.count(&event);
            if let Some(Event::CaseFinished(case)) = event.event {
                said.push(format!("{} {}", case.outcome, case.message));
            }
        }
        insta::assert_snapshot!(said.join("\n"), @r"
        passed 
        failed it left processes behind, which --deny-leaks forbids
        failed it left processes behind and wrote outside of its own places: /usr/a, /etc/b, which --deny-leaks forbids
        skipped 
        ");
        assert_eq!((tally.passed, tally.failed, tally.exit_code()), (1, 2, ExitCode::TestFailed));
        assert_eq!(tally.summary().0.failed, 2);
    }
}
