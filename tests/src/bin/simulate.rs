//! Runs the simulated fleet over many seeds, or one seed with every step told; or shows that planted mistakes are found.

use std::collections::BTreeMap;
use std::panic;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use muster_tests::simulation::{Planted, SOMETIMES, simulate};

/// Simulates fleets: delayed, dropped, doubled and reordered messages, partitions, deaths, crashes with a torn ledger.
#[derive(Parser)]
struct Arguments {
    /// How many seeds, counted from --first.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this seed, with every step told.
    #[arg(long)]
    seed: Option<u64>,
    /// Plant each known mistake in turn and look for a seed that finds it. Needs the feature `planted-bugs`.
    #[arg(long)]
    planted: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // A broken promise is a panic that `simulate` turns into words; the default report of it would only repeat them.
    panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = arguments.seed {
        return tell(seed);
    }
    if arguments.planted {
        return planted(&arguments);
    }
    let start = Instant::now();
    let (failures, sometimes, steps) = search(&arguments, Planted::default(), u64::MAX);
    for (seed, broken) in &failures {
        println!("seed {seed}: {broken}");
        println!("hint: cargo run -p muster-tests --bin simulate -- --seed {seed}");
    }
    println!("| seen | times |\n|---|---:|");
    for (what, times) in &sometimes {
        println!("| {what} | {times} |");
    }
    let unseen: Vec<&str> = SOMETIMES.into_iter().filter(|what| !sometimes.contains_key(what)).collect();
    let is_blind = arguments.seeds >= 100 && !unseen.is_empty();
    if is_blind {
        println!("never seen, so nothing is known about it: {}", unseen.join(", "));
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{} seeds, {steps} steps, {} failed, {seconds:.1} s", arguments.seeds, failures.len());
    if failures.is_empty() && !is_blind { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(seed: u64) -> ExitCode {
    match simulate(seed, Planted::default(), true) {
        Ok(history) => {
            println!("seed {seed}: every promise kept in {} steps, trace {:016x}", history.steps, history.trace);
            ExitCode::SUCCESS
        }
        Err(broken) => {
            println!("seed {seed}: {broken}");
            ExitCode::FAILURE
        }
    }
}

type Found = (Vec<(u64, String)>, BTreeMap<&'static str, u64>, u64);

/// Runs the seeds on every core, until `enough` have failed.
fn search(arguments: &Arguments, planted: Planted, enough: u64) -> Found {
    let next = AtomicU64::new(arguments.first);
    let failed = AtomicU64::new(0);
    let found: Mutex<Found> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) < enough {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.first + arguments.seeds {
                        break;
                    }
                    let result = simulate(seed, planted, false);
                    let Ok(mut found) = found.lock() else { break };
                    match result {
                        Ok(history) => {
                            found.2 += history.steps;
                            for (what, times) in history.sometimes {
                                *found.1.entry(what).or_default() += times;
                            }
                        }
                        Err(broken) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            found.0.push((seed, broken));
                        }
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_default();
    found.0.sort();
    found
}

#[cfg(not(feature = "planted-bugs"))]
fn planted(_: &Arguments) -> ExitCode {
    eprintln!("error: no mistakes are compiled in");
    eprintln!("hint: cargo run -p muster-tests --features planted-bugs --bin simulate -- --planted");
    ExitCode::FAILURE
}

#[cfg(feature = "planted-bugs")]
fn planted(arguments: &Arguments) -> ExitCode {
    let scheduler = muster_scheduler::PlantedBug::ALL
        .iter()
        .map(|bug| (format!("scheduler: {bug:?}"), Planted { scheduler: Some(*bug), agent: None }));
    let agent = muster_agent_state::PlantedBug::ALL
        .iter()
        .map(|bug| (format!("agent: {bug:?}"), Planted { scheduler: None, agent: Some(*bug) }));
    let mut missed = 0;
    println!("| mistake | found by seed | as |\n|---|---:|---|");
    for (name, planted) in scheduler.chain(agent) {
        let (failures, ..) = search(arguments, planted, 1);
        match failures.first() {
            Some((seed, broken)) => println!("| {name} | {seed} | {} |", broken.lines().next().unwrap_or_default()),
            None => {
                missed += 1;
                println!("| {name} | not within {} | |", arguments.seeds);
            }
        }
    }
    println!("{missed} missed");
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
