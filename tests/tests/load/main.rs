//! Load and hostile clients against a real coordinator on loopback: tests T5.3 to T5.6. Memory is asserted, speed is not.

mod floods;
mod large;
mod messages;
mod slow;
mod stalled;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use muster_tests::load::servers::{Kind, Server};
use muster_tests::load::{Client, Figures, Scenario};
use tokio::task::JoinHandle;

const MEBIBYTE: u64 = 1024 * 1024;

/// A coordinator that has answered a few calls, so that what it needs in any case is there.
async fn coordinator() -> Server {
    let server = Server::start(&Kind::Muster, &std::env::temp_dir()).await;
    let client = server.connect().await;
    for scenario in [Scenario::FindMissing, Scenario::BatchRead, Scenario::Read(4 * MEBIBYTE)] {
        let prepared = scenario.prepare(&client, 0, 1).await.expect("the coordinator answers");
        for number in 0..16 {
            (prepared.caller)(number).await.expect("the coordinator answers");
        }
    }
    server.reset_peak();
    server
}

/// Asserts that the coordinator never held so much more than at the start.
fn assert_memory(server: &Server, before: Figures, more_bytes_max: u64) {
    let after = server.figures();
    let more = after.peak_bytes.saturating_sub(before.peak_bytes);
    println!("memory: {} KiB before, {} KiB more at the peak", before.peak_bytes / 1024, more / 1024);
    assert!(more < more_bytes_max, "{} MiB more: {before:?}, {after:?}", more / MEBIBYTE);
}

/// Somebody who only wants to work: each of its calls must be answered well, whatever others do.
struct Bystander {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Bystander {
    async fn start(server: &Server) -> Self {
        let client = server.connect().await;
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (stop.clone(), calls.clone());
        let task = tokio::spawn(async move {
            let read = Scenario::BatchRead.prepare(&client, 0, 1).await.expect("a bystander is served");
            while !stopped.load(Ordering::Relaxed) {
                let number = counted.fetch_add(1, Ordering::Relaxed);
                (read.caller)(number).await.expect("a bystander is served");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { stop, calls, task }
    }

    /// Ends it, and fails if one of its calls did.
    async fn finish(self) {
        let before = self.calls.load(Ordering::Relaxed);
        while self.calls.load(Ordering::Relaxed) < before + 3 && !self.task.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("every call of a bystander was answered");
    }
}

/// The same question that everybody can ask at any time.
async fn assert_serves(client: &Client) {
    client.find_missing(Vec::new()).await.expect("the coordinator answers");
}
