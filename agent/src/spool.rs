//! The spool: finished reports on disk until they are acknowledged.
//!
//! One append-only file. A record is a length (4 bytes, little-endian, of the payload), a kind (1 byte), a checksum (the first 8 bytes of the BLAKE3
//! hash of kind and payload) and the payload: an encoded `muster.v1.AttemptReport`, or the 8 bytes of an epoch to forget. A record that does
//! not verify ends the file: it was being written when the machine stopped, so its report was never sent. Everything that waits to be written goes
//! out in one write and one `fdatasync`, so that a busy agent pays for one of them per batch and not per report. When most of the file is
//! forgotten, what is left of it is copied.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use muster_cache::Trouble;
use muster_model::Epoch;
use muster_proto::v1;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use crate::AgentError;
use crate::data::file_error;

const REPORT: u8 = 1;
const FORGET: u8 = 2;
const HEADER_BYTES: usize = 13;
/// Below this, a file is not worth copying.
const COPY_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Requests that may wait for the disk; more wait for room.
const QUEUE_MAX: usize = 1024;

enum Request {
    Store { report: Vec<u8>, epoch: Epoch, done: oneshot::Sender<io::Result<()>> },
    Forget { epoch: Epoch },
    Flush { done: oneshot::Sender<()> },
}

/// Writes to the spool. The file is closed when the last of its clones is gone.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    requests: mpsc::Sender<Request>,
}

impl Spool {
    /// Opens the file and gives back what an earlier process left in it.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<v1::AttemptReport>), AgentError> {
        let (file, reports) = SpoolFile::open(path).map_err(file_error("open", path))?;
        let (requests, receiver) = mpsc::channel(QUEUE_MAX);
        std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || serve(file, receiver))
            .map_err(file_error("start the writer of", path))?;
        Ok((Self { requests }, reports))
    }

    /// Returns when the report is on disk.
    pub(crate) async fn store(&self, report: &v1::AttemptReport) -> io::Result<()> {
        let (done, written) = oneshot::channel();
        let request = Request::Store { report: report.encode_to_vec(), epoch: Epoch(report.epoch), done };
        let closed = || io::Error::other("the spool is closed");
        self.requests.send(request).await.map_err(|_| closed())?;
        written.await.map_err(|_| closed())?
    }

    /// Forgets a report, some time soon: one that is forgotten too late is acknowledged again.
    pub(crate) async fn forget(&self, epoch: Epoch) {
        let _ = self.requests.send(Request::Forget { epoch }).await;
    }

    /// Returns when everything that was asked for before is in the file, so that whoever opens it next finds it.
    pub(crate) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        if self.requests.send(Request::Flush { done }).await.is_ok() {
            // A writer that is gone has nothing left to write.
            let _ = flushed.await;
        }
    }
}

/// The writer's thread.
fn serve(mut file: SpoolFile, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::new();
    while requests.blocking_recv_many(&mut batch, QUEUE_MAX) > 0 {
        let (mut waiting, mut flushing) = (Vec::new(), Vec::new());
        let mut appended = Appended::default();
        for request in batch.drain(..) {
            match request {
                Request::Store { report, epoch, done } => {
                    appended.report(epoch, &report);
                    waiting.push(done);
                }
                Request::Forget { epoch } => appended.forget(epoch),
                Request::Flush { done } => flushing.push(done),
            }
        }
        let result = file.append(&appended, !waiting.is_empty());
        if let Err(error) = &result {
            static NOT_WRITTEN: Trouble = Trouble::new();
            NOT_WRITTEN.tell(
                |untold| tracing::error!(%error, path = %file.path.display(), untold, "cannot write to the spool"),
            );
        }
        for done in waiting {
            // io::Error can't be cloned; its kind and words can.
            let result = result.as_ref().map(|_| ()).map_err(|error| io::Error::new(error.kind(), error.to_string()));
            let _ = done.send(result);
        }
        for done in flushing {
            let _ = done.send(());
        }
    }
}

/// Records that go out together.
#[derive(Default)]
struct Appended {
    bytes: Vec<u8>,
    /// Epoch, and the record's range in `bytes` if it is a report.
    entries: Vec<(Epoch, Option<(usize, usize)>)>,
}

impl Appended {
    fn report(&mut self, epoch: Epoch, payload: &[u8]) {
        let start = self.bytes.len();
        push_record(&mut self.bytes, REPORT, payload);
        self.entries.push((epoch, Some((start, self.bytes.len() - start))));
    }

    fn forget(&mut self, epoch: Epoch) {
        push_record(&mut self.bytes, FORGET, &epoch.0.to_le_bytes());
        self.entries.push((epoch, None));
    }
}

struct SpoolFile {
    path: PathBuf,
    file: File,
    length: u64,
    /// Where the records of reports that are not forgotten are.
    live: BTreeMap<Epoch, (u64, usize)>,
    live_bytes: u64,
}

impl SpoolFile {
    fn open(path: &Path) -> io::Result<(Self, Vec<v1::AttemptReport>)> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let mut reports = BTreeMap::new();
        let mut rest = bytes.as_slice();
        while let Some((kind, payload, after)) = take_record(rest) {
            rest = after;
            match (kind, <[u8; 8]>::try_from(payload)) {
                (FORGET, Ok(epoch)) => {
                    reports.remove(&Epoch(u64::from_le_bytes(epoch)));
                }
                (REPORT, _) => {
                    if let Ok(report) = v1::AttemptReport::decode(payload) {
                        reports.insert(Epoch(report.epoch), report);
                    }
                }
                _ => {}
            }
        }
        let mut appended = Appended::default();
        for (&epoch, report) in &reports {
            appended.report(epoch, &report.encode_to_vec());
        }
        let file = Self::create(path, &appended)?;
        Ok((file, reports.into_values().collect()))
    }

    /// Replaces the file by one with exactly these records.
    fn create(path: &Path, records: &Appended) -> io::Result<Self> {
        let partial = path.with_extension("partial");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&partial)?;
        let mut spool = Self { path: path.to_owned(), file, length: 0, live: BTreeMap::new(), live_bytes: 0 };
        spool.write(records, true)?;
        std::fs::rename(&partial, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(spool)
    }

    fn append(&mut self, records: &Appended, durable: bool) -> io::Result<()> {
        self.write(records, durable)?;
        if self.length >= COPY_BYTES_MIN && self.live_bytes <= self.length / 2 {
            self.copy()?;
        }
        Ok(())
    }

    fn write(&mut self, records: &Appended, durable: bool) -> io::Result<()> {
        // A write that fails in the middle is overwritten by the next one.
        self.file.write_all_at(&records.bytes, self.length)?;
        if durable {
            self.file.sync_data()?;
        }
        for &(epoch, range) in &records.entries {
            if let Some((_, bytes)) = self.live.remove(&epoch) {
                self.live_bytes -= bytes as u64;
            }
            if let Some((start, bytes)) = range {
                self.live.insert(epoch, (self.length + start as u64, bytes));
                self.live_bytes += bytes as u64;
            }
        }
        self.length += records.bytes.len() as u64;
        Ok(())
    }

    fn copy(&mut self) -> io::Result<()> {
        let mut records = Appended::default();
        for (&epoch, &(offset, bytes)) in &self.live {
            let start = records.bytes.len();
            records.bytes.resize(start + bytes, 0);
            self.file.read_exact_at(&mut records.bytes[start..], offset)?;
            records.entries.push((epoch, Some((start, bytes))));
        }
        *self = Self::create(&self.path, &records)?;
        Ok(())
    }
}

fn checksum(kind: u8, payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    let hash = hasher.finalize();
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash.as_bytes()[..8]);
    sum
}

fn push_record(bytes: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    // A report fits one message, so its length fits 32 bits.
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(&checksum(kind, payload));
    bytes.extend_from_slice(payload);
}

/// Kind, payload and what follows; nothing at the end or at a record that does not verify.
fn take_record(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    let (payload, after) = rest.split_at_checked(length)?;
    (checksum(header[4], payload) == header[5..]).then_some((header[4], payload, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(epoch: u64, message: &str) -> v1::AttemptReport {
        let result = v1::attempt_report::Result::DiscoveryFailed(message.to_owned());
        v1::AttemptReport { epoch, result: Some(result), ..v1::AttemptReport::default() }
    }

    fn epochs(reports: &[v1::AttemptReport]) -> Vec<u64> {
        reports.iter().map(|report| report.epoch).collect()
    }

    #[tokio::test]
    async fn a_report_survives_its_process_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let (spool, restored) = Spool::open(&path).unwrap();
        assert_eq!(restored, []);
        let (first, second) = (report(7, "seven"), report(9, "nine"));
        let (a, b) = tokio::join!(spool.store(&first), spool.store(&second));
        a.unwrap();
        b.unwrap();
        let (_, restored) = Spool::open(&path).unwrap();
        assert_eq!(restored, [first, second]);
        let (spool, _) = Spool::open(&path).unwrap();
        spool.forget(Epoch(7)).await;
        spool.store(&report(11, "eleven")).await.unwrap();
        let (_, restored) = Spool::open(&path).unwrap();
        assert_eq!(epochs(&restored), [9, 11]);
    }

    #[test]
    fn a_torn_or_damaged_tail_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let mut records = Appended::default();
        records.report(Epoch(1), &report(1, "whole").encode_to_vec());
        let whole = records.bytes.len();
        records.report(Epoch(2), &report(2, "torn").encode_to_vec());
        for length in whole..records.bytes.len() {
            std::fs::write(&path, &records.bytes[..length]).unwrap();
            assert_eq!(epochs(&SpoolFile::open(&path).unwrap().1), [1], "cut at {length}");
        }
        let last = records.bytes.len() - 1;
        records.bytes[last] ^= 1;
        std::fs::write(&path, &records.bytes).unwrap();
        assert_eq!(epochs(&SpoolFile::open(&path).unwrap().1), [1]);
    }

    #[test]
    fn a_file_that_is_mostly_forgotten_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let (mut file, _) = SpoolFile::open(&path).unwrap();
        let long = "x".repeat(1024 * 1024);
        for epoch in 1..=6 {
            let mut records = Appended::default();
            records.report(Epoch(epoch), &report(epoch, &long).encode_to_vec());
            if epoch > 1 {
                records.forget(Epoch(epoch - 1));
            }
            file.append(&records, true).unwrap();
            assert!(file.length < COPY_BYTES_MIN + 2 * long.len() as u64, "it does not grow for ever");
        }
        assert!(path.metadata().unwrap().len() < COPY_BYTES_MIN);
        assert_eq!(epochs(&SpoolFile::open(&path).unwrap().1), [6]);
    }
}
