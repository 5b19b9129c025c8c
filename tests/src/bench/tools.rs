//! The peers that suites are measured beside: what this machine has, and what has to be installed once.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The version of Maelstrom that is measured, the last one that was published.
pub(super) const MAELSTROM: &str = "0.14.0";
/// The version of nextest that is installed where there is none.
const NEXTEST: &str = "0.9.143";

/// `cargo nextest`: the machine's own, or one that is installed below `place`.
///
/// # Panics
///
/// When it is not there and can't be installed.
pub(super) fn nextest(place: &Path) -> PathBuf {
    on_path("cargo-nextest").unwrap_or_else(|| installed(place, "cargo-nextest", NEXTEST))
}

/// `cargo maelstrom`, installed below `place`: another version than [`MAELSTROM`] would be another peer.
///
/// # Panics
///
/// When it can't be installed.
pub(super) fn maelstrom(place: &Path) -> PathBuf {
    installed(place, "cargo-maelstrom", MAELSTROM)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|program| program.is_file())
}

fn installed(place: &Path, name: &str, version: &str) -> PathBuf {
    let root = place.join("tools").join(format!("{name}-{version}"));
    let program = root.join("bin").join(name);
    if !program.exists() {
        eprintln!("installing {name} {version}, once; this takes some minutes");
        let mut command = Command::new("cargo");
        command.args(["install", "--quiet", "--locked", name, "--version", version, "--root"]).arg(&root);
        // Its output is of no further use and would be gigabytes in the cache of whoever keeps the cache.
        let target = root.join("target");
        run(command.env("CARGO_TARGET_DIR", &target));
        let _ = std::fs::remove_dir_all(target);
    }
    program
}

/// Fetches a published crate and its dependencies; returns where its own sources are, a copy that may be changed.
///
/// # Panics
///
/// When the registry does not answer.
pub(super) fn fetch(place: &Path, name: &str, version: &str) -> PathBuf {
    let project = place.join(format!("{name}-{version}"));
    if project.exists() {
        return project;
    }
    let fetch = place.join(format!("fetch-{name}"));
    write(&fetch.join("src/lib.rs"), "");
    let manifest = format!(
        "[package]\nname = \"fetch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n\
         [dependencies]\n{name} = \"={version}\"\n"
    );
    write(&fetch.join("Cargo.toml"), &manifest);
    let vendor = fetch.join("vendor");
    let mut command = Command::new("cargo");
    command.args(["vendor", "--quiet", "--versioned-dirs"]).arg(&vendor).current_dir(&fetch);
    run(&mut command);
    std::fs::rename(vendor.join(format!("{name}-{version}")), &project).expect("it was fetched");
    let _ = std::fs::remove_file(project.join(".cargo-checksum.json"));
    project
}

/// Writes a file and the directories above it.
///
/// # Panics
///
/// When it can't be written.
pub(super) fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("its directory is made");
    std::fs::write(path, text).expect("it is written");
}

/// Runs a command that has to succeed.
///
/// # Panics
///
/// When it does not.
pub(super) fn run(command: &mut Command) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?} failed:\n{}", String::from_utf8_lossy(&output.stderr));
}
