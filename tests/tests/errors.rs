//! Bad input gets one sentence, its cause, and the next thing to type; each class of failure has its exit code.

use std::process::Command;

use muster_tests::programs::{Fleet, Place, free_address};

fn fails(mut command: Command, code: i32, words: &[&str]) {
    let output = command.output().expect("muster starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn no_project() {
    let place = Place::empty();
    fails(place.muster(["test"]), 4, &["error:", "hint:"]);
    fails(place.muster(["test", "no/such/directory"]), 4, &["no/such/directory", "hint:"]);
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_column() {
    let place = Place::of("workspace");
    place.write("muster.toml", "[test]\nretries = 1\nretrys = 2\n");
    fails(place.muster(["test"]), 5, &["muster.toml:3:1", "retrys", "hint:"]);
}

#[test]
fn a_build_failure_is_in_the_compilers_own_words() {
    let place = Place::of("workspace");
    place.write("alpha/src/lib.rs", "fn broken( {}\n");
    fails(place.muster(["test"]), 5, &["alpha/src/lib.rs:1"]);
}

#[test]
fn an_unreachable_coordinator() {
    let place = Place::of("workspace");
    let url = format!("http://{}", free_address());
    fails(place.muster(["test", "--fleet", &url]), 3, &[&url, "hint:"]);
    fails(place.muster(["fleet", "status", "--fleet", &url]), 3, &[&url, "hint:"]);
}

#[test]
fn an_unknown_operation() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let words =
        ["there is no operation operations/0f", "cause:", "hint: muster fleet status", "hint: muster runs list"];
    fails(place.muster(["runs", "why", "operations/0f", "--fleet", &fleet.url()]), 3, &words);
    fails(
        place.muster(["runs", "why", "9", "--fleet", &fleet.url()]),
        3,
        &["there is no run 9", "hint: muster runs list"],
    );
}

#[test]
fn no_agent_that_can_run_it_says_what_is_missing() {
    let place = Place::of("workspace");
    let fleet = Fleet::start(&place, 1);
    let url = fleet.url();
    place.write("muster.toml", "[test.cargo]\nframework = \"cargo\"\nrequirements = { gpu = \"yes\" }\n");
    fails(place.muster(["test", "--fleet", &url]), 3, &["gpu=yes", "hint:"]);
    fails(place.muster(["test", "--fleet", &url, "--base", "plan9-4"]), 3, &["plan9-4", "hint:"]);
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    let place = Place::of("workspace");
    fails(place.muster(["test", "--no-such-flag"]), 2, &["--no-such-flag"]);
}
