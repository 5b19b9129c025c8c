//! What an attempt needs before it can run: its target, and its layers as directories.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use muster_cache::{
    DiskConfig, DiskStore, Ground, ReadThrough, RemoteStore, StagedTree, Stager, StoreError, UploadSource,
};
use muster_environment::StagedLayer;
use muster_model::spec::{Layer, TargetSpec};
use muster_model::{Digest, limits};
use muster_proto::convert::ConvertError;
use muster_proto::v1;
use prost::Message;
use tonic::transport::Endpoint;

use crate::AgentError;

/// Why inputs could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// A blob or tree could not be had or did not verify.
    #[error("cannot stage the {what}")]
    Store {
        /// A layer's purpose, or `target`.
        what: String,
        source: muster_cache::StoreError,
    },
    /// The target's blob is not an encoded target.
    #[error("the target's blob cannot be decoded")]
    Decode(#[source] prost::DecodeError),
    /// The target's blob is not a valid target.
    #[error("the target is not valid")]
    Target(#[source] ConvertError),
}

/// Layers that are directories here, until dropped.
pub(crate) struct StagedInputs {
    pub(crate) layers: Vec<StagedLayer>,
    /// Bytes that had to be fetched.
    pub(crate) fetched_bytes: u64,
    /// Bytes that were here.
    pub(crate) reused_bytes: u64,
    /// Keep the directories.
    pub(crate) trees: Vec<StagedTree>,
}

/// Where attempts get their inputs from.
#[async_trait]
pub(crate) trait Inputs: Send + Sync {
    /// The target encoded in a blob.
    async fn target(&self, digest: &Digest) -> Result<Arc<TargetSpec>, InputError>;

    /// Layers as directories.
    async fn stage(&self, layers: &[Layer]) -> Result<StagedInputs, InputError>;

    /// A tree as directories, to be shown at a path where there is nothing else.
    async fn tree(&self, root: &Digest, mount_path: &str) -> Result<StagedInputs, InputError>;

    /// Uploads what the coordinator's store has not.
    async fn upload(&self, blobs: Vec<(Digest, UploadSource)>) -> Result<(), StoreError>;
}

/// Decoded targets kept in memory; more make room by starting over.
const TARGETS_KEPT: usize = 1024;

/// Targets that were decoded before: an agent runs many attempts of one target.
#[derive(Default)]
pub(crate) struct Targets(Mutex<HashMap<Digest, Arc<TargetSpec>>>);

impl Targets {
    pub(crate) fn get(&self, digest: &Digest) -> Option<Arc<TargetSpec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    pub(crate) fn decode(&self, digest: &Digest, bytes: &[u8]) -> Result<Arc<TargetSpec>, InputError> {
        let wire = v1::TargetSpec::decode(bytes).map_err(InputError::Decode)?;
        let target = Arc::new(TargetSpec::try_from(&wire).map_err(InputError::Target)?);
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= TARGETS_KEPT {
            kept.clear();
        }
        kept.insert(*digest, Arc::clone(&target));
        Ok(target)
    }
}

/// The most bytes that an encoded target has.
pub(crate) const TARGET_BYTES_MAX: u64 = limits::MESSAGE_BYTES_MAX as u64;
/// Inputs fetched from the coordinator's store, kept in a store of the agent's own and staged once for all attempts.
pub(crate) struct CachedInputs {
    blobs: ReadThrough,
    remote: RemoteStore,
    stager: Arc<Stager>,
    targets: Targets,
}

impl CachedInputs {
    /// Opens the store and the staged trees below `path`, for files that belong to `owner`.
    pub(crate) async fn open(
        path: PathBuf,
        capacity_bytes: u64,
        endpoint: &Endpoint,
        owner: Option<(u32, u32)>,
    ) -> Result<Self, AgentError> {
        // A connection of its own, so that blobs never hold up what agent and coordinator have to say to each other.
        let remote = RemoteStore::new(endpoint.connect_lazy());
        let opened = path.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let packed_bytes_max = limits::AGENT_PACKED_BLOB_BYTES_MAX;
            let config =
                DiskConfig { capacity_bytes, packed_bytes_max, owner, ..DiskConfig::new(opened.join("blobs")) };
            let store = DiskStore::open(config)?;
            let stager = Stager::open(Arc::clone(&store), opened.join("trees"))?;
            Ok((store, stager))
        });
        let (store, stager) = match opening.await {
            Ok(opened) => opened.map_err(|source| AgentError::Cache { path, source })?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        Ok(Self { blobs: ReadThrough::new(store, remote.clone()), remote, stager, targets: Targets::default() })
    }
}

#[async_trait]
impl Inputs for CachedInputs {
    async fn target(&self, digest: &Digest) -> Result<Arc<TargetSpec>, InputError> {
        if let Some(target) = self.targets.get(digest) {
            return Ok(target);
        }
        let of = |source| InputError::Store { what: "target".to_owned(), source };
        let bytes = self.blobs.get_whole(digest, TARGET_BYTES_MAX).await.map_err(of)?;
        self.targets.decode(digest, &bytes)
    }

    async fn stage(&self, layers: &[Layer]) -> Result<StagedInputs, InputError> {
        let staging = layers.iter().map(|layer| async move {
            let staged = self.stager.stage(&layer.root, Ground::Shared, &self.blobs).await;
            staged.map_err(|source| InputError::Store { what: format!("layer {}", layer.purpose), source })
        });
        let trees = futures_util::future::try_join_all(staging).await?;
        let mut inputs = StagedInputs {
            layers: Vec::with_capacity(trees.len()),
            fetched_bytes: 0,
            reused_bytes: 0,
            trees: Vec::new(),
        };
        for (layer, tree) in layers.iter().zip(&trees) {
            inputs.fetched_bytes += tree.stats().fetched_bytes;
            inputs.reused_bytes += tree.stats().reused_bytes;
            inputs.layers.extend(staged_layers(tree, &layer.mount_path));
        }
        inputs.trees = trees;
        Ok(inputs)
    }

    async fn tree(&self, root: &Digest, mount_path: &str) -> Result<StagedInputs, InputError> {
        let staged = self.stager.stage(root, Ground::Bare, &self.blobs).await;
        let tree = staged.map_err(|source| InputError::Store { what: "input root".to_owned(), source })?;
        let stats = tree.stats();
        let (fetched_bytes, reused_bytes) = (stats.fetched_bytes, stats.reused_bytes);
        let layers = staged_layers(&tree, mount_path).collect();
        Ok(StagedInputs { layers, fetched_bytes, reused_bytes, trees: vec![tree] })
    }

    async fn upload(&self, blobs: Vec<(Digest, UploadSource)>) -> Result<(), StoreError> {
        self.remote.upload_missing(blobs).await.map(drop)
    }
}

/// A staged tree as what an environment is made from.
fn staged_layers(tree: &StagedTree, mount_path: &str) -> impl Iterator<Item = StagedLayer> {
    let of = move |directory: &PathBuf| StagedLayer { directory: directory.clone(), mount_path: mount_path.into() };
    tree.directories().iter().map(of)
}
