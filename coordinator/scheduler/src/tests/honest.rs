//! Honest agents on a network that delays, doubles and cuts, under a random history: every run ends, every case is decided once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use std::vec::Vec;

use muster_model::attempt::{AttemptStatus, Interruption, Stage, Work};
use muster_model::outcome::{FaultKind, Verdict};
use muster_model::spec::Isolation;
use muster_model::{ActionId, AgentId, CaseIndex, Epoch, InvocationId, RunId, TargetIndex};
use proptest::prelude::*;

use super::fixture::{World, known, offer, requirements};
use crate::{ActionSeed, AttemptEnd, CaseEnd, CaseSeed, Command, Event, SchedulingPolicy, TargetSeed};

/// What happens next; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    /// An agent moves its first attempt on.
    Work(usize),
    /// An agent finishes its first running attempt, in one of several ways.
    Finish(usize, u8),
    /// An agent says what it holds.
    Report(usize),
    /// An agent's last report is delivered again.
    Repeat(usize),
    /// An agent loses its stream, and comes back.
    Blink(usize),
    /// An agent dies with all it had, and starts again with nothing.
    Die(usize),
    /// So many milliseconds pass.
    Pass(u64),
    /// A run is cancelled.
    Cancel(usize),
    /// An action of one of two invocations is submitted, with a priority and perhaps an expected time.
    Submit(u64, i32, Option<u64>),
    /// Nobody waits for this one of the actions any more.
    Abandon(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let agent = 0_usize..4;
    prop_oneof![
        6 => agent.clone().prop_map(Step::Work),
        8 => (agent.clone(), any::<u8>()).prop_map(|(agent, how)| Step::Finish(agent, how)),
        6 => agent.clone().prop_map(Step::Report),
        2 => agent.clone().prop_map(Step::Repeat),
        2 => agent.clone().prop_map(Step::Blink),
        1 => agent.prop_map(Step::Die),
        4 => (1_u64..4000).prop_map(Step::Pass),
        1 => (0_usize..20).prop_map(Step::Cancel),
        4 => (0_u64..2, -200..200, prop::option::of(1_u64..3000)).prop_map(|(of, priority, time)| Step::Submit(of, priority, time)),
        1 => (0_usize..20).prop_map(Step::Abandon),
    ]
}

fn any_policy() -> impl Strategy<Value = SchedulingPolicy> {
    (any::<bool>(), 0_u32..3, prop::bool::weighted(0.2)).prop_map(|(process, retries, fail_fast)| SchedulingPolicy {
        isolation: if process { Isolation::Process } else { Isolation::Auto },
        retries,
        fail_fast,
    })
}

fn any_cases() -> impl Strategy<Value = Vec<CaseSeed>> {
    let rarely = || prop::bool::weighted(0.1);
    let case = (prop::option::of(1_u64..3000), any::<bool>(), rarely(), rarely());
    let seed = case.prop_map(|(time, failed_last, needs_alone, opens_group)| CaseSeed {
        failed_last,
        needs_alone,
        opens_group,
        ..time.map_or_else(CaseSeed::default, known)
    });
    proptest::collection::vec(seed, 0..30)
}

/// An agent as the scheduler's peers are: it does what it is told, and says so.
#[derive(Default)]
struct Honest {
    /// What it holds, by stage.
    held: BTreeMap<Epoch, (Stage, Work)>,
    last: Option<Event>,
    is_connected: bool,
}

struct Fleet {
    world: World,
    agents: Vec<Honest>,
    cases: Vec<Vec<CaseSeed>>,
    recorded: BTreeMap<Epoch, (AgentId, RunId, TargetIndex, Work)>,
    decided: BTreeSet<(RunId, TargetIndex, CaseIndex)>,
    finished: BTreeMap<RunId, (u32, u32)>,
    submitted: u64,
    answered: BTreeSet<ActionId>,
    reserved: Epoch,
    last_epoch: Epoch,
}

impl Fleet {
    fn new(policy: SchedulingPolicy, cases: Vec<Vec<CaseSeed>>) -> Self {
        let mut world = World::new();
        let targets = std::vec![TargetSeed { requirements: requirements(), needs_discovery: true, ..TargetSeed::default() }; cases.len()];
        world.event(Event::RunSubmitted { run: RunId(1), policy, targets: targets.clone() });
        world.event(Event::RunSubmitted { run: RunId(2), policy, targets });
        let mut fleet = Self {
            world,
            agents: (0..4).map(|_| Honest::default()).collect(),
            cases,
            recorded: BTreeMap::new(),
            decided: BTreeSet::new(),
            finished: BTreeMap::new(),
            submitted: 0,
            answered: BTreeSet::new(),
            reserved: Epoch(0),
            last_epoch: Epoch(0),
        };
        for agent in 0..4 {
            fleet.connect(agent);
        }
        fleet
    }

    fn connect(&mut self, agent: usize) {
        self.agents[agent].is_connected = true;
        let slots = agent as u32 % 2 + 1;
        self.world.event(Event::AgentConnected { agent: AgentId(agent as u64), slots, offer: offer() });
        self.report(agent);
    }

    fn report(&mut self, agent: usize) {
        let honest = &self.agents[agent];
        if honest.is_connected {
            let running =
                |stage, work: &Work| (stage == Stage::Running && matches!(work, Work::Cases { .. })).then_some(0);
            let attempts = honest.held.iter().map(|(&epoch, (stage, work))| AttemptStatus {
                epoch,
                stage: *stage,
                running: running(*stage, work),
            });
            let attempts = attempts.collect();
            self.world.event(Event::AgentReported {
                agent: AgentId(agent as u64),
                draining: false,
                attempts,
                warm: Vec::new(),
            });
        }
        self.obey();
    }

    /// Carries out the commands, and answers them as the loud half would.
    fn obey(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "commands come to an end");
            let commands = self.world.take();
            if commands.is_empty() {
                return;
            }
            for command in commands {
                self.obey_one(command);
            }
        }
    }

    fn obey_one(&mut self, command: Command) {
        match command {
            Command::RecordLease { epoch, agent, run, target, work } => {
                assert!(epoch > self.last_epoch, "epochs grow");
                self.last_epoch = epoch;
                self.recorded.insert(epoch, (agent, run, target, work));
            }
            Command::Assign { agent, epoch } => {
                let work = self.recorded[&epoch].3.clone();
                self.agents[agent.0 as usize].held.insert(epoch, (Stage::Waiting, work));
            }
            Command::Recall { agent, epoch } => {
                let held = &mut self.agents[agent.0 as usize].held;
                if held.get(&epoch).is_some_and(|(stage, _)| *stage == Stage::Waiting) {
                    self.end(agent.0 as usize, epoch, AttemptEnd::Fault(FaultKind::Returned));
                }
            }
            Command::Withdraw { agent, epoch } | Command::Acknowledge { agent, epoch, .. } => {
                self.agents[agent.0 as usize].held.remove(&epoch);
            }
            Command::AcceptDiscovery { run, target, .. } => {
                let cases = self.cases[target.0 as usize].clone();
                self.world.event(Event::CasesDiscovered { run, target, cases });
            }
            Command::DecideCase { run, target, case, .. } => {
                assert!(self.decided.insert((run, target, case)), "decided once");
                assert!(!self.finished.contains_key(&run), "decided before the end");
            }
            Command::ReserveEpochs { below } => self.reserved = below,
            Command::AssignAction { agent, epoch, action } => {
                assert!(epoch > self.last_epoch && epoch < self.reserved, "epochs grow, and are reserved");
                self.last_epoch = epoch;
                assert!(!self.answered.contains(&action), "what is answered is not run");
                self.agents[agent.0 as usize].held.insert(epoch, (Stage::Waiting, Work::Action));
            }
            Command::FinishAction { action, .. } => assert!(self.answered.insert(action), "answered once"),
            Command::FinishRun { run, planned, reported, .. } => {
                assert!(self.finished.insert(run, (planned, reported)).is_none(), "finished once");
            }
            Command::PlanRun { .. }
            | Command::ReportCaseStarted { .. }
            | Command::ReportFault { .. }
            | Command::RecordTries { .. }
            | Command::RecordDiscoveryTries { .. }
            | Command::ReportActionStage { .. }
            | Command::ReportActionFault { .. }
            | Command::RememberIsolation { .. } => {}
        }
    }

    fn end(&mut self, agent: usize, epoch: Epoch, end: AttemptEnd) {
        let event = Event::AttemptFinished { agent: AgentId(agent as u64), epoch, end };
        let honest = &mut self.agents[agent];
        if let Some((stage, _)) = honest.held.get_mut(&epoch) {
            *stage = Stage::Finished;
        }
        honest.last = Some(event.clone());
        if honest.is_connected {
            self.world.event(event);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Work(agent) => {
                let next = self.agents[agent].held.values_mut().find(|(stage, _)| *stage < Stage::Running);
                if let Some((stage, _)) = next {
                    *stage = if *stage == Stage::Waiting { Stage::Fetching } else { Stage::Running };
                }
            }
            Step::Finish(agent, how) => self.finish_first(agent, how),
            Step::Report(agent) => self.report(agent),
            Step::Repeat(agent) => {
                if let Some(event) = self.agents[agent].last.clone() {
                    self.world.event(event);
                }
            }
            Step::Blink(agent) => {
                self.world.disconnect(agent as u64);
                self.agents[agent].is_connected = false;
                self.obey();
                self.connect(agent);
            }
            Step::Die(agent) => {
                self.world.disconnect(agent as u64);
                self.agents[agent].held.clear();
                self.obey();
                self.agents[agent].held.clear();
                self.connect(agent);
            }
            Step::Pass(millis) => self.world.pass(Duration::from_millis(millis)),
            Step::Submit(invocation, priority, expected) => self.submit(invocation, priority, expected),
            Step::Abandon(action) => {
                self.world.event(Event::ActionCancelled { action: ActionId(action as u64) });
            }
            Step::Cancel(run) => {
                if run < 2 {
                    self.world.event(Event::RunCancelled { run: RunId(run as u64 + 1) });
                }
            }
        }
        self.obey();
    }

    fn submit(&mut self, invocation: u64, priority: i32, expected: Option<u64>) {
        let action = ActionId(self.submitted);
        self.submitted += 1;
        let expected = expected.map(Duration::from_millis);
        let seed = ActionSeed { requirements: requirements(), priority, expected };
        self.world.event(Event::ActionSubmitted { action, invocation: InvocationId(invocation), seed });
    }

    fn finish_first(&mut self, agent: usize, how: u8) {
        let running = self.agents[agent].held.iter().find(|(_, (stage, _))| *stage == Stage::Running);
        let Some((&epoch, (_, work))) = running else { return };
        let end = how_it_ended(work, how);
        self.end(agent, epoch, end);
    }

    /// Nothing goes wrong any more.
    fn calm(&mut self) {
        for _ in 0..2000 {
            if self.finished.len() == 2 && self.answered.len() as u64 == self.submitted {
                return;
            }
            for agent in 0..self.agents.len() {
                let work = self.agents[agent].held.clone();
                for (epoch, (_, work)) in work {
                    self.end(agent, epoch, how_it_ended(&work, 0));
                }
                self.report(agent);
            }
            self.world.pass(Duration::from_millis(500));
            self.obey();
        }
    }
}

fn how_it_ended(work: &Work, how: u8) -> AttemptEnd {
    let ran_action = AttemptEnd::ActionRan { duration: Duration::from_millis(how.into()) };
    if *work == Work::Action {
        return match how % 16 {
            12 => AttemptEnd::Fault(FaultKind::Environment),
            13 => AttemptEnd::Fault(FaultKind::AgentLost),
            14 => AttemptEnd::Discovered,
            _ => ran_action,
        };
    }
    let Work::Cases { cases, .. } = work else {
        return match how % 16 {
            13 => ran_action,
            14 => AttemptEnd::DiscoveryFailed,
            15 => AttemptEnd::Fault(FaultKind::Start),
            _ => AttemptEnd::Discovered,
        };
    };
    let verdict = |case: &CaseIndex| match (u32::from(how) + case.0) % 7 {
        6 => Verdict::Failed,
        5 => Verdict::Skipped,
        _ => Verdict::Passed,
    };
    let ends = cases.iter().map(|case| CaseEnd {
        case: *case,
        verdict: verdict(case),
        duration: Duration::from_millis(how.into()),
        never_retry: how == 77,
        leaked: how == 78,
    });
    let ends: Vec<CaseEnd> = ends.collect();
    let half = ends[..ends.len() / 2].to_vec();
    let suspect = cases.get(half.len()).copied();
    let ran = |cases, interruption| AttemptEnd::Ran { cases, interruption, leaked_in_company: how == 79 };
    match how % 16 {
        8 => ran(half, Some((Interruption::Crashed { signal: 9 }, suspect))),
        9 => ran(half, Some((Interruption::Contradicted, None))),
        10 => ran(half, Some((Interruption::TimedOut, suspect))),
        11 => ran(half, None),
        12 => AttemptEnd::Fault(FaultKind::Environment),
        13 => AttemptEnd::Fault(FaultKind::AgentLost),
        14 => AttemptEnd::Discovered,
        _ => ran(ends, None),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_with_every_case_decided_once_and_every_action_is_answered_once(
        policy in any_policy(),
        cases in proptest::collection::vec(any_cases(), 0..4),
        steps in proptest::collection::vec(any_step(), 0..150),
    ) {
        let mut fleet = Fleet::new(policy, cases);
        for step in &steps {
            fleet.step(step);
        }
        fleet.calm();
        prop_assert_eq!(fleet.finished.len(), 2);
        prop_assert_eq!(fleet.answered.len() as u64, fleet.submitted);
        for (&run, &(planned, reported)) in &fleet.finished {
            prop_assert_eq!(planned, reported);
            let decided = fleet.decided.iter().filter(|(id, ..)| *id == run).count();
            prop_assert_eq!(decided, planned as usize);
        }
        fleet.world.pass(Duration::from_secs(20));
        prop_assert_eq!(fleet.world.scheduler.view().queue(), crate::QueueView::default());
    }
}
