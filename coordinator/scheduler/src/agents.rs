//! What is known of each agent, and the indexes that find one with room without looking at all of them.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use muster_model::attempt::Stage;
use muster_model::platform::{Offer, Resources};
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
    /// Slots that its leases take.
    pub(crate) slots_held: u32,
    /// Memory that its leases have set aside.
    pub(crate) memory_held: u64,
    /// The class that it is kept free for.
    pub(crate) claimed: Option<ClassIndex>,
    /// Attempts whose reports counted, until it no longer lists them.
    pub(crate) accepted: BTreeSet<Epoch>,
    /// Most slots that its leases may take: its room, or what they took when it came with less room.
    pub(crate) slots_max: u32,
    classes: Vec<ClassIndex>,
    /// What it contributes to each of its classes; nothing while it may not have work.
    registered: Vec<(ClassIndex, Registered)>,
    surplus: Vec<ClassIndex>,
}

/// What an agent contributes to a class at the moment.
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
            slots_held: 0,
            memory_held: 0,
            claimed: None,
            accepted: BTreeSet::new(),
            slots_max: 0,
            classes: Vec::new(),
            registered: Vec::new(),
            surplus: Vec::new(),
        }
    }

    /// The classes that it gets work of now: none while it may not have any.
    pub(crate) fn served(&self) -> &[ClassIndex] {
        if self.registered.is_empty() { &[] } else { &self.classes }
    }

    /// Its load as a class lists it, if it has room there.
    pub(crate) fn load_in(&self, index: ClassIndex) -> Option<u32> {
        self.registered.iter().find(|(class, _)| *class == index)?.1.load
    }

    fn may_have_work(&self) -> bool {
        self.state == AgentState::Connected && !self.is_fresh
    }

    /// What takes more than any one slot is not given ahead: it waits where it can still go to any agent, and holds no group before it runs.
    pub(crate) fn room(&self, resources: &Resources, prefetch: u32) -> (u32, u32, bool) {
        let idle = self.slots.saturating_sub(self.slots_held);
        if !resources.is_special() {
            return (self.slots, idle, self.slots_held < self.slots.saturating_add(prefetch));
        }
        let fitting = |slots: u32, memory: u64| {
            let by_slots = slots / resources.slots_taken();
            let by_memory = memory.checked_div(resources.memory_bytes).unwrap_or(u64::MAX);
            by_slots.min(u32::try_from(by_memory).unwrap_or(u32::MAX))
        };
        let memory_bytes = self.offer.memory_bytes;
        let idle = fitting(idle, memory_bytes.saturating_sub(self.memory_held));
        (fitting(self.slots, memory_bytes), idle, idle > 0)
    }

    fn contribution(&self, index: ClassIndex, resources: &Resources, prefetch: u32) -> Registered {
        let (slots, idle, has_room) = self.room(resources, prefetch);
        if self.claimed.is_some_and(|claimant| claimant != index) {
            return Registered { slots, idle: 0, load: None };
        }
        let load = (u64::from(self.slots_held) * u64::from(LOAD_FULL) / u64::from(self.slots.max(1))) as u32;
        Registered { slots, idle, load: has_room.then_some(load) }
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
        let mut freed = Vec::new();
        for (&id, agent) in &mut self.agents {
            agent.classes.retain(|&class| class != index);
            agent.registered.retain(|&(class, _)| class != index);
            if agent.claimed == Some(index) {
                agent.claimed = None;
                freed.push(id);
            }
        }
        for id in freed {
            self.refresh_agent(id);
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
        if agent.may_have_work() {
            for &index in &agent.classes {
                let registered = agent.contribution(index, &self.classes.get(index).requirements.resources, prefetch);
                agent.registered.push((index, registered));
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
        for (index, registered) in agent.registered.drain(..) {
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
        let is_over = agent.slots_held > agent.slots;
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
