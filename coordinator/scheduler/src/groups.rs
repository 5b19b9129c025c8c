//! Exclusive groups: names of which no two attempts run at one time in the whole fleet.
//!
//! A group is held from an attempt's lease to its end. An end that the agent has told, with a report or by giving the attempt back, lets go at
//! once. An attempt that was withdrawn or lost may still run, because its agent does not know yet: its groups stay held until the agent is known to
//! have put an end to it ([`crate::Event::AttemptVacated`]), or for as long as an agent that hears nothing may go on with its work, which is less than
//! a lease. What no lease can see is an agent whose whole machine stands still for longer than that and then goes on: for the moment until it looks at
//! its clock or its stream, two may run.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use muster_model::{AgentId, Epoch, Instant};

use crate::Scheduler;

/// An attempt whose lease is closed and that may not be dead yet.
#[derive(Debug)]
struct Vacating {
    agent: AgentId,
    groups: Vec<String>,
    until: Instant,
}

/// Who holds what.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// More than one holder only after a restart, when the ledger says so.
    held: BTreeMap<String, BTreeSet<Epoch>>,
    vacating: BTreeMap<Epoch, Vacating>,
    ends: BTreeSet<(Instant, Epoch)>,
}

impl Groups {
    /// Whether nobody holds any of them.
    pub(crate) fn are_free(&self, groups: &[String]) -> bool {
        groups.iter().all(|group| !self.held.contains_key(group))
    }

    /// Holds them for an attempt.
    pub(crate) fn take(&mut self, epoch: Epoch, groups: &[String]) {
        for group in groups {
            self.held.entry(group.clone()).or_default().insert(epoch);
        }
    }

    /// Lets go of what an attempt holds.
    pub(crate) fn release(&mut self, epoch: Epoch, groups: &[String]) {
        for group in groups {
            if let Some(holders) = self.held.get_mut(group) {
                holders.remove(&epoch);
                if holders.is_empty() {
                    self.held.remove(group);
                }
            }
        }
    }

    /// Holds on to what an attempt holds whose lease is closed.
    pub(crate) fn vacate(&mut self, epoch: Epoch, agent: AgentId, groups: Vec<String>, until: Instant) {
        if groups.is_empty() {
            return;
        }
        self.take(epoch, &groups);
        self.ends.insert((until, epoch));
        self.vacating.insert(epoch, Vacating { agent, groups, until });
    }

    /// Lets go of an attempt that has ended after its lease was closed.
    pub(crate) fn end(&mut self, agent: AgentId, epoch: Epoch) {
        if self.vacating.get(&epoch).is_none_or(|vacating| vacating.agent != agent) {
            return;
        }
        if let Some(Vacating { groups, until, .. }) = self.vacating.remove(&epoch) {
            self.ends.remove(&(until, epoch));
            self.release(epoch, &groups);
        }
    }

    /// Lets go of what has been held long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(&(until, epoch)) = self.ends.first().filter(|(until, _)| *until <= now) {
            self.ends.remove(&(until, epoch));
            if let Some(Vacating { groups, .. }) = self.vacating.remove(&epoch) {
                self.release(epoch, &groups);
            }
        }
    }

    /// When the next is let go.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.ends.first().map(|&(until, _)| until)
    }

    /// Every group that is held, and who holds it.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = Epoch> + '_)> {
        self.held.iter().map(|(group, holders)| (group.as_str(), holders.iter().copied()))
    }

    /// Whether an attempt's lease is closed and it may not be dead yet.
    pub(crate) fn is_vacating(&self, epoch: Epoch) -> bool {
        self.vacating.contains_key(&epoch)
    }
}

impl Scheduler {
    /// After a restart: an attempt whose lease was closed so lately that it may not be dead yet.
    pub(crate) fn restore_vacating(&mut self, epoch: Epoch, agent: AgentId, groups: Vec<String>) {
        self.next_epoch = self.next_epoch.max(epoch.0.saturating_add(1));
        self.groups.vacate(epoch, agent, groups, self.now + self.config.lease_time);
    }
}
