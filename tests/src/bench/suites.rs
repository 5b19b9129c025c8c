//! Published suites beside their own runners.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{compare, print};
use crate::programs::binary;

/// Makes a command anew for each measure.
type Make<'a> = Box<dyn Fn() -> Command + 'a>;

/// Where the suites and tools are.
pub struct Bench {
    /// A directory that may be filled and is kept.
    pub place: PathBuf,
    /// How often each command is measured.
    pub rounds: usize,
}

impl Bench {
    fn muster(&self, project: &Path, data: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("muster"));
        command.arg("test").arg(project).args(["--agents", "2", "--slots", "1", "--data"]);
        command.arg(self.place.join(data)).args(arguments);
        command.env("CARGO_TARGET_DIR", self.place.join("target"));
        command
    }

    fn cargo(&self, project: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(project);
        command.env("CARGO_TARGET_DIR", self.place.join("target")).env("NEXTEST_DOUBLE_SPAWN", "0");
        command
    }

    /// Fetches a published crate and its dependencies.
    ///
    /// # Panics
    ///
    /// When the registry does not answer.
    pub fn fetch(&self, name: &str, version: &str) -> PathBuf {
        let project = self.place.join(format!("{name}-{version}"));
        if project.exists() {
            return project;
        }
        let fetch = self.place.join(format!("fetch-{name}"));
        std::fs::create_dir_all(fetch.join("src")).expect("a directory");
        let manifest = format!(
            "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
             [dependencies]\n{name} = \"={version}\"\n"
        );
        std::fs::write(fetch.join("Cargo.toml"), manifest).expect("a manifest");
        std::fs::write(fetch.join("src/lib.rs"), "").expect("a source");
        let vendor = self.place.join("vendor");
        let status = Command::new("cargo")
            .args(["vendor", "--quiet", "--versioned-dirs"])
            .arg(&vendor)
            .current_dir(&fetch)
            .output()
            .expect("cargo starts");
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        std::fs::rename(vendor.join(format!("{name}-{version}")), &project).expect("it was fetched");
        let _ = std::fs::remove_file(project.join(".cargo-checksum.json"));
        project
    }

    /// Figures 1 and 2: a suite that is compiled beforehand, beside `cargo test`, nextest and, where it is installed, Maelstrom; then the
    /// same again, unchanged.
    pub fn cargo_suite(&self, name: &str, version: &str) {
        let project = self.fetch(name, version);
        let mut list: Vec<(&str, Make<'_>)> = vec![
            ("`cargo test --lib --tests`", Box::new(|| self.cargo(&project, &["test", "--lib", "--tests"]))),
            ("`cargo nextest run`, no double spawn", Box::new(|| self.cargo(&project, &["nextest", "run"]))),
            ("`muster test --no-cache`", Box::new(|| self.muster(&project, name, &["--no-cache"]))),
            (
                "`muster test --no-cache --isolation process`",
                Box::new(|| self.muster(&project, name, &["--no-cache", "--isolation", "process"])),
            ),
            ("`muster test`, unchanged", Box::new(|| self.muster(&project, name, &[]))),
        ];
        if Command::new("cargo").args(["maelstrom", "--version"]).output().is_ok_and(|output| output.status.success()) {
            list.push(("`cargo maelstrom`", Box::new(|| self.cargo(&project, &["maelstrom", "--slots", "4"]))));
        }
        let list: Vec<(&str, &dyn Fn() -> Command)> = list.iter().map(|(name, make)| (*name, &**make)).collect();
        print(&format!("{name} {version}"), &compare(self.rounds, &list));
    }

    /// Figure 5: a large suite under pytest, beside xdist.
    ///
    /// # Panics
    ///
    /// When Python or its package index can't be used.
    pub fn python_suite(&self) {
        let environment = self.place.join("python");
        let python = environment.join("bin/python");
        if !environment.join("complete").exists() {
            let made = Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment).status();
            assert!(made.is_ok_and(|status| status.success()), "python3 -m venv works");
            let packages = ["networkx==3.6.1", "pytest==9.*", "pytest-xdist==3.*"];
            let installed = Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages).status();
            assert!(installed.is_ok_and(|status| status.success()), "pip install works");
            std::fs::write(environment.join("complete"), "").expect("is written");
        }
        let project = self.place.join("networkx-suite");
        if !project.exists() {
            let found = Command::new(&python)
                .args(["-c", "import networkx, os; print(os.path.dirname(networkx.__file__))"])
                .output()
                .expect("python starts");
            let source = String::from_utf8_lossy(&found.stdout).trim().to_owned();
            std::fs::create_dir_all(&project).expect("a directory");
            let copied = Command::new("cp").args(["-r", &source]).arg(&project).status();
            assert!(copied.is_ok_and(|status| status.success()), "the suite is copied");
            let muster = format!("[test.networkx]\nframework = \"pytest\"\npython = {python:?}\n");
            std::fs::write(project.join("muster.toml"), muster).expect("is written");
            std::fs::write(project.join("pytest.ini"), "[pytest]\n").expect("is written");
        }
        let xdist = || {
            let mut command = Command::new(&python);
            command.args(["-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]).current_dir(&project);
            command
        };
        let muster = || self.muster(&project, "networkx", &["--no-cache"]);
        let again = || self.muster(&project, "networkx", &[]);
        let rows = compare(
            self.rounds,
            &[("`pytest -n 2`", &xdist), ("`muster test --no-cache`", &muster), ("`muster test`, unchanged", &again)],
        );
        print("networkx 3.6.1 under pytest", &rows);
    }
}
