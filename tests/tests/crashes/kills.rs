//! T3.3: a coordinator is killed at a system call that changes its disk. T3.6: coordinator and agents are killed at any time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_tests::programs::{Fleet, eventually};
use muster_tests::seed::Random;
use nix::sys::signal::Signal;

use super::trace::ALL;
use super::{
    Promises, assert_all_passed, assert_no_panic, assert_recorded, busy, connect, expect_up, runtime, shards, start,
    times, told,
};

/// Calls of one thread after which no other place is new: by then every kind of work was done more than once.
const CALLS_MAX: usize = 60;
/// All kinds but the last: the writes of incoming files are among all writes too.
const KINDS: usize = ALL.len() - 1;
/// Rounds of load until a kill is no longer waited for.
const ROUNDS_MAX: usize = 12;

#[test]
fn t3_3_a_coordinator_killed_at_a_system_call_keeps_what_it_said() {
    let points = times(3, CALLS_MAX);
    let count = points * KINDS * 4;
    let (place, mut fleet, running) = busy(count);
    let data = place.beside("fleet/coordinator");
    let runtime = runtime();
    let mut promises = Promises::default();
    let mut killed = [0; KINDS];
    for point in 0..points {
        for (kind, calls) in ALL.iter().take(KINDS).enumerate() {
            let number = if points == CALLS_MAX { point + 1 } else { 1 + point * calls.apart };
            drop(fleet.coordinator.take());
            fleet.start_coordinator_under(&calls.killer(&data, number));
            runtime.block_on(load_until_gone(&mut fleet, &mut promises));
            let told = told(&running.seen());
            let coordinator = fleet.coordinator.as_mut().expect("was started");
            killed[kind] += usize::from(coordinator.has_ended());
            drop(fleet.coordinator.take());
            fleet.start_coordinator();
            runtime.block_on(async {
                let remote = expect_up(&mut fleet).await;
                promises.check(&remote, true).await;
            });
            assert_recorded(&place, &fleet, &told);
        }
    }
    assert_all_passed(&running.finish(), &fleet, count);
    promises.assert_typed();
    assert_no_panic(&fleet);
    println!("{points} places of {KINDS} kinds of calls; killed at them: {killed:?}; {} blobs", promises.stored());
    assert!(killed.iter().all(|killed| *killed > 0), "no kill at some kind of call: {killed:?}");
}

/// Rounds of load, until the coordinator is gone or that can't be expected any more.
async fn load_until_gone(fleet: &mut Fleet, promises: &mut Promises) {
    let Some(remote) = connect(fleet).await else { return };
    for _ in 0..ROUNDS_MAX {
        if !promises.round(&remote).await {
            break;
        }
    }
}

/// Cases of T3.6, and how long each takes.
const CASES: usize = 200;
const CASE_SECONDS: f64 = 0.3;
const AGENTS: usize = 3;

#[test]
fn t3_6_kills_at_any_time_leave_each_case_one_verdict_and_nothing_behind() {
    let cycles = times(10, 50);
    let place = shards(CASES, CASE_SECONDS);
    let mut fleet = Fleet::start(&place, AGENTS);
    let running = start(&place, &fleet);
    let (mut random, mut killed) = (Random::new(36), [0; 2]);
    let pause = Duration::from_secs_f64(CASE_SECONDS * CASES as f64 / AGENTS as f64) / cycles as u32;
    for _ in 0..cycles {
        std::thread::sleep(pause.mul_f64(random.between(0, 1000) as f64 / 1000.0));
        match random.between(0, AGENTS as u64) as usize {
            AGENTS => {
                drop(fleet.coordinator.take());
                std::thread::sleep(pause.mul_f64(random.between(0, 500) as f64 / 1000.0));
                fleet.start_coordinator();
                killed[0] += 1;
            }
            agent => {
                fleet.restart_agent(agent, &[]);
                killed[1] += 1;
            }
        }
    }
    let under_way = told(&running.seen()).len() < CASES;
    assert_all_passed(&running.finish(), &fleet, CASES);
    assert!(under_way, "the run was over before the last kill");
    println!("killed {killed:?} times");
    // What was killed could clean nothing up; what was started after it did.
    for agent in &mut fleet.agents {
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.wait(), Some(0));
    }
    let mut coordinator = fleet.coordinator.take().expect("it runs");
    coordinator.signal(Signal::SIGTERM);
    assert_eq!(coordinator.wait(), Some(0));
    let fleet_folder = place.beside("fleet");
    eventually("no process is left", || processes_of(&fleet_folder).is_empty());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("is there");
    assert_eq!(mounts.lines().find(|mount| mount.contains(&*fleet_folder.to_string_lossy())), None);
    let left: Vec<PathBuf> =
        (0..AGENTS).flat_map(|number| left_in(&fleet_folder.join(format!("agent-{number}")))).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
    assert_eq!(left_in(&fleet_folder.join("coordinator")), Vec::<PathBuf>::new());
    assert_no_panic(&fleet);
}

/// Processes that have anything to do with a folder, by what `/proc` says.
fn processes_of(folder: &Path) -> Vec<u32> {
    let name = folder.to_string_lossy().into_owned();
    let concerns = |id: &u32| {
        let process = PathBuf::from(format!("/proc/{id}"));
        let texts =
            ["cmdline", "environ", "mountinfo"].into_iter().filter_map(|file| std::fs::read(process.join(file)).ok());
        let links = ["cwd", "exe", "root"].into_iter().filter_map(|file| std::fs::read_link(process.join(file)).ok());
        let links = links.map(|link| link.to_string_lossy().into_owned().into_bytes());
        texts.chain(links).any(|bytes| String::from_utf8_lossy(&bytes).contains(&name))
    };
    let ids = std::fs::read_dir("/proc").expect("is mounted").flatten();
    ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(concerns).collect()
}

/// Files that are in a place for what is under way.
fn left_in(data: &Path) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(data).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_name().to_str() {
            Some("incoming" | "spool" | "sandbox") => left.extend(files_below(&path)),
            _ if entry.file_type().is_ok_and(|kind| kind.is_dir()) => left.extend(left_in(&path)),
            _ => {}
        }
    }
    left
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            _ => found.push(entry.path()),
        }
    }
    found
}
