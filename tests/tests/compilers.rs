//! ccache and sccache compile real projects with the fleet as their cache, configured as their pages in docs/clients/ say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_tests::clients::{page, prepared};
use muster_tests::programs::{Fleet, Place};
use serde_json::Value;

/// Runs a command and answers what it wrote to standard output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; hint: scripts/prepare"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} ended with {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Copies a directory, all but what git does not keep.
fn copy(source: &Path, destination: &Path) {
    std::fs::create_dir_all(destination).expect("a directory");
    let copied = run(Command::new("cp").args(["-R", "--no-preserve=mode"]).arg(source.join(".")).arg(destination));
    assert_eq!(copied, "");
}

/// The C sources of zstd, which the project's own build has unpacked: 28 files of a real library.
fn zstd() -> PathBuf {
    let manifest = muster_tests::folder().join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--locked", "--offline", "--manifest-path"]).arg(manifest);
    let metadata: Value = serde_json::from_str(&run(&mut command)).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "zstd-sys").expect("zstd is used");
    let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
    manifest.with_file_name("zstd").join("lib")
}

/// Compiles every file of zstd through a compiler launcher, in the directory; answers how many there are.
fn compile_zstd(directory: &Path, launcher: &Path, environment: &BTreeMap<String, String>) -> u64 {
    let mut count = 0;
    for part in ["common", "compress", "decompress"] {
        let sources = std::fs::read_dir(directory.join(part)).expect("zstd's sources");
        for source in sources.map(|entry| entry.expect("an entry").path()) {
            if source.extension().is_none_or(|extension| extension != "c") {
                continue;
            }
            let object = source.with_extension("o");
            let _ = std::fs::remove_file(&object);
            let mut command = Command::new(launcher);
            command.args(["gcc", "-O0", "-g", "-DZSTD_DISABLE_ASM", "-c", "-o"]).arg(&object).arg(&source);
            run(command.current_dir(directory).envs(environment));
            assert!(object.exists(), "{} was not made", object.display());
            count += 1;
        }
    }
    assert!(count > 20, "only {count} files");
    count
}

/// ccache's counters as its manual names them.
fn ccache_statistics(environment: &BTreeMap<String, String>) -> BTreeMap<String, u64> {
    let text = run(Command::new("ccache").arg("--print-stats").envs(environment));
    let line = |line: &str| {
        let (name, count) = line.split_once('\t')?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[test]
fn ccache_finds_everything_the_second_time_and_from_a_second_directory() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let sources = zstd();
    // The page's base directory is /home; everything of a test is below its own.
    let lines = page::block("ccache", "Configuration", &fleet.address);
    assert!(lines.contains("base_dir = /home\n"), "{lines}");
    let lines = lines.replace("/home", place.beside("").to_str().expect("a name of ours").trim_end_matches('/'));
    let mut compiled = 0;
    for (round, directory) in [(0, "one"), (1, "one"), (2, "two")] {
        let directory = place.beside(directory);
        if !directory.exists() {
            copy(&sources, &directory);
        }
        // A cache of its own each time: what is found then can only come from the fleet.
        let cache = place.beside(&format!("ccache-{round}"));
        std::fs::create_dir_all(&cache).expect("a directory");
        std::fs::write(cache.join("ccache.conf"), &lines).expect("is written");
        let environment = [("CCACHE_DIR".to_owned(), cache.display().to_string())].into();
        compiled = compile_zstd(&directory, Path::new("ccache"), &environment);
        let statistics = ccache_statistics(&environment);
        let count = |name: &str| statistics.get(name).copied().unwrap_or(0);
        let hits = count("direct_cache_hit") + count("preprocessed_cache_hit");
        let expected = if round == 0 { (0, compiled) } else { (compiled, 0) };
        assert_eq!((hits, count("cache_miss")), expected, "round {round}: {statistics:#?}\n{}", fleet.logs());
        assert_eq!(count("remote_storage_error") + count("remote_storage_timeout"), 0, "{statistics:#?}");
    }
    assert!(compiled > 0);
}

/// sccache with a server of its own, which is stopped when this is dropped.
struct Sccache {
    environment: BTreeMap<String, String>,
}

impl Sccache {
    /// Configured as the page says, for a project in `directory`.
    fn configured(place: &Place, name: &str, directory: &Path, address: &str) -> Self {
        let mut environment = BTreeMap::new();
        for line in page::block("sccache", "Configuration", address).lines() {
            let (name, value) = line.strip_prefix("export ").and_then(|line| line.split_once('=')).expect("an export");
            environment.insert(name.to_owned(), value.replace("$PWD", directory.to_str().expect("a name of ours")));
        }
        let socket = place.beside(&format!("{name}.socket"));
        environment.insert("SCCACHE_SERVER_UDS".into(), socket.display().to_string());
        // The page says `sccache`, as it is found in a PATH.
        environment.insert("RUSTC_WRAPPER".into(), prepared("sccache").display().to_string());
        Self { environment }
    }

    /// Configured, and its server started.
    fn start(place: &Place, name: &str, directory: &Path, address: &str) -> Self {
        let sccache = Self::configured(place, name, directory, address);
        sccache.run(&["--start-server"]);
        sccache
    }

    fn run(&self, arguments: &[&str]) -> String {
        run(Command::new(prepared("sccache")).args(arguments).envs(&self.environment))
    }

    /// Hits and misses since the server was started.
    fn counts(&self) -> (u64, u64) {
        let shown: Value = serde_json::from_str(&self.run(&["--show-stats", "--stats-format=json"])).expect("JSON");
        hits_and_misses(&shown)
    }
}

fn hits_and_misses(shown: &Value) -> (u64, u64) {
    let sum = |name: &str| {
        let counts = shown["stats"][name]["counts"].as_object().expect("counts");
        counts.values().filter_map(Value::as_u64).sum()
    };
    let errors = shown["stats"]["cache_errors"]["counts"].as_object().map_or(0, serde_json::Map::len);
    assert_eq!(errors, 0, "{shown:#}");
    (sum("cache_hits"), sum("cache_misses"))
}

impl Drop for Sccache {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = Command::new(prepared("sccache")).arg("--stop-server").envs(&self.environment).output();
    }
}

#[test]
fn sccache_finds_all_of_a_c_project_the_second_time_and_from_a_second_directory() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let sources = zstd();
    for (round, directory) in [(0, "one"), (1, "one"), (2, "two")] {
        let directory = place.beside(directory);
        if !directory.exists() {
            copy(&sources, &directory);
        }
        let sccache = Sccache::start(&place, &format!("c-{round}"), &directory, &fleet.address);
        let compiled = compile_zstd(&directory, &prepared("sccache"), &sccache.environment);
        let expected = if round == 0 { (0, compiled) } else { (compiled, 0) };
        assert_eq!(sccache.counts(), expected, "round {round}: hits and misses\n{}", fleet.logs());
    }
}

/// The project's own sources, as a checkout has them.
fn own_sources(destination: &Path) {
    let root = muster_tests::folder().join("..");
    std::fs::create_dir_all(destination).expect("a directory");
    for entry in std::fs::read_dir(&root).expect("the project's root").map(|entry| entry.expect("an entry")) {
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        if is_hidden || entry.file_name() == "target" {
            continue;
        }
        let target = destination.join(entry.file_name());
        match entry.file_type().expect("a kind").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("is copied")),
        }
    }
}

/// A build of one crate with all that it needs, as a checkout's user starts it.
const BUILD: [&str; 6] = ["cargo", "build", "--offline", "--locked", "-p", "muster-model"];

#[test]
fn sccache_finds_all_of_a_rust_project_the_second_time_and_its_dependencies_from_a_second_directory() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let mut all = 0;
    for (round, directory) in [(0, "one"), (1, "one"), (2, "two")] {
        let directory = place.beside(directory);
        if !directory.exists() {
            own_sources(&directory);
        }
        let _ = std::fs::remove_dir_all(directory.join("target"));
        let sccache = Sccache::start(&place, &format!("rust-{round}"), &directory, &fleet.address);
        let mut cargo = Command::new(BUILD[0]);
        cargo.args(&BUILD[1..]).current_dir(&directory);
        // A variable of cargo's own is part of sccache's keys; a checkout's default is below the checkout.
        run(cargo.envs(&sccache.environment).env_remove("CARGO_TARGET_DIR"));
        let (hits, misses) = sccache.counts();
        match round {
            0 => {
                assert_eq!(hits, 0);
                all = misses;
                assert!(all > 10, "only {all} compilations");
            }
            1 => assert_eq!((hits, misses), (all, 0), "the same directory"),
            // The crate itself, and one that includes what its build script wrote, hold the checkout's path.
            _ => assert_eq!((hits, misses), (all - 2, 2), "a second directory"),
        }
    }
}

/// The page's command shows every checkout at one path, to the compiler and to sccache's server.
#[test]
fn sccache_finds_all_of_a_rust_project_from_a_second_directory_that_is_shown_at_the_same_path() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let mut all = 0;
    for (round, directory) in ["one", "two"].into_iter().enumerate() {
        let directory = place.beside(directory);
        own_sources(&directory);
        let sccache = Sccache::configured(&place, &format!("shown-{round}"), Path::new("/mnt"), &fleet.address);
        let script = page::block("sccache", "Rust from any directory", &fleet.address);
        // Its statistics end with its server, which ends with the command.
        let (program, statistics) = (prepared("sccache"), place.beside("statistics.json"));
        let build = format!("{}; {program:?} --show-stats --stats-format=json >{statistics:?}", BUILD.join(" "));
        let script = script.replace("sccache", &program.display().to_string()).replace("cargo build", &build);
        let mut command = Command::new("sh");
        command.args(["-ec", &script]).current_dir(&directory).envs(&sccache.environment);
        run(command.env_remove("CARGO_TARGET_DIR"));
        let shown = std::fs::read_to_string(statistics).expect("statistics");
        let (hits, misses) = hits_and_misses(&serde_json::from_str(&shown).expect("JSON"));
        if round == 0 {
            assert_eq!(hits, 0);
            all = misses;
            assert!(all > 10, "only {all} compilations");
        } else {
            assert_eq!((hits, misses), (all, 0), "a second directory");
        }
    }
}
