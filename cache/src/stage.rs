//! Trees as directories on disk: each is materialised once, from hard links, and mounted as often as it is needed.
//!
//! ```text
//! BOOT            the boot of the machine under which the trees were made
//! trees/<hex>/    one tree, complete since it was renamed to this name: `root/` is the tree itself, `figures` says how large it is
//! deltas/<hex>/   the same for what a tree has and its base has not; `figures` names the base too
//! partial/<n>/    a tree that is being made or deleted; emptied at start
//! ```
//!
//! A tree that resembles one that is staged whole is compared with it, directory by directory, where they differ; only what differs is
//! made, to be overlaid above the other: files and links that are new, and whiteouts for names that are gone. A delta never lies above a
//! delta, so a tree is two directories at most, and one whose difference has grown is made whole again and becomes the base of later ones.
//!
//! Trees stay over restarts of the process. They are thrown away after a restart of the machine, because files are not synced to disk one
//! by one: after a power loss a tree could be complete by name and torn inside.

mod bring;
mod delta;
mod directories;
mod make;
mod remember;
mod trees;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_model::Digest;
use muster_model::limits::{STAGED_NODES_MAX, TREE_NODES_MAX};

use self::directories::Directories;
use self::make::Plan;
use self::trees::{Above, Figures, Form, Found, Name, Staged, Trees};
use crate::blob::blocking;
use crate::singleflight::{Claim, Flights};
use crate::{DiskStore, Fetch, FetchStats, Lease, StoreError};

/// When a delta is worth a second directory below every environment that uses it.
#[derive(Clone, Copy, Debug)]
struct DeltaRule {
    /// Nodes that a base has at least: a smaller tree is made whole in the same time.
    base_nodes_min: u64,
    /// Nodes that a delta has at most, as a percentage of its base's.
    nodes_percent_max: u64,
}

/// How often a tree is made anew because stored files of it did not verify.
const ROTTED_ATTEMPTS_MAX: usize = 3;

const DELTA_RULE: DeltaRule = DeltaRule { base_nodes_min: 256, nodes_percent_max: 25 };

/// Keeps trees staged below a directory, on the file system of its store.
#[derive(Debug)]
pub struct Stager {
    store: Arc<DiskStore>,
    directory: PathBuf,
    trees: Mutex<Trees>,
    directories: Directories,
    flights: Flights,
    partial: AtomicU64,
    delta_rule: DeltaRule,
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
    name: Name,
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
        &self.name.root
    }

    /// What had to be fetched for it.
    pub fn stats(&self) -> FetchStats {
        self.stats
    }
}

impl Drop for StagedTree {
    fn drop(&mut self) {
        self.stager.trees().release(&self.name);
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
        for folder in ["trees", "deltas", "partial"] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder).map_err(StoreError::file("create", &folder))?;
        }
        let stager = Self {
            store,
            directory,
            trees: Mutex::default(),
            directories: Directories::default(),
            flights: Flights::default(),
            partial: AtomicU64::new(0),
            delta_rule: DELTA_RULE,
        };
        remember::clear(&stager.directory)?;
        // Deltas after their bases.
        for (folder, form) in [("trees", Form::Full), ("deltas", Form::Delta)] {
            remember::remember(&stager.directory.join(folder), form, &mut stager.trees())?;
        }
        Ok(Arc::new(stager))
    }

    /// The tree of `root` as directories to be shown on `ground`: the staged ones, or new ones of blobs that `fetcher` brings into the
    /// store.
    ///
    /// # Errors
    ///
    /// [`StoreError::Tree`] when the tree is not canonical or passes a limit, otherwise what `fetcher` and the store say.
    pub async fn stage(
        self: &Arc<Self>,
        root: &Digest,
        ground: Ground,
        fetcher: &dyn Fetch,
    ) -> Result<StagedTree, StoreError> {
        loop {
            if let Some(tree) = self.staged(root, ground) {
                return Ok(tree);
            }
            match self.flights.claim(*root) {
                Claim::Theirs(wait) => wait.over().await,
                Claim::Mine(_flight) => match self.staged(root, ground) {
                    Some(tree) => return Ok(tree),
                    None => return self.make(root, ground, fetcher).await,
                },
            }
        }
    }

    fn trees(&self) -> MutexGuard<'_, Trees> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree if it is staged, as one more user of it.
    fn staged(self: &Arc<Self>, root: &Digest, ground: Ground) -> Option<StagedTree> {
        let found = self.trees().take(root, ground)?;
        let stats = FetchStats { reused_bytes: found.bytes, ..FetchStats::default() };
        Some(self.handle(found, stats))
    }

    /// A handle for a tree that was taken.
    fn handle(self: &Arc<Self>, found: Found, stats: FetchStats) -> StagedTree {
        let base = found.base.map(|root| Name { root, form: Form::Full });
        let directories = base.iter().chain([&found.name]).map(|name| self.tree_path(name).join("root")).collect();
        StagedTree { stager: self.clone(), name: found.name, directories, stats }
    }

    async fn make(
        self: &Arc<Self>,
        root: &Digest,
        ground: Ground,
        fetcher: &dyn Fetch,
    ) -> Result<StagedTree, StoreError> {
        let mut stats = FetchStats::default();
        match self.make_delta(root, ground, fetcher, &mut stats).await {
            Ok(Some(tree)) => return Ok(tree),
            Ok(None) => {}
            // Whatever it is: if it matters, it stops the whole tree too.
            Err(error) => tracing::debug!(%root, %error, "no delta"),
        }
        self.make_full(root, fetcher, stats).await
    }

    async fn make_full(
        self: &Arc<Self>,
        root: &Digest,
        fetcher: &dyn Fetch,
        mut stats: FetchStats,
    ) -> Result<StagedTree, StoreError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (content, lease) = self.bring(root, fetcher, &mut stats).await?;
            let figures = Figures { nodes: content.nodes as u64, bytes: content.bytes };
            let name = Name { root: *root, form: Form::Full };
            let content = Arc::new(content);
            let planned = content.clone();
            let plan = move |path| Plan::of_tree(path, &planned);
            match self.materialise(name, figures, None, lease, plan).await {
                Ok(found) => return Ok(self.handle(found, stats)),
                Err(StoreError::Corrupt(digest)) if attempts < ROTTED_ATTEMPTS_MAX => {
                    tracing::warn!(%root, %digest, "a stored file of a tree rotted: all of them are read, and what rotted is fetched again");
                    let store = self.store.clone();
                    blocking(move || store.quarantine_rotted(&content.files)).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a tree on disk and takes note of it.
    async fn materialise(
        self: &Arc<Self>,
        name: Name,
        figures: Figures,
        above: Option<Above>,
        lease: Lease,
        plan: impl Fn(PathBuf) -> Result<Plan, StoreError> + Clone + Send + 'static,
    ) -> Result<Found, StoreError> {
        self.make_room(figures).await?;
        loop {
            let (stager, plan) = (self.clone(), plan.clone());
            match blocking(move || stager.write(&name, figures, above, plan)).await {
                Ok(()) => break,
                // A blob that is needed in both forms takes room twice.
                Err(StoreError::Full { .. }) if self.evict_unused().await? => {}
                Err(error) => return Err(error),
            }
        }
        // The caller holds the base.
        let inserted = self.trees().insert(name, Staged::new(figures, above, Some(lease)));
        inserted.ok_or(StoreError::NotFound(name.root))
    }

    fn write(
        &self,
        name: &Name,
        figures: Figures,
        above: Option<Above>,
        plan: impl Fn(PathBuf) -> Result<Plan, StoreError>,
    ) -> Result<(), StoreError> {
        let partial = self.new_partial();
        let fill = || {
            fs::create_dir(&partial).map_err(StoreError::file("create", &partial))?;
            plan(partial.join("root"))?.carry_out(&self.store)?;
            let path = partial.join("figures");
            let text = remember::figures_text(&name.root, figures, above);
            fs::write(&path, text).map_err(StoreError::file("write", &path))?;
            let path = self.tree_path(name);
            fs::rename(&partial, &path).map_err(StoreError::file("put in place", &path))
        };
        let made = fill();
        if made.is_err()
            && let Err(error) = fs::remove_dir_all(&partial)
        {
            tracing::warn!(path = %partial.display(), %error, "cannot remove a partial tree");
        }
        made
    }

    /// The tree above one that it resembles, if there is one.
    async fn make_delta(
        self: &Arc<Self>,
        root: &Digest,
        ground: Ground,
        fetcher: &dyn Fetch,
        stats: &mut FetchStats,
    ) -> Result<Option<StagedTree>, StoreError> {
        let name = Name { root: *root, form: Form::Delta };
        if self.trees().contains(&name) {
            // There is one, but not for this ground.
            return Ok(None);
        }
        let Some((base, base_figures)) = self.resembling(root, fetcher, stats).await? else { return Ok(None) };
        let budget = base_figures.nodes.saturating_mul(self.delta_rule.nodes_percent_max) / 100;
        let Some(delta) = self.compare(base.root(), root, budget, fetcher, stats).await? else { return Ok(None) };
        let nodes = delta.nodes() as u64;
        // The sum is at least what the new tree has.
        if base_figures.nodes + nodes > TREE_NODES_MAX as u64 || (delta.hides && ground == Ground::Shared) {
            return Ok(None);
        }
        let mut files: Vec<Digest> = delta.files.iter().map(|(digest, ..)| *digest).collect();
        files.sort_unstable();
        files.dedup();
        stats.add(fetcher.fetch_all(&files).await?);
        // The base has leased the others.
        files.extend(&delta.messages);
        let lease = self.store.lease(&files).await?;
        let above = Above { base: *base.root(), hides: delta.hides };
        let figures = Figures { nodes, bytes: delta.bytes() };
        let delta = Arc::new(delta);
        let plan = move |path: PathBuf| Ok(Plan::of_delta(&path, &delta));
        let found = self.materialise(name, figures, Some(above), lease, plan).await?;
        stats.reused_bytes = stats.reused_bytes.saturating_add(base_figures.bytes);
        Ok(Some(self.handle(found, *stats)))
    }

    fn tree_path(&self, name: &Name) -> PathBuf {
        let folder = match name.form {
            Form::Full => "trees",
            Form::Delta => "deltas",
        };
        self.directory.join(folder).join(remember::directory_name(&name.root))
    }

    fn new_partial(&self) -> PathBuf {
        self.directory.join("partial").join(self.partial.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Makes trees that nobody uses give way until one more fits. What is in use is never counted against a new one.
    async fn make_room(&self, figures: Figures) -> Result<(), StoreError> {
        loop {
            let staged = self.trees().figures();
            let nodes_fit = staged.nodes + figures.nodes <= STAGED_NODES_MAX as u64;
            let bytes_fit = staged.bytes.saturating_add(figures.bytes) <= self.store.capacity_bytes() / 2;
            if (nodes_fit && bytes_fit) || !self.evict_unused().await? {
                return Ok(());
            }
        }
    }

    /// Removes the unused tree that was used longest ago, if there is one.
    async fn evict_unused(&self) -> Result<bool, StoreError> {
        let partial = self.new_partial();
        {
            let mut trees = self.trees();
            let Some(name) = trees.unused() else { return Ok(false) };
            // Under the lock, so that nobody can stage the same tree in between.
            let path = self.tree_path(&name);
            fs::rename(&path, &partial).map_err(StoreError::file("remove", &path))?;
            trees.remove(&name);
        }
        blocking(move || fs::remove_dir_all(&partial).map_err(StoreError::file("remove", &partial))).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
