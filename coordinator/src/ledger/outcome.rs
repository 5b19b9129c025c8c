//! Outcomes as the ledger spells them: a name and a number.

use muster_model::outcome::{CaseOutcome, FaultKind, Verdict};

const FAULT_KINDS: [FaultKind; 6] = [
    FaultKind::AgentLost,
    FaultKind::Inputs,
    FaultKind::Environment,
    FaultKind::Start,
    FaultKind::Returned,
    FaultKind::Protocol,
];

const PLAIN: [CaseOutcome; 11] = [
    CaseOutcome::Verdict(Verdict::Passed),
    CaseOutcome::Verdict(Verdict::Failed),
    CaseOutcome::Verdict(Verdict::Skipped),
    CaseOutcome::Verdict(Verdict::TimedOut),
    CaseOutcome::Verdict(Verdict::MemoryExceeded),
    CaseOutcome::Verdict(Verdict::OutputExceeded),
    CaseOutcome::Verdict(Verdict::ProcessesExceeded),
    CaseOutcome::Flaky,
    CaseOutcome::Interference,
    CaseOutcome::Poison,
    CaseOutcome::Cancelled,
];

/// The number beside an outcome's name: a crash's signal, a fault's kind.
pub(super) fn detail(outcome: CaseOutcome) -> i64 {
    match outcome {
        CaseOutcome::Verdict(Verdict::Crashed { signal }) => i64::from(signal),
        CaseOutcome::Fault(kind) => FAULT_KINDS.iter().position(|known| *known == kind).unwrap_or(0) as i64,
        _ => 0,
    }
}

/// The outcome of a name and a number; none when a row was damaged.
pub(super) fn parse(name: &str, detail: i64) -> Option<CaseOutcome> {
    match name {
        "crashed" => Some(CaseOutcome::Verdict(Verdict::Crashed { signal: u8::try_from(detail).ok()? })),
        "fault" => FAULT_KINDS.get(usize::try_from(detail).ok()?).map(|kind| CaseOutcome::Fault(*kind)),
        _ => PLAIN.iter().copied().find(|outcome| outcome.name() == name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_read_back() {
        let crashes = [0, 11].map(|signal| CaseOutcome::Verdict(Verdict::Crashed { signal }));
        let faults = FAULT_KINDS.map(CaseOutcome::Fault);
        for outcome in PLAIN.into_iter().chain(crashes).chain(faults) {
            assert_eq!(parse(outcome.name(), detail(outcome)), Some(outcome));
        }
        assert_eq!(parse("crashed", 300), None);
        assert_eq!(parse("wonderful", 0), None);
    }
}
