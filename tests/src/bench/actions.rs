//! Figures 2 and 5 of remote execution: what an action costs that does nothing, and whether more agents ever slow a build down.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::median;
use crate::load::actions::Actions;
use crate::load::{Client, Load, Pace, Tally, drive};
use crate::programs::{Fleet, Place, eventually};

/// Actions of one measure that do nothing.
const NOOP_ACTIONS: u64 = 400;
/// Callers that keep the queue from running dry.
const NOOP_CALLERS: usize = 8;
/// Actions that sleep.
const SLEEPERS: u64 = 48;
const SLEEP: Duration = Duration::from_millis(200);
/// Calls that may wait at one time: all of a build's.
const SLEEPERS_AT_ONCE: usize = SLEEPERS as usize;

/// Prints actions per second and the time from queue to start, on one agent of two slots.
///
/// # Panics
///
/// When an action is not executed.
pub(super) fn nothing(rounds: usize) {
    let place = Place::empty();
    let mut fleet = Fleet::start(&place, 0);
    fleet.start_agent(&["--slots", "2"]);
    wait_for_agents(&fleet, &place, 1);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("\n### Actions that do nothing (`/bin/true`), one agent of two slots\n");
    println!(
        "| | actions/s, median | queue to start, p50, median | queue to start, p99, median | Execute to answer, p50, median |"
    );
    println!("|---|---:|---:|---:|---:|");
    for (name, callers) in [("one after another", 1), ("8 at a time", NOOP_CALLERS)] {
        let measures: Vec<Measure> = (0..=rounds as u64)
            .map(|round| runtime.block_on(measure(&fleet, &["/bin/true"], round, NOOP_ACTIONS, callers)))
            .collect();
        // The first one only warms.
        let measures = &measures[1..];
        let per_second =
            median(measures.iter().map(|measure| Duration::from_secs_f64(1.0 / measure.tally.per_second())).collect());
        println!(
            "| {name} | {:.1} | {:.2} ms | {:.2} ms | {:.2} ms |",
            1.0 / per_second.as_secs_f64(),
            milliseconds(measures.iter().map(|measure| measure.queued(50)).collect()),
            milliseconds(measures.iter().map(|measure| measure.queued(99)).collect()),
            milliseconds(measures.iter().map(|measure| measure.tally.percentile(50.0)).collect()),
        );
    }
}

/// Prints how long the same sleeping actions take on 1, 2, 4 and 8 agents of one slot.
///
/// # Panics
///
/// When an action is not executed.
pub(super) fn sleeping(rounds: usize) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let total = SLEEP * SLEEPERS as u32;
    println!("\n### {SLEEPERS} actions that sleep for {} ms\n", SLEEP.as_millis());
    println!("| agents | wall, median | ideal | wall / ideal | faster than one agent by |");
    println!("|---:|---:|---:|---:|---:|");
    let mut one_agent = None;
    for agents in [1_u32, 2, 4, 8] {
        let place = Place::empty();
        let fleet = Fleet::start(&place, agents as usize);
        let seconds = SLEEP.as_secs_f64().to_string();
        let measure =
            |round| runtime.block_on(measure(&fleet, &["/bin/sleep", &seconds], round, SLEEPERS, SLEEPERS_AT_ONCE));
        let walls = (0..=rounds as u64).map(measure).skip(1).map(|measure| measure.tally.elapsed).collect();
        let (wall, ideal) = (median(walls), total / agents);
        let first = *one_agent.get_or_insert(wall);
        println!(
            "| {agents} | {:.2} s | {:.2} s | {:.2} | {:.2} |",
            wall.as_secs_f64(),
            ideal.as_secs_f64(),
            wall.as_secs_f64() / ideal.as_secs_f64(),
            first.as_secs_f64() / wall.as_secs_f64()
        );
    }
}

fn wait_for_agents(fleet: &Fleet, place: &Place, agents: usize) {
    eventually("the agents are connected", || {
        fleet.status(place)["agents"].as_array().is_some_and(|list| list.len() == agents)
    });
}

/// What one round came to.
struct Measure {
    tally: Tally,
    /// From queue to start, sorted.
    queued: Vec<Duration>,
}

impl Measure {
    fn queued(&self, percent: usize) -> Duration {
        self.queued[(self.queued.len() - 1) * percent / 100]
    }
}

async fn measure(fleet: &Fleet, arguments: &[&str], round: u64, count: u64, callers: usize) -> Measure {
    let client = Client::connect(&fleet.address).await.expect("the coordinator answers");
    let actions = Actions::new(client, arguments).await.expect("the command is stored");
    let first = (round * 2 + u64::from(callers > 1)) * count;
    let digests = Arc::new(actions.upload(first..first + count).await.expect("the actions are stored"));
    let queued = Arc::new(Mutex::new(Vec::new()));
    let noted = queued.clone();
    let caller: crate::load::pace::Caller = Arc::new(move |number| {
        let (actions, action, noted) = (actions.clone(), digests[number as usize].clone(), noted.clone());
        Box::pin(async move {
            let spent = actions.execute(action).await?;
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(spent.queued);
            Ok(0)
        })
    });
    let load = Load { pace: Pace::Closed { callers }, time: Duration::from_secs(600), calls_max: count };
    let tally = drive(caller, load).await;
    assert_eq!(tally.succeeded, count, "{tally:?}\n{}", fleet.logs());
    let mut queued = std::mem::take(&mut *queued.lock().unwrap_or_else(PoisonError::into_inner));
    queued.sort_unstable();
    Measure { tally, queued }
}

fn milliseconds(times: Vec<Duration>) -> f64 {
    median(times).as_secs_f64() * 1e3
}
