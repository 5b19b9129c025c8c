//! What to do with idle slots when nothing is queued: recall work that waits behind other work, then copy what runs longest.

use alloc::vec::Vec;
use core::time::Duration;

use muster_model::attempt::{Stage, Work};
use muster_model::{AgentId, CaseIndex, Epoch, Instant};

use crate::agents::LOAD_FULL;
use crate::case::CaseState;
use crate::classes::ClassIndex;
use crate::dispatch::SEARCH_WIDTH;
use crate::leases::{Lease, Recall};
use crate::{Command, Config, Scheduler};

/// Age from which an attempt may be copied.
fn age_min(config: &Config, expected: Duration) -> Duration {
    let share = expected.saturating_mul(config.speculation_age_percent) / 100;
    share.max(config.speculation_age_min)
}

impl Scheduler {
    pub(crate) fn balance(&mut self) {
        let idle: Vec<ClassIndex> = self
            .classes
            .iter()
            .filter(|(_, class)| class.idle_slots > 0 && class.ready.is_empty())
            .map(|(index, _)| index)
            .collect();
        for index in idle {
            self.recall_surplus(index);
            if self.classes.get(index).recalls == 0 {
                self.copy_stragglers(index);
            }
        }
    }

    /// Recalls as many waiting attempts as there are idle slots for them.
    fn recall_surplus(&mut self, index: ClassIndex) {
        loop {
            let class = self.classes.get(index);
            if class.recalls >= class.idle_slots {
                return;
            }
            let Some(epoch) = self.find_surplus(index) else { return };
            self.recall(epoch);
        }
    }

    /// An attempt that waits for a slot, and of whose target an idle agent would take it: otherwise it would come straight back.
    fn find_surplus(&self, index: ClassIndex) -> Option<Epoch> {
        let all_agents = (index, AgentId(0))..=(index, AgentId(u64::MAX));
        let is_wanted = |epoch: &Epoch| {
            let lease = &self.leases[epoch];
            lease.class == index
                && lease.stage <= Stage::Waiting
                && lease.recall == Recall::No
                && self.idle(index).any(|agent| !self.is_avoided(index, lease.run, lease.target, agent))
        };
        let surplus = self.surplus.range(all_agents).take(SEARCH_WIDTH);
        surplus.flat_map(|(_, agent)| self.agents[agent].leases.iter().rev()).copied().find(is_wanted)
    }

    /// Some of the agents with idle slots.
    fn idle(&self, index: ClassIndex) -> impl Iterator<Item = AgentId> + '_ {
        let idle = self.classes.get(index).available.iter().take_while(|&&(load, _)| load < LOAD_FULL);
        idle.map(|&(_, agent)| agent).take(SEARCH_WIDTH)
    }

    /// Asks for an attempt back, unless it has started or was asked for before.
    pub(crate) fn recall(&mut self, epoch: Epoch) {
        let Some(lease) = self.leases.get_mut(&epoch) else { return };
        if lease.stage > Stage::Waiting || lease.recall != Recall::No {
            return;
        }
        lease.recall = Recall::Asked;
        let (agent, class) = (lease.agent, lease.class);
        self.classes.get_mut(class).recalls += 1;
        self.push(Command::Recall { agent, epoch });
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::RecallTakenForReturned) {
            let lease = &self.leases[&epoch];
            let (run, target, cases) = (lease.run, lease.target, lease.cases().to_vec());
            for case in cases {
                if self.case_state(run, target, case) == Some(CaseState::Leased) {
                    self.enqueue(run, target, case);
                }
            }
            self.refresh_target(run, target);
        }
        self.refresh_agent(agent);
    }

    /// Notes that an attempt has started, and from when it may be copied.
    pub(crate) fn note_start(&mut self, epoch: Epoch) {
        let (now, config) = (self.now, self.config);
        let Some(lease) = self.leases.get_mut(&epoch) else { return };
        if lease.started.is_some() {
            return;
        }
        lease.started = Some(now);
        let class = self.classes.get_mut(lease.class);
        if lease.recall == Recall::Asked {
            lease.recall = Recall::TooLate;
            class.recalls -= 1;
        }
        let is_copyable = match lease.work {
            Work::Discover => false,
            Work::Cases { .. } => true,
            // Nobody knows whether an action that runs for the first time is late.
            Work::Action => !lease.expected.is_zero(),
        };
        // A copy would be a second attempt in the same group.
        if lease.copy_of.is_none() && is_copyable && lease.exclusive.is_empty() {
            let at = now + age_min(&config, lease.expected);
            lease.straggles_at = Some(at);
            class.stragglers.insert((at, epoch));
        }
    }

    /// Copies the cases of stragglers, the most overdue first, onto idle slots of other agents.
    fn copy_stragglers(&mut self, index: ClassIndex) {
        let now = self.now;
        let due = self.classes.get(index).stragglers.iter().take_while(|&&(at, _)| at <= now);
        let due: Vec<Epoch> = due.map(|&(_, epoch)| epoch).take(self.classes.get(index).idle_slots as usize).collect();
        for epoch in due {
            self.copy_straggler(index, epoch);
        }
    }

    fn copy_straggler(&mut self, index: ClassIndex, epoch: Epoch) {
        let cases = self.copyable(epoch);
        let idle = self.classes.get(index).idle_slots as usize;
        let per_copy = cases.len().div_ceil(idle.max(1)).max(1);
        let mut copied = 0;
        for part in cases.chunks(per_copy) {
            let Some(agent) = self.find_idle_other(index, epoch) else { break };
            let original = &self.leases[&epoch];
            let work = match &original.work {
                Work::Cases { alone, .. } => Work::Cases { cases: part.to_vec(), alone: *alone },
                whole @ (Work::Discover | Work::Action) => whole.clone(),
            };
            let mut copy = Lease::new(agent, original.run, original.target, index, work, self.now);
            copy.expected = original.expected.saturating_mul(part.len() as u32) / original.cases().len().max(1) as u32;
            copy.copy_of = Some(epoch);
            copied += part.len();
            self.lease(copy);
        }
        if copied == cases.len()
            && let Some(lease) = self.leases.get_mut(&epoch)
            && let Some(at) = lease.straggles_at.take()
        {
            self.classes.get_mut(index).stragglers.remove(&(at, epoch));
        }
    }

    /// Withdraws the newest copy whose slot queued work would take: that work is certain to be needed, a copy is a guess. False without one.
    pub(crate) fn give_way(&mut self) -> bool {
        let newest = self.copies.iter().rev().take(SEARCH_WIDTH);
        let Some(epoch) = newest.copied().find(|&epoch| self.is_in_the_way(epoch)) else { return false };
        let original = self.leases[&epoch].copy_of;
        self.withdraw(epoch);
        // It may be copied again as soon as there is nothing better to do.
        if let Some((original, lease)) = original.and_then(|epoch| Some((epoch, self.leases.get_mut(&epoch)?)))
            && lease.straggles_at.is_none()
        {
            lease.straggles_at = Some(self.now);
            self.classes.get_mut(lease.class).stragglers.insert((self.now, original));
        }
        true
    }

    /// Whether a copy's end would leave every case with another attempt, and its agent with an idle slot that queued work would take.
    fn is_in_the_way(&self, epoch: Epoch) -> bool {
        let Some(lease) = self.leases.get(&epoch) else { return false };
        let Some(agent) = self.agents.get(&lease.agent) else { return false };
        let is_only = |&case: &CaseIndex| self.case_state(lease.run, lease.target, case) == Some(CaseState::Leased);
        if lease.cases().iter().any(is_only) {
            return false;
        }
        if agent.claimed.is_some() {
            return true;
        }
        let takes = |class| {
            self.may_take_groups(class)
                && self.would_fit(class, lease.agent, epoch)
                && self.would_take(class, lease.agent)
        };
        agent.slots_held <= agent.slots && agent.served().iter().any(|&class| takes(class))
    }

    /// The cases of an attempt that are nowhere else, the one under way and those after it first. A case that may have taken an agent
    /// down is not given a second one.
    fn copyable(&self, epoch: Epoch) -> Vec<CaseIndex> {
        let Some(lease) = self.leases.get(&epoch) else { return Vec::new() };
        let Some(target) = self.runs.get(&lease.run).and_then(|run| run.target(lease.target)) else {
            return Vec::new();
        };
        let (before, after) = lease.cases().split_at((lease.running.unwrap_or(0) as usize).min(lease.cases().len()));
        let is_single = |case: &&CaseIndex| {
            target.case(**case).is_some_and(|case| case.state == CaseState::Leased && !case.is_suspect())
        };
        after.iter().chain(before).filter(is_single).copied().collect()
    }

    /// An agent with an idle slot that does not run the attempt itself.
    fn find_idle_other(&self, index: ClassIndex, epoch: Epoch) -> Option<AgentId> {
        let original = self.leases.get(&epoch)?.agent;
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::CopyOnSameAgent) {
            return Some(original);
        }
        self.idle(index).find(|&agent| agent != original)
    }

    /// When the next attempt may be copied.
    pub(crate) fn next_copy(&self) -> Option<Instant> {
        let waiting =
            |class: &crate::classes::Class| class.idle_slots > 0 && class.ready.is_empty() && class.recalls == 0;
        let classes = self.classes.iter().map(|(_, class)| class).filter(|class| waiting(class));
        classes
            .filter_map(|class| class.stragglers.range((self.now + Duration::from_nanos(1), Epoch(0))..).next())
            .map(|&(at, _)| at)
            .min()
    }
}
