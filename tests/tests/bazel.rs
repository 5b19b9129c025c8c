//! Bazel 4.2.3 builds C++ projects with the fleet as its cache, configured as docs/clients/bazel.md says.

use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_tests::clients::bazel::{Build, Graph, Workspace};
use muster_tests::clients::page;
use muster_tests::programs::{Fleet, Place};

/// One Bazel server at a time: each takes most of a gigabyte.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a whole build runs outside of Bazel: each library is compiled and archived; each test is compiled, linked and run, and its report is
/// written by an action of its own.
fn whole(graph: &Graph) -> usize {
    2 * graph.libraries.len() + 4 * graph.tests.len()
}

const TEST: [&str; 2] = ["test", "//..."];

/// Builds with the configuration below a heading, forgets everything, builds again; answers both.
fn twice(heading: &str, seed: u64) -> (Graph, Build, Build) {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let graph = Graph::new(seed, 12, 4);
    graph.write(&place);
    let bazel = Workspace::new(&place, &page::block("bazel", heading, &fleet.address));
    let first = bazel.run(&TEST);
    first.assert_passed();
    bazel.run(&["clean"]).assert_passed();
    let second = bazel.run(&TEST);
    second.assert_passed();
    (graph, first, second)
}

#[test]
fn a_second_clean_build_is_all_hits_over_grpc() {
    let _alone = alone();
    let (graph, first, second) = twice("Remote cache", 1);
    assert_eq!(first.count("remote cache hit"), 0, "{}", first.text);
    assert_eq!(second.count("remote cache hit"), whole(&graph), "{}", second.text);
}

#[test]
fn a_second_clean_build_is_all_hits_over_http() {
    let _alone = alone();
    let (graph, first, second) = twice("Remote cache over HTTP", 2);
    assert_eq!(first.count("remote cache hit"), 0, "{}", first.text);
    assert_eq!(second.count("remote cache hit"), whole(&graph), "{}", second.text);
}
