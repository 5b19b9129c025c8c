//! `muster cache get`, `put`, `ls`, `gc`, `stats` and `why-miss`, on what embedded runs and clients have left in the cache.

use muster_proto::reapi::{Action, Command, Digest, Directory, DirectoryNode, FileNode, command};
use muster_tests::programs::{Fleet, Place};
use prost::Message;
use serde_json::{Value, json};

/// Runs `muster cache … --format json` and reads its answer.
fn ask(place: &Place, arguments: &[&str]) -> Value {
    let output = place.muster(["cache"]).args(arguments).args(["--format", "json"]).output().expect("muster starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {}\n{errors}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_file_that_is_stored_is_read_back_and_another_digest_is_not() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    // Larger than a message, so that it goes as a stream.
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|number| (number % 251) as u8).collect();
    std::fs::write(place.project().join("large"), &bytes).expect("is written");
    for function in ["sha256", "blake3"] {
        let put =
            |_| ask(&place, &["put", "large", "--function", function, "--fleet", &fleet.url()])["blobs"][0].clone();
        let [first, again] = [(); 2].map(put);
        assert_eq!((&first["uploaded"], &again["uploaded"]), (&json!(true), &json!(false)), "{function}");
        let digest = first["digest"].as_str().expect("a digest");
        assert!(digest.starts_with(function) && digest == again["digest"], "{digest}");
        ask(&place, &["get", digest, "back", "--fleet", &fleet.url()]);
        assert!(std::fs::read(place.project().join("back")).expect("is there") == bytes, "other bytes came back");
        let absent = digest.replace("/5000000", "/5000001");
        let output = place.muster(["cache", "get", &absent, "--fleet", &fleet.url()]).output().expect("muster starts");
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("hint: "), "{output:?}");
    }
}

#[test]
fn what_was_stored_is_listed_and_goes_when_room_is_made_unless_it_is_leased() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let url = fleet.url();
    let ask = |arguments: &[&str]| ask(&place, &[arguments, &["--fleet", &url]].concat());
    // More than one page.
    for number in 0..1100_u32 {
        std::fs::write(place.project().join(format!("{number}")), number.to_le_bytes()).expect("is written");
    }
    std::fs::write(place.project().join("large"), vec![7; 3_000_000]).expect("is written");
    let names: Vec<String> = (0..1100).map(|number| number.to_string()).collect();
    let files: Vec<&str> = names.iter().map(String::as_str).chain(["large"]).collect();
    let put = ask(&[&["put"], &files[..]].concat());
    let digests: Vec<&Value> = put["blobs"].as_array().expect("blobs").iter().map(|blob| &blob["digest"]).collect();
    let total = ask(&["ls"])["total"].as_u64().expect("a total");
    assert!(total >= 1101, "{total}");

    let newest = ask(&["ls", "--limit", "2"]);
    let listed = |answer: &Value| -> Vec<Value> {
        answer["blobs"].as_array().expect("blobs").iter().map(|blob| blob["digest"].clone()).collect()
    };
    assert_eq!(listed(&newest), [digests[1100].clone(), digests[1099].clone()], "{newest:#}");
    assert_eq!((&newest["blobs"][0]["bytes"], &newest["blobs"][0]["results"]), (&json!(3_000_000), &json!(0)));
    let largest = ask(&["ls", "--sort", "largest", "--limit", "1"]);
    assert_eq!(listed(&largest), [digests[1100].clone()], "{largest:#}");
    let all = listed(&ask(&["ls", "--all", "--sort", "oldest"]));
    let mine: Vec<&Value> = all.iter().filter(|digest| digests.contains(digest)).collect();
    assert!((all.len() as u64, &mine) == (total, &digests), "the order is that of use");
    assert_eq!(ask(&["ls", "results"]), json!({"results": [], "total": 0}));
    assert_eq!(ask(&["ls", "divergent"]), json!({"divergent": [], "total": 0}));

    // Asking whether it is there leases it.
    assert_eq!(ask(&["put", "500"])["blobs"][0]["uploaded"], false);
    let foreseen = ask(&["gc", "--to", "0", "--dry-run"]);
    assert_eq!(foreseen["evicted_blobs"], total - 1, "{foreseen:#}");
    assert_eq!(ask(&["ls"])["total"], total, "nothing went");
    let gone = ask(&["gc", "--older-than", "1h"]);
    assert_eq!((&gone["evicted_blobs"], &gone["reached"]), (&json!(0), &json!(true)), "{gone:#}");
    let gone = ask(&["gc", "--to", "0"]);
    assert_eq!(
        (&gone["evicted_blobs"], &gone["leased_blobs"], &gone["reached"]),
        (&json!(total - 1), &json!(1), &json!(false))
    );
    let left = ask(&["ls"]);
    assert_eq!(listed(&left), [digests[500].clone()], "{left:#}");
    assert_eq!(left["blobs"][0]["leased"], true);

    let output = place.muster(["cache", "gc", "--fleet", &url]).output().expect("muster starts");
    assert_eq!(output.status.code(), Some(2), "what should go has to be said: {output:?}");
}

#[test]
fn a_second_different_result_is_listed_and_who_asked_is_counted() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let (action, _) = store(&place, &fleet, b"an action");
    let hash = action.strip_prefix("sha256:").and_then(|rest| rest.split('/').next()).expect("a hash").to_owned();
    for exit_code in [0, 1, 1] {
        let result = muster_proto::reapi::ActionResult { exit_code, ..Default::default() };
        let file = place.project().join("result");
        std::fs::write(&file, result.encode_to_vec()).expect("is written");
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--upload-file"]).arg(&file);
        assert!(curl.arg(format!("{}/ac/{hash}", fleet.url())).status().expect("curl starts").success());
    }
    let url = fleet.url();
    let divergent = ask(&place, &["ls", "divergent", "--fleet", &url]);
    let found = &divergent["divergent"][0];
    assert_eq!((&divergent["total"], &found["times"]), (&json!(1), &json!(2)), "{divergent:#}");
    assert_ne!(found["first"], found["outcome"]);
    let results = ask(&place, &["ls", "results", "--fleet", &url]);
    assert_eq!((&results["results"][0]["key"], &results["results"][0]["divergent"]), (&found["key"], &json!(1)));

    let stats = ask(&place, &["stats", "--fleet", &url]);
    let count = |list: &str, head: &str, name: &str| {
        let all = stats[list].as_array().expect("a list");
        all.iter().find(|one| one[head] == name).map(|one| one["requests"].as_u64().expect("a count"))
    };
    assert_eq!(count("protocols", "protocol", "bazel_http"), Some(3), "{stats:#}");
    assert_eq!(count("clients", "client", "curl"), Some(3), "{stats:#}");
    assert!(count("protocols", "protocol", "remote_execution") > Some(0), "{stats:#}");
}

/// Stores a message as a client would; answers its digest as it is typed, and as messages have it.
fn store(place: &Place, fleet: &Fleet, bytes: &[u8]) -> (String, Digest) {
    std::fs::write(place.project().join("blob"), bytes).expect("is written");
    let put = ask(place, &["put", "blob", "--fleet", &fleet.url()]);
    let text = put["blobs"][0]["digest"].as_str().expect("a digest").to_owned();
    let (hash, size) = text.strip_prefix("sha256:").and_then(|rest| rest.split_once('/')).expect("HASH/SIZE");
    let digest = Digest { hash: hash.into(), size_bytes: size.parse().expect("a size") };
    (text, digest)
}

/// An action with one file deep in its inputs, and a PATH.
fn action(place: &Place, fleet: &Fleet, contents: &str, path: &str) -> String {
    let (_, file) = store(place, fleet, contents.as_bytes());
    let (_, other) = store(place, fleet, b"the same in both");
    let node = |name: &str, digest| FileNode { name: name.into(), digest: Some(digest), ..FileNode::default() };
    let inner = Directory { files: vec![node("header.h", file), node("same.h", other)], ..Directory::default() };
    let (_, inner) = store(place, fleet, &inner.encode_to_vec());
    let directories = vec![DirectoryNode { name: "lib".into(), digest: Some(inner) }];
    let (_, root) = store(place, fleet, &Directory { directories, ..Directory::default() }.encode_to_vec());
    let command = Command {
        arguments: vec!["cc".into(), "-c".into()],
        environment_variables: vec![command::EnvironmentVariable { name: "PATH".into(), value: path.into() }],
        ..Command::default()
    };
    let (_, command) = store(place, fleet, &command.encode_to_vec());
    let action = Action { command_digest: Some(command), input_root_digest: Some(root), ..Action::default() };
    store(place, fleet, &action.encode_to_vec()).0
}

#[test]
fn two_actions_differ_in_what_was_changed_by_name() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let first = action(&place, &fleet, "int a;", "/usr/bin");
    let second = action(&place, &fleet, "int b;", "/home/me/bin");
    let answer = ask(&place, &["why-miss", &first, &second, "--fleet", &fleet.url()]);
    let found = answer["differences"].as_array().expect("differences");
    let names: Vec<_> = found.iter().map(|one| (one["kind"].as_str(), one["name"].as_str())).collect();
    assert_eq!(names, [(Some("variable"), Some("PATH")), (Some("input"), Some("lib/header.h"))], "{answer:#}");
    assert_eq!((&found[0]["a"], &found[0]["b"]), (&json!("/usr/bin"), &json!("/home/me/bin")));
    let same = ask(&place, &["why-miss", &first, &first, "--fleet", &fleet.url()]);
    assert_eq!(same["differences"], json!([]));
    assert!(same["notes"].to_string().contains("the same action"), "{same:#}");
}

#[test]
fn a_case_that_ran_again_differs_from_its_last_run_in_the_file_that_was_changed() {
    let place = Place::of("command");
    assert_eq!(place.test(&[]).code, Some(0));
    let script = std::fs::read_to_string(place.project().join("run.sh")).expect("the fixture");
    place.write("run.sh", &(script + "# changed\n"));
    assert_eq!(place.test(&[]).code, Some(0));
    let answer = ask(&place, &["why-miss", "2", "shard 1/3"]);
    let found = answer["differences"].as_array().expect("differences");
    assert_eq!(found.len(), 1, "{answer:#}");
    assert_eq!(found[0]["kind"], "input");
    assert!(found[0]["name"].as_str().is_some_and(|name| name.ends_with("run.sh")), "{answer:#}");
    let nothing = place.muster(["cache", "why-miss", "1", "shard 1/3"]).output().expect("muster starts");
    assert_eq!(nothing.status.code(), Some(4), "the first run has nothing before it: {nothing:?}");
}
