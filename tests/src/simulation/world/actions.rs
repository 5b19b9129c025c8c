//! Clients that ask for actions, and what must hold of these.

use core::time::Duration;

use muster_model::ActionId;
use muster_scheduler::ActionEnd;

use super::{Happening, World};

/// An agent that is awake has killed what it may not run any more after this: its lease has run out by then, even if a message that was long on
/// its way has renewed it.
const KILL_TIME_MAX: Duration = Duration::from_secs(40);

impl World {
    pub(super) fn plan_asking(&mut self) {
        for (client, request) in self.plan.actions.requests.clone().into_iter().enumerate() {
            self.at(request.at, Happening::Ask { client });
            if let Some(after) = request.stops_after {
                self.at(request.at + after, Happening::StopAsking { client });
            }
        }
    }

    pub(super) fn ask(&mut self, client: usize) {
        if self.coordinator.scheduler.is_none() {
            return self.within(50, 1500, Happening::Ask { client });
        }
        if let Some(event) = self.coordinator.room.ask(client) {
            self.coordinator.handle(self.now, event);
        }
    }

    pub(super) fn stop_asking(&mut self, client: usize) {
        if let Some(event) = self.coordinator.room.stop(client) {
            self.coordinator.handle(self.now, event);
        }
    }

    pub(super) fn conclude(&mut self, generation: u64, action: ActionId, end: ActionEnd) {
        if generation == self.coordinator.generation && self.coordinator.scheduler.is_some() {
            self.coordinator.room.conclude(action, end);
        }
    }

    /// What was cancelled, or is somebody else's by now, is killed.
    pub(super) fn check_kills(&mut self) {
        let awake = self.agents.iter().filter(|agent| agent.frozen_until <= self.now);
        let closed = awake.flat_map(|agent| {
            let running = agent.running.keys().filter(|epoch| self.coordinator.leases.is_closed(**epoch));
            running.map(|&epoch| (agent.id, epoch))
        });
        let since = closed.map(|name| (name, self.condemned.get(&name).copied().unwrap_or(self.now))).collect();
        self.condemned = since;
        for (&(agent, epoch), &since) in &self.condemned {
            let time = self.now.since(since);
            assert!(
                time <= KILL_TIME_MAX,
                "agent {agent} runs {epoch} {} s after its lease was closed",
                time.as_secs()
            );
        }
    }

    /// Nothing of an action is left.
    pub(super) fn assert_actions_rest(&self) {
        assert_eq!(self.coordinator.room.open(), (0, 0), "I8: actions and leases on them are left");
        assert_eq!(self.coordinator.leases.open(), 0, "I8: leases are left");
        let Some(scheduler) = &self.coordinator.scheduler else { return };
        assert_eq!(scheduler.view().actions().count(), 0, "I8: actions wait and nobody waits for them");
        assert_eq!(scheduler.view().queue().attempts, 0, "I8: attempts are left");
    }
}
