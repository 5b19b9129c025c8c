//! `muster test` on pytest projects: one interpreter a shard, each case its own result, a crash charged to the case that was running.

use muster_tests::programs::{Place, TestRun};
use muster_tests::python::interpreter;

fn test(place: &Place, arguments: &[&str]) -> TestRun {
    let python = interpreter();
    place.write("muster.toml", &format!("[test.suite]\nframework = \"pytest\"\npython = {python:?}\n"));
    place.test(arguments)
}

#[test]
fn ordinary_tests_pass_and_a_second_run_executes_nothing() {
    let place = Place::of("python");
    let first = test(&place, &[]);
    assert_eq!(first.code, Some(0), "{first:#?}");
    first.assert_complete();
    assert_eq!(first.count("planned"), 9);
    assert_eq!(first.count("failed"), 0);
    assert_eq!(first.case("test_ordinary.py::test_skipped")["outcome"], "skipped");
    assert_eq!(first.case("test_ordinary.py::TestClass::test_method")["outcome"], "passed");
    let second = test(&place, &[]);
    assert_eq!(second.count("executed"), second.count("planned") - second.count("cached"));
    assert!(second.count("cached") >= 7, "{second:#?}");
}

#[test]
fn a_crash_in_the_middle_of_a_shard_is_charged_to_the_case_that_was_running() {
    let place = Place::of("python-trouble");
    let run = test(&place, &[]);
    assert_eq!(run.code, Some(1), "{run:#?}");
    run.assert_complete();
    let outcome = |name: &str| run.case(&format!("test_trouble.py::{name}"))["outcome"].clone();
    assert_eq!(outcome("test_before"), "passed");
    assert_eq!(outcome("test_fails"), "failed");
    assert_eq!(outcome("test_leaves"), "crashed");
    assert_eq!(outcome("test_after"), "passed");
    assert_eq!(outcome("test_crashes"), "crashed");
    assert_eq!(outcome("test_last"), "passed");
    assert_eq!(outcome("test_with_a_broken_fixture"), "failed");
    let output = run.case("test_trouble.py::test_fails")["output"].to_string();
    assert!(output.contains("assert 1 == 2") && output.contains("said before it failed"), "{output}");
}

#[test]
fn test_modules_come_with_rewritten_byte_code_that_pytest_takes() {
    let place = Place::empty();
    place.write(
        "test_kept.py",
        r#"
import glob
import os
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import _read_pyc


def test_is_valid():
    (kept,) = glob.glob(os.path.join(os.path.dirname(__file__), "__pycache__", "test_kept.*-pytest-*.pyc"))
    assert _read_pyc(Path(__file__), Path(kept)) is not None, "as pytest reads it itself"


def test_explains_itself():
    one = 1
    with pytest.raises(AssertionError) as caught:
        assert one == 2
    assert "assert 1 == 2" in str(caught.value)
"#,
    );
    let run = test(&place, &[]);
    assert_eq!(run.code, Some(0), "{run:#?}");
    assert_eq!(run.count("passed"), 2);
}
