//! What differs between two trees, found from the directories that differ.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use muster_model::Digest;
use muster_model::limits::TREE_DEPTH_MAX;

use crate::tree::{Directory, Entry, Node};

/// Directories by digest.
pub(super) type Known = HashMap<Digest, Arc<Directory>>;

/// What has to be laid above one tree so that the two together are another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    /// Paths of directories, a directory before those in it.
    pub(super) directories: Vec<PathBuf>,
    /// Files: digest, path, whether it is executable.
    pub(super) files: Vec<(Digest, PathBuf, bool)>,
    /// Links: path and target.
    pub(super) links: Vec<(PathBuf, String)>,
    /// Names that are gone.
    pub(super) whiteouts: Vec<PathBuf>,
    /// The directories of the new tree that the old one has not.
    pub(super) messages: Vec<Digest>,
    /// Whether it hides something of whatever lies beneath both trees that the new tree alone would not hide.
    pub(super) hides: bool,
}

impl Delta {
    /// Files, directories, links and whiteouts.
    pub(super) fn nodes(&self) -> usize {
        self.directories.len() + self.files.len() + self.links.len() + self.whiteouts.len()
    }

    /// The bytes of its files, each counted as often as it occurs.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(digest, ..)| digest.size_bytes).fold(0, u64::saturating_add)
    }
}

/// The trees differ by too much, or one of them is too deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooDifferent;

/// Compares two trees level by level. Equal directories are not looked into, so the work is that of the difference.
#[derive(Debug)]
pub(super) struct Difference {
    level: Vec<Pair>,
    depth: usize,
    budget: usize,
    delta: Delta,
}

/// Two directories at one path.
#[derive(Debug)]
struct Pair {
    path: PathBuf,
    old: Option<Digest>,
    new: Digest,
}

impl Difference {
    /// Compares the trees of two roots. `budget` bounds the nodes of the delta.
    pub(super) fn new(old: Digest, new: Digest, budget: usize) -> Self {
        let level = vec![Pair { path: PathBuf::new(), old: Some(old), new }];
        Self { level, depth: 1, budget, delta: Delta::default() }
    }

    /// The directories to be known before the next step: those of the old tree, and those of the new one. Both are empty at the end.
    pub(super) fn needed(&self) -> (Vec<Digest>, Vec<Digest>) {
        let of = |digests: &mut dyn Iterator<Item = Digest>| {
            let mut digests: Vec<Digest> = digests.collect();
            digests.sort_unstable();
            digests.dedup();
            digests
        };
        let old = of(&mut self.level.iter().filter_map(|pair| pair.old));
        (old, of(&mut self.level.iter().map(|pair| pair.new)))
    }

    /// Compares one level.
    pub(super) fn step(&mut self, known: &Known) -> Result<(), TooDifferent> {
        if self.depth > TREE_DEPTH_MAX {
            return Err(TooDifferent);
        }
        self.depth += 1;
        let nothing = Directory::default();
        for pair in std::mem::take(&mut self.level) {
            let old = match pair.old {
                Some(digest) => known.get(&digest).ok_or(TooDifferent)?,
                None => &nothing,
            };
            let new = known.get(&pair.new).ok_or(TooDifferent)?;
            self.delta.messages.push(pair.new);
            self.compare(&pair.path, old.entries(), new.entries())?;
        }
        Ok(())
    }

    /// What was found.
    pub(super) fn finish(mut self) -> Delta {
        self.delta.messages.sort_unstable();
        self.delta.messages.dedup();
        self.delta
    }

    fn compare(&mut self, path: &std::path::Path, old: &[Entry], new: &[Entry]) -> Result<(), TooDifferent> {
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(old), Some(new)) => old.name.cmp(&new.name),
            };
            match order {
                Ordering::Less => {
                    let Some(gone) = old.next() else { return Ok(()) };
                    self.spend()?;
                    self.delta.hides = true;
                    self.delta.whiteouts.push(path.join(&gone.name));
                }
                Ordering::Greater => {
                    let Some(added) = new.next() else { return Ok(()) };
                    self.put(path.join(&added.name), &added.node, None)?;
                }
                Ordering::Equal => {
                    let (Some(before), Some(after)) = (old.next(), new.next()) else { return Ok(()) };
                    if before.node != after.node {
                        self.put(path.join(&after.name), &after.node, Some(&before.node))?;
                    }
                }
            }
        }
    }

    fn put(&mut self, path: PathBuf, node: &Node, before: Option<&Node>) -> Result<(), TooDifferent> {
        self.spend()?;
        match node {
            Node::Directory(new) => {
                let old = match before {
                    Some(Node::Directory(old)) => Some(*old),
                    Some(Node::File { .. } | Node::Symlink(_)) => {
                        // What is no directory, between two directories, keeps the lower one from being seen.
                        self.delta.hides = true;
                        None
                    }
                    None => None,
                };
                self.delta.directories.push(path.clone());
                self.level.push(Pair { path, old, new: *new });
            }
            Node::File { digest, executable } => self.delta.files.push((*digest, path, *executable)),
            Node::Symlink(target) => self.delta.links.push((path, target.clone())),
        }
        Ok(())
    }

    fn spend(&mut self) -> Result<(), TooDifferent> {
        self.budget = self.budget.checked_sub(1).ok_or(TooDifferent)?;
        Ok(())
    }
}
