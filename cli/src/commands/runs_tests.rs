//! Runs as they are listed and shown.

use muster_proto::v1::{CaseFinished, Efficiency};

use super::*;

/// A run with a bit of everything.
pub(in super::super) fn shown() -> ShowRunResponse {
    let summary = RunSummary {
        run: 17,
        project: "shapes".into(),
        outcome: "failed".into(),
        started_unix_ms: 1_700_000_000_000,
        wall_ms: 1000,
        planned: 3,
        passed: 2,
        failed: 1,
        cached: 1,
        executed: 2,
        ..RunSummary::default()
    };
    let case = |name: &str, outcome: &str, duration_us, cached| CaseFinished {
        target_name: "shapes (lib)".into(),
        suite: "cargo".into(),
        name: name.into(),
        outcome: outcome.into(),
        duration_us,
        cached,
        agent: "agent-0".into(),
        environment: "sandbox".into(),
        attempts: 1,
        ..CaseFinished::default()
    };
    let attempt = AttemptSummary {
        epoch: 4,
        agent: "agent-0".into(),
        cases: 2,
        queued_ms: 2,
        assigned_ms: 5,
        finished_ms: 990,
        waited_us: 100,
        transfer_us: 20_000,
        environment_us: 3_000,
        execution_us: 900_000,
        memory_peak_bytes: 96 << 20,
        cpu_us: 1_200_000,
        written_bytes: 5 << 10,
        processes_peak: 4,
        processes_created: 9,
        result: "ran".into(),
        ..AttemptSummary::default()
    };
    let discovery =
        AttemptSummary { epoch: 3, discover: true, cases: 0, execution_us: 4_000, written_bytes: 0, ..attempt.clone() };
    ShowRunResponse {
        summary: Some(summary),
        targets: vec![TargetSummary {
            target: 0,
            name: "shapes (lib)".into(),
            suite: "cargo".into(),
            planned: 3,
            environment: "sandbox".into(),
            base: "debian-12@0123456789ab".into(),
            without: Vec::new(),
            profile: "strict".into(),
        }],
        cases: vec![
            CaseFinished { output: "expected\u{1b}[2J\n".into(), ..case("tests::volume", "failed", 850_000, false) },
            case("tests::edge", "passed", 40_000, false),
            case("tests::area", "passed", 990_000, true),
        ],
        attempts: vec![discovery, attempt],
        efficiency: Some(Efficiency {
            wall_ms: 1000,
            lower_bound_ms: 850,
            efficiency_milli: 850,
            tail_ms: 100,
            dispatch_ms: 27,
            transfer_ms: 20,
            environment_ms: 3,
            slots: 2,
        }),
    }
}

#[test]
fn the_list_is_a_table() {
    let newest = shown().summary.unwrap();
    let older = RunSummary { run: 9, outcome: "nothing_to_run".into(), wall_ms: 0, ..newest.clone() };
    insta::assert_snapshot!(list_page(&[newest, older]), @r"
    run  project  outcome         passed  failed  flaky  cached  executed     time  started (UTC)
     17  shapes   failed               2       1      0       1         2   1.00 s  2023-11-14 22:13
      9  shapes   nothing to run       2       1      0       1         2  0.000 s  2023-11-14 22:13
    ");
    insta::assert_snapshot!(list_page(&[]), @r"
    no runs yet
      hint: muster test
    ");
}

#[test]
fn a_run_is_shown_with_what_failed() {
    insta::assert_snapshot!(show_page(&shown(), Paint::PLAIN), @r"
    run 17 of shapes: failed after 1.00 s
    3 planned, 2 passed (1 cached), 1 failed, 0 skipped, 0 flaky, 0 interference, 2 executed

    target        suite  cases  environment  base
    shapes (lib)  cargo      3  sandbox      debian-12@0123456789ab

    --- FAIL shapes (lib) tests::volume  0.850 s on agent-0
        expected\u{1b}[2J
    ");
}

#[test]
fn the_object_holds_everything() {
    let object = show_object(&shown());
    assert_eq!(object["run_id"], 17);
    assert_eq!(object["efficiency"], 0.85);
    assert_eq!(object["cases"].as_array().unwrap().len(), 3);
    assert_eq!(object["attempts"][1]["target"], "shapes (lib)");
    assert_eq!(object["cases"][0]["output"], "expected\u{1b}[2J\n", "JSON escapes by itself");
}
