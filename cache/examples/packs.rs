//! Measures where the border between packs and files should be: blobs of each size once in packs and once in files, with the same durability;
//! `scripts/bench packs` runs it.
//!
//! Arguments: the directory to work in, and how often each row is measured (3).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use muster_cache::{Blob, DiskConfig, DiskStore};
use muster_model::Digest;

/// Bytes of blobs of one row, as far as the bounds of their number allow.
const ROW_BYTES: usize = 24 * 1024 * 1024;
const BLOBS_MIN: usize = 32;
const BLOBS_MAX: usize = 512;
const SIZES: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
/// Blobs that are stored at one time.
const AT_ONE_TIME: usize = 16;

type Failure = Box<dyn std::error::Error>;

/// What one row took.
#[derive(Clone, Copy, Debug)]
struct Figures {
    write: Duration,
    read: Duration,
    evict: Duration,
    disk_bytes: u64,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let place = PathBuf::from(arguments.next().ok_or("usage: packs DIRECTORY [ROUNDS]")?).join("packs");
    let rounds = arguments.next().map_or(Ok(3), |rounds| rounds.parse())?;
    let runtime = tokio::runtime::Runtime::new()?;
    println!("### Blobs in packs and in files of their own\n");
    println!("| size | blobs | write, pack | file | read, pack | file | evict, pack | file | space, pack | file |");
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for size in SIZES.map(|kibibytes| kibibytes * 1024) {
        let count = (ROW_BYTES / size).clamp(BLOBS_MIN, BLOBS_MAX);
        let (mut packs, mut files) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let blobs: Vec<Bytes> = (0..count).map(|number| content(size, number, round)).collect();
            // By turns, so that what else the machine does meets both.
            packs.push(runtime.block_on(measure(&place, &blobs, size as u64))?);
            files.push(runtime.block_on(measure(&place, &blobs, 0))?);
        }
        print_row(size, count, &packs, &files);
    }
    Ok(std::fs::remove_dir_all(&place)?)
}

fn print_row(size: usize, count: usize, packs: &[Figures], files: &[Figures]) {
    let micros = |all: &[Figures], figure: fn(&Figures) -> Duration| {
        median(all.iter().map(figure)).as_secs_f64() * 1e6 / count as f64
    };
    let both = |figure| format!("{:.0} µs | {:.0} µs", micros(packs, figure), micros(files, figure));
    let space = |all: &[Figures]| all[0].disk_bytes as f64 / (size * count) as f64;
    let (write, read, evict) = (both(|all| all.write), both(|all| all.read), both(|all| all.evict));
    let (packed, filed) = (space(packs), space(files));
    println!("| {} KiB | {count} | {write} | {read} | {evict} | {packed:.2} | {filed:.2} |", size / 1024);
}

/// Bytes that are like no others'.
fn content(size: usize, number: usize, round: usize) -> Bytes {
    let mut bytes = vec![0; size];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes()).update(&round.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn median(durations: impl Iterator<Item = Duration>) -> Duration {
    let mut sorted: Vec<Duration> = durations.collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

async fn measure(place: &Path, blobs: &[Bytes], packed_bytes_max: u64) -> Result<Figures, Failure> {
    drop(std::fs::remove_dir_all(place));
    std::fs::create_dir_all(place)?;
    let config = DiskConfig { packed_bytes_max, lease_time: Duration::ZERO, ..DiskConfig::new(place) };
    let digests: Vec<Digest> = blobs.iter().map(|bytes| Digest::of(bytes)).collect();
    let store = DiskStore::open(config.clone())?;
    let started = Instant::now();
    let puts = blobs.iter().zip(&digests).map(|(bytes, digest)| {
        let store = Arc::clone(&store);
        async move { store.put_blob(digest, Blob::from_bytes(bytes.clone())).await }
    });
    stream::iter(puts).buffer_unordered(AT_ONE_TIME).try_collect::<()>().await?;
    // A store that is closed has everything where power loss does not reach it.
    drop(store);
    let write = started.elapsed();
    let disk_bytes = disk_bytes(place)?;

    let store = DiskStore::open(config)?;
    let started = Instant::now();
    // Seldom in the order in which they came.
    for number in 0..blobs.len() {
        let digest = &digests[number * 7919 % digests.len()];
        store.get_blob(digest).await?.into_bytes(digest.size_bytes).await?;
    }
    let read = started.elapsed();
    // Every second one was used later than the rest, so that every pack has to be rewritten: the most that an eviction costs.
    for digest in digests.iter().step_by(2) {
        store.get_blob(digest).await?;
    }
    let full = store.stats().await?.charged_bytes;
    let started = Instant::now();
    store.collect(muster_cache::CollectGoal::size(full / 2)).await?;
    drop(store);
    Ok(Figures { write, read, evict: started.elapsed(), disk_bytes })
}

/// What a folder takes on its disk.
fn disk_bytes(folder: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += disk_bytes(&entry.path())?;
        }
    }
    Ok(bytes)
}
