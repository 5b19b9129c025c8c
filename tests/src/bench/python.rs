//! Figure 5: a large suite under pytest, beside xdist.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Bench, goal, print, ratio, tools};

/// The suite, which lies inside the published package, and the versions that run it.
const PACKAGES: [&str; 3] = ["networkx==3.6.1", "pytest==9.0.2", "pytest-xdist==3.8.0"];

impl Bench {
    /// networkx's own suite under pytest with two workers.
    ///
    /// # Panics
    ///
    /// When Python or its package index can't be used, or a runner fails.
    pub fn python_suite(&self) {
        let python = self.python_environment();
        let project = self.networkx(&python);
        let xdist = || {
            let mut command = Command::new(&python);
            command.args(["-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]).current_dir(&project);
            command
        };
        let muster = || self.muster(&project, "networkx", &["--no-cache"]);
        let again = || self.muster(&project, "networkx", &[]);
        let rows = self.compare(&[
            ("`pytest -n 2` (xdist)", &xdist),
            ("`muster test --no-cache`", &muster),
            ("`muster test`, unchanged", &again),
        ]);
        print("networkx 3.6.1 under pytest", &rows);
        let against = ratio(&rows[1], &rows[0]);
        goal("against xdist: at most 1.00", &format!("{against:.2}"), against <= 1.0);
    }

    fn python_environment(&self) -> PathBuf {
        let environment = self.place.join("python");
        let python = environment.join("bin/python");
        let complete = environment.join("complete");
        if std::fs::read_to_string(&complete).ok().as_deref() != Some(&PACKAGES.join(" ")) {
            tools::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment));
            tools::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES));
            tools::write(&complete, &PACKAGES.join(" "));
        }
        python
    }

    fn networkx(&self, python: &Path) -> PathBuf {
        let project = self.place.join("networkx-suite");
        if !project.join("pytest.ini").exists() {
            let found = Command::new(python)
                .args(["-c", "import networkx, os; print(os.path.dirname(networkx.__file__))"])
                .output()
                .expect("python starts");
            let source = String::from_utf8_lossy(&found.stdout).trim().to_owned();
            std::fs::create_dir_all(&project).expect("a directory");
            tools::run(Command::new("cp").args(["-r", &source]).arg(&project));
            let muster = format!("[test.networkx]\nframework = \"pytest\"\npython = {python:?}\n");
            tools::write(&project.join("muster.toml"), &muster);
            tools::write(&project.join("pytest.ini"), "[pytest]\n");
        }
        project
    }
}
