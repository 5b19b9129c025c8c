//! Bazel 4.2.3 builds C++ projects with the fleet as its executor, configured as docs/clients/bazel.md says.

use std::sync::{Mutex, MutexGuard, PoisonError};

use muster_tests::clients::bazel::{Build, Graph, Workspace};
use muster_tests::clients::page;
use muster_tests::programs::{Fleet, Place, eventually};
use muster_tests::seed::Random;
use nix::sys::signal::Signal;

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

#[test]
fn two_hundred_libraries_are_built_on_two_agents_and_a_changed_header_rebuilds_its_dependants() {
    let _alone = alone();
    let place = Place::empty();
    let fleet = Fleet::start(&place, 2);
    let graph = Graph::new(3, 200, 50);
    graph.write(&place);
    let bazel = Workspace::new(&place, &page::block("bazel", "Remote execution", &fleet.address));
    let cold = bazel.run(&TEST);
    assert_eq!(cold.code, Some(0), "{}\n{}", cold.text, fleet.logs());
    assert_eq!(cold.count("remote"), whole(&graph), "{}", cold.text);

    bazel.run(&["clean"]).assert_passed();
    let again = bazel.run(&TEST);
    assert_eq!(again.assert_passed().count("remote cache hit"), whole(&graph), "{}", again.text);
    assert_eq!(again.count("remote"), 0, "{}", again.text);

    let library = graph.middling(8);
    let dependants = graph.dependants(library);
    let tests = graph.tests_of(&dependants);
    assert!(tests > 0 && dependants.len() > 5, "seed 3 has a library that shows something");
    graph.write_header(&place, library, 1);
    bazel.run(&["clean"]).assert_passed();
    let changed = bazel.run(&TEST);
    let remote = changed.assert_passed().count("remote");
    // What writes a test's report sees the test's output and whole seconds, which may be the same as before.
    let rebuilt = 2 * dependants.len() + 3 * tests..=2 * dependants.len() + 4 * tests;
    assert!(rebuilt.contains(&remote), "{remote} actions, not {rebuilt:?}: {}", changed.text);
    assert_eq!(changed.count("remote cache hit"), whole(&graph) - remote, "{}", changed.text);
}

#[test]
fn a_build_without_the_bytes_leaves_outputs_where_they_are() {
    let _alone = alone();
    let place = Place::empty();
    let fleet = Fleet::start(&place, 2);
    let graph = Graph::new(4, 12, 4);
    graph.write(&place);
    let bazel = Workspace::new(&place, &page::block("bazel", "Without the bytes", &fleet.address));
    let cold = bazel.run(&TEST);
    assert_eq!(cold.code, Some(0), "{}\n{}", cold.text, fleet.logs());
    assert!(!place.project().join("bazel-bin/part_0/liblib_0.a").exists(), "an archive was downloaded");
    // A change needs objects of the first build that this machine never had: a test is linked again.
    let is_tested = |library: &usize| graph.tests_of(&graph.dependants(*library)) > 0;
    let library = (0..graph.libraries.len()).rev().find(is_tested).expect("seed 4 has tests");
    graph.write_header(&place, library, 1);
    let changed = bazel.run(&TEST);
    assert!(changed.assert_passed().count("remote") >= 2, "compiled and linked: {}", changed.text);
    bazel.run(&["clean"]).assert_passed();
    let again = bazel.run(&TEST);
    assert_eq!(again.assert_passed().count("remote cache hit"), whole(&graph), "{}", again.text);
}

#[test]
fn an_agent_that_is_killed_in_the_middle_costs_nothing_but_time() {
    let _alone = alone();
    let place = Place::empty();
    let fleet = Fleet::start(&place, 2);
    let graph = Graph::new(5, 40, 10);
    graph.write(&place);
    let bazel = Workspace::new(&place, &page::block("bazel", "Remote execution", &fleet.address));
    let build = bazel.start(&TEST);
    eventually("the first agent has an action", || {
        let status = fleet.status(&place);
        let agents = status["agents"].as_array().cloned().unwrap_or_default();
        let busy =
            |agent: &serde_json::Value| agent["attempts"].as_array().is_some_and(|attempts| !attempts.is_empty());
        agents.iter().any(|agent| agent["name"] == "agent-0" && busy(agent))
    });
    fleet.agents[0].signal(Signal::SIGKILL);
    let build = Build::read(&build.output());
    assert_eq!(build.code, Some(0), "{}\n{}", build.text, fleet.logs());
    assert_eq!(build.count("remote"), whole(&graph), "{}", build.text);
}

/// Blobs that were evicted since the coordinator was started.
fn evicted(place: &Place, fleet: &Fleet) -> u64 {
    let output =
        place.muster(["cache", "stats", "--format", "json", "--fleet", &fleet.url()]).output().expect("starts");
    let stats: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    stats["evicted_blobs"].as_u64().expect("a count")
}

/// Nothing that a build was promised may go while its lease lasts, and leases end with the coordinator that gave them.
fn end_leases(place: &Place, fleet: &mut Fleet) {
    fleet.coordinator = None;
    fleet.start_coordinator();
    eventually("the agents are back", || {
        fleet.status(place)["agents"].as_array().is_some_and(|agents| agents.len() == 2)
    });
}

#[test]
fn outputs_that_were_evicted_never_fail_a_build() {
    let _alone = alone();
    let place = Place::empty();
    let mut fleet = Fleet::start_with(&place, 2, &["--cache-size", "24MiB"]);
    let graph = Graph::new(6, 12, 4);
    graph.write(&place);
    let bazel = Workspace::new(&place, &page::block("bazel", "Remote execution", &fleet.address));
    bazel.run(&TEST).assert_passed();
    end_leases(&place, &mut fleet);
    let mut random = Random::new(6);
    // Other people's blobs, until as many have gone as the build has libraries: the oldest go first, and those are the build's.
    let mut stored = 0;
    while evicted(&place, &fleet) <= graph.libraries.len() as u64 {
        let bytes: Vec<u8> = (0..64 * 1024).flat_map(|_| random.draw().to_le_bytes()).collect();
        std::fs::write(place.beside("other"), bytes).expect("is written");
        let mut put = place.muster(["cache", "put", "--fleet", &fleet.url()]);
        let output = put.arg(place.beside("other")).output().expect("muster starts");
        assert!(output.status.success(), "blob {stored}: {output:?}");
        stored += 1;
    }
    end_leases(&place, &mut fleet);
    // A result whose outputs are gone is no hit; inputs that are gone are uploaded again.
    graph.write_header(&place, 0, 1);
    bazel.run(&TEST).assert_passed();
    bazel.run(&["clean"]).assert_passed();
    let again = bazel.run(&TEST);
    assert!(again.assert_passed().count("remote") > 0, "everything was still there: {}", again.text);
}
