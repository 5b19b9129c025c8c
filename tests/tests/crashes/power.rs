//! T3.2: the disk under a coordinator loses power, again and again, while it stores blobs and a run goes on.

use std::time::{Duration, Instant};

use super::disk::Disk;
use super::{
    Promises, assert_all_passed, assert_no_panic, assert_recorded, expect_up, fleet_on, runtime, shards, start, times,
    told,
};

const DISK_BYTES: u64 = 256 * 1024 * 1024;
/// Less than what is stored, so that there is eviction too.
const CACHE_SIZE: &str = "48MiB";
/// Between two rounds of load.
const PAUSE: Duration = Duration::from_millis(15);
/// How long there is power at least: some cycles are shorter than the two seconds in which blobs become durable, some longer.
const POWERED: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(400), Duration::from_millis(700), Duration::from_millis(2600)];

#[test]
fn t3_2_power_lost_under_load_takes_no_verdict_and_leaves_no_wrong_byte() {
    let cycles = times(20, 200);
    let count = cycles * 24;
    let place = shards(count, 0.1);
    let data = place.beside("fleet/coordinator");
    let (disk, mut fleet) = fleet_on(&place, &["--cache-size", CACHE_SIZE], "2", || Disk::ext4(&data, DISK_BYTES));
    let running = start(&place, &fleet);
    let runtime = runtime();
    let mut promises = Promises::default();
    let (mut acknowledged, mut kept_blobs, mut kept_results) = (0, 0, 0);
    let started = Instant::now();
    for cycle in 0..cycles {
        let before = running.seen().len();
        runtime.block_on(async {
            let remote = expect_up(&mut fleet).await;
            let powered = Instant::now();
            while powered.elapsed() < POWERED[cycle % POWERED.len()] {
                assert!(promises.round(&remote).await, "{:?}\n{}", promises.refusals, fleet.logs());
                tokio::time::sleep(PAUSE).await;
            }
        });
        // Counted first: what is told while the power goes may not be so.
        let told = told(&running.seen());
        acknowledged += usize::from(running.seen().len() > before);
        disk.cut_power();
        drop(fleet.coordinator.take());
        disk.start_again();
        fleet.start_coordinator();
        runtime.block_on(async {
            let remote = expect_up(&mut fleet).await;
            let kept = promises.check(&remote, false).await;
            kept_blobs += kept.blobs;
            kept_results += kept.results;
            promises.take_stock(&remote).await;
        });
        assert_recorded(&place, &fleet, &told);
    }
    let seconds = started.elapsed().as_secs_f64();
    assert_all_passed(&running.finish(), &fleet, count);
    assert_no_panic(&fleet);
    println!(
        "{cycles} cuts of power in {seconds:.1} s, {acknowledged} with new verdicts; {kept_blobs} blobs and {kept_results} results looked at, none wrong"
    );
    // Otherwise this has shown nothing.
    assert!(
        acknowledged * 2 > cycles && kept_blobs > 0 && kept_results > 0,
        "{acknowledged}, {kept_blobs}, {kept_results}"
    );
}
