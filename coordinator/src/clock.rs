//! The one place where the coordinator reads clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_model::Instant;

/// A monotonic clock, and wall time for people that is derived from it: one reading of the system's clock at the start, so that nothing in
/// the ledger jumps when an operator sets the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
    start_unix_ms: i64,
}

impl Clock {
    /// Starts at zero.
    pub(crate) fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self {
            start: std::time::Instant::now(),
            start_unix_ms: i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Now, for decisions.
    pub(crate) fn now(&self) -> Instant {
        Instant::default() + self.start.elapsed()
    }

    /// Now, for people: milliseconds since 1970.
    pub(crate) fn unix_ms(&self) -> i64 {
        self.start_unix_ms.saturating_add(i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// A time of ours for the messages of the Remote Execution API.
    pub(crate) fn timestamp(&self, instant: Instant) -> prost_types::Timestamp {
        let since_start = instant.since(Instant::default());
        let nanos = i128::from(self.start_unix_ms) * 1_000_000 + i128::try_from(since_start.as_nanos()).unwrap_or(0);
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
        // The remainder is below a billion.
        prost_types::Timestamp { seconds, nanos: nanos.rem_euclid(1_000_000_000) as i32 }
    }

    /// The runtime's reading for one of ours.
    pub(crate) fn deadline(&self, instant: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.start + instant.since(Instant::default()))
    }

    /// Since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.start.elapsed()
    }
}
