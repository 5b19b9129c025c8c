//! A small world: a scheduler, its clock, and short words for events.

use std::time::Duration;
use std::vec;
use std::vec::Vec;

use muster_model::attempt::{AttemptStatus, Interruption, Stage, Work};
use muster_model::outcome::{CaseOutcome, FaultKind, RunOutcome, Verdict};
use muster_model::platform::{EnvironmentKind, Offer, Requirements};
use muster_model::spec::Isolation;
use muster_model::{AgentId, CaseIndex, Epoch, Instant, RunId, TargetIndex};

use crate::{AttemptEnd, CaseEnd, CaseSeed, Command, Config, Event, Scheduler, SchedulingPolicy, TargetSeed};

pub(super) const RUN: RunId = RunId(1);
pub(super) const TARGET: TargetIndex = TargetIndex(0);
pub(super) const PASSED: Verdict = Verdict::Passed;
pub(super) const FAILED: Verdict = Verdict::Failed;

pub(super) struct World {
    pub(super) scheduler: Scheduler,
    pub(super) now: Instant,
    /// What has come out and was not asked about yet.
    pub(super) commands: Vec<Command>,
}

/// A lease as it was recorded and assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leased {
    pub(super) epoch: Epoch,
    pub(super) agent: AgentId,
    pub(super) run: RunId,
    pub(super) target: TargetIndex,
    pub(super) work: Work,
}

impl Leased {
    pub(super) fn cases(&self) -> Vec<u32> {
        match &self.work {
            Work::Discover | Work::Action => Vec::new(),
            Work::Cases { cases, .. } => cases.iter().map(|case| case.0).collect(),
        }
    }

    pub(super) fn is_alone(&self) -> bool {
        matches!(self.work, Work::Cases { alone: true, .. })
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(super) fn with(config: Config) -> Self {
        Self { scheduler: Scheduler::new(config, Epoch(1)), now: Instant(0), commands: Vec::new() }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.scheduler.handle_event(self.now, event);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(command) = self.scheduler.poll_command() {
            self.commands.push(command);
        }
        self.scheduler.assert_invariants();
    }

    /// Lets time pass, doing on the way whatever is due.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.scheduler.poll_timeout().filter(|&due| due <= end) {
            self.now = self.now.max(due);
            self.scheduler.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// Lets time pass while these agents keep saying that they run what they have.
    pub(super) fn pass_with(&mut self, seconds: u64, reports: &[(u64, &[AttemptStatus])]) {
        for _ in 0..seconds {
            self.pass(Duration::from_secs(1));
            for (agent, attempts) in reports {
                self.report(*agent, attempts);
            }
        }
    }

    pub(super) fn connect(&mut self, agent: u64, slots: u32) {
        self.event(Event::AgentConnected { agent: AgentId(agent), slots, offer: offer() });
    }

    /// Connects and reports that it holds nothing.
    pub(super) fn agent(&mut self, agent: u64, slots: u32) {
        self.connect(agent, slots);
        self.report(agent, &[]);
    }

    pub(super) fn report(&mut self, agent: u64, attempts: &[AttemptStatus]) {
        let attempts = attempts.to_vec();
        self.event(Event::AgentReported { agent: AgentId(agent), draining: false, attempts, warm: Vec::new() });
    }

    pub(super) fn disconnect(&mut self, agent: u64) {
        self.event(Event::AgentDisconnected { agent: AgentId(agent) });
    }

    /// Submits run 1 with one target whose cases are known.
    pub(super) fn run(&mut self, policy: SchedulingPolicy, cases: Vec<CaseSeed>) {
        self.submit(RUN, policy, 1);
        self.event(Event::CasesDiscovered { run: RUN, target: TARGET, cases });
    }

    pub(super) fn submit(&mut self, run: RunId, policy: SchedulingPolicy, targets: usize) {
        let seed = TargetSeed { requirements: requirements(), ..TargetSeed::default() };
        self.event(Event::RunSubmitted { run, policy, targets: vec![seed; targets] });
    }

    pub(super) fn ran(&mut self, leased: &Leased, ends: &[(u32, Verdict)]) {
        self.ran_with(leased, ends, None, false);
    }

    pub(super) fn interrupted(
        &mut self,
        leased: &Leased,
        ends: &[(u32, Verdict)],
        kind: Interruption,
        running: Option<u32>,
    ) {
        self.ran_with(leased, ends, Some((kind, running.map(CaseIndex))), false);
    }

    pub(super) fn ran_with(
        &mut self,
        leased: &Leased,
        ends: &[(u32, Verdict)],
        interruption: Option<(Interruption, Option<CaseIndex>)>,
        leaked_in_company: bool,
    ) {
        let cases = ends.iter().map(|&(case, verdict)| end(case, verdict)).collect();
        self.finished(leased, AttemptEnd::Ran { cases, interruption, leaked_in_company });
    }

    pub(super) fn fault(&mut self, leased: &Leased, kind: FaultKind) {
        self.finished(leased, AttemptEnd::Fault(kind));
    }

    pub(super) fn finished(&mut self, leased: &Leased, end: AttemptEnd) {
        self.event(Event::AttemptFinished { agent: leased.agent, epoch: leased.epoch, end });
    }

    /// The leases among the commands so far, each recorded right before it is assigned; takes all commands.
    pub(super) fn leases(&mut self) -> Vec<Leased> {
        let commands = self.take();
        leases_of(&commands)
    }

    /// The only lease among the commands so far.
    pub(super) fn lease(&mut self) -> Leased {
        let mut leases = self.leases();
        assert_eq!(leases.len(), 1, "{leases:?}");
        leases.remove(0)
    }

    pub(super) fn take(&mut self) -> Vec<Command> {
        core::mem::take(&mut self.commands)
    }
}

pub(super) fn leases_of(commands: &[Command]) -> Vec<Leased> {
    let mut leases = Vec::new();
    for pair in commands.windows(2) {
        if let Command::RecordLease { epoch, agent, run, target, work } = &pair[0] {
            assert_eq!(pair[1], Command::Assign { agent: *agent, epoch: *epoch }, "recorded, then assigned");
            leases.push(Leased { epoch: *epoch, agent: *agent, run: *run, target: *target, work: work.clone() });
        }
    }
    let assigned = commands.iter().filter(|command| matches!(command, Command::Assign { .. })).count();
    assert_eq!(assigned, leases.len(), "nothing is assigned that was not recorded: {commands:?}");
    leases
}

/// The outcomes among commands.
pub(super) fn outcomes(commands: &[Command]) -> Vec<(u32, CaseOutcome)> {
    let outcome = |command: &Command| match command {
        Command::DecideCase { case, outcome, .. } => Some((case.0, *outcome)),
        _ => None,
    };
    commands.iter().filter_map(outcome).collect()
}

/// How the run ended, if it did.
pub(super) fn finish(commands: &[Command]) -> Option<(RunOutcome, u32, u32)> {
    commands.iter().find_map(|command| match command {
        Command::FinishRun { outcome, planned, reported, .. } => Some((*outcome, *planned, *reported)),
        _ => None,
    })
}

/// What is to be remembered, among commands.
pub(super) fn memories(commands: &[Command]) -> Vec<(u32, bool)> {
    let memory = |command: &Command| match command {
        Command::RememberIsolation { case, needs_alone, .. } => Some((case.0, *needs_alone)),
        _ => None,
    };
    commands.iter().filter_map(memory).collect()
}

pub(super) fn end(case: u32, verdict: Verdict) -> CaseEnd {
    CaseEnd { case: CaseIndex(case), verdict, duration: Duration::from_millis(10), never_retry: false, leaked: false }
}

pub(super) fn status(leased: &Leased, stage: Stage, running: Option<u32>) -> AttemptStatus {
    AttemptStatus { epoch: leased.epoch, stage, running }
}

pub(super) fn offer() -> Offer {
    Offer { environments: vec![EnvironmentKind::Sandbox], ..Offer::default() }
}

pub(super) fn requirements() -> Requirements {
    Requirements::default()
}

/// So many cases of 10 ms each.
pub(super) fn quick(count: usize) -> Vec<CaseSeed> {
    vec![known(10); count]
}

/// A case that is expected to take so many milliseconds.
pub(super) fn known(millis: u64) -> CaseSeed {
    CaseSeed { expected: Some(Duration::from_millis(millis)), ..CaseSeed::default() }
}

pub(super) fn policy() -> SchedulingPolicy {
    SchedulingPolicy { isolation: Isolation::Auto, retries: 0, fail_fast: false }
}
