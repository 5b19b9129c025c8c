//! What agents and coordinators tell each other.

use core::time::Duration;

use muster_model::attempt::{
    Assignment, AttemptReport, AttemptResult, AttemptStatus, CaseReport, DiscoveredCase, Interruption, ShardTask,
    Stage, Task, Timings, Usage, Work,
};
use muster_model::outcome::{Fault, FaultKind, Verdict};
use muster_model::platform::Offer;
use muster_model::{AgentId, CaseIndex, Epoch, RunId, TargetIndex, limits};

use super::spec::{offer_to_model, properties_to_wire, weaknesses_to_wire};
use super::{ConvertError, at_most, required};
use crate::v1;

/// The version of the protocol between agents and coordinators that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The part of a report that says who the agent is and what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentHello {
    /// Its identity.
    pub agent: AgentId,
    /// For people.
    pub name: String,
    /// Between 1 and [`limits::SLOTS_PER_AGENT_MAX`].
    pub slots: u32,
    /// What it has.
    pub offer: Offer,
    /// The build it runs.
    pub version: String,
}

impl AgentHello {
    /// Fills the fields of a report that say who the agent is.
    pub fn write_into(&self, report: &mut v1::AgentReport) {
        report.protocol = PROTOCOL_VERSION;
        report.agent_id = self.agent.0;
        report.name.clone_from(&self.name);
        report.slots = self.slots;
        report.bases = self.offer.bases.iter().map(Into::into).collect();
        report.environments =
            self.offer.environments.iter().map(|&kind| v1::EnvironmentKind::from(kind).into()).collect();
        report.properties = properties_to_wire(&self.offer.properties);
        report.memory_bytes = self.offer.memory_bytes;
        report.without = weaknesses_to_wire(&self.offer.without);
        report.version.clone_from(&self.version);
    }
}

impl TryFrom<&v1::AgentReport> for AgentHello {
    type Error = ConvertError;

    fn try_from(report: &v1::AgentReport) -> Result<Self, ConvertError> {
        if report.protocol != PROTOCOL_VERSION {
            let why = format!("is {}, and this coordinator speaks {PROTOCOL_VERSION}", report.protocol);
            return Err(ConvertError::new("protocol", why));
        }
        if report.slots == 0 || report.slots > limits::SLOTS_PER_AGENT_MAX {
            let why = format!("must be from 1 to {}, not {}", limits::SLOTS_PER_AGENT_MAX, report.slots);
            return Err(ConvertError::new("slots", why));
        }
        at_most("name", report.name.len(), limits::NAME_BYTES_MAX)?;
        Ok(Self {
            agent: AgentId(report.agent_id),
            name: report.name.clone(),
            slots: report.slots,
            offer: offer_to_model(report)?,
            version: report.version.clone(),
        })
    }
}

impl From<Stage> for v1::Stage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Waiting => Self::Waiting,
            Stage::Fetching => Self::Fetching,
            Stage::Running => Self::Running,
            Stage::Uploading => Self::Uploading,
            Stage::Finished => Self::Finished,
        }
    }
}

impl From<&AttemptStatus> for v1::AttemptStatus {
    fn from(status: &AttemptStatus) -> Self {
        Self {
            epoch: status.epoch.0,
            stage: v1::Stage::from(status.stage).into(),
            running_plus_one: status.running.map_or(0, |position| position.saturating_add(1)),
        }
    }
}

impl TryFrom<&v1::AttemptStatus> for AttemptStatus {
    type Error = ConvertError;

    fn try_from(status: &v1::AttemptStatus) -> Result<Self, ConvertError> {
        let stage = match v1::Stage::try_from(status.stage) {
            Ok(v1::Stage::Waiting) => Stage::Waiting,
            Ok(v1::Stage::Fetching) => Stage::Fetching,
            Ok(v1::Stage::Running) => Stage::Running,
            Ok(v1::Stage::Uploading) => Stage::Uploading,
            Ok(v1::Stage::Finished) => Stage::Finished,
            _ => return Err(ConvertError::new("attempt.stage", "is not known")),
        };
        Ok(Self { epoch: Epoch(status.epoch), stage, running: status.running_plus_one.checked_sub(1) })
    }
}

impl From<&Assignment> for v1::Assignment {
    fn from(assignment: &Assignment) -> Self {
        match &assignment.task {
            Task::Shard(task) => task.into(),
            Task::Action(task) => Self { action: Some(task.into()), ..Self::default() },
        }
    }
}

impl From<&ShardTask> for v1::Assignment {
    fn from(task: &ShardTask) -> Self {
        let (discover, cases, alone) = match &task.work {
            Work::Discover => (true, Vec::new(), false),
            Work::Cases { cases, alone } => (false, cases.iter().map(|case| case.0).collect(), *alone),
            // An action is no shard; its agent finds that it has no case.
            Work::Action => (false, Vec::new(), false),
        };
        Self {
            run: task.run.0,
            target: task.target.0,
            target_spec: Some(task.target_spec.into()),
            discover,
            cases,
            case_names: task.case_names.clone(),
            alone,
            case_timeout_ms: u64::try_from(task.case_timeout.as_millis()).unwrap_or(u64::MAX),
            action: None,
            slots: task.slots,
        }
    }
}

/// One entry of a desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredEntry {
    /// The attempt that should be held.
    pub epoch: Epoch,
    /// What it is, while the agent does not know it yet.
    pub assignment: Option<Assignment>,
    /// Give it back if it has not started.
    pub recall: bool,
}

impl From<&DesiredEntry> for v1::DesiredAttempt {
    fn from(entry: &DesiredEntry) -> Self {
        Self { epoch: entry.epoch.0, assignment: entry.assignment.as_ref().map(Into::into), recall: entry.recall }
    }
}

impl TryFrom<&v1::DesiredAttempt> for DesiredEntry {
    type Error = ConvertError;

    fn try_from(entry: &v1::DesiredAttempt) -> Result<Self, ConvertError> {
        let epoch = Epoch(entry.epoch);
        let assignment = entry.assignment.as_ref().map(|wire| assignment(epoch, wire)).transpose()?;
        Ok(Self { epoch, assignment, recall: entry.recall })
    }
}

fn assignment(epoch: Epoch, wire: &v1::Assignment) -> Result<Assignment, ConvertError> {
    let task = match &wire.action {
        Some(action) => Task::Action(action.try_into()?),
        None => Task::Shard(shard(wire)?),
    };
    Ok(Assignment { epoch, task })
}

fn shard(wire: &v1::Assignment) -> Result<ShardTask, ConvertError> {
    if wire.cases.len() != wire.case_names.len() {
        return Err(ConvertError::new("assignment.case_names", "must have one name for each case"));
    }
    at_most("assignment.cases", wire.cases.len(), limits::SHARD_CASES_MAX)?;
    let work = if wire.discover {
        Work::Discover
    } else {
        Work::Cases { cases: wire.cases.iter().map(|&case| CaseIndex(case)).collect(), alone: wire.alone }
    };
    Ok(ShardTask {
        run: RunId(wire.run),
        target: TargetIndex(wire.target),
        target_spec: required("assignment.target_spec", wire.target_spec.as_ref())?.try_into()?,
        work,
        case_names: wire.case_names.clone(),
        case_timeout: Duration::from_millis(wire.case_timeout_ms),
        slots: wire.slots,
    })
}

fn verdict_to_wire(verdict: Verdict) -> (v1::VerdictKind, u32) {
    match verdict {
        Verdict::Passed => (v1::VerdictKind::Passed, 0),
        Verdict::Failed => (v1::VerdictKind::Failed, 0),
        Verdict::Skipped => (v1::VerdictKind::Skipped, 0),
        Verdict::Crashed { signal } => (v1::VerdictKind::Crashed, u32::from(signal)),
        Verdict::TimedOut => (v1::VerdictKind::TimedOut, 0),
        Verdict::MemoryExceeded => (v1::VerdictKind::MemoryExceeded, 0),
        Verdict::OutputExceeded => (v1::VerdictKind::OutputExceeded, 0),
        Verdict::ProcessesExceeded => (v1::VerdictKind::ProcessesExceeded, 0),
    }
}

fn verdict_to_model(kind: i32, signal: u32) -> Result<Verdict, ConvertError> {
    Ok(match v1::VerdictKind::try_from(kind) {
        Ok(v1::VerdictKind::Passed) => Verdict::Passed,
        Ok(v1::VerdictKind::Failed) => Verdict::Failed,
        Ok(v1::VerdictKind::Skipped) => Verdict::Skipped,
        Ok(v1::VerdictKind::Crashed) => Verdict::Crashed { signal: signal_number(signal)? },
        Ok(v1::VerdictKind::TimedOut) => Verdict::TimedOut,
        Ok(v1::VerdictKind::MemoryExceeded) => Verdict::MemoryExceeded,
        Ok(v1::VerdictKind::OutputExceeded) => Verdict::OutputExceeded,
        Ok(v1::VerdictKind::ProcessesExceeded) => Verdict::ProcessesExceeded,
        _ => return Err(ConvertError::new("verdict", "is not known")),
    })
}

fn signal_number(signal: u32) -> Result<u8, ConvertError> {
    u8::try_from(signal).map_err(|_| ConvertError::new("signal", "is not a signal's number"))
}

impl From<&CaseReport> for v1::CaseReport {
    fn from(report: &CaseReport) -> Self {
        let (verdict, signal) = verdict_to_wire(report.verdict);
        Self {
            case: report.case.0,
            verdict: verdict.into(),
            signal,
            duration_us: micros(report.duration),
            message: report.message.clone(),
            output: report.output.clone(),
            never_retry: report.never_retry,
            leaked: report.leaked,
            strays: report.strays.clone(),
        }
    }
}

impl TryFrom<&v1::CaseReport> for CaseReport {
    type Error = ConvertError;

    fn try_from(report: &v1::CaseReport) -> Result<Self, ConvertError> {
        at_most("case_report.output", report.output.len(), 2 * limits::CASE_OUTPUT_BYTES_MAX)?;
        at_most("case_report.strays", report.strays.len(), limits::STRAYS_TOLD_MAX)?;
        let longest = report.strays.iter().map(String::len).max().unwrap_or(0);
        at_most("case_report.strays", longest, limits::PATH_BYTES_MAX)?;
        at_most("case_report.message", report.message.len(), limits::CASE_OUTPUT_BYTES_MAX)?;
        Ok(Self {
            case: CaseIndex(report.case),
            verdict: verdict_to_model(report.verdict, report.signal)?,
            duration: Duration::from_micros(report.duration_us),
            message: report.message.clone(),
            output: report.output.clone(),
            never_retry: report.never_retry,
            leaked: report.leaked,
            strays: report.strays.clone(),
        })
    }
}

fn interruption_to_wire(interruption: Interruption, case: Option<CaseIndex>) -> v1::Interruption {
    let (kind, signal) = match interruption {
        Interruption::Crashed { signal } => (v1::InterruptionKind::Crashed, u32::from(signal)),
        Interruption::TimedOut => (v1::InterruptionKind::TimedOut, 0),
        Interruption::MemoryExceeded => (v1::InterruptionKind::MemoryExceeded, 0),
        Interruption::OutputExceeded => (v1::InterruptionKind::OutputExceeded, 0),
        Interruption::ProcessesExceeded => (v1::InterruptionKind::ProcessesExceeded, 0),
        Interruption::Contradicted => (v1::InterruptionKind::Contradicted, 0),
    };
    v1::Interruption { kind: kind.into(), signal, case: case.map(|case| case.0) }
}

fn interruption_to_model(wire: &v1::Interruption) -> Result<(Interruption, Option<CaseIndex>), ConvertError> {
    let interruption = match v1::InterruptionKind::try_from(wire.kind) {
        Ok(v1::InterruptionKind::Crashed) => Interruption::Crashed { signal: signal_number(wire.signal)? },
        Ok(v1::InterruptionKind::TimedOut) => Interruption::TimedOut,
        Ok(v1::InterruptionKind::MemoryExceeded) => Interruption::MemoryExceeded,
        Ok(v1::InterruptionKind::OutputExceeded) => Interruption::OutputExceeded,
        Ok(v1::InterruptionKind::ProcessesExceeded) => Interruption::ProcessesExceeded,
        Ok(v1::InterruptionKind::Contradicted) => Interruption::Contradicted,
        _ => return Err(ConvertError::new("interruption.kind", "is not known")),
    };
    Ok((interruption, wire.case.map(CaseIndex)))
}

fn fault_to_wire(fault: &Fault) -> v1::FaultReport {
    let kind = match fault.kind {
        FaultKind::AgentLost => v1::FaultKind::AgentLost,
        FaultKind::Inputs => v1::FaultKind::Inputs,
        FaultKind::Environment => v1::FaultKind::Environment,
        FaultKind::Start => v1::FaultKind::Start,
        FaultKind::Returned => v1::FaultKind::Returned,
        FaultKind::Protocol => v1::FaultKind::Protocol,
    };
    v1::FaultReport { kind: kind.into(), message: fault.message.clone() }
}

fn fault_to_model(wire: &v1::FaultReport) -> Result<Fault, ConvertError> {
    let kind = match v1::FaultKind::try_from(wire.kind) {
        Ok(v1::FaultKind::AgentLost) => FaultKind::AgentLost,
        Ok(v1::FaultKind::Inputs) => FaultKind::Inputs,
        Ok(v1::FaultKind::Environment) => FaultKind::Environment,
        Ok(v1::FaultKind::Start) => FaultKind::Start,
        Ok(v1::FaultKind::Returned) => FaultKind::Returned,
        Ok(v1::FaultKind::Protocol) => FaultKind::Protocol,
        _ => return Err(ConvertError::new("fault.kind", "is not known")),
    };
    at_most("fault.message", wire.message.len(), limits::CASE_OUTPUT_BYTES_MAX)?;
    Ok(Fault { kind, message: wire.message.clone() })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<&Usage> for v1::Usage {
    fn from(usage: &Usage) -> Self {
        Self {
            memory_peak_bytes: usage.memory_peak_bytes,
            cpu_us: micros(usage.cpu),
            fetched_bytes: usage.fetched_bytes,
            reused_bytes: usage.reused_bytes,
            written_bytes: usage.written_bytes,
            processes_peak: usage.processes_peak,
            processes_created: usage.processes_created,
        }
    }
}

impl From<&v1::Usage> for Usage {
    fn from(usage: &v1::Usage) -> Self {
        Self {
            memory_peak_bytes: usage.memory_peak_bytes,
            cpu: Duration::from_micros(usage.cpu_us),
            fetched_bytes: usage.fetched_bytes,
            reused_bytes: usage.reused_bytes,
            written_bytes: usage.written_bytes,
            processes_peak: usage.processes_peak,
            processes_created: usage.processes_created,
        }
    }
}

impl From<&AttemptReport> for v1::AttemptReport {
    fn from(report: &AttemptReport) -> Self {
        use v1::attempt_report::Result as Wire;
        let result = match &report.result {
            AttemptResult::Discovered { cases } => Wire::Discovered(discovered_to_wire(cases)),
            AttemptResult::Ran { reports, interruption, leaked_in_company } => Wire::Ran(v1::Ran {
                reports: reports.iter().map(Into::into).collect(),
                interruption: interruption.map(|(kind, case)| interruption_to_wire(kind, case)),
                leaked_in_company: *leaked_in_company,
            }),
            AttemptResult::DiscoveryFailed { message } => Wire::DiscoveryFailed(message.clone()),
            AttemptResult::ActionRan(report) => Wire::Action(report.into()),
            AttemptResult::Fault(fault) => Wire::Fault(fault_to_wire(fault)),
        };
        Self {
            epoch: report.epoch.0,
            result: Some(result),
            timings: Some(v1::Timings {
                waited_us: micros(report.timings.waited),
                transfer_us: micros(report.timings.transfer),
                environment_us: micros(report.timings.environment),
                execution_us: micros(report.timings.execution),
            }),
            usage: Some((&report.usage).into()),
        }
    }
}

impl TryFrom<&v1::AttemptReport> for AttemptReport {
    type Error = ConvertError;

    fn try_from(report: &v1::AttemptReport) -> Result<Self, ConvertError> {
        use v1::attempt_report::Result as Wire;
        let result = match required("attempt_report.result", report.result.as_ref())? {
            Wire::Discovered(discovered) => AttemptResult::Discovered { cases: discovered.try_into()? },
            Wire::Ran(ran) => ran_to_model(ran)?,
            Wire::DiscoveryFailed(message) => AttemptResult::DiscoveryFailed { message: message.clone() },
            Wire::Action(report) => AttemptResult::ActionRan(report.try_into()?),
            Wire::Fault(fault) => AttemptResult::Fault(fault_to_model(fault)?),
        };
        let timings = report.timings.unwrap_or_default();
        let usage = report.usage.unwrap_or_default();
        Ok(Self {
            epoch: Epoch(report.epoch),
            result,
            timings: Timings {
                waited: Duration::from_micros(timings.waited_us),
                transfer: Duration::from_micros(timings.transfer_us),
                environment: Duration::from_micros(timings.environment_us),
                execution: Duration::from_micros(timings.execution_us),
            },
            usage: (&usage).into(),
        })
    }
}

fn ran_to_model(ran: &v1::Ran) -> Result<AttemptResult, ConvertError> {
    at_most("ran.reports", ran.reports.len(), limits::SHARD_CASES_MAX)?;
    let reports: Vec<CaseReport> = ran.reports.iter().map(CaseReport::try_from).collect::<Result<_, _>>()?;
    let mut cases: Vec<CaseIndex> = reports.iter().map(|report| report.case).collect();
    cases.sort_unstable();
    if let Some(pair) = cases.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(ConvertError::new("ran.reports", format!("case {} is reported twice", pair[0])));
    }
    Ok(AttemptResult::Ran {
        reports,
        interruption: ran.interruption.as_ref().map(interruption_to_model).transpose()?,
        leaked_in_company: ran.leaked_in_company,
    })
}

fn discovered_to_wire(cases: &[DiscoveredCase]) -> v1::Discovered {
    let ignored = cases.iter().enumerate().filter(|(_, case)| case.ignored);
    v1::Discovered {
        names: cases.iter().map(|case| case.name.clone()).collect(),
        // A target has at most a million cases, so every position fits.
        ignored: ignored.map(|(position, _)| position as u32).collect(),
    }
}

impl From<&[DiscoveredCase]> for v1::Discovered {
    fn from(cases: &[DiscoveredCase]) -> Self {
        discovered_to_wire(cases)
    }
}

impl TryFrom<&v1::Discovered> for Vec<DiscoveredCase> {
    type Error = ConvertError;

    /// Refuses names that are empty, too long or double: a name is what a result is kept under.
    fn try_from(discovered: &v1::Discovered) -> Result<Self, ConvertError> {
        at_most("discovered.names", discovered.names.len(), limits::CASES_PER_TARGET_MAX)?;
        let mut sorted: Vec<&str> = discovered.names.iter().map(String::as_str).collect();
        sorted.sort_unstable();
        if sorted.first().is_some_and(|name| name.is_empty()) {
            return Err(ConvertError::new("discovered.names", "contains an empty name"));
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConvertError::new("discovered.names", format!("contains {:?} twice", pair[0])));
        }
        for name in &sorted {
            at_most("discovered.names", name.len(), limits::CASE_NAME_BYTES_MAX)?;
        }
        let mut cases: Self =
            discovered.names.iter().map(|name| DiscoveredCase { name: name.clone(), ignored: false }).collect();
        for &position in &discovered.ignored {
            let case = cases
                .get_mut(position as usize)
                .ok_or_else(|| ConvertError::new("discovered.ignored", "points past the names"))?;
            case.ignored = true;
        }
        Ok(cases)
    }
}
