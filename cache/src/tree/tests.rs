use std::collections::HashMap;

use bytes::Bytes;
use muster_model::limits::{NAME_BYTES_MAX, TREE_DEPTH_MAX};
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::StoreError;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built").block_on(future)
}

fn read(root: Digest, messages: &HashMap<Digest, Bytes>) -> Result<Content, StoreError> {
    run(collect(&root, |digests| async move {
        Ok(digests.into_iter().filter_map(|digest| Some((digest, messages.get(&digest)?.clone()))).collect())
    }))
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c]{1,2}", "\\PC{1,8}"].prop_filter("is a name", |name| node::check_name(name).is_ok())
}

fn leaf() -> impl Strategy<Value = Node> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<bool>())
            .prop_map(|(bytes, executable)| Node::File { digest: Digest::of(&bytes), executable }),
        "[a-z./]{1,9}".prop_map(Node::Symlink),
    ]
}

fn insert(builder: &mut TreeBuilder, path: &str, node: &Node) -> Result<(), TreeError> {
    match node {
        Node::File { digest, executable } => builder.insert_file(path, *digest, *executable),
        Node::Symlink(target) => builder.insert_symlink(path, target),
        Node::Directory(_) => builder.insert_directory(path),
    }
}

proptest! {
    #[test]
    fn a_directory_is_read_as_it_was_written(entries in proptest::collection::btree_map(name(), leaf(), 0..20)) {
        let entries: Vec<Entry> = entries.into_iter().map(|(name, node)| Entry { name, node }).collect();
        let mut shuffled = entries.clone();
        shuffled.reverse();
        let directory = Directory::new(shuffled).unwrap();
        prop_assert_eq!(directory.entries(), &entries);
        let bytes = directory.encode();
        prop_assert_eq!(&Directory::decode(DigestFunction::Blake3, &bytes).unwrap(), &directory);
    }

    #[test]
    fn what_is_read_is_written_the_same_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(directory) = Directory::decode(DigestFunction::Blake3, &bytes) {
            prop_assert_eq!(directory.encode(), bytes);
        }
    }

    #[test]
    fn a_tree_does_not_depend_on_the_order_or_grouping_of_insertion(
        leaves in proptest::collection::btree_map(proptest::collection::vec(name(), 1..5), leaf(), 0..20),
        split in 0_usize..20,
    ) {
        let mut forwards = TreeBuilder::new();
        let accepted: Vec<_> = leaves
            .into_iter()
            .map(|(names, node)| (names.join("/"), node))
            .filter(|(path, node)| insert(&mut forwards, path, node).is_ok())
            .collect();
        let (mut one, mut other) = (TreeBuilder::new(), TreeBuilder::new());
        for (number, (path, node)) in accepted.iter().rev().enumerate() {
            insert(if number < split { &mut one } else { &mut other }, path, node).unwrap();
        }
        one.merge(other).unwrap();
        let tree = forwards.finish().unwrap();
        prop_assert_eq!(&one.finish().unwrap(), &tree);
        let messages: HashMap<Digest, Bytes> = tree.directories.iter().cloned().collect();
        let content = read(tree.root, &messages).unwrap();
        prop_assert_eq!(content.files, tree.files);
        prop_assert_eq!(content.directories.len(), messages.len());
    }
}

#[test]
fn hostile_names_are_refused_everywhere() {
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    for bad in ["", ".", "..", "a/b", "/", "a\0b", "../x", "/etc", &long] {
        let entry = Entry { name: bad.into(), node: Node::Symlink("x".into()) };
        assert!(matches!(Directory::new(vec![entry]), Err(TreeError::Name(_))), "{bad:?}");
        let message = reapi::Directory {
            directories: vec![reapi::DirectoryNode { name: bad.into(), digest: Some(Digest::empty().into()) }],
            ..reapi::Directory::default()
        };
        let refused = Directory::decode(DigestFunction::Blake3, &message.encode_to_vec());
        assert!(matches!(refused, Err(TreeError::Name(_))), "{bad:?}");
    }
    for bad in ["", "a/", "a//b", "a/./b", "a/../b", "..", "a/\0", "//a"] {
        assert!(TreeBuilder::new().insert_file(bad, Digest::empty(), false).is_err(), "{bad:?}");
    }
}

#[test]
fn what_is_not_canonical_is_refused() {
    let file = |name: &str| reapi::FileNode {
        name: name.into(),
        digest: Some(Digest::empty().into()),
        is_executable: false,
        node_properties: None,
    };
    let of = |files: Vec<reapi::FileNode>| reapi::Directory { files, ..reapi::Directory::default() }.encode_to_vec();
    let decode = |bytes: &[u8]| Directory::decode(DigestFunction::Blake3, bytes);
    decode(&of(vec![file("a"), file("b")])).unwrap();
    assert_eq!(decode(&of(vec![file("b"), file("a")])), Err(TreeError::NotCanonical));
    assert_eq!(decode(&of(vec![file("a"), file("a")])), Err(TreeError::Duplicate("a".into())));
    let properties = reapi::FileNode { node_properties: Some(reapi::NodeProperties::default()), ..file("a") };
    assert_eq!(decode(&of(vec![properties])), Err(TreeError::NotCanonical));
    assert_eq!(decode(&[&of(vec![file("a")])[..], &[0x78, 1]].concat()), Err(TreeError::NotCanonical));
    assert_eq!(decode(&of(vec![reapi::FileNode { digest: None, ..file("a") }])), Err(TreeError::Digest("a".into())));
    assert_eq!(decode(b"\xff"), Err(TreeError::Malformed));
    let twice = reapi::Directory {
        files: vec![file("a")],
        symlinks: vec![reapi::SymlinkNode { name: "a".into(), target: "x".into(), node_properties: None }],
        ..reapi::Directory::default()
    };
    assert_eq!(decode(&twice.encode_to_vec()), Err(TreeError::Duplicate("a".into())));
}

/// A chain of directories, each holding the one before `copies` times.
fn chain(levels: usize, copies: usize) -> (Digest, HashMap<Digest, Bytes>) {
    let mut messages = HashMap::new();
    let mut add = |directory: Directory| {
        let bytes = directory.encode();
        let digest = Digest::of(&bytes);
        messages.insert(digest, bytes);
        digest
    };
    let mut digest = add(Directory::default());
    for _ in 1..levels {
        let entry = |number: usize| Entry { name: format!("{number:05}"), node: Node::Directory(digest) };
        digest = add(Directory::new((0..copies).map(entry).collect()).unwrap());
    }
    (digest, messages)
}

#[test]
fn a_tree_that_explodes_or_is_too_deep_is_refused() {
    for (levels, copies, allowed) in [
        (40, 2, false),
        (4, 5000, false),
        (TREE_DEPTH_MAX, 1, true),
        (TREE_DEPTH_MAX + 1, 1, false),
        (5000, 1, false),
        (15, 2, true),
    ] {
        let (root, messages) = chain(levels, copies);
        let outcome = read(root, &messages);
        match outcome {
            Ok(content) => {
                let nodes = (0..levels).map(|level| copies.pow(level as u32)).sum::<usize>();
                assert!(allowed && content.nodes == nodes, "{levels} {copies}");
            }
            Err(error) => assert!(!allowed && matches!(error, StoreError::Tree { .. }), "{levels} {copies}: {error}"),
        }
    }
}

#[test]
fn a_tree_with_a_missing_directory_is_not_found() {
    let (root, mut messages) = chain(3, 1);
    let empty = Directory::default().encode();
    messages.remove(&Digest::of(&empty));
    assert!(matches!(read(root, &messages), Err(StoreError::NotFound(_))));
}

#[test]
fn a_path_is_one_thing() {
    let mut builder = TreeBuilder::new();
    builder.insert_file("a/b", Digest::empty(), false).unwrap();
    builder.insert_file("/a/b", Digest::empty(), false).unwrap();
    assert!(builder.insert_file("a/b", Digest::empty(), true).is_err());
    assert!(builder.insert_symlink("a", "x").is_err());
    assert!(builder.insert_directory("a/b").is_err());
    builder.insert_directory("a").unwrap();
    builder.insert_directory("/").unwrap();
    let mut other = TreeBuilder::new();
    other.insert_symlink("a/b", "x").unwrap();
    assert!(matches!(builder.merge(other), Err(TreeError::Duplicate(_))));
}

#[test]
fn a_tree_over_another_replaces_leaves_and_joins_directories() {
    let digest = Digest::of(b"");
    let build = |paths: &[&str]| {
        let mut builder = TreeBuilder::new();
        paths.iter().for_each(|path| builder.insert_file(path, digest, false).unwrap());
        builder
    };
    let mut lower = build(&["a/b", "a/c/d", "e", "f/g/h"]);
    assert_eq!(lower.leaf("a/b"), Some(&Node::File { digest, executable: false }));
    assert_eq!((lower.leaf("a/c"), lower.leaf("e/x"), lower.leaf("")), (None, None, None));
    lower.remove("a/c").unwrap();
    lower.remove("not/there").unwrap();
    lower.clear("f").unwrap();
    assert_eq!(lower.remove("e/x"), Err(TreeError::Below("e".into())));
    assert_eq!(lower.clear("e"), Err(TreeError::Below("e".into())));
    lower.lay_over(build(&["a/n", "f"])).unwrap();
    assert_eq!(lower.clone().lay_over(build(&["e/x"])), Err(TreeError::Below("e".into())));
    let expected = build(&["a/b", "a/n", "e", "f"]);
    assert_eq!((lower.nodes, lower.finish().unwrap()), (expected.nodes, expected.finish().unwrap()));
}
