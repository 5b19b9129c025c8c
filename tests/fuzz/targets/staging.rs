//! F4: a tree that is materialised touches nothing outside of its own place, and holds what it should.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use async_trait::async_trait;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use muster_cache::{Blob, BlobStore, DiskConfig, DiskStore, Fetch, FetchStats, Ground, Stager, StoreError};
use muster_fuzz::Name;
use muster_model::Digest;
use muster_proto::reapi;
use prost::Message;
use tokio::runtime::Runtime;

/// Below this the tree is cut off, so that most of the input makes trees and not towers.
const DEPTH_MAX: usize = 6;

/// A tree as its sender wants it.
#[derive(Arbitrary, Debug)]
struct Tree {
    files: Vec<(Name, u8, bool)>,
    directories: Vec<(Name, Tree)>,
    symlinks: Vec<(Name, Target)>,
}

/// Where a link points to.
#[derive(Arbitrary, Debug)]
enum Target {
    /// Out of the tree, where the canary is.
    Canary,
    /// Another way there.
    Up,
    /// Anywhere.
    Text(String),
    /// To a neighbour.
    Name(Name),
}

/// One store and stager for all inputs, and beside them something that nobody may touch.
struct Place {
    runtime: Runtime,
    directory: tempfile::TempDir,
    store: Arc<DiskStore>,
    stager: Arc<Stager>,
}

static PLACE: LazyLock<Place> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(directory.path().join("canary")).expect("a directory");
    fs::write(directory.path().join("canary/a"), "sings").expect("a file");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let config = DiskConfig { capacity_bytes: 64 << 20, ..DiskConfig::new(directory.path().join("place/store")) };
    fs::create_dir(directory.path().join("place")).expect("a directory");
    let store = DiskStore::open(config).expect("a store opens");
    let stager = Stager::open(store.clone(), directory.path().join("place/stager")).expect("a stager opens");
    Place { runtime, directory, store, stager }
});

/// Everything that a tree can be made of is in the store before.
struct Nothing;

#[async_trait]
impl Fetch for Nothing {
    async fn fetch_all(&self, digests: &[Digest]) -> Result<FetchStats, StoreError> {
        match digests.first() {
            Some(digest) if !PLACE.store.find_missing(digests).await?.is_empty() => Err(StoreError::NotFound(*digest)),
            _ => Ok(FetchStats::default()),
        }
    }
}

fuzz_target!(|tree: Tree| {
    let place = &*PLACE;
    place.runtime.block_on(async {
        let root = store(&tree, 0).await;
        let before = outside();
        // A tree that is not valid is refused; whatever is answered, nothing outside may change.
        if let Ok(staged) = place.stager.stage(&root, Ground::Bare, &Nothing).await {
            let mut wanted = BTreeMap::new();
            expect(&tree, 0, Path::new(""), &mut wanted);
            let mut found = BTreeMap::new();
            for directory in staged.directories() {
                assert!(directory.starts_with(place.directory.path().join("place/stager")), "{directory:?}");
                list(directory, Path::new(""), &mut found);
            }
            assert_eq!(found, wanted, "what is staged is what was sent");
        }
        assert_eq!(outside(), before, "something outside of the place was touched");
    });
});

/// The store has all of the tree, valid or not. Gives the digest of its root.
fn store(tree: &Tree, depth: usize) -> std::pin::Pin<Box<dyn Future<Output = Digest> + '_>> {
    Box::pin(async move {
        let mut message = reapi::Directory::default();
        for (name, content, is_executable) in &tree.files {
            let digest = Some(put(Bytes::from(contents(*content))).await.into());
            let name = name.0.clone();
            message.files.push(reapi::FileNode { name, digest, is_executable: *is_executable, ..Default::default() });
        }
        for (name, tree) in tree.directories.iter().filter(|_| depth < DEPTH_MAX) {
            let digest = Some(store(tree, depth + 1).await.into());
            message.directories.push(reapi::DirectoryNode { name: name.0.clone(), digest });
        }
        for (name, target) in &tree.symlinks {
            let (name, target) = (name.0.clone(), target.text());
            message.symlinks.push(reapi::SymlinkNode { name, target, ..Default::default() });
        }
        // In the order that valid ones have; whether the names are valid is for the reader to find out.
        message.files.sort_by(|one, other| one.name.cmp(&other.name));
        message.directories.sort_by(|one, other| one.name.cmp(&other.name));
        message.symlinks.sort_by(|one, other| one.name.cmp(&other.name));
        put(message.encode_to_vec().into()).await
    })
}

async fn put(bytes: Bytes) -> Digest {
    let blob = Blob::from_bytes(bytes);
    let digest = *blob.digest();
    BlobStore::put(&*PLACE.store, &digest, blob).await.expect("the store takes it");
    digest
}

/// Small files, and some that are kept as files of their own.
fn contents(number: u8) -> Vec<u8> {
    vec![number; if number % 8 == 0 { 5000 } else { usize::from(number) }]
}

impl Target {
    fn text(&self) -> String {
        match self {
            Self::Canary => PLACE.directory.path().join("canary").to_string_lossy().into_owned(),
            Self::Up => format!("{}canary", "../".repeat(DEPTH_MAX + 5)),
            Self::Text(text) => text.clone(),
            Self::Name(name) => name.0.clone(),
        }
    }
}

/// What a tree that was accepted must look like on the disk.
fn expect(tree: &Tree, depth: usize, path: &Path, wanted: &mut BTreeMap<PathBuf, String>) {
    for (name, content, is_executable) in &tree.files {
        wanted.insert(path.join(&name.0), file_line(&contents(*content), *is_executable));
    }
    for (name, tree) in tree.directories.iter().filter(|_| depth < DEPTH_MAX) {
        let path = path.join(&name.0);
        expect(tree, depth + 1, &path, wanted);
        wanted.insert(path, "directory".into());
    }
    for (name, target) in &tree.symlinks {
        wanted.insert(path.join(&name.0), format!("link to {:?}", target.text()));
    }
}

fn file_line(bytes: &[u8], is_executable: bool) -> String {
    format!("{} {} {is_executable}", bytes.len(), bytes.first().copied().unwrap_or_default())
}

/// Lists a directory above what was found in those beneath it, without following a link (Linux, `overlayfs.rst`: a device is a whiteout).
fn list(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(root.join(below)).expect("it is there") {
        let entry = entry.expect("it is there");
        let path = below.join(entry.file_name());
        let metadata = entry.metadata().expect("it is there");
        if !metadata.is_dir() {
            found.retain(|other, _| !other.starts_with(&path));
        }
        let line = if metadata.is_dir() {
            list(root, &path, found);
            "directory".into()
        } else if metadata.file_type().is_char_device() {
            continue;
        } else if metadata.is_symlink() {
            let target = fs::read_link(entry.path()).expect("it is there");
            format!("link to {:?}", target.to_string_lossy())
        } else {
            let bytes = fs::read(entry.path()).expect("it is readable");
            file_line(&bytes, metadata.permissions().mode() & 0o111 != 0)
        };
        found.insert(path, line);
    }
}

/// What lies around the place of store and stager.
fn outside() -> Vec<(PathBuf, Vec<u8>)> {
    let top = PLACE.directory.path();
    let mut all = Vec::new();
    for folder in [top.to_path_buf(), top.join("canary")] {
        for entry in fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("it is there").path();
            let bytes = fs::read(&path).unwrap_or_default();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}
