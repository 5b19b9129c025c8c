//! Prints the figures of `docs/benchmarks.md`, each beside its peers in the same run.

use std::path::PathBuf;

use clap::Parser;
use muster_tests::bench::{actions, bazel, cache, fleet, scale, suites::Bench};

/// Measures Muster beside its peers.
#[derive(Parser)]
struct Arguments {
    /// What to measure: scale, statrs, derive_more, networkx, sleep, cache, execute, agents, bazel; all of them when none is named.
    figures: Vec<String>,
    /// How often each command is measured, after one round that only warms.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Where suites are fetched to and built.
    #[arg(long)]
    place: PathBuf,
}

fn main() {
    let arguments = Arguments::parse();
    let bench = Bench { place: arguments.place, rounds: arguments.rounds };
    std::fs::create_dir_all(&bench.place).expect("the place can be made");
    let wanted = |name: &str| arguments.figures.is_empty() || arguments.figures.iter().any(|figure| figure == name);
    if wanted("scale") {
        scale::growth();
    }
    if wanted("statrs") {
        bench.cargo_suite("statrs", "0.19.1");
    }
    if wanted("derive_more") {
        bench.cargo_suite("derive_more", "2.1.0");
    }
    if wanted("networkx") {
        bench.python_suite();
    }
    if wanted("sleep") {
        fleet::sleeping_cases(1000, 25, 5);
    }
    if wanted("cache") {
        cache::figures(&bench.place, bench.rounds);
    }
    if wanted("execute") {
        actions::nothing(bench.rounds);
    }
    if wanted("agents") {
        actions::sleeping(bench.rounds);
    }
    if wanted("bazel") {
        bazel::project(bench.rounds);
    }
}
