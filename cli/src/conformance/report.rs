//! What is said about checks: a line for each, and a summary.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Check, Level, Outcome, Ran};
use crate::paint::Paint;
use crate::text;

/// How many checks ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rules that are kept.
    pub passed: u64,
    /// Rules of [`Level::Must`] that are not.
    pub failed: u64,
    /// Rules of the other levels that are not.
    pub deviations: u64,
    /// Rules about what the server does not offer.
    pub not_offered: u64,
    /// Checks that were not answered in time.
    pub unanswered: u64,
}

impl Summary {
    /// Counts one more.
    pub fn add(&mut self, ran: &Ran) {
        let count = match (&ran.outcome, ran.check.level) {
            (Outcome::Passed, _) => &mut self.passed,
            (Outcome::Failed(_), Level::Must) => &mut self.failed,
            (Outcome::Failed(_), Level::Should | Level::Clients) => &mut self.deviations,
            (Outcome::NotOffered(_), _) => &mut self.not_offered,
            (Outcome::Unanswered, _) => &mut self.unanswered,
        };
        *count += 1;
    }

    /// Whether the server conforms to what it offers; `strict` asks for what it should do and what clients need, too.
    pub fn conforms(&self, strict: bool) -> bool {
        self.failed == 0 && self.unanswered == 0 && (!strict || self.deviations == 0)
    }

    /// In words.
    pub fn page(&self, seed: u64, took: Duration) -> String {
        let total = self.passed + self.failed + self.deviations + self.not_offered + self.unanswered;
        format!(
            "\n{} in {}: {} passed, {} failed, {}, {} not offered, {} unanswered (seed {seed})\n",
            text::counted(total, "check", "checks"),
            text::duration(took),
            self.passed,
            self.failed,
            text::counted(self.deviations, "deviation", "deviations"),
            self.not_offered,
            self.unanswered,
        )
    }

    /// As the fields of a JSON object.
    pub fn object(&self, seed: u64, took: Duration, strict: bool) -> Value {
        json!({
            "event": "conformance_finished",
            "passed": self.passed,
            "failed": self.failed,
            "deviations": self.deviations,
            "not_offered": self.not_offered,
            "unanswered": self.unanswered,
            "conforms": self.conforms(strict),
            "seed": seed,
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// The word for how a check ended; a rule that does not bind is deviated from, not broken.
fn word(ran: &Ran) -> &'static str {
    match (&ran.outcome, ran.check.level) {
        (Outcome::Passed, _) => "passed",
        (Outcome::Failed(_), Level::Must) => "failed",
        (Outcome::Failed(_), Level::Should | Level::Clients) => "deviates",
        (Outcome::NotOffered(_), _) => "not offered",
        (Outcome::Unanswered, _) => "unanswered",
    }
}

fn painted(ran: &Ran, paint: Paint) -> String {
    let padded = format!("{:<11}", word(ran));
    match (&ran.outcome, ran.check.level) {
        (Outcome::Passed, _) => paint.good(&padded),
        (Outcome::Failed(_), Level::Must) | (Outcome::Unanswered, _) => paint.bad(&padded),
        (Outcome::Failed(_), Level::Should | Level::Clients) => paint.attention(&padded),
        (Outcome::NotOffered(_), _) => paint.quiet(&padded),
    }
}

/// One check's line, and a second one for what was seen instead of what the rule says.
pub fn line(ran: &Ran, paint: Paint) -> String {
    let Check { name, section, level, rule, .. } = ran.check;
    let mut line = format!("{} {name}: {rule} ({}, {section})\n", painted(ran, paint), level.name());
    match &ran.outcome {
        Outcome::Failed(what) | Outcome::NotOffered(what) => {
            line.push_str(&format!("            {}\n", text::escape_line(what)));
        }
        Outcome::Passed | Outcome::Unanswered => {}
    }
    line
}

/// A check that was not run, as a JSON object.
pub fn description(check: &Check) -> Value {
    json!({"name": check.name, "section": check.section, "level": level(check.level), "rule": check.rule})
}

fn level(level: Level) -> String {
    level.name().replace(' ', "_")
}

/// One check as a JSON object.
pub fn object(ran: &Ran) -> Value {
    let seen = match &ran.outcome {
        Outcome::Failed(what) | Outcome::NotOffered(what) => Some(what),
        Outcome::Passed | Outcome::Unanswered => None,
    };
    json!({
        "event": "check_finished",
        "name": ran.check.name,
        "section": ran.check.section,
        "level": level(ran.check.level),
        "rule": ran.check.rule,
        "outcome": word(ran).replace(' ', "_"),
        "seen": seen,
        "took_ms": u64::try_from(ran.took.as_millis()).unwrap_or(u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(name: &'static str, level: Level, outcome: Outcome) -> Ran {
        let check =
            Check { name, level, section: "Execution.Execute", rule: "a rule", run: |_| Box::pin(async { Ok(()) }) };
        Ran { check, outcome, took: Duration::from_millis(12) }
    }

    fn all() -> [Ran; 5] {
        [
            ran("a/passed", Level::Must, Outcome::Passed),
            ran("a/failed", Level::Must, Outcome::Failed("it was answered OK\u{1b}[31m".into())),
            ran("a/deviates", Level::Clients, Outcome::Failed("there are 2 details".into())),
            ran("a/not-offered", Level::Should, Outcome::NotOffered("exec_enabled is false".into())),
            ran("a/unanswered", Level::Must, Outcome::Unanswered),
        ]
    }

    #[test]
    fn a_person_reads_a_line_for_each_check() {
        let mut summary = Summary::default();
        let mut page = String::new();
        for ran in &all() {
            summary.add(ran);
            page.push_str(&line(ran, Paint::PLAIN));
        }
        page.push_str(&summary.page(7, Duration::from_millis(1500)));
        insta::assert_snapshot!(page, @r"
        passed      a/passed: a rule (must, Execution.Execute)
        failed      a/failed: a rule (must, Execution.Execute)
                    it was answered OK
        deviates    a/deviates: a rule (clients need, Execution.Execute)
                    there are 2 details
        not offered a/not-offered: a rule (should, Execution.Execute)
                    exec_enabled is false
        unanswered  a/unanswered: a rule (must, Execution.Execute)

        5 checks in 1.50 s: 1 passed, 1 failed, 1 deviation, 1 not offered, 1 unanswered (seed 7)
        ");
    }

    #[test]
    fn a_program_reads_an_object_for_each_check() {
        let [_, failed, ..] = all();
        assert_eq!(object(&failed)["outcome"], "failed");
        assert_eq!(object(&failed)["level"], "must");
        let [.., not_offered, _] = all();
        assert_eq!(object(&not_offered)["outcome"], "not_offered");
        assert_eq!(object(&not_offered)["seen"], "exec_enabled is false");
    }

    #[test]
    fn only_what_binds_decides_unless_everything_is_asked_for() {
        let mut summary = Summary::default();
        let [passed, failed, deviates, not_offered, unanswered] = all();
        for ran in [&passed, &not_offered] {
            summary.add(ran);
        }
        assert!(summary.conforms(true));
        summary.add(&deviates);
        assert!(summary.conforms(false) && !summary.conforms(true));
        for binds in [&failed, &unanswered] {
            let mut worse = summary;
            worse.add(binds);
            assert!(!worse.conforms(false));
        }
    }
}
