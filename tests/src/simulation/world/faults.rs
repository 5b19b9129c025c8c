//! What goes wrong in the first phase, and how it ends in the second.

use core::time::Duration;

use muster_agent_state as state;
use muster_scheduler::Event;

use super::{Happening, World};
use crate::simulation::network::Way;

impl World {
    pub(super) fn plan_fault(&mut self) {
        let every = self.plan.weather.fault_every_ms;
        if every != u64::MAX && !self.calm {
            let delay = Duration::from_millis(self.random.between(1, 2 * every));
            self.at(delay, Happening::Fault);
        }
    }

    pub(super) fn fault(&mut self) {
        if self.calm {
            return;
        }
        let position = self.random.between(0, self.agents.len() as u64 - 1) as usize;
        let id = self.agents[position].id;
        let while_ms = self.random.between(50, 25_000);
        match self.random.between(0, 7) {
            0 | 1 => self.kill(position),
            2 => {
                self.agents[position].frozen_until = self.now + Duration::from_millis(while_ms);
                self.sometimes("agent frozen");
            }
            3 | 4 => {
                let ways: &[Way] = match self.random.between(0, 2) {
                    0 => &[Way::ToCoordinator],
                    1 => &[Way::ToAgent],
                    _ => &[Way::ToCoordinator, Way::ToAgent],
                };
                for &way in ways {
                    self.network.cut(id, way);
                }
                self.sometimes("partition");
                self.at(Duration::from_millis(while_ms), Happening::Heal { agent: position });
            }
            5 => {
                self.disconnect(position);
                self.sometimes("connection reset");
            }
            6 => {
                let clock = self.agents[position].clock(self.now);
                if let Some(machine) = &mut self.agents[position].machine {
                    machine.handle_event(clock, state::Event::DrainRequested);
                }
            }
            _ if self.plan.weather.crashes_coordinator && self.random.happens(500) => self.crash_coordinator(),
            _ if self.plan.weather.crashes_coordinator => self.crash_awaits_write = true,
            _ => {}
        }
    }

    /// An agent's process is gone at once.
    pub(super) fn kill(&mut self, position: usize) {
        let agent = &mut self.agents[position];
        if agent.machine.is_none() {
            return;
        }
        let connection = agent.connection;
        agent.die();
        let id = agent.id;
        // The kernel closes a dead process's connections, but a dead machine's stay silent.
        if let Some(connection) = connection.filter(|_| self.random.happens(700)) {
            self.lose_connection(position, id, connection);
        }
        self.sometimes("agent killed");
        if position > 0 && !self.calm && self.plan.weather.deaths_are_final && self.random.happens(500) {
            self.agents[position].gone_for_good = true;
        } else {
            self.within(100, 12_000, Happening::Restart { agent: position });
        }
    }

    pub(super) fn restart(&mut self, position: usize) {
        let agent = &mut self.agents[position];
        if agent.machine.is_some() || agent.gone_for_good {
            return;
        }
        agent.start(self.now);
        let life = agent.life;
        self.within(1, 500, Happening::Connect { agent: position, life });
    }

    pub(super) fn crash_coordinator(&mut self) {
        if self.coordinator.scheduler.is_none() {
            return;
        }
        let ledger = &self.coordinator.ledger;
        let pending = (ledger.count() - ledger.durable()) as u64;
        let kept = self.random.between(0, pending) as usize;
        for client in self.coordinator.room.waiting() {
            self.within(50, 8000, Happening::Ask { client });
        }
        self.coordinator.crash(kept);
        self.committing = false;
        self.sometimes("coordinator crashed");
        if (kept as u64) < pending {
            self.sometimes("ledger tail lost");
        }
        for position in 0..self.agents.len() {
            if self.random.happens(700) {
                self.disconnect(position);
            }
        }
        self.within(50, 6000, Happening::CoordinatorUp);
    }

    pub(super) fn coordinator_up(&mut self) {
        if self.coordinator.scheduler.is_none() {
            self.coordinator.start(self.now, &self.plan.runs);
            let state = self.coordinator.ledger.state();
            if state.tries.keys().any(|case| !state.decided.contains_key(case)) {
                self.sometimes("charges restored");
            }
            for run in self.cancelled.clone() {
                // The client of a run that was cancelled asks again until it is told that the run has ended.
                self.coordinator.handle(self.now, Event::RunCancelled { run });
            }
            self.coordinator.drain(None);
        }
    }

    /// From here on nothing fails any more.
    pub(super) fn calm(&mut self) {
        self.calm = true;
        self.network.calm = true;
        for position in 0..self.agents.len() {
            self.network.heal(self.agents[position].id);
            let agent = &mut self.agents[position];
            agent.frozen_until = agent.frozen_until.min(self.now);
            if agent.machine.is_none() {
                self.at(Duration::from_millis(1), Happening::Restart { agent: position });
            }
        }
        if self.coordinator.scheduler.is_none() {
            self.at(Duration::from_millis(1), Happening::CoordinatorUp);
        }
    }
}
