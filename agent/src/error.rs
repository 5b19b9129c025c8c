//! What can keep an agent from starting.

use std::io;
use std::path::PathBuf;

use muster_environment::doctor::{ALLOW_FLAG, remedy};
use muster_model::platform::Weakness;

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file or folder of the data directory can't be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the data directory.
    #[error("another agent uses the data directory {}", .0.display())]
    InUse(PathBuf),
    /// The identity kept in the data directory is damaged.
    #[error("{} does not hold an agent's identity", .0.display())]
    Identity(PathBuf),
    /// The coordinator's address is not a URL.
    #[error("{url:?} is not the address of a coordinator")]
    Coordinator {
        /// What was written.
        url: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// A configuration file that can't be understood.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// In characters, counted from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value on the command line or in the configuration file that is out of range.
    #[error("{what} {why}")]
    Value {
        /// The setting.
        what: &'static str,
        /// What is wrong with it, as a fragment.
        why: String,
    },
    /// None of the kinds of environment that the agent is to offer works here.
    #[error("no environment of the configured kinds works on this machine")]
    NoEnvironment {
        /// What the operator can do about it.
        remedy: Option<String>,
        /// What the driver said.
        source: Option<muster_environment::EnvironmentError>,
    },
    /// Sandboxes here would be weaker than is allowed.
    #[error("sandboxes on this machine would lack {}", .0.name())]
    Weaker(Weakness),
    /// The machine's own base can't be identified.
    #[error("cannot identify the base of this machine")]
    Base(#[source] muster_environment::base::BaseError),
    /// The cache of blobs can't be opened.
    #[error("cannot open the cache in {}", path.display())]
    Cache {
        /// Its folder.
        path: PathBuf,
        /// What it said.
        source: muster_cache::StoreError,
    },
}

impl AgentError {
    /// The next thing to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::File { path, .. } => Some(format!(
                "name a folder that this user may write with --data; the trouble is at {}",
                path.display()
            )),
            Self::InUse(_) => Some("give every agent a data directory of its own with --data".to_owned()),
            Self::Identity(path) => Some(format!("rm {}; the agent will draw a new one", path.display())),
            Self::Coordinator { .. } => Some("--coordinator http://HOST:7420".to_owned()),
            Self::Configuration { .. } => {
                Some("the keys are the flags of muster-agent --help; labels are a table".to_owned())
            }
            Self::Value { .. } => Some("muster-agent --help".to_owned()),
            Self::NoEnvironment { remedy, .. } => {
                Some(remedy.clone().unwrap_or_else(|| "--environment host offers the bare host".to_owned()))
            }
            Self::Weaker(weakness) => Some(format!(
                "{}; or allow it, and every result says so: {ALLOW_FLAG} {}",
                remedy(*weakness),
                weakness.name()
            )),
            Self::Base(_) => Some("--environment host offers no base".to_owned()),
            Self::Cache { path, .. } => {
                Some(format!("rm -r {}; it holds nothing that cannot be fetched again", path.display()))
            }
        }
    }
}
