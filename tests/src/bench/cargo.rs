//! Figures 1 and 2: published Rust suites beside their own runners.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Bench, goal, median, print, ratio, tools};
use crate::programs::TestRun;

impl Bench {
    /// A suite that is compiled beforehand, beside `cargo test`, nextest and Maelstrom; then the same again, unchanged.
    ///
    /// # Panics
    ///
    /// When something that is measured fails.
    pub fn cargo_suite(&self, name: &str, version: &str, features: &[&str]) {
        let project = tools::fetch(&self.place, name, version);
        // It starts the compiler while it runs, which neither agents nor Maelstrom's containers have.
        let compiling = project.join("tests/compile_fail/mod.rs");
        if compiling.metadata().is_ok_and(|metadata| metadata.len() > 0) {
            tools::write(&compiling, "");
        }
        let (nextest, maelstrom) = (tools::nextest(&self.place), tools::maelstrom(&self.place));
        let peer = |program: PathBuf, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).args(features).current_dir(&project);
            command.env("CARGO_TARGET_DIR", self.target()).env("NEXTEST_DOUBLE_SPAWN", "0");
            // What Maelstrom keeps between runs.
            command.env("XDG_CACHE_HOME", self.place.join("peers")).env("XDG_STATE_HOME", self.place.join("peers"));
            command
        };
        let muster = |arguments: &[&str]| self.muster(&project, name, &[arguments, features].concat());
        let rows = self.compare(&[
            ("`cargo test --lib --tests`", &|| peer("cargo".into(), &["test", "--lib", "--tests"])),
            ("`cargo nextest run`, no double spawn", &|| peer(nextest.clone(), &["nextest", "run"])),
            ("`cargo maelstrom`, 4 slots", &|| peer(maelstrom.clone(), &["--slots", "4", "--ui", "quiet"])),
            ("`muster test --no-cache`", &|| muster(&["--no-cache"])),
            ("`muster test --no-cache --isolation process`", &|| muster(&["--no-cache", "--isolation", "process"])),
        ]);
        print(&format!("{name} {version}"), &rows);
        println!("\nProcessor time is that of children that were waited for: Maelstrom's worker is not among them.");
        let (auto, process) = (ratio(&rows[3], &rows[0]), ratio(&rows[4], &rows[1]));
        goal("`auto` against `cargo test`: at most 1.10", &format!("{auto:.2}"), auto <= 1.10);
        goal("`process` against nextest: below 1.00", &format!("{process:.2}"), process < 1.0);
        self.unchanged(name, &|| muster(&["--format", "json"]));
    }

    /// Figure 2: nothing has changed, so nothing is executed. How long the build step takes to find that out, and how long the run itself.
    fn unchanged(&self, name: &str, command: &dyn Fn() -> Command) {
        let (mut builds, mut runs) = (Vec::new(), Vec::new());
        for round in 0..=self.rounds {
            let start = Instant::now();
            let run = TestRun::read(&command().output().expect("muster starts"));
            let wall = start.elapsed();
            assert_eq!(run.code, Some(0), "{}", run.errors);
            if round > 0 {
                assert_eq!(run.count("executed"), 0, "nothing has changed: {:?}", run.finished());
                let built = run.built();
                builds.push(built);
                runs.push(wall.saturating_sub(built));
            }
        }
        let (build, run) = (median(builds), median(runs));
        println!("\n### {name}, unchanged: nothing is executed\n");
        println!("| build step, median | the run itself, median |\n|---:|---:|");
        println!("| {:.3} s | {:.3} s |", build.as_secs_f64(), run.as_secs_f64());
        goal("the run itself: below 0.300 s", &format!("{:.3} s", run.as_secs_f64()), run < Duration::from_millis(300));
    }
}
