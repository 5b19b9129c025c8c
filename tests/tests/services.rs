//! Services: real ones, ready before the first test, with clones for each shard; what fails in them is a fault; nothing of them is left.

use std::collections::BTreeSet;

use muster_tests::programs::{Fleet, Place, TestRun, eventually, start_until};
use muster_tests::python::{SQL_CASES, sql_suite};

/// The project with PostgreSQL and Redis, whose server can be found among the machine's processes by a mark.
fn stores(mark: &str) -> Place {
    let place = Place::of("services");
    let text = std::fs::read_to_string(place.project().join("muster.toml")).expect("the fixture has one");
    place.write("muster.toml", &text.replace("MARK", mark));
    place
}

/// A mark that no other test has.
fn mark(name: &str) -> String {
    format!("muster-{name}-{}", std::process::id())
}

/// Servers with the mark on this machine.
fn servers(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("processes are shown").flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(&format!("cluster_name={mark}"))).count()
}

fn assert_all_passed(run: &TestRun) {
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.assert_complete();
    assert_eq!((run.count("planned"), run.count("passed")), (8, 8));
}

#[test]
fn every_shard_finds_its_own_database_and_cache() {
    let mark = mark("clones");
    assert_all_passed(&stores(&mark).test(&[]));
    eventually("the servers are gone", || servers(&mark) == 0);
}

#[test]
fn a_killed_agent_takes_its_services_along_and_costs_no_verdict() {
    let mark = mark("killed");
    let place = stores(&mark);
    let text = std::fs::read_to_string(place.project().join("muster.toml")).expect("it was written");
    place.write("muster.toml", &text.replace("[test]", "[test]\nenv = { PAUSE = \"0.3\" }"));
    let mut fleet = Fleet::start(&place, 2);
    let command = place.muster(["test", "--format", "json", "--fleet", &fleet.url()]);
    let running = start_until(command, |event| event["event"] == "case_finished");
    drop(fleet.agents.remove(0));
    assert_all_passed(&running.finish());
    eventually("services are kept warm for the next run, and shown", || {
        let status = fleet.status(&place);
        let warm = status["agents"].as_array().into_iter().flatten().flat_map(|agent| agent["services"].as_array());
        warm.flatten().any(|services| services["names"] == serde_json::json!(["postgres", "redis"]))
    });
    assert!(servers(&mark) > 0, "what is shown as warm runs");
    drop(fleet);
    eventually("the servers are gone", || servers(&mark) == 0);
}

#[test]
fn a_service_that_ends_is_a_fault_with_its_log_and_no_failure() {
    let place = Place::of("services");
    place.write(
        "muster.toml",
        "[test.stores]\ncommand = [\"sh\", \"run.sh\"]\nenvironment = \"broken\"\n\
         [environment.broken.service.server]\ncommand = [\"sh\", \"-c\", \"echo no such cluster; exit 7\"]\nready = { tcp = 1 }\n",
    );
    let run = place.test(&[]);
    assert_eq!(run.code, Some(3), "{run:#?}");
    assert_eq!(run.count("failed"), 0, "{run:#?}");
    let said = format!("{:?}", run.events);
    assert!(said.contains("service server ended before it was ready: exit code 7"), "{run:#?}");
    assert!(said.contains("no such cluster"), "{run:#?}");
}

#[test]
fn a_service_that_is_never_ready_is_a_fault_too() {
    let place = Place::of("services");
    place.write(
        "muster.toml",
        "[test.stores]\ncommand = [\"sh\", \"run.sh\"]\nenvironment = \"late\"\n\
         [environment.late.service.server]\ncommand = [\"sleep\", \"1000\"]\nready = { exec = [\"false\"], deadline = \"200ms\" }\n",
    );
    let run = place.test(&[]);
    assert_eq!((run.code, run.count("failed")), (Some(3), 0), "{run:#?}");
    assert!(format!("{:?}", run.events).contains("was not ready after 200 ms"), "{run:#?}");
}

#[test]
fn an_integration_suite_of_pytest_and_psycopg_passes_on_two_agents_and_leaves_nothing() {
    let mark = mark("psycopg");
    let place = sql_suite(&mark);
    let fleet = Fleet::start(&place, 2);
    let run = TestRun::read(
        &place.muster(["test", "--format", "json", "--fleet", &fleet.url()]).output().expect("muster starts"),
    );
    assert_eq!(run.code, Some(0), "{run:#?}\n{}", fleet.logs());
    run.assert_complete();
    assert_eq!((run.count("planned"), run.count("passed")), (SQL_CASES, SQL_CASES));
    let cases = || run.events.iter().filter(|event| event["event"] == "case_finished");
    assert!(cases().all(|case| case["environment"] == "sandbox" && case["leaked"] == false), "{run:#?}");
    let agents: BTreeSet<String> = cases().map(|case| case["agent"].to_string()).collect();
    assert_eq!(agents.len(), 2, "both had a share: {agents:?}");
    assert!(servers(&mark) > 0, "they are kept warm");
    drop(fleet);
    eventually("the servers are gone", || servers(&mark) == 0);
}

#[test]
fn every_case_that_runs_alone_has_a_database_that_nobody_was_in() {
    let mark = mark("alone");
    // Every interpreter of this suite looks whether it is the first one in its database, and stays there.
    let run = sql_suite(&mark).test(&["--isolation", "process", "--", "test_recursion"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.assert_complete();
    assert_eq!((run.count("planned"), run.count("passed")), (5, 5));
    eventually("the servers are gone", || servers(&mark) == 0);
}

/// A web server that is ready when it serves this page.
fn web(page: &str, deadline: &str) -> Place {
    let place = Place::of("http");
    let text = std::fs::read_to_string(place.project().join("muster.toml")).expect("the fixture has one");
    place.write("muster.toml", &text.replace("PAGE\", d", &format!("{page}\", d")).replace("DEADLINE", deadline));
    place
}

#[test]
fn a_web_server_is_ready_when_it_serves_the_page() {
    let run = web("page", "60s").test(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(run.count("passed"), 1);
}

#[test]
fn a_web_server_that_only_answers_is_not_ready() {
    let run = web("missing", "1s").test(&[]);
    assert_eq!((run.code, run.count("failed")), (Some(3), 0), "{run:#?}");
    let said = format!("{:?}", run.events);
    assert!(said.contains("was not ready after 1000 ms") && said.contains("404"), "{run:#?}");
}
