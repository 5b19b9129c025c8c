//! Programs that take a shard through Bazel's variables, written in shell.

mod support;

use std::path::Path;

use muster_model::spec::{FrameworkKind, TargetSpec};
use support::{discover, run_shard, show, target};

fn script(script: &str, shards: u32) -> TargetSpec {
    TargetSpec { shards, ..target(FrameworkKind::Command, &["/bin/sh", "-c", script], Path::new("/tmp")) }
}

fn outcome(text: &str, shards: u32) -> String {
    let name = format!("shard {shards}/{shards}");
    show(&[&name], &run_shard(&script(text, shards), &[&name]).0)
}

#[test]
fn cases_are_the_shards() {
    let names: Vec<String> =
        discover(&script("true", 3)).expect("nothing is run").into_iter().map(|case| case.name).collect();
    assert_eq!(names, ["shard 1/3", "shard 2/3", "shard 3/3"]);
}

#[test]
fn a_program_is_told_its_shard_in_bazels_way() {
    let text = r#"touch "$TEST_SHARD_STATUS_FILE"; test -d "$TEST_TMPDIR" || exit 9
        test "$TEST_SHARD_INDEX/$TEST_TOTAL_SHARDS" = 2/3 || exit 8
        echo '<testsuite><testcase name="a"/><testcase name="b"><skipped/></testcase></testsuite>' > "$XML_OUTPUT_FILE""#;
    insta::assert_snapshot!(outcome(text, 3), @"shard 3/3 = passed: 2 tests, 1 skipped");
}

#[test]
fn a_report_never_makes_a_failure_pass() {
    let good = r#"echo '<testsuite><testcase name="a"/></testsuite>' > "$XML_OUTPUT_FILE""#;
    let bad =
        r#"echo '<testsuite><testcase name="a"><failure message="no"/></testcase></testsuite>' > "$XML_OUTPUT_FILE""#;
    insta::assert_snapshot!(outcome(&format!("{good}; exit 3"), 1), @"shard 1/1 = failed: exit status 3: 1 test");
    insta::assert_snapshot!(outcome(bad, 1), @"shard 1/1 = failed: exit status 0 but the report has failures: 1 test, 1 failed: a");
    insta::assert_snapshot!(outcome(&format!("{good}; kill -9 $$"), 1), @"shard 1/1 = crashed: died of signal 9 (SIGKILL)");
}

#[test]
fn a_program_without_a_report_is_judged_by_its_exit() {
    insta::assert_snapshot!(outcome("true", 1), @"shard 1/1 = passed: no report");
    insta::assert_snapshot!(outcome("echo '<half' > $XML_OUTPUT_FILE", 1), @"shard 1/1 = passed: the report is unreadable: not well-formed XML");
    insta::assert_snapshot!(outcome("exit 4", 1), @"shard 1/1 = failed: exit status 4");
}

#[test]
fn a_program_that_does_not_know_shards_is_found_out() {
    insta::assert_snapshot!(outcome("true", 3), @"shard 3/3 = failed: the program does not support sharding: it did not touch TEST_SHARD_STATUS_FILE, so each of 3 shards ran everything; hint: set `shards = 1`");
}

#[test]
fn a_failure_comes_with_what_was_written_and_what_the_report_says() {
    let text = r#"echo words; echo '<testsuite><testcase name="a"><failure message="no">line 3</failure></testcase></testsuite>' > "$XML_OUTPUT_FILE"; exit 1"#;
    let (summary, _) = run_shard(&script(text, 1), &["shard 1/1"]);
    insta::assert_snapshot!(summary.reports[0].output, @"
    words

    --- a: no
    line 3
    ");
}
