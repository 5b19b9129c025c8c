//! The difference of two input trees: only what differs is read.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use futures_util::StreamExt;
use muster_cache::{RemoteStore, StoreError};
use muster_model::{Digest, limits};
use muster_proto::reapi::{Directory, NodeProperties};
use prost::Message;

use super::{Difference, Kind};

/// Directories at the same place in two trees; on one side there may be none.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Where they are.
    pub path: String,
    /// In the first tree.
    pub first: Option<Digest>,
    /// In the second.
    pub second: Option<Digest>,
}

/// What is in a directory under one name.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    File { digest: Digest, is_executable: bool, properties: Option<NodeProperties> },
    Directory(Digest),
    Symlink { target: String, properties: Option<NodeProperties> },
}

impl Node {
    fn words(&self) -> String {
        match self {
            Self::File { digest, is_executable, properties } => {
                let executable = if *is_executable { ", executable" } else { "" };
                format!("{digest}{executable}{}", property_words(properties.as_ref()))
            }
            Self::Directory(digest) => format!("directory {digest}"),
            Self::Symlink { target, properties } => {
                format!("link to {target}{}", property_words(properties.as_ref()))
            }
        }
    }
}

fn property_words(properties: Option<&NodeProperties>) -> String {
    let Some(properties) = properties else { return String::new() };
    let mut words = String::new();
    if let Some(mode) = &properties.unix_mode {
        words.push_str(&format!(", mode {mode:o}"));
    }
    if let Some(time) = &properties.mtime {
        words.push_str(&format!(", modified {}.{:09}", time.seconds, time.nanos));
    }
    for property in &properties.properties {
        words.push_str(&format!(", {}={}", property.name, property.value));
    }
    words
}

/// What is different in two trees, in the order of paths, at most `limit` of it.
///
/// # Errors
///
/// When a directory is not there, is none, or the trees pass their limit of nodes.
pub async fn differences(store: &RemoteStore, roots: Pair, limit: usize) -> Result<Vec<Difference>, StoreError> {
    let mut found = Vec::new();
    let mut level = vec![roots];
    let mut visited = 0;
    while !level.is_empty() && found.len() < limit {
        visited += level.len();
        if visited > limits::TREE_NODES_MAX {
            return Err(StoreError::Limit { what: "directories that differ", limit: limits::TREE_NODES_MAX as u64 });
        }
        let directories = read(store, &level).await?;
        let mut below = Vec::new();
        for pair in level {
            let side = |digest: Option<Digest>| digest.and_then(|digest| directories.get(&digest));
            compare(&pair, side(pair.first), side(pair.second), &mut found, &mut below);
        }
        level = below;
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found.truncate(limit);
    Ok(found)
}

type Nodes = BTreeMap<String, Node>;

/// Reads the directories of pairs that differ and are there on both sides.
async fn read(store: &RemoteStore, pairs: &[Pair]) -> Result<HashMap<Digest, Nodes>, StoreError> {
    let differing = pairs.iter().filter(|pair| pair.first != pair.second);
    let wanted: HashSet<Digest> = differing.flat_map(|pair| [pair.first, pair.second]).flatten().collect();
    // The empty directory is the empty blob, which need not be asked for.
    let (empty, wanted): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|digest| digest.size_bytes == 0);
    let mut directories: HashMap<_, _> = empty.into_iter().map(|digest| (digest, Nodes::new())).collect();
    let mut blobs = std::pin::pin!(store.get_many(wanted));
    while let Some((digest, blob)) = blobs.next().await {
        let bytes = blob?.into_bytes(limits::MESSAGE_BYTES_MAX as u64).await?;
        directories.insert(digest, nodes(digest, bytes)?);
    }
    Ok(directories)
}

fn nodes(digest: Digest, bytes: Bytes) -> Result<Nodes, StoreError> {
    let wrong = |why: String| StoreError::Tree { digest, why };
    let directory = Directory::decode(bytes).map_err(|error| wrong(error.to_string()))?;
    let model = |inner: Option<muster_proto::reapi::Digest>| {
        let inner = inner.unwrap_or_default().to_model(digest.function);
        inner.map_err(|error| wrong(error.to_string()))
    };
    let mut nodes = Nodes::new();
    for file in directory.files {
        let node = Node::File {
            digest: model(file.digest)?,
            is_executable: file.is_executable,
            properties: file.node_properties,
        };
        nodes.insert(file.name, node);
    }
    for inner in directory.directories {
        nodes.insert(inner.name, Node::Directory(model(inner.digest)?));
    }
    for link in directory.symlinks {
        nodes.insert(link.name, Node::Symlink { target: link.target, properties: link.node_properties });
    }
    Ok(nodes)
}

fn compare(
    pair: &Pair,
    first: Option<&Nodes>,
    second: Option<&Nodes>,
    found: &mut Vec<Difference>,
    below: &mut Vec<Pair>,
) {
    if pair.first == pair.second {
        return;
    }
    let none = Nodes::new();
    // A directory that is only there on one side is shown by what is in it; an empty one has nothing to show.
    if (pair.first.is_none() || pair.second.is_none()) && first.or(second).is_none_or(Nodes::is_empty) {
        let words = |digest: &Option<Digest>| digest.map(|digest| format!("directory {digest}"));
        found.push(difference(&pair.path, words(&pair.first), words(&pair.second)));
        return;
    }
    let (first, second) = (first.unwrap_or(&none), second.unwrap_or(&none));
    let mut names: Vec<_> = first.keys().chain(second.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let path = match pair.path.as_str() {
            "" => name.clone(),
            above => format!("{above}/{name}"),
        };
        match (first.get(name), second.get(name)) {
            (first, second) if first == second => {}
            (Some(Node::Directory(first)), Some(Node::Directory(second))) => {
                below.push(Pair { path, first: Some(*first), second: Some(*second) });
            }
            (Some(Node::Directory(first)), None) => below.push(Pair { path, first: Some(*first), second: None }),
            (None, Some(Node::Directory(second))) => below.push(Pair { path, first: None, second: Some(*second) }),
            (first, second) => found.push(difference(&path, first.map(Node::words), second.map(Node::words))),
        }
    }
}

fn difference(path: &str, first: Option<String>, second: Option<String>) -> Difference {
    Difference { kind: Kind::Input, name: path.to_owned(), first, second }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(byte: u8) -> Node {
        Node::File { digest: Digest::of(&[byte]), is_executable: false, properties: None }
    }

    fn directory(nodes: &[(&str, Node)]) -> Nodes {
        nodes.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect()
    }

    fn compared(first: Option<&Nodes>, second: Option<&Nodes>) -> (Vec<String>, Vec<String>) {
        let digest = |nodes: Option<&Nodes>, byte| nodes.map(|_| Digest::of(&[byte]));
        let pair = Pair { path: "top".into(), first: digest(first, 1), second: digest(second, 2) };
        let (mut found, mut below) = (Vec::new(), Vec::new());
        compare(&pair, first, second, &mut found, &mut below);
        (found.into_iter().map(|one| one.name).collect(), below.into_iter().map(|one| one.path).collect())
    }

    #[test]
    fn only_what_differs_is_gone_into() {
        let link = |target: &str| Node::Symlink { target: target.into(), properties: None };
        let inner = |byte| Node::Directory(Digest::of(&[byte]));
        let first = directory(&[
            ("changed", file(1)),
            ("gone", file(2)),
            ("into", inner(1)),
            ("link", link("a")),
            ("same", file(3)),
            ("same-inside", inner(9)),
        ]);
        let second = directory(&[
            ("changed", file(4)),
            ("came", file(5)),
            ("into", inner(2)),
            ("link", link("b")),
            ("same", file(3)),
            ("same-inside", inner(9)),
        ]);
        let (found, below) = compared(Some(&first), Some(&second));
        assert_eq!(found, ["top/came", "top/changed", "top/gone", "top/link"]);
        assert_eq!(below, ["top/into"]);
    }

    #[test]
    fn a_directory_on_one_side_is_shown_by_what_is_in_it_and_an_empty_one_by_itself() {
        let one = directory(&[("file", file(1))]);
        assert_eq!(compared(Some(&one), None).0, ["top/file"]);
        assert_eq!(compared(None, Some(&Nodes::new())).0, ["top"]);
    }

    #[test]
    fn a_file_that_became_a_directory_is_one_difference() {
        let (first, second) = (directory(&[("x", file(1))]), directory(&[("x", Node::Directory(Digest::of(b"d")))]));
        let (found, below) = compared(Some(&first), Some(&second));
        assert_eq!((found, below), (vec!["top/x".to_owned()], vec![]));
    }
}
