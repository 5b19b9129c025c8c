//! Services that agents keep running for nobody, and work that would like them.
//!
//! Work that needs services goes to an agent that has them warm, if one with an idle slot has; otherwise to whom it would have gone anyway. It never
//! waits: what waiting could save at most is one start of the services, and an idle slot can begin with that at once.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use muster_model::key::ActionKey;
use muster_model::{AgentId, RunId, TargetIndex};

use crate::Scheduler;
use crate::agents::LOAD_FULL;
use crate::classes::ClassIndex;
use crate::dispatch::SEARCH_WIDTH;

/// Who has which services warm, once for each set.
#[derive(Debug, Default)]
pub(crate) struct Warm {
    by_agent: BTreeMap<AgentId, Vec<ActionKey>>,
    by_key: BTreeMap<ActionKey, BTreeSet<AgentId>>,
}

impl Warm {
    /// Takes an agent's word for all that it has.
    pub(crate) fn replace(&mut self, agent: AgentId, keys: Vec<ActionKey>) {
        for key in self.by_agent.remove(&agent).unwrap_or_default() {
            self.unlist(agent, key);
        }
        for &key in &keys {
            self.by_key.entry(key).or_default().insert(agent);
        }
        if !keys.is_empty() {
            self.by_agent.insert(agent, keys);
        }
    }

    /// One set is lent to an attempt.
    pub(crate) fn take(&mut self, agent: AgentId, key: ActionKey) {
        let Some(keys) = self.by_agent.get_mut(&agent) else { return };
        let Some(position) = keys.iter().position(|&held| held == key) else { return };
        keys.swap_remove(position);
        if !keys.contains(&key) {
            self.unlist(agent, key);
        }
    }

    fn unlist(&mut self, agent: AgentId, key: ActionKey) {
        if let Some(agents) = self.by_key.get_mut(&key) {
            agents.remove(&agent);
            if agents.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }

    pub(crate) fn has(&self, agent: AgentId, key: ActionKey) -> bool {
        self.by_key.get(&key).is_some_and(|agents| agents.contains(&agent))
    }

    fn agents(&self, key: ActionKey) -> impl Iterator<Item = AgentId> + '_ {
        self.by_key.get(&key).into_iter().flatten().copied()
    }

    /// Checks that both sides say the same.
    ///
    /// # Panics
    ///
    /// When they don't.
    pub(crate) fn assert_consistent(&self) {
        for (&agent, keys) in &self.by_agent {
            assert!(keys.iter().all(|&key| self.has(agent, key)), "what agent {agent} has warm is found by its key");
        }
        let is_held = |agent: &AgentId, key| self.by_agent.get(agent).is_some_and(|keys| keys.contains(key));
        let is_right = self.by_key.iter().all(|(key, agents)| agents.iter().all(|agent| is_held(agent, key)));
        assert!(is_right, "who is found by a key has it warm");
    }
}

impl Scheduler {
    /// The services that a target's attempts need.
    pub(crate) fn services_of(&self, run: RunId, target: TargetIndex) -> Option<ActionKey> {
        self.runs.get(&run)?.target(target)?.services
    }

    /// The agent with an idle slot that work of a target, chosen for `agent`, goes to: one that has its services warm if there is one.
    pub(crate) fn prefer_warm(&self, index: ClassIndex, run: RunId, target: TargetIndex, agent: AgentId) -> AgentId {
        let Some(key) = self.services_of(run, target).filter(|&key| !self.warm.has(agent, key)) else { return agent };
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::WarmServicesIgnored) {
            return agent;
        }
        let available = &self.classes.get(index).available;
        let is_free = |id: &AgentId| {
            let load = self.agents.get(id).and_then(|agent| agent.load_in(index)).filter(|&load| load < LOAD_FULL);
            load.is_some_and(|load| available.contains(&(load, *id))) && !self.is_avoided(index, run, target, *id)
        };
        self.warm.agents(key).filter(is_free).take(SEARCH_WIDTH).next().unwrap_or(agent)
    }
}
