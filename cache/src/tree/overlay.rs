//! One tree over another, as the layers of an image lie.

use std::collections::btree_map::Entry as Slot;

use super::build::{Folder, Item, TreeBuilder, check_nodes, count};
use super::node::{Node, TreeError};

impl TreeBuilder {
    /// The file or link at `path`.
    pub fn leaf(&self, path: &str) -> Option<&Node> {
        let mut names = path.split('/');
        let mut item = self.root.get(names.next()?)?;
        for name in names {
            item = match item {
                Item::Folder(folder) => folder.get(name)?,
                Item::Leaf(_) => return None,
            };
        }
        match item {
            Item::Leaf(node) => Some(node),
            Item::Folder(_) => None,
        }
    }

    /// Takes away what is at `path`, with everything below it. Nothing is there to take where a directory on the way is missing.
    ///
    /// # Errors
    ///
    /// [`TreeError::Below`] when the way leads over a file or a link.
    pub fn remove(&mut self, path: &str) -> Result<(), TreeError> {
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        let removed = self.find(parents)?.and_then(|folder| folder.remove(name));
        self.nodes -= removed.as_ref().map_or(0, count);
        Ok(())
    }

    /// Takes away everything below the directory at `path`, which is empty for the root; where there is none, nothing.
    ///
    /// # Errors
    ///
    /// [`TreeError::Below`] when there is a file or a link, or one on the way.
    pub fn clear(&mut self, path: &str) -> Result<(), TreeError> {
        let cleared = self.find(path)?.map(std::mem::take).unwrap_or_default();
        self.nodes -= cleared.values().map(count).sum::<usize>();
        Ok(())
    }

    /// Lays another tree over this one: its files and links take the place of whatever was there, its directories are joined with those that
    /// were there.
    ///
    /// # Errors
    ///
    /// [`TreeError::Below`] when it has something below a name that is a file or a link here, and [`TreeError::Limit`].
    pub fn lay_over(&mut self, upper: Self) -> Result<(), TreeError> {
        lay_folder(&mut self.root, upper.root, &mut self.nodes)?;
        check_nodes(self.nodes)
    }

    fn find(&mut self, path: &str) -> Result<Option<&mut Folder>, TreeError> {
        let mut folder = &mut self.root;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            folder = match folder.get_mut(name) {
                Some(Item::Folder(folder)) => folder,
                Some(Item::Leaf(_)) => return Err(TreeError::Below(name.to_owned())),
                None => return Ok(None),
            };
        }
        Ok(Some(folder))
    }
}

fn lay_folder(lower: &mut Folder, upper: Folder, nodes: &mut usize) -> Result<(), TreeError> {
    for (name, item) in upper {
        match lower.entry(name) {
            Slot::Vacant(slot) => {
                *nodes += count(&item);
                slot.insert(item);
            }
            Slot::Occupied(mut slot) => {
                let name = slot.key().clone();
                match (slot.get_mut(), item) {
                    (Item::Folder(lower), Item::Folder(upper)) => lay_folder(lower, upper, nodes)?,
                    (Item::Leaf(_), Item::Folder(_)) => return Err(TreeError::Below(name)),
                    (there, leaf) => {
                        *nodes = *nodes + 1 - count(there);
                        *there = leaf;
                    }
                }
            }
        }
    }
    Ok(())
}
