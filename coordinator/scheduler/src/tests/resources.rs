//! Work that takes more than any one slot.

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::time::Duration;
use std::vec;
use std::vec::Vec;

use muster_model::attempt::{Stage, Work};
use muster_model::outcome::{CaseOutcome, FaultKind, RunOutcome};
use muster_model::platform::{Offer, Requirements, Resources};
use muster_model::{AgentId, Epoch, Instant, RunId};
use proptest::prelude::*;

use super::fixture::*;
use crate::{CaseSeed, Config, Event, TargetSeed};

const MINUTE: u64 = 60_000;

fn takes(slots: u32, memory_bytes: u64, exclusive: &[&str]) -> Resources {
    Resources { slots, memory_bytes, exclusive: exclusive.iter().map(ToString::to_string).collect() }
}

impl World {
    fn sized(&mut self, agent: u64, slots: u32, memory_bytes: u64) {
        let offer = Offer { memory_bytes, ..offer() };
        self.event(Event::AgentConnected { agent: AgentId(agent), slots, offer });
        self.report(agent, &[]);
    }

    /// A run with one target whose attempts take this.
    fn taking(&mut self, run: u64, resources: Resources, cases: Vec<CaseSeed>) {
        let requirements = Requirements { resources, ..requirements() };
        let seed = TargetSeed { requirements, ..TargetSeed::default() };
        self.event(Event::RunSubmitted { run: RunId(run), policy: policy(), targets: vec![seed] });
        self.event(Event::CasesDiscovered { run: RunId(run), target: TARGET, cases });
    }

    fn runs_all(&mut self, agent: u64, leases: &[&Leased]) {
        let attempts: Vec<_> = leases.iter().map(|lease| status(lease, Stage::Running, None)).collect();
        self.report(agent, &attempts);
    }

    fn vacated(&mut self, leased: &Leased) {
        self.event(Event::AttemptVacated { agent: leased.agent, epoch: leased.epoch });
    }
}

#[test]
fn two_slots_are_two_slots_of_one_agent() {
    let mut world = World::new();
    world.agent(1, 1);
    world.agent(2, 3);
    world.taking(1, takes(2, 0, &[]), vec![known(MINUTE); 2]);
    let wide = world.lease();
    assert_eq!(wide.agent, AgentId(2), "the other agent has only one");
    world.runs_all(2, &[&wide]);
    // One slot is left there, and nothing wide is given ahead.
    world.taking(2, takes(1, 0, &[]), vec![known(MINUTE); 2]);
    assert_eq!(world.leases().iter().filter(|lease| lease.agent == AgentId(2)).count(), 1);
}

#[test]
fn memory_is_set_aside() {
    let mut world = World::new();
    world.sized(1, 4, 10 << 30);
    world.taking(1, takes(1, 4 << 30, &[]), vec![known(MINUTE); 4]);
    let leases = world.leases();
    assert_eq!(leases.len(), 2, "4 of 10 GiB twice");
    world.ran(&leases[0], &[(leases[0].cases()[0], PASSED)]);
    assert_eq!(world.leases().len(), 1);
}

#[test]
fn what_no_agent_is_large_enough_for_is_given_up() {
    let mut world = World::new();
    world.sized(1, 2, 1 << 30);
    world.taking(1, takes(3, 0, &[]), vec![known(1)]);
    world.taking(2, takes(1, 2 << 30, &[]), vec![known(1)]);
    assert!(world.leases().is_empty());
    world.pass_with(60, &[(1, &[])]);
    let commands = world.take();
    let fault = (0, CaseOutcome::Fault(FaultKind::Environment));
    assert_eq!(outcomes(&commands), [fault, fault]);
    assert_eq!(finish(&commands).map(|(outcome, ..)| outcome), Some(RunOutcome::Fault));
}

#[test]
fn an_exclusive_group_is_in_one_attempt_at_a_time() {
    let mut world = World::new();
    world.agent(1, 4);
    world.agent(2, 4);
    world.taking(1, takes(1, 0, &["a", "b"]), vec![known(MINUTE); 2]);
    world.taking(2, takes(1, 0, &["b"]), vec![known(MINUTE)]);
    world.taking(3, takes(1, 0, &["c"]), vec![known(MINUTE)]);
    let leases = world.leases();
    let runs: Vec<u64> = leases.iter().map(|lease| lease.run.0).collect();
    assert_eq!(runs, [1, 3], "the second waits for b");
    world.ran(&leases[0], &[(leases[0].cases()[0], PASSED)]);
    assert_eq!(world.leases().len(), 1, "one of those who want b");
}

#[test]
fn a_group_is_not_free_before_the_attempt_in_it_is_known_to_be_dead() {
    let mut world = World::new();
    world.agent(1, 1);
    world.agent(2, 1);
    world.taking(1, takes(1, 0, &["a"]), vec![known(MINUTE)]);
    let first = world.lease();
    world.runs_all(first.agent.0, &[&first]);
    world.event(Event::RunCancelled { run: RunId(1) });
    world.taking(2, takes(1, 0, &["a"]), vec![known(MINUTE)]);
    assert!(world.leases().is_empty(), "it may still run");
    let other = Leased { agent: AgentId(9), ..first.clone() };
    world.vacated(&other);
    assert!(world.leases().is_empty(), "it is somebody else's");
    world.vacated(&first);
    assert_eq!(world.lease().run, RunId(2));
}

#[test]
fn a_group_is_free_when_no_lease_lets_an_agent_go_on() {
    let mut world = World::new();
    world.agent(1, 1);
    world.taking(1, takes(1, 0, &["a"]), vec![known(MINUTE)]);
    let first = world.lease();
    world.runs_all(1, &[&first]);
    world.disconnect(1);
    world.agent(2, 1);
    let config = Config::default();
    world.pass_with(config.reconnect_grace.as_secs() + 1, &[(2, &[])]);
    assert!(world.leases().is_empty(), "the agent is lost, and the attempt may still run");
    world.pass_with(config.lease_time.as_secs() + 1, &[(2, &[])]);
    assert_eq!(world.lease().agent, AgentId(2));
}

#[test]
fn a_late_report_of_a_lost_attempt_frees_its_group() {
    let mut world = World::new();
    world.agent(1, 1);
    world.taking(1, takes(1, 0, &["a"]), vec![known(MINUTE)]);
    let first = world.lease();
    world.event(Event::RunCancelled { run: RunId(1) });
    world.taking(2, takes(1, 0, &["a"]), vec![known(MINUTE)]);
    assert!(world.leases().is_empty());
    world.ran(&first, &[(0, PASSED)]);
    assert_eq!(world.leases().len(), 1);
}

#[test]
fn a_restart_keeps_groups_held() {
    let mut world = World::new();
    world.taking(1, takes(1, 0, &["a"]), vec![known(MINUTE); 2]);
    let work = Work::Cases { cases: vec![muster_model::CaseIndex(0)], alone: false };
    let (epoch, agent, run) = (Epoch(5), AgentId(1), RunId(1));
    world.event(Event::LeaseRestored { epoch, agent, run, target: TARGET, work: work.clone() });
    world.event(Event::VacatingRestored { epoch: Epoch(4), agent: AgentId(3), exclusive: vec!["b".into()] });
    world.agent(2, 4);
    world.taking(2, takes(1, 0, &["b"]), vec![known(MINUTE)]);
    assert!(world.leases().is_empty(), "both groups may be in use");
    world.event(Event::AttemptVacated { agent: AgentId(3), epoch: Epoch(4) });
    assert_eq!(world.lease().run, RunId(2));
    world.agent(1, 1);
    let leased = Leased { epoch, agent, run, target: TARGET, work };
    world.runs_all(1, &[&leased]);
    world.ran(&leased, &[(0, PASSED)]);
    assert_eq!(world.lease().cases(), [1]);
}

/// A stream of small work that takes every slot as it becomes free, for `seconds`; when other work was leased first.
fn flood(world: &mut World, agents: &[(u64, u32)], seconds: u64, mut more: impl FnMut(&mut World, u64)) -> Option<u64> {
    let mut running: Vec<(Leased, u64)> = Vec::new();
    for second in 0..seconds {
        more(world, second);
        // Attempts take between one and three seconds.
        let (over, rest): (Vec<_>, Vec<_>) = running.into_iter().partition(|(_, until)| *until <= second);
        running = rest;
        for (lease, _) in over {
            let ends: Vec<_> = lease.cases().into_iter().map(|case| (case, PASSED)).collect();
            world.ran(&lease, &ends);
        }
        world.pass(Duration::from_secs(1));
        for lease in world.leases() {
            if lease.run == RunId(1) {
                return Some(second);
            }
            let length = 1 + lease.epoch.0 % 3;
            running.push((lease, second + length));
        }
        for &(agent, _) in agents {
            let held: Vec<&Leased> =
                running.iter().map(|(lease, _)| lease).filter(|lease| lease.agent.0 == agent).collect();
            let attempts: Vec<_> = held.iter().map(|lease| status(lease, Stage::Running, None)).collect();
            world.report(agent, &attempts);
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever small work keeps coming: what takes several slots, memory or a group is leased within a bounded time.
    #[test]
    fn small_work_starves_nobody(
        slots in proptest::collection::vec(2_u32..5, 1..4), wide in 1_u32..3, gibibytes in 0_u64..3, grouped: bool, rate in 1_usize..12,
    ) {
        let mut world = World::new();
        let agents: Vec<(u64, u32)> = (1..).zip(slots).collect();
        for &(agent, slots) in &agents {
            world.sized(agent, slots, 2 << 30);
        }
        let groups: &[&str] = if grouped { &["a"] } else { &[] };
        let wanted = takes(wide, gibibytes << 30, groups);
        let small = |world: &mut World, second: u64| {
            let run = 100 + second;
            // Others want the group and the memory too, and have waited for less long.
            let resources = if second.is_multiple_of(2) { takes(1, gibibytes << 29, groups) } else { takes(1, 0, &[]) };
            world.taking(run, resources, vec![CaseSeed::default(); rate]);
            if second == 5 {
                world.taking(1, wanted.clone(), vec![known(1)]);
            }
        };
        let leased = flood(&mut world, &agents, 40, small);
        prop_assert!(leased.is_some_and(|second| second <= 20), "leased after {leased:?} seconds");
    }

    /// Whatever is submitted, however it ends: no agent has more than it has room for, and no group is in two attempts that are not known to be dead.
    #[test]
    fn nothing_is_given_twice(
        wanted in proptest::collection::vec((1_u32..4, 0_u64..3, proptest::collection::btree_set(0_u8..3, 0..3), 1_usize..4), 1..6),
        steps in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..5), 1..60),
    ) {
        let mut world = World::new();
        let sizes = BTreeMap::from([(1_u64, 2_u32), (2, 3)]);
        for (&agent, &slots) in &sizes {
            world.sized(agent, slots, 3 << 30);
        }
        let mut resources = BTreeMap::new();
        for (run, (slots, gibibytes, groups, cases)) in (1..).zip(wanted) {
            let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
            let taken = Resources { slots, memory_bytes: gibibytes << 30, exclusive: groups };
            resources.insert(RunId(run), taken.clone());
            world.taking(run, taken, vec![known(MINUTE); cases]);
        }
        let mut alive: Vec<Leased> = Vec::new();
        let mut dying: Vec<(Leased, Instant)> = Vec::new();
        for (which, what) in steps {
            for lease in world.leases() {
                for group in &resources[&lease.run].exclusive {
                    let holds = |other: &&Leased| resources[&other.run].exclusive.contains(group);
                    let holders: Vec<_> = alive.iter().chain(dying.iter().map(|(lease, _)| lease)).filter(holds).collect();
                    prop_assert!(holders.is_empty(), "{lease:?} besides {holders:?} in {group}");
                }
                alive.push(lease);
            }
            for (&agent, &slots) in &sizes {
                let held = || alive.iter().filter(|lease| lease.agent.0 == agent);
                let taken: u32 = held().map(|lease| resources[&lease.run].slots_taken()).sum();
                let memory: u64 = held().map(|lease| resources[&lease.run].memory_bytes).sum();
                let is_ahead = held().any(|lease| !resources[&lease.run].is_special());
                prop_assert!(taken <= slots + u32::from(is_ahead) && memory <= 3 << 30, "{taken} slots and {memory} bytes");
            }
            match what {
                0 | 1 if !alive.is_empty() => {
                    let lease = alive.swap_remove(which.index(alive.len()));
                    let ends: Vec<_> = lease.cases().into_iter().map(|case| (case, PASSED)).collect();
                    world.ran(&lease, &ends);
                }
                2 if !alive.is_empty() => {
                    let run = alive[which.index(alive.len())].run;
                    let (cancelled, rest): (Vec<_>, Vec<_>) = alive.into_iter().partition(|lease| lease.run == run);
                    alive = rest;
                    dying.extend(cancelled.into_iter().map(|lease| (lease, world.now)));
                    world.event(Event::RunCancelled { run });
                }
                3 if !dying.is_empty() => {
                    let (lease, _) = dying.swap_remove(which.index(dying.len()));
                    world.vacated(&lease);
                }
                _ => {
                    world.pass(Duration::from_millis(500));
                    for &agent in sizes.keys() {
                        let attempts: Vec<_> = alive
                            .iter()
                            .filter(|lease| lease.agent.0 == agent)
                            .map(|lease| status(lease, Stage::Running, None))
                            .collect();
                        world.report(agent, &attempts);
                    }
                    // No agent goes on for longer than a lease with what it should not have.
                    dying.retain(|(_, since)| world.now.since(*since) < Config::default().lease_time);
                }
            }
        }
    }
}
