//! What people read about a case: made from the outcome, the attempt's report and the run's names.

use std::collections::HashMap;
use std::time::Duration;

use muster_model::attempt::{AttemptReport, AttemptResult, CaseReport, Work};
use muster_model::outcome::{CaseOutcome, FaultKind, Verdict};
use muster_model::platform::Requirements;
use muster_model::{CaseIndex, Epoch, TargetIndex};
use muster_proto::v1;

use crate::open_run::OpenRun;

/// An agent's report, kept until the commands that follow from it are carried out.
pub(crate) struct KeptReport {
    pub(crate) report: AttemptReport,
    positions: HashMap<CaseIndex, usize>,
}

impl KeptReport {
    /// Indexes a report by case.
    pub(crate) fn new(report: AttemptReport) -> Self {
        let positions = match &report.result {
            AttemptResult::Ran { reports, .. } => {
                reports.iter().enumerate().map(|(position, report)| (report.case, position)).collect()
            }
            _ => HashMap::new(),
        };
        Self { report, positions }
    }

    /// What it says of a case.
    pub(crate) fn case(&self, case: CaseIndex) -> Option<&CaseReport> {
        let AttemptResult::Ran { reports, .. } = &self.report.result else { return None };
        self.positions.get(&case).and_then(|&position| reports.get(position))
    }

    /// Every report of a case.
    pub(crate) fn cases(&self) -> &[CaseReport] {
        match &self.report.result {
            AttemptResult::Ran { reports, .. } => reports,
            _ => &[],
        }
    }

    /// What its end is called in the ledger.
    pub(crate) fn result_name(&self) -> &'static str {
        match &self.report.result {
            AttemptResult::Discovered { .. } => "discovered",
            AttemptResult::Ran { .. } => "ran",
            AttemptResult::DiscoveryFailed { .. } => "discovery_failed",
            AttemptResult::ActionRan(_) => "action_ran",
            AttemptResult::Fault(fault) => fault.kind.name(),
        }
    }

    /// The fleet's own words.
    pub(crate) fn fault_message(&self) -> Option<&str> {
        match &self.report.result {
            AttemptResult::Fault(fault) => Some(&fault.message),
            _ => None,
        }
    }
}

/// A decided case, as `Command::DecideCase` names it.
#[derive(Clone, Copy)]
pub(crate) struct DecidedCase {
    pub(crate) target: TargetIndex,
    pub(crate) case: CaseIndex,
    pub(crate) outcome: CaseOutcome,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) company: Option<Epoch>,
    pub(crate) attempts: u32,
}

/// The event of a decided case.
pub(crate) fn case_finished(run: &OpenRun, decided: DecidedCase, kept: Option<&KeptReport>) -> v1::CaseFinished {
    let DecidedCase { target, case, outcome, epoch, company, attempts } = decided;
    let said = kept.and_then(|kept| kept.case(case));
    let failed = run.failures.get(&(target, case));
    // What was flaky or interfered with passed in the end; the words that matter are those of its failure.
    let words = match outcome {
        CaseOutcome::Flaky | CaseOutcome::Interference => failed.or(said),
        _ => said.or(failed),
    };
    let message = match words {
        Some(words) if !words.message.is_empty() || outcome_is_said(outcome) => words.message.clone(),
        _ => sentence(run, target, outcome, kept),
    };
    let spec = run.target(target).map(|target| &target.prepared.spec);
    v1::CaseFinished {
        target: target.0,
        target_name: spec.map(|spec| spec.name.clone()).unwrap_or_default(),
        suite: spec.map(|spec| spec.suite.clone()).unwrap_or_default(),
        name: run.case_name(target, case).to_owned(),
        outcome: outcome.name().to_owned(),
        duration_us: said.map_or(0, |said| u64::try_from(said.duration.as_micros()).unwrap_or(u64::MAX)),
        message,
        output: words.map(|words| words.output.clone()).unwrap_or_default(),
        cached: false,
        agent: epoch.and_then(|epoch| run.leases.get(&epoch)).map(|lease| lease.agent_name.clone()).unwrap_or_default(),
        environment: spec.map(|spec| spec.requirements.environment.name().to_owned()).unwrap_or_default(),
        without: spec.map(|spec| without(&spec.requirements)).unwrap_or_default(),
        attempts,
        company: company.map(|company| company_names(run, company, case)).unwrap_or_default(),
        leaked: said.is_some_and(|said| said.leaked),
        strays: said.map(|said| said.strays.clone()).unwrap_or_default(),
        signal: match outcome {
            CaseOutcome::Verdict(Verdict::Crashed { signal }) => u32::from(signal),
            _ => 0,
        },
        case: case.0,
    }
}

/// The walls that a target's sandboxes may lack, by name.
pub(crate) fn without(requirements: &Requirements) -> Vec<String> {
    requirements.without.iter().map(|weakness| weakness.name().to_owned()).collect()
}

/// Whether an empty message of the test itself says enough.
fn outcome_is_said(outcome: CaseOutcome) -> bool {
    matches!(
        outcome,
        CaseOutcome::Verdict(Verdict::Passed | Verdict::Failed | Verdict::Skipped)
            | CaseOutcome::Flaky
            | CaseOutcome::Interference
    )
}

/// How long a case ran, as its attempt says.
pub(crate) fn duration(kept: Option<&KeptReport>, case: CaseIndex) -> Option<Duration> {
    kept.and_then(|kept| kept.case(case)).map(|said| said.duration)
}

fn company_names(run: &OpenRun, company: Epoch, case: CaseIndex) -> Vec<String> {
    let Some(lease) = run.leases.get(&company) else { return Vec::new() };
    match &lease.work {
        Work::Discover | Work::Action => Vec::new(),
        Work::Cases { cases, .. } => {
            let others: Vec<CaseIndex> = cases.iter().copied().filter(|&other| other != case).collect();
            run.case_names(lease.target, &others)
        }
    }
}

fn sentence(run: &OpenRun, target: TargetIndex, outcome: CaseOutcome, kept: Option<&KeptReport>) -> String {
    match outcome {
        CaseOutcome::Verdict(Verdict::Crashed { signal: 0 }) => {
            "its process ended without a word while it was running".into()
        }
        CaseOutcome::Verdict(Verdict::Crashed { signal }) => {
            format!("its process died of signal {signal} while it was running")
        }
        CaseOutcome::Verdict(Verdict::TimedOut) => {
            let spec = run.target(target).map(|target| &target.prepared.spec);
            let timeout = spec.map_or(run.policy.case_timeout, |spec| spec.case_timeout(&run.policy));
            format!("it ran longer than {timeout:?} and was killed")
        }
        CaseOutcome::Verdict(Verdict::MemoryExceeded) => "it passed its memory and was killed".into(),
        CaseOutcome::Verdict(Verdict::OutputExceeded) => "it wrote more than it may and was killed".into(),
        CaseOutcome::Verdict(Verdict::ProcessesExceeded) => {
            "it wanted more processes than it may have and was killed".into()
        }
        CaseOutcome::Verdict(_) | CaseOutcome::Flaky | CaseOutcome::Interference => String::new(),
        CaseOutcome::Poison => "agents were lost whenever it ran, in company and alone".into(),
        CaseOutcome::Fault(kind) => {
            kept.and_then(KeptReport::fault_message).map_or_else(|| fault_sentence(kind).into(), str::to_owned)
        }
        CaseOutcome::Cancelled => "the run was cancelled before it had a verdict".into(),
    }
}

/// What a class of faults means, where nobody said more.
pub(crate) fn fault_sentence(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::AgentLost => "the agent went away",
        FaultKind::Inputs => "an input could not be had",
        FaultKind::Environment => "no environment could be made",
        FaultKind::Start => "the program could not be started",
        FaultKind::Returned => "the agent gave the work back",
        FaultKind::Protocol => "the output could not be understood",
    }
}
