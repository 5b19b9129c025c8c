//! Which trees are staged, who uses them, and which may go.

use std::collections::HashMap;

use muster_model::{Digest, DigestFunction};

use super::Ground;
use crate::Lease;

/// Full trees that a new one is compared with.
pub(super) const BASES_MAX: usize = 8;

/// How a tree is staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// Whole.
    Full,
    /// As what has to be laid above a full one.
    Delta,
}

/// A tree in one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Name {
    pub(super) root: Digest,
    pub(super) form: Form,
}

/// How much there is of a tree on disk, of a delta what is not in its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub(super) nodes: u64,
    pub(super) bytes: u64,
}

/// What a delta lies above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Above {
    /// The root of a full tree, which stays as long as the delta.
    pub(super) base: Digest,
    /// Whether it can be used above nothing else only.
    pub(super) hides: bool,
}

#[derive(Debug)]
pub(super) struct Staged {
    pub(super) figures: Figures,
    pub(super) above: Option<Above>,
    /// Absent for trees of an earlier process: their files stay by their links, but their room is not accounted for.
    pub(super) _lease: Option<Lease>,
    /// Handles, and deltas above.
    users: usize,
    used: u64,
}

impl Staged {
    pub(super) fn new(figures: Figures, above: Option<Above>, lease: Option<Lease>) -> Self {
        Self { figures, above, _lease: lease, users: 0, used: 0 }
    }
}

#[derive(Debug, Default)]
pub(super) struct Trees {
    staged: HashMap<Name, Staged>,
    nodes: u64,
    bytes: u64,
    clock: u64,
}

/// A tree that was found, with one user more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) name: Name,
    pub(super) base: Option<Digest>,
    /// The bytes of the whole tree; of one with a base about that.
    pub(super) bytes: u64,
}

impl Trees {
    pub(super) fn figures(&self) -> Figures {
        Figures { nodes: self.nodes, bytes: self.bytes }
    }

    /// The tree in a form that can be used on this ground, as one more user of it.
    pub(super) fn take(&mut self, root: &Digest, ground: Ground) -> Option<Found> {
        let full = Name { root: *root, form: Form::Full };
        let delta = Name { root: *root, form: Form::Delta };
        let usable = |staged: &Staged| ground == Ground::Bare || staged.above.is_none_or(|above| !above.hides);
        let name = [full, delta].into_iter().find(|name| self.staged.get(name).is_some_and(usable))?;
        let staged = self.staged.get_mut(&name)?;
        staged.users += 1;
        let (base, bytes) = (staged.above.map(|above| above.base), staged.figures.bytes);
        let below = base.and_then(|root| self.staged.get(&Name { root, form: Form::Full }));
        Some(Found { name, base, bytes: bytes + below.map_or(0, |staged| staged.figures.bytes) })
    }

    /// The full tree of a root, as one more user of it.
    pub(super) fn take_full(&mut self, root: &Digest) -> Option<Found> {
        let name = Name { root: *root, form: Form::Full };
        let staged = self.staged.get_mut(&name)?;
        staged.users += 1;
        Some(Found { name, base: None, bytes: staged.figures.bytes })
    }

    /// One user less.
    pub(super) fn release(&mut self, name: &Name) {
        self.clock += 1;
        let used = self.clock;
        let Some(staged) = self.staged.get_mut(name) else { return };
        staged.users -= 1;
        staged.used = used;
        let below = staged.above.and_then(|above| self.staged.get_mut(&Name { root: above.base, form: Form::Full }));
        if let Some(base) = below {
            base.used = used;
        }
    }

    pub(super) fn contains(&self, name: &Name) -> bool {
        self.staged.contains_key(name)
    }

    /// Adds a tree, with one user. A delta whose base is not here is not added.
    pub(super) fn insert(&mut self, name: Name, staged: Staged) -> Option<Found> {
        if !self.adopt(name, staged) {
            return None;
        }
        let staged = self.staged.get_mut(&name)?;
        staged.users += 1;
        Some(Found { name, base: staged.above.map(|above| above.base), bytes: staged.figures.bytes })
    }

    /// Adds a tree that nobody uses.
    pub(super) fn adopt(&mut self, name: Name, staged: Staged) -> bool {
        if let Some(above) = staged.above {
            match self.staged.get_mut(&Name { root: above.base, form: Form::Full }) {
                Some(base) => base.users += 1,
                None => return false,
            }
        }
        self.nodes += staged.figures.nodes;
        self.bytes = self.bytes.saturating_add(staged.figures.bytes);
        self.staged.insert(name, staged);
        true
    }

    /// Removes a tree; a delta lets its base go.
    pub(super) fn remove(&mut self, name: &Name) {
        let Some(staged) = self.staged.remove(name) else { return };
        self.nodes -= staged.figures.nodes;
        self.bytes = self.bytes.saturating_sub(staged.figures.bytes);
        let below = staged.above.and_then(|above| self.staged.get_mut(&Name { root: above.base, form: Form::Full }));
        if let Some(base) = below {
            base.users -= 1;
        }
    }

    /// The tree that nobody uses and that was used longest ago.
    pub(super) fn unused(&self) -> Option<Name> {
        let unused = self.staged.iter().filter(|(_, staged)| staged.users == 0);
        unused.min_by_key(|(_, staged)| staged.used).map(|(name, _)| *name)
    }

    /// Full trees that were used last, those in use first.
    pub(super) fn bases(&self, function: DigestFunction) -> Vec<(Digest, Figures)> {
        let mut full: Vec<_> = self
            .staged
            .iter()
            .filter(|(name, _)| name.form == Form::Full && name.root.function == function)
            .map(|(name, staged)| (staged.users == 0, u64::MAX - staged.used, name.root, staged.figures))
            .collect();
        full.sort_unstable_by_key(|(is_unused, age, root, _)| (*is_unused, *age, *root));
        full.into_iter().take(BASES_MAX).map(|(_, _, root, figures)| (root, figures)).collect()
    }
}
