//! The variables that cargo's own configuration sets for what it runs: `[env]` (The Cargo Book, "Configuration", `[env]`).
//!
//! Files are merged as cargo does it: those given by `--config` outrank all, then those of the directory and of each one above it, the nearest
//! first, then the one in `$CARGO_HOME`. Where cargo lets a variable of the caller's own environment stand unless `force` is set, the value
//! here always counts: what a case sees does not depend on who runs it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::project::ProjectError;
use crate::project::error::file_error;

use super::selection::values;

/// The variables for a suite in `directory`, built with `arguments`.
///
/// # Errors
///
/// A file that is there and can't be read. One that can't be understood stops cargo itself, which says so better.
pub(super) fn variables(directory: &Path, arguments: &[String]) -> Result<BTreeMap<String, String>, ProjectError> {
    let mut variables = BTreeMap::new();
    for given in values(arguments, &["--config"]).iter().rev() {
        let path = directory.join(given);
        if path.is_file() {
            take(&read(&path)?, path.parent().unwrap_or(directory), &mut variables);
        } else {
            take(given, directory, &mut variables);
        }
    }
    let own = directory.ancestors().map(|above| above.join(".cargo"));
    for folder in own.chain(cargo_home()) {
        // `config` without an ending is the older name and outranks the newer one.
        let Some(path) =
            ["config", "config.toml"].map(|name| folder.join(name)).into_iter().find(|path| path.is_file())
        else {
            continue;
        };
        // What is relative is so to the directory that holds `.cargo`.
        take(&read(&path)?, folder.parent().unwrap_or(&folder), &mut variables);
    }
    Ok(variables)
}

fn cargo_home() -> Option<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

fn read(path: &Path) -> Result<String, ProjectError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(file_error("read", path)),
    }
}

/// Adds what a file says, without touching what a file that outranks it has said.
fn take(text: &str, base: &Path, variables: &mut BTreeMap<String, String>) {
    let Ok(document) = text.parse::<toml::Table>() else { return };
    let Some(entries) = document.get("env").and_then(toml::Value::as_table) else { return };
    for (name, entry) in entries {
        let relative = entry.get("relative").and_then(toml::Value::as_bool).unwrap_or(false);
        let value = entry.as_str().or_else(|| entry.get("value")?.as_str());
        if let Some(value) = value {
            let value = if relative { base.join(value).display().to_string() } else { value.to_owned() };
            variables.entry(name.clone()).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_file_counts_and_the_command_line_more() {
        let root = tempfile::tempdir().expect("a directory");
        let inner = root.path().join("inner");
        fs::create_dir_all(inner.join(".cargo")).expect("made");
        fs::create_dir_all(root.path().join(".cargo")).expect("made");
        let outer = "[env]\nA = \"outer\"\nB = \"outer\"\nPLACE = { value = \"data\", relative = true }\n";
        fs::write(root.path().join(".cargo/config.toml"), outer).expect("written");
        fs::write(inner.join(".cargo/config.toml"), "[env]\nA = { value = \"inner\", force = true }\nC = \"inner\"\n")
            .expect("written");
        let arguments = ["--config", "env.C = \"typed\""].map(str::to_owned);
        let variables = variables(&inner, &arguments).expect("they can be read");
        let value = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!((value("A"), value("B"), value("C")), (Some("inner"), Some("outer"), Some("typed")));
        assert_eq!(value("PLACE").map(PathBuf::from), Some(root.path().join("data")));
    }

    #[test]
    fn nonsense_is_left_to_cargo() {
        let mut variables = BTreeMap::new();
        for text in ["[env", "env = 3", "[env]\nA = 3\nB = { relative = true }\n"] {
            take(text, Path::new("/"), &mut variables);
        }
        assert_eq!(variables, BTreeMap::new());
    }
}
