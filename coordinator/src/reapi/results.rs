//! What an action's result points at: the blobs that must be there for the result to be worth anything.

use std::collections::HashSet;

use bytes::Bytes;
use muster_cache::{ActionRecord, BlobStore, StoreError};
use muster_model::limits::{
    FIND_MISSING_DIGESTS_MAX, MESSAGE_BYTES_MAX, TREE_BYTES_MAX, TREE_DEPTH_MAX, TREE_NODES_MAX,
};
use muster_model::{Digest, DigestFunction};
use muster_proto::convert::ConvertError;
use muster_proto::reapi::{self, ActionResult, Directory, Tree};
use prost::Message;
use tonic::Status;

use super::errors::{missing_status, status_of};

/// Directories read from the store at one time.
const READ_AT_ONCE: usize = 256;
/// Missing blobs that one answer lists.
const MISSING_LISTED_MAX: usize = 1000;

/// Why a result can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// Blobs that it points at are not in the store.
    #[error("{} blobs that the result points at are not in the store", .0.len())]
    Missing(Vec<Digest>),
    /// It makes no sense.
    #[error("the result is not valid: {0}")]
    Malformed(String),
    /// It is too big.
    #[error("the result passes the limit of {limit} {what}")]
    Limit {
        /// What it has too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The store can't be asked.
    #[error("the store can't be asked")]
    Store(#[from] StoreError),
}

impl From<ConvertError> for ResultError {
    fn from(error: ConvertError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl ResultError {
    /// What a client is told that wants the result kept.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Missing(missing) => {
                let listed = &missing[..missing.len().min(MISSING_LISTED_MAX)];
                missing_status(&self.to_string(), listed)
            }
            Self::Malformed(_) | Self::Limit { .. } => Status::invalid_argument(self.to_string()),
            Self::Store(error) => status_of(error),
        }
    }
}

/// The record of a result whose whole closure is in the store, and stays there for the store's lease time: output files, standard output and
/// error, the `Tree`s of output directories with every file in them, and the `Directory`s below a root directory with theirs.
///
/// What the result has inline beside a digest is left out; it can be read again.
///
/// # Errors
///
/// See [`ResultError`].
pub async fn record_of(
    store: &dyn BlobStore,
    function: DigestFunction,
    result: &ActionResult,
) -> Result<ActionRecord, ResultError> {
    let mut result = result.clone();
    strip_inline(&mut result);
    let mut closure = Closure { store, function, found: HashSet::new(), nodes: 0 };
    closure.add_result(&result).await?;
    let references: Vec<Digest> = closure.found.into_iter().collect();
    check_present(store, &references).await?;
    let payload: Bytes = result.encode_to_vec().into();
    if payload.len() > MESSAGE_BYTES_MAX {
        return Err(ResultError::Limit { what: "bytes", limit: MESSAGE_BYTES_MAX as u64 });
    }
    result.execution_metadata = None;
    let outcome = Digest::of(&result.encode_to_vec());
    Ok(ActionRecord { payload, references, outcome })
}

/// Blobs, and directories with everything below them, all of which is in the store and stays there for the store's lease time.
///
/// # Errors
///
/// See [`ResultError`].
pub(crate) async fn references_of(
    store: &dyn BlobStore,
    function: DigestFunction,
    blobs: &[reapi::Digest],
    directories: &[reapi::Digest],
) -> Result<Vec<Digest>, ResultError> {
    let mut closure = Closure { store, function, found: HashSet::new(), nodes: 0 };
    for blob in blobs {
        closure.add(blob)?;
    }
    for directory in directories {
        closure.add_directories(directory).await?;
    }
    let references: Vec<Digest> = closure.found.into_iter().collect();
    check_present(store, &references).await?;
    Ok(references)
}

fn strip_inline(result: &mut ActionResult) {
    for file in &mut result.output_files {
        file.contents = Bytes::new();
    }
    for (raw, digest) in
        [(&mut result.stdout_raw, &result.stdout_digest), (&mut result.stderr_raw, &result.stderr_digest)]
    {
        if digest.is_some() {
            *raw = Bytes::new();
        }
    }
}

async fn check_present(store: &dyn BlobStore, digests: &[Digest]) -> Result<(), ResultError> {
    let mut missing = Vec::new();
    for chunk in digests.chunks(FIND_MISSING_DIGESTS_MAX) {
        missing.extend(store.find_missing(chunk).await?);
    }
    if missing.is_empty() { Ok(()) } else { Err(ResultError::Missing(missing)) }
}

/// A closure as far as it is known.
struct Closure<'a> {
    store: &'a dyn BlobStore,
    function: DigestFunction,
    found: HashSet<Digest>,
    /// Entries looked at, those seen before included.
    nodes: usize,
}

impl Closure<'_> {
    async fn add_result(&mut self, result: &ActionResult) -> Result<(), ResultError> {
        for file in &result.output_files {
            self.add_required(&file.digest, &file.path)?;
        }
        for digest in [&result.stdout_digest, &result.stderr_digest].into_iter().flatten() {
            self.add(digest)?;
        }
        for directory in &result.output_directories {
            if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
                return Err(ResultError::Malformed(format!("the directory {:?} has no digest", directory.path)));
            }
            if let Some(tree) = &directory.tree_digest {
                self.add_tree(tree).await?;
            }
            if let Some(root) = &directory.root_directory_digest {
                self.add_directories(root).await?;
            }
        }
        Ok(())
    }

    /// Answers the digest if it is new.
    fn add(&mut self, digest: &reapi::Digest) -> Result<Option<Digest>, ResultError> {
        self.nodes += 1;
        if self.nodes > TREE_NODES_MAX {
            return Err(ResultError::Limit { what: "files and directories", limit: TREE_NODES_MAX as u64 });
        }
        let digest = digest.to_model(self.function)?;
        Ok(self.found.insert(digest).then_some(digest))
    }

    fn add_required(&mut self, digest: &Option<reapi::Digest>, name: &str) -> Result<Option<Digest>, ResultError> {
        match digest {
            Some(digest) => self.add(digest),
            None => Err(ResultError::Malformed(format!("{name:?} has no digest"))),
        }
    }

    async fn add_tree(&mut self, digest: &reapi::Digest) -> Result<(), ResultError> {
        let Some(digest) = self.add(digest)? else { return Ok(()) };
        if digest.size_bytes > TREE_BYTES_MAX {
            return Err(ResultError::Limit { what: "bytes in one tree", limit: TREE_BYTES_MAX });
        }
        let bytes = match self.store.get(&digest).await {
            Ok(blob) => present(digest, blob.into_bytes(TREE_BYTES_MAX).await)?,
            Err(error) => present(digest, Err(error))?,
        };
        let tree =
            Tree::decode(bytes).map_err(|error| ResultError::Malformed(format!("{digest} is no tree: {error}")))?;
        for directory in tree.root.iter().chain(&tree.children) {
            for file in &directory.files {
                self.add_required(&file.digest, &file.name)?;
            }
        }
        Ok(())
    }

    async fn add_directories(&mut self, root: &reapi::Digest) -> Result<(), ResultError> {
        let mut level: Vec<Digest> = self.add(root)?.into_iter().collect();
        for _ in 0..TREE_DEPTH_MAX {
            if level.is_empty() {
                return Ok(());
            }
            let mut next_level = Vec::new();
            for batch in level.chunks(READ_AT_ONCE) {
                for (digest, blob) in batch.iter().zip(self.store.get_many(batch).await) {
                    let bytes = match blob {
                        Ok(blob) => present(*digest, blob.into_bytes(MESSAGE_BYTES_MAX as u64).await)?,
                        Err(error) => present(*digest, Err(error))?,
                    };
                    self.add_directory(*digest, bytes, &mut next_level)?;
                }
            }
            level = next_level;
        }
        Err(ResultError::Limit { what: "nested directories", limit: TREE_DEPTH_MAX as u64 })
    }

    fn add_directory(&mut self, digest: Digest, bytes: Bytes, children: &mut Vec<Digest>) -> Result<(), ResultError> {
        let directory = Directory::decode(bytes)
            .map_err(|error| ResultError::Malformed(format!("{digest} is no directory: {error}")))?;
        for file in &directory.files {
            self.add_required(&file.digest, &file.name)?;
        }
        for child in &directory.directories {
            children.extend(self.add_required(&child.digest, &child.name)?);
        }
        Ok(())
    }
}

/// A blob that must be there.
fn present(digest: Digest, read: Result<Bytes, StoreError>) -> Result<Bytes, ResultError> {
    read.map_err(|error| match error {
        StoreError::NotFound(_) | StoreError::Corrupt(_) => ResultError::Missing(vec![digest]),
        error => error.into(),
    })
}
