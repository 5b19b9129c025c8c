//! What is known of each agent, and the indexes that find one with room without looking at all of them.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use muster_model::attempt::Stage;
use muster_model::platform::Offer;
use muster_model::{AgentId, Epoch, Instant};

use crate::Scheduler;
use crate::classes::ClassIndex;
use crate::leases::Recall;

/// Load of an agent whose every slot has an attempt.
pub(crate) const LOAD_FULL: u32 = 1 << 16;

/// How an agent is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentState {
    /// Connected and taking work.
    Connected,
    /// Connected, and finishes what it has.
    Draining,
    /// Connected, but its leases ran out; it counts again as soon as it says a word.
    Silent,
    /// Its stream ended, or it is awaited after a restart, and it may still come back with its work.
    Disconnected,
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) slots: u32,
    pub(crate) offer: Offer,
    pub(crate) state: AgentState,
    /// Has opened a stream and not reported on it yet.
    pub(crate) is_fresh: bool,
    pub(crate) heard: Instant,
    /// When it counts as lost; none for a silent agent, which has lost everything already.
    pub(crate) deadline: Option<Instant>,
    pub(crate) leases: BTreeSet<Epoch>,
    /// Attempts whose reports counted, until it no longer lists them.
    pub(crate) accepted: BTreeSet<Epoch>,
    /// Most leases it may have: its room, or what it had when it came with less room.
    pub(crate) leases_max: u32,
    classes: Vec<ClassIndex>,
    registered: Option<Registered>,
    surplus: Vec<ClassIndex>,
}

/// What an agent contributes to its classes at the moment.
#[derive(Clone, Copy, Debug)]
struct Registered {
    slots: u32,
    idle: u32,
    /// None when it has no room.
    load: Option<u32>,
}

impl Agent {
    pub(crate) fn new(state: AgentState, now: Instant) -> Self {
        Self {
            slots: 0,
            offer: Offer::default(),
            state,
            is_fresh: true,
            heard: now,
            deadline: None,
            leases: BTreeSet::new(),
            accepted: BTreeSet::new(),
            leases_max: 0,
            classes: Vec::new(),
            registered: None,
            surplus: Vec::new(),
        }
    }

    /// The classes that it gets work of now: none while it may not have any.
    pub(crate) fn served(&self) -> &[ClassIndex] {
        if self.registered.is_some() { &self.classes } else { &[] }
    }

    /// Its load as it is listed under, if it has room.
    pub(crate) fn load(&self) -> Option<u32> {
        self.registered?.load
    }

    fn contribution(&self, prefetch: u32) -> Option<Registered> {
        if self.state != AgentState::Connected || self.is_fresh {
            return None;
        }
        let held = self.leases.len() as u32;
        let has_room = held < self.slots.saturating_add(prefetch);
        let load = (u64::from(held) * u64::from(LOAD_FULL) / u64::from(self.slots.max(1))) as u32;
        Some(Registered { slots: self.slots, idle: self.slots.saturating_sub(held), load: has_room.then_some(load) })
    }
}

impl Scheduler {
    /// Moves the time at which an agent counts as lost.
    pub(crate) fn set_deadline(&mut self, id: AgentId, deadline: Option<Instant>) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if let Some(old) = agent.deadline.take() {
            self.deadlines.remove(&(old, id));
        }
        agent.deadline = deadline;
        if let Some(new) = deadline {
            self.deadlines.insert((new, id));
        }
    }

    /// Matches an agent with every class again, after its offer changed or it came back.
    pub(crate) fn match_agent(&mut self, id: AgentId) {
        self.unregister_agent(id);
        let Some(agent) = self.agents.get_mut(&id) else { return };
        agent.classes = self.classes.satisfied_by(&agent.offer);
        self.refresh_agent(id);
    }

    /// Matches a new class with every agent.
    pub(crate) fn match_class(&mut self, index: ClassIndex) {
        let requirements = self.classes.get(index).requirements.clone();
        let matching: Vec<AgentId> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.offer.satisfies(&requirements).is_ok())
            .map(|(&id, _)| id)
            .collect();
        for id in matching {
            self.unregister_agent(id);
            if let Some(agent) = self.agents.get_mut(&id) {
                agent.classes.push(index);
            }
            self.refresh_agent(id);
        }
    }

    /// Forgets a class that is gone.
    pub(crate) fn unmatch_class(&mut self, index: ClassIndex) {
        for agent in self.agents.values_mut() {
            agent.classes.retain(|&class| class != index);
        }
    }

    /// Brings the indexes up to date after an agent's state, leases or their stages changed.
    pub(crate) fn refresh_agent(&mut self, id: AgentId) {
        self.unregister_agent(id);
        let now = self.now;
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let prefetch = self.config.prefetch_per_agent;
        #[cfg(feature = "planted-bugs")]
        let prefetch = prefetch + u32::from(self.config.planted == Some(crate::PlantedBug::SlotsIgnored));
        agent.registered = agent.contribution(prefetch);
        if let Some(registered) = agent.registered {
            for &index in &agent.classes {
                let class = self.classes.get_mut(index);
                class.agents += 1;
                class.slots += registered.slots;
                class.idle_slots += registered.idle;
                class.empty_since = None;
                if let Some(load) = registered.load {
                    class.available.insert((load, id));
                }
                self.classes.refresh(index);
            }
        } else {
            for &index in &agent.classes {
                let class = self.classes.get_mut(index);
                if class.agents == 0 && class.empty_since.is_none() {
                    class.empty_since = Some(now);
                }
            }
        }
        self.refresh_surplus(id);
    }

    fn unregister_agent(&mut self, id: AgentId) {
        let now = self.now;
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let Some(registered) = agent.registered.take() else { return };
        for &index in &agent.classes {
            let class = self.classes.get_mut(index);
            class.agents -= 1;
            class.slots -= registered.slots;
            class.idle_slots -= registered.idle;
            if class.agents == 0 {
                class.empty_since = Some(now);
            }
            if let Some(load) = registered.load {
                class.available.remove(&(load, id));
            }
            self.classes.refresh(index);
        }
    }

    /// Lists the agent under the classes of which it holds an attempt that can't start for want of a slot.
    fn refresh_surplus(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        for index in agent.surplus.drain(..) {
            self.surplus.remove(&(index, id));
        }
        let is_over = agent.leases.len() as u32 > agent.slots;
        if !is_over || agent.state != AgentState::Connected {
            return;
        }
        for epoch in &agent.leases {
            let Some(lease) = self.leases.get(epoch) else { continue };
            if lease.stage <= Stage::Waiting && lease.recall == Recall::No && !agent.surplus.contains(&lease.class) {
                agent.surplus.push(lease.class);
                self.surplus.insert((lease.class, id));
            }
        }
    }

    /// Removes an agent that holds nothing.
    pub(crate) fn remove_agent(&mut self, id: AgentId) {
        self.set_deadline(id, None);
        self.unregister_agent(id);
        self.warm.replace(id, Vec::new());
        if let Some(agent) = self.agents.remove(&id) {
            for index in agent.surplus {
                self.surplus.remove(&(index, id));
            }
        }
    }
}
