//! What a case's end in one attempt means: the ladder of isolation and the budget of tries.
//!
//! A case that fails in company is run once more alone. Passing there is *interference*; failing there is a try, of which it has
//! `retries + 1`. A pass after a failed try is *flaky*, and so is a skip: the case changed its mind, which has to be visible.

use muster_model::attempt::Interruption;
use muster_model::outcome::{CaseOutcome, Verdict};

/// What is known of a case when an attempt at it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// No other case shared its process in this attempt.
    pub(crate) alone: bool,
    /// It failed in company before.
    pub(crate) failed_in_company: bool,
    /// Tries alone that failed before.
    pub(crate) failed_tries: u32,
    /// Tries that may fail without being final.
    pub(crate) retries: u32,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// This is its outcome.
    Decide(CaseOutcome),
    /// It is run again alone; `failed_try` when this attempt was a try that failed.
    Again {
        /// Whether a try was used up.
        failed_try: bool,
    },
}

/// Judges a verdict.
pub(crate) fn judge(facts: Facts, verdict: Verdict, never_retry: bool) -> Step {
    if verdict.is_success() {
        return match facts {
            Facts { failed_tries: 1.., .. } => Step::Decide(CaseOutcome::Flaky),
            Facts { failed_in_company: true, alone: true, .. } => Step::Decide(CaseOutcome::Interference),
            Facts { failed_in_company: true, alone: false, .. } => Step::Again { failed_try: false },
            Facts { failed_in_company: false, .. } => Step::Decide(CaseOutcome::Verdict(verdict)),
        };
    }
    if never_retry {
        return Step::Decide(CaseOutcome::Verdict(verdict));
    }
    if !facts.alone {
        return Step::Again { failed_try: false };
    }
    if facts.failed_tries >= facts.retries {
        return Step::Decide(CaseOutcome::Verdict(verdict));
    }
    Step::Again { failed_try: true }
}

/// The verdict on a case that was alone when it was interrupted.
pub(crate) fn verdict_alone(interruption: Interruption) -> Verdict {
    match interruption {
        Interruption::Crashed { signal } => Verdict::Crashed { signal },
        Interruption::TimedOut => Verdict::TimedOut,
        Interruption::MemoryExceeded => Verdict::MemoryExceeded,
        Interruption::OutputExceeded => Verdict::OutputExceeded,
        Interruption::ProcessesExceeded => Verdict::ProcessesExceeded,
        Interruption::Contradicted => Verdict::Failed,
    }
}

/// Whether an interruption in company counts as a failure of the case that was running then. Memory, output and processes add up over the
/// whole company, and a contradiction names nobody.
pub(crate) fn is_failure_of_running(interruption: Interruption) -> bool {
    matches!(interruption, Interruption::Crashed { .. } | Interruption::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use CaseOutcome::{Flaky, Interference, Verdict as Final};
    use Verdict::{Crashed, Failed, Passed, Skipped};

    const ALONE: Facts = Facts { alone: true, failed_in_company: false, failed_tries: 0, retries: 0 };
    const COMPANY: Facts = Facts { alone: false, ..ALONE };

    #[test]
    fn every_rung_of_the_ladder() {
        let after_company = Facts { failed_in_company: true, ..ALONE };
        let retried = Facts { failed_tries: 1, retries: 2, ..ALONE };
        let spent = Facts { failed_tries: 2, ..retried };
        let again = |failed_try| Step::Again { failed_try };
        let table = [
            (COMPANY, Passed, false, Step::Decide(Final(Passed))),
            (COMPANY, Skipped, false, Step::Decide(Final(Skipped))),
            (COMPANY, Failed, false, again(false)),
            (COMPANY, Failed, true, Step::Decide(Final(Failed))),
            (Facts { alone: false, ..after_company }, Passed, false, again(false)),
            (after_company, Passed, false, Step::Decide(Interference)),
            (after_company, Failed, false, Step::Decide(Final(Failed))),
            (Facts { retries: 1, ..after_company }, Failed, false, again(true)),
            (Facts { failed_tries: 1, ..after_company }, Passed, false, Step::Decide(Flaky)),
            (ALONE, Passed, false, Step::Decide(Final(Passed))),
            (ALONE, Crashed { signal: 11 }, false, Step::Decide(Final(Crashed { signal: 11 }))),
            (retried, Failed, false, again(true)),
            (retried, Failed, true, Step::Decide(Final(Failed))),
            (retried, Passed, false, Step::Decide(Flaky)),
            (retried, Skipped, false, Step::Decide(Flaky)),
            (spent, Failed, false, Step::Decide(Final(Failed))),
        ];
        for (facts, verdict, never_retry, step) in table {
            assert_eq!(judge(facts, verdict, never_retry), step, "{facts:?} {verdict:?} {never_retry}");
        }
    }

    #[test]
    fn an_interruption_alone_is_the_verdict() {
        assert_eq!(verdict_alone(Interruption::Crashed { signal: 6 }), Crashed { signal: 6 });
        assert_eq!(verdict_alone(Interruption::TimedOut), Verdict::TimedOut);
        assert_eq!(verdict_alone(Interruption::MemoryExceeded), Verdict::MemoryExceeded);
        assert_eq!(verdict_alone(Interruption::OutputExceeded), Verdict::OutputExceeded);
        assert_eq!(verdict_alone(Interruption::ProcessesExceeded), Verdict::ProcessesExceeded);
        assert_eq!(verdict_alone(Interruption::Contradicted), Failed);
        assert!(!is_failure_of_running(Interruption::MemoryExceeded));
    }
}
