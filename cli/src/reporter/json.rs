//! One JSON object per line; `docs/json-output.md` is its reference.

use std::io::{self, Write};

use muster_proto::v1::RunEvent;
use muster_proto::v1::run_event::Event;
use serde_json::{Map, Value, json};

use super::{Note, Reporter, Tally};
use crate::error::ExpectedError;

/// Writes JSON lines.
pub struct JsonReporter<W> {
    output: W,
}

impl<W: Write + Send> JsonReporter<W> {
    /// A reporter that writes to `output`.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    fn line(&mut self, line: &Value) -> io::Result<()> {
        writeln!(self.output, "{line}")
    }
}

/// The line for a command that ended in an error.
pub fn error_line(error: &ExpectedError) -> Value {
    json!({
        "event": "error",
        "message": error.to_string(),
        "causes": error.causes(),
        "hints": error.hints(),
        "exit_code": error.exit_code().number(),
    })
}

fn object(event: &RunEvent, tally: &Tally) -> Option<Value> {
    let (name, fields) = match event.event.as_ref()? {
        Event::RunStarted(started) => {
            ("run_started", json!({"run_id": started.run, "project": started.project, "targets": started.targets}))
        }
        Event::TargetDiscovered(target) => (
            "target_discovered",
            json!({
                "target": tally.target_name(target.target),
                "planned": target.planned,
                "filtered": target.filtered,
                "failure": (!target.failure.is_empty()).then_some(&target.failure),
                "names": target.names,
            }),
        ),
        Event::RunPlanned(planned) => (
            "run_planned",
            json!({"planned": planned.planned, "expected_ms": planned.expected_ms, "slots": planned.slots}),
        ),
        Event::CaseStarted(case) => {
            ("case_started", json!({"target": tally.target_name(case.target), "name": case.name, "agent": case.agent}))
        }
        Event::CaseFinished(case) => ("case_finished", case_fields(case)),
        Event::AttemptFault(fault) => (
            "attempt_fault",
            json!({
                "epoch": fault.epoch,
                "agent": fault.agent,
                "kind": fault.kind,
                "message": fault.message,
                "cases": fault.cases,
            }),
        ),
        Event::RunFinished(_) => ("run_finished", finished_fields(tally)),
    };
    let mut object = Map::new();
    object.insert("event".into(), name.into());
    object.insert("sequence".into(), event.sequence.into());
    object.insert("at_unix_ms".into(), event.at_unix_ms.into());
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    Some(Value::Object(object))
}

/// The fields of a finished case, here and in `muster runs show`.
pub fn case_fields(case: &muster_proto::v1::CaseFinished) -> Value {
    json!({
        "target": case.target_name,
        "suite": case.suite,
        "name": case.name,
        "outcome": case.outcome,
        "duration_us": case.duration_us,
        "message": case.message,
        "output": case.output,
        "cached": case.cached,
        "agent": case.agent,
        "environment": case.environment,
        "without": case.without,
        "attempts": case.attempts,
        "company": case.company,
        "leaked": case.leaked,
        "strays": case.strays,
        "signal": (case.signal > 0).then_some(case.signal),
    })
}

/// The fields of a run's summary, here and in `muster runs`.
pub fn summary_fields(summary: &muster_proto::v1::RunSummary) -> Value {
    json!({
        "run_id": summary.run,
        "project": summary.project,
        "outcome": summary.outcome,
        "started_unix_ms": summary.started_unix_ms,
        "planned": summary.planned,
        "passed": summary.passed,
        "failed": summary.failed,
        "skipped": summary.skipped,
        "flaky": summary.flaky,
        "interference": summary.interference,
        "without_verdict": summary.faults,
        "cancelled": summary.cancelled,
        "cached": summary.cached,
        "executed": summary.executed,
        "wall_ms": summary.wall_ms,
    })
}

/// The fields of an efficiency, here and in `muster runs`. `efficiency` is a number from 0 to 1, or null when nothing was executed.
pub fn efficiency_fields(efficiency: &muster_proto::v1::Efficiency) -> Value {
    let share = f64::from(efficiency.efficiency_milli) / 1000.0;
    json!({
        "lower_bound_ms": efficiency.lower_bound_ms,
        "efficiency": (efficiency.wall_ms > 0 && efficiency.lower_bound_ms > 0).then_some(share),
        "tail_ms": efficiency.tail_ms,
        "dispatch_ms": efficiency.dispatch_ms,
        "transfer_ms": efficiency.transfer_ms,
        "environment_ms": efficiency.environment_ms,
        "slots": efficiency.slots,
    })
}

fn finished_fields(tally: &Tally) -> Value {
    let (summary, efficiency) = tally.summary();
    let mut fields = merged([summary_fields(&summary), efficiency_fields(&efficiency)]);
    fields.insert("outcome".into(), tally.outcome().into());
    fields.insert("faults".into(), tally.faults().into());
    fields.insert("exit_code".into(), tally.exit_code().number().into());
    Value::Object(fields)
}

/// Several objects as one; a later one's field wins.
pub fn merged(objects: impl IntoIterator<Item = Value>) -> Map<String, Value> {
    let mut merged = Map::new();
    for object in objects {
        if let Value::Object(fields) = object {
            merged.extend(fields);
        }
    }
    merged
}

impl<W: Write + Send> Reporter for JsonReporter<W> {
    fn note(&mut self, note: &Note) -> io::Result<()> {
        match note {
            Note::Step { suite, step, elapsed, .. } => self.line(&json!({
                "event": "step",
                "suite": suite,
                "step": step,
                "elapsed_ms": u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            })),
            Note::Notice(notice) => self.line(&json!({"event": "notice", "message": notice})),
            Note::NotRun { suite, what, why, hint } => {
                self.line(&json!({"event": "not_run", "suite": suite, "what": what, "why": why, "hint": hint}))
            }
        }
    }

    fn event(&mut self, event: &RunEvent, tally: &Tally) -> io::Result<()> {
        match object(event, tally) {
            Some(line) => self.line(&line),
            None => Ok(()),
        }
    }

    fn tick(&mut self, _tally: &Tally) {
        // What can't be written now can't be written later either, and then it is reported.
        let _ = self.output.flush();
    }

    fn finish(&mut self, _tally: &Tally) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests_support::{Shared, events, play, step};
    use super::*;

    #[test]
    fn every_event_is_one_object() {
        let output = Shared::default();
        let mut reporter = JsonReporter::new(output.clone());
        reporter.note(&step()).unwrap();
        reporter.note(&Note::Notice("be\nware".into())).unwrap();
        reporter
            .note(&Note::NotRun { suite: "cargo".into(), what: "doctests".into(), why: "w".into(), hint: "h".into() })
            .unwrap();
        play(&mut reporter, &events());
        for line in output.text().lines() {
            assert!(serde_json::from_str::<Value>(line).unwrap()["event"].is_string());
        }
        insta::assert_snapshot!(output.text(), @r#"
        {"elapsed_ms":12,"event":"step","step":"building","suite":"cargo"}
        {"event":"notice","message":"be\nware"}
        {"event":"not_run","hint":"h","suite":"cargo","what":"doctests","why":"w"}
        {"at_unix_ms":1700000000000,"event":"run_started","project":"shapes","run_id":17,"sequence":1,"targets":["shapes (lib)","shapes (test broken)"]}
        {"at_unix_ms":1700000000000,"event":"target_discovered","failure":null,"filtered":3,"names":[],"planned":7,"sequence":2,"target":"shapes (lib)"}
        {"at_unix_ms":1700000000000,"event":"target_discovered","failure":"ImportError: no module named y","filtered":0,"names":[],"planned":0,"sequence":3,"target":"shapes (test broken)"}
        {"agent":"agent-0","at_unix_ms":1700000000000,"event":"case_started","name":"tests::volume","sequence":4,"target":"shapes (lib)"}
        {"at_unix_ms":1700000000000,"event":"run_planned","expected_ms":2000,"planned":7,"sequence":5,"slots":4}
        {"agent":"agent-1","at_unix_ms":1700000000000,"cases":["tests::raw"],"epoch":8,"event":"attempt_fault","kind":"agent_lost","message":"its lease ran out","sequence":6}
        {"agent":"agent-0","at_unix_ms":1700000000000,"attempts":1,"cached":true,"company":[],"duration_us":12345,"environment":"sandbox","event":"case_finished","leaked":false,"message":"","name":"tests::area","outcome":"passed","output":"","sequence":7,"signal":null,"strays":[],"suite":"cargo","target":"shapes (lib)","without":[]}
        {"agent":"agent-0","at_unix_ms":1700000000000,"attempts":1,"cached":false,"company":[],"duration_us":12345,"environment":"sandbox","event":"case_finished","leaked":false,"message":"assertion failed: 1 == 2","name":"tests::volume","outcome":"failed","output":"thread 'tests::volume' panicked at src/lib.rs:12:5:\n\u001b[31massertion failed: 1 == 2\u001b[0m\n","sequence":8,"signal":null,"strays":[],"suite":"cargo","target":"shapes (lib)","without":[]}
        {"agent":"agent-0","at_unix_ms":1700000000000,"attempts":1,"cached":false,"company":[],"duration_us":12345,"environment":"sandbox","event":"case_finished","leaked":false,"message":"","name":"tests::slow","outcome":"skipped","output":"","sequence":9,"signal":null,"strays":[],"suite":"cargo","target":"shapes (lib)","without":[]}
        {"agent":"agent-0","at_unix_ms":1700000000000,"attempts":1,"cached":false,"company":[],"duration_us":12345,"environment":"sandbox","event":"case_finished","leaked":false,"message":"","name":"tests::raw","outcome":"crashed","output":"","sequence":10,"signal":11,"strays":[],"suite":"cargo","target":"shapes (lib)","without":[]}
        {"agent":"agent-0","at_unix_ms":1700000000000,"attempts":2,"cached":false,"company":[],"duration_us":12345,"environment":"sandbox","event":"case_finished","leaked":false,"message":"","name":"tests::network","outcome":"flaky","output":"first try\n","sequence":11,"signal":null,"strays":[],"suite":"cargo","target":"shapes (lib)","without":[]}
        {"agent":"agent-0","at_unix_ms":1700000000000,"attempts":2,"cached":false,"company":["tests::area","tests::volume"],"duration_us":12345,"environment":"sandbox","event":"case_finished","leaked":false,"message":"","name":"tests::global","outcome":"interference","output":"","sequence":12,"signal":null,"strays":[],"suite":"cargo","target":"shapes (lib)","without":[]}
        {"agent":"agent-0","at_unix_ms":1700000000000,"attempts":1,"cached":false,"company":[],"duration_us":12345,"environment":"host","event":"case_finished","leaked":true,"message":"","name":"tests::daemon","outcome":"passed","output":"","sequence":13,"signal":null,"strays":[],"suite":"cargo","target":"shapes (lib)","without":[]}
        {"at_unix_ms":1700000000000,"cached":1,"cancelled":0,"dispatch_ms":0,"efficiency":0.93,"environment_ms":0,"event":"run_finished","executed":5,"exit_code":1,"failed":2,"faults":[],"flaky":1,"interference":1,"lower_bound_ms":1148,"outcome":"failed","passed":2,"planned":7,"project":"shapes","run_id":17,"sequence":14,"skipped":1,"slots":4,"started_unix_ms":1700000000000,"tail_ms":40,"transfer_ms":0,"wall_ms":1234,"without_verdict":0}
        "#);
    }

    #[test]
    fn an_error_is_an_object_too() {
        let error = ExpectedError::from(crate::error::FleetError::NoSuchRun { run: 3 });
        insta::assert_snapshot!(error_line(&error), @r#"
        {"causes":[],"event":"error","exit_code":3,"hints":["muster runs list"],"message":"there is no run 3"}
        "#);
    }
}
