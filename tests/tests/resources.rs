//! What attempts take of the fleet while they run: slots, exclusive groups, and what no agent has.

use muster_tests::programs::Place;

/// Suites that each take a lock that nobody may find taken, on the host because sandboxes share no directory.
fn locking(place: &Place, suites: &[&str]) -> String {
    let lock = place.beside("lock");
    let command = r#"command = ["sh", "-c", "mkdir $LOCK && sleep 0.2 && rmdir $LOCK"]"#;
    let suites: Vec<String> = suites.iter().map(|name| format!("[test.{name}]\n{command}\n")).collect();
    format!("[test]\nenvironment = \"host\"\nenv = {{ LOCK = {lock:?} }}\nexclusive = \"lock\"\n{}", suites.concat())
}

#[test]
fn an_exclusive_group_is_in_one_attempt_over_suites_and_agents() {
    let place = Place::empty();
    place.write("muster.toml", &locking(&place, &["a", "b", "c", "d", "e"]));
    let run = place.test(&["--agents", "2", "--slots", "2"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.assert_complete();
    assert_eq!(run.count("passed"), 5);
}

#[test]
fn cases_of_a_pattern_take_what_it_says_and_are_reported_once() {
    let place = Place::of("command");
    let text = std::fs::read_to_string(place.project().join("muster.toml")).expect("the fixture has one");
    let cases = "[test.shell.cases]\n\"shard ?/3\" = { exclusive = \"all\" }\n\"*shard 2/3\" = { cpu = 2, memory = \"64MiB\" }\n";
    place.write("muster.toml", &format!("{text}{cases}"));
    let run = place.test(&["--slots", "2"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.assert_complete();
    assert_eq!((run.count("planned"), run.count("passed")), (3, 3));
    let target = |case: &str| run.case(case)["target"].as_str().expect("a target").to_owned();
    assert!(target("shard 2/3").ends_with("[*shard 2/3]"), "{run:#?}");
    assert!(target("shard 1/3").ends_with("[shard ?/3]"), "{run:#?}");
}

#[test]
fn what_no_agent_is_large_enough_for_is_refused_with_a_hint() {
    let place = Place::of("command");
    let text = std::fs::read_to_string(place.project().join("muster.toml")).expect("the fixture has one");
    for (more, lack) in
        [("cpu = 3", "an attempt takes 3 and it has 2"), ("memory = \"900000GiB\"", "an attempt takes 921600000 MiB")]
    {
        place.write("muster.toml", &format!("{text}{more}\n"));
        let refused = place.muster(["test", "--slots", "2"]).output().expect("muster starts");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{said}");
        for word in ["no agent is large enough", lack, "hint:", "`cpu` or `memory`"] {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }
}
