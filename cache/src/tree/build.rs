//! Trees from paths.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use bytes::Bytes;
use muster_model::Digest;
use muster_model::limits::{TREE_DEPTH_MAX, TREE_NODES_MAX};

use super::node::{Directory, Entry, Node, TreeError, check_name, check_target};

/// Collects files, links and directories by path, and makes the messages of their tree.
///
/// Paths are relative to the tree's root; one leading slash means the same. The order of insertion makes no difference.
#[derive(Clone, Debug, Default)]
pub struct TreeBuilder {
    pub(super) root: Folder,
    pub(super) nodes: usize,
}

pub(super) type Folder = BTreeMap<String, Item>;

#[derive(Clone, Debug)]
pub(super) enum Item {
    Folder(Folder),
    Leaf(Node),
}

/// A whole tree in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// The digest of the root's message.
    pub root: Digest,
    /// The message of every directory, each once, a directory after those in it.
    pub directories: Vec<(Digest, Bytes)>,
    /// Every file's blob that the tree points at, each once, sorted.
    pub files: Vec<Digest>,
}

impl TreeBuilder {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing was inserted.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Adds a file. Inserting the same again changes nothing.
    ///
    /// # Errors
    ///
    /// [`TreeError`] when the path is not valid or stands for something else already.
    pub fn insert_file(&mut self, path: &str, digest: Digest, executable: bool) -> Result<(), TreeError> {
        self.insert_leaf(path, Node::File { digest, executable })
    }

    /// Adds a symbolic link; its target is kept as it is.
    ///
    /// # Errors
    ///
    /// [`TreeError`] when the path or the target is not valid, or the path stands for something else already.
    pub fn insert_symlink(&mut self, path: &str, target: &str) -> Result<(), TreeError> {
        check_target(path, target)?;
        self.insert_leaf(path, Node::Symlink(target.to_owned()))
    }

    /// Adds a directory, empty unless something is inserted below it.
    ///
    /// # Errors
    ///
    /// [`TreeError`] when the path is not valid or a part of it stands for something else already.
    pub fn insert_directory(&mut self, path: &str) -> Result<(), TreeError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.is_empty() { Ok(()) } else { self.folder(path.split('/')).map(|_| ()) }
    }

    /// Adds everything of another tree.
    ///
    /// # Errors
    ///
    /// [`TreeError::Duplicate`] when a path stands for different things in the two.
    pub fn merge(&mut self, other: Self) -> Result<(), TreeError> {
        let mut nodes = self.nodes;
        merge_folder(&mut self.root, other.root, &mut nodes)?;
        self.nodes = nodes;
        check_nodes(self.nodes)
    }

    /// The tree's messages.
    ///
    /// # Errors
    ///
    /// [`TreeError::Limit`] when a directory's message would be too large.
    pub fn finish(self) -> Result<Tree, TreeError> {
        let mut directories = BTreeMap::new();
        let mut order = Vec::new();
        let mut files = Vec::new();
        let root = finish_folder(self.root, &mut directories, &mut order, &mut files)?;
        files.sort_unstable();
        files.dedup();
        let messages = order.into_iter().filter_map(|digest| directories.remove(&digest).map(|bytes| (digest, bytes)));
        Ok(Tree { root, directories: messages.collect(), files })
    }

    fn insert_leaf(&mut self, path: &str, node: Node) -> Result<(), TreeError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let (parents, name) = match path.rsplit_once('/') {
            Some((parents, name)) => (Some(parents), name),
            None => (None, path),
        };
        check_name(name)?;
        let folder = self.folder(parents.into_iter().flat_map(|parents| parents.split('/')))?;
        match folder.entry(name.to_owned()) {
            Slot::Vacant(slot) => {
                slot.insert(Item::Leaf(node));
                self.nodes += 1;
                check_nodes(self.nodes)
            }
            Slot::Occupied(slot) => match slot.get() {
                Item::Leaf(there) if *there == node => Ok(()),
                _ => Err(TreeError::Duplicate(path.to_owned())),
            },
        }
    }

    fn folder<'a>(&mut self, names: impl Iterator<Item = &'a str>) -> Result<&mut Folder, TreeError> {
        let mut folder = &mut self.root;
        for (depth, name) in names.enumerate() {
            if depth + 1 >= TREE_DEPTH_MAX {
                return Err(TreeError::Limit { what: "the depth of a tree", limit: TREE_DEPTH_MAX });
            }
            if !folder.contains_key(name) {
                check_name(name)?;
                self.nodes += 1;
                check_nodes(self.nodes)?;
            }
            folder = match folder.entry(name.to_owned()).or_insert_with(|| Item::Folder(Folder::new())) {
                Item::Folder(folder) => folder,
                Item::Leaf(_) => return Err(TreeError::Duplicate(name.to_owned())),
            };
        }
        Ok(folder)
    }
}

pub(super) fn check_nodes(nodes: usize) -> Result<(), TreeError> {
    if nodes > TREE_NODES_MAX {
        return Err(TreeError::Limit { what: "the number of nodes in a tree", limit: TREE_NODES_MAX });
    }
    Ok(())
}

fn merge_folder(into: &mut Folder, from: Folder, nodes: &mut usize) -> Result<(), TreeError> {
    for (name, item) in from {
        match into.entry(name) {
            Slot::Vacant(slot) => {
                *nodes += count(&item);
                slot.insert(item);
            }
            Slot::Occupied(mut slot) => {
                let name = slot.key().clone();
                match (slot.get_mut(), item) {
                    (Item::Folder(into), Item::Folder(from)) => merge_folder(into, from, nodes)?,
                    (Item::Leaf(one), Item::Leaf(other)) if *one == other => {}
                    _ => return Err(TreeError::Duplicate(name)),
                }
            }
        }
    }
    Ok(())
}

pub(super) fn count(item: &Item) -> usize {
    match item {
        Item::Leaf(_) => 1,
        Item::Folder(folder) => 1 + folder.values().map(count).sum::<usize>(),
    }
}

fn finish_folder(
    folder: Folder,
    directories: &mut BTreeMap<Digest, Bytes>,
    order: &mut Vec<Digest>,
    files: &mut Vec<Digest>,
) -> Result<Digest, TreeError> {
    let mut entries = Vec::with_capacity(folder.len());
    for (name, item) in folder {
        let node = match item {
            Item::Folder(folder) => Node::Directory(finish_folder(folder, directories, order, files)?),
            Item::Leaf(node) => node,
        };
        if let Node::File { digest, .. } = &node {
            files.push(*digest);
        }
        entries.push(Entry { name, node });
    }
    let bytes = Directory::new(entries)?.encode();
    let limit = muster_model::limits::MESSAGE_BYTES_MAX;
    if bytes.len() > limit {
        return Err(TreeError::Limit { what: "the size of a directory", limit });
    }
    let digest = Digest::of(&bytes);
    if let Slot::Vacant(slot) = directories.entry(digest) {
        slot.insert(bytes);
        order.push(digest);
    }
    Ok(digest)
}
