//! Measuring whole commands beside their peers in the same run; what `scripts/bench` prints.
//!
//! One file for each figure of `docs/benchmarks.md`.

mod actions;
mod bazel;
mod cache;
mod cargo;
#[path = "../../agent/environment/tests/docker/engine.rs"]
#[allow(dead_code, reason = "tests look closer")]
mod engine;
mod environments;
mod postgres;
mod python;
mod recovery;
mod scale;
mod services;
mod sleep;
mod tools;
mod touched;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::programs::binary;

/// Where the suites and tools are, and how thoroughly they are measured.
pub struct Bench {
    /// A directory that may be filled and is kept.
    pub place: PathBuf,
    /// How often each command is measured.
    pub rounds: usize,
}

impl Bench {
    /// What clients of the Remote Execution API ask a cache, beside an echo and BuildGrid.
    pub fn cache(&self) {
        cache::figures(&self.place, self.rounds);
    }

    /// Actions that do nothing, on one agent of two slots.
    pub fn idle_actions(&self) {
        actions::nothing(self.rounds);
    }

    /// The same sleeping actions on more and more agents.
    pub fn sleeping_actions(&self) {
        actions::sleeping(self.rounds);
    }

    /// A generated C++ project under Bazel.
    pub fn bazel(&self) {
        bazel::project(self.rounds);
    }

    /// Where suites are built, by all runners alike.
    fn target(&self) -> PathBuf {
        self.place.join("target")
    }

    /// `muster test` on an embedded fleet of two slots.
    fn muster(&self, project: &Path, data: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("muster"));
        command.arg("test").arg(project).args(["--agents", "2", "--slots", "1", "--data"]);
        command.arg(self.place.join(data)).args(arguments).env("CARGO_TARGET_DIR", self.target());
        command
    }

    /// Measures all commands in turn, so that what else the machine does hits all of them alike.
    fn compare(&self, commands: &[(&str, &dyn Fn() -> Command)]) -> Vec<Row> {
        let mut rows: Vec<Row> =
            commands.iter().map(|(name, _)| Row { name: (*name).to_owned(), measures: Vec::new() }).collect();
        for round in 0..=self.rounds {
            for (row, (_, command)) in rows.iter_mut().zip(commands) {
                let measured = measure(command());
                // The first round only warms what all of them use.
                if round > 0 {
                    row.measures.push(measured);
                }
            }
        }
        rows
    }
}

/// How long a command took, and the processor time of it and its descendants.
#[derive(Clone, Copy, Debug)]
struct Measure {
    /// From start to end.
    wall: Duration,
    /// User and system time, descendants that were waited for included.
    cpu: Duration,
}

/// Runs a command to its end.
///
/// # Panics
///
/// When it can't be started or fails: a benchmark of something that fails says nothing.
fn measure(mut command: Command) -> Measure {
    let before = children_cpu();
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    let wall = start.elapsed();
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Measure { wall, cpu: children_cpu().saturating_sub(before) }
}

fn children_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the kernel knows");
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// One line of a table: what was measured, several times.
struct Row {
    /// What.
    name: String,
    /// Every measure.
    measures: Vec<Measure>,
}

impl Row {
    /// The median wall time.
    fn wall(&self) -> Duration {
        median(self.measures.iter().map(|measure| measure.wall).collect())
    }

    /// The median processor time.
    fn cpu(&self) -> Duration {
        median(self.measures.iter().map(|measure| measure.cpu).collect())
    }
}

/// The middle one; the later of the two for an even number.
///
/// # Panics
///
/// When there are none.
fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

/// The value that so many of a hundred do not exceed.
///
/// # Panics
///
/// When there are none.
fn percentile(values: &[Duration], percent: usize) -> Duration {
    let mut values = values.to_vec();
    values.sort_unstable();
    values[(values.len() - 1) * percent / 100]
}

fn shown(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

/// Prints rows as a Markdown table, each beside the first.
fn print(title: &str, rows: &[Row]) {
    println!("\n### {title}\n");
    println!("| | wall, median | wall, least | CPU, median | wall / first |");
    println!("|---|---:|---:|---:|---:|");
    let first = rows.first().map_or(Duration::ZERO, Row::wall);
    for row in rows {
        let least = row.measures.iter().map(|measure| measure.wall).min().unwrap_or_default();
        println!(
            "| {} | {:.3} s | {:.3} s | {:.3} s | {:.2} |",
            row.name,
            row.wall().as_secs_f64(),
            least.as_secs_f64(),
            row.cpu().as_secs_f64(),
            row.wall().as_secs_f64() / first.as_secs_f64()
        );
    }
}

/// How many times as long the one took as the other.
fn ratio(one: &Row, other: &Row) -> f64 {
    one.wall().as_secs_f64() / other.wall().as_secs_f64()
}

/// Prints whether a goal was met.
fn goal(what: &str, measured: &str, is_met: bool) {
    println!("\nGoal: {what}. Measured: {measured}. {}.", if is_met { "Met" } else { "**Missed**" });
}
