//! Measures actions that do nothing, on a real coordinator and real agents: how many per second, and how long each waits for its start.
//!
//! `actions [--agents N] [--slots N] [--count N] [--parallel N] [--sleep SECONDS]` prints one line. The wait is from the moment at which an
//! action was queued to the start of its worker, as `ExecutedActionMetadata` says: by the coordinator's clock alone, with the way of the report
//! counted as waiting.

use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use muster_tests::programs::{Fleet, Place};
use muster_tests::remote::{Remote, Script};

#[derive(Debug, Parser)]
struct Arguments {
    /// Agents
    #[arg(long, default_value = "1")]
    agents: usize,
    /// Slots of each
    #[arg(long, default_value = "2")]
    slots: u32,
    /// Actions
    #[arg(long, default_value = "200")]
    count: usize,
    /// Requests at one time; 1 measures the wait of an action that finds a free slot
    #[arg(long, default_value = "1")]
    parallel: usize,
    /// What each action sleeps for
    #[arg(long, default_value = "0")]
    sleep: f64,
}

fn micros(from: &prost_types::Timestamp, to: &prost_types::Timestamp) -> u64 {
    let nanos = (to.seconds - from.seconds) * 1_000_000_000 + i64::from(to.nanos - from.nanos);
    u64::try_from(nanos / 1000).unwrap_or(0)
}

async fn measure(remote: Remote, arguments: &Arguments) -> (Histogram<u64>, Histogram<u64>, Duration) {
    let mut script = Script::new(&format!("sleep {}", arguments.sleep));
    if arguments.sleep == 0.0 {
        script.command.arguments = vec!["/bin/true".into()];
    }
    let mut actions = Vec::new();
    for number in 0..arguments.count + 1 {
        actions.push(remote.prepare(&script.clone().salt(number.to_string())).await);
    }
    // The first one warms the agent's store and the ledger's block of epochs.
    remote.execute(&actions[0]).await;
    let began = Instant::now();
    let (next, actions) = (std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(1)), std::sync::Arc::new(actions));
    let clients = (0..arguments.parallel).map(|_| {
        let (remote, next, actions) = (remote.clone(), next.clone(), actions.clone());
        tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let Some(action) = actions.get(number) else { return times };
                let asked = Instant::now();
                let executed = remote.execute(action).await;
                let metadata = executed.result().execution_metadata.clone().unwrap_or_default();
                let queued = metadata.queued_timestamp.unwrap_or_default();
                let started = metadata.worker_start_timestamp.unwrap_or_default();
                times.push((micros(&queued, &started), u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX)));
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    let new = || Histogram::<u64>::new(3).expect("three digits");
    let (mut waits, mut totals) = (new(), new());
    for client in clients {
        for (wait, total) in client.await.expect("no panic") {
            waits.record(wait).expect("it grows");
            totals.record(total).expect("it grows");
        }
    }
    (waits, totals, began.elapsed())
}

fn main() {
    let arguments = Arguments::parse();
    let place = Place::empty();
    let mut fleet = Fleet::start(&place, 0);
    let slots = arguments.slots.to_string();
    for _ in 0..arguments.agents {
        fleet.start_agent(&["--slots", &slots]);
    }
    muster_tests::programs::eventually("the agents are connected", || {
        fleet.status(&place)["agents"].as_array().is_some_and(|list| list.len() == arguments.agents)
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (waits, totals, wall) = runtime.block_on(async {
        let remote = Remote::connect(&fleet.url()).await;
        measure(remote, &arguments).await
    });
    let milliseconds = |micros: u64| micros as f64 / 1000.0;
    println!(
        "{} agents of {} slots, {} at one time: {:.0} actions/s; queue to start p50 {:.2} ms, p99 {:.2} ms; request to answer p50 {:.2} ms, p99 {:.2} ms",
        arguments.agents,
        arguments.slots,
        arguments.parallel,
        arguments.count as f64 / wall.as_secs_f64(),
        milliseconds(waits.value_at_quantile(0.5)),
        milliseconds(waits.value_at_quantile(0.99)),
        milliseconds(totals.value_at_quantile(0.5)),
        milliseconds(totals.value_at_quantile(0.99)),
    );
}
