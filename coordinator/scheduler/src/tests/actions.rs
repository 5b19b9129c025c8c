//! Actions of the Remote Execution API beside runs of tests.

use std::time::Duration;
use std::vec;
use std::vec::Vec;

use muster_model::attempt::{AttemptStatus, Stage};
use muster_model::outcome::FaultKind;
use muster_model::platform::{Properties, Requirements};
use muster_model::{ActionId, AgentId, Epoch, InvocationId};

use super::fixture::{World, leases_of, outcomes, policy, quick, requirements};
use crate::{ActionEnd, ActionSeed, AttemptEnd, Command, Config, Event};

const SECOND: Duration = Duration::from_secs(1);

/// An attempt at an action as it was assigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Assigned {
    action: u64,
    agent: AgentId,
    epoch: Epoch,
}

impl Assigned {
    fn at(self, stage: Stage) -> AttemptStatus {
        AttemptStatus { epoch: self.epoch, stage, running: None }
    }
}

trait Actions {
    fn action(&mut self, action: u64, invocation: u64, priority: i32);
    fn seeded(&mut self, action: u64, invocation: u64, seed: ActionSeed);
    fn assigned(&mut self) -> Vec<Assigned>;
    fn action_ran(&mut self, assigned: Assigned);
    fn action_fault(&mut self, assigned: Assigned, kind: FaultKind);
}

impl Actions for World {
    fn action(&mut self, action: u64, invocation: u64, priority: i32) {
        self.seeded(action, invocation, ActionSeed { requirements: requirements(), priority, expected: None });
    }

    fn seeded(&mut self, action: u64, invocation: u64, seed: ActionSeed) {
        let (action, invocation) = (ActionId(action), InvocationId(invocation));
        self.event(Event::ActionSubmitted { action, invocation, seed });
    }

    fn assigned(&mut self) -> Vec<Assigned> {
        assigned_in(&self.take())
    }

    fn action_ran(&mut self, assigned: Assigned) {
        let end = AttemptEnd::ActionRan { duration: SECOND };
        self.event(Event::AttemptFinished { agent: assigned.agent, epoch: assigned.epoch, end });
    }

    fn action_fault(&mut self, assigned: Assigned, kind: FaultKind) {
        let end = AttemptEnd::Fault(kind);
        self.event(Event::AttemptFinished { agent: assigned.agent, epoch: assigned.epoch, end });
    }
}

fn assigned_in(commands: &[Command]) -> Vec<Assigned> {
    let assigned = |command: &Command| match *command {
        Command::AssignAction { agent, epoch, action: ActionId(action) } => Some(Assigned { action, agent, epoch }),
        _ => None,
    };
    commands.iter().filter_map(assigned).collect()
}

fn ends(commands: &[Command]) -> Vec<(u64, ActionEnd)> {
    let end = |command: &Command| match command {
        Command::FinishAction { action, end, .. } => Some((action.0, *end)),
        _ => None,
    };
    commands.iter().filter_map(end).collect()
}

/// A world whose agents get no more than they have slots for.
fn without_prefetch() -> World {
    World::with(Config { prefetch_per_agent: 0, ..Config::default() })
}

#[test]
fn an_action_is_assigned_under_a_reserved_epoch_and_ends_with_its_attempt() {
    let mut world = World::new();
    world.agent(1, 1);
    world.action(7, 1, 0);
    let commands = world.take();
    assert!(
        matches!(commands[..], [Command::ReserveEpochs { below }, Command::AssignAction { epoch, .. }] if epoch < below),
        "{commands:?}"
    );
    let assigned = assigned_in(&commands)[0];
    world.report(1, &[assigned.at(Stage::Running)]);
    let stage = Command::ReportActionStage {
        action: ActionId(7),
        epoch: assigned.epoch,
        agent: AgentId(1),
        stage: Stage::Running,
    };
    assert_eq!(world.take(), [stage]);
    world.action_ran(assigned);
    let (agent, epoch) = (assigned.agent, assigned.epoch);
    let finish = Command::FinishAction { action: ActionId(7), end: ActionEnd::Ran, epoch: Some(epoch), attempts: 1 };
    assert_eq!(world.take(), [finish, Command::Acknowledge { agent, epoch, fenced: false }]);
    assert_eq!(world.scheduler.view().actions().count(), 0);
}

#[test]
fn epochs_are_reserved_again_long_before_they_run_out() {
    let mut world = World::new();
    world.agent(1, 1);
    let mut below = Epoch(0);
    let mut reservations = 0;
    for action in 0..muster_model::limits::EPOCHS_RESERVED * 2 {
        world.action(action, 1, 0);
        for command in world.take() {
            match command {
                Command::ReserveEpochs { below: next } => {
                    assert!(next > below);
                    (below, reservations) = (next, reservations + 1);
                }
                Command::AssignAction { epoch, agent, action } => {
                    assert!(epoch < below, "drawn before it was reserved");
                    world.action_ran(Assigned { action: action.0, agent, epoch });
                }
                _ => {}
            }
        }
    }
    assert!((3..=5).contains(&reservations), "{reservations}");
}

#[test]
fn within_an_invocation_the_lower_priority_number_goes_first_then_the_unknown_then_the_longest() {
    let mut world = without_prefetch();
    let seed = |priority, seconds: Option<u64>| ActionSeed {
        requirements: requirements(),
        priority,
        expected: seconds.map(Duration::from_secs),
    };
    world.seeded(1, 1, seed(0, Some(1)));
    world.seeded(2, 1, seed(0, Some(9)));
    world.seeded(3, 1, seed(5, None));
    world.seeded(4, 1, seed(-5, Some(1)));
    world.seeded(5, 1, seed(0, None));
    world.seeded(6, 1, seed(0, None));
    world.agent(1, 1);
    let mut order = Vec::new();
    while let [assigned] = world.assigned()[..] {
        order.push(assigned.action);
        world.action_ran(assigned);
    }
    assert_eq!(order, [4, 5, 6, 2, 1, 3]);
}

#[test]
fn a_large_invocation_does_not_starve_a_small_one_nor_a_run_of_tests() {
    let mut world = without_prefetch();
    for action in 0..100 {
        world.action(action, 1, 0);
    }
    world.agent(1, 4);
    assert_eq!(world.assigned().len(), 4);
    world.action(100, 2, 0);
    world.run(policy(), quick(1));
    world.take();
    let running: Vec<Epoch> = (1..=4).map(Epoch).collect();
    let first = |epoch: Epoch| Assigned { action: 0, agent: AgentId(1), epoch };
    world.action_ran(first(running[0]));
    let commands = world.take();
    let next = (assigned_in(&commands), leases_of(&commands).len());
    world.action_ran(first(running[1]));
    let commands = world.take();
    let then = (assigned_in(&commands), leases_of(&commands).len());
    // Whichever of the two goes first, the large one is third.
    let actions: Vec<u64> = next.0.iter().chain(&then.0).map(|assigned| assigned.action).collect();
    assert_eq!((actions, next.1 + then.1), (vec![100], 1));
}

#[test]
fn an_urgent_invocation_gets_more_and_the_other_still_something() {
    let mut world = without_prefetch();
    for action in 0..60 {
        world.action(action, 1, 0);
        world.action(100 + action, 2, -100);
    }
    world.agent(1, 30);
    let urgent = world.assigned().iter().filter(|assigned| assigned.action >= 100).count();
    assert!((19..=21).contains(&urgent), "{urgent} of 30");
}

#[test]
fn cancelling_withdraws_what_runs_and_drops_what_waits() {
    let mut world = without_prefetch();
    world.agent(1, 1);
    world.action(1, 1, 0);
    world.action(2, 1, 0);
    let running = world.assigned()[0];
    world.event(Event::ActionCancelled { action: ActionId(2) });
    assert_eq!(ends(&world.take()), [(2, ActionEnd::Cancelled)]);
    world.event(Event::ActionCancelled { action: ActionId(1) });
    let commands = world.take();
    assert!(commands.contains(&Command::Withdraw { agent: AgentId(1), epoch: running.epoch }), "{commands:?}");
    assert_eq!(ends(&commands), [(1, ActionEnd::Cancelled)]);
    world.event(Event::ActionCancelled { action: ActionId(1) });
    assert_eq!(world.take(), []);
    // What the killed attempt still says is fenced.
    world.action_ran(running);
    let fenced = Command::Acknowledge { agent: AgentId(1), epoch: running.epoch, fenced: true };
    assert_eq!(world.take(), [fenced]);
}

#[test]
fn a_lost_agent_costs_an_action_only_time() {
    let mut world = World::new();
    world.agent(1, 1);
    world.action(1, 1, 0);
    let first = world.assigned()[0];
    world.report(1, &[first.at(Stage::Running)]);
    world.agent(2, 1);
    world.disconnect(1);
    world.pass(SECOND * 2);
    let commands = world.take();
    let second = assigned_in(&commands)[0];
    assert!(second.epoch > first.epoch && second.agent == AgentId(2));
    let lost = FaultKind::AgentLost;
    let told = |command: &Command| matches!(command, Command::ReportActionFault { kind, .. } if *kind == lost);
    assert!(commands.iter().any(told), "{commands:?}");
    // The zombie's result does not count, the second one does.
    world.agent(1, 1);
    world.take();
    world.action_ran(first);
    assert_eq!(ends(&world.take()), []);
    world.action_ran(second);
    assert_eq!(ends(&world.take()), [(1, ActionEnd::Ran)]);
}

#[test]
fn an_action_that_takes_agents_down_is_poison() {
    let mut world = World::new();
    world.action(1, 1, 0);
    let mut losses = 0;
    for agent in 1..10 {
        world.agent(agent, 1);
        let Some(&assigned) = world.assigned().first() else { break };
        world.report(agent, &[assigned.at(Stage::Running)]);
        world.disconnect(agent);
        losses += 1;
        world.pass(SECOND * 2);
        let commands = world.commands.clone();
        if ends(&commands) == [(1, ActionEnd::Poison)] {
            break;
        }
    }
    let budget = muster_model::limits::LOSSES_BEFORE_ALONE + muster_model::limits::LOSSES_ALONE_BEFORE_POISON;
    assert_eq!(losses, u32::from(budget));
    assert_eq!(world.scheduler.view().actions().count(), 0);
}

#[test]
fn faults_are_budgeted_and_work_that_was_given_back_costs_nothing() {
    let mut world = World::new();
    world.agent(1, 1);
    world.action(1, 1, 0);
    let mut assigned = world.assigned()[0];
    for _ in 0..10 {
        world.action_fault(assigned, FaultKind::Returned);
        assigned = world.assigned()[0];
    }
    for _ in 1..muster_model::limits::FAULTS_PER_CASE_MAX {
        world.action_fault(assigned, FaultKind::Environment);
        assigned = world.assigned()[0];
    }
    world.action_fault(assigned, FaultKind::Environment);
    assert_eq!(ends(&world.take()), [(1, ActionEnd::Fault(FaultKind::Environment))]);
}

#[test]
fn an_action_of_a_known_time_that_is_late_is_copied_and_the_first_result_counts() {
    let mut world = World::new();
    world.agent(1, 1);
    world.agent(2, 1);
    let seed = ActionSeed { requirements: requirements(), priority: 0, expected: Some(SECOND) };
    world.seeded(1, 1, seed);
    let original = world.assigned()[0];
    world.report(original.agent.0, &[original.at(Stage::Running)]);
    world.pass_with(3, &[(original.agent.0, &[original.at(Stage::Running)]), (3 - original.agent.0, &[])]);
    let copy = world.assigned()[0];
    assert_ne!(copy.agent, original.agent);
    world.action_ran(copy);
    let commands = world.take();
    assert_eq!(ends(&commands), [(1, ActionEnd::Ran)]);
    assert!(commands.contains(&Command::Withdraw { agent: original.agent, epoch: original.epoch }));
    world.action_ran(original);
    assert_eq!(ends(&world.take()), []);
}

#[test]
fn an_action_of_an_unknown_time_is_not_copied() {
    let mut world = World::new();
    world.agent(1, 1);
    world.agent(2, 1);
    world.action(1, 1, 0);
    let original = world.assigned()[0];
    world.pass_with(30, &[(original.agent.0, &[original.at(Stage::Running)]), (3 - original.agent.0, &[])]);
    assert_eq!(world.assigned(), []);
}

#[test]
fn an_action_that_nobody_can_run_any_more_is_given_up() {
    let mut world = World::new();
    world.agent(1, 1);
    let properties = Properties::new([("pool".into(), "large".into())]);
    let seed = ActionSeed { requirements: Requirements { properties, ..requirements() }, ..ActionSeed::default() };
    world.seeded(1, 1, seed);
    world.pass_with(40, &[(1, &[])]);
    assert_eq!(ends(&world.take()), [(1, ActionEnd::Fault(FaultKind::Environment))]);
}

#[test]
fn tests_run_beside_actions_and_a_finished_run_leaves_the_actions_alone() {
    let mut world = without_prefetch();
    world.agent(1, 2);
    world.action(1, 1, 0);
    world.run(policy(), quick(1));
    let commands = world.take();
    let (action, shard) = (assigned_in(&commands)[0], leases_of(&commands)[0].clone());
    world.ran(&shard, &[(0, super::fixture::PASSED)]);
    assert_eq!(outcomes(&world.take()).len(), 1);
    world.action_ran(action);
    assert_eq!(ends(&world.take()), [(1, ActionEnd::Ran)]);
}
