//! Plain reports as people read them.

use super::super::tests_support::{Shared, events, play, step};
use super::*;

fn report(verbose: bool) -> (String, String) {
    let (output, words) = (Shared::default(), Shared::default());
    let mut reporter = PlainReporter::new(output.clone(), words.clone(), Paint::PLAIN, verbose);
    reporter.note(&step()).unwrap();
    reporter.note(&Note::Notice("the cache is cold".into())).unwrap();
    reporter
        .note(&Note::NotRun {
            suite: "cargo".into(),
            what: "shapes (doctests)".into(),
            why: "they need a compiler".into(),
            hint: "cargo test --doc".into(),
        })
        .unwrap();
    play(&mut reporter, &events());
    (output.text(), words.text())
}

#[test]
fn only_what_did_not_pass_gets_a_line() {
    let (output, words) = report(false);
    insta::assert_snapshot!(words, @r"
    note: the cache is cold
    not run: cargo shapes (doctests): they need a compiler
      hint: cargo test --doc
    ");
    insta::assert_snapshot!(output, @r"
            FAIL shapes (test broken) cannot list its cases
    run 17: 7 cases on 4 slots, about 1 s
           FAULT agent_lost on agent-1: its lease ran out (1 case is tried again)
            FAIL [  0.012 s] shapes (lib) tests::volume
           CRASH [  0.012 s] shapes (lib) tests::raw
           FLAKY [  0.012 s] shapes (lib) tests::network
    INTERFERENCE [  0.012 s] shapes (lib) tests::global
            PASS [  0.012 s] shapes (lib) tests::daemon  leaked processes
    --- FAIL shapes (test broken) cannot list its cases
        ImportError: no module named y
    --- LEAK shapes (lib) tests::daemon left processes behind
    --- FLAKY shapes (lib) tests::network  0.012 s on agent-0
        it passed at the 2nd attempt
        first try
    --- INTERFERENCE shapes (lib) tests::global  0.012 s on agent-0
        it failed in company and passed alone
        company: tests::area, tests::volume
    --- FAIL shapes (lib) tests::volume  0.012 s on agent-0
        thread 'tests::volume' panicked at src/lib.rs:12:5:
        assertion failed: 1 == 2
    --- CRASH shapes (lib) tests::raw  0.012 s on agent-0
        the process was killed by SIGSEGV
    2 passed (1 cached), 2 failed, 1 skipped, 1 flaky, 1 interference in 1.23 s  efficiency 93 %  3 filtered out  run 17
    ");
}

#[test]
fn with_verbose_every_case_gets_a_line() {
    let (output, _) = report(true);
    let lines: Vec<&str> = output.lines().filter(|line| line.contains(" [")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
            PASS [   cached] shapes (lib) tests::area
            FAIL [  0.012 s] shapes (lib) tests::volume
            SKIP [  0.012 s] shapes (lib) tests::slow
           CRASH [  0.012 s] shapes (lib) tests::raw
           FLAKY [  0.012 s] shapes (lib) tests::network
    INTERFERENCE [  0.012 s] shapes (lib) tests::global
            PASS [  0.012 s] shapes (lib) tests::daemon  leaked processes
    ");
}

#[test]
fn nothing_a_test_wrote_reaches_the_terminal_raw() {
    assert!(!report(true).0.contains('\u{1b}'));
}
