//! Why an archive is not taken.

use std::io;
use std::path::PathBuf;

use muster_cache::tree::TreeError;

/// Why a root file system can't be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The archive can't be opened.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not a file.
    #[error("{} is not an archive", path.display())]
    NoArchive {
        /// What was named.
        path: PathBuf,
    },
    /// The archive is damaged, passes a limit, or is none.
    #[error("cannot read the archive")]
    Archive(#[source] io::Error),
    /// A file could not be kept until it is uploaded.
    #[error("cannot keep a file of the archive in {}", path.display())]
    Keep {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An entry breaks a rule.
    #[error("the archive's entry {name:?} {why}")]
    Entry {
        /// Its name as far as it can be shown.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// What the entries make is no tree.
    #[error("the archive's entry {name:?} does not fit into a tree")]
    Tree {
        /// Its name.
        name: String,
        /// What is wrong.
        source: TreeError,
    },
    /// The archive as a whole is not a root file system.
    #[error("the archive {0}")]
    Whole(&'static str),
}

impl ImageError {
    /// Names a failed read of the archive.
    pub(super) fn archive(source: io::Error) -> Self {
        Self::Archive(source)
    }

    /// The next thing to do, without `hint:`.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::NoArchive { .. } => {
                "name a tar archive of a root file system, plain or compressed with gzip or zstd"
            }
            Self::Keep { .. } => "name a directory with room: TMPDIR=DIR muster image import …",
            Self::Archive(_) | Self::Entry { .. } | Self::Tree { .. } | Self::Whole(_) => {
                "make the archive anew: tar -C ROOT -c . > root.tar"
            }
        }
    }
}
