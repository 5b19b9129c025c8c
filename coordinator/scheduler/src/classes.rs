//! Sets of requirements, each kept once, with the agents that satisfy it and the runs that have work for it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use muster_model::platform::{Offer, Requirements};
use muster_model::{AgentId, Epoch, Instant, RunId};

use crate::share::Share;

/// The position of a set of requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClassIndex(pub(crate) u32);

/// One set of requirements.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) requirements: Requirements,
    /// Targets of open runs that have it.
    pub(crate) users: u32,
    /// Agents that serve and satisfy it.
    pub(crate) agents: u32,
    /// Attempts of it that they could have at one time.
    pub(crate) slots: u32,
    /// Those that they could have besides what they have.
    pub(crate) idle_slots: u32,
    /// Those of the agents that have room for an attempt, by load.
    pub(crate) available: BTreeSet<(u32, AgentId)>,
    /// Runs with queued work, by their share of the fleet.
    pub(crate) ready: BTreeSet<(Share, RunId)>,
    /// Recalled attempts that have not answered.
    pub(crate) recalls: u32,
    /// Started attempts that may be copied, by the time from which they may.
    pub(crate) stragglers: BTreeSet<(Instant, Epoch)>,
    /// Since when no agent satisfies it.
    pub(crate) empty_since: Option<Instant>,
    /// Since when it has had work that got no room; only of a class that takes more than any one slot.
    pub(crate) waits_since: Option<Instant>,
    /// The agent that is kept free for it.
    pub(crate) claim: Option<AgentId>,
}

/// Every set of requirements in use.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    by_index: BTreeMap<ClassIndex, Class>,
    by_requirements: BTreeMap<Requirements, ClassIndex>,
    next: u32,
    /// Classes that take more than any one slot.
    special: BTreeSet<ClassIndex>,
    /// Classes with both queued work and agents that have room.
    matchable: BTreeSet<ClassIndex>,
}

impl Classes {
    /// Adds a user; true when the class is new, so that agents have to be matched with it.
    pub(crate) fn acquire(&mut self, requirements: &Requirements, now: Instant) -> (ClassIndex, bool) {
        if let Some(&index) = self.by_requirements.get(requirements) {
            self.get_mut(index).users += 1;
            return (index, false);
        }
        let index = ClassIndex(self.next);
        self.next += 1;
        self.by_requirements.insert(requirements.clone(), index);
        let class = Class {
            requirements: requirements.clone(),
            users: 1,
            agents: 0,
            slots: 0,
            idle_slots: 0,
            available: BTreeSet::new(),
            ready: BTreeSet::new(),
            recalls: 0,
            stragglers: BTreeSet::new(),
            empty_since: Some(now),
            waits_since: None,
            claim: None,
        };
        self.by_index.insert(index, class);
        if requirements.resources.is_special() {
            self.special.insert(index);
        }
        (index, true)
    }

    /// Removes a user; true when it was the last and the class is gone.
    pub(crate) fn release(&mut self, index: ClassIndex) -> bool {
        let class = self.get_mut(index);
        class.users -= 1;
        if class.users > 0 {
            return false;
        }
        if let Some(class) = self.by_index.remove(&index) {
            self.by_requirements.remove(&class.requirements);
        }
        self.matchable.remove(&index);
        self.special.remove(&index);
        true
    }

    pub(crate) fn get(&self, index: ClassIndex) -> &Class {
        self.by_index.get(&index).expect("a class lives as long as its users")
    }

    pub(crate) fn get_mut(&mut self, index: ClassIndex) -> &mut Class {
        self.by_index.get_mut(&index).expect("a class lives as long as its users")
    }

    pub(crate) fn find(&mut self, index: ClassIndex) -> Option<&mut Class> {
        self.by_index.get_mut(&index)
    }

    pub(crate) fn find_ref(&self, index: ClassIndex) -> Option<&Class> {
        self.by_index.get(&index)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ClassIndex, &Class)> {
        self.by_index.iter().map(|(&index, class)| (index, class))
    }

    /// Those that `offer` satisfies.
    pub(crate) fn satisfied_by(&self, offer: &Offer) -> Vec<ClassIndex> {
        let satisfied = |entry: &(ClassIndex, &Class)| offer.satisfies(&entry.1.requirements).is_ok();
        self.iter().filter(satisfied).map(|(index, _)| index).collect()
    }

    /// Those that take more than any one slot.
    pub(crate) fn special(&self) -> impl Iterator<Item = ClassIndex> {
        self.special.iter().copied()
    }

    /// Those with both queued work and agents that have room.
    pub(crate) fn matchable(&self) -> impl Iterator<Item = ClassIndex> {
        self.matchable.iter().copied()
    }

    /// To be called after `ready` or `available` of a class changed.
    pub(crate) fn refresh(&mut self, index: ClassIndex) {
        let class = self.get(index);
        if class.ready.is_empty() || class.available.is_empty() {
            self.matchable.remove(&index);
        } else {
            self.matchable.insert(index);
        }
    }
}
