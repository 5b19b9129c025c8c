//! Figure 1 of the cache: every question of a client, beside the echo, BuildGrid and a plain copy of the same bytes, in the same run.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::median;
use crate::clients::prepared;
use crate::load::servers::{Kind, Server};
use crate::load::{Load, Pace, Scenario, Tally, drive};

const MEBIBYTE: u64 = 1 << 20;
const GIBIBYTE: u64 = 1 << 30;
/// No call of one measure begins after this.
const TIME: Duration = Duration::from_secs(2);
/// Share of the throughput of the closed loop at which the open loop calls: below saturation, where latencies mean something.
const OPEN_SHARE: f64 = 0.5;
/// Calls of an open loop that are under way at most.
const UNDER_WAY_MAX: usize = 256;

/// What is measured of one scenario.
#[derive(Clone, Copy)]
struct Case {
    scenario: Scenario,
    callers: usize,
    /// Calls of one measure at most: their blobs are made before.
    calls: u64,
    /// Too long for an open loop: latencies are those of the closed one.
    is_long: bool,
}

const fn short(scenario: Scenario, callers: usize, calls: u64) -> Case {
    Case { scenario, callers, calls, is_long: false }
}

const fn long(scenario: Scenario, callers: usize) -> Case {
    Case { scenario, callers, calls: callers as u64, is_long: true }
}

const CASES: [Case; 14] = [
    short(Scenario::FindMissing, 4, 4000),
    short(Scenario::BatchUpdate, 4, 256),
    short(Scenario::BatchRead, 4, 4000),
    short(Scenario::GetActionResult, 8, 40_000),
    short(Scenario::Write(MEBIBYTE), 1, 512),
    short(Scenario::Write(MEBIBYTE), 8, 512),
    short(Scenario::Read(MEBIBYTE), 1, 2000),
    short(Scenario::Read(MEBIBYTE), 8, 2000),
    long(Scenario::Write(GIBIBYTE), 1),
    long(Scenario::Write(GIBIBYTE), 8),
    long(Scenario::Read(GIBIBYTE), 1),
    long(Scenario::Read(GIBIBYTE), 8),
    long(Scenario::ReadBlake3(GIBIBYTE), 1),
    long(Scenario::ReadBlake3(GIBIBYTE), 8),
];

/// One measure of one server.
#[derive(Clone, Debug, Default)]
struct Sample {
    per_second: f64,
    bytes_per_second: f64,
    p50: Duration,
    p99: Duration,
    cpu_per_call: Duration,
    more_memory: u64,
}

/// Everything that was measured of one server in one case.
struct Row {
    name: &'static str,
    samples: Vec<Sample>,
    /// Why it was not measured.
    refused: Option<String>,
}

/// Prints the table of every case.
///
/// # Panics
///
/// When a server does not come up, or Muster or the echo do not answer.
pub(super) fn figures(place: &Path, rounds: usize) {
    let kinds = [Kind::Muster, Kind::Echo, Kind::BuildGrid(prepared("bgd"))];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let new_rows = |_| kinds.iter().map(|kind| Row { name: kind.name(), samples: Vec::new(), refused: None }).collect();
    let mut tables: Vec<Vec<Row>> = (0..CASES.len()).map(new_rows).collect();
    let mut copies: Vec<Vec<Duration>> = vec![Vec::new(); CASES.len()];
    for round in 0..rounds as u64 {
        runtime.block_on(async {
            // Fresh ones in each round, so that none of them runs out of room.
            let mut servers = Vec::new();
            for kind in &kinds {
                servers.push(Server::start(kind, place).await);
            }
            for (number, case) in CASES.iter().enumerate() {
                for (row, server) in tables[number].iter_mut().zip(&servers) {
                    match measure(case, server, round * 1000 + number as u64).await {
                        Ok(sample) => row.samples.push(sample),
                        Err(why) => row.refused = Some(why),
                    }
                }
                copies[number].extend(copied_bytes(case).map(|bytes| copy(place, bytes)));
            }
        });
    }
    for ((case, rows), copies) in CASES.iter().zip(&tables).zip(copies) {
        print(case, rows, copies);
    }
}

async fn measure(case: &Case, server: &Server, run: u64) -> Result<Sample, String> {
    let client = server.connect().await;
    let closed = Load { pace: Pace::Closed { callers: case.callers }, time: TIME, calls_max: case.calls };
    let prepared = case.scenario.prepare(&client, 2 * run, case.calls).await.map_err(|status| status.to_string())?;
    server.reset_peak();
    let before = server.figures();
    let tally = drive(prepared.caller, closed).await;
    let after = server.figures();
    check(&tally)?;
    let mut sample = Sample {
        per_second: tally.per_second(),
        bytes_per_second: tally.bytes as f64 / tally.elapsed.as_secs_f64(),
        p50: tally.percentile(50.0),
        p99: tally.percentile(99.0),
        cpu_per_call: (after.cpu - before.cpu).div_f64(tally.succeeded as f64),
        more_memory: after.peak_bytes.saturating_sub(before.peak_bytes),
    };
    if !case.is_long {
        let again =
            case.scenario.prepare(&client, 2 * run + 1, case.calls).await.map_err(|status| status.to_string())?;
        let pace = Pace::Open { per_second: sample.per_second * OPEN_SHARE, under_way_max: UNDER_WAY_MAX, seed: run };
        let tally = drive(again.caller, Load { pace, time: TIME, calls_max: case.calls }).await;
        check(&tally)?;
        (sample.p50, sample.p99) = (tally.percentile(50.0), tally.percentile(99.0));
    }
    Ok(sample)
}

/// A figure of a server that answers wrongly says nothing.
fn check(tally: &Tally) -> Result<(), String> {
    match tally.failures.values().next() {
        Some(status) => Err(format!("{} of {} calls failed: {status}", tally.failed_in_all(), tally.succeeded)),
        None if tally.succeeded == 0 => Err("no call ended".to_owned()),
        None => Ok(()),
    }
}

/// The bytes of one call that a plain copy can be set against.
fn copied_bytes(case: &Case) -> Option<u64> {
    match case.scenario {
        Scenario::Write(bytes) | Scenario::Read(bytes) | Scenario::ReadBlake3(bytes) => Some(bytes),
        Scenario::BatchUpdate | Scenario::BatchRead => {
            Some(crate::load::scenario::BLOBS_PER_BATCH * crate::load::scenario::SMALL_BLOB_BYTES)
        }
        Scenario::FindMissing | Scenario::GetActionResult => None,
    }
}

/// Copies a file through memory and puts the copy in its place, as durable as a blob in the cache: whole after the death of the process, perhaps
/// gone after a power loss.
fn copy(place: &Path, bytes: u64) -> Duration {
    let folder = tempfile::tempdir_in(place).expect("a temporary directory");
    let source = folder.path().join("source");
    let blob = crate::load::blobs::Generated::new(muster_model::DigestFunction::Blake3, 0, bytes);
    let mut file = std::fs::File::create(&source).expect("a file");
    blob.messages().for_each(|message| file.write_all(&message).expect("is written"));
    let start = Instant::now();
    let mut source = std::fs::File::open(&source).expect("is there");
    let partial = folder.path().join("partial");
    let mut copy = std::fs::File::create(&partial).expect("a file");
    let mut buffer = vec![0; crate::load::blobs::MESSAGE_BYTES];
    loop {
        match source.read(&mut buffer).expect("is read") {
            0 => break,
            count => copy.write_all(&buffer[..count]).expect("is written"),
        }
    }
    std::fs::rename(&partial, folder.path().join("copy")).expect("is put in its place");
    start.elapsed()
}

fn print(case: &Case, rows: &[Row], copies: Vec<Duration>) {
    let callers = if case.callers == 1 { "one caller".to_owned() } else { format!("{} callers", case.callers) };
    println!("\n### {}, {callers}\n", case.scenario);
    let latency = if case.is_long { "closed loop" } else { "open loop at half of the throughput" };
    println!(
        "| | calls/s, median | MiB/s | µs per item | p50, {latency} | p99 | server CPU per call | more memory at the peak | Muster is faster by |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    let muster = rows.first().map_or(0.0, |row| middle(row, |sample| sample.per_second));
    for row in rows {
        if let Some(why) = &row.refused {
            println!("| {} | not measured: {why} | | | | | | | |", row.name);
            continue;
        }
        let per_second = middle(row, |sample| sample.per_second);
        println!(
            "| {} | {per_second:.1} | {:.1} | {:.2} | {} | {} | {} | {:.1} MiB | {:.2} |",
            row.name,
            middle(row, |sample| sample.bytes_per_second) / MEBIBYTE as f64,
            1e6 / (per_second * case.scenario.items_per_call() as f64),
            milliseconds(median(row.samples.iter().map(|sample| sample.p50).collect())),
            milliseconds(median(row.samples.iter().map(|sample| sample.p99).collect())),
            milliseconds(median(row.samples.iter().map(|sample| sample.cpu_per_call).collect())),
            row.samples.iter().map(|sample| sample.more_memory).max().unwrap_or_default() as f64 / MEBIBYTE as f64,
            muster / per_second,
        );
    }
    if let Some(bytes) = copied_bytes(case) {
        let per_second = 1.0 / median(copies).as_secs_f64();
        let mebibytes = per_second * bytes as f64 / MEBIBYTE as f64;
        let per_item = 1e6 / (per_second * case.scenario.items_per_call() as f64);
        println!(
            "| file copy, one thread | {per_second:.1} | {mebibytes:.1} | {per_item:.2} | | | | | {:.2} |",
            muster / per_second
        );
    }
}

fn middle(row: &Row, value: impl Fn(&Sample) -> f64) -> f64 {
    let mut values: Vec<f64> = row.samples.iter().map(value).collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}
