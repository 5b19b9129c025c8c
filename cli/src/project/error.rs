//! What can go wrong between a path and a run.

use std::io;
use std::path::PathBuf;

/// Why a project can't be run.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// Nothing at the path looks like a project with tests.
    #[error("no project with tests in {}", path.display())]
    NoProject {
        /// The path that was looked at.
        path: PathBuf,
    },
    /// None of the suites found is of the frameworks asked for.
    #[error("{} has no {wanted} suite; it has {found}", path.display())]
    NoSuite {
        /// The path that was looked at.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What is there.
        found: String,
    },
    /// `muster.toml` can't be understood. The message carries file, line and column.
    #[error("{place}: {message}")]
    Configuration {
        /// `muster.toml:LINE:COLUMN`.
        place: String,
        /// What is wrong there.
        message: String,
        /// What would be right.
        hint: String,
    },
    /// A suite has services and is to run on a bare host.
    #[error("suite {suite} has services, and a bare host has no network for them")]
    Services {
        /// The suite's name.
        suite: String,
    },
    /// An image is named, and nobody has asked the fleet for it.
    #[error("nothing is known of the image {name}")]
    Image {
        /// Its name.
        name: String,
    },
    /// Neither the file nor the image of a service says what is to be run.
    #[error("service {service} has no command, and its image says nothing of one")]
    NoCommand {
        /// The service's name.
        service: String,
    },
    /// The build failed.
    #[error("{command} failed ({status})")]
    BuildFailed {
        /// The program that was run.
        command: String,
        /// How it ended.
        status: String,
        /// The compiler's own words; empty when they have been shown already.
        output: String,
    },
    /// A program that is needed could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What to do about it.
        hint: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program said something that is not understood.
    #[error("cannot understand what {program} wrote: {message}")]
    Output {
        /// The program.
        program: String,
        /// What is wrong with it.
        message: String,
    },
    /// The Python interpreter has no pytest.
    #[error("{} has no pytest", python.display())]
    NoPytest {
        /// The interpreter.
        python: PathBuf,
    },
    /// No Python interpreter was found.
    #[error("no Python interpreter for {}", directory.display())]
    NoPython {
        /// The suite's directory.
        directory: PathBuf,
    },
    /// A shared library that a program needs is nowhere.
    #[error("{} needs {library}, which is in no library directory", program.display())]
    Library {
        /// The program.
        program: PathBuf,
        /// The library's name.
        library: String,
    },
    /// A file that is needed can't be read.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file kept changing while it was hashed.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A limit of [`muster_model::limits`] was passed.
    #[error("{what} passes its limit of {limit}")]
    Limit {
        /// What.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A program is not something that an agent could load.
    #[error("cannot read {} as a program", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// What is wrong with it.
        source: goblin::error::Error,
    },
}

impl ProjectError {
    /// The next thing to type or to do, without `hint:`.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoProject { path } => Some(format!(
                "name a directory with a Cargo.toml or pytest tests, or describe a command as [test.NAME] in {}",
                path.join("muster.toml").display()
            )),
            Self::NoSuite { .. } => Some("leave out --framework to run what is there".into()),
            Self::Configuration { hint, .. } | Self::Start { hint, .. } => Some(hint.clone()),
            Self::BuildFailed { command, .. } => Some(format!("see it fail without Muster: {command}")),
            Self::Image { name } => Some(format!("muster image show {name}")),
            Self::NoCommand { .. } => Some("add command = [\"PROGRAM\", \"ARGUMENT\"]".into()),
            Self::Services { .. } => Some("leave out --environment, or write --environment sandbox".into()),
            Self::NoPytest { python } => Some(format!("{} -m pip install pytest", python.display())),
            Self::NoPython { .. } => Some("make one: python3 -m venv .venv && .venv/bin/pip install pytest".into()),
            Self::Library { library, .. } => {
                Some(format!("install the package that holds {library}, or name its directory in LD_LIBRARY_PATH"))
            }
            Self::Changed { .. } => Some("run again when nothing writes there any more".into()),
            Self::Limit { .. } | Self::Output { .. } | Self::File { .. } | Self::Program { .. } => None,
        }
    }
}

/// Names a failed file operation.
pub(crate) fn file_error(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> ProjectError {
    let path = path.into();
    move |source| ProjectError::File { action, path, source }
}
