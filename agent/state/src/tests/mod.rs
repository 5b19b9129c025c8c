//! Scenarios, and laws that hold over every history.

mod laws;
mod scenarios;

use alloc::vec::Vec;
use core::time::Duration;

use muster_model::attempt::Stage;
use muster_model::{Epoch, Instant, limits};

use crate::{Command, Config, Desired, Event, Machine};

/// A machine with a clock, whose every step is checked.
struct World {
    machine: Machine,
    now: Instant,
}

impl World {
    fn new(slots: u32) -> Self {
        Self { machine: Machine::new(Config::new(slots)), now: Instant(1_000_000_000) }
    }

    fn connected(slots: u32) -> Self {
        let mut world = Self::new(slots);
        assert_eq!(world.event(Event::Connected), [Command::Report]);
        world
    }

    fn event(&mut self, event: Event) -> Vec<Command> {
        self.machine.handle_event(self.now, event);
        self.commands()
    }

    fn pass(&mut self, time: Duration) -> Vec<Command> {
        self.now = self.now + time;
        self.machine.handle_timeout(self.now);
        self.commands()
    }

    fn commands(&mut self) -> Vec<Command> {
        let mut commands = Vec::new();
        while let Some(command) = self.machine.poll_command() {
            self.machine.assert_invariants();
            commands.push(command);
        }
        self.machine.assert_invariants();
        commands
    }

    /// The coordinator wants exactly these, all with their assignments.
    fn want(&mut self, epochs: &[u64]) -> Vec<Command> {
        let attempts = epochs.iter().map(|&epoch| desired(epoch)).collect();
        self.event(Event::DesiredReceived { attempts, acknowledged: Vec::new(), lease: limits::LEASE_TIME })
    }

    fn acknowledge(&mut self, epochs: &[u64]) -> Vec<Command> {
        let acknowledged = epochs.iter().map(|&epoch| Epoch(epoch)).collect();
        self.event(Event::DesiredReceived { attempts: Vec::new(), acknowledged, lease: limits::LEASE_TIME })
    }

    fn end(&mut self, epoch: u64, reported: bool) -> Vec<Command> {
        self.event(Event::AttemptEnded { epoch: Epoch(epoch), reported })
    }

    /// The stages in the next report, and the finished reports sent with it.
    fn report(&mut self) -> (Vec<(u64, Stage)>, Vec<u64>) {
        let (statuses, finished) = self.machine.report();
        let statuses = statuses.iter().map(|status| (status.epoch.0, status.stage)).collect();
        (statuses, finished.iter().map(|epoch| epoch.0).collect())
    }
}

fn desired(epoch: u64) -> Desired {
    Desired { epoch: Epoch(epoch), carries_assignment: true, recall: false, slots: 0 }
}

fn start(epoch: u64) -> Command {
    Command::Start { epoch: Epoch(epoch) }
}

fn kill(epoch: u64) -> Command {
    Command::Kill { epoch: Epoch(epoch) }
}

fn give_back(epoch: u64) -> Command {
    Command::Return { epoch: Epoch(epoch) }
}

fn forget(epoch: u64) -> Command {
    Command::Forget { epoch: Epoch(epoch) }
}
