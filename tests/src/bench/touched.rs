//! Figure 3: one test file of a workspace changes.

use std::fmt::Write;
use std::process::Command;
use std::time::Instant;

use super::{Bench, goal, median, tools};
use crate::programs::TestRun;

const PACKAGES: usize = 8;
const CASES_PER_FILE: usize = 20;

impl Bench {
    /// A workspace of several packages, each with unit tests and one file of integration tests; one line of one of those files changes.
    ///
    /// # Panics
    ///
    /// When a run does not pass, or something else is executed than the cases of the package that changed.
    pub fn touched(&self) {
        let project = self.place.join("touched");
        let _ = std::fs::remove_dir_all(&project);
        let _ = std::fs::remove_dir_all(self.place.join("touched-data"));
        tools::write(&project.join("Cargo.toml"), "[workspace]\nmembers = [\"package-*\"]\nresolver = \"3\"\n");
        for package in 0..PACKAGES {
            let root = project.join(format!("package-{package}"));
            let manifest =
                format!("[package]\nname = \"package-{package}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n");
            tools::write(&root.join("Cargo.toml"), &manifest);
            tools::write(&root.join("src/lib.rs"), &format!("#[cfg(test)]\nmod tests {{\n{}}}\n", cases()));
            tools::write(&root.join("tests/integration.rs"), &cases());
        }
        let muster = || {
            let command = self.muster(&project, "touched-data", &["--workspace", "--format", "json"]);
            run(command)
        };
        println!("\n### One test file of a workspace of {PACKAGES} packages changes\n");
        println!("| | planned | executed | wall with the build, median |\n|---|---:|---:|---:|");
        let (first, _) = muster();
        assert_eq!(first.count("executed"), first.count("planned"), "nothing is known yet");
        let touched = project.join("package-3/tests/integration.rs");
        let (mut walls, mut executed, mut planned) = (Vec::new(), Vec::new(), 0);
        for round in 0..self.rounds {
            tools::write(&touched, &format!("{}\n#[test]\nfn added_{round}() {{}}\n", cases()));
            let (run, wall) = muster();
            walls.push(wall);
            executed.push(run.count("executed"));
            planned = run.count("planned");
            let foreign = run.events.iter().filter(|event| {
                let target = event["target"].as_str().unwrap_or_default();
                event["event"] == "case_finished" && event["cached"] == false && !target.starts_with("package-3 ")
            });
            assert_eq!(foreign.count(), 0, "cases of other packages were executed");
        }
        let own = (2 * CASES_PER_FILE + 1) as u64;
        assert!(executed.iter().all(|count| *count == own), "{executed:?} were executed, not {own}");
        println!("| first run | {} | {} | |", first.count("planned"), first.count("executed"));
        println!("| one test file of one package changed | {planned} | {own} | {:.3} s |", median(walls).as_secs_f64());
        goal(&format!("executed: the {own} cases of that package and no other"), &own.to_string(), true);
    }
}

fn run(mut command: Command) -> (TestRun, std::time::Duration) {
    let start = Instant::now();
    let run = TestRun::read(&command.output().expect("muster starts"));
    assert_eq!(run.code, Some(0), "{}", run.errors);
    run.assert_complete();
    (run, start.elapsed())
}

fn cases() -> String {
    let mut source = String::new();
    for case in 0..CASES_PER_FILE {
        writeln!(source, "#[test]\nfn case_{case}() {{ assert_eq!({case} + 1, 1 + {case}); }}")
            .expect("writing to a text");
    }
    source
}
