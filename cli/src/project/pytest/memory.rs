//! What an interpreter said of itself, remembered: asking it takes longer than everything else that an unchanged suite needs.
//!
//! An answer holds as long as everything that it follows from is as it was: the interpreter, its `pyvenv.cfg`, the directories on its path (what
//! is installed or removed changes them), the `.pth` files in them, and the variables that it reads.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::interpreter::Interpreter;
use crate::project::stat_cache::Identity;

/// Variables that change what an interpreter says (Python documentation, "Environment variables").
const VARIABLES: [&str; 6] =
    ["HOME", "PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONSAFEPATH"];

/// An answer, and what it follows from.
#[derive(Debug, Deserialize, Serialize)]
struct Memory {
    /// The script that asked.
    question: String,
    variables: Vec<Option<String>>,
    /// Paths, and what `stat` said of each; none for one that is not there.
    witnesses: Vec<(PathBuf, Option<Identity>)>,
    answer: Interpreter,
}

/// The answer of the interpreter `python`, if it is remembered and still holds.
pub(super) fn recall(cache_directory: &Path, python: &Path, question: &str) -> Option<Interpreter> {
    let memory: Memory = serde_json::from_slice(&fs::read(place(cache_directory, python)).ok()?).ok()?;
    let holds = memory.question == question
        && memory.variables == variables()
        && memory.witnesses.iter().all(|(path, identity)| look(path) == *identity);
    holds.then_some(memory.answer)
}

/// Remembers an answer. One that can't be written is asked for again, and so is one that follows from something that has only just changed.
pub(super) fn remember(cache_directory: &Path, python: &Path, question: &str, answer: &Interpreter) {
    let witnesses: Vec<(PathBuf, Option<Identity>)> =
        witnesses(python, answer).into_iter().map(|path| (path.clone(), look(&path))).collect();
    let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
    if !witnesses.iter().filter_map(|(_, identity)| identity.as_ref()).all(|identity| identity.is_settled(now_ns)) {
        return;
    }
    let memory = Memory { question: question.to_owned(), variables: variables(), witnesses, answer: answer.clone() };
    let path = place(cache_directory, python);
    let temporary = path.with_extension(std::process::id().to_string());
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
        fs::write(&temporary, serde_json::to_vec(&memory)?)?;
        fs::rename(&temporary, &path)
    });
    if let Err(error) = written {
        tracing::debug!(error = &error as &dyn std::error::Error, "an interpreter's answer can't be kept");
    }
}

fn place(cache_directory: &Path, python: &Path) -> PathBuf {
    let name = blake3::hash(python.as_os_str().as_encoded_bytes()).to_hex();
    cache_directory.join("interpreters").join(&name[..32])
}

fn variables() -> Vec<Option<String>> {
    VARIABLES.iter().map(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())).collect()
}

/// Everything that the answer follows from.
fn witnesses(python: &Path, answer: &Interpreter) -> Vec<PathBuf> {
    let mut paths = vec![python.to_owned(), answer.base_executable.clone(), answer.prefix.join("pyvenv.cfg")];
    paths.extend(fs::canonicalize(python));
    let directories = answer.site_packages.iter().chain(&answer.path).filter(|path| path.is_dir());
    for directory in directories {
        paths.push(directory.clone());
        let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        paths.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "pth")));
    }
    paths.sort();
    paths.dedup();
    paths
}

/// Links are not followed: in a virtual environment the link is what decides.
fn look(path: &Path) -> Option<Identity> {
    fs::symlink_metadata(path).ok().map(|metadata| Identity::of(&metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Debian's own interpreter would say: its files have been left alone for long.
    fn answer(prefix: &Path) -> Interpreter {
        Interpreter {
            executable: "/usr/bin/python3".into(),
            prefix: prefix.to_owned(),
            base_prefix: "/usr".into(),
            base_executable: "/usr/bin/python3".into(),
            version: (3, 11, 2),
            cache_tag: None,
            standard_library: Vec::new(),
            site_packages: Vec::new(),
            path: Vec::new(),
            user_base: None,
            editable: Vec::new(),
            pytest: Some("9.0".into()),
        }
    }

    #[test]
    fn an_answer_holds_until_something_it_follows_from_changes() {
        let directory = tempfile::tempdir().expect("a directory");
        let (cache, prefix) = (directory.path().join("cache"), directory.path().join("prefix"));
        fs::create_dir(&prefix).expect("made");
        let python = Path::new("/usr/bin/python3");
        assert!(recall(&cache, python, "question").is_none());
        remember(&cache, python, "question", &answer(&prefix));
        let recalled = recall(&cache, python, "question").expect("it was remembered");
        assert_eq!(recalled.pytest.as_deref(), Some("9.0"));
        assert!(recall(&cache, python, "another question").is_none());
        assert!(recall(&cache, Path::new("/usr/bin/python3.11"), "question").is_none());
        fs::write(prefix.join("pyvenv.cfg"), "home = /usr/bin\n").expect("written");
        assert!(recall(&cache, python, "question").is_none(), "it is a virtual environment now");
    }

    #[test]
    fn what_has_only_just_changed_is_not_relied_on() {
        let directory = tempfile::tempdir().expect("a directory");
        let cache = directory.path().join("cache");
        let fresh = Interpreter { site_packages: vec![directory.path().to_owned()], ..answer(Path::new("/usr")) };
        remember(&cache, Path::new("/usr/bin/python3"), "question", &fresh);
        assert!(recall(&cache, Path::new("/usr/bin/python3"), "question").is_none());
    }
}
