//! A fleet of agent processes on one machine: how near it comes to the ideal, and what killed agents cost.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::programs::{Fleet, Place, TestRun, start_until};
use crate::seed::Random;

/// Figure 4: `cases` cases that sleep from 0.5 to 1.5 s, on `agents` agent processes of one slot; then again with `kills` of them killed at random
/// moments.
///
/// # Panics
///
/// When a run does not pass or a case is not reported exactly once.
pub fn sleeping_cases(cases: usize, agents: usize, kills: usize) {
    let place = Place::of("workspace");
    let total = write_sleepers(&place, cases);
    let ideal = total.as_secs_f64() / agents as f64;
    println!("\n### {cases} cases that sleep from 0.5 to 1.5 s, on {agents} agent processes\n");
    println!("| | wall | reported | |\n|---|---:|---:|---|");
    println!("| ideal: all sleep divided by the agents | {ideal:.2} s | | |");
    for (name, kills) in [("first run, no history", 0), ("second run, history known", 0), ("agents killed", kills)] {
        // History is in the coordinator's ledger, which lies beside the project: fleets of one place share it.
        let mut fleet = Fleet::start(&place, agents);
        let started = Instant::now();
        let command = test(&place, &fleet);
        let run = if kills == 0 {
            TestRun::read(&{ command }.output().expect("muster starts"))
        } else {
            killing(command, &mut fleet, kills)
        };
        assert_eq!(run.code, Some(0), "{}\n{}", run.errors, fleet.logs());
        run.assert_complete();
        let wall = run.count("wall_ms") as f64 / 1000.0;
        println!(
            "| {name}{} | {wall:.2} s | {} of {} once | {:.2} of the ideal; {:.2} s with the client |",
            if kills > 0 { format!(": {kills}") } else { String::new() },
            run.count("planned"),
            run.count("planned"),
            wall / ideal,
            started.elapsed().as_secs_f64()
        );
    }
}

fn test(place: &Place, fleet: &Fleet) -> Command {
    place.muster(["test", "--format", "json", "--no-cache", "--fleet", &fleet.url()])
}

fn killing(command: Command, fleet: &mut Fleet, kills: usize) -> TestRun {
    let running = start_until(command, |event| event["event"] == "case_finished");
    let mut numbers = Random::new(4);
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(1000 + numbers.draw() % 5000));
        let victim = (numbers.draw() % fleet.agents.len() as u64) as usize;
        drop(fleet.agents.remove(victim));
    }
    running.finish()
}

fn write_sleepers(place: &Place, cases: usize) -> Duration {
    let mut numbers = Random::new(1);
    let mut source = String::new();
    let mut total = Duration::ZERO;
    for case in 0..cases {
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
    assert!(Path::new(&place.project()).exists());
    total
}
