//! Where a run's time went, on the wire.

use std::time::Duration;

use muster_proto::v1;
use muster_scheduler::accounting::{AttemptFacts, Efficiency};

use crate::open_run::{LeaseNote, OpenRun};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the scheduler's accounting makes of a run's attempts.
pub(crate) fn efficiency(run: &OpenRun, now_unix_ms: i64, slots: u32) -> v1::Efficiency {
    let since_start =
        |unix_ms: i64| Duration::from_millis(unix_ms.saturating_sub(run.started_unix_ms).max(0).unsigned_abs());
    let facts = |lease: &LeaseNote| {
        let ended = lease.ended.as_ref()?;
        Some(AttemptFacts {
            queued: since_start(lease.queued_unix_ms),
            assigned: since_start(lease.assigned_unix_ms),
            finished: since_start(ended.finished_unix_ms),
            transfer: ended.timings.transfer,
            environment: ended.timings.environment,
            execution: ended.timings.execution,
            longest_case: ended.longest_case,
        })
    };
    let attempts: Vec<AttemptFacts> = run.leases.values().filter_map(facts).collect();
    let wall = since_start(now_unix_ms);
    let efficiency = Efficiency::new(wall, slots, &attempts);
    v1::Efficiency {
        wall_ms: millis(wall),
        lower_bound_ms: millis(efficiency.lower_bound),
        // Between 0 and 1.
        efficiency_milli: (efficiency.ratio() * 1000.0).round() as u32,
        tail_ms: millis(efficiency.loss.tail),
        dispatch_ms: millis(efficiency.loss.dispatch),
        transfer_ms: millis(efficiency.loss.transfer),
        environment_ms: millis(efficiency.loss.environment),
        slots,
    }
}
