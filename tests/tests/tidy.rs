//! The checks that the house holds itself to. Each reads the tree as it is, and says what to do about what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// Lines of one source file.
const FILE_LINES_MAX: usize = 800;
/// Lines of one function, from its name to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Projects that tests run, and files that others wrote: not the house's own words.
const FOREIGN: [&str; 5] = [
    "tests/fixtures/",
    "tests/fuzz/corpus/",
    "frameworks/tests/projects/",
    "frameworks/tests/recorded/",
    "proto/proto/",
];

/// One text file of the tree.
struct File {
    /// From the root, with `/`.
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Lines with their numbers, without comments, documentation included.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The part that only tests compile: all of it, or what follows `mod tests {`.
    fn test_code(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        if self.path.starts_with("tests/") || self.path.contains("/tests/") || name.contains("test") {
            return &self.text;
        }
        self.text.split_once("mod tests {").map_or("", |(_, code)| code)
    }

    /// The part that is not [`Self::test_code`].
    fn own_code(&self) -> &str {
        &self.text[..self.text.len() - self.test_code().len()]
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the workspace")
}

/// Every text file that people write, without hidden folders and build output.
fn files() -> &'static [File] {
    static FILES: OnceLock<Vec<File>> = OnceLock::new();
    FILES.get_or_init(|| {
        let mut files = Vec::new();
        let mut folders = vec![root().to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("the tree is readable") {
                let entry = entry.expect("the tree is readable");
                let name = entry.file_name().to_string_lossy().into_owned();
                let kind = entry.file_type().expect("the tree is readable");
                if kind.is_dir() && !name.starts_with('.') && name != "target" {
                    folders.push(entry.path());
                } else if kind.is_file() && is_text(&name) {
                    files.extend(read(entry.path()));
                }
            }
        }
        assert!(files.len() > 20, "the tree was not found");
        files
    })
}

fn is_text(name: &str) -> bool {
    match name.rsplit_once('.') {
        Some((_, extension)) => ["rs", "toml", "md", "py", "sh", "proto"].contains(&extension),
        None => true,
    }
}

/// None for what is not UTF-8, belongs to others, or has vanished since it was listed.
fn read(path: PathBuf) -> Option<File> {
    let text = std::fs::read_to_string(&path).ok()?;
    let path = path.strip_prefix(root()).ok()?.to_str()?.to_owned();
    (!FOREIGN.iter().any(|folder| path.starts_with(folder))).then_some(File { path, text })
}

fn rust_files() -> impl Iterator<Item = &'static File> {
    files().iter().filter(|file| file.is_rust())
}

fn file(path: &str) -> &'static File {
    files().iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path} is not there"))
}

/// `cargo metadata`: the workspace's own packages.
fn packages() -> &'static [Value] {
    static PACKAGES: OnceLock<Vec<Value>> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(root())
            .output()
            .expect("cargo starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
        serde_json::from_value(metadata["packages"].take()).expect("cargo metadata lists packages")
    })
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// The dependencies of a package of one kind: `normal`, `dev` or `build`.
fn dependencies<'a>(package: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a str> {
    let all = package["dependencies"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter()
        .filter(move |dependency| dependency["kind"].as_str().unwrap_or("normal") == kind)
        .map(|dependency| text(dependency, "name"))
}

/// Fails with every finding and what to do.
fn expect_none(findings: &[String], remedy: &str) {
    let mut message = String::new();
    for finding in findings {
        writeln!(message, "  {finding}").expect("a string takes everything");
    }
    assert!(findings.is_empty(), "{} found:\n{message}{remedy}", findings.len());
}

/// Whether `word` is in `line`, not as a part of a longer word.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |character: Option<char>| character.is_some_and(|found| found.is_alphanumeric() || found == '_');
    line.match_indices(word).any(|(start, _)| {
        !is_part(line[..start].chars().next_back()) && !is_part(line[start + word.len()..].chars().next())
    })
}

/// The cells of every row of a page's tables, without their heads.
fn table_rows(page: &str) -> Vec<Vec<&str>> {
    let lines: Vec<&str> = page.lines().collect();
    let is_rule = |line: &str| line.starts_with("|--") || line.starts_with("|-");
    let is_head = |position: usize| lines.get(position + 1).is_some_and(|next| is_rule(next));
    let rows = lines
        .iter()
        .enumerate()
        .filter(|(position, line)| line.starts_with('|') && !is_rule(line) && !is_head(*position));
    rows.map(|(_, line)| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// A row of the table of rooms.
struct Room {
    rank: u32,
    description: &'static str,
    may_import: &'static str,
}

/// The table of rooms in `docs/ARCHITECTURE.md`, by crate.
fn rooms() -> BTreeMap<&'static str, Room> {
    let room = |row: Vec<&'static str>| match row[..] {
        [rank, _, name, description, may_import] => {
            let rank = rank.parse().ok()?;
            Some((quoted(name).next()?, Room { rank, description, may_import }))
        }
        _ => None,
    };
    table_rows(&file("docs/ARCHITECTURE.md").text).into_iter().filter_map(room).collect()
}

#[test]
fn imports_go_down_as_the_table_of_rooms_says() {
    let rooms = rooms();
    let mut findings = Vec::new();
    for package in packages() {
        let name = text(package, "name");
        let Some(room) = rooms.get(name) else {
            findings.push(format!("{name} is not in the table"));
            continue;
        };
        for dependency in dependencies(package, "normal").filter(|dependency| rooms.contains_key(dependency)) {
            let short = dependency.strip_prefix("muster-").unwrap_or(dependency);
            let is_named = room.may_import.split(", ").any(|word| ["anything", "all above", short].contains(&word));
            if !is_named || rooms[dependency].rank >= room.rank {
                findings.push(format!("{name} imports {dependency}"));
            }
        }
    }
    findings.extend(
        rooms
            .keys()
            .filter(|room| !packages().iter().any(|package| text(package, "name") == **room))
            .map(|room| format!("{room} is in the table and not in the workspace")),
    );
    expect_none(&findings, "Move the code down, or change the table in docs/ARCHITECTURE.md with its reason.");
}

#[test]
fn quiet_rooms_are_quiet() {
    const LOUD: [&str; 8] =
        ["std::fs", "std::net", "std::process", "std::env", "std::thread", "std::time::Instant", "SystemTime", "tokio"];
    let mut findings = Vec::new();
    for package in packages() {
        let Some(room) = rooms().remove(text(package, "name")).filter(|room| room.description.starts_with("quiet"))
        else {
            continue;
        };
        let manifest = text(package, "manifest_path").strip_suffix("Cargo.toml").unwrap_or_default();
        let folder = Path::new(manifest).strip_prefix(root()).expect("packages are in the tree").join("src");
        let folder = folder.to_str().expect("the tree's paths are UTF-8");
        if room.description.contains("`no_std`") && !file(&format!("{folder}/lib.rs")).text.contains("#![no_std]") {
            findings.push(format!("{folder}/lib.rs lacks #![no_std]"));
        }
        for source in rust_files().filter(|file| file.path.starts_with(folder)) {
            for (word, line) in LOUD.iter().flat_map(|word| source.own_code().lines().map(move |line| (word, line))) {
                if !line.trim_start().starts_with("//") && line.contains(word) {
                    findings.push(format!("{}: {word}", source.path));
                }
            }
        }
    }
    expect_none(&findings, "Take the value as an argument and leave input, output and clocks to the loud half.");
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let findings: Vec<String> = rust_files()
        .map(|file| (file, file.text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .map(|(file, lines)| format!("{} has {lines} lines", file.path))
        .collect();
    expect_none(&findings, &format!("Split it: {FILE_LINES_MAX} lines are the limit, 400 the aim."));
}

/// Lines of inline snapshots, which are what people read and as long as that is.
fn snapshot_lines(function: &[&str]) -> usize {
    let mut count = 0;
    let mut inside = false;
    for line in function {
        inside = inside && line.trim() != "\"#);";
        count += usize::from(inside);
        inside |= line.ends_with("@r#\"");
    }
    count
}

#[test]
fn functions_fit_a_screen() {
    let mut findings = Vec::new();
    for file in rust_files() {
        let lines: Vec<&str> = file.text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//")
                || line.ends_with('}')
                || !has_word(code.split('(').next().unwrap_or_default(), "fn")
            {
                continue;
            }
            // The sources are formatted, so a function ends where its first line's indentation comes back.
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let length = lines[start..].iter().position(|line| *line == end).map_or(0, |length| length + 1);
            let length = length - snapshot_lines(&lines[start..start + length]);
            if length > FUNCTION_LINES_MAX {
                findings.push(format!("{}:{} has {length} lines", file.path, start + 1));
            }
        }
    }
    expect_none(&findings, &format!("Split it: {FUNCTION_LINES_MAX} lines are the limit."));
}

#[test]
fn the_compiler_demands_documentation_everywhere() {
    let manifest = &file("Cargo.toml").text;
    assert!(manifest.contains("missing_docs = \"deny\""), "Put missing_docs = \"deny\" into [workspace.lints.rust].");
    let findings: Vec<String> = packages()
        .iter()
        .map(|package| text(package, "manifest_path"))
        .filter(|path| {
            !std::fs::read_to_string(path).expect("a manifest is readable").contains("[lints]\nworkspace = true")
        })
        .map(str::to_owned)
        .collect();
    expect_none(&findings, "Add `[lints]` with `workspace = true` to the manifest.");
}

/// The variants of an enum, as a formatted file has them.
fn variants<'a>(file: &'a File, name: &str) -> Vec<&'a str> {
    let (_, body) = file.text.split_once(&format!("pub enum {name} {{\n")).expect("the enum is in its file");
    let body = body.split("\n}").next().unwrap_or_default();
    let variant = |line: &'a str| {
        let line = line.strip_prefix("    ").filter(|line| line.starts_with(char::is_uppercase))?;
        line.split(|character: char| !character.is_alphanumeric()).next()
    };
    body.lines().filter_map(variant).collect()
}

#[test]
fn every_event_and_command_occurs_in_a_test() {
    let mut findings = Vec::new();
    for (folder, room) in [("coordinator/scheduler", "coordinator/"), ("agent/state", "agent/")] {
        for (file_name, name) in [("event", "Event"), ("command", "Command")] {
            let definition = file(&format!("{folder}/src/{file_name}.rs"));
            for variant in variants(definition, name) {
                let wanted = format!("{name}::{variant}");
                let is_tested = rust_files()
                    .filter(|file| file.path.starts_with(room) || file.path.starts_with("tests/"))
                    .any(|file| has_word(file.test_code(), &wanted));
                if !is_tested {
                    findings.push(format!("{}: {wanted}", definition.path));
                }
            }
        }
    }
    expect_none(&findings, "Write a test that names it, or take it out.");
}

#[test]
fn every_limit_is_used() {
    const LIMITS: &str = "model/src/limits.rs";
    let names = file(LIMITS).text.lines().filter_map(|line| line.strip_prefix("pub const ")?.split(':').next());
    let is_used = |name: &str| {
        let uses = |line: &str| !line.trim_start().starts_with("//") && has_word(line, name);
        rust_files().filter(|file| file.path != LIMITS).any(|file| file.own_code().lines().any(uses))
    };
    let findings: Vec<String> = names.filter(|name| !is_used(name)).map(str::to_owned).collect();
    expect_none(&findings, "A limit that nobody holds is no limit: use it where the thing is bounded, or take it out.");
}

#[test]
fn every_dependency_has_its_reason() {
    let page = table_rows(&file("docs/dependencies.md").text);
    let explained: BTreeSet<&str> = page.iter().flat_map(|row| quoted(row[0])).collect();
    let own: BTreeSet<&str> = packages().iter().map(|package| text(package, "name")).collect();
    let used: BTreeSet<&str> = packages()
        .iter()
        .flat_map(|package| ["normal", "dev", "build"].into_iter().flat_map(|kind| dependencies(package, kind)))
        .filter(|name| !own.contains(name))
        .collect();
    let unexplained = used.difference(&explained).map(|name| format!("{name} has no line"));
    let unused = explained.difference(&used).map(|name| format!("{name} has a line and is not a dependency"));
    let findings: Vec<String> = unexplained.chain(unused).collect();
    expect_none(&findings, "Bring docs/dependencies.md in line with the manifests.");
}

#[test]
fn unsafe_code_lives_in_one_room() {
    let word = concat!("un", "safe");
    let findings: Vec<String> = rust_files()
        .filter(|file| !file.path.starts_with("agent/environment/"))
        .flat_map(|file| file.code().map(move |(number, line)| (file, number, line)))
        .filter(|(_, _, line)| has_word(line, word) || line.contains(concat!("allow(un", "safe_code")))
        .map(|(file, number, _)| format!("{}:{number}", file.path))
        .collect();
    expect_none(&findings, "System calls that need it belong into agent/environment, behind a safe function.");
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("unimpl", "emented!"),
        concat!("to", "do!"),
    ];
    let mut findings = Vec::new();
    for file in files() {
        for (number, line) in (1..).zip(file.text.lines()) {
            let is_ignored = file.is_rust() && line.trim_start().starts_with(concat!("#[", "ignore"));
            if is_ignored || words.iter().any(|word| has_word(line, word)) {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    expect_none(&findings, "Do it now, or write down in the documentation what is deliberately absent.");
}
