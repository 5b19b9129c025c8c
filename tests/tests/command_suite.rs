//! `muster test` on a command that takes a shard through Bazel's variables.

use muster_tests::programs::Place;

#[test]
fn a_command_is_run_once_for_each_shard() {
    let place = Place::of("command");
    let run = place.test(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.assert_complete();
    assert_eq!(run.count("planned"), 3);
    assert_eq!(run.count("passed"), 3);
}

#[test]
fn a_command_that_ignores_sharding_fails_and_is_told_why() {
    let place = Place::of("command");
    place.write("run.sh", "exit 0\n");
    let run = place.test(&[]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert!(run.case("shard 1/3")["message"].to_string().contains("shard"), "{run:#?}");
}
