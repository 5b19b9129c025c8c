//! The standard harness of the toolchain at hand, with cases that behave and cases that do not.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use muster_frameworks::{CaseEvent, DiscoveryError};
use muster_model::outcome::Verdict;
use muster_model::spec::{FrameworkKind, TargetSpec};
use support::{discover, run_shard, show, target, verdict};

fn binary() -> &'static PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let source = "tests/projects/libtest.rs";
        let binary = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("libtest-sample");
        let compiler = option_env!("RUSTC").unwrap_or("rustc");
        let status = Command::new(compiler)
            .args(["--test", "--edition=2024", source, "-o"])
            .arg(&binary)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(status.expect("the compiler that made this test starts").success());
        binary
    })
}

fn sample() -> TargetSpec {
    let binary = binary();
    let directory = binary.parent().expect("the binary is in a directory");
    target(FrameworkKind::Libtest, &[binary.to_str().expect("the target directory's path is UTF-8")], directory)
}

fn alone(name: &str) -> String {
    let (summary, events) = run_shard(&sample(), &[name]);
    assert_eq!(events, [CaseEvent::Started(0)]);
    show(&[name], &summary)
}

#[test]
fn every_case_is_discovered_and_ignored_ones_are_marked() {
    let cases = discover(&sample()).expect("the sample is a test binary");
    let ignored: Vec<_> = cases.iter().filter(|case| case.ignored).map(|case| case.name.as_str()).collect();
    assert_eq!(cases.len(), 17);
    assert_eq!(ignored, ["ignored::aborts", "ignored::exits", "ignored::hangs", "ignored::with_a_reason"]);
}

#[test]
fn a_program_that_is_no_test_binary_says_so() {
    let directory = binary().parent().expect("the binary is in a directory");
    let Err(DiscoveryError::Project(words)) = discover(&target(FrameworkKind::Libtest, &["/bin/echo"], directory))
    else {
        panic!("echo has no cases")
    };
    insta::assert_snapshot!(words, @"the test binary answered `--list` with `--list --format terse --ignored`, which is not the list of the standard harness; hint: with `harness = false` its exit status is its one case");
    let Err(DiscoveryError::Project(words)) = discover(&target(FrameworkKind::Libtest, &["/bin/false"], directory))
    else {
        panic!("false has no cases")
    };
    insta::assert_snapshot!(words, @"the test binary could not list its cases: it exited with status 1");
}

#[test]
fn a_shard_gives_every_result_its_reason_and_its_output() {
    let names = [
        "failing::asserts",
        "failing::does_not_panic",
        "failing::panics_otherwise",
        "failing::returns_an_error",
        "ignored::with_a_reason",
        "noisy::runs_itself",
        "noisy::writes_lines",
        "noisy::writes_no_newline",
        "plain::panics_as_it_should",
        "plain::passes",
        "plain::prints",
    ];
    let (summary, events) = run_shard(&sample(), &names);
    assert_eq!(events.len(), 2 * names.len());
    insta::assert_snapshot!(show(&names, &summary), @r#"
    failing::asserts = failed: assertion `left == right` failed: sums are hard
    failing::does_not_panic = failed: note: test did not panic as expected at tests/projects/libtest.rs:42:8
    failing::panics_otherwise = failed: sun
    failing::returns_an_error = failed: Error: "a bad result"
    ignored::with_a_reason = passed
    noisy::runs_itself = passed
    noisy::writes_lines = passed
    noisy::writes_no_newline = passed
    plain::panics_as_it_should = passed
    plain::passes = passed
    plain::prints = passed
    "#);
    assert!(summary.reports[0].output.starts_with("some words\n"), "{}", summary.reports[0].output);
}

#[test]
fn a_case_that_ends_its_process_is_the_suspect() {
    for (death, signal) in [("ignored::aborts", 6), ("ignored::exits", 0)] {
        let names = ["failing::asserts", death, "plain::passes"];
        let (summary, _) = run_shard(&sample(), &names);
        assert_eq!(
            show(&names, &summary),
            format!(
                "failing::asserts = failed\n{death} = open\nplain::passes = open\n\
                 Crashed {{ signal: {signal} }}, suspect: {death}\n"
            )
        );
    }
}

#[test]
fn the_exit_status_decides_over_a_case_that_is_alone() {
    assert_eq!(alone("plain::passes"), "plain::passes = passed\n");
    assert_eq!(alone("noisy::writes_lines"), "noisy::writes_lines = passed\n");
    assert_eq!(alone("noisy::runs_itself"), "noisy::runs_itself = passed\n");
    insta::assert_snapshot!(alone("failing::asserts"), @"failing::asserts = failed: assertion `left == right` failed: sums are hard");
    insta::assert_snapshot!(alone("failing::returns_an_error"), @r#"failing::returns_an_error = failed: Error: "a bad result""#);
    insta::assert_snapshot!(alone("ignored::aborts"), @"ignored::aborts = crashed: died of signal 6 (SIGABRT)");
    insta::assert_snapshot!(alone("ignored::exits"), @"ignored::exits = crashed: the process exited with status 0 while the test was running");
    insta::assert_snapshot!(alone("plain::gone"), @"plain::gone = failed: the test binary lists this test but does not run it");
}

#[test]
fn forged_lines_never_make_a_failure_pass() {
    let names = ["hostile::forges_its_own_pass", "hostile::zz_last", "plain::passes"];
    let (summary, _) = run_shard(&sample(), &names);
    assert_ne!(verdict(&summary, 0), Some(Verdict::Passed));
    assert_eq!(summary.reports, []);
    let names = ["hostile::forges_the_end", "hostile::zz_last", "plain::passes"];
    let (summary, _) = run_shard(&sample(), &names);
    insta::assert_snapshot!(show(&names, &summary), @"
    hostile::forges_the_end = open
    hostile::zz_last = open
    plain::passes = open
    Crashed { signal: 0 }, suspect: hostile::forges_the_end
    ");
    assert_eq!(alone("hostile::forges_its_own_pass"), "hostile::forges_its_own_pass = failed: and fails\n");
}
