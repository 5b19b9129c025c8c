//! The plugin in a real pytest, of the oldest and the newest release that is supported.
//!
//! The interpreters are made once, beside the compiled tests; a machine without `python3`, its `venv` or an index of packages fails here.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use muster_frameworks::{CaseEvent, DiscoveryError};
use muster_model::outcome::Verdict;
use muster_model::spec::{FrameworkKind, TargetSpec};
use support::{discover, run_shard, show, target, verdict};

const OLDEST: &str = "pytest==7.4.4";
const NEWEST: &str = "pytest>=9,<10";

/// An interpreter with this pytest and xdist, which must stay out of the way.
fn python(requirement: &str) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _alone = MAKING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let name: String = requirement.chars().filter(char::is_ascii_alphanumeric).collect();
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let python = place.join("bin/python");
    let done = place.join("done");
    if !done.exists() {
        let _ = std::fs::remove_dir_all(&place);
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&place));
        succeed(Command::new(&python).args(["-m", "pip", "install", "--quiet", requirement, "pytest-xdist<4"]));
        std::fs::write(done, "").expect("the target directory is writable");
    }
    python
}

fn succeed(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?} could not be started: {error}"));
    assert!(status.success(), "{command:?} failed; this test needs python3 with venv and pip");
}

/// A copy of the project, so that caches of one test are not another's.
struct Project {
    directory: tempfile::TempDir,
    python: PathBuf,
}

impl Project {
    fn new(requirement: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/projects/pytest");
        for file in std::fs::read_dir(source).expect("the project is there") {
            let file = file.expect("the project is readable");
            if file.path().is_file() {
                std::fs::copy(file.path(), directory.path().join(file.file_name())).expect("a copy");
            }
        }
        Self { directory, python: python(requirement) }
    }

    fn target(&self, arguments: &[&str]) -> TargetSpec {
        let python = self.python.to_str().expect("the target directory's path is UTF-8");
        let arguments: Vec<&str> = std::iter::once(python).chain(arguments.iter().copied()).collect();
        target(FrameworkKind::Pytest, &arguments, self.directory.path())
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.directory.path().join(name), text).expect("the project is writable");
    }
}

fn names(target: &TargetSpec) -> Vec<String> {
    discover(target).expect("the project is collected").into_iter().map(|case| case.name).collect()
}

fn every_result_is_what_pytest_counts(requirement: &str) -> String {
    let project = Project::new(requirement);
    let target = project.target(&["test_results.py"]);
    let names = names(&target);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (summary, events) = run_shard(&target, &names);
    assert_eq!(events.len(), 2 * names.len());
    let failed = &summary.reports[1];
    assert!(failed.output.contains("some words") && failed.output.contains("others"), "{}", failed.output);
    show(&names, &summary)
}

#[test]
fn every_supported_pytest_gives_every_result() {
    let newest = every_result_is_what_pytest_counts(NEWEST);
    insta::assert_snapshot!(newest, @r"
    test_results.py::test_passes = passed
    test_results.py::test_fails = failed: AssertionError: lists are hard
    test_results.py::test_parameters[plain] = passed
    test_results.py::test_parameters[with space] = passed
    test_results.py::test_parameters[\xfcn\xefcode] = passed
    test_results.py::test_parameters[a::b[c]] = passed
    test_results.py::test_parameters[line\nbreak] = passed
    test_results.py::test_skipped = skipped: not today
    test_results.py::test_expected_failure = passed: failed as expected: known bug
    test_results.py::test_unexpected_pass = failed: [XPASS(strict)] was fixed
    test_results.py::test_setup_error = failed: error at setup: RuntimeError: no such service
    test_results.py::test_teardown_error = failed: error at teardown: RuntimeError: could not clean up
    test_results.py::test_exits = failed: SystemExit: 3
    test_results.py::TestClass::test_method = passed
    test_results.py::TestClass::test_other = passed
    test_results.py::test_writes_past_the_capture = passed
    test_results.py::test_spawns = passed
    test_results.py::test_forks_and_comes_back = passed
    ");
    assert_eq!(every_result_is_what_pytest_counts(OLDEST), newest);
}

#[test]
fn a_case_that_kills_its_process_is_the_suspect_and_later_ones_stay_open() {
    let project = Project::new(NEWEST);
    let target = project.target(&[]);
    let deaths = ["test_leaves", "test_stops_everything", "test_crashes"];
    let shown: Vec<String> = deaths
        .iter()
        .map(|death| {
            let death = format!("test_deaths.py::{death}");
            let names = ["test_deaths.py::test_before", &death, "test_deaths.py::test_after"];
            show(&names, &run_shard(&target, &names).0)
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"), @"
    test_deaths.py::test_before = passed
    test_deaths.py::test_leaves = open
    test_deaths.py::test_after = open
    Crashed { signal: 0 }, suspect: test_deaths.py::test_leaves

    test_deaths.py::test_before = passed
    test_deaths.py::test_stops_everything = open
    test_deaths.py::test_after = open
    Crashed { signal: 0 }, suspect: test_deaths.py::test_stops_everything

    test_deaths.py::test_before = passed
    test_deaths.py::test_crashes = open
    test_deaths.py::test_after = open
    Crashed { signal: 11 }, suspect: test_deaths.py::test_crashes
    ");
}

#[test]
fn a_case_that_dies_alone_has_a_verdict() {
    let project = Project::new(NEWEST);
    let target = project.target(&[]);
    let alone = |name: &str| verdict(&run_shard(&target, &[&format!("test_deaths.py::{name}")]).0, 0);
    assert_eq!(alone("test_before"), Some(Verdict::Passed));
    assert_eq!(alone("test_leaves"), Some(Verdict::Crashed { signal: 0 }));
    assert_eq!(alone("test_stops_everything"), Some(Verdict::Crashed { signal: 0 }));
    assert_eq!(alone("test_crashes"), Some(Verdict::Crashed { signal: 11 }));
}

#[test]
fn an_import_error_is_the_projects_own_words() {
    let project = Project::new(NEWEST);
    project.write("test_broken.py", "import a_module_that_is_not_there\n");
    let Err(DiscoveryError::Project(words)) = discover(&project.target(&[])) else {
        panic!("collection of a broken file fails")
    };
    assert!(words.starts_with("error collecting test_broken.py\n"), "{words}");
    assert!(words.contains("No module named 'a_module_that_is_not_there'"), "{words}");
}

#[test]
fn an_empty_project_has_no_cases() {
    let project = Project::new(NEWEST);
    assert_eq!(names(&project.target(&["helper.py"])), Vec::<String>::new());
}

#[test]
fn the_projects_own_options_hold_and_those_of_the_fleet_do_not_collide() {
    let project = Project::new(NEWEST);
    project.write("pytest.ini", "[pytest]\naddopts = -n 2 -x -v --lf --strict-markers\ntestpaths = inner\n");
    std::fs::create_dir(project.directory.path().join("inner")).expect("the project is writable");
    project.write("inner/test_inner.py", "def test_one():\n    assert False\n\ndef test_two():\n    pass\n");
    let target = project.target(&[]);
    assert_eq!(names(&target), ["inner/test_inner.py::test_one", "inner/test_inner.py::test_two"]);
    let (summary, _) = run_shard(&target, &["inner/test_inner.py::test_one", "inner/test_inner.py::test_two"]);
    assert_eq!(verdict(&summary, 0), Some(Verdict::Failed));
    assert_eq!(verdict(&summary, 1), Some(Verdict::Passed));
}

#[test]
fn a_case_that_is_gone_is_left_open_and_fails_alone() {
    let project = Project::new(NEWEST);
    let target = project.target(&[]);
    let names = ["test_deaths.py::test_before", "test_deaths.py::test_gone"];
    insta::assert_snapshot!(show(&names, &run_shard(&target, &names).0), @"
    test_deaths.py::test_before = passed
    test_deaths.py::test_gone = open
    Contradicted, suspect: nobody
    ");
    insta::assert_snapshot!(show(&names[1..], &run_shard(&target, &names[1..]).0), @"test_deaths.py::test_gone = failed: pytest listed this case, and does not find it when it is run");
}

#[test]
fn a_shard_of_thousands_is_selected_exactly() {
    let project = Project::new(NEWEST);
    project.write(
        "test_many.py",
        "import pytest\n\n@pytest.mark.parametrize('n', range(5000))\ndef test_number(n):\n    assert n != 4321\n",
    );
    let target = project.target(&[]);
    let names: Vec<String> = (904..5000).map(|number| format!("test_many.py::test_number[{number}]")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (summary, events) = run_shard(&target, &names);
    assert_eq!(summary.reports.len(), 4096);
    let failed = |report: &&muster_model::attempt::CaseReport| report.verdict != Verdict::Passed;
    let failed: Vec<u32> = summary.reports.iter().filter(failed).map(|report| report.case.0).collect();
    assert_eq!(failed, [4321 - 904]);
    assert_eq!(events[..2], [CaseEvent::Started(0), CaseEvent::Ended(0)]);
}

#[test]
fn the_cases_of_one_file_are_a_group() {
    let group = |name| muster_frameworks::group(FrameworkKind::Pytest, name);
    assert_eq!(group("a/test_one.py::TestIt::test_x[1::2]"), Some("a/test_one.py"));
    assert_eq!(group("a/test_one.py::test_y"), group("a/test_one.py::test_z"));
    assert_eq!(muster_frameworks::group(FrameworkKind::Libtest, "tests::one"), None);
}
