//! T2.10: trees that are made to cost much. Each is refused after work, and in memory, that is bounded by what was sent.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use muster_model::limits::{DIRECTORY_ENTRIES_MAX, MESSAGE_BYTES_MAX, TREE_DEPTH_MAX};
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi;
use prost::Message;

use super::*;
use crate::StoreError;

/// Set for the process that measures memory, in which one test runs alone.
const ALONE: &str = "MUSTER_HOSTILE_ALONE";
/// What a hostile tree may take above its own messages, in bytes.
const MEMORY_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// A tree as a server has it that does not verify, and how many messages it was asked for.
#[derive(Default)]
struct Server {
    messages: HashMap<Digest, Bytes>,
    asked: AtomicUsize,
}

impl Server {
    fn add(&mut self, directory: &reapi::Directory) -> Digest {
        let bytes = Bytes::from(directory.encode_to_vec());
        let digest = Digest::of(&bytes);
        self.messages.insert(digest, bytes);
        digest
    }

    /// Reads the tree, and says what was wrong with it and how many messages that took.
    fn read(&self, root: Digest) -> (String, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        self.asked.store(0, Ordering::Relaxed);
        let fetch = |digests: Vec<Digest>| async move {
            self.asked.fetch_add(digests.len(), Ordering::Relaxed);
            Ok(digests.into_iter().filter_map(|digest| Some((digest, self.messages.get(&digest)?.clone()))).collect())
        };
        let started = std::time::Instant::now();
        let error = runtime.block_on(collect(&root, fetch)).unwrap_err();
        println!("{root} was refused after {:.1} ms: {error}", started.elapsed().as_secs_f64() * 1e3);
        assert!(matches!(error, StoreError::Tree { .. }), "{error}");
        (error.to_string(), self.asked.load(Ordering::Relaxed))
    }
}

fn holding(names: impl IntoIterator<Item = String>, digest: Digest) -> reapi::Directory {
    let node = |name| reapi::DirectoryNode { name, digest: Some(digest.into()) };
    reapi::Directory { directories: names.into_iter().map(node).collect(), ..reapi::Directory::default() }
}

/// A chain of directories, each with the one before under every name.
fn chain(server: &mut Server, levels: usize, width: usize) -> Digest {
    let mut digest = server.add(&reapi::Directory::default());
    for _ in 1..levels {
        digest = server.add(&holding((0..width).map(|number| format!("{number:05}")), digest));
    }
    digest
}

fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Runs `read` and, alone in a process, checks what it took at its peak.
fn measured(read: impl FnOnce()) {
    let is_alone = std::env::var_os(ALONE).is_some();
    if is_alone {
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
    }
    let before = peak_bytes();
    read();
    let taken = peak_bytes().saturating_sub(before);
    assert!(!is_alone || taken < MEMORY_BYTES_MAX, "{taken} bytes");
}

#[test]
fn t2_10_a_billion_laughs() {
    let mut server = Server::default();
    let laughs = chain(&mut server, 40, 2);
    let wide = chain(&mut server, 5, 20_000);
    measured(|| {
        let (why, asked) = server.read(laughs);
        assert!(why.contains("the number of nodes in a tree") && asked == 40, "{why}, {asked}");
        let (why, asked) = server.read(wide);
        assert!(why.contains("the number of nodes in a tree") && asked == 5, "{why}, {asked}");
    });
}

#[test]
fn t2_10_a_million_entries() {
    let mut server = Server::default();
    // The size in its digest is enough to refuse the first; nobody reads it.
    let million = server.add(&holding((0..1_000_000).map(|number| number.to_string()), Digest::empty()));
    server.messages.clear();
    // Entries of two bytes each, which would be hundreds in memory.
    let tiny = Bytes::from([0x1a, 0x00].repeat(MESSAGE_BYTES_MAX / 2));
    let root = Digest::of(&tiny);
    server.messages.insert(root, tiny);
    measured(|| {
        let (why, asked) = server.read(million);
        assert!(why.contains("the size of a directory") && asked == 0, "{why}, {asked}");
        let (why, asked) = server.read(root);
        assert!(why.contains("the number of entries in a directory") && asked == 1, "{why}, {asked}");
    });
    let link = |number: usize| reapi::SymlinkNode {
        name: format!("{number:05}"),
        target: "x".into(),
        ..reapi::SymlinkNode::default()
    };
    let of = |count| reapi::Directory { symlinks: (0..count).map(link).collect(), ..reapi::Directory::default() };
    let decode = |count| Directory::decode(DigestFunction::Blake3, &of(count).encode_to_vec());
    assert_eq!(decode(DIRECTORY_ENTRIES_MAX).unwrap().entries().len(), DIRECTORY_ENTRIES_MAX);
    assert!(matches!(decode(DIRECTORY_ENTRIES_MAX + 1), Err(TreeError::Limit { .. })));
}

#[test]
fn t2_10_a_depth_of_five_thousand() {
    let mut server = Server::default();
    let deep = chain(&mut server, 5000, 1);
    measured(|| {
        let (why, asked) = server.read(deep);
        assert!(why.contains("the depth of a tree") && asked == TREE_DEPTH_MAX, "{why}, {asked}");
    });
}

#[test]
fn t2_10_duplicate_and_unsorted_names() {
    let mut server = Server::default();
    let empty = server.add(&reapi::Directory::default());
    let names = |names: &[&str]| holding(names.iter().map(ToString::to_string), empty);
    let (twice, unsorted) = (server.add(&names(&["a", "a"])), server.add(&names(&["b", "a"])));
    let mut kinds = names(&["a"]);
    kinds.symlinks.push(reapi::SymlinkNode { name: "a".into(), target: "x".into(), ..Default::default() });
    let kinds = server.add(&kinds);
    measured(|| {
        assert!(server.read(twice).0.contains("\"a\" occurs twice"));
        assert!(server.read(kinds).0.contains("\"a\" occurs twice"));
        assert!(server.read(unsorted).0.contains("not in canonical form"));
    });
}

/// Nobody can find such digests; but a walk must end even if what it is given was not verified.
#[test]
fn t2_10_a_circle_by_forged_digests() {
    let mut server = Server::default();
    let forged = |number: u8| Digest { function: DigestFunction::Blake3, hash: [number; 32], size_bytes: 99 };
    for number in 0..3 {
        let directory = holding(["a".to_owned(), "b".to_owned()], forged((number + 1) % 3));
        server.messages.insert(forged(number), directory.encode_to_vec().into());
    }
    let own = holding(["a".to_owned()], forged(9));
    server.messages.insert(forged(9), own.encode_to_vec().into());
    measured(|| {
        let (why, asked) = server.read(forged(0));
        assert!(why.contains("is in itself") && asked == 3, "{why}, {asked}");
        let (why, asked) = server.read(forged(9));
        assert!(why.contains("is in itself") && asked == 1, "{why}, {asked}");
    });
}

#[test]
fn hostile_trees_take_little_memory() {
    let program = Arc::new(std::env::current_exe().unwrap());
    for test in [
        "t2_10_a_billion_laughs",
        "t2_10_a_million_entries",
        "t2_10_a_depth_of_five_thousand",
        "t2_10_duplicate_and_unsorted_names",
        "t2_10_a_circle_by_forged_digests",
    ] {
        let name = format!("tree::hostile_tests::{test}");
        let output = Command::new(&*program).args(["--exact", &name]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }
}
