//! Which Python interpreter, and what it is made of.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::memory;
use crate::project::{ProjectError, Suite};

/// The script that an interpreter answers.
const QUESTION: &str = include_str!("interpreter.py");

/// What the interpreter says about itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Interpreter {
    /// Itself, links not resolved: in a virtual environment the link decides which one it is.
    pub(super) executable: PathBuf,
    /// The virtual environment, or the installation.
    pub(super) prefix: PathBuf,
    /// The installation.
    pub(super) base_prefix: PathBuf,
    /// The installation's own program.
    pub(super) base_executable: PathBuf,
    /// Major, minor, patch.
    pub(super) version: (u32, u32, u32),
    /// In the names of byte code files, for example `cpython-311`.
    pub(super) cache_tag: Option<String>,
    /// Where the standard library is.
    pub(super) standard_library: Vec<PathBuf>,
    /// Where packages are installed.
    pub(super) site_packages: Vec<PathBuf>,
    /// `sys.path`, as far as it exists, with what `.pth` files add.
    pub(super) path: Vec<PathBuf>,
    /// The directory of the user's own packages, when they are on `sys.path`.
    pub(super) user_base: Option<PathBuf>,
    /// The directories of packages installed with `pip install --editable`.
    pub(super) editable: Vec<PathBuf>,
    /// The version of pytest, if it is installed.
    pub(super) pytest: Option<String>,
}

impl Interpreter {
    /// Finds the suite's interpreter, and asks it unless what it would say is remembered in `cache_directory`.
    ///
    /// # Errors
    ///
    /// [`ProjectError::NoPython`], [`ProjectError::NoPytest`], or an answer that is not understood.
    pub(super) fn find(suite: &Suite, cache_directory: &Path) -> Result<Self, ProjectError> {
        let python = path_of(suite).ok_or_else(|| ProjectError::NoPython { directory: suite.directory.clone() })?;
        let interpreter = match memory::recall(cache_directory, &python, QUESTION) {
            Some(interpreter) => interpreter,
            None => {
                let interpreter = Self::ask(&python, &suite.directory)?;
                memory::remember(cache_directory, &python, QUESTION, &interpreter);
                interpreter
            }
        };
        if interpreter.pytest.is_none() {
            return Err(ProjectError::NoPytest { python: interpreter.executable });
        }
        Ok(interpreter)
    }

    fn ask(python: &Path, directory: &Path) -> Result<Self, ProjectError> {
        let answer =
            Command::new(python).args(["-c", QUESTION]).current_dir(directory).stdin(Stdio::null()).output().map_err(
                |source| ProjectError::Start {
                    program: python.display().to_string(),
                    hint: "name another interpreter: python = \"PATH\" in muster.toml".into(),
                    source,
                },
            )?;
        if !answer.status.success() {
            return Err(ProjectError::BuildFailed {
                command: python.display().to_string(),
                status: answer.status.to_string(),
                output: String::from_utf8_lossy(&answer.stderr).into_owned(),
            });
        }
        serde_json::from_slice(&answer.stdout)
            .map_err(|error| ProjectError::Output { program: python.display().to_string(), message: error.to_string() })
    }

    /// Whether it is a virtual environment.
    pub(super) fn is_virtual(&self) -> bool {
        self.prefix != self.base_prefix
    }
}

/// In this order: what the user names, the active virtual environment, the project's own, `python3` on `PATH`.
fn path_of(suite: &Suite) -> Option<PathBuf> {
    if let Some(named) = &suite.plan.settings.python {
        // A name without a directory is looked up on `PATH` when it is started.
        return Some(if named.contains('/') { suite.root.join(named) } else { PathBuf::from(named) });
    }
    let active = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let directories = [&suite.directory, &suite.root].into_iter();
    let own = directories.flat_map(|directory| [directory.join(".venv"), directory.join("venv")]);
    let mut places = active.into_iter().chain(own).map(|prefix| prefix.join("bin/python"));
    places.find(|python| python.is_file()).or_else(|| {
        let path = std::env::var_os("PATH")?;
        let named = |directory: PathBuf| ["python3", "python"].map(|name| directory.join(name));
        std::env::split_paths(&path).flat_map(named).find(|python| python.is_file())
    })
}
