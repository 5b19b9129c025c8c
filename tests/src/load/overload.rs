//! T5.9: three times as much as a server can do.

use std::path::Path;
use std::time::Duration;

use tonic::Code;

use super::servers::{Kind, Server};
use super::{Client, Load, Pace, Prepared, Scenario, Tally, drive};

/// Callers that find out what the server can do.
const CALLERS: usize = 16;
/// Connections of the overload: more calls at one time than one connection may have streams.
const CONNECTIONS: usize = 16;
/// Calls under way at most: more than the server takes in hand.
const UNDER_WAY_MAX: usize = CONNECTIONS * 100;
/// How much more than the peak is asked for.
const FACTOR: f64 = 3.0;

/// What came of it.
#[derive(Debug)]
pub struct Overload {
    /// Before: as much as it can do, asked for by callers who wait.
    pub peak: Tally,
    /// Three times as much.
    pub overload: Tally,
    /// After: the same callers as before.
    pub after: Tally,
    /// From the end of the overload to the first call that was answered well.
    pub recovery: Duration,
    /// More memory than before at the peak, in bytes.
    pub more_memory: u64,
}

impl Overload {
    /// Calls per second that were answered well under overload, as a share of the lesser of the peaks before and after.
    pub fn goodput_share(&self) -> f64 {
        self.overload.per_second() / self.peak.per_second().min(self.after.per_second())
    }

    /// Whether every call that was refused was told when to come again, and none failed otherwise.
    pub fn refuses_well(&self) -> bool {
        let told = self.overload.failures.values().all(|status| {
            status.code() == Code::ResourceExhausted
                && status.details().windows(RETRY_INFO.len()).any(|window| window == RETRY_INFO)
        });
        told && self.overload.failed_in_all() > 0
    }
}

/// The type of the detail that says when to come again (`google/rpc/error_details.proto`).
const RETRY_INFO: &[u8] = b"type.googleapis.com/google.rpc.RetryInfo";

/// Overloads a coordinator for `time` with reads of batches: questions that cost their sender little.
///
/// # Panics
///
/// When the coordinator does not come up, or does not answer when nobody overloads it.
pub async fn overload(place: &Path, time: Duration) -> Overload {
    let server = Server::start(&Kind::Muster, place).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(server.connect().await);
    }
    let prepared = spread(&clients).await;
    let closed =
        Load { pace: Pace::Closed { callers: CALLERS }, time: time.min(Duration::from_secs(10)), calls_max: u64::MAX };
    let peak = drive(prepared.caller.clone(), closed).await;
    assert_eq!(peak.failed_in_all(), 0, "{peak:?}");
    server.reset_peak();
    let before = server.figures();
    let pace = Pace::Open { per_second: FACTOR * peak.per_second(), under_way_max: UNDER_WAY_MAX, seed: 1 };
    let overload = drive(prepared.caller.clone(), Load { pace, time, calls_max: u64::MAX }).await;
    let more_memory = server.figures().peak_bytes.saturating_sub(before.peak_bytes);
    let ended = std::time::Instant::now();
    while let Err(status) = (prepared.caller)(0).await {
        assert!(ended.elapsed() < Duration::from_secs(60), "it does not recover: {status}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let recovery = ended.elapsed();
    let after = drive(prepared.caller, closed).await;
    Overload { peak, overload, after, recovery, more_memory }
}

/// Calls that go over the connections in turn.
async fn spread(clients: &[Client]) -> Prepared {
    let mut callers = Vec::new();
    for client in clients {
        callers.push(Scenario::BatchRead.prepare(client, 0, 1).await.expect("the coordinator answers").caller);
    }
    Prepared {
        caller: std::sync::Arc::new(move |number| callers[number as usize % callers.len()](number)),
        calls_max: u64::MAX,
    }
}
