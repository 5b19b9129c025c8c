//! Figure 4 of remote execution: a C++ project under Bazel, built and tested on this machine alone, on two agents, and from the cache.

use std::time::{Duration, Instant};

use super::median;
use crate::clients::bazel::{Graph, Workspace};
use crate::clients::page;
use crate::programs::{Fleet, Place};

const LIBRARIES: usize = 200;
const TESTS: usize = 50;
const AGENTS: usize = 2;
/// Where the seeds of these projects begin, so that no test builds the same ones.
const SEED: u64 = 4000;

/// Prints the three times.
///
/// # Panics
///
/// When a build or a test fails, or the last build executes anything.
pub(super) fn project(rounds: usize) {
    let mut times: [Vec<Duration>; 3] = Default::default();
    for round in 0..=rounds as u64 {
        let measured = one(SEED + round);
        // The first round only warms.
        if round > 0 {
            times.iter_mut().zip(measured).for_each(|(times, time)| times.push(time));
        }
    }
    println!("\n### `bazel test //...`: {LIBRARIES} generated C++ libraries and {TESTS} tests\n");
    println!("| | wall, median | wall / local |\n|---|---:|---:|");
    let names = ["local, sandboxed by Bazel", "two agents of one slot, nothing cached", "the same again, all hits"];
    let local = median(times[0].clone());
    for (name, times) in names.iter().zip(times) {
        let wall = median(times);
        println!("| {name} | {:.2} s | {:.2} |", wall.as_secs_f64(), wall.as_secs_f64() / local.as_secs_f64());
    }
}

/// A new project each time, so that nothing is known of it.
fn one(seed: u64) -> [Duration; 3] {
    let place = Place::empty();
    let fleet = Fleet::start(&place, AGENTS);
    let graph = Graph::new(seed, LIBRARIES, TESTS);
    graph.write(&place);
    let lines = page::block("bazel", "Remote execution", &fleet.address);
    let workspace = Workspace::new(&place, &lines.replace("build --", "build:fleet --"));
    // Its server is up before anything is measured.
    workspace.run(&["info", "release"]).assert_passed();
    let timed = |arguments: &[&str]| {
        workspace.run(&["clean"]).assert_passed();
        let start = Instant::now();
        let build = workspace.run(arguments);
        build.assert_passed();
        (start.elapsed(), build)
    };
    let (local, _) = timed(&["test", "//..."]);
    let (cold, _) = timed(&["test", "--config=fleet", "//..."]);
    let (hits, build) = timed(&["test", "--config=fleet", "//..."]);
    assert_eq!(build.count("remote"), 0, "everything was known: {}", build.text);
    [local, cold, hits]
}
