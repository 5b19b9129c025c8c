//! Trees from a store.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use muster_model::Digest;
use muster_model::limits::{MESSAGE_BYTES_MAX, TREE_DEPTH_MAX, TREE_NODES_MAX};

use super::node::{Directory, Node, TreeError};
use crate::StoreError;

/// A tree that was read whole and is within its limits.
#[derive(Clone, Debug)]
pub struct Content {
    /// The root's digest.
    pub root: Digest,
    /// Every directory, each once.
    pub directories: HashMap<Digest, Arc<Directory>>,
    /// Files, directories and links, expanded: a directory that occurs twice counts twice. The root counts too.
    pub nodes: usize,
    /// The bytes of all different files.
    pub bytes: u64,
    /// Every file's blob, each once.
    pub files: Vec<Digest>,
}

/// Reads one directory's message, whose bytes were verified against `digest`.
///
/// # Errors
///
/// [`StoreError::Tree`] when it is not canonical or not safe.
pub fn read_directory(digest: &Digest, bytes: &[u8]) -> Result<Directory, StoreError> {
    Directory::decode(digest.function, bytes).map_err(|why| tree_error(*digest, &why))
}

/// Reads a whole tree level by level. `fetch` gives the messages of some directories, verified, in any order; it is asked for each once.
///
/// # Errors
///
/// What `fetch` says, and [`StoreError::Tree`] when a directory is not canonical, or the tree is too deep or, expanded, too large.
pub async fn collect<Fetched>(
    root: &Digest,
    mut fetch: impl FnMut(Vec<Digest>) -> Fetched,
) -> Result<Content, StoreError>
where
    Fetched: Future<Output = Result<Vec<(Digest, Bytes)>, StoreError>>,
{
    collect_read(root, |digests| {
        let fetched = fetch(digests);
        async {
            let read = |(digest, bytes): (Digest, Bytes)| Ok((digest, Arc::new(read_directory(&digest, &bytes)?)));
            fetched.await?.into_iter().map(read).collect()
        }
    })
    .await
}

/// [`collect`] for somebody who reads directories, or has read them before.
pub(crate) async fn collect_read<Fetched>(
    root: &Digest,
    mut fetch: impl FnMut(Vec<Digest>) -> Fetched,
) -> Result<Content, StoreError>
where
    Fetched: Future<Output = Result<HashMap<Digest, Arc<Directory>>, StoreError>>,
{
    let mut directories: HashMap<Digest, Arc<Directory>> = HashMap::new();
    let mut files = Vec::new();
    let mut level = vec![*root];
    let mut depth = 0;
    while !level.is_empty() {
        depth += 1;
        if depth > TREE_DEPTH_MAX {
            return Err(too_much(root, "the depth of a tree", TREE_DEPTH_MAX));
        }
        if let Some(digest) = level.iter().find(|digest| digest.size_bytes > MESSAGE_BYTES_MAX as u64) {
            return Err(too_much(digest, "the size of a directory", MESSAGE_BYTES_MAX));
        }
        let mut next = Vec::new();
        for (digest, directory) in fetch(level.clone()).await? {
            for entry in directory.entries() {
                match &entry.node {
                    Node::Directory(digest) => next.push(*digest),
                    Node::File { digest, .. } => files.push(*digest),
                    Node::Symlink(_) => {}
                }
            }
            directories.insert(digest, directory);
            if next.len().max(files.len()).max(directories.len()) > TREE_NODES_MAX {
                return Err(too_much(root, "the number of nodes in a tree", TREE_NODES_MAX));
            }
        }
        if let Some(digest) = level.into_iter().find(|digest| !directories.contains_key(digest)) {
            return Err(StoreError::NotFound(digest));
        }
        next.sort_unstable();
        next.dedup();
        next.retain(|digest| !directories.contains_key(digest));
        level = next;
    }
    files.sort_unstable();
    files.dedup();
    let nodes = expanded(root, &directories)?;
    let bytes = files.iter().map(|digest| digest.size_bytes).fold(0, u64::saturating_add);
    Ok(Content { root: *root, directories, nodes, bytes, files })
}

/// What is known of a directory on the way through a tree.
#[derive(Clone, Copy)]
enum Count {
    /// It is being counted: whoever is in it and holds it closes a circle.
    Open,
    /// Its nodes, expanded, and its depth.
    Done(usize, usize),
}

/// Counts the nodes of a tree without expanding it, and its depth: each directory is counted once, and multiplied where it is shared. The
/// work is that of the messages, whatever they say.
///
/// A directory can't contain itself, because its digest would have to contain itself; but this does not rely on whoever verified them.
fn expanded(root: &Digest, directories: &HashMap<Digest, Arc<Directory>>) -> Result<usize, StoreError> {
    let mut counts: HashMap<Digest, Count> = HashMap::with_capacity(directories.len());
    let mut stack = vec![*root];
    while let Some(digest) = stack.last().copied() {
        let Some(directory) = directories.get(&digest) else { return Err(StoreError::NotFound(digest)) };
        let children = || {
            directory.entries().iter().filter_map(|entry| match &entry.node {
                Node::Directory(digest) => Some(digest),
                Node::File { .. } | Node::Symlink(_) => None,
            })
        };
        match counts.get(&digest) {
            Some(Count::Done(..)) => drop(stack.pop()),
            None => {
                counts.insert(digest, Count::Open);
                for child in children() {
                    match counts.get(child) {
                        None => stack.push(*child),
                        Some(Count::Open) => return Err(tree_error(*child, &TreeError::Circle)),
                        Some(Count::Done(..)) => {}
                    }
                }
            }
            Some(Count::Open) => {
                let mut nodes = 1 + directory.entries().len() - children().count();
                let mut depth = 1;
                for child in children() {
                    let Some(Count::Done(child_nodes, child_depth)) = counts.get(child) else {
                        return Err(tree_error(*child, &TreeError::Circle));
                    };
                    nodes = nodes.saturating_add(*child_nodes);
                    depth = depth.max(child_depth + 1);
                }
                if nodes > TREE_NODES_MAX {
                    return Err(too_much(root, "the number of nodes in a tree", TREE_NODES_MAX));
                }
                if depth > TREE_DEPTH_MAX {
                    return Err(too_much(root, "the depth of a tree", TREE_DEPTH_MAX));
                }
                counts.insert(digest, Count::Done(nodes, depth));
                stack.pop();
            }
        }
    }
    match counts.get(root) {
        Some(Count::Done(nodes, _)) => Ok(*nodes),
        _ => Err(StoreError::NotFound(*root)),
    }
}

fn too_much(digest: &Digest, what: &'static str, limit: usize) -> StoreError {
    tree_error(*digest, &TreeError::Limit { what, limit })
}

fn tree_error(digest: Digest, why: &TreeError) -> StoreError {
    StoreError::Tree { digest, why: why.to_string() }
}
