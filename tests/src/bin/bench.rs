//! Prints the figures of `docs/benchmarks.md`, each beside its peers in the same run.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use muster_tests::bench::Bench;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Figure {
    /// statrs under cargo test, nextest, Maelstrom and Muster; then unchanged (figures 1 and 2)
    Statrs,
    /// derive_more, likewise (figures 1 and 2)
    #[value(name = "derive_more")]
    DeriveMore,
    /// One test file of a workspace changes (figure 3)
    Touched,
    /// 1,000 sleeping cases on 25 agent processes, with and without killed agents (figure 4)
    Sleep,
    /// networkx's own suite under pytest, beside xdist (figure 5)
    Networkx,
    /// How soon a lost agent is noticed and its work starts elsewhere (figure 6)
    Recovery,
    /// The scheduler alone, up to a million cases and ten thousand agents (figure 7)
    Scale,
    /// What clients of the Remote Execution API ask the cache, beside an echo and BuildGrid
    Cache,
    /// Actions that do nothing, on one agent of two slots
    Execute,
    /// The same sleeping actions on 1, 2, 4 and 8 agents
    Agents,
    /// A generated C++ project under Bazel: local, remote, remote and cached
    Bazel,
    /// What a sandbox costs beside a plain fork and exec, unshare and bubblewrap
    Starts,
    /// What a thousand environments leave behind
    Leftovers,
    /// How soon hostile programs are dead
    Kills,
    /// PostgreSQL: how soon after it accepts a case may start, how soon a database is cloned, and a suite that needs one beside its peers
    Services,
}

/// Measures Muster beside its peers.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything when nothing is named.
    figures: Vec<Figure>,
    /// How often each command is measured.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Where suites are fetched to and built, and tools installed.
    #[arg(long)]
    place: PathBuf,
}

fn main() {
    let arguments = Arguments::parse();
    let bench = Bench { place: arguments.place, rounds: arguments.rounds.into() };
    std::fs::create_dir_all(&bench.place).expect("the place can be made");
    for figure in Figure::value_variants() {
        if !arguments.figures.is_empty() && !arguments.figures.contains(figure) {
            continue;
        }
        match figure {
            Figure::Statrs => bench.cargo_suite("statrs", "0.19.1", &[]),
            Figure::DeriveMore => bench.cargo_suite("derive_more", "2.1.0", &["--all-features"]),
            Figure::Touched => bench.touched(),
            Figure::Sleep => bench.sleeping_cases(),
            Figure::Networkx => bench.python_suite(),
            Figure::Recovery => bench.recovery(),
            Figure::Scale => bench.scale(),
            Figure::Cache => bench.cache(),
            Figure::Execute => bench.idle_actions(),
            Figure::Agents => bench.sleeping_actions(),
            Figure::Bazel => bench.bazel(),
            Figure::Starts => bench.starts(),
            Figure::Leftovers => bench.leftovers(),
            Figure::Kills => bench.kills(),
            Figure::Services => bench.services(),
        }
    }
}
