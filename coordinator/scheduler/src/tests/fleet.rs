//! Agents that come, go, fall silent and disagree.

use std::time::Duration;
use std::vec;
use std::vec::Vec;

use muster_model::attempt::{Stage, Work};
use muster_model::outcome::{CaseOutcome, FaultKind, RunOutcome};
use muster_model::spec::Isolation;
use muster_model::{AgentId, CaseIndex, Epoch, RunId};

use super::fixture::*;
use crate::{AgentState, CaseSeed, Command, Config, Event, SchedulingPolicy, TargetSeed};

const SECOND: Duration = Duration::from_secs(1);

/// Every case in a process and, being long, in a shard of its own.
fn long(count: usize) -> (SchedulingPolicy, Vec<CaseSeed>) {
    (SchedulingPolicy { isolation: Isolation::Process, ..policy() }, vec![known(6000); count])
}

#[test]
fn an_agent_gets_its_slots_and_the_prefetch_and_no_more() {
    let mut world = World::new();
    world.agent(1, 2);
    let (policy, cases) = long(10);
    world.run(policy, cases);
    assert_eq!(world.leases().len(), 3);
    let view = world.scheduler.view();
    assert_eq!(view.queue().cases, 7);
    assert_eq!(
        view.agents().map(|agent| (agent.slots, agent.attempts, agent.state)).collect::<Vec<_>>(),
        [(2, 3, AgentState::Connected)]
    );
    assert_eq!(view.runs().map(|run| (run.planned, run.reported, run.queued)).collect::<Vec<_>>(), [(10, 0, 7)]);
    assert_eq!(view.attempts(AgentId(1)).map(|attempt| attempt.cases).sum::<u32>(), 3);
}

#[test]
fn a_closed_connection_gives_the_work_to_others_after_the_grace() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(1));
    let first = world.lease();
    world.agent(2, 1);
    world.disconnect(1);
    world.pass(SECOND / 2);
    assert_eq!(world.leases(), []);
    world.pass(SECOND);
    let commands = world.take();
    let second = leases_of(&commands).remove(0);
    assert_eq!(second.agent, AgentId(2));
    assert!(second.epoch > first.epoch);
    assert!(commands.contains(&Command::Withdraw { agent: AgentId(1), epoch: first.epoch }));
    world.ran(&first, &[(0, FAILED)]);
    assert_eq!(world.take(), [Command::Acknowledge { agent: AgentId(1), epoch: first.epoch, fenced: true }]);
    world.ran(&second, &[(0, PASSED)]);
    assert_eq!(outcomes(&world.take()), [(0, CaseOutcome::Verdict(PASSED))]);
}

#[test]
fn an_agent_that_comes_back_within_the_grace_keeps_its_work() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(1));
    let shard = world.lease();
    world.report(1, &[status(&shard, Stage::Running, Some(0))]);
    world.disconnect(1);
    world.pass(SECOND / 2);
    world.connect(1, 1);
    world.report(1, &[status(&shard, Stage::Running, Some(0))]);
    world.pass(SECOND * 5);
    world.ran(&shard, &[(0, PASSED)]);
    assert_eq!(finish(&world.take()), Some((RunOutcome::Passed, 1, 1)));
}

#[test]
fn an_agent_that_comes_back_without_what_it_had_started_has_lost_it() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(1));
    let shard = world.lease();
    world.report(1, &[status(&shard, Stage::Running, None)]);
    world.disconnect(1);
    world.agent(1, 1);
    let commands = world.take();
    let fault = Command::ReportFault {
        run: RUN,
        target: TARGET,
        epoch: shard.epoch,
        agent: AgentId(1),
        kind: FaultKind::AgentLost,
        cases: vec![CaseIndex(0)],
    };
    assert!(commands.contains(&fault), "{commands:?}");
    assert_eq!(leases_of(&commands).len(), 1);
}

#[test]
fn an_assignment_that_never_arrived_is_not_lost_by_a_reconnect() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(1));
    let shard = world.lease();
    world.disconnect(1);
    world.agent(1, 1);
    assert_eq!(world.take(), []);
    world.ran(&shard, &[(0, PASSED)]);
    assert_eq!(finish(&world.take()), Some((RunOutcome::Passed, 1, 1)));
}

#[test]
fn silence_for_a_lease_time_loses_the_leases_and_a_word_brings_the_agent_back() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(1));
    let shard = world.lease();
    world.report(1, &[status(&shard, Stage::Running, Some(0))]);
    world.take();
    world.pass(SECOND * 9);
    let commands = world.take();
    assert!(commands.contains(&Command::Withdraw { agent: AgentId(1), epoch: shard.epoch }));
    assert_eq!(leases_of(&commands), []);
    world.report(1, &[status(&shard, Stage::Running, Some(0))]);
    assert_eq!(world.lease().cases(), [0]);
}

#[test]
fn most_agents_silent_at_one_time_hold_expiry_back_for_one_more_lease() {
    let mut world = World::new();
    for agent in 1..=4 {
        world.agent(agent, 1);
    }
    let (policy, cases) = long(4);
    world.run(policy, cases);
    let leases = world.leases();
    assert_eq!(leases.len(), 4);
    world.pass(SECOND * 15);
    assert_eq!(world.take(), []);
    world.pass(SECOND * 2);
    let withdrawn = world.take().iter().filter(|command| matches!(command, Command::Withdraw { .. })).count();
    assert_eq!(withdrawn, 4);
}

#[test]
fn a_case_that_takes_agents_down_runs_alone_and_is_then_poison() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(2));
    let mut shard = world.lease();
    let mut all = Vec::new();
    for _ in 0..3 {
        let position = shard.cases().iter().position(|&case| case == 0).map(|position| position as u32);
        world.report(1, &[status(&shard, Stage::Running, position)]);
        world.disconnect(1);
        world.pass(SECOND * 2);
        world.agent(1, 1);
        let commands = world.take();
        all.extend(outcomes(&commands));
        if let Some(next) = leases_of(&commands).into_iter().find(|lease| lease.cases().contains(&0)) {
            assert!(next.is_alone());
            assert_eq!(next.cases(), [0], "nothing travels with a suspect");
            shard = next;
        }
    }
    assert_eq!(all, [(0, CaseOutcome::Poison)]);
}

#[test]
fn work_that_waited_on_a_lost_agent_is_charged_nothing() {
    let mut world = World::new();
    world.run(policy(), quick(1));
    for _ in 0..5 {
        world.agent(1, 1);
        let shard = world.lease();
        assert!(!shard.is_alone());
        world.report(1, &[status(&shard, Stage::Waiting, None)]);
        world.disconnect(1);
        world.pass(SECOND * 2);
        world.take();
    }
}

#[test]
fn a_fault_sends_the_cases_to_another_agent_and_the_third_decides_them() {
    let mut world = World::new();
    world.agent(1, 1);
    world.agent(2, 1);
    world.run(policy(), quick(1));
    let first = world.lease();
    world.fault(&first, FaultKind::Inputs);
    let second = world.lease();
    assert_ne!(second.agent, first.agent);
    world.fault(&second, FaultKind::Start);
    let third = world.lease();
    world.fault(&third, FaultKind::Environment);
    let commands = world.take();
    assert_eq!(outcomes(&commands), [(0, CaseOutcome::Fault(FaultKind::Environment))]);
    assert_eq!(finish(&commands), Some((RunOutcome::Fault, 1, 1)));
}

#[test]
fn returned_work_costs_nothing() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(1));
    for _ in 0..20 {
        let shard = world.lease();
        world.fault(&shard, FaultKind::Returned);
    }
    let shard = world.lease();
    assert!(!shard.is_alone());
    world.ran(&shard, &[(0, PASSED)]);
    let is_first = |command: &Command| matches!(command, Command::DecideCase { attempts: 1, .. });
    assert!(world.take().iter().any(is_first));
}

#[test]
fn waiting_work_is_recalled_for_an_idle_agent() {
    let mut world = World::new();
    world.agent(1, 1);
    let (policy, cases) = long(2);
    world.run(policy, cases);
    let leases = world.leases();
    world.report(1, &[status(&leases[0], Stage::Running, Some(0)), status(&leases[1], Stage::Waiting, None)]);
    world.take();
    world.agent(2, 1);
    assert_eq!(world.take(), [Command::Recall { agent: AgentId(1), epoch: leases[1].epoch }]);
    world.fault(&leases[1], FaultKind::Returned);
    assert_eq!(world.lease().agent, AgentId(2));
}

#[test]
fn a_straggler_gets_a_second_copy_and_the_slower_one_is_withdrawn() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), vec![known(1000)]);
    let original = world.lease();
    world.agent(2, 1);
    let running = [status(&original, Stage::Running, Some(0))];
    world.report(1, &running);
    world.take();
    world.pass_with(1, &[(1, &running), (2, &[])]);
    assert_eq!(world.leases(), [], "not before half as long again as expected");
    world.pass_with(1, &[(1, &running), (2, &[])]);
    let copy = world.lease();
    assert_eq!((copy.agent, copy.cases()), (AgentId(2), vec![0]));
    world.ran(&copy, &[(0, PASSED)]);
    let commands = world.take();
    assert!(commands.contains(&Command::Withdraw { agent: AgentId(1), epoch: original.epoch }));
    assert_eq!(finish(&commands), Some((RunOutcome::Passed, 1, 1)));
    world.ran(&original, &[(0, FAILED)]);
    assert_eq!(world.take(), [Command::Acknowledge { agent: AgentId(1), epoch: original.epoch, fenced: true }]);
}

/// Two agents run a case each, and the third one a copy of the first's, which is late.
fn copied(world: &mut World) -> (Vec<Leased>, Leased) {
    world.agent(1, 1);
    world.agent(2, 1);
    let (policy, cases) = long(2);
    world.run(policy, cases);
    let originals = world.leases();
    world.agent(3, 1);
    let running = originals.iter().map(|lease| status(lease, Stage::Running, Some(0))).collect::<Vec<_>>();
    let reports: [(u64, &[_]); 3] = [(1, &running[..1]), (2, &running[1..]), (3, &[])];
    for (agent, attempts) in reports {
        world.report(agent, attempts);
    }
    for _ in 0..8 {
        world.pass_with(1, &reports);
    }
    assert_eq!(world.leases(), []);
    world.pass_with(1, &reports);
    let copy = world.lease();
    assert_eq!((copy.agent, copy.cases()), (AgentId(3), originals[0].cases()));
    (originals, copy)
}

#[test]
fn a_copy_gives_way_to_lost_work_and_comes_back_when_nothing_waits() {
    let mut world = World::new();
    let (originals, copy) = copied(&mut world);
    world.disconnect(2);
    let running = [status(&originals[0], Stage::Running, Some(0))];
    let copied = [status(&copy, Stage::Running, Some(0))];
    world.pass_with(1, &[(1, &running), (3, &copied)]);
    let commands = world.take();
    assert!(commands.contains(&Command::Withdraw { agent: AgentId(3), epoch: copy.epoch }));
    let again = leases_of(&commands).remove(0);
    assert_eq!((again.agent, again.cases()), (AgentId(3), originals[1].cases()));
    world.ran(&again, &[(again.cases()[0], PASSED)]);
    let copy = world.lease();
    assert_eq!((copy.agent, copy.cases()), (AgentId(3), originals[0].cases()));
    world.ran(&copy, &[(0, PASSED)]);
    assert_eq!(finish(&world.take()), Some((RunOutcome::Passed, 2, 2)));
}

#[test]
fn a_copy_whose_original_is_lost_stays() {
    let mut world = World::new();
    let (originals, copy) = copied(&mut world);
    world.disconnect(1);
    let running = [status(&originals[1], Stage::Running, Some(0))];
    let copied = [status(&copy, Stage::Running, Some(0))];
    world.pass_with(1, &[(2, &running), (3, &copied)]);
    world.submit(RunId(2), policy(), 1);
    assert!(!world.take().contains(&Command::Withdraw { agent: AgentId(3), epoch: copy.epoch }));
}

#[test]
fn a_draining_agent_gets_nothing_new_and_its_waiting_work_is_recalled() {
    let mut world = World::new();
    world.agent(1, 1);
    let (policy, cases) = long(3);
    world.run(policy, cases);
    let leases = world.leases();
    let attempts = vec![status(&leases[0], Stage::Running, Some(0)), status(&leases[1], Stage::Waiting, None)];
    world.event(Event::AgentReported { agent: AgentId(1), draining: true, attempts, warm: Vec::new() });
    let recalled = Command::Recall { agent: AgentId(1), epoch: leases[1].epoch };
    assert!(world.take().contains(&recalled));
    world.fault(&leases[1], FaultKind::Returned);
    world.ran(&leases[0], &[(leases[0].cases()[0], PASSED)]);
    assert_eq!(world.leases(), []);
}

#[test]
fn a_repeated_report_is_acknowledged_again() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(1));
    let shard = world.lease();
    world.ran(&shard, &[(0, PASSED)]);
    world.take();
    world.ran(&shard, &[(0, FAILED)]);
    assert_eq!(world.take(), [Command::Acknowledge { agent: AgentId(1), epoch: shard.epoch, fenced: false }]);
}

#[test]
fn a_restored_lease_goes_on_with_its_agent_and_is_queued_again_without_it() {
    for comes_back in [true, false] {
        let mut world = World::with(Config::default());
        world.run(policy(), quick(1));
        let work = Work::Cases { cases: vec![CaseIndex(0)], alone: false };
        let (epoch, agent) = (Epoch(9), AgentId(1));
        world.event(Event::LeaseRestored { epoch, agent, run: RUN, target: TARGET, work: work.clone() });
        let restored = Leased { epoch, agent, run: RUN, target: TARGET, work };
        world.agent(2, 1);
        world.report(2, &[]);
        assert_eq!(world.leases(), []);
        if comes_back {
            world.connect(1, 1);
            world.report(1, &[status(&restored, Stage::Running, Some(0))]);
            world.ran(&restored, &[(0, PASSED)]);
            assert_eq!(finish(&world.take()), Some((RunOutcome::Passed, 1, 1)));
        } else {
            world.pass_with(9, &[(2, &[])]);
            let again = world.lease();
            assert_eq!(again.agent, AgentId(2));
            assert!(again.epoch > epoch);
        }
    }
}

#[test]
fn work_that_no_agent_satisfies_is_given_up_as_a_fault() {
    let mut world = World::new();
    let (policy, cases) = long(2);
    world.run(policy, cases);
    world.pass(SECOND * 29);
    assert_eq!(finish(&world.take()), None);
    world.pass(SECOND * 2);
    assert_eq!(finish(&world.take()), Some((RunOutcome::Fault, 2, 2)));
}

#[test]
fn slots_are_shared_between_runs() {
    let mut world = World::new();
    let (policy, cases) = long(8);
    for run in [RunId(1), RunId(2)] {
        world.submit(run, policy, 1);
        world.event(Event::CasesDiscovered { run, target: TARGET, cases: cases.clone() });
    }
    world.agent(1, 3);
    let of = |leases: &[Leased], run| leases.iter().filter(|lease| lease.run == run).count();
    let leases = world.leases();
    assert_eq!((of(&leases, RunId(1)), of(&leases, RunId(2))), (2, 2));
}

#[test]
fn discovery_is_an_attempt_and_a_failed_one_fails_the_run() {
    let mut world = World::new();
    world.agent(1, 2);
    let seed = TargetSeed { requirements: requirements(), needs_discovery: true, ..TargetSeed::default() };
    let targets = vec![seed; 2];
    world.event(Event::RunSubmitted { run: RUN, policy: policy(), targets });
    let leases = world.leases();
    assert!(leases.iter().all(|lease| lease.work == Work::Discover));
    world.finished(&leases[0], crate::AttemptEnd::Discovered);
    let accept = Command::AcceptDiscovery { run: RUN, target: leases[0].target, epoch: leases[0].epoch };
    assert!(world.take().contains(&accept));
    world.event(Event::CasesDiscovered { run: RUN, target: leases[0].target, cases: quick(1) });
    let shard = world.lease();
    world.finished(&leases[1], crate::AttemptEnd::DiscoveryFailed);
    let expected = Duration::from_millis(10);
    assert!(world.take().contains(&Command::PlanRun { run: RUN, planned: 1, expected }));
    world.ran(&shard, &[(0, PASSED)]);
    let undiscovered = vec![leases[1].target];
    let finished = Command::FinishRun { run: RUN, outcome: RunOutcome::Failed, planned: 1, reported: 1, undiscovered };
    assert!(world.take().contains(&finished));
}

#[test]
fn a_cancelled_run_ends_at_once_and_an_empty_one_has_nothing_to_run() {
    let mut world = World::new();
    world.agent(1, 1);
    world.run(policy(), quick(2));
    world.event(Event::RunCancelled { run: RUN });
    assert_eq!(finish(&world.take()), Some((RunOutcome::Cancelled, 2, 2)));
    world.submit(RunId(2), policy(), 0);
    assert_eq!(finish(&world.take()), Some((RunOutcome::NothingToRun, 0, 0)));
    let decided = CaseSeed { decided: Some(CaseOutcome::Verdict(PASSED)), ..known(1) };
    world.run(policy(), vec![decided; 3]);
    let commands = world.take();
    assert_eq!(outcomes(&commands), []);
    assert_eq!(finish(&commands), Some((RunOutcome::Passed, 3, 3)));
}

#[test]
fn cases_of_one_group_travel_together() {
    let shard = |opens_group: bool| {
        let mut world = World::new();
        let case = |millis, opens| CaseSeed { opens_group: opens && opens_group, ..known(millis) };
        // Two files, each with one long case. A shard of the one slot takes half of what there is: 555 ms.
        let one = [case(400, true), case(100, false), case(60, false)];
        let cases = one.into_iter().chain([case(50, true), case(400, false), case(100, false)]).collect();
        world.run(policy(), cases);
        world.agent(1, 1);
        world.leases().remove(0).cases()
    };
    assert_eq!(shard(true), [0, 1, 2]);
    assert_eq!(shard(false), [0, 4], "without groups the longest go first");
}
