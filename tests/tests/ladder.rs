//! The ladder of isolation: what goes wrong in company is found, charged to the right case, and costs the others nothing.

use muster_tests::programs::{Place, TestRun};
use serde_json::json;

fn outcome<'a>(run: &'a TestRun, name: &str) -> &'a str {
    run.case(&format!("tests::{name}"))["outcome"].as_str().unwrap_or_default()
}

#[test]
fn every_kind_of_trouble_is_charged_to_the_case_that_made_it() {
    let place = Place::of("trouble");
    let run = place.test(&["--timeout", "2s"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    run.assert_complete();
    assert_eq!(run.count("planned"), 10);
    assert_eq!(outcome(&run, "a_passes"), "passed");
    assert_eq!(outcome(&run, "b_fails"), "failed");
    assert_eq!(outcome(&run, "c_aborts"), "crashed");
    assert_eq!(run.case("tests::c_aborts")["signal"], 6);
    assert_eq!(outcome(&run, "d_leaves_without_a_word"), "crashed");
    assert_eq!(outcome(&run, "e_never_ends"), "timed_out");
    assert_eq!(outcome(&run, "f_spoils_the_company"), "passed");
    assert_ne!(outcome(&run, "g_suffers_from_company"), "failed", "alone it passes");
    assert_eq!(outcome(&run, "j_passes"), "passed");
    let failed = run.case("tests::b_fails");
    let output = failed["output"].as_str().unwrap_or_default();
    assert!(output.contains("said before it failed") && output.contains("one is not two"), "{failed}");
}

#[test]
fn a_forged_line_does_not_turn_a_failure_into_a_pass() {
    let place = Place::of("trouble");
    let run = place.test(&["--", "b_fails", "i_forges_a_result"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    run.assert_complete();
    assert_eq!(outcome(&run, "b_fails"), "failed");
    assert_eq!(outcome(&run, "i_forges_a_result"), "passed");
}

#[test]
fn failing_in_company_and_passing_alone_is_interference_with_that_company() {
    let place = Place::of("trouble");
    // Enough harmless cases that the first shard holds the two of interest.
    let mut source = String::from(
        "static SPOILED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);\n\
         #[test]\nfn a_spoils() { SPOILED.store(true, std::sync::atomic::Ordering::SeqCst); }\n\
         #[test]\nfn b_suffers() { assert!(!SPOILED.load(std::sync::atomic::Ordering::SeqCst)); }\n",
    );
    for number in 10..40 {
        source.push_str(&format!("#[test]\nfn harmless_{number}() {{}}\n"));
    }
    place.write("src/lib.rs", &source);
    let run = place.test(&["--slots", "1"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(run.case("b_suffers")["outcome"], "interference", "{run:#?}");
    assert_eq!(run.count("interference"), 1);
    let company = run.case("b_suffers")["company"].to_string();
    assert!(company.contains("a_spoils"), "{company}");
    // It is remembered: the next time it runs alone from the start.
    let again = place.test(&["--slots", "1", "--no-cache"]);
    assert_eq!(again.case("b_suffers")["outcome"], "passed", "{again:#?}");
}

#[test]
fn a_process_left_behind_is_marked_and_killed() {
    let place = Place::of("trouble");
    let run = place.test(&["--isolation", "process", "--", "h_leaves"]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(run.case("tests::h_leaves_a_process_behind")["leaked"], true);
    // In company with others too, it has to answer for itself.
    let denied = place.test(&["--deny-leaks", "--", "h_leaves"]);
    assert_eq!(denied.code, Some(1), "{denied:#?}");
    assert_eq!(denied.case("tests::h_leaves_a_process_behind")["outcome"], "failed", "{denied:#?}");
}

#[test]
fn what_is_written_elsewhere_is_marked_and_denied() {
    let place = Place::empty();
    let write = |name: &str, script: &str| format!("[test.{name}]\ncommand = [\"/bin/sh\", \"-c\", {script:?}]\n");
    let own = "echo x >own && mkdir deep && echo x >deep/file && echo x >/tmp/x && echo x >~/x && echo x >/dev/shm/x && rm own";
    let elsewhere = "echo x >/var/lib/stray && mkdir /run/empty && mkdir -p /var/cache/a/b && echo x >/var/cache/a/b/c";
    place.write("muster.toml", &format!("{}{}", write("own", own), write("elsewhere", elsewhere)));
    let run = place.test(&[]);
    assert_eq!((run.code, run.count("passed")), (Some(0), 2), "{run:#?}");
    let strays = |run: &TestRun, suite: &str| {
        let case = run.events.iter().find(|event| event["event"] == "case_finished" && event["suite"] == suite);
        case.map(|case| (case["outcome"].clone(), case["strays"].clone())).expect("it is reported")
    };
    let found = json!(["/var/cache/a/b/c", "/var/lib/stray"]);
    assert_eq!(strays(&run, "elsewhere"), (json!("passed"), found.clone()), "{run:#?}");
    assert_eq!(strays(&run, "own"), (json!("passed"), json!([])), "{run:#?}");
    let denied = place.test(&["--deny-leaks"]);
    assert_eq!((denied.code, denied.count("passed"), denied.count("failed")), (Some(1), 1, 1), "{denied:#?}");
    assert_eq!(strays(&denied, "elsewhere"), (json!("failed"), found), "{denied:#?}");
    denied.assert_complete();
}

#[test]
fn a_pass_after_a_failure_is_flaky_and_says_so() {
    let place = Place::of("workspace");
    let marker = place.beside("marker");
    place.write(
        "alpha/src/lib.rs",
        &format!(
            "#[test]\nfn fails_at_first() {{\n    let marker = std::path::Path::new({marker:?});\n    \
             if !marker.exists() {{\n        std::fs::write(marker, \"\").expect(\"writes\");\n        \
             panic!(\"the first time\");\n    }}\n}}\n"
        ),
    );
    let arguments = ["--environment", "host", "--isolation", "process", "--retries", "1", "--", "fails_at_first"];
    let run = place.test(&arguments);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(run.case("fails_at_first")["outcome"], "flaky");
    assert_eq!(run.count("flaky"), 1);
}

#[test]
fn only_what_failed_last_time_runs_when_asked() {
    let place = Place::of("trouble");
    let first = place.test(&["--", "a_passes", "b_fails", "j_passes"]);
    assert_eq!(first.code, Some(1), "{first:#?}");
    let second = place.test(&["--failed"]);
    assert_eq!(second.code, Some(1), "{second:#?}");
    assert_eq!(second.count("planned"), 1);
    assert_eq!(outcome(&second, "b_fails"), "failed");
}

#[test]
fn the_first_failure_ends_the_run_when_asked() {
    let place = Place::of("trouble");
    let run = place.test(&["--fail-fast", "--timeout", "2s", "--isolation", "process", "--slots", "1"]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    run.assert_complete();
    assert!(run.outcomes().iter().any(|(_, outcome)| outcome == "cancelled"), "{run:#?}");
}
