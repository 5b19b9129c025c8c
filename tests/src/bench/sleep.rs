//! Figure 4: a fleet of agent processes on one machine: how near it comes to the ideal, and what killed agents cost.

use std::fmt::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Bench, goal, median};
use crate::programs::{Fleet, Place, TestRun, start_until};
use crate::seed::Random;

const CASES: usize = 1000;
const AGENTS: usize = 25;
const KILLED: usize = 5;

/// One way to run the cases, and how long each round of it took.
struct Way {
    name: String,
    goal: Option<f64>,
    walls: Vec<Duration>,
}

impl Bench {
    /// Cases that sleep from 0.5 to 1.5 s on agent processes of one slot each: without history, with it, and with agents killed at random moments.
    ///
    /// # Panics
    ///
    /// When a run does not pass or a case is not reported exactly once.
    pub fn sleeping_cases(&self) {
        let mut ways = [
            Way { name: "first run, no history".into(), goal: Some(41.5), walls: Vec::new() },
            Way { name: "second run, history known".into(), goal: Some(41.5), walls: Vec::new() },
            Way { name: format!("{KILLED} agents killed"), goal: Some(46.0), walls: Vec::new() },
        ];
        let mut ideal = 0.0;
        let mut ideal_of_killed = Vec::new();
        for round in 0..self.rounds {
            let place = Place::of("workspace");
            if round == 0 {
                // One agent identifies the base, which takes seconds the first time, and the others remember it.
                drop(Fleet::start(&place, 1));
            }
            ideal = write_sleepers(&place).as_secs_f64() / AGENTS as f64;
            for (number, way) in ways.iter_mut().enumerate() {
                // History is in the coordinator's ledger, which lies beside the project: the fleets of one place share it.
                let mut fleet = Fleet::start(&place, AGENTS);
                let command = place.muster(["test", "--format", "json", "--no-cache", "--fleet", &fleet.url()]);
                let run = if number < 2 {
                    TestRun::read(&{ command }.output().expect("muster starts"))
                } else {
                    let (run, left) = killing(command, &mut fleet, Duration::from_secs_f64(ideal), round as u64);
                    ideal_of_killed.push(left);
                    run
                };
                assert_eq!(run.code, Some(0), "{}\n{}", run.errors, fleet.logs());
                run.assert_complete();
                assert_eq!(run.count("planned"), CASES as u64, "every case was planned");
                way.walls.push(Duration::from_millis(run.count("wall_ms")));
            }
        }
        println!("\n### {CASES} cases that sleep from 0.5 to 1.5 s, on {AGENTS} agent processes\n");
        println!("| | wall, median | least | most | of the ideal |\n|---|---:|---:|---:|---:|");
        println!("| ideal: all sleep divided by the agents | {ideal:.2} s | | | 1.000 |");
        let left = median(ideal_of_killed).as_secs_f64();
        println!(
            "| ideal with {KILLED} killed: what was slept before and after by the agents that were there | {left:.2} s | | | {:.3} |",
            left / ideal
        );
        for way in &ways {
            let wall = median(way.walls.clone()).as_secs_f64();
            let (least, most) = (way.walls.iter().min(), way.walls.iter().max());
            let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
            let name = &way.name;
            println!(
                "| {name} | {wall:.2} s | {:.2} s | {:.2} s | {:.3} |",
                seconds(least),
                seconds(most),
                wall / ideal
            );
        }
        println!("\nEvery case of every run was reported exactly once.");
        for way in &ways {
            let wall = median(way.walls.clone()).as_secs_f64();
            if let Some(most) = way.goal {
                goal(&format!("{}: at most {most:.1} s", way.name), &format!("{wall:.2} s"), wall <= most);
            }
        }
    }
}

/// Kills agents at moments drawn evenly from the length that the run would have without that. Returns the run, and how long it would
/// have taken if no sleep had been lost, no loss had to be noticed, and the rest had been divided evenly.
fn killing(command: Command, fleet: &mut Fleet, ideal: Duration, seed: u64) -> (TestRun, Duration) {
    let mut numbers = Random::new(seed + 4);
    let mut moments =
        (0..KILLED).map(|_| ideal.mul_f64((numbers.draw() % 10_000) as f64 / 10_000.0)).collect::<Vec<_>>();
    moments.sort();
    let running = start_until(command, |event| event["event"] == "case_started");
    let started = Instant::now();
    for moment in &moments {
        std::thread::sleep(moment.saturating_sub(started.elapsed()));
        let victim = (numbers.draw() % fleet.agents.len() as u64) as usize;
        drop(fleet.agents.remove(victim));
    }
    let before = moments.iter().sum::<Duration>();
    let left = (ideal * AGENTS as u32).saturating_sub(before) / (AGENTS - KILLED) as u32;
    (running.finish(), left)
}

fn write_sleepers(place: &Place) -> Duration {
    let mut numbers = Random::new(1);
    let mut source = String::new();
    let mut total = Duration::ZERO;
    for case in 0..CASES {
        let milliseconds = 500 + numbers.draw() % 1001;
        total += Duration::from_millis(milliseconds);
        writeln!(
            source,
            "#[test]\nfn sleeps_{case}() {{ std::thread::sleep(std::time::Duration::from_millis({milliseconds})); }}"
        )
        .expect("writing to a text");
    }
    place.write("alpha/src/lib.rs", &source);
    place.write("beta/src/lib.rs", "");
    total
}
