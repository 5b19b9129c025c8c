//! What can go wrong with a store.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use muster_model::Digest;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The blob is not here.
    #[error("blob {0} is not in the store")]
    NotFound(Digest),
    /// The bytes offered are not those of the digest.
    #[error("the bytes offered for {expected} are those of {found}")]
    Mismatch {
        /// The digest that was claimed.
        expected: Digest,
        /// What the bytes hash to, as far as they were read.
        found: Digest,
    },
    /// Bytes on this store's own medium changed; the blob is quarantined.
    #[error("stored bytes of {0} do not verify; the blob was quarantined")]
    Corrupt(Digest),
    /// No room: every byte that could go is leased.
    #[error("no room for {needed_bytes} bytes: {leased_bytes} of {capacity_bytes} are leased")]
    Full {
        /// What was asked for.
        needed_bytes: u64,
        /// What can't go.
        leased_bytes: u64,
        /// The configured size.
        capacity_bytes: u64,
    },
    /// The file system has too little left, and nothing that could go would help.
    #[error("no room on the disk for {needed_bytes} bytes: {available_bytes} are left, and {reserve_bytes} stay free")]
    DiskFull {
        /// What was asked for.
        needed_bytes: u64,
        /// What the file system has, as far as it is not promised already.
        available_bytes: u64,
        /// What the store leaves to others.
        reserve_bytes: u64,
    },
    /// A limit of [`muster_model::limits`] was passed.
    #[error("{what} passes its limit of {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A tree in the store is not canonical or not safe.
    #[error("tree {digest}: {why}")]
    Tree {
        /// The directory that is wrong.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// The file system said no.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// The index said no.
    #[error("the cache's index failed")]
    Index(#[from] rusqlite::Error),
    /// Another part of the same batch says what was wrong with all of it.
    #[error("the batch failed: {reason}")]
    Batch {
        /// What was wrong.
        reason: String,
        /// Whether that was room.
        full: bool,
    },
    /// The peer said no.
    #[error("the remote store answered {}", .0.code())]
    Remote(#[source] Box<tonic::Status>),
    /// Another process has the store open.
    #[error("the cache in {} is in use by another process", directory.display())]
    InUse {
        /// Where the store is.
        directory: PathBuf,
    },
    /// The store was written by a newer Muster, or by something else.
    #[error("the cache in {} has layout {found}; this program knows up to {known}", directory.display())]
    Layout {
        /// Where the store is.
        directory: PathBuf,
        /// What its layout file says.
        found: String,
        /// The newest layout that this program reads.
        known: u32,
    },
    /// The store is closing.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether room is what is missing, so that the same may succeed later.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Full { .. } | Self::DiskFull { .. } | Self::Batch { full: true, .. } => true,
            Self::File { source, .. } => {
                matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
            }
            Self::Index(error) => error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }

    /// Wraps what the file system said about `path`; `action` is an infinitive.
    pub(crate) fn file<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |source| Self::File { action, path: path.to_path_buf(), source }
    }
}
