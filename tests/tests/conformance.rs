//! `muster conformance` against Muster, which has to pass, and against BuildGrid, of which it has to say what is true.

use muster_tests::clients::prepared;
use muster_tests::load::servers::{Kind, Server};
use muster_tests::programs::{Fleet, Place};
use serde_json::Value;

/// Runs the checks; answers the exit code and a line for each check, the summary last.
fn run(place: &Place, arguments: &[&str]) -> (Option<i32>, Vec<Value>) {
    let output = place.muster(["conformance", "--format", "json"]).args(arguments).output().expect("muster starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    (output.status.code(), lines.collect())
}

/// `name: what was seen` of every check that ended like this.
fn ended<'a>(lines: &'a [Value], outcome: &str) -> Vec<(&'a str, &'a str)> {
    let text = |line: &'a Value, key: &str| line[key].as_str().unwrap_or_default();
    let matching = lines.iter().filter(|line| line["outcome"] == outcome);
    matching.map(|line| (text(line, "name"), text(line, "seen"))).collect()
}

#[test]
fn muster_keeps_every_rule_about_what_it_offers() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 2);
    for instance in ["", "team/blake3"] {
        let url = format!("grpc://{}", fleet.address);
        let (code, lines) = run(&place, &["--strict", "--instance", instance, &url]);
        for outcome in ["failed", "deviates", "unanswered"] {
            assert_eq!(ended(&lines, outcome), [], "{outcome} in instance `{instance}`\n{}", fleet.logs());
        }
        assert_eq!(code, Some(0));
        // What is not offered has one reason: execution is switched off, or the rule is about the other default function.
        for (name, seen) in ended(&lines, "not_offered") {
            let of_execution = seen.contains("exec_enabled is false") || seen.contains("no execution_capabilities");
            let of_function = instance.ends_with("blake3") && name == "functions/sha256-without-a-word";
            assert!(of_execution || of_function, "{name} is not offered: {seen}");
        }
        assert!(ended(&lines, "passed").len() > 80, "{}", lines.len());
    }
}

#[tokio::test]
async fn buildgrid_breaks_the_rules_that_it_breaks_and_no_others() {
    let place = Place::empty();
    let server = Server::start(&Kind::BuildGrid(prepared("bgd")), &place.beside("")).await;
    let (code, lines) = run(&place, &[&format!("grpc://{}", server.address)]);
    let names = |outcome| ended(&lines, outcome).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let failed = [
        "cas/size-is-part-of-digest",
        "byte-stream/write-too-short",
        "byte-stream/write-too-long",
        "byte-stream/write-wrong-offset",
        "byte-stream/read-limit",
        "byte-stream/read-beyond-end",
    ];
    assert_eq!(names("failed"), failed, "{:#?}", ended(&lines, "failed"));
    let deviates = ["cas/update-full-batch", "action-cache/inline-stdout", "action-cache/without-digest"];
    assert_eq!(names("deviates"), deviates, "{:#?}", ended(&lines, "deviates"));
    assert_eq!(names("unanswered"), [""; 0]);
    assert!(names("passed").len() > 50);
    assert_eq!(code, Some(1));
}

#[test]
fn a_server_that_is_not_there_and_a_check_that_is_not_there_are_told_apart() {
    let place = Place::empty();
    let address = muster_tests::programs::free_address();
    assert_eq!(run(&place, &[&format!("grpc://{address}")]).0, Some(3));
    assert_eq!(run(&place, &[&address]).0, Some(2));
    assert_eq!(run(&place, &["--filter", "no-such-check", &format!("grpc://{address}")]).0, Some(4));
}
