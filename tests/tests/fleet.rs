//! Agents die, coordinators restart, people press Ctrl-C: every case is reported exactly once, and nothing is left behind.

use std::fmt::Write;

use muster_tests::programs::{Fleet, Place, Program, TestRun, eventually, start_until};
use nix::sys::signal::Signal;

/// A project of `count` cases that each sleep for some tenths of a second.
fn sleepers(count: usize) -> Place {
    let place = Place::of("workspace");
    let mut source = String::new();
    for number in 0..count {
        let milliseconds = 100 + number * 37 % 400;
        writeln!(
            source,
            "#[test]\nfn sleeps_{number}() {{ std::thread::sleep(std::time::Duration::from_millis({milliseconds})); }}"
        )
        .expect("writing to a text");
    }
    place.write("alpha/src/lib.rs", &source);
    place.write("beta/src/lib.rs", "");
    place
}

fn assert_all_passed(run: &TestRun, fleet: &Fleet, count: u64) {
    assert_eq!(run.code, Some(0), "{run:#?}\n{}", fleet.logs());
    run.assert_complete();
    assert_eq!(run.count("planned"), count);
    assert_eq!(run.count("passed"), count);
}

fn fleet_test(place: &Place, fleet: &Fleet) -> std::process::Command {
    place.muster(["test", "--format", "json", "--isolation", "process", "--fleet", &fleet.url()])
}

#[test]
fn a_fleet_of_programs_runs_a_suite_and_says_where() {
    let place = sleepers(10);
    let fleet = Fleet::start(&place, 2);
    let run = TestRun::read(&fleet_test(&place, &fleet).output().expect("muster starts"));
    assert_all_passed(&run, &fleet, 10);
    let agents: std::collections::BTreeSet<_> = run
        .events
        .iter()
        .filter(|event| event["event"] == "case_finished")
        .map(|event| event["agent"].to_string())
        .collect();
    assert_eq!(agents.len(), 2, "{agents:?}");
}

#[test]
fn a_killed_agent_costs_nothing_but_time() {
    let place = sleepers(30);
    let mut fleet = Fleet::start(&place, 3);
    let running = start_until(fleet_test(&place, &fleet), |event| event["event"] == "case_finished");
    drop(fleet.agents.remove(0));
    assert_all_passed(&running.finish(), &fleet, 30);
}

#[test]
fn a_frozen_agent_is_fenced_and_its_work_done_elsewhere() {
    let place = sleepers(20);
    let fleet = Fleet::start(&place, 2);
    let running = start_until(fleet_test(&place, &fleet), |event| event["event"] == "case_finished");
    fleet.agents[0].signal(Signal::SIGSTOP);
    let run = running.finish();
    fleet.agents[0].signal(Signal::SIGCONT);
    assert_all_passed(&run, &fleet, 20);
    eventually("the frozen agent is back and idle", || {
        let status = fleet.status(&place);
        let agents = status["agents"].as_array().cloned().unwrap_or_default();
        agents.len() == 2
            && agents
                .iter()
                .all(|agent| agent["state"] == "connected" && agent["attempts"].as_array().is_some_and(Vec::is_empty))
    });
}

#[test]
fn a_restarted_coordinator_continues_the_run_from_its_ledger() {
    let place = sleepers(30);
    let mut fleet = Fleet::start(&place, 2);
    let running = start_until(fleet_test(&place, &fleet), |event| event["event"] == "case_finished");
    drop(fleet.coordinator.take());
    fleet.start_coordinator();
    assert_all_passed(&running.finish(), &fleet, 30);
}

#[test]
fn a_drained_agent_finishes_what_runs_and_leaves() {
    let place = sleepers(20);
    let mut fleet = Fleet::start(&place, 2);
    let running = start_until(fleet_test(&place, &fleet), |event| event["event"] == "case_finished");
    let mut drained = fleet.agents.remove(0);
    drained.signal(Signal::SIGTERM);
    assert_eq!(drained.wait(), Some(0), "{}", fleet.logs());
    let run = running.finish();
    assert_all_passed(&run, &fleet, 20);
    let faults = run.events.iter().filter(|event| event["event"] == "attempt_fault" && event["kind"] != "returned");
    assert_eq!(faults.count(), 0, "{run:#?}");
}

#[test]
fn an_interrupted_run_is_cancelled_on_the_agents_too() {
    let place = sleepers(40);
    let fleet = Fleet::start(&place, 1);
    let running = start_until(fleet_test(&place, &fleet), |event| event["event"] == "case_finished");
    running.program.signal(Signal::SIGINT);
    let run = running.finish();
    assert_eq!(run.code, Some(130), "{run:#?}");
    eventually("nothing runs on the agent", || {
        let status = fleet.status(&place);
        status["agents"][0]["attempts"].as_array().is_some_and(Vec::is_empty)
    });
    eventually("the agent runs no program", || programs_of(&fleet.agents[0]).is_empty());
}

#[test]
fn an_interrupted_embedded_run_leaves_no_process() {
    let place = sleepers(40);
    let command = place.muster(["test", "--format", "json", "--isolation", "process"]);
    let running = start_until(command, |event| event["event"] == "case_finished");
    let group = descendants(running.program.id());
    running.program.signal(Signal::SIGINT);
    let run = running.finish();
    assert_eq!(run.code, Some(130), "{run:#?}");
    eventually("its descendants are gone", || {
        group.iter().all(|id| !std::path::Path::new(&format!("/proc/{id}")).exists())
    });
}

/// What an agent runs: its launchers, and the places that they hold ready, wait for programs and are none.
fn programs_of(agent: &Program) -> Vec<u32> {
    let is_launcher = |id: &u32| {
        let name = std::fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        name.trim_end() == "muster-sandbox"
    };
    let mut found = descendants(agent.id());
    found.retain(|id| !is_launcher(id));
    found
}

/// Every process below `root`, by what `/proc` says.
fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let parents: Vec<(u32, u32)> = std::fs::read_dir("/proc")
        .expect("is mounted")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            // The name in parentheses may contain anything; the parent is the second field after it.
            let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((id, parent))
        })
        .collect();
    let mut position = 0;
    while position < found.len() {
        let parent = found[position];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        position += 1;
    }
    found.remove(0);
    found
}
