//! Room for work that takes more than any one slot.
//!
//! Two slots at one time, a lot of memory or an exclusive group may never happen to be free as long as there is small work that takes whatever becomes
//! free. So a class that has waited for longer than [`crate::Config::claim_wait`] claims what it needs: an agent, whose slots nobody else gets until
//! there are enough of them, and its groups, which nobody else takes. Who has waited longest claims first, and only as a whole: what an older
//! claim has is not taken by a younger one, so that no two wait for each other. A claim ends with the lease that it was for.

use alloc::vec::Vec;

use muster_model::attempt::Stage;
use muster_model::{AgentId, Epoch, Instant};

use crate::Scheduler;
use crate::classes::{Class, ClassIndex};

impl Scheduler {
    /// Brings claims up to date after everything was given out that could be. True when more may be given out now.
    pub(crate) fn renew_claims(&mut self) -> bool {
        let now = self.now;
        for index in self.classes.special().collect::<Vec<_>>() {
            let class = self.classes.get_mut(index);
            if class.ready.is_empty() || class.agents == 0 {
                class.waits_since = None;
            } else {
                class.waits_since.get_or_insert(now);
            }
        }
        let wait = self.config.claim_wait;
        let is_due = |class: &Class| class.waits_since.is_some_and(|since| since + wait <= now);
        let special = self.classes.special().map(|index| (index, self.classes.get(index)));
        let mut due: Vec<(Option<Instant>, ClassIndex)> =
            special.filter(|(_, class)| is_due(class)).map(|(index, class)| (class.waits_since, index)).collect();
        due.sort_unstable();
        let mut claims: Vec<(ClassIndex, Option<AgentId>)> = Vec::new();
        for (_, index) in due {
            let is_taken = |group| {
                claims
                    .iter()
                    .any(|&(other, _)| self.classes.get(other).requirements.resources.exclusive.contains(group))
            };
            if self.classes.get(index).requirements.resources.exclusive.iter().any(is_taken) {
                continue;
            }
            let taken: Vec<AgentId> = claims.iter().filter_map(|&(_, agent)| agent).collect();
            match self.find_claim(index, &taken) {
                Some(agent) => claims.push((index, Some(agent))),
                None if self.needs_agent(index) => {}
                None => claims.push((index, None)),
            }
        }
        self.set_claims(&claims)
    }

    /// Whether a class waits for an agent: not as long as it waits for a group, which may take long. One slot is claimed too: new runs whose cases
    /// nobody knows would go before it for as long as they come.
    fn needs_agent(&self, index: ClassIndex) -> bool {
        self.groups.are_free(&self.classes.get(index).requirements.resources.exclusive)
    }

    /// The agent that a class claims: the one that it has claimed, or the one with least to do.
    fn find_claim(&self, index: ClassIndex, taken: &[AgentId]) -> Option<AgentId> {
        if !self.needs_agent(index) {
            return None;
        }
        let serves = |id: AgentId| {
            !taken.contains(&id) && self.agents.get(&id).is_some_and(|agent| agent.served().contains(&index))
        };
        let kept = self.classes.get(index).claim.filter(|&id| serves(id));
        kept.or_else(|| {
            let serving = self.agents.iter().filter(|(id, _)| serves(**id));
            serving.map(|(&id, agent)| (agent.slots_held, id)).min().map(|(_, id)| id)
        })
    }

    fn set_claims(&mut self, claims: &[(ClassIndex, Option<AgentId>)]) -> bool {
        let before = core::mem::take(&mut self.claimed_groups);
        for &(index, _) in claims {
            let groups = &self.classes.get(index).requirements.resources.exclusive;
            self.claimed_groups.extend(groups.iter().map(|group| (group.clone(), index)));
        }
        let mut changed = before != self.claimed_groups;
        for index in self.classes.special().collect::<Vec<_>>() {
            let wanted = claims.iter().find(|(claiming, _)| *claiming == index).and_then(|(_, agent)| *agent);
            let class = self.classes.get_mut(index);
            let had = core::mem::replace(&mut class.claim, wanted);
            if had == wanted {
                continue;
            }
            changed = true;
            for (id, claimant) in [(had, None), (wanted, Some(index))] {
                let Some(agent) = id.and_then(|id| self.agents.get_mut(&id)) else { continue };
                // What one class lets go of another may have taken in the same round.
                if claimant.is_some() || agent.claimed == Some(index) {
                    agent.claimed = claimant;
                }
            }
            for id in [had, wanted].into_iter().flatten() {
                self.refresh_agent(id);
            }
        }
        for agent in claims.iter().filter_map(|&(_, agent)| agent) {
            self.recall_waiting(agent);
        }
        changed
    }

    /// Asks for what waits on a claimed agent for a slot: it would take the first that becomes free.
    fn recall_waiting(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id).filter(|agent| agent.slots_held > agent.slots) else { return };
        let waits = |epoch: &Epoch| self.leases.get(epoch).is_some_and(|lease| lease.stage <= Stage::Waiting);
        let waiting: Vec<Epoch> = agent.leases.iter().copied().filter(waits).collect();
        for epoch in waiting {
            self.recall(epoch);
        }
    }

    /// Whether a class may take its groups: nobody holds them, and nobody else has claimed them.
    pub(crate) fn may_take_groups(&self, index: ClassIndex) -> bool {
        let groups = &self.classes.get(index).requirements.resources.exclusive;
        if groups.is_empty() {
            return true;
        }
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::ExclusiveIgnored) {
            return true;
        }
        let is_claimed = |group| self.claimed_groups.get(group).is_some_and(|&claimant| claimant != index);
        self.groups.are_free(groups) && !groups.iter().any(is_claimed)
    }

    /// When the next class has waited long enough.
    pub(crate) fn next_claim(&self) -> Option<Instant> {
        let waiting = self.classes.special().filter_map(|index| self.classes.get(index).waits_since);
        waiting.map(|since| since + self.config.claim_wait).filter(|&at| at > self.now).min()
    }

    /// Whether work of a class would fit on an agent if `freed` were not there.
    pub(crate) fn would_fit(&self, index: ClassIndex, agent: AgentId, freed: Epoch) -> bool {
        let (Some(agent), Some(lease)) = (self.agents.get(&agent), self.leases.get(&freed)) else { return false };
        let resources = &self.classes.get(index).requirements.resources;
        let slots = agent.slots_held.saturating_sub(lease.slots);
        let memory = agent.memory_held.saturating_sub(lease.memory_bytes);
        slots.saturating_add(resources.slots_taken()) <= agent.slots
            && memory.saturating_add(resources.memory_bytes) <= agent.offer.memory_bytes
    }
}
