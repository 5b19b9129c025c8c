//! JUnit XML, as `quick-junit` writes it: one suite per target, flaky cases with their earlier failure as a rerun.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use muster_proto::v1::run_event::Event;
use muster_proto::v1::{CaseFinished, RunEvent};
use quick_junit::{NonSuccessKind, Property, Report, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::outcome::{explanation, word};
use super::{Note, Reporter, Tally};

/// Collects a run's cases and writes them to a file at the end, under a temporary name first, so that nobody reads half a report.
pub struct JunitReporter {
    path: PathBuf,
    suites: Vec<(String, TestSuite)>,
}

impl JunitReporter {
    /// A reporter for this file. Whatever is there is replaced when the run has ended, not before.
    pub fn new(path: PathBuf) -> Self {
        Self { path, suites: Vec::new() }
    }

    fn suite(&mut self, target: &str, case: Option<&CaseFinished>) -> &mut TestSuite {
        let position = self.suites.iter().position(|(name, _)| name == target).unwrap_or_else(|| {
            let mut suite = TestSuite::new(target);
            if let Some(case) = case {
                suite.add_property(Property::new("suite", &case.suite));
                suite.add_property(Property::new("environment", &case.environment));
            }
            self.suites.push((target.to_owned(), suite));
            self.suites.len() - 1
        });
        &mut self.suites[position].1
    }

    fn report(&mut self, tally: &Tally) -> Report {
        for (target, failure) in &tally.discovery_failures {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
            status.set_message("cannot list its cases").set_description(failure);
            self.suite(target, None).add_test_case(TestCase::new("discovery", status));
        }
        let mut report = Report::new(&tally.project);
        let (summary, _) = tally.summary();
        report.set_time(Duration::from_millis(summary.wall_ms));
        for (_, mut suite) in std::mem::take(&mut self.suites) {
            suite.add_property(Property::new("run_id", tally.run.to_string()));
            let time = suite.test_cases.iter().filter_map(|case| case.time).sum();
            suite.set_time(time);
            report.add_test_suite(suite);
        }
        report
    }

    fn write(&mut self, tally: &Tally) -> io::Result<()> {
        let report = self.report(tally);
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let written = File::create(&temporary).and_then(|file| {
            let mut writer = BufWriter::new(file);
            report.serialize(&mut writer).map_err(io::Error::other)?;
            writer.flush()?;
            std::fs::rename(&temporary, &self.path)
        });
        if written.is_err() {
            // Half a report is of no use, and a second failure would say no more than the first.
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

fn status(case: &CaseFinished) -> TestCaseStatus {
    let message = match (case.message.as_str(), explanation(case)) {
        ("", None) => word(&case.outcome).to_lowercase(),
        ("", Some(explanation)) => explanation,
        (message, _) => message.to_owned(),
    };
    let non_success = |kind| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_message(&message).set_type(&case.outcome).set_description(&case.output);
        status
    };
    match case.outcome.as_str() {
        "passed" => TestCaseStatus::success(),
        "flaky" | "interference" => {
            let mut rerun = TestRerun::new(NonSuccessKind::Failure);
            rerun.set_message(&message).set_type(&case.outcome).set_system_out(&case.output);
            let mut status = TestCaseStatus::success();
            status.add_rerun(rerun);
            status
        }
        "skipped" | "cancelled" => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(&message);
            status
        }
        "failed" => non_success(NonSuccessKind::Failure),
        _ => non_success(NonSuccessKind::Error),
    }
}

fn test_case(case: &CaseFinished) -> TestCase {
    let mut test_case = TestCase::new(&case.name, status(case));
    test_case.set_classname(&case.target_name).set_time(Duration::from_micros(case.duration_us));
    if !case.output.is_empty() {
        test_case.set_system_out(&case.output);
    }
    for (name, value) in [("agent", case.agent.clone()), ("company", case.company.join(", "))] {
        if !value.is_empty() {
            test_case.add_property(Property::new(name, value));
        }
    }
    if case.cached {
        test_case.add_property(Property::new("cached", "true"));
    }
    if case.leaked {
        test_case.add_property(Property::new("leaked", "true"));
    }
    for stray in &case.strays {
        test_case.add_property(Property::new("stray", stray));
    }
    test_case
}

impl Reporter for JunitReporter {
    fn note(&mut self, _note: &Note) -> io::Result<()> {
        Ok(())
    }

    fn event(&mut self, event: &RunEvent, _tally: &Tally) -> io::Result<()> {
        if let Some(Event::CaseFinished(case)) = &event.event {
            self.suite(&case.target_name, Some(case)).add_test_case(test_case(case));
        }
        Ok(())
    }

    fn tick(&mut self, _tally: &Tally) {}

    fn finish(&mut self, tally: &Tally) -> io::Result<()> {
        self.write(tally).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{events, play};
    use super::*;

    #[test]
    fn a_run_becomes_suites_of_cases() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("junit.xml");
        let mut reporter = JunitReporter::new(path.clone());
        play(&mut reporter, &events());
        insta::assert_snapshot!(std::fs::read_to_string(path).unwrap(), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="shapes" tests="8" skipped="1" failures="1" errors="2" time="1.234">
            <testsuite name="shapes (lib)" tests="7" skipped="1" errors="1" failures="1" time="0.086">
                <properties>
                    <property name="suite" value="cargo"/>
                    <property name="environment" value="sandbox"/>
                    <property name="run_id" value="17"/>
                </properties>
                <testcase name="tests::area" classname="shapes (lib)" time="0.012">
                    <properties>
                        <property name="agent" value="agent-0"/>
                        <property name="cached" value="true"/>
                    </properties>
                </testcase>
                <testcase name="tests::volume" classname="shapes (lib)" time="0.012">
                    <properties>
                        <property name="agent" value="agent-0"/>
                    </properties>
                    <failure message="assertion failed: 1 == 2" type="failed">thread &apos;tests::volume&apos; panicked at src/lib.rs:12:5:
        assertion failed: 1 == 2
        </failure>
                    <system-out>thread &apos;tests::volume&apos; panicked at src/lib.rs:12:5:
        assertion failed: 1 == 2
        </system-out>
                </testcase>
                <testcase name="tests::slow" classname="shapes (lib)" time="0.012">
                    <properties>
                        <property name="agent" value="agent-0"/>
                    </properties>
                    <skipped message="skip"/>
                </testcase>
                <testcase name="tests::raw" classname="shapes (lib)" time="0.012">
                    <properties>
                        <property name="agent" value="agent-0"/>
                    </properties>
                    <error message="the process was killed by SIGSEGV" type="crashed"></error>
                </testcase>
                <testcase name="tests::network" classname="shapes (lib)" time="0.012">
                    <properties>
                        <property name="agent" value="agent-0"/>
                    </properties>
                    <flakyFailure message="it passed at the 2nd attempt" type="flaky">
                        <system-out>first try
        </system-out>
                    </flakyFailure>
                    <system-out>first try
        </system-out>
                </testcase>
                <testcase name="tests::global" classname="shapes (lib)" time="0.012">
                    <properties>
                        <property name="agent" value="agent-0"/>
                        <property name="company" value="tests::area, tests::volume"/>
                    </properties>
                    <flakyFailure message="it failed in company and passed alone" type="interference">
                        <system-out></system-out>
                    </flakyFailure>
                </testcase>
                <testcase name="tests::daemon" classname="shapes (lib)" time="0.012">
                    <properties>
                        <property name="agent" value="agent-0"/>
                        <property name="leaked" value="true"/>
                    </properties>
                </testcase>
            </testsuite>
            <testsuite name="shapes (test broken)" tests="1" skipped="0" errors="1" failures="0" time="0.000">
                <properties>
                    <property name="run_id" value="17"/>
                </properties>
                <testcase name="discovery">
                    <error message="cannot list its cases">ImportError: no module named y</error>
                </testcase>
            </testsuite>
        </testsuites>
        "#);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_report_that_cannot_be_written_names_its_file() {
        let mut reporter = JunitReporter::new("/nowhere/at/all.xml".into());
        let error = reporter.finish(&Tally::default()).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/at/all.xml: "), "{error}");
    }
}
