//! `muster test` on ordinary cargo projects: everything passes unchanged, nothing is run twice, nothing is passed over in silence.

use muster_tests::programs::Place;

#[test]
fn ordinary_tests_pass_unchanged_and_a_second_run_executes_nothing() {
    let place = Place::of("probes");
    let first = place.test(&[]);
    assert_eq!(first.code, Some(0), "{first:#?}");
    first.assert_complete();
    assert_eq!(first.count("failed"), 0);
    assert_eq!(first.count("interference"), 0, "an ordinary test depends on its company: {first:#?}");
    // 22 probes, three unit tests of which one is ignored, one binary without a harness.
    assert_eq!(first.count("planned"), 26);
    assert_eq!(first.count("skipped"), 1);
    assert_eq!(first.count("executed"), 25);
    for case in first.events.iter().filter(|event| event["event"] == "case_finished") {
        assert_eq!(case["environment"], "sandbox", "{case}");
    }

    let second = place.test(&[]);
    assert_eq!(second.code, Some(0), "{second:#?}");
    second.assert_complete();
    assert_eq!(second.count("executed"), 0);
    assert_eq!(second.count("cached"), 25);

    let forced = place.test(&["--no-cache"]);
    assert_eq!(forced.count("executed"), 25);
}

#[test]
fn every_probe_passes_in_a_process_of_its_own_too() {
    let place = Place::of("probes");
    let run = place.test(&["--isolation", "process"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.assert_complete();
    assert_eq!(run.count("executed"), 25);
}

#[test]
fn doctests_are_named_as_not_run() {
    let place = Place::of("probes");
    let output = place.muster(["test"]).output().expect("muster starts");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
    assert!(said.contains("doctests"), "{said}");
}

#[test]
fn a_test_leaves_the_project_untouched() {
    let place = Place::of("probes");
    let run = place.test(&[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    let greeting = std::fs::read_to_string(place.project().join("data/greeting.txt")).expect("is there");
    assert_eq!(greeting, "hello\n");
    assert!(!place.project().join("made").exists());
}

#[test]
fn ignored_cases_run_when_asked_for() {
    let place = Place::of("probes");
    let run = place.test(&["--include-ignored"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    assert_eq!(run.case("tests::is_ignored")["outcome"], "failed");
    assert_eq!(run.count("skipped"), 0);
}

#[test]
fn filters_choose_cases_and_no_match_is_nothing_to_run() {
    let place = Place::of("probes");
    let run = place.test(&["--", "p01", "p02"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(run.count("planned"), 2);
    let none = place.test(&["--", "no such case"]);
    assert_eq!(none.code, Some(4), "{none:#?}");
}

#[test]
fn only_the_package_that_changed_is_executed() {
    let place = Place::of("workspace");
    let first = place.test(&[]);
    assert_eq!(first.code, Some(0), "{first:#?}");
    assert_eq!(first.count("executed"), 4);
    let source = place.project().join("alpha/src/lib.rs");
    let changed = std::fs::read_to_string(&source).expect("is there") + "\n// A remark.\n";
    std::fs::write(&source, changed).expect("is written");
    let second = place.test(&[]);
    assert_eq!(second.code, Some(0), "{second:#?}");
    assert_eq!(second.count("planned"), 4);
    let executed: Vec<_> = second
        .events
        .iter()
        .filter(|event| event["event"] == "case_finished" && event["cached"] == false)
        .map(|event| event["name"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(!executed.is_empty() && executed.iter().all(|name| name.contains("alpha")), "{executed:?}");
}

#[test]
fn a_list_names_the_cases_and_runs_none() {
    let place = Place::of("workspace");
    let output = place.muster(["test", "--list"]).output().expect("muster starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for name in ["tests::alpha_one", "tests::alpha_two", "tests::beta_one", "tests::beta_two"] {
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn the_report_for_other_programs_holds_every_case() {
    let place = Place::of("workspace");
    let report = place.beside("report.xml");
    let run = place.test(&["--junit", report.to_str().expect("is text")]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    let xml = std::fs::read_to_string(report).expect("was written");
    assert_eq!(xml.matches("<testcase").count(), 4, "{xml}");
}

#[test]
fn the_host_environment_is_labelled_and_not_cached() {
    let place = Place::of("workspace");
    for _ in 0..2 {
        let run = place.test(&["--environment", "host"]);
        assert_eq!(run.code, Some(0), "{run:#?}");
        assert_eq!(run.count("executed"), 4);
        for case in run.events.iter().filter(|event| event["event"] == "case_finished") {
            assert_eq!(case["environment"], "host", "{case}");
        }
    }
}
