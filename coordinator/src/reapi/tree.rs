//! GetTree: all directories of a tree, level by level, each once however often it occurs.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::stream::{self, BoxStream, StreamExt};
use muster_cache::{BlobStore, StoreError};
use muster_model::limits::{BATCH_BYTES_MAX, MESSAGE_BYTES_MAX, TREE_DEPTH_MAX, TREE_NODES_MAX};
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi::{self, Directory};
use prost::Message;
use tonic::Status;

use super::errors::status_of;

/// Directories read from the store at one time.
const READ_AT_ONCE: usize = 256;

/// A walk over a tree. Its order depends on nothing but the tree, so that a page token is the number of directories before the page.
struct Walk {
    store: Arc<dyn BlobStore>,
    function: DigestFunction,
    /// Directories of this level that have not been read.
    level: Vec<Digest>,
    next_level: Vec<Digest>,
    depth: usize,
    seen: HashSet<Digest>,
    /// Directories read and not yet answered.
    ready: std::collections::VecDeque<Directory>,
    page_size: usize,
    skipped: usize,
    answered: usize,
}

/// The pages of a tree from `skipped` directories on. What is missing below the root is left out, as the specification says.
pub(super) async fn pages(
    store: Arc<dyn BlobStore>,
    root: Digest,
    page_size: usize,
    skipped: usize,
) -> Result<BoxStream<'static, Result<reapi::GetTreeResponse, Status>>, Status> {
    let mut walk = Walk {
        store,
        function: root.function,
        level: Vec::new(),
        next_level: Vec::new(),
        depth: 0,
        seen: HashSet::from([root]),
        ready: std::collections::VecDeque::new(),
        page_size,
        skipped,
        answered: 0,
    };
    // A root that is not there is an answer of its own.
    let bytes = walk.store.get(&root).await.map_err(|error| status_of(&error))?;
    let bytes = bytes.into_bytes(MESSAGE_BYTES_MAX as u64).await.map_err(|error| status_of(&error))?;
    walk.take(&root, bytes)?;
    let pages = stream::unfold(Some(walk), |walk| async move {
        let mut walk = walk?;
        match walk.page().await {
            Ok(page) => {
                let ends = page.next_page_token.is_empty();
                Some((Ok(page), (!ends).then_some(walk)))
            }
            Err(status) => Some((Err(status), None)),
        }
    });
    Ok(pages.boxed())
}

impl Walk {
    async fn page(&mut self) -> Result<reapi::GetTreeResponse, Status> {
        let mut directories = Vec::new();
        let mut bytes = 0;
        loop {
            while let Some(directory) = self.ready.front() {
                let size = directory.encoded_len();
                let full = directories.len() >= self.page_size || bytes + size > BATCH_BYTES_MAX;
                if full && !directories.is_empty() {
                    let next_page_token = self.answered.to_string();
                    return Ok(reapi::GetTreeResponse { directories, next_page_token });
                }
                self.answered += 1;
                if let Some(directory) = self.ready.pop_front()
                    && self.answered > self.skipped
                {
                    bytes += size;
                    directories.push(directory);
                }
            }
            if !self.read().await? {
                return Ok(reapi::GetTreeResponse { directories, next_page_token: String::new() });
            }
        }
    }

    /// Reads the next directories. Answers whether there were any.
    async fn read(&mut self) -> Result<bool, Status> {
        if self.level.is_empty() {
            self.level = std::mem::take(&mut self.next_level);
            self.level.reverse();
            self.depth += 1;
            if self.level.is_empty() {
                return Ok(false);
            }
            if self.depth > TREE_DEPTH_MAX {
                return Err(Status::invalid_argument(format!("the tree is deeper than {TREE_DEPTH_MAX} directories")));
            }
        }
        let rest = self.level.len().saturating_sub(READ_AT_ONCE);
        let mut batch = self.level.split_off(rest);
        batch.reverse();
        for (digest, blob) in batch.iter().zip(self.store.get_many(&batch).await) {
            let read = match blob {
                Ok(blob) => blob.into_bytes(MESSAGE_BYTES_MAX as u64).await,
                Err(error) => Err(error),
            };
            match read {
                Ok(bytes) => self.take(digest, bytes)?,
                Err(StoreError::NotFound(_) | StoreError::Corrupt(_)) => {}
                Err(error) => return Err(status_of(&error)),
            }
        }
        Ok(true)
    }

    fn take(&mut self, digest: &Digest, bytes: bytes::Bytes) -> Result<(), Status> {
        let directory = Directory::decode(bytes)
            .map_err(|error| Status::failed_precondition(format!("{digest} is no directory: {error}")))?;
        for child in &directory.directories {
            let child = child.digest.as_ref().ok_or_else(|| {
                Status::failed_precondition(format!("{digest} is no directory: an entry has no digest"))
            })?;
            let child = child.to_model(self.function)?;
            if self.seen.insert(child) {
                self.next_level.push(child);
            }
        }
        if self.seen.len() > TREE_NODES_MAX {
            return Err(Status::invalid_argument(format!("the tree has more than {TREE_NODES_MAX} directories")));
        }
        self.ready.push_back(directory);
        Ok(())
    }
}
