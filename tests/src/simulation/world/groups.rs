//! Exclusive groups, as they are on the agents.

use core::time::Duration;

use muster_model::{Epoch, Instant};

use super::World;
use crate::simulation::agent::Agent;

impl World {
    /// No two attempts in one exclusive group run at one time, wherever they are: but for an agent that stood still for so long that its leases were
    /// given to others, until it notices.
    pub(super) fn check_groups(&mut self, position: usize, epoch: Epoch) {
        let groups = self.agents[position].groups[&epoch].clone();
        if groups.is_empty() {
            return;
        }
        self.sometimes("group taken");
        let just_thawed = |agent: &Agent| {
            agent.frozen_until > Instant::default() && agent.frozen_until + Duration::from_secs(2) > self.now
        };
        if just_thawed(&self.agents[position]) {
            return;
        }
        for other in self.agents.iter().filter(|agent| !just_thawed(agent)) {
            let holds = |(held, names): &(&Epoch, &Vec<String>)| {
                (other.id, **held) != (self.agents[position].id, epoch)
                    && names.iter().any(|name| groups.contains(name))
            };
            if let Some((held, names)) = other.groups.iter().find(holds) {
                panic!("{epoch} is started in {groups:?} while {held} runs on agent {} in {names:?}", other.id);
            }
        }
    }
}
