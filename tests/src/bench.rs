//! Measuring whole commands beside their peers in the same run; what `scripts/bench` prints.

pub mod actions;
pub mod bazel;
pub mod cache;
pub mod fleet;
pub mod scale;
pub mod suites;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// How long a command took, and the processor time of it and its descendants.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// From start to end.
    pub wall: Duration,
    /// User and system time, descendants that were waited for included.
    pub cpu: Duration,
}

/// Runs a command to its end.
///
/// # Panics
///
/// When it can't be started or fails: a benchmark of something that fails says nothing.
pub fn measure(mut command: Command) -> Measure {
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
pub struct Row {
    /// What.
    pub name: String,
    /// Every measure.
    pub measures: Vec<Measure>,
}

impl Row {
    /// The median wall time.
    pub fn wall(&self) -> Duration {
        median(self.measures.iter().map(|measure| measure.wall).collect())
    }

    /// The median processor time.
    pub fn cpu(&self) -> Duration {
        median(self.measures.iter().map(|measure| measure.cpu).collect())
    }
}

/// The middle one; the later of the two for an even number.
///
/// # Panics
///
/// When there are none.
pub fn median(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values[values.len() / 2]
}

/// Measures all commands in turn, `rounds` times, so that what else the machine does hits all of them alike.
pub fn compare(rounds: usize, commands: &[(&str, &dyn Fn() -> Command)]) -> Vec<Row> {
    let mut rows: Vec<Row> =
        commands.iter().map(|(name, _)| Row { name: (*name).to_owned(), measures: Vec::new() }).collect();
    for round in 0..=rounds {
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

/// Prints rows as a Markdown table, each beside the first.
pub fn print(title: &str, rows: &[Row]) {
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
