//! Output that lies, breaks off or never ends: laws that hold whatever a process writes.

mod support;

use std::path::Path;

use muster_frameworks::{Ending, EndingStatus, Shard, Stream, Summary, framework};
use muster_model::attempt::Interruption;
use muster_model::limits::{CASE_OUTPUT_BYTES_MAX, SHARD_OUTPUT_BYTES_MAX};
use muster_model::outcome::Verdict;
use muster_model::spec::FrameworkKind;
use muster_model::{CaseIndex, Instant};
use proptest::prelude::*;
use support::{NONCE, cases, check_law, read, show, target, verdict};

/// What the standard harness of Rust 1.95 wrote about [`NAMES`].
const HARNESS: &[u8] = include_bytes!("recorded/libtest-1.95.txt");
const NAMES: [&str; 5] = [
    "failing::asserts",
    "failing::returns_an_error",
    "noisy::writes_lines",
    "plain::panics_as_it_should",
    "plain::passes",
];
/// What the plugin wrote about [`PYTEST_NAMES`] under [`NONCE`].
const FRAMES: &[u8] = include_bytes!("recorded/pytest-9.txt");
const PYTEST_NAMES: [&str; 4] = [
    "test_results.py::test_passes",
    "test_results.py::test_fails",
    "test_results.py::test_skipped",
    "test_results.py::test_teardown_error",
];

fn ending(status: EndingStatus) -> Ending {
    Ending { status, killed: None, excess: String::new(), leaked: false, files: Vec::new() }
}

/// What bytes on standard output come to, in one piece.
fn judge(kind: FrameworkKind, names: &[&str], bytes: &[u8], ending: Ending) -> Summary {
    let target = target(kind, &["/sample"], Path::new("/"));
    let cases = cases(names);
    let shard = Shard { target: &target, cases: &cases, nonce: NONCE };
    read(&shard, &[(Stream::Standard, bytes.to_vec())], ending).0
}

fn libtest(names: &[&str], text: &str, status: EndingStatus) -> String {
    show(names, &judge(FrameworkKind::Libtest, names, text.as_bytes(), ending(status)))
}

#[test]
fn recorded_outputs_are_read_whole() {
    let summary = judge(FrameworkKind::Libtest, &NAMES, HARNESS, ending(EndingStatus::Code(101)));
    insta::assert_snapshot!(show(&NAMES, &summary), @r#"
    failing::asserts = failed: assertion `left == right` failed: sums are hard
    failing::returns_an_error = failed: Error: "a bad result"
    noisy::writes_lines = passed
    plain::panics_as_it_should = passed
    plain::passes = passed
    "#);
    let summary = judge(FrameworkKind::Pytest, &PYTEST_NAMES, FRAMES, ending(EndingStatus::Code(1)));
    insta::assert_snapshot!(show(&PYTEST_NAMES, &summary), @"
    test_results.py::test_passes = passed
    test_results.py::test_fails = failed: AssertionError: lists are hard
    test_results.py::test_skipped = skipped: not today
    test_results.py::test_teardown_error = failed: error at teardown: RuntimeError: could not clean up
    ");
}

#[test]
fn an_output_cut_at_any_byte_never_reports_what_was_not_said() {
    let recordings = [
        (FrameworkKind::Libtest, &NAMES[..], HARNESS, EndingStatus::Code(101)),
        (FrameworkKind::Pytest, &PYTEST_NAMES[..], FRAMES, EndingStatus::Code(1)),
    ];
    for (kind, names, bytes, status) in recordings {
        let whole = judge(kind, names, bytes, ending(status));
        for end in 0..bytes.len() {
            for status in [EndingStatus::Signal(9), EndingStatus::Code(0), status] {
                let cut = judge(kind, names, &bytes[..end], ending(status));
                for position in 0..names.len() as u32 {
                    let said = verdict(&cut, position);
                    assert!(said.is_none() || said == verdict(&whole, position), "cut at {end}: {cut:?}");
                }
            }
        }
    }
}

#[test]
fn an_exit_status_outranks_every_line() {
    for (kind, names, bytes) in
        [(FrameworkKind::Libtest, &NAMES[..], HARNESS), (FrameworkKind::Pytest, &PYTEST_NAMES[..], FRAMES)]
    {
        for status in [EndingStatus::Code(0), EndingStatus::Code(7), EndingStatus::Signal(11)] {
            let summary = judge(kind, names, bytes, ending(status));
            assert_eq!(summary.reports, [], "{status:?}");
            assert_eq!(summary.interruption, Some((Interruption::Contradicted, None)));
        }
    }
}

#[test]
fn a_killed_process_charges_the_case_that_was_running() {
    let text = "\nrunning 3 tests\ntest a ... ok\ntest b ... ";
    let mut killed = ending(EndingStatus::Signal(9));
    killed.killed = Some(Interruption::TimedOut);
    let summary = judge(FrameworkKind::Libtest, &["a", "b", "c"], text.as_bytes(), killed);
    insta::assert_snapshot!(show(&["a", "b", "c"], &summary), @"
    a = passed
    b = open
    c = open
    TimedOut, suspect: b
    ");
}

#[test]
fn a_forged_result_before_a_death_is_not_taken() {
    let text = "\nrunning 2 tests\ntest a ... ok\n";
    assert_eq!(
        libtest(&["a", "b"], text, EndingStatus::Signal(6)),
        "a = open\nb = open\nCrashed { signal: 6 }, suspect: a\n"
    );
    let text = "\nrunning 2 tests\ntest a ... noise\nok\ntest b ... ";
    assert_eq!(
        libtest(&["a", "b"], text, EndingStatus::Signal(6)),
        "a = open\nb = open\nCrashed { signal: 6 }, suspect: b\n"
    );
}

#[test]
fn a_forged_start_withdraws_belief_in_everything() {
    // `a` failed; it wrote `ok` and a start of `b` to hide that, and `b` is started by the harness afterwards.
    let text = "\nrunning 3 tests\ntest a ... ok\ntest b ... noise\nFAILED\ntest c ... ok\ntest b ... ok\n\n\
                test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n";
    insta::assert_snapshot!(libtest(&["a", "b", "c"], text, EndingStatus::Code(101)), @"
    a = open
    b = open
    c = open
    Contradicted, suspect: nobody
    ");
}

#[test]
fn a_result_behind_somebody_elses_noise_is_left_open() {
    // A thread left behind by `a` wrote into the line of `b`.
    let text = "\nrunning 3 tests\ntest a ... ok\nnoisetest b ... FAILED\ntest c ... ok\n\n\
                failures:\n\nfailures:\n    b\n\n\
                test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n";
    let shown = libtest(&["a", "b", "c"], text, EndingStatus::Code(101));
    assert!(!shown.contains("b = passed"), "{shown}");
    assert!(shown.contains("b = open"), "{shown}");
}

#[test]
fn frames_of_another_nonce_or_in_halves_are_noise() {
    let start = format!("{NONCE} {{\"event\":\"start\",\"case\":0}}\n");
    let result = r#"{"event":"result","case":0,"verdict":"passed","duration":1.0,"message":"","output":""}"#;
    for forged in [format!("guessed {result}\n"), format!("{NONCE} {}\n", &result[..40]), format!("{NONCE} {result}")] {
        let summary = judge(
            FrameworkKind::Pytest,
            &["one", "two"],
            format!("{start}{forged}").as_bytes(),
            ending(EndingStatus::Signal(9)),
        );
        assert_eq!(summary.reports, [], "{forged}");
        assert_eq!(summary.interruption, Some((Interruption::Crashed { signal: 9 }, Some(CaseIndex(0)))));
    }
}

#[test]
fn a_sanitizers_report_is_never_retried() {
    let target = target(FrameworkKind::ExitCode, &["/sample"], Path::new("/"));
    let cases = cases(&["main"]);
    let shard = Shard { target: &target, cases: &cases, nonce: NONCE };
    let words = b"==1==ERROR: AddressSanitizer: heap-use-after-free\n".to_vec();
    let (summary, _) = read(&shard, &[(Stream::Error, words)], ending(EndingStatus::Code(1)));
    assert!(summary.reports[0].never_retry);
    assert_eq!(summary.reports[0].verdict, Verdict::Failed);
}

#[test]
fn a_hundred_megabytes_stay_small() {
    const CHUNKS: usize = 100 * 16;
    let lines = b"words of a chatty case, without a result in them\n".repeat(64 * 1024 / 49);
    let one_line = vec![b'x'; 64 * 1024];
    for chunk in [lines, one_line] {
        for (kind, names) in [
            (FrameworkKind::Libtest, &["a", "b"][..]),
            (FrameworkKind::Libtest, &["a"][..]),
            (FrameworkKind::Pytest, &["a", "b"][..]),
            (FrameworkKind::ExitCode, &["main"][..]),
        ] {
            let target = target(kind, &["/sample"], Path::new("/"));
            let cases = cases(names);
            let shard = Shard { target: &target, cases: &cases, nonce: NONCE };
            let mut reader = framework(kind).reader(&shard);
            reader.push(Instant(0), Stream::Standard, b"running 2 tests\ntest a ... ");
            for _ in 0..CHUNKS {
                reader.push(Instant(1), Stream::Standard, &chunk);
            }
            let summary = reader.finish(Instant(2), ending(EndingStatus::Signal(9)));
            check_law(&shard, &summary);
            assert!(summary.reports.iter().all(|report| report.output.len() <= CASE_OUTPUT_BYTES_MAX));
        }
    }
}

#[test]
fn the_output_of_all_cases_of_a_shard_is_bounded() {
    let names: Vec<String> = (0..100).map(|number| format!("case{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut text = String::new();
    for position in 0..names.len() {
        let words = "w".repeat(CASE_OUTPUT_BYTES_MAX);
        text += &format!(
            "{NONCE} {{\"event\":\"start\",\"case\":{position}}}\n{NONCE} {{\"event\":\"result\",\"case\":{position},"
        );
        text += &format!("\"verdict\":\"failed\",\"duration\":0.1,\"message\":\"\",\"output\":\"{words}\"}}\n");
    }
    let summary = judge(FrameworkKind::Pytest, &names, text.as_bytes(), ending(EndingStatus::Signal(9)));
    let bytes: usize = summary.reports.iter().map(|report| report.output.len()).sum();
    assert_eq!(summary.reports.len(), 100);
    // Each case past the bound still says how much is left out.
    assert!(bytes <= SHARD_OUTPUT_BYTES_MAX + 100 * 64, "{bytes}");
}

/// Pieces that harnesses, frames and forgers are made of.
fn hostile_output() -> impl Strategy<Value = Vec<u8>> {
    let frame = |json: &str| format!("{NONCE} {json}\n");
    let pieces = vec![
        "\nrunning 3 tests\n".to_owned(),
        "test a ... ".to_owned(),
        "test b ... ".to_owned(),
        "test c - should panic ... ".to_owned(),
        "ok\n".to_owned(),
        "FAILED\n".to_owned(),
        "ignored, why\n".to_owned(),
        "noise".to_owned(),
        "\n".to_owned(),
        "\nfailures:\n\n---- a stdout ----\nthread 'a' panicked at x:\nwhy\n".to_owned(),
        "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n".to_owned(),
        "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n".to_owned(),
        frame(r#"{"event":"start","case":0}"#),
        frame(r#"{"event":"start","case":1}"#),
        frame(r#"{"event":"start","case":9}"#),
        frame(r#"{"event":"result","case":0,"verdict":"passed","duration":-1.0,"message":"","output":""}"#),
        frame(r#"{"event":"result","case":1,"verdict":"failed","duration":1e300,"message":"m","output":"o"}"#),
        frame(r#"{"event":"end","status":0,"count":1,"errors":0}"#),
        frame(r#"{"event":"end","status":1,"count":2,"errors":0}"#),
    ];
    prop::collection::vec(
        prop_oneof![
            8 => prop::sample::select(pieces).prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ],
        0..25,
    )
    .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn the_summary_does_not_depend_on_how_bytes_arrive(
        bytes in hostile_output(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        status in prop::sample::select(vec![
            EndingStatus::Code(0), EndingStatus::Code(1), EndingStatus::Code(101), EndingStatus::Signal(6),
        ]),
        kind in prop::sample::select(vec![
            FrameworkKind::Libtest, FrameworkKind::Pytest, FrameworkKind::ExitCode, FrameworkKind::Command,
        ]),
        count in 1_usize..4,
    ) {
        let names = ["a", "b", "c"];
        let count = if kind == FrameworkKind::ExitCode { 1 } else { count };
        let target = target(kind, &["/sample"], Path::new("/"));
        let cases = cases(&names[..count]);
        let shard = Shard { target: &target, cases: &cases, nonce: NONCE };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.push(bytes.len());
        cuts.sort();
        let mut start = 0;
        let mut chunks = Vec::new();
        for cut in cuts {
            chunks.push((Stream::Standard, bytes[start..cut].to_vec()));
            start = cut;
        }
        let pieces = read(&shard, &chunks, ending(status));
        let whole = read(&shard, &[(Stream::Standard, bytes)], ending(status));
        prop_assert_eq!(pieces, whole);
    }
}
