//! Work that needs services, and agents that have them warm.

use std::vec;
use std::vec::Vec;

use muster_model::key::ActionKey;
use muster_model::{AgentId, RunId};
use proptest::prelude::*;

use super::fixture::*;
use crate::{Event, TargetSeed};

const DATABASE: ActionKey = ActionKey([1; 32]);
const QUEUE: ActionKey = ActionKey([2; 32]);

impl World {
    fn warm(&mut self, agent: u64, warm: &[ActionKey], attempts: &[muster_model::attempt::AttemptStatus]) {
        let (warm, attempts) = (warm.to_vec(), attempts.to_vec());
        self.event(Event::AgentReported { agent: AgentId(agent), draining: false, attempts, warm });
    }

    /// A run with one target of so many cases that each make a shard, and that need services.
    fn with_services(&mut self, run: RunId, services: ActionKey, cases: usize) {
        let seed = TargetSeed { requirements: requirements(), services: Some(services), ..TargetSeed::default() };
        self.event(Event::RunSubmitted { run, policy: policy(), targets: vec![seed] });
        self.event(Event::CasesDiscovered { run, target: TARGET, cases: vec![known(60_000); cases] });
    }
}

fn agents(leases: &[Leased]) -> Vec<u64> {
    leases.iter().map(|lease| lease.agent.0).collect()
}

#[test]
fn work_goes_to_the_idle_agent_that_has_its_services_warm() {
    let mut world = World::new();
    for agent in 1..=3 {
        world.agent(agent, 1);
    }
    world.warm(3, &[DATABASE], &[]);
    world.with_services(RUN, DATABASE, 1);
    assert_eq!(world.lease().agent, AgentId(3));
}

#[test]
fn each_warm_set_counts_once_and_others_services_not_at_all() {
    let mut world = World::new();
    for agent in 1..=3 {
        world.agent(agent, 2);
    }
    world.warm(2, &[QUEUE, QUEUE], &[]);
    world.warm(3, &[DATABASE], &[]);
    world.with_services(RUN, DATABASE, 2);
    // The second would find nothing warm any more on agent 3, so it goes where there is least to do.
    assert_eq!(agents(&world.leases()), [3, 1]);
}

#[test]
fn nothing_waits_for_an_agent_that_is_busy() {
    let mut world = World::new();
    world.agent(1, 1);
    world.with_services(RUN, DATABASE, 1);
    let busy = world.lease();
    world.agent(2, 1);
    let running = [status(&busy, muster_model::attempt::Stage::Running, None)];
    world.warm(1, &[DATABASE], &running);
    world.with_services(RunId(2), DATABASE, 1);
    assert_eq!(world.lease().agent, AgentId(2), "an idle slot that has to start them is better than a busy one");
}

#[test]
fn an_agent_that_left_has_nothing_warm() {
    let mut world = World::new();
    world.agent(1, 1);
    world.agent(2, 1);
    world.warm(2, &[DATABASE], &[]);
    world.disconnect(2);
    world.with_services(RUN, DATABASE, 1);
    assert_eq!(world.lease().agent, AgentId(1));
    world.warm(1, &[DATABASE; 100], &[]);
}

proptest! {
    /// Whatever agents say that they have: as many leases are made as without it, and each first one for a key that an idle agent has goes there.
    #[test]
    fn warm_services_change_where_and_never_whether(
        warm in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..3), 1..6), wanted in 0_u8..3, cases in 1_usize..8,
    ) {
        let key = |number: &u8| ActionKey([*number; 32]);
        let lease = |is_told: bool| {
            let mut world = World::new();
            for (agent, keys) in (1..).zip(&warm) {
                world.agent(agent, 1);
                let keys: Vec<ActionKey> = keys.iter().map(key).collect();
                world.warm(agent, if is_told { &keys } else { &[] }, &[]);
            }
            world.with_services(RUN, key(&wanted), cases);
            world.leases()
        };
        let (with, without) = (lease(true), lease(false));
        prop_assert_eq!(with.len(), without.len());
        let has: Vec<u64> = (1..).zip(&warm).filter(|(_, keys)| keys.contains(&wanted)).map(|(agent, _)| agent).collect();
        let idle = warm.len();
        for (position, agent) in agents(&with).into_iter().take(idle).enumerate() {
            prop_assert_eq!(has.contains(&agent), position < has.len(), "{:?} of {:?}", with, has);
        }
    }
}
