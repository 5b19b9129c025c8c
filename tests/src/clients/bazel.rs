//! Bazel 4.2.3, and C++ projects of any size for it.
//!
//! A project is a graph of libraries, drawn from a seed. Each library's header holds a number and computes, inline, what the library should
//! return; its source computes the same by calling the libraries below it. A test compares the two. An object that is stale, or another
//! project's, therefore fails the tests above it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::programs::{Place, Program};
use crate::seed::Random;

/// Libraries in one package.
const PACKAGE: usize = 10;
/// A library uses others that are at most so far before it.
const REACH: u64 = 12;

/// Which library uses which, and which test looks at which.
#[derive(Clone, Debug)]
pub struct Graph {
    /// For each library, the ones before it that it uses.
    pub libraries: Vec<Vec<usize>>,
    /// For each test, the library it looks at.
    pub tests: Vec<usize>,
    salt: u64,
}

impl Graph {
    /// Draws a graph. Projects of different seeds have no file in common.
    pub fn new(seed: u64, libraries: usize, tests: usize) -> Self {
        let mut random = Random::new(seed);
        let below = |index: usize, random: &mut Random| {
            let used: BTreeSet<usize> = (0..random.between(0, 2))
                .filter_map(|_| index.checked_sub(random.between(1, REACH) as usize))
                .collect();
            used.into_iter().collect()
        };
        let salt = random.draw();
        let libraries = (0..libraries).map(|index| below(index, &mut random)).collect::<Vec<_>>();
        let tests = (0..tests).map(|_| random.between(0, libraries.len() as u64 - 1) as usize).collect();
        Self { libraries, tests, salt }
    }

    /// A library and every one that uses it, however indirectly.
    pub fn dependants(&self, library: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([library]);
        for (index, used) in self.libraries.iter().enumerate() {
            if used.iter().any(|one| found.contains(one)) {
                found.insert(index);
            }
        }
        found
    }

    /// The tests that look at one of these libraries.
    pub fn tests_of(&self, libraries: &BTreeSet<usize>) -> usize {
        self.tests.iter().filter(|library| libraries.contains(library)).count()
    }

    /// The library with the most dependants that are not more than a share of all, `1/share`.
    pub fn middling(&self, share: usize) -> usize {
        let most = self.libraries.len() / share;
        let size = |library: &usize| self.dependants(*library).len();
        (0..self.libraries.len()).filter(|library| size(library) <= most).max_by_key(size).expect("a library")
    }

    fn label(library: usize) -> String {
        format!("//part_{}:lib_{library}", library / PACKAGE)
    }

    fn header(&self, library: usize, version: u64) -> String {
        let used = &self.libraries[library];
        let mut text = String::from("#pragma once\n");
        for one in used {
            writeln!(text, "#include \"part_{}/lib_{one}.h\"", one / PACKAGE).expect("a text takes everything");
        }
        let own = self.salt.wrapping_add(library as u64).wrapping_add(version << 32);
        write!(text, "unsigned long value_{library}();\ninline unsigned long expected_{library}() {{ return {own}ul")
            .expect("a text");
        for one in used {
            write!(text, " * 3 + expected_{one}()").expect("a text takes everything");
        }
        text + "; }\n"
    }

    fn source(&self, library: usize) -> String {
        let mut text = format!("#include \"part_{}/lib_{library}.h\"\n", library / PACKAGE);
        write!(text, "unsigned long value_{library}() {{ return expected_{library}()")
            .expect("a text takes everything");
        for one in &self.libraries[library] {
            write!(text, " + value_{one}() - expected_{one}()").expect("a text takes everything");
        }
        text + "; }\n"
    }

    fn build_files(&self) -> BTreeMap<PathBuf, String> {
        let mut files = BTreeMap::new();
        for (library, used) in self.libraries.iter().enumerate() {
            let file: &mut String = files
                .entry(PathBuf::from(format!("part_{}/BUILD", library / PACKAGE)))
                .or_insert_with(|| "package(default_visibility = [\"//visibility:public\"])\n".into());
            let used: Vec<_> = used.iter().map(|one| Self::label(*one)).collect();
            writeln!(
                file,
                "cc_library(name = \"lib_{library}\", srcs = [\"lib_{library}.cc\"], hdrs = [\"lib_{library}.h\"], deps = {used:?}, linkstatic = True)"
            )
            .expect("a text takes everything");
        }
        let mut tests = String::new();
        for (test, library) in self.tests.iter().enumerate() {
            let label = Self::label(*library);
            writeln!(
                tests,
                "cc_test(name = \"test_{test}\", size = \"small\", srcs = [\"test_{test}.cc\"], deps = [{label:?}], linkstatic = True)"
            )
            .expect("a text takes everything");
        }
        files.insert("tests/BUILD".into(), tests);
        files
    }

    /// Writes the project into a place, with the repositories that Bazel would fetch.
    ///
    /// # Panics
    ///
    /// When a file can't be written.
    pub fn write(&self, place: &Place) {
        place.write("WORKSPACE", "");
        for (path, text) in self.build_files() {
            place.write(path.to_str().expect("a name of ours"), &text);
        }
        for library in 0..self.libraries.len() {
            place.write(&format!("part_{}/lib_{library}.cc", library / PACKAGE), &self.source(library));
            self.write_header(place, library, 0);
        }
        for (test, library) in self.tests.iter().enumerate() {
            let include = format!("part_{}/lib_{library}.h", library / PACKAGE);
            let text = format!(
                "#include \"{include}\"\nint main() {{ return value_{library}() == expected_{library}() ? 0 : 1; }}\n// {}\n",
                self.salt
            );
            place.write(&format!("tests/test_{test}.cc"), &text);
        }
    }

    /// Writes one header, with another number for each version.
    ///
    /// # Panics
    ///
    /// When it can't be written.
    pub fn write_header(&self, place: &Place, library: usize, version: u64) {
        place.write(&format!("part_{}/lib_{library}.h", library / PACKAGE), &self.header(library, version));
    }
}

/// A workspace, and the server that Bazel keeps for it, which ends when this is dropped.
pub struct Workspace<'a> {
    place: &'a Place,
}

/// What Bazel would fetch, and is here instead: stand-ins of ours, and what Debian packages.
fn repositories() -> String {
    let stand_ins = crate::folder().join("fixtures/bazel");
    let packaged = Path::new("/usr/share/bazel");
    let mut lines = String::new();
    for (name, path) in [
        ("rules_cc", stand_ins.join("rules_cc")),
        ("remote_coverage_tools", stand_ins.join("remote_coverage_tools")),
        ("rules_java", packaged.join("rules/java")),
        ("rules_proto", packaged.join("rules/proto")),
        ("platforms", packaged.join("platforms")),
    ] {
        writeln!(lines, "common --override_repository={name}={}", path.display()).expect("a text takes everything");
    }
    lines
}

impl<'a> Workspace<'a> {
    /// A workspace whose `.bazelrc` has these lines.
    ///
    /// # Panics
    ///
    /// When the file can't be written.
    pub fn new(place: &'a Place, rc: &str) -> Self {
        place.write(".bazelrc", rc);
        // What only tests need is kept apart from what the page says.
        let quiet = "build --color=no --curses=no --show_progress=no --verbose_failures\n";
        std::fs::write(place.beside("test.bazelrc"), repositories() + quiet).expect("is written");
        Self { place }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("bazel");
        command.current_dir(self.place.project()).stdin(Stdio::null());
        let root = self.place.beside("bazel");
        command.arg(format!("--output_user_root={}", root.display()));
        command.arg(format!("--bazelrc={}", self.place.beside("test.bazelrc").display()));
        command.args(["--nohome_rc", "--max_idle_secs=120", "--host_jvm_args=-Xmx768m"]).args(arguments);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    ///
    /// When it can't be started.
    pub fn run(&self, arguments: &[&str]) -> Build {
        let output = self.command(arguments).output().expect("bazel starts; hint: scripts/prepare");
        Build::read(&output)
    }

    /// Starts a command and leaves it to run; its output is read by [`Build::read`].
    pub fn start(&self, arguments: &[&str]) -> Program {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Program::start(command)
    }
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        // Fails only when no server runs.
        let _ = self.command(&["shutdown"]).output();
    }
}

/// How a build went.
#[derive(Debug)]
pub struct Build {
    /// Bazel's exit code: 0 all went well, 3 a test failed, 1 the build failed.
    pub code: Option<i32>,
    /// How many actions ran where, as Bazel sums them up: `internal`, `local`, `remote`, `remote cache hit`.
    pub processes: BTreeMap<String, usize>,
    /// Everything it said.
    pub text: String,
}

impl Build {
    /// Reads a finished program's output.
    pub fn read(output: &std::process::Output) -> Self {
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Self { code: output.status.code(), processes: processes(&text), text }
    }

    /// How many actions ran this way.
    pub fn count(&self, way: &str) -> usize {
        self.processes.get(way).copied().unwrap_or(0)
    }

    /// Asserts that it went well.
    ///
    /// # Panics
    ///
    /// When it did not.
    pub fn assert_passed(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{}", self.text);
        self
    }
}

/// Reads `INFO: 19 processes: 12 internal, 7 remote cache hit.`
fn processes(text: &str) -> BTreeMap<String, usize> {
    let line = text.lines().rev().find(|line| line.starts_with("INFO: ") && line.contains(" process"));
    let ways = line.and_then(|line| line.split_once(": ")?.1.split_once(": ")).map_or("", |(_, ways)| ways);
    let one = |way: &str| {
        let (count, name) = way.trim().split_once(' ')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    ways.trim_end_matches('.').split(',').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_read() {
        let text =
            "INFO: Elapsed time: 6.937s\nINFO: 19 processes: 12 internal, 3 local, 4 remote cache hit.\nINFO: Done\n";
        let expected = [("internal", 12), ("local", 3), ("remote cache hit", 4)];
        assert_eq!(processes(text), expected.map(|(way, count)| (way.to_owned(), count)).into());
        assert_eq!(processes("INFO: 1 process: 1 internal.\n"), BTreeMap::from([("internal".to_owned(), 1)]));
        assert!(processes("ERROR: no such target\n").is_empty());
    }

    #[test]
    fn who_depends_on_whom_follows_the_edges() {
        let graph = Graph { libraries: vec![vec![], vec![0], vec![], vec![1, 2]], tests: vec![3, 2, 2], salt: 0 };
        assert_eq!(graph.dependants(0), BTreeSet::from([0, 1, 3]));
        assert_eq!(graph.dependants(2), BTreeSet::from([2, 3]));
        assert_eq!(graph.tests_of(&graph.dependants(0)), 1);
        assert_eq!(graph.middling(2), 2);
    }

    #[test]
    fn a_project_is_the_same_for_the_same_seed_only() {
        let (one, other) = (Graph::new(1, 30, 5), Graph::new(2, 30, 5));
        assert_eq!(one.header(7, 0), Graph::new(1, 30, 5).header(7, 0));
        assert_ne!(one.header(7, 0), other.header(7, 0));
        assert_ne!(one.header(7, 0), one.header(7, 1));
    }
}
