//! The real programs lose power, are killed, and meet disks that fail or are full: tests T3.2 to T3.6. What they said is still so afterwards.
//!
//! These tests need root, loop devices and strace: `scripts/prepare` installs what can be installed. `MUSTER_CRASH_LONG=1` runs each as
//! often as a release wants it; `scripts/long` does.

mod disk;
mod faults;
mod full;
mod kills;
mod power;
mod promises;
mod trace;

use std::time::Duration;

use disk::Disk;
use muster_tests::programs::{Fleet, Place, Program, Running, TestRun, start_until};
use muster_tests::remote::Remote;
use promises::Promises;
use serde_json::Value;

/// How often something is done: in every change, or in a long run.
fn times(short: usize, long: usize) -> usize {
    if std::env::var_os("MUSTER_CRASH_LONG").is_some() { long } else { short }
}

/// A project of so many cases, each a shell that takes so many seconds.
fn shards(count: usize, seconds: f64) -> Place {
    let place = Place::of("command");
    let manifest =
        format!("[test.shell]\nframework = \"command\"\ncommand = [\"/bin/sh\", \"run.sh\"]\nshards = {count}\n");
    place.write("muster.toml", &manifest);
    place.write("run.sh", &format!("touch \"$TEST_SHARD_STATUS_FILE\"\nsleep {seconds}\n"));
    place
}

/// A coordinator on a disk of its own, and an agent that has nothing to do with that: what a sandbox sees mounted stays mounted.
fn fleet_on(place: &Place, coordinator: &[&str], slots: &str, disk: impl FnOnce() -> Disk) -> (Disk, Fleet) {
    let mut fleet = Fleet::start_with(place, 0, coordinator);
    drop(fleet.coordinator.take());
    std::fs::remove_dir_all(place.beside("fleet/coordinator")).expect("its data");
    fleet.start_agent(&["--slots", slots]);
    let disk = disk();
    fleet.start_coordinator();
    fleet.wait_for_agents(place, 1);
    (disk, fleet)
}

/// A fleet with an agent of two slots on which a run of so many short cases is under way.
fn busy(count: usize) -> (Place, Fleet, Running) {
    let place = shards(count, 0.1);
    let mut fleet = Fleet::start(&place, 0);
    fleet.start_agent(&["--slots", "2"]);
    fleet.wait_for_agents(&place, 1);
    let running = start(&place, &fleet);
    (place, fleet, running)
}

/// Starts its run on a fleet; it is under way when the first case has finished.
fn start(place: &Place, fleet: &Fleet) -> Running {
    let command = place.muster(["test", "--format", "json", "--fleet", &fleet.url()]);
    start_until(command, |event| event["event"] == "case_finished")
}

/// The cases whose outcome was told, with it, in order.
fn told(events: &[Value]) -> Vec<(String, String)> {
    let finished = events.iter().filter(|event| event["event"] == "case_finished");
    finished.map(|event| (text(&event["name"]), text(&event["outcome"]))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What was told of a run is in the coordinator's ledger, as it was told.
fn assert_recorded(place: &Place, fleet: &Fleet, told: &[(String, String)]) {
    let shown = place.muster(["runs", "show", "1", "--format", "json", "--fleet", &fleet.url()]).output();
    let shown = shown.expect("muster starts");
    let shown: Value = serde_json::from_slice(&shown.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", String::from_utf8_lossy(&shown.stderr), fleet.logs()));
    let cases = shown["cases"].as_array().expect("a list");
    for (name, outcome) in told {
        let recorded: Vec<String> =
            cases.iter().filter(|case| case["name"] == **name).map(|case| text(&case["outcome"])).collect();
        assert_eq!(recorded, std::slice::from_ref(outcome), "{name} was told as {outcome}: {}", fleet.logs());
    }
}

/// Every case once, and passed.
fn assert_all_passed(run: &TestRun, fleet: &Fleet, count: usize) {
    assert_eq!(run.code, Some(0), "{run:#?}\n{}", fleet.logs());
    run.assert_complete();
    assert_eq!((run.count("planned"), run.count("passed")), (count as u64, count as u64));
}

/// Nothing in what the programs logged says that one of them did what none may do.
fn assert_no_panic(fleet: &Fleet) {
    let logs = fleet.logs();
    assert!(!logs.contains("panicked"), "{logs}");
}

/// A client of a coordinator that may still be starting; none when it has ended instead.
async fn connect(fleet: &mut Fleet) -> Option<Remote> {
    let url = fleet.url();
    let ended = async {
        while !fleet.coordinator.as_mut().is_none_or(Program::has_ended) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        remote = Remote::connect(&url) => Some(remote),
        () = ended => None,
    }
}

/// A client of a coordinator that has to come up.
async fn expect_up(fleet: &mut Fleet) -> Remote {
    match connect(fleet).await {
        Some(remote) => remote,
        None => panic!("the coordinator does not come up:\n{}", fleet.logs()),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
