//! F5: of a hostile directory only files, directories and links are taken, the files' bytes are those below it, and nothing is read through a link.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use muster_cache::tree::{Directory, Node};
use muster_cache::{Copies, Folder, TakeRules, Taken, UploadSource, take};
use muster_fuzz::Name;
use muster_model::{Digest, DigestFunction};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// What nobody inside may read.
const SECRET: &[u8] = b"the secret of the host";
/// Nothing in here is larger.
const BYTES_MAX: u64 = 1 << 20;

/// One thing that a program left behind.
#[derive(Arbitrary, Debug)]
enum Thing {
    File { name: Name, content: u8, mode: u16 },
    Directory { name: Name, mode: u16, things: Vec<Thing> },
    Link { name: Name, target: Target },
    HardLink { name: Name },
    Pipe { name: Name },
    Socket { name: Name },
}

#[derive(Arbitrary, Debug)]
enum Target {
    Secret,
    Up,
    Itself,
    Devices,
    Text(String),
}

fuzz_target!(|things: Vec<Thing>| {
    let place = tempfile::tempdir().expect("a temporary directory");
    fs::write(place.path().join("secret"), SECRET).expect("a file");
    let root = place.path().join("root");
    fs::create_dir(&root).expect("a directory");
    let mut wanted = Wanted::default();
    make(&root, Path::new(""), &things, &mut wanted);

    let mut copies = Copies::new(place.path().join("copies"), DigestFunction::Blake3, BYTES_MAX);
    let rules = TakeRules { opens_up: true, ..TakeRules::default() };
    let mut nodes = 0;
    let folder = Folder::open(&root).expect("it is there");
    if let Ok(taken) = take(&folder, Path::new(""), &rules, &mut nodes, &mut copies) {
        let Some(Taken::Directory(tree)) = taken else { panic!("a directory was asked for") };
        let blobs: HashMap<Digest, Bytes> = copies.blobs().map(|(digest, source)| (digest, read(source))).collect();
        for (digest, bytes) in &blobs {
            assert_eq!(*digest, Digest::of(bytes));
        }
        let mut found = BTreeMap::new();
        list(&tree.root, &tree.directories.into_iter().collect(), &blobs, Path::new(""), &mut found);
        assert_eq!(found, wanted.nodes, "what is taken is what was made");
        assert_eq!(tree.skipped.into_iter().collect::<BTreeSet<_>>(), wanted.others);
    }
    assert_eq!(fs::read(place.path().join("secret")).expect("it is there"), SECRET);
    // Whatever the input has closed must be opened to be removed.
    open_up(&root);
});

#[derive(Default)]
struct Wanted {
    nodes: BTreeMap<PathBuf, String>,
    others: BTreeSet<PathBuf>,
}

/// Makes what can be made; names that the file system refuses are left out.
fn make(root: &Path, below: &Path, things: &[Thing], wanted: &mut Wanted) {
    for thing in things {
        let name = thing.name();
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
        let (inner, path) = (below.join(name), root.join(below).join(name));
        if !plain || fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match thing {
            Thing::File { content, mode, .. } => {
                let mode = u32::from(*mode) & 0o7777;
                if fs::write(&path, vec![*content; usize::from(*content) * 30]).is_err() {
                    continue;
                }
                fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it was made");
                wanted.nodes.insert(inner, line(&vec![*content; usize::from(*content) * 30], mode & 0o100 != 0));
            }
            Thing::Directory { mode, things, .. } => {
                if fs::create_dir(&path).is_err() {
                    continue;
                }
                wanted.nodes.insert(inner.clone(), "directory".into());
                make(root, &inner, things, wanted);
                fs::set_permissions(&path, Permissions::from_mode(u32::from(*mode) & 0o7777)).expect("it was made");
            }
            Thing::Link { target, .. } => {
                let target = target.text(&path);
                if symlink(&target, &path).is_ok() {
                    wanted.nodes.insert(inner, format!("link to {target:?}"));
                }
            }
            Thing::HardLink { .. } => {
                let first = wanted.nodes.iter().find(|(_, line)| line.starts_with("file"));
                if let Some((first, line)) = first.map(|(first, line)| (first.clone(), line.clone()))
                    && fs::hard_link(root.join(&first), &path).is_ok()
                {
                    wanted.nodes.insert(inner, line);
                }
            }
            Thing::Pipe { .. } => {
                if mkfifo(&path, Mode::S_IRWXU).is_ok() {
                    wanted.others.insert(inner);
                }
            }
            Thing::Socket { .. } => {
                if UnixListener::bind(&path).is_ok() {
                    wanted.others.insert(inner);
                }
            }
        }
    }
}

impl Thing {
    fn name(&self) -> &str {
        match self {
            Self::File { name, .. }
            | Self::Directory { name, .. }
            | Self::Link { name, .. }
            | Self::HardLink { name }
            | Self::Pipe { name }
            | Self::Socket { name } => &name.0,
        }
    }
}

impl Target {
    fn text(&self, path: &Path) -> String {
        match self {
            Self::Secret => "../secret".into(),
            Self::Up => "..".into(),
            Self::Itself => path.to_string_lossy().into_owned(),
            Self::Devices => "/dev/zero".into(),
            Self::Text(text) => text.clone(),
        }
    }
}

fn line(bytes: &[u8], executable: bool) -> String {
    format!("file {} {} {executable}", bytes.len(), bytes.first().copied().unwrap_or_default())
}

fn read(source: UploadSource) -> Bytes {
    match source {
        UploadSource::Bytes(bytes) => bytes,
        UploadSource::File(path) => fs::read(path).expect("copies are readable").into(),
    }
}

/// The paths of a taken tree.
fn list(
    root: &Digest,
    directories: &HashMap<Digest, Bytes>,
    blobs: &HashMap<Digest, Bytes>,
    below: &Path,
    found: &mut BTreeMap<PathBuf, String>,
) {
    let directory = Directory::decode(DigestFunction::Blake3, &directories[root]).expect("a canonical message");
    for entry in directory.entries() {
        let path = below.join(&entry.name);
        let text = match &entry.node {
            // Names and targets of links are the input's own words, whatever they say; no file of it can say this.
            Node::File { digest, executable } => {
                let bytes = &blobs[digest];
                assert!(!bytes.windows(SECRET.len()).any(|window| window == SECRET), "the secret was taken");
                line(bytes, *executable)
            }
            Node::Symlink(target) => format!("link to {target:?}"),
            Node::Directory(digest) => {
                list(digest, directories, blobs, &path, found);
                "directory".into()
            }
        };
        found.insert(path, text);
    }
}

fn open_up(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o700)).expect("it is ours");
    for entry in fs::read_dir(folder).expect("it is open").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
