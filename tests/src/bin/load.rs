//! Puts load on a server of the Remote Execution API and prints what came of it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use muster_tests::load::overload::overload;
use muster_tests::load::{Client, Load, Pace, Scenario, drive, echo};

/// Puts load on a server of the Remote Execution API.
#[derive(Parser)]
enum Arguments {
    /// Calls a server and prints throughput and latencies
    Run(Run),
    /// Serves the limit of this machine: the same messages, and nothing done with them
    Echo {
        /// Address and port to listen on
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Asks a coordinator for three times as much as it can do, and fails unless it does most of what it could (test T5.9)
    Overload {
        /// How long
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

/// The share of the peak that must be done under overload.
const GOODPUT_SHARE_MIN: f64 = 0.8;
/// How long it may take until a call is answered well again.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
struct Run {
    /// The server's HOST:PORT
    #[arg(long)]
    server: String,
    /// What is called
    #[arg(long, value_enum)]
    scenario: Name,
    /// Bytes of a streamed blob
    #[arg(long, default_value_t = 1 << 20)]
    size: u64,
    /// No call begins after so many seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// No more calls than this
    #[arg(long, default_value_t = 1000)]
    calls: u64,
    /// Tells the blobs of one run apart from those of another
    #[arg(long, default_value_t = 0)]
    run: u64,
    #[command(subcommand)]
    pace: Beat,
}

#[derive(Subcommand)]
enum Beat {
    /// So many callers, each of which waits for its answer: finds the throughput
    Closed {
        /// Callers
        #[arg(default_value_t = 8)]
        callers: usize,
    },
    /// So many calls per second, whatever the server does: finds honest latencies
    Open {
        /// Calls per second
        per_second: f64,
        /// Calls under way at most
        #[arg(long, default_value_t = 1024)]
        under_way: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    FindMissing,
    BatchUpdate,
    BatchRead,
    Write,
    Read,
    GetActionResult,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse() {
        Arguments::Echo { listen } => echo::serve(listen).await,
        Arguments::Run(run) => call(run).await,
        Arguments::Overload { seconds } => {
            let result = overload(&std::env::temp_dir(), Duration::from_secs(seconds)).await;
            let share = result.goodput_share();
            println!("peak: {:?}\noverload: {:?}\nafter: {:?}", result.peak, result.overload, result.after);
            println!(
                "goodput: {share:.2} of the peak; recovery: {:?}; {} MiB more",
                result.recovery,
                result.more_memory >> 20
            );
            if result.refuses_well() && share >= GOODPUT_SHARE_MIN && result.recovery <= RECOVERY_MAX {
                Ok(())
            } else {
                Err("the coordinator does not stand the overload".into())
            }
        }
    }
}

async fn call(run: Run) -> Result<(), Box<dyn std::error::Error>> {
    let scenario = match run.scenario {
        Name::FindMissing => Scenario::FindMissing,
        Name::BatchUpdate => Scenario::BatchUpdate,
        Name::BatchRead => Scenario::BatchRead,
        Name::Write => Scenario::Write(run.size),
        Name::Read => Scenario::Read(run.size),
        Name::GetActionResult => Scenario::GetActionResult,
    };
    let client = Client::connect(&run.server).await?;
    let prepared = scenario.prepare(&client, run.run, run.calls).await?;
    let pace = match run.pace {
        Beat::Closed { callers } => Pace::Closed { callers },
        Beat::Open { per_second, under_way } => Pace::Open { per_second, under_way_max: under_way, seed: run.run },
    };
    let calls_max = prepared.calls_max.min(run.calls);
    let tally = drive(prepared.caller, Load { pace, time: Duration::from_secs_f64(run.seconds), calls_max }).await;
    println!("{scenario}: {tally:?}");
    let items = tally.succeeded * scenario.items_per_call();
    let each = tally.elapsed.as_secs_f64() / items.max(1) as f64;
    println!(
        "{items} items, {:.3} µs each; {:.1} MiB/s",
        each * 1e6,
        tally.bytes as f64 / tally.elapsed.as_secs_f64() / 1048576.0
    );
    Ok(())
}
