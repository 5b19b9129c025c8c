//! What agents say of themselves.

use alloc::vec::Vec;

use muster_model::attempt::{AttemptStatus, Stage};
use muster_model::key::ActionKey;
use muster_model::limits::{SLOTS_PER_AGENT_MAX, SPOOL_ATTEMPTS_MAX, WARM_SERVICES_MAX};
use muster_model::platform::Offer;
use muster_model::{AgentId, Epoch};

use crate::agents::{Agent, AgentState};
use crate::{Command, Scheduler};

impl Scheduler {
    pub(crate) fn connect_agent(&mut self, id: AgentId, slots: u32, offer: Offer) {
        let now = self.now;
        let agent = self.agents.entry(id).or_insert_with(|| Agent::new(AgentState::Connected, now));
        agent.slots = slots.clamp(1, SLOTS_PER_AGENT_MAX);
        agent.offer = Offer { slots: agent.slots, ..offer };
        agent.state = AgentState::Connected;
        agent.is_fresh = true;
        agent.heard = now;
        let room = agent.slots.saturating_add(self.config.prefetch_per_agent);
        agent.slots_max = room.max(agent.slots_held);
        self.set_deadline(id, Some(now + self.config.lease_time));
        self.match_agent(id);
    }

    pub(crate) fn disconnect_agent(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if agent.state == AgentState::Disconnected {
            return;
        }
        agent.state = AgentState::Disconnected;
        self.set_deadline(id, Some(self.now + self.config.reconnect_grace));
        self.refresh_agent(id);
    }

    pub(crate) fn note_report(
        &mut self,
        id: AgentId,
        draining: bool,
        attempts: &[AttemptStatus],
        mut warm: Vec<ActionKey>,
    ) {
        let now = self.now;
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if agent.state == AgentState::Disconnected {
            return;
        }
        warm.truncate(WARM_SERVICES_MAX);
        self.warm.replace(id, warm);
        agent.heard = now;
        let was_fresh = core::mem::replace(&mut agent.is_fresh, false);
        agent.state = if draining { AgentState::Draining } else { AgentState::Connected };
        self.set_deadline(id, Some(now + self.config.lease_time));
        for status in attempts {
            self.note_status(id, status);
        }
        self.note_missing(id, attempts, was_fresh);
        if draining {
            self.recall_all(id);
        }
        self.refresh_agent(id);
    }

    fn note_status(&mut self, id: AgentId, status: &AttemptStatus) {
        let now = self.now;
        let epoch = status.epoch;
        let Some(lease) = self.leases.get_mut(&epoch).filter(|lease| lease.agent == id) else {
            if status.stage == Stage::Finished {
                let fenced = !self.agents.get(&id).is_some_and(|agent| agent.accepted.contains(&epoch));
                self.push(Command::Acknowledge { agent: id, epoch, fenced });
            }
            return;
        };
        lease.is_listed = true;
        lease.seen = now;
        let was = lease.stage;
        lease.stage = lease.stage.max(status.stage);
        let stage = lease.stage;
        let is_new_case = status.stage == Stage::Running && status.running.is_some() && status.running != lease.running;
        if is_new_case {
            lease.running = status.running;
        }
        let (run, target, case) = (lease.run, lease.target, lease.running_case().filter(|_| is_new_case));
        if stage > Stage::Waiting {
            self.note_start(epoch);
        }
        if let Some(action) = self.action_of(run, target)
            && stage > was
        {
            self.push(Command::ReportActionStage { action, epoch, agent: id, stage });
        }
        if let Some(case) = case {
            self.push(Command::ReportCaseStarted { run, target, case, agent: id });
        }
    }

    /// An attempt that had started and that an agent does not know after coming back is lost. One that had not is sent again by the
    /// desired state. One that has not been listed for a whole lease time is lost in any case.
    fn note_missing(&mut self, id: AgentId, attempts: &[AttemptStatus], was_fresh: bool) {
        let (now, lease_time) = (self.now, self.config.lease_time);
        let mut listed: Vec<Epoch> = attempts.iter().map(|status| status.epoch).collect();
        listed.sort_unstable();
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.accepted.retain(|epoch| listed.binary_search(epoch).is_ok());
        let is_lost = |epoch: &&Epoch| {
            let lease = &self.leases[*epoch];
            let has_started = lease.stage > Stage::Waiting;
            listed.binary_search(epoch).is_err() && ((was_fresh && has_started) || now.since(lease.seen) >= lease_time)
        };
        let lost: Vec<Epoch> = agent.leases.iter().filter(is_lost).copied().collect();
        for epoch in lost {
            self.lose_lease(epoch);
        }
    }

    fn recall_all(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else { return };
        let epochs: Vec<Epoch> = agent.leases.iter().copied().collect();
        for epoch in epochs {
            self.recall(epoch);
        }
    }

    /// Remembers that a report counted, so that the same report again gets the same answer.
    pub(crate) fn note_accepted(&mut self, id: AgentId, epoch: Epoch) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.accepted.insert(epoch);
        if agent.accepted.len() > SPOOL_ATTEMPTS_MAX {
            agent.accepted.pop_first();
        }
    }
}
