//! Services that agents keep warm, seen from outside: work that needs them goes where they are, if there is an idle slot.

use std::collections::BTreeMap;

use muster_model::key::ActionKey;
use muster_model::platform::{Offer, Requirements, Resources};
use muster_model::{AgentId, Instant, RunId, TargetIndex};
use muster_scheduler::{AttemptEnd, Config, Event};

/// What is known of an agent that takes work.
#[derive(Debug)]
struct Taker {
    slots: u32,
    offer: Offer,
    /// When it spoke last, if it has since it connected, and takes work.
    heard: Option<Instant>,
    warm: Vec<ActionKey>,
    /// When it last had a fault, which has targets keep away from it.
    faulted: Option<Instant>,
}

/// What an outsider knows about it all. Of targets also what their attempts take: room may be kept free for those that take much, so that an idle slot
/// is not one for everybody.
#[derive(Debug, Default)]
pub(super) struct WarmCheck {
    takers: BTreeMap<AgentId, Taker>,
    targets: BTreeMap<(RunId, TargetIndex), (Requirements, Option<ActionKey>)>,
    has_special: bool,
    now: Instant,
}

impl WarmCheck {
    /// What attempts at a target take.
    pub(super) fn resources(&self, run: RunId, target: TargetIndex) -> Resources {
        self.targets.get(&(run, target)).map(|(requirements, _)| requirements.resources.clone()).unwrap_or_default()
    }

    /// The time of the last event.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// Takes note of the time.
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    /// Takes note of what the scheduler is told.
    pub(super) fn observe(&mut self, now: Instant, event: &Event) {
        self.now = now;
        match event {
            Event::AgentConnected { agent, slots, offer } => {
                let (offer, faulted) = (offer.clone(), self.takers.get(agent).and_then(|taker| taker.faulted));
                let taker = Taker { slots: *slots, offer, heard: None, warm: Vec::new(), faulted };
                self.takers.insert(*agent, taker);
            }
            Event::AgentReported { agent, draining, warm, .. } => {
                let Some(taker) = self.takers.get_mut(agent) else { return };
                taker.heard = (!draining).then_some(now);
                taker.warm.clone_from(warm);
            }
            Event::AgentDisconnected { agent } => {
                if let Some(taker) = self.takers.get_mut(agent) {
                    taker.heard = None;
                }
            }
            Event::AttemptFinished { agent, end: AttemptEnd::Fault(_), .. } => {
                if let Some(taker) = self.takers.get_mut(agent) {
                    taker.faulted = Some(now);
                }
            }
            Event::RunSubmitted { run, targets, .. } => {
                for (index, seed) in (0..).map(TargetIndex).zip(targets) {
                    self.has_special |= seed.requirements.resources.is_special();
                    self.targets.insert((*run, index), (seed.requirements.clone(), seed.services));
                }
            }
            _ => {}
        }
    }

    /// Takes note of a lease. Returns whether it is of services, and they are warm.
    ///
    /// # Panics
    ///
    /// When somebody else has the target's services warm, an idle slot for it, and no reason not to get it.
    pub(super) fn leased(
        &mut self,
        agent: AgentId,
        run: RunId,
        target: TargetIndex,
        is_copy: bool,
        held: impl Fn(AgentId) -> u32,
    ) -> Option<bool> {
        let (requirements, key) = self.targets.get(&(run, target))?;
        let key = (*key)?;
        let config = Config::default();
        let position = self.takers.get(&agent)?.warm.iter().position(|warm| *warm == key);
        if let Some(position) = position {
            self.takers.get_mut(&agent)?.warm.swap_remove(position);
            return Some(true);
        }
        let is_better = |(id, taker): (&AgentId, &Taker)| {
            let was_heard = taker.heard.is_some_and(|at| self.now.since(at) < config.lease_time / 2);
            let has_faulted = taker.faulted.is_some_and(|at| self.now.since(at) <= config.fault_avoid_time);
            was_heard
                && !has_faulted
                && *id != agent
                && taker.warm.contains(&key)
                && held(*id) < taker.slots
                && taker.offer.satisfies(requirements).is_ok()
        };
        let better = self.takers.iter().find(|entry| is_better(*entry)).map(|(id, _)| *id);
        assert!(
            is_copy || self.has_special || better.is_none(),
            "agent {agent} starts services that agent {better:?} has warm and idle"
        );
        Some(false)
    }
}
