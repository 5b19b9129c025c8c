//! T3.4: system calls of a running coordinator fail as on a broken or a full disk, and then no more.

use std::time::Duration;

use tonic::Code;

use super::trace::{ALL, Failing};
use super::{
    Promises, assert_all_passed, assert_no_panic, assert_recorded, busy, connect, expect_up, runtime, times, told,
};

/// The exit code of a coordinator whose ledger can't be written.
const FAILED: i32 = 1;
/// What it says then.
const LEDGER_FAILED: &str = "the ledger could not be written";
/// Rounds of load while calls fail.
const ROUNDS: usize = 2;
/// By then a store has begun to sync what it took.
const SYNCED: Duration = Duration::from_millis(2300);

#[test]
fn t3_4_system_calls_that_fail_are_errors_and_nothing_worse() {
    let samples = times(18, 50);
    let count = samples * 8;
    let (place, mut fleet, running) = busy(count);
    let data = place.beside("fleet/coordinator");
    let runtime = runtime();
    let mut promises = Promises::default();
    let (mut refused, mut ended) = (0, 0);
    for sample in 0..samples {
        let calls = ALL[sample % ALL.len()];
        let error = if (sample / ALL.len()).is_multiple_of(2) { "EIO" } else { "ENOSPC" };
        // One failure, and a disk that fails for a while.
        let (first, count) = (1 + sample / ALL.len() % 5, if sample % 4 < 2 { 1 } else { 1000 });
        let before = promises.refusals.len();
        {
            let program = fleet.coordinator.as_ref().expect("it runs");
            let _failing = Failing::attach(program, calls, &data, error, first, count);
            runtime.block_on(async {
                let Some(remote) = connect(&mut fleet).await else { return };
                for _ in 0..ROUNDS {
                    promises.round(&remote).await;
                }
                tokio::time::sleep(if calls.names.contains("sync") { SYNCED } else { Duration::ZERO }).await;
            });
        }
        let what = format!("sample {sample}: {error} from {first} for {count} of {calls:?}");
        refused += usize::from(promises.refusals.len() > before);
        let told = told(&running.seen());
        let given_up = fleet.logs().matches(LEDGER_FAILED).count();
        if given_up > ended {
            // Only a coordinator that can't keep its ledger may give up, and it says so.
            assert_eq!(
                fleet.coordinator.as_mut().expect("it was started").wait(),
                Some(FAILED),
                "{what}\n{}",
                fleet.logs()
            );
            fleet.start_coordinator();
            ended = given_up;
        }
        runtime.block_on(async {
            let remote = expect_up(&mut fleet).await;
            // What an fsync took is lost for good: the cache may forget it, as long as it does not lie.
            promises.check(&remote, false).await;
            promises.take_stock(&remote).await;
            assert!(promises.round(&remote).await, "{what}: {:?}\n{}", promises.refusals.last(), fleet.logs());
        });
        assert_recorded(&place, &fleet, &told);
    }
    assert_all_passed(&running.finish(), &fleet, count);
    promises.assert_typed();
    let full = promises.refusals.iter().filter(|status| status.code() == Code::ResourceExhausted).count();
    println!("{samples} samples: {refused} with refusals, {full} refusals for want of room, {ended} ends");
    assert_no_panic(&fleet);
    assert!(refused * 4 > samples, "too few of the failures came to anything: {refused} of {samples}");
}
