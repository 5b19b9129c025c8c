//! Why a blob could not be read or stored, or two actions not be compared.

use std::path::PathBuf;

use muster_cache::StoreError;
use muster_model::Digest;

use crate::exit_code::ExitCode;
use crate::why_miss::SubjectError;

/// What `muster cache` can end in besides an answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A blob can't be read, or not be written where it was wanted.
    #[error("cannot get {digest}")]
    Read {
        /// Which.
        digest: Digest,
        /// Why.
        source: Box<StoreError>,
    },
    /// A file can't be stored.
    #[error("cannot store {}", path.display())]
    Store {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<StoreError>,
    },
    /// Actions can't be taken apart.
    #[error("cannot compare the two actions")]
    Compare(#[from] SubjectError),
    /// What is to be compared is neither an action nor a run.
    #[error("`{text}` is neither an action's digest nor a run's number")]
    NoSubject {
        /// As it was typed.
        text: String,
        /// What a digest looks like.
        why: String,
    },
    /// The run has no such case.
    #[error("run {run} has no case `{case}`")]
    NoSuchCase {
        /// Which run.
        run: u64,
        /// As it was typed.
        case: String,
    },
    /// The name means several cases.
    #[error("run {run} has several cases `{case}`")]
    SeveralCases {
        /// Which run.
        run: u64,
        /// As it was typed.
        case: String,
        /// Their whole names.
        names: Vec<String>,
    },
    /// No earlier run had the case.
    #[error("no run of {project} before run {run} had the case `{case}`")]
    NoEarlierRun {
        /// Which run.
        run: u64,
        /// Of which project.
        project: String,
        /// Its name.
        case: String,
    },
}

impl CacheError {
    /// The number that the process leaves with.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read { source, .. } if is_of_file(source) => ExitCode::ReportFailed,
            Self::Store { source, .. } if is_of_file(source) => ExitCode::Usage,
            Self::NoSubject { .. } => ExitCode::Usage,
            Self::Read { .. } | Self::Store { .. } | Self::Compare(_) => ExitCode::FleetFault,
            Self::NoSuchCase { .. } | Self::SeveralCases { .. } | Self::NoEarlierRun { .. } => ExitCode::NothingToRun,
        }
    }

    /// The next things to type.
    pub(crate) fn hints(&self) -> Vec<String> {
        match self {
            Self::Read { digest, source } if matches!(**source, StoreError::NotFound(_)) => vec![
                "it was evicted, or never stored: muster cache put FILE stores a blob and prints its digest".into(),
                format!("a digest without a function is SHA-256; this one is {}", digest.function.name()),
            ],
            Self::Compare(SubjectError::Store(source)) => match &**source {
                StoreError::NotFound(digest) => {
                    vec![format!("{digest} was evicted, or never uploaded: build once more, then compare")]
                }
                _ => Vec::new(),
            },
            Self::Compare(SubjectError::NoMessage { .. }) => {
                vec!["the digest has to be that of an Action, as a client's execution log names it".into()]
            }
            Self::NoSubject { why, .. } => {
                vec![why.clone(), "muster cache why-miss RUN CASE compares a case with its last run".into()]
            }
            Self::NoSuchCase { run, .. } => {
                vec![format!("muster runs show {run} --format json has the names of all cases")]
            }
            Self::SeveralCases { names, .. } => names.iter().take(5).map(|name| format!("write {name}")).collect(),
            Self::NoEarlierRun { .. } => {
                vec!["there was nothing to hit: the first run of a case is always a miss".into()]
            }
            Self::Read { .. } | Self::Store { .. } | Self::Compare(_) => Vec::new(),
        }
    }
}

/// Whether a file of this machine is to blame.
fn is_of_file(error: &StoreError) -> bool {
    matches!(error, StoreError::File { .. })
}
