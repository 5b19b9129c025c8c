//! When calls begin, and how long each of them took from then on.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::seed::Random;

/// One call: the payload bytes it moved, or why it failed.
pub type Attempt = Pin<Box<dyn Future<Output = Result<u64, Status>> + Send>>;

/// Makes the call of a number; numbers are given out once each.
pub type Caller = Arc<dyn Fn(u64) -> Attempt + Send + Sync>;

/// The longest latency that is told apart, in microseconds: ten minutes.
const LATENCY_MICROSECONDS_MAX: u64 = 600_000_000;

/// When calls begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// So many callers, each of which calls again when it has its answer.
    Closed {
        /// Callers.
        callers: usize,
    },
    /// At times drawn beforehand, whatever the server does.
    Open {
        /// Calls per second, on average.
        per_second: f64,
        /// Calls under way at most; one beyond waits for its turn, and that wait is part of its latency.
        under_way_max: usize,
        /// What the times are drawn from.
        seed: u64,
    },
}

/// How much load, and how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// When calls begin.
    pub pace: Pace,
    /// No call begins after this.
    pub time: Duration,
    /// No more calls than this.
    pub calls_max: u64,
}

/// What came of a load.
#[derive(Clone)]
pub struct Tally {
    /// Latencies of the calls that succeeded, in microseconds, from their intended beginning.
    pub latency: Histogram<u64>,
    /// Calls that succeeded.
    pub succeeded: u64,
    /// Payload that they moved, in bytes.
    pub bytes: u64,
    /// Calls that failed, by their code's number.
    pub failed: BTreeMap<i32, u64>,
    /// The first failure of each code.
    pub failures: BTreeMap<i32, Status>,
    /// From the first intended beginning to the last answer.
    pub elapsed: Duration,
}

impl Tally {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MICROSECONDS_MAX, 3).expect("the bounds are in order");
        Self {
            latency,
            succeeded: 0,
            bytes: 0,
            failed: BTreeMap::new(),
            failures: BTreeMap::new(),
            elapsed: Duration::ZERO,
        }
    }

    fn record(&mut self, latency: Duration, result: Result<u64, Status>) {
        match result {
            Ok(bytes) => {
                self.succeeded += 1;
                self.bytes += bytes;
                self.latency.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
            }
            Err(status) => {
                let code = i32::from(status.code());
                *self.failed.entry(code).or_default() += 1;
                self.failures.entry(code).or_insert(status);
            }
        }
    }

    /// Calls that succeeded, per second.
    pub fn per_second(&self) -> f64 {
        self.succeeded as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that `percent` of the successful calls did not pass.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.latency.value_at_percentile(percent))
    }

    /// Calls that failed with this code.
    pub fn failed_with(&self, code: Code) -> u64 {
        self.failed.get(&i32::from(code)).copied().unwrap_or_default()
    }

    /// Calls that failed.
    pub fn failed_in_all(&self) -> u64 {
        self.failed.values().sum()
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} succeeded in {:.3} s ({:.0}/s), p50 {:?}, p99 {:?}, failed: {:?}",
            self.succeeded,
            self.elapsed.as_secs_f64(),
            self.per_second(),
            self.percentile(50.0),
            self.percentile(99.0),
            self.failures
        )
    }
}

/// The times of an open loop, counted from its start: gaps of a Poisson process.
pub fn arrivals(per_second: f64, seed: u64) -> impl Iterator<Item = Duration> {
    let mut random = Random::new(seed);
    let mut at = 0.0_f64;
    std::iter::repeat_with(move || {
        // From 53 bits, never 0, so that the logarithm is finite.
        let uniform = ((random.draw() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
        at -= uniform.ln() / per_second;
        Duration::from_secs_f64(at)
    })
}

/// Puts the load on and waits for every answer.
pub async fn drive(caller: Caller, load: Load) -> Tally {
    let tally = Arc::new(Mutex::new(Tally::new()));
    let start = Instant::now();
    match load.pace {
        Pace::Closed { callers } => closed(caller, load, callers, start, &tally).await,
        Pace::Open { per_second, under_way_max, seed } => {
            let times = arrivals(per_second, seed).take_while(move |at| *at < load.time);
            let times: Vec<Duration> = times.take(usize::try_from(load.calls_max).unwrap_or(usize::MAX)).collect();
            open(caller, times, under_way_max, start, &tally).await;
        }
    }
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
    tally.elapsed = start.elapsed();
    tally
}

async fn closed(caller: Caller, load: Load, callers: usize, start: Instant, tally: &Arc<Mutex<Tally>>) {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (caller, next, tally) = (caller.clone(), next.clone(), tally.clone());
        tasks.spawn(async move {
            while start.elapsed() < load.time {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= load.calls_max {
                    return;
                }
                let began = Instant::now();
                let result = caller(number).await;
                tally.lock().unwrap_or_else(PoisonError::into_inner).record(began.elapsed(), result);
            }
        });
    }
    tasks.join_all().await;
}

/// Calls at `times`, from a thread that sleeps by itself: the runtime's timers are a millisecond coarse.
async fn open(caller: Caller, times: Vec<Duration>, under_way_max: usize, start: Instant, tally: &Arc<Mutex<Tally>>) {
    let runtime = tokio::runtime::Handle::current();
    let room = Arc::new(Semaphore::new(under_way_max));
    let tally = tally.clone();
    let dispatched = tokio::task::spawn_blocking(move || {
        let mut tasks = JoinSet::new();
        for (number, at) in (0..).zip(times) {
            std::thread::sleep((start + at).saturating_duration_since(Instant::now()));
            let Ok(permit) = runtime.block_on(room.clone().acquire_owned()) else { break };
            let (caller, tally) = (caller.clone(), tally.clone());
            let call = async move {
                let result = caller(number).await;
                let latency = start.elapsed().saturating_sub(at);
                tally.lock().unwrap_or_else(PoisonError::into_inner).record(latency, result);
                drop(permit);
            };
            tasks.spawn_on(call, &runtime);
            while tasks.try_join_next().is_some() {}
        }
        tasks
    });
    if let Ok(tasks) = dispatched.await {
        tasks.join_all().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pace: Pace, calls_max: u64) -> Load {
        Load { pace, time: Duration::from_secs(600), calls_max }
    }

    #[test]
    fn arrivals_come_at_the_rate_that_was_asked_for() {
        let last = arrivals(1000.0, 1).nth(99_999).expect("endless");
        assert!((99.0..101.0).contains(&last.as_secs_f64()), "{last:?}");
        let again = arrivals(1000.0, 1).nth(99_999);
        assert_eq!(again, Some(last), "one seed, one history");
    }

    /// The reason for an open loop: one stall of the server shows in every call that fell into it, not in one.
    #[tokio::test]
    async fn a_stall_is_counted_by_everybody_who_waited_for_it() {
        const STALL: Duration = Duration::from_millis(400);
        let server = Arc::new(tokio::sync::Mutex::new(()));
        let stalls_once: Caller = Arc::new(move |number| {
            let server = server.clone();
            Box::pin(async move {
                let _turn = server.lock().await;
                if number == 10 {
                    tokio::time::sleep(STALL).await;
                }
                Ok(1)
            })
        });
        let closed = drive(stalls_once.clone(), load(Pace::Closed { callers: 1 }, 200)).await;
        assert_eq!((closed.succeeded, closed.bytes), (200, 200));
        let stalled = |tally: &Tally| tally.latency.count_between((STALL / 4).as_micros() as u64, u64::MAX);
        let pace = Pace::Open { per_second: 500.0, under_way_max: 4, seed: 1 };
        let open = drive(stalls_once, load(pace, 200)).await;
        assert_eq!(open.succeeded, 200);
        assert!(stalled(&closed) >= 1, "{closed:?}");
        assert!(stalled(&open) > 10 * stalled(&closed), "closed {closed:?}, open {open:?}");
    }

    #[tokio::test]
    async fn failures_are_counted_apart() {
        let odd_fails: Caller = Arc::new(|number| {
            Box::pin(async move { if number % 2 == 1 { Err(Status::resource_exhausted("full")) } else { Ok(7) } })
        });
        let tally = drive(odd_fails, load(Pace::Closed { callers: 3 }, 11)).await;
        assert_eq!((tally.succeeded, tally.bytes, tally.failed_with(Code::ResourceExhausted)), (6, 42, 5));
        assert_eq!((tally.failed_in_all(), tally.latency.len()), (5, 6));
    }
}
