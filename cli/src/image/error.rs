//! Why an image is not taken.

use std::io;
use std::path::PathBuf;

use muster_cache::tree::TreeError;

/// Why an image can't be imported.
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
    /// It is neither a file nor a layout.
    #[error("{} is neither an archive nor a directory with an OCI layout", path.display())]
    NoImage {
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
    /// The archive as a whole is not a root file system, or the image is none.
    #[error("the image {0}")]
    Whole(&'static str),
    /// A layer is wrong.
    #[error("cannot take layer {number} of the image")]
    Layer {
        /// Which, from 1, the lowest.
        number: usize,
        /// What is wrong.
        source: Box<Self>,
    },
    /// Something that describes the image is wrong.
    #[error("cannot take {name} of the image")]
    Document {
        /// Its name.
        name: String,
        /// What is wrong.
        source: Box<Self>,
    },
    /// Something that describes the image is not in its form.
    #[error("{name} of the image can't be read")]
    Malformed {
        /// Its name.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// Bytes are not those that were promised.
    #[error("its bytes are not those of its digest")]
    Digest,
    /// A digest that is none, or that another function made.
    #[error("{text:?} is not a digest of SHA-256")]
    Function {
        /// What is there.
        text: String,
    },
    /// Something is named and not there.
    #[error("the image has no {name}")]
    Missing {
        /// What.
        name: String,
    },
    /// There is not one image that must be meant.
    #[error("the archive or layout {0}")]
    Choice(String),
}

/// How many names an error shows.
pub(super) const NAMES_SHOWN_MAX: usize = 20;

/// What can be shown of a text that somebody else wrote.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(200).collect()
}

impl ImageError {
    /// Names a failed read of the archive.
    pub(super) fn archive(source: io::Error) -> Self {
        Self::Archive(source)
    }

    /// Names what has no place in a tree.
    pub(super) fn tree(name: &str) -> impl FnOnce(TreeError) -> Self {
        let name = name.to_owned();
        move |source| Self::Tree { name, source }
    }

    /// The next thing to do, without `hint:`.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Read { .. } | Self::NoImage { .. } => {
                "name a root file system as a tar archive, what docker save wrote, or an OCI layout"
            }
            Self::Keep { .. } => "name a directory with room: TMPDIR=DIR muster image import …",
            Self::Archive(_) | Self::Entry { .. } | Self::Tree { .. } | Self::Whole(_) => {
                "make the archive anew: tar -C ROOT -c . > root.tar"
            }
            Self::Layer { .. }
            | Self::Document { .. }
            | Self::Malformed { .. }
            | Self::Digest
            | Self::Function { .. }
            | Self::Missing { .. } => "save the image anew: docker save IMAGE > image.tar",
            Self::Choice(_) => {
                "save the one image that is wanted: docker save --platform linux/ARCHITECTURE IMAGE > image.tar"
            }
        }
    }
}
