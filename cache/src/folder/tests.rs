use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use async_trait::async_trait;
use bytes::Bytes;
use muster_model::{Digest, DigestFunction, limits};
use muster_proto::reapi;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::tree::{Content, Directory, Node, TreeBuilder, collect};
use crate::{Blob, BlobStore, UploadSource, digest_of};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("job")).unwrap();
        Self { folder }
    }

    fn job(&self) -> PathBuf {
        self.folder.path().join("job")
    }

    fn copies(&self, function: DigestFunction) -> Copies {
        Copies::new(self.folder.path().join("copies"), function, limits::OUTPUT_BYTES_MAX)
    }

    fn take(&self, path: &str, rules: &TakeRules) -> (Result<Option<Taken>, FolderError>, Copies) {
        let mut copies = self.copies(DigestFunction::Sha256);
        let folder = Folder::open(&self.job()).unwrap();
        (take(&folder, Path::new(path), rules, &mut 0, &mut copies), copies)
    }
}

/// What was copied, as a store.
pub(super) struct Kept(pub(super) HashMap<Digest, Bytes>);

impl Kept {
    pub(super) fn of(copies: &Copies) -> Self {
        let bytes = |source| match source {
            UploadSource::Bytes(bytes) => bytes,
            UploadSource::File(path) => fs::read(path).unwrap().into(),
        };
        Self(copies.blobs().map(|(digest, source)| (digest, bytes(source))).collect())
    }

    pub(super) async fn content(&self, root: Digest) -> Result<Content, StoreError> {
        let found = |digests: Vec<Digest>| {
            digests.into_iter().filter_map(|digest| Some((digest, self.0.get(&digest)?.clone()))).collect()
        };
        collect(&root, |digests| async { Ok(found(digests)) }).await
    }
}

#[async_trait]
impl BlobStore for Kept {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        Ok(digests.iter().filter(|digest| !self.0.contains_key(digest)).copied().collect())
    }

    async fn get(&self, digest: &Digest) -> Result<Blob, StoreError> {
        let bytes = self.0.get(digest).ok_or(StoreError::NotFound(*digest))?;
        Blob::from_bytes_of(*digest, bytes.clone())
    }

    async fn put(&self, _: &Digest, _: Blob) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }
}

fn tree(taken: Result<Option<Taken>, FolderError>) -> TakenTree {
    match taken {
        Ok(Some(Taken::Directory(tree))) => tree,
        other => panic!("not a directory: {other:?}"),
    }
}

/// What a directory of a test is made of.
#[derive(Clone, Debug)]
enum Made {
    File { bytes: Vec<u8>, mode: u32 },
    Symlink(String),
    Directory(Vec<(String, Made)>),
    Pipe,
    Socket,
}

fn made() -> impl Strategy<Value = Made> {
    let leaf = prop_oneof![
        4 => (proptest::collection::vec(any::<u8>(), 0..64), 0_u32..0o10000)
            .prop_map(|(bytes, mode)| Made::File { bytes, mode }),
        1 => (64_usize..70).prop_map(|kibibytes| Made::File { bytes: vec![b'x'; kibibytes * 1024], mode: 0o644 }),
        2 => "[a-z./]{1,12}".prop_map(Made::Symlink),
        1 => Just(Made::Symlink("/etc/passwd".into())),
        1 => Just(Made::Pipe),
        1 => Just(Made::Socket),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        proptest::collection::btree_map("[a-zä-ü ]{1,6}", inner, 0..6)
            .prop_map(|entries| Made::Directory(entries.into_iter().collect()))
    })
}

fn root() -> impl Strategy<Value = Vec<(String, Made)>> {
    proptest::collection::btree_map("[a-z]{1,4}", made(), 0..6).prop_map(|entries| entries.into_iter().collect())
}

fn make(path: &Path, entries: &[(String, Made)]) {
    for (name, made) in entries {
        let path = path.join(name);
        match made {
            Made::File { bytes, mode } => {
                fs::write(&path, bytes).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
            Made::Symlink(target) => symlink(target, &path).unwrap(),
            Made::Directory(entries) => {
                fs::create_dir(&path).unwrap();
                make(&path, entries);
            }
            Made::Pipe => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap(),
            Made::Socket => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
        }
    }
}

/// The model: what a tree of those entries must be, made by other code, from names and bytes alone.
fn expected(builder: &mut TreeBuilder, prefix: &str, entries: &[(String, Made)]) {
    for (name, made) in entries {
        let path = format!("{prefix}{name}");
        match made {
            Made::File { bytes, mode } => {
                builder.insert_file(&path, Digest::of(bytes), mode & 0o100 != 0).unwrap();
            }
            Made::Symlink(target) => builder.insert_symlink(&path, target).unwrap(),
            Made::Directory(entries) => {
                builder.insert_directory(&path).unwrap();
                expected(builder, &format!("{path}/"), entries);
            }
            Made::Pipe | Made::Socket => {}
        }
    }
}

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is taken is what other code says that it is; what is laid out from it and taken again is the same; nothing else was read.
    #[test]
    fn a_directory_is_taken_laid_out_and_taken_again_unchanged(entries in root()) {
        let place = Place::new();
        make(&place.job(), &entries);
        let mut copies = place.copies(DigestFunction::Blake3);
        let rules = TakeRules { opens_up: true, ..TakeRules::default() };
        let job = Folder::open(&place.job()).unwrap();
        let taken = tree(take(&job, Path::new(""), &rules, &mut 0, &mut copies));
        let mut builder = TreeBuilder::new();
        expected(&mut builder, "", &entries);
        let model = builder.finish().unwrap();
        prop_assert_eq!(taken.root, model.root);
        let mut blobs: Vec<Digest> = model.files;
        blobs.extend(model.directories.iter().map(|(digest, _)| *digest));
        blobs.sort_unstable();
        blobs.dedup();
        let mut copied: Vec<Digest> = copies.blobs().map(|(digest, _)| digest).collect();
        copied.sort_unstable();
        prop_assert_eq!(copied, blobs);

        let kept = Kept::of(&copies);
        prop_assert!(kept.0.iter().all(|(digest, bytes)| Digest::of(bytes) == *digest));
        let content = run(kept.content(taken.root)).unwrap();
        let copy = place.folder.path().join("copy");
        run(lay_out(&content, &kept, &copy, LinkRule::Keep)).unwrap();
        let mut copies = Copies::new(place.folder.path().join("again"), DigestFunction::Blake3, u64::MAX);
        let again = take(&Folder::open(&copy).unwrap(), Path::new(""), &TakeRules::default(), &mut 0, &mut copies);
        prop_assert_eq!(tree(again).root, taken.root);
    }
}

#[test]
fn a_tree_message_is_sorted_and_holds_each_directory_once() {
    let place = Place::new();
    for name in ["a/x/y", "b/x/y", "c"] {
        fs::create_dir_all(place.job().join(name)).unwrap();
    }
    fs::write(place.job().join("c/file"), "bytes").unwrap();
    let (taken, copies) = place.take("", &TakeRules::default());
    let taken = tree(taken);
    let message = reapi::Directory::decode(taken.directories[0].1.clone()).unwrap();
    assert_eq!(message.directories.len(), 3);
    // The root, `a` (as `b`), `x`, `y`, and `c`.
    assert_eq!(taken.directories.len(), 5);
    let mut known = vec![taken.root];
    for (digest, bytes) in &taken.directories {
        assert!(known.contains(digest), "a directory comes after one that holds it");
        for entry in Directory::decode(DigestFunction::Sha256, bytes).unwrap().entries() {
            if let Node::Directory(digest) = entry.node {
                known.push(digest);
            }
        }
    }
    assert!(Kept::of(&copies).0.contains_key(&taken.root));
    let bytes = taken.message();
    let mut rest: &[u8] = &bytes;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (tag, wire_type) = prost::encoding::decode_key(&mut rest).unwrap();
        let length = prost::encoding::decode_varint(&mut rest).unwrap() as usize;
        records.push((tag, wire_type, digest_of(DigestFunction::Sha256, &rest[..length])));
        rest = &rest[length..];
    }
    let digests: Vec<Digest> = taken.directories.iter().map(|(digest, _)| *digest).collect();
    assert_eq!(records.iter().map(|record| record.2).collect::<Vec<_>>(), digests);
    assert_eq!(records.iter().map(|record| record.0).collect::<Vec<_>>(), [1, 2, 2, 2, 2]);
    assert!(records.iter().all(|record| record.1 == prost::encoding::WireType::LengthDelimited));
}

#[test]
fn links_are_kept_or_refused_and_never_followed() {
    let place = Place::new();
    fs::write(place.folder.path().join("secret"), "secret").unwrap();
    fs::create_dir(place.job().join("out")).unwrap();
    symlink(place.folder.path().join("secret"), place.job().join("out/absolute")).unwrap();
    symlink("out", place.job().join("way")).unwrap();
    symlink(place.folder.path(), place.job().join("outside")).unwrap();
    let strict = TakeRules { links: LinkRule::Inside, ..TakeRules::default() };
    for path in ["way/absolute", "outside/secret", "out/absolute/x", "missing", "missing/too"] {
        assert!(matches!(place.take(path, &TakeRules::default()).0, Ok(None)), "{path}");
    }
    for path in ["../secret", "/etc/passwd", "out/../../secret"] {
        assert!(!matches!(place.take(path, &TakeRules::default()).0, Ok(Some(_))), "{path}");
    }
    let target = place.folder.path().join("secret").to_str().unwrap().to_owned();
    let kept = place.take("out/absolute", &TakeRules::default());
    assert!(matches!(&kept.0, Ok(Some(Taken::Symlink { target: kept, .. })) if *kept == target));
    assert!(matches!(place.take("out", &strict).0, Err(FolderError::Link { .. })));
    assert!(matches!(place.take("way", &strict).0, Ok(Some(Taken::Symlink { .. }))));
    let (_, copies) = place.take("", &TakeRules::default());
    assert!(!Kept::of(&copies).0.values().any(|bytes| bytes == "secret"));
}

#[test]
fn special_files_are_left_out_of_directories_and_refused_as_outputs() {
    let place = Place::new();
    make(&place.job(), &[("pipe".into(), Made::Pipe), ("socket".into(), Made::Socket)]);
    assert_eq!(tree(place.take("", &TakeRules::default()).0).skipped, [Path::new("pipe"), Path::new("socket")]);
    let refused = place.take("pipe", &TakeRules::default()).0;
    assert_eq!(refused.unwrap_err().to_string(), "pipe is a named pipe, not a file, a directory or a link");
}

#[test]
fn properties_are_taken_when_asked_for_and_rights_are_stripped() {
    let place = Place::new();
    make(&place.job(), &[("file".into(), Made::File { bytes: b"x".into(), mode: 0o6751 })]);
    let file = fs::File::open(place.job().join("file")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 7)).unwrap();
    let rules = TakeRules { with_mtime: true, with_mode: true, ..TakeRules::default() };
    let (taken, copies) = place.take("", &rules);
    let content = run(Kept::of(&copies).content(tree(taken).root)).unwrap();
    let bytes = content.directories[&content.root].encode();
    let message = reapi::Directory::decode(bytes).unwrap();
    let properties = message.files[0].node_properties.clone().unwrap();
    assert_eq!(properties.unix_mode.unwrap(), 0o751);
    let mtime = properties.mtime.unwrap();
    assert_eq!((mtime.seconds, mtime.nanos), (1_000_000, 7));
    assert!(message.files[0].is_executable && message.node_properties.is_some());
    let Ok(Some(Taken::File(plain))) = place.take("file", &TakeRules::default()).0 else { panic!("a file") };
    assert_eq!(plain.properties, None);
}

#[test]
fn limits_and_names_that_are_no_names_refuse_the_whole() {
    let place = Place::new();
    make(&place.job(), &[("a".into(), Made::Pipe), ("b".into(), Made::File { bytes: vec![1; 100], mode: 0o600 })]);
    let few = TakeRules { nodes_max: 1, ..TakeRules::default() };
    assert!(matches!(place.take("", &few).0, Err(FolderError::Limit { .. })));
    let folder = Folder::open(&place.job()).unwrap();
    let mut little = Copies::new(place.folder.path().join("little"), DigestFunction::Sha256, 99);
    let refused = take(&folder, Path::new("b"), &TakeRules::default(), &mut 0, &mut little);
    assert!(matches!(refused, Err(FolderError::Limit { limit: 99, .. })));
    // A file of holes says that it is large, and nobody reads it to see.
    fs::File::create(place.job().join("holes")).unwrap().set_len(limits::OUTPUT_BYTES_MAX + 1).unwrap();
    assert!(matches!(place.take("holes", &TakeRules::default()).0, Err(FolderError::Limit { .. })));
    fs::remove_file(place.job().join("holes")).unwrap();
    fs::write(place.job().join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    let refused = place.take("", &TakeRules::default()).0.unwrap_err();
    assert!(refused.to_string().contains("\\xFF"), "{refused}");
    fs::remove_file(place.job().join(std::ffi::OsStr::from_bytes(b"\xff"))).unwrap();
    let mut path = PathBuf::new();
    let mut deepest = Folder::open(&place.job()).unwrap();
    for _ in 0..=limits::TREE_DEPTH_MAX {
        nix::sys::stat::mkdirat(&deepest, "d", nix::sys::stat::Mode::S_IRWXU).unwrap();
        deepest = deepest.folder(Path::new("d")).unwrap();
        path.push("d");
    }
    let refused = place.take("", &TakeRules::default()).0.unwrap_err();
    assert!(matches!(refused, FolderError::Limit { what: "the depth of a tree", .. }), "{refused}");
}

#[test]
fn copies_are_fresh_and_gone_with_their_owner() {
    let place = Place::new();
    let large = vec![7; 200 * 1024];
    make(&place.job(), &[("one".into(), Made::File { bytes: large.clone(), mode: 0o600 })]);
    fs::hard_link(place.job().join("one"), place.job().join("two")).unwrap();
    let mut writer = fs::OpenOptions::new().write(true).open(place.job().join("one")).unwrap();
    let (taken, copies) = place.take("", &TakeRules::default());
    std::io::Write::write_all(&mut writer, b"changed").unwrap();
    let root = tree(taken).root;
    let kept = Kept::of(&copies);
    assert_eq!(kept.0.len(), 2, "equal files are one blob");
    assert!(kept.0.iter().all(|(digest, bytes)| digest_of(DigestFunction::Sha256, bytes) == *digest));
    assert!(kept.0.contains_key(&root) && kept.0.values().any(|bytes| bytes[..] == large[..]));
    assert_eq!(fs::read_dir(place.folder.path().join("copies")).unwrap().count(), 1);
    drop(copies);
    assert!(!place.folder.path().join("copies").exists());
}

#[test]
fn a_failure_leaves_no_half_of_a_tree_and_a_place_that_is_taken_is_not_touched() {
    let place = Place::new();
    make(&place.job(), &[("a".into(), Made::File { bytes: b"a".into(), mode: 0o600 })]);
    let (taken, copies) = place.take("", &TakeRules::default());
    let mut kept = Kept::of(&copies);
    let content = run(kept.content(tree(taken).root)).unwrap();
    let taken_place = place.folder.path().join("taken");
    fs::create_dir(&taken_place).unwrap();
    fs::write(taken_place.join("mine"), "mine").unwrap();
    run(lay_out(&content, &kept, &taken_place, LinkRule::Keep)).unwrap_err();
    assert_eq!(fs::read_to_string(taken_place.join("mine")).unwrap(), "mine");
    let file = digest_of(DigestFunction::Sha256, b"a");
    kept.0.remove(&file);
    let copy = place.folder.path().join("copy");
    let failed = run(lay_out(&content, &kept, &copy, LinkRule::Keep));
    assert!(matches!(failed, Err(FolderError::Store(StoreError::NotFound(digest))) if digest == file));
    assert!(!copy.exists());
}
