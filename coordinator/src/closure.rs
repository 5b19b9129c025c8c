//! Whether everything that trees point at is in the store.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use muster_cache::{BlobStore, StoreError};
use muster_model::{Digest, limits};
use muster_proto::reapi;
use prost::Message;

/// Missing blobs that one message lists.
const MISSING_LISTED_MAX: usize = 10;

/// Why a tree can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClosureError {
    /// Blobs are not there.
    #[error("{}", describe(.0))]
    Missing(Vec<Digest>),
    /// A directory makes no sense.
    #[error("tree {root}: {why}")]
    Malformed {
        /// The tree.
        root: Digest,
        /// What is wrong.
        why: String,
    },
    /// The store can't be asked.
    #[error("the store can't be asked")]
    Store(#[from] StoreError),
}

fn describe(missing: &[Digest]) -> String {
    let mut listed: Vec<String> = missing.iter().take(MISSING_LISTED_MAX).map(ToString::to_string).collect();
    if missing.len() > MISSING_LISTED_MAX {
        listed.push("…".into());
    }
    format!("{} blobs are missing: {}", missing.len(), listed.join(", "))
}

/// Remembers which directories were whole a moment ago, with everything below them, so that what trees share is walked once.
#[derive(Debug)]
pub(crate) struct Closures {
    whole: Mutex<Whole>,
    /// A store promises what it said for its lease time: half of that is safe to build on.
    believed: Duration,
}

/// Two ages of memory, so that forgetting costs nothing: what is older than both is gone.
#[derive(Debug, Default)]
struct Whole {
    young: HashMap<Digest, Instant>,
    old: HashMap<Digest, Instant>,
}

impl Whole {
    fn knows(&self, digest: &Digest, believed: Duration) -> bool {
        let checked = self.young.get(digest).or_else(|| self.old.get(digest));
        checked.is_some_and(|checked| checked.elapsed() < believed)
    }

    fn learn(&mut self, directories: impl Iterator<Item = Digest>, at: Instant) {
        if self.young.len() >= limits::WHOLE_TREES_REMEMBERED_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.extend(directories.map(|digest| (digest, at)));
    }
}

impl Closures {
    /// Remembers nothing yet; for a store with this lease time.
    pub(crate) fn new(lease_time: Duration) -> Self {
        Self { whole: Mutex::default(), believed: lease_time / 2 }
    }

    /// Checks that every directory and file below `roots` is in the store.
    ///
    /// # Errors
    ///
    /// [`ClosureError::Missing`] with everything that can be known to be missing: what is below a directory that is missing itself is not.
    pub(crate) async fn check(&self, store: &dyn BlobStore, roots: &[Digest]) -> Result<(), ClosureError> {
        self.check_along(store, roots, &mut Trail::default()).await
    }

    /// [`Self::check`], and follows a trail through the directories that this has to read.
    ///
    /// # Errors
    ///
    /// As there.
    pub(crate) async fn check_along(
        &self,
        store: &dyn BlobStore,
        roots: &[Digest],
        trail: &mut Trail<'_>,
    ) -> Result<(), ClosureError> {
        // From before the first question: the answers hold for a lease time after it.
        let asked = Instant::now();
        let mut missing = Vec::new();
        let mut walked = HashSet::new();
        for &root in roots {
            let mut walk = Walk { store, root, closures: self, seen: HashSet::new(), missing: &mut missing };
            walk.run(trail).await?;
            walked.extend(walk.seen);
        }
        if missing.is_empty() {
            self.whole.lock().unwrap_or_else(PoisonError::into_inner).learn(walked.into_iter(), asked);
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        Err(ClosureError::Missing(missing))
    }

    fn unknown(&self, mut digests: Vec<Digest>) -> Vec<Digest> {
        let whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        digests.retain(|digest| !whole.knows(digest, self.believed));
        digests
    }
}

/// A path of directories below a root, which is followed by whoever reads them for another reason, so that none is read twice.
#[derive(Debug, Default)]
pub(crate) struct Trail<'a> {
    /// The directory that is to have the next name.
    at: Option<Digest>,
    /// The names that are left, the next one last.
    names: Vec<&'a str>,
    absent: Option<&'a str>,
}

impl<'a> Trail<'a> {
    /// The way to `path`, which is relative to `root`.
    pub(crate) fn new(root: Digest, path: &'a str) -> Self {
        let names = path.split('/').filter(|name| !name.is_empty()).rev().collect();
        Self { at: Some(root), names, absent: None }
    }

    /// The directory that has to be read to come further; none at the end, which may be a link, or before a name that is not there.
    pub(crate) fn next(&self) -> Option<Digest> {
        if self.names.is_empty() { None } else { self.at }
    }

    /// The name that is not there.
    pub(crate) fn absent(&self) -> Option<&'a str> {
        self.absent
    }

    /// Goes further if this is the directory that has to be read.
    pub(crate) fn follow(&mut self, digest: &Digest, directory: &reapi::Directory) {
        if self.next().as_ref() != Some(digest) {
            return;
        }
        let Some(name) = self.names.pop() else { return };
        if directory.symlinks.iter().any(|link| link.name == name) {
            // Where it leads is for others to find out.
            self.names.clear();
            return;
        }
        let child = directory.directories.iter().find(|child| child.name == name);
        self.at = child.and_then(|child| child.digest.as_ref()?.to_model(digest.function).ok());
        if self.at.is_none() {
            self.names.clear();
            self.absent = Some(name);
        }
    }
}

/// One tree on its way down, level by level.
struct Walk<'a> {
    store: &'a dyn BlobStore,
    root: Digest,
    closures: &'a Closures,
    /// Directories that were met, as far as they were not known to be whole.
    seen: HashSet<Digest>,
    missing: &'a mut Vec<Digest>,
}

impl Walk<'_> {
    async fn run(&mut self, trail: &mut Trail<'_>) -> Result<(), ClosureError> {
        let mut level = vec![self.root];
        let mut files_seen = HashSet::new();
        for _ in 0..limits::TREE_DEPTH_MAX {
            level = self.closures.unknown(level);
            level.retain(|digest| self.seen.insert(*digest));
            if level.is_empty() {
                return Ok(());
            }
            let absent = self.find_missing(&level).await?;
            level.retain(|digest| !absent.contains(digest));
            let (mut directories, mut files) = (Vec::new(), Vec::new());
            for bytes in self.store.get_many(&level).await {
                let blob = match bytes {
                    Ok(blob) => blob,
                    // It was quarantined or went between the two questions.
                    Err(StoreError::NotFound(digest) | StoreError::Corrupt(digest)) => {
                        self.missing.push(digest);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let digest = *blob.digest();
                let bytes = match blob.into_bytes(limits::MESSAGE_BYTES_MAX as u64).await {
                    Err(StoreError::Corrupt(digest)) => {
                        self.missing.push(digest);
                        continue;
                    }
                    read => read?,
                };
                let directory = reapi::Directory::decode(bytes)
                    .map_err(|error| self.malformed(format!("{digest} is no directory: {error}")))?;
                self.children(&directory, &mut directories, &mut files)?;
                trail.follow(&digest, &directory);
            }
            files.retain(|digest| files_seen.insert(*digest));
            if self.seen.len() + files_seen.len() > limits::TREE_NODES_MAX {
                return Err(self.malformed(format!("more than {} nodes", limits::TREE_NODES_MAX)));
            }
            self.find_missing(&files).await?;
            level = directories;
        }
        Err(self.malformed(format!("deeper than {} directories", limits::TREE_DEPTH_MAX)))
    }

    fn children(
        &self,
        directory: &reapi::Directory,
        directories: &mut Vec<Digest>,
        files: &mut Vec<Digest>,
    ) -> Result<(), ClosureError> {
        let below = directory.directories.iter().map(|child| &child.digest);
        for digest in below {
            directories.push(self.digest(digest.as_ref())?);
        }
        for file in &directory.files {
            files.push(self.digest(file.digest.as_ref())?);
        }
        Ok(())
    }

    fn digest(&self, digest: Option<&reapi::Digest>) -> Result<Digest, ClosureError> {
        let digest = digest.ok_or_else(|| self.malformed("an entry without a digest"))?;
        // One function makes every digest of a tree.
        digest.to_model(self.root.function).map_err(|error| self.malformed(error))
    }

    /// Notes what is missing of `digests`, and returns it.
    async fn find_missing(&mut self, digests: &[Digest]) -> Result<HashSet<Digest>, ClosureError> {
        let mut absent = HashSet::new();
        for chunk in digests.chunks(limits::FIND_MISSING_DIGESTS_MAX) {
            absent.extend(self.store.find_missing(chunk).await?);
        }
        self.missing.extend(&absent);
        Ok(absent)
    }

    fn malformed(&self, why: impl ToString) -> ClosureError {
        ClosureError::Malformed { root: self.root, why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;
    use muster_cache::Blob;

    use super::*;

    /// Directories by digest, and how many were read.
    #[derive(Default)]
    struct Counted {
        messages: HashMap<Digest, Bytes>,
        read: AtomicUsize,
    }

    impl Counted {
        fn add(&mut self, directory: &reapi::Directory) -> Digest {
            let bytes = Bytes::from(directory.encode_to_vec());
            self.messages.insert(Digest::of(&bytes), bytes.clone());
            Digest::of(&bytes)
        }

        /// A directory with one other in it.
        fn above(&mut self, name: &str, digest: Digest) -> Digest {
            let node = reapi::DirectoryNode { name: name.into(), digest: Some(digest.into()) };
            self.add(&reapi::Directory { directories: vec![node], ..reapi::Directory::default() })
        }
    }

    #[async_trait]
    impl BlobStore for Counted {
        async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
            Ok(digests.iter().filter(|digest| !self.messages.contains_key(digest)).copied().collect())
        }

        async fn get(&self, digest: &Digest) -> Result<Blob, StoreError> {
            self.read.fetch_add(1, Ordering::Relaxed);
            self.messages.get(digest).cloned().map(Blob::from_bytes).ok_or(StoreError::NotFound(*digest))
        }

        async fn put(&self, digest: &Digest, _: Blob) -> Result<(), StoreError> {
            Err(StoreError::NotFound(*digest))
        }
    }

    #[tokio::test]
    async fn a_trail_is_followed_through_what_is_read_anyway() {
        let mut store = Counted::default();
        let link = reapi::SymlinkNode { name: "link".into(), target: "..".into(), ..reapi::SymlinkNode::default() };
        let leaf = store.add(&reapi::Directory { symlinks: vec![link], ..reapi::Directory::default() });
        let middle = store.above("c", leaf);
        let below = store.above("b", middle);
        let root = store.above("a", below);
        for (path, absent) in [("", None), ("a/b/c", None), ("a/b/c/link/x", None), ("a/x/c", Some("x"))] {
            let closures = Closures::new(limits::BLOB_LEASE_TIME);
            store.read.store(0, Ordering::Relaxed);
            let mut trail = Trail::new(root, path);
            closures.check_along(&store, &[root], &mut trail).await.unwrap();
            assert_eq!((trail.next(), trail.absent()), (None, absent), "{path}");
            assert_eq!(store.read.load(Ordering::Relaxed), 4, "each directory is read once");
            // What is known to be whole is not read again, and then the trail is as it was.
            let mut trail = Trail::new(root, path);
            closures.check_along(&store, &[root], &mut trail).await.unwrap();
            assert_eq!((trail.next(), trail.absent()), ((!path.is_empty()).then_some(root), None), "{path}");
            assert_eq!(store.read.load(Ordering::Relaxed), 4);
        }
    }
}
