//! Trees as directories on disk: each is materialised once, from hard links, and mounted as often as it is needed.
//!
//! ```text
//! BOOT            the boot of the machine under which the trees were made
//! trees/<hex>/    one tree, complete since it was renamed to this name: `root/` is the tree itself, `figures` says how large it is
//! partial/<n>/    a tree that is being made or deleted; emptied at start
//! ```
//!
//! Trees stay over restarts of the process. They are thrown away after a restart of the machine, because files are not synced to disk one
//! by one: after a power loss a tree could be complete by name and torn inside.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_model::limits::STAGED_NODES_MAX;
use muster_model::{Digest, DigestFunction};

use crate::blob::blocking;
use crate::singleflight::{Claim, Flights};
use crate::tree::{Content, Node, collect};
use crate::{DiskStore, Fetch, FetchStats, Lease, StoreError};

/// How often blobs that were evicted between their arrival and their lease are fetched again.
const LEASE_ATTEMPTS_MAX: usize = 3;
/// Blobs of directories read at one time.
const READS_CONCURRENT: usize = 16;

/// Keeps trees staged below a directory, on the file system of its store.
#[derive(Debug)]
pub struct Stager {
    store: Arc<DiskStore>,
    directory: PathBuf,
    trees: Mutex<Trees>,
    flights: Flights,
    partial: AtomicU64,
}

#[derive(Debug, Default)]
struct Trees {
    staged: HashMap<Digest, Staged>,
    nodes: u64,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Staged {
    figures: Figures,
    users: usize,
    used: u64,
    /// Absent for trees of an earlier process: their files stay by their links, but their room is not accounted for.
    _lease: Option<Lease>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    nodes: u64,
    bytes: u64,
}

/// What lies beneath the place where a staged tree is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ground {
    /// Nothing: what the tree has not is not there.
    Bare,
    /// Other layers or a base, which must be seen wherever the tree has nothing.
    Shared,
}

/// A staged tree, which stays while this exists.
#[derive(Debug)]
#[must_use = "the tree may go when this is dropped"]
pub struct StagedTree {
    stager: Arc<Stager>,
    root: Digest,
    directories: Vec<PathBuf>,
    stats: FetchStats,
}

impl StagedTree {
    /// The directories that make the tree when they are overlaid in this order, the lowest first. Nobody may write to what is in them.
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// The tree's digest.
    pub fn root(&self) -> &Digest {
        &self.root
    }

    /// What had to be fetched for it.
    pub fn stats(&self) -> FetchStats {
        self.stats
    }
}

impl Drop for StagedTree {
    fn drop(&mut self) {
        let mut trees = self.stager.trees();
        trees.clock += 1;
        let used = trees.clock;
        if let Some(staged) = trees.staged.get_mut(&self.root) {
            staged.users -= 1;
            staged.used = used;
        }
    }
}

impl Stager {
    /// Opens the staged trees in `directory`, which belongs to this stager alone.
    ///
    /// # Errors
    ///
    /// [`StoreError::File`] when the directory can't be used.
    pub fn open(store: Arc<DiskStore>, directory: impl Into<PathBuf>) -> Result<Arc<Self>, StoreError> {
        let directory = directory.into();
        for folder in ["trees", "partial"] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder).map_err(StoreError::file("create", &folder))?;
        }
        let stager =
            Self { store, directory, trees: Mutex::default(), flights: Flights::default(), partial: AtomicU64::new(0) };
        remove_below(&stager.directory.join("partial"))?;
        if !stager.same_boot()? {
            remove_below(&stager.directory.join("trees"))?;
            stager.note_boot()?;
        }
        stager.remember()?;
        Ok(Arc::new(stager))
    }

    /// The tree of `root` as directories: the staged ones, or new ones of blobs that `fetcher` brings into the store.
    ///
    /// # Errors
    ///
    /// [`StoreError::Tree`] when the tree is not canonical or passes a limit, otherwise what `fetcher` and the store say.
    pub async fn stage(
        self: &Arc<Self>,
        root: &Digest,
        _ground: Ground,
        fetcher: &dyn Fetch,
    ) -> Result<StagedTree, StoreError> {
        loop {
            if let Some(tree) = self.staged(root) {
                return Ok(tree);
            }
            match self.flights.claim(*root) {
                Claim::Theirs(wait) => wait.over().await,
                Claim::Mine(_flight) => match self.staged(root) {
                    Some(tree) => return Ok(tree),
                    None => return self.make(root, fetcher).await,
                },
            }
        }
    }

    fn trees(&self) -> MutexGuard<'_, Trees> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree if it is staged, as one more user of it.
    fn staged(self: &Arc<Self>, root: &Digest) -> Option<StagedTree> {
        let mut trees = self.trees();
        let staged = trees.staged.get_mut(root)?;
        staged.users += 1;
        let stats = FetchStats { reused_bytes: staged.figures.bytes, ..FetchStats::default() };
        drop(trees);
        Some(StagedTree {
            stager: self.clone(),
            root: *root,
            directories: vec![self.tree_path(root).join("root")],
            stats,
        })
    }

    async fn make(self: &Arc<Self>, root: &Digest, fetcher: &dyn Fetch) -> Result<StagedTree, StoreError> {
        let (content, lease, stats) = self.bring(root, fetcher).await?;
        let figures = Figures { nodes: content.nodes as u64, bytes: content.bytes };
        self.make_room(figures).await?;
        let content = Arc::new(content);
        loop {
            let (stager, content) = (self.clone(), content.clone());
            match blocking(move || stager.materialise(&content, figures)).await {
                Ok(()) => break,
                // A blob that is needed in both forms takes room twice.
                Err(StoreError::Full { .. }) if self.evict_unused().await? => {}
                Err(error) => return Err(error),
            }
        }
        let mut trees = self.trees();
        trees.nodes += figures.nodes;
        trees.bytes = trees.bytes.saturating_add(figures.bytes);
        trees.staged.insert(*root, Staged { figures, users: 1, used: 0, _lease: Some(lease) });
        drop(trees);
        Ok(StagedTree {
            stager: self.clone(),
            root: *root,
            directories: vec![self.tree_path(root).join("root")],
            stats,
        })
    }

    /// Brings all blobs of a tree into the store and leases them.
    async fn bring(&self, root: &Digest, fetcher: &dyn Fetch) -> Result<(Content, Lease, FetchStats), StoreError> {
        let mut stats = FetchStats::default();
        let mut attempts = 0;
        loop {
            attempts += 1;
            let brought = self.try_bring(root, fetcher, &mut stats).await;
            match brought {
                Ok((content, lease)) => return Ok((content, lease, stats)),
                // Staged trees that nobody uses hold leases: they give way to one that is needed.
                Err(StoreError::Full { .. }) if self.evict_unused().await? => {}
                Err(StoreError::NotFound(_)) if attempts < LEASE_ATTEMPTS_MAX => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_bring(
        &self,
        root: &Digest,
        fetcher: &dyn Fetch,
        stats: &mut FetchStats,
    ) -> Result<(Content, Lease), StoreError> {
        let directory_stats = Mutex::new(FetchStats::default());
        let content = collect(root, |digests| {
            let directory_stats = &directory_stats;
            async move {
                let fetched = fetcher.fetch_all(&digests).await?;
                directory_stats.lock().unwrap_or_else(PoisonError::into_inner).add(fetched);
                self.read_all(digests).await
            }
        })
        .await;
        stats.add(directory_stats.into_inner().unwrap_or_else(PoisonError::into_inner));
        let content = content?;
        stats.add(fetcher.fetch_all(&content.files).await?);
        let mut leased: Vec<Digest> = content.directories.keys().copied().collect();
        leased.extend(&content.files);
        let lease = self.store.lease(&leased).await?;
        Ok((content, lease))
    }

    async fn read_all(&self, digests: Vec<Digest>) -> Result<Vec<(Digest, bytes::Bytes)>, StoreError> {
        use futures_util::{StreamExt, TryStreamExt, stream};
        stream::iter(digests)
            .map(|digest| async move {
                let bytes = self.store.get_blob(&digest).await?.into_bytes(digest.size_bytes).await?;
                Ok((digest, bytes))
            })
            .buffer_unordered(READS_CONCURRENT)
            .try_collect()
            .await
    }

    fn tree_path(&self, root: &Digest) -> PathBuf {
        let hex = match root.function {
            DigestFunction::Blake3 => root.hex(),
            DigestFunction::Sha256 => format!("sha256-{}", root.hex()),
        };
        self.directory.join("trees").join(hex)
    }

    fn new_partial(&self) -> PathBuf {
        self.directory.join("partial").join(self.partial.fetch_add(1, Ordering::Relaxed).to_string())
    }

    fn materialise(&self, content: &Content, figures: Figures) -> Result<(), StoreError> {
        let partial = self.new_partial();
        let made = self.fill(&partial, content, figures).and_then(|()| {
            let path = self.tree_path(&content.root);
            fs::rename(&partial, &path).map_err(StoreError::file("put in place", &path))
        });
        if made.is_err()
            && let Err(error) = fs::remove_dir_all(&partial)
        {
            tracing::warn!(path = %partial.display(), %error, "cannot remove a partial tree");
        }
        made
    }

    fn fill(&self, partial: &Path, content: &Content, figures: Figures) -> Result<(), StoreError> {
        fs::create_dir(partial).map_err(StoreError::file("create", partial))?;
        let root = partial.join("root");
        let mut files = Vec::new();
        let mut pending = vec![(root, content.root)];
        while let Some((path, digest)) = pending.pop() {
            self.create_directory(&path)?;
            let Some(directory) = content.directories.get(&digest) else {
                return Err(StoreError::NotFound(digest));
            };
            for entry in directory.entries() {
                // A name is one component that is not `..`: whoever decoded the directory checked that.
                let path = path.join(&entry.name);
                match &entry.node {
                    Node::Directory(digest) => pending.push((path, *digest)),
                    Node::File { digest, executable } => files.push((*digest, path, *executable)),
                    Node::Symlink(target) => self.create_link(&path, target)?,
                }
            }
        }
        self.store.link_files(&files)?;
        let text = format!("{} {} {}\n", content.root.size_bytes, figures.nodes, figures.bytes);
        let path = partial.join("figures");
        fs::write(&path, text).map_err(StoreError::file("write", &path))
    }

    fn create_directory(&self, path: &Path) -> Result<(), StoreError> {
        fs::DirBuilder::new().mode(0o755).create(path).map_err(StoreError::file("create", path))?;
        // Whatever the mask of this process is.
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .map_err(StoreError::file("change the mode of", path))?;
        self.give_away(path)
    }

    fn create_link(&self, path: &Path, target: &str) -> Result<(), StoreError> {
        std::os::unix::fs::symlink(target, path).map_err(StoreError::file("create", path))?;
        self.give_away(path)
    }

    fn give_away(&self, path: &Path) -> Result<(), StoreError> {
        match self.store.owner() {
            Some((user, group)) => {
                std::os::unix::fs::lchown(path, Some(user), Some(group)).map_err(StoreError::file("give away", path))
            }
            None => Ok(()),
        }
    }

    /// Makes trees that nobody uses give way until one more fits. What is in use is never counted against a new one.
    async fn make_room(&self, figures: Figures) -> Result<(), StoreError> {
        loop {
            {
                let trees = self.trees();
                let nodes_fit = trees.nodes + figures.nodes <= STAGED_NODES_MAX as u64;
                let bytes_fit = trees.bytes.saturating_add(figures.bytes) <= self.store.capacity_bytes() / 2;
                if nodes_fit && bytes_fit {
                    return Ok(());
                }
            }
            if !self.evict_unused().await? {
                return Ok(());
            }
        }
    }

    /// Removes the unused tree that was used longest ago, if there is one.
    async fn evict_unused(&self) -> Result<bool, StoreError> {
        let partial = self.new_partial();
        {
            let mut trees = self.trees();
            let unused = trees.staged.iter().filter(|(_, staged)| staged.users == 0);
            let Some(root) = unused.min_by_key(|(_, staged)| staged.used).map(|(root, _)| *root) else {
                return Ok(false);
            };
            // Under the lock, so that nobody can stage the same tree in between.
            let path = self.tree_path(&root);
            fs::rename(&path, &partial).map_err(StoreError::file("remove", &path))?;
            if let Some(staged) = trees.staged.remove(&root) {
                trees.nodes -= staged.figures.nodes;
                trees.bytes = trees.bytes.saturating_sub(staged.figures.bytes);
            }
        }
        blocking(move || fs::remove_dir_all(&partial).map_err(StoreError::file("remove", &partial))).await?;
        Ok(true)
    }

    /// Whether the trees were made since the machine started.
    fn same_boot(&self) -> Result<bool, StoreError> {
        let path = self.directory.join("BOOT");
        match (fs::read_to_string(&path), boot()) {
            (Ok(noted), Some(boot)) => Ok(noted == boot),
            (Err(error), _) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::file("read", &path)(error))
            }
            _ => Ok(false),
        }
    }

    fn note_boot(&self) -> Result<(), StoreError> {
        let path = self.directory.join("BOOT");
        fs::write(&path, boot().unwrap_or_default()).map_err(StoreError::file("write", &path))
    }

    /// Takes over the trees of an earlier process.
    fn remember(&self) -> Result<(), StoreError> {
        let folder = self.directory.join("trees");
        let entries = fs::read_dir(&folder).map_err(StoreError::file("list", &folder))?;
        let mut trees = self.trees();
        for entry in entries {
            let path = entry.map_err(StoreError::file("list", &folder))?.path();
            match remembered(&path) {
                Some((root, figures)) => {
                    trees.nodes += figures.nodes;
                    trees.bytes = trees.bytes.saturating_add(figures.bytes);
                    trees.staged.insert(root, Staged { figures, users: 0, used: 0, _lease: None });
                }
                None => fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))?,
            }
        }
        Ok(())
    }
}

/// What the name and the figures of a tree's directory say.
fn remembered(path: &Path) -> Option<(Digest, Figures)> {
    let name = path.file_name()?.to_str()?;
    let (function, hex) = match name.strip_prefix("sha256-") {
        Some(hex) => (DigestFunction::Sha256, hex),
        None => (DigestFunction::Blake3, name),
    };
    let text = fs::read_to_string(path.join("figures")).ok()?;
    let mut numbers = text.split_ascii_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (size_bytes, nodes, bytes) = (next()?, next()?, next()?);
    let root = Digest::parse(function, hex, size_bytes).ok()?;
    Some((root, Figures { nodes, bytes }))
}

/// What tells this boot of the machine from others (Linux, `random(4)`).
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

fn remove_below(folder: &Path) -> Result<(), StoreError> {
    for entry in fs::read_dir(folder).map_err(StoreError::file("list", folder))? {
        let path = entry.map_err(StoreError::file("list", folder))?.path();
        fs::remove_dir_all(&path).map_err(StoreError::file("remove", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
