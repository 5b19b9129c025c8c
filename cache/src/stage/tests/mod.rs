mod deltas;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::tree::{Tree, TreeBuilder};
use crate::{Blob, DiskConfig};

struct World {
    folder: tempfile::TempDir,
    store: Arc<DiskStore>,
}

fn world(capacity_bytes: u64) -> World {
    let folder = tempfile::tempdir().unwrap();
    let config = DiskConfig {
        capacity_bytes,
        lease_time: std::time::Duration::ZERO,
        ..DiskConfig::new(folder.path().join("cache"))
    };
    World { store: DiskStore::open(config).unwrap(), folder }
}

impl World {
    fn stager(&self) -> Arc<Stager> {
        Stager::open(self.store.clone(), self.folder.path().join("staged")).unwrap()
    }
}

/// Stands for the coordinator: brings what it has, and counts how often it is asked.
struct Origin {
    store: Arc<DiskStore>,
    blobs: HashMap<Digest, Bytes>,
    asked: AtomicUsize,
}

#[async_trait]
impl Fetch for Origin {
    async fn fetch_all(&self, digests: &[Digest]) -> Result<FetchStats, StoreError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        for digest in digests {
            let bytes = self.blobs.get(digest).ok_or(StoreError::NotFound(*digest))?;
            self.store.put_blob(digest, Blob::from_bytes_of(*digest, bytes.clone())?).await?;
        }
        Ok(FetchStats::default())
    }
}

fn tree_of(world: &World, seed: u8, size: usize) -> (Tree, Origin) {
    let mut blobs = HashMap::new();
    let mut builder = TreeBuilder::new();
    for (path, executable, size) in [("bin/large", true, size), ("share/large", false, size), ("share/small", false, 9)]
    {
        let bytes = Bytes::from(vec![seed; size]);
        builder.insert_file(path, Digest::of(&bytes), executable).unwrap();
        blobs.insert(Digest::of(&bytes), bytes);
    }
    builder.insert_symlink("share/link", "/nowhere/../at/all").unwrap();
    builder.insert_directory("empty").unwrap();
    let tree = builder.finish().unwrap();
    blobs.extend(tree.directories.iter().cloned());
    (tree, Origin { store: world.store.clone(), blobs, asked: AtomicUsize::new(0) })
}

fn check(path: &Path, seed: u8, size: usize) {
    for (name, mode, size) in [("bin/large", 0o755, size), ("share/large", 0o644, size), ("share/small", 0o644, 9)] {
        let path = path.join(name);
        assert_eq!(fs::read(&path).unwrap(), vec![seed; size], "{name}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(fs::read_link(path.join("share/link")).unwrap(), Path::new("/nowhere/../at/all"));
    assert_eq!(fs::metadata(path.join("empty")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[tokio::test]
async fn a_tree_is_made_once_whoever_asks() {
    let world = world(1 << 20);
    let (tree, origin) = tree_of(&world, 1, 10_000);
    let stager = world.stager();
    let calls = (0..8).map(|_| stager.stage(&tree.root, Ground::Bare, &origin));
    let staged = futures_util::future::try_join_all(calls).await.unwrap();
    check(&staged[0].directories()[0], 1, 10_000);
    assert!(staged.iter().all(|tree| tree.directories() == staged[0].directories()));
    // Two levels of directories, and the files.
    assert_eq!(origin.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_tree_stays_over_restarts_of_the_process_but_not_of_the_machine() {
    let world = world(1 << 20);
    let (tree, origin) = tree_of(&world, 1, 10_000);
    drop(world.stager().stage(&tree.root, Ground::Bare, &origin).await.unwrap());
    let nobody = Origin { store: world.store.clone(), blobs: HashMap::new(), asked: AtomicUsize::new(0) };
    fs::create_dir_all(world.folder.path().join("staged/partial/7/root")).unwrap();
    let again = world.stager().stage(&tree.root, Ground::Bare, &nobody).await.unwrap();
    check(&again.directories()[0], 1, 10_000);
    assert_eq!(fs::read_dir(world.folder.path().join("staged/partial")).unwrap().count(), 0);
    fs::write(world.folder.path().join("staged/BOOT"), "another boot").unwrap();
    let gone = world.stager().stage(&tree.root, Ground::Bare, &nobody).await;
    assert!(matches!(gone, Err(StoreError::NotFound(_))), "{gone:?}");
}

#[tokio::test]
async fn unused_trees_give_way_and_used_ones_stay() {
    let world = world(130_000);
    let stager = world.stager();
    let (first, origin) = tree_of(&world, 1, 40_000);
    let kept = stager.stage(&first.root, Ground::Bare, &origin).await.unwrap();
    let mut paths = Vec::new();
    for seed in 2..6 {
        let (tree, origin) = tree_of(&world, seed, 10_000);
        let staged = stager.stage(&tree.root, Ground::Bare, &origin).await.unwrap();
        check(&staged.directories()[0], seed, 10_000);
        paths.push(staged.directories()[0].clone());
    }
    check(&kept.directories()[0], 1, 40_000);
    assert!(!paths[0].exists());
    let (too_much, origin) = tree_of(&world, 9, 60_000);
    let refused = stager.stage(&too_much.root, Ground::Bare, &origin).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(fs::read_dir(world.folder.path().join("staged/partial")).unwrap().count(), 0);
    drop(kept);
    // The large file takes room twice, once for each form.
    check(stager.stage(&too_much.root, Ground::Bare, &origin).await.unwrap().directories()[0].as_path(), 9, 60_000);
}

#[tokio::test]
async fn a_blob_that_is_missing_or_hostile_stages_nothing() {
    let world = world(1 << 20);
    let stager = world.stager();
    let (tree, mut origin) = tree_of(&world, 1, 10_000);
    let large = Digest::of(&vec![1; 10_000]);
    origin.blobs.remove(&large);
    let missing = stager.stage(&tree.root, Ground::Bare, &origin).await;
    assert!(matches!(missing, Err(StoreError::NotFound(digest)) if digest == large), "{missing:?}");
    let hostile = Bytes::from_static(b"\x1a\x07\x0a\x02..\x12\x01x");
    origin.blobs.insert(Digest::of(&hostile), hostile.clone());
    let refused = stager.stage(&Digest::of(&hostile), Ground::Bare, &origin).await;
    assert!(matches!(refused, Err(StoreError::Tree { .. })), "{refused:?}");
    for folder in ["staged/trees", "staged/partial"] {
        assert_eq!(fs::read_dir(world.folder.path().join(folder)).unwrap().count(), 0);
    }
}
