//! What is called: one scenario for each question that a client asks a cache.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use muster_model::DigestFunction;
use muster_proto::reapi;
use tonic::Status;

use super::blobs::{Generated, digest_of};
use super::client::Client;
use super::pace::{Caller, Load, Pace, drive};

/// Digests in one question for missing blobs.
pub const DIGESTS_PER_QUESTION: usize = 10_000;
/// Blobs of one batch.
pub const BLOBS_PER_BATCH: u64 = 256;
/// Bytes of one blob of a batch.
pub const SMALL_BLOB_BYTES: u64 = 4096;
/// Blobs that are read again and again in batches.
const SMALL_BLOBS_STORED: u64 = 4096;
/// Results that are asked for again and again.
const RESULTS_STORED: u64 = 256;
/// Callers that put in what a scenario needs beforehand.
const PREPARING_CALLERS: usize = 4;
/// Large enough to tell the blobs of one run apart from those of the next.
const NUMBERS_PER_RUN: u64 = 1 << 32;

/// A kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// FindMissingBlobs with [`DIGESTS_PER_QUESTION`] digests, of which every second one is there.
    FindMissing,
    /// BatchUpdateBlobs with [`BLOBS_PER_BATCH`] new blobs of [`SMALL_BLOB_BYTES`].
    BatchUpdate,
    /// BatchReadBlobs with as many.
    BatchRead,
    /// ByteStream.Write of a new blob of this many bytes.
    Write(u64),
    /// ByteStream.Read of a blob of this many bytes, under SHA-256 as all others.
    Read(u64),
    /// The same under BLAKE3.
    ReadBlake3(u64),
    /// GetActionResult of a result with two output files that are there.
    GetActionResult,
}

impl fmt::Display for Scenario {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FindMissing => write!(formatter, "FindMissingBlobs, {DIGESTS_PER_QUESTION} digests"),
            Self::BatchUpdate => write!(formatter, "BatchUpdateBlobs, {BLOBS_PER_BATCH} × {SMALL_BLOB_BYTES} B"),
            Self::BatchRead => write!(formatter, "BatchReadBlobs, {BLOBS_PER_BATCH} × {SMALL_BLOB_BYTES} B"),
            Self::Write(bytes) => write!(formatter, "ByteStream.Write, {}", Size(*bytes)),
            Self::Read(bytes) => write!(formatter, "ByteStream.Read, {}", Size(*bytes)),
            Self::ReadBlake3(bytes) => write!(formatter, "ByteStream.Read, {}, BLAKE3", Size(*bytes)),
            Self::GetActionResult => formatter.write_str("GetActionResult"),
        }
    }
}

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(formatter, "{} GiB", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(formatter, "{} MiB", bytes >> 20),
            bytes => write!(formatter, "{bytes} B"),
        }
    }
}

/// A scenario whose blobs are in place or made.
#[derive(Clone)]
pub struct Prepared {
    /// Makes its calls.
    pub caller: Caller,
    /// No more calls than this can be made, because each needs blobs of its own.
    pub calls_max: u64,
}

impl Scenario {
    /// Things that one call is about, to count costs by: digests, blobs, results.
    pub fn items_per_call(self) -> u64 {
        match self {
            Self::FindMissing => DIGESTS_PER_QUESTION as u64,
            Self::BatchUpdate | Self::BatchRead => BLOBS_PER_BATCH,
            Self::Write(_) | Self::Read(_) | Self::ReadBlake3(_) | Self::GetActionResult => 1,
        }
    }

    /// Puts in what is read, and makes what is written, for at most `calls` calls. Runs of different numbers write different blobs.
    ///
    /// # Errors
    ///
    /// What the server answers.
    pub async fn prepare(self, client: &Client, run: u64, calls: u64) -> Result<Prepared, Status> {
        let first = (run + 1) * NUMBERS_PER_RUN;
        match self {
            Self::FindMissing => find_missing(client.clone(), first).await,
            Self::BatchUpdate => Ok(batch_update(client.clone(), first, calls)),
            Self::BatchRead => batch_read(client.clone()).await,
            Self::Write(size) => Ok(write(client.clone(), first, size, calls)),
            Self::Read(size) => read(client.clone(), DigestFunction::Sha256, size).await,
            Self::ReadBlake3(size) => read(client.clone(), DigestFunction::Blake3, size).await,
            Self::GetActionResult => get_action_result(client.clone()).await,
        }
    }
}

/// A small blob; small enough that making many is cheap.
fn small(number: u64) -> (reapi::Digest, Bytes) {
    let mut data = vec![0; SMALL_BLOB_BYTES as usize];
    for (position, eight) in (number << 9..).zip(data.chunks_exact_mut(8)) {
        eight.copy_from_slice(&position.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    let data = Bytes::from(data);
    (digest_of(DigestFunction::Sha256, &data).into(), data)
}

fn batch(numbers: impl Iterator<Item = u64>) -> reapi::BatchUpdateBlobsRequest {
    let requests = numbers.map(|number| {
        let (digest, data) = small(number);
        reapi::batch_update_blobs_request::Request { digest: Some(digest), data, ..Default::default() }
    });
    reapi::BatchUpdateBlobsRequest { requests: requests.collect(), ..Default::default() }
}

/// Puts small blobs in, and gives their digests.
async fn store_small(client: &Client, first: u64, count: u64) -> Result<Vec<reapi::Digest>, Status> {
    let numbers: Vec<u64> = (first..first + count).collect();
    let batches: Vec<_> = numbers.chunks(BLOBS_PER_BATCH as usize).map(|part| batch(part.iter().copied())).collect();
    let digests = batches.iter().flat_map(|batch| &batch.requests).filter_map(|part| part.digest.clone()).collect();
    let calls_max = batches.len() as u64;
    let caller = updates(client.clone(), batches);
    let pace = Pace::Closed { callers: PREPARING_CALLERS };
    let tally = drive(caller, Load { pace, time: std::time::Duration::from_secs(600), calls_max }).await;
    match tally.failures.into_values().next() {
        Some(status) => Err(status),
        None => Ok(digests),
    }
}

fn updates(client: Client, batches: Vec<reapi::BatchUpdateBlobsRequest>) -> Caller {
    let batches = Arc::new(batches);
    Arc::new(move |number| {
        let (client, batch) = (client.clone(), batches[number as usize].clone());
        Box::pin(async move { client.update(batch).await })
    })
}

async fn find_missing(client: Client, first: u64) -> Result<Prepared, Status> {
    let there = store_small(&client, 0, DIGESTS_PER_QUESTION as u64 / 2).await?;
    let absent = first..first + DIGESTS_PER_QUESTION as u64 / 2;
    let absent = absent.map(|number| digest_of(DigestFunction::Sha256, &number.to_le_bytes()).into());
    let digests: Arc<Vec<reapi::Digest>> = Arc::new(there.into_iter().zip(absent).flat_map(<[_; 2]>::from).collect());
    let caller: Caller = Arc::new(move |_| {
        let (client, digests) = (client.clone(), digests.clone());
        Box::pin(async move {
            let missing = client.find_missing(digests.to_vec()).await?.len();
            if missing * 2 == digests.len() {
                Ok(0)
            } else {
                Err(Status::data_loss(format!("{missing} of {} were missing", digests.len())))
            }
        })
    });
    Ok(Prepared { caller, calls_max: u64::MAX })
}

fn batch_update(client: Client, first: u64, calls: u64) -> Prepared {
    let batches = (0..calls).map(|call| {
        let start = first + call * BLOBS_PER_BATCH;
        batch(start..start + BLOBS_PER_BATCH)
    });
    Prepared { caller: updates(client, batches.collect()), calls_max: calls }
}

async fn batch_read(client: Client) -> Result<Prepared, Status> {
    let digests = store_small(&client, 0, SMALL_BLOBS_STORED).await?;
    let batches: Arc<Vec<Vec<reapi::Digest>>> =
        Arc::new(digests.chunks(BLOBS_PER_BATCH as usize).map(<[_]>::to_vec).collect());
    let caller: Caller = Arc::new(move |number| {
        let (client, batches) = (client.clone(), batches.clone());
        Box::pin(async move { client.read_batch(batches[number as usize % batches.len()].clone()).await })
    });
    Ok(Prepared { caller, calls_max: u64::MAX })
}

fn write(client: Client, first: u64, size: u64, calls: u64) -> Prepared {
    let blobs = (0..calls).map(|call| Generated::new(DigestFunction::Sha256, first + call, size));
    let blobs: Arc<Vec<Generated>> = Arc::new(blobs.collect());
    let caller: Caller = Arc::new(move |number| {
        let (client, blob) = (client.clone(), blobs[number as usize].clone());
        Box::pin(async move { client.write(&blob, first + number).await })
    });
    Prepared { caller, calls_max: calls }
}

async fn read(client: Client, function: DigestFunction, size: u64) -> Result<Prepared, Status> {
    let blob = Generated::new(function, 0, size);
    client.write(&blob, 0).await?;
    let digest = blob.digest;
    let caller: Caller = Arc::new(move |_| {
        let client = client.clone();
        Box::pin(async move { client.read(&digest, drop).await })
    });
    Ok(Prepared { caller, calls_max: u64::MAX })
}

/// A result with two output files, as a compiler leaves them.
pub(super) fn action_result(outputs: [reapi::Digest; 2]) -> reapi::ActionResult {
    let file = |(path, digest): (&str, reapi::Digest)| reapi::OutputFile {
        path: path.to_owned(),
        digest: Some(digest),
        ..Default::default()
    };
    let output_files = ["out/object.o", "out/object.d"].into_iter().zip(outputs).map(file).collect();
    reapi::ActionResult { output_files, ..Default::default() }
}

async fn get_action_result(client: Client) -> Result<Prepared, Status> {
    let blobs = store_small(&client, 0, RESULTS_STORED * 2).await?;
    let mut keys = Vec::new();
    for (pair, number) in blobs.chunks_exact(2).zip(0_u64..) {
        let action = Generated::new(DigestFunction::Sha256, number, 64).digest;
        let result = action_result([pair[0].clone(), pair[1].clone()]);
        client.put_result(action.into(), result).await?;
        keys.push(reapi::Digest::from(action));
    }
    let keys = Arc::new(keys);
    let caller: Caller = Arc::new(move |number| {
        let (client, key) = (client.clone(), keys[number as usize % keys.len()].clone());
        Box::pin(async move {
            match client.get_result(key).await?.output_files.len() {
                2 => Ok(0),
                files => Err(Status::data_loss(format!("{files} output files"))),
            }
        })
    });
    Ok(Prepared { caller, calls_max: u64::MAX })
}
