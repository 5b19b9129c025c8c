use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use muster_cache::digest_of;
use muster_model::limits::IMAGE_LAYERS_MAX;
use muster_model::{Digest, DigestFunction};
use proptest::prelude::*;
use serde_json::{Value, json};
use tar::EntryType;
use tempfile::TempDir;

use super::documents::Platform;
use super::tests::{Made, chain, gzip, read_bytes};
use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How a layer is stored.
type Store = fn(&[u8]) -> Vec<u8>;

fn hash(bytes: &[u8]) -> String {
    muster_model::digest::hex(&digest_of(DigestFunction::Sha256, bytes).hash)
}

/// A layout in the making: its files by name.
#[derive(Clone, Default)]
struct Layout {
    files: BTreeMap<String, Vec<u8>>,
    manifests: Vec<Value>,
}

impl Layout {
    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let hash = hash(bytes);
        self.files.insert(format!("blobs/sha256/{hash}"), bytes.to_vec());
        json!({"mediaType": media_type, "digest": format!("sha256:{hash}"), "size": bytes.len()})
    }

    fn document(&mut self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// The descriptor of an image's manifest. Layers are stored as `store` makes them.
    fn image(&mut self, platform: &Platform, layers: &[Vec<u8>], store: Store) -> Value {
        let configuration = self.document(CONFIGURATION, &configuration(platform, layers));
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(LAYER, &store(layer))).collect();
        self.document(MANIFEST, &json!({"schemaVersion": 2, "config": configuration, "layers": layers}))
    }

    fn of(layers: &[Vec<u8>], store: Store) -> Self {
        let mut layout = Self::default();
        let image = layout.image(&Platform::this(), layers, store);
        layout.manifests.push(image);
        layout
    }

    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        files.entry("oci-layout".into()).or_insert_with(|| br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec());
        let index = json!({"schemaVersion": 2, "manifests": self.manifests}).to_string();
        files.entry("index.json".into()).or_insert_with(|| index.into_bytes());
        files
    }

    fn archive(&self) -> Vec<u8> {
        self.files().iter().fold(Made::new(), |made, (name, bytes)| made.file(name, bytes)).bytes()
    }

    /// From an archive and from a directory, which must make no difference.
    fn read(&self) -> Result<Image, ImageError> {
        let place = TempDir::new().unwrap();
        let [layout, kept] = ["layout", "kept"].map(|name| place.path().join(name));
        for (name, bytes) in self.files() {
            let path = layout.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        fs::create_dir(&kept).unwrap();
        let in_directory = read_image(&layout, &kept);
        let in_archive = read_bytes(&self.archive()).map(|(image, _place)| image);
        match (&in_directory, &in_archive) {
            (Ok(one), Ok(other)) => assert_eq!((&one.tree, &one.configuration), (&other.tree, &other.configuration)),
            (Err(one), Err(other)) => assert_eq!(chain(one), chain(other)),
            (one, other) => panic!("{one:?} in a directory, {other:?} in an archive"),
        }
        in_directory
    }

    fn refusal(&self) -> String {
        chain(&self.read().expect_err("it breaks a rule"))
    }
}

fn configuration(platform: &Platform, layers: &[Vec<u8>]) -> Value {
    let hashes: Vec<String> = layers.iter().map(|layer| format!("sha256:{}", hash(layer))).collect();
    json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "config": {"Env": ["PATH=/bin", "A=b=c"], "WorkingDir": "/data", "Cmd": ["sh"], "Entrypoint": null, "User": "daemon"},
        "rootfs": {"type": "layers", "diff_ids": hashes},
    })
}

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// What `docker save` writes of an image.
pub(super) fn saved(platform: &Platform, layers: &[Vec<u8>]) -> BTreeMap<String, Vec<u8>> {
    let configuration = configuration(platform, layers).to_string().into_bytes();
    let name = format!("{}.json", hash(&configuration));
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{"Config": name, "RepoTags": ["small:1"], "Layers": names}]).to_string();
    let mut files: BTreeMap<_, _> = names.into_iter().zip(layers.iter().cloned()).collect();
    files.insert(name, configuration);
    files.insert("manifest.json".into(), manifest.into_bytes());
    files
}

fn read_saved(files: &BTreeMap<String, Vec<u8>>) -> Result<Image, ImageError> {
    let archive = files.iter().fold(Made::new(), |made, (name, bytes)| made.file(name, bytes)).bytes();
    read_bytes(&archive).map(|(image, _place)| image)
}

/// The paths of an image and what is at them.
fn listed(image: &Image) -> BTreeMap<String, String> {
    let messages: std::collections::HashMap<_, _> = image.tree.directories.iter().cloned().collect();
    let mut listed = BTreeMap::new();
    let mut waiting = vec![(String::new(), image.tree.root)];
    while let Some((path, digest)) = waiting.pop() {
        let directory = muster_cache::tree::Directory::decode(DigestFunction::Blake3, &messages[&digest]).unwrap();
        for entry in directory.entries() {
            let path = format!("{path}/{}", entry.name);
            let text = match &entry.node {
                Node::Directory(digest) => {
                    waiting.push((path.clone(), *digest));
                    "directory".to_owned()
                }
                Node::File { digest, executable } => format!("file {digest} {executable}"),
                Node::Symlink(target) => format!("link {target}"),
            };
            listed.insert(path, text);
        }
    }
    listed
}

fn paths(image: &Image) -> Vec<String> {
    listed(image).into_keys().collect()
}

fn two_layers() -> Vec<Vec<u8>> {
    let lower = Made::new()
        .file("etc/a", b"1")
        .file("etc/b", b"2")
        .file("opt/old/x", b"3")
        .file("opt/y", b"4")
        .link("bin", "usr/bin")
        .file("usr/bin/sh", b"5");
    let upper = Made::new()
        .file("etc/.wh.a", b"")
        .file("etc/b", b"new")
        .file("opt/z", b"6")
        .file("opt/.wh..wh..opq", b"")
        .hard("usr/bin/bash", "usr/bin/sh");
    vec![lower.bytes(), upper.bytes()]
}

#[test]
fn layers_lie_over_each_other_in_whatever_they_are_stored() {
    let [one, gzipped, zipped] =
        [plain as Store, gzip, zstd].map(|store| Layout::of(&two_layers(), store).read().unwrap());
    assert_eq!(
        paths(&one),
        ["/bin", "/etc", "/etc/b", "/opt", "/opt/z", "/usr", "/usr/bin", "/usr/bin/bash", "/usr/bin/sh"]
    );
    assert_eq!((one.tree.root, one.tree.root), (gzipped.tree.root, zipped.tree.root));
    assert_eq!((one.form, one.layers), (ImageForm::Layout, 2));
    let saved = read_saved(&saved(&Platform::this(), &two_layers())).unwrap();
    assert_eq!((saved.tree.root, saved.form, saved.layers), (one.tree.root, ImageForm::Saved, 2));
    assert_eq!(saved.configuration, one.configuration);
    // Nothing is uploaded that layers above have hidden: three files, and the directories.
    assert_eq!(one.blobs.len(), 3 + one.tree.directories.len());
    let said = one.configuration;
    assert_eq!(said.environment, [("PATH".into(), "/bin".into()), ("A".into(), "b=c".into())]);
    assert_eq!((said.working_directory.as_str(), said.user.as_str()), ("/data", "daemon"));
    assert_eq!((said.entrypoint, said.command), (vec![], vec!["sh".to_owned()]));
}

#[test]
fn a_whole_layout_may_be_compressed_too() {
    let layout = Layout::of(&two_layers(), gzip);
    let root = |bytes: &[u8]| read_bytes(bytes).unwrap().0.tree.root;
    assert_eq!(root(&gzip(&layout.archive())), root(&layout.archive()));
}

#[test]
fn the_image_of_this_platform_is_taken() {
    let foreign = Platform { os: "linux".into(), architecture: "vax".into() };
    let mut layout = Layout::default();
    let other = layout.image(&foreign, &[Made::new().file("vax", b"").bytes()], plain);
    let mut attested = layout.image(&foreign, &[Made::new().file("x", b"").bytes()], plain);
    attested["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let mut elsewhere = json!({"mediaType": MANIFEST, "digest": format!("sha256:{}", hash(b"none")), "size": 4});
    elsewhere["platform"] = json!({"os": "plan9", "architecture": "amd64"});
    layout.manifests = vec![other.clone(), attested, elsewhere];
    insta::assert_snapshot!(layout.refusal().replace(&Platform::this().to_string(), "linux/ARCHITECTURE"), @"the archive or layout has no image for linux/ARCHITECTURE, but linux/vax, plan9/amd64");
    let this = layout.image(&Platform::this(), &[Made::new().file("this", b"").bytes()], plain);
    // Inside another index, and named twice.
    let nested = layout.document(INDEX, &json!({"schemaVersion": 2, "manifests": [other, this]}));
    layout.manifests.extend([nested, this.clone()]);
    assert_eq!(paths(&layout.read().unwrap()), ["/this"]);
    let mut second = layout.image(&Platform::this(), &[Made::new().file("second", b"").bytes()], plain);
    second["annotations"] = json!({"org.opencontainers.image.ref.name": "second:1\u{1b}"});
    layout.manifests.push(second);
    let said = layout.refusal();
    assert!(said.contains("has several images for linux/") && said.ends_with("second:1"), "{said:?}");
}

#[test]
fn bytes_that_are_not_those_of_their_digest_are_refused() {
    let layout = Layout::of(&two_layers(), gzip);
    for name in layout.files.keys() {
        let mut changed = layout.clone();
        let bytes = changed.files.get_mut(name).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let said = changed.refusal();
        assert!(said.ends_with("its bytes are not those of its digest"), "{name}: {said}");
        let mut longer = layout.clone();
        longer.files.get_mut(name).unwrap().push(b' ');
        assert!(longer.refusal().ends_with("its bytes are not those of its digest"), "{name}");
        let mut missing = layout.clone();
        missing.files.remove(name);
        assert!(missing.refusal().contains(&format!("the image has no {name}")), "{name}");
    }
    // A layer that is stored as its digest says, and unfolds to something else than the configuration says.
    let mut layout = Layout::default();
    let configuration = layout.document(CONFIGURATION, &configuration(&Platform::this(), &two_layers()[..1]));
    let layer = layout.blob(LAYER, &gzip(&two_layers()[1]));
    let manifest = layout.document(MANIFEST, &json!({"config": configuration, "layers": [layer]}));
    layout.manifests.push(manifest);
    insta::assert_snapshot!(layout.refusal(), @"cannot take layer 1 of the image: its bytes are not those of its digest");
    let files = saved(&Platform::this(), &two_layers());
    for name in files.keys().filter(|name| *name != "manifest.json") {
        let mut changed = files.clone();
        let bytes = changed.get_mut(name).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let said = chain(&read_saved(&changed).expect_err("it was changed"));
        assert!(said.ends_with("its bytes are not those of its digest"), "{name}: {said}");
    }
}

#[test]
fn hostile_layers_are_refused() {
    let refusal = |layers: &[Vec<u8>]| Layout::of(layers, plain).refusal();
    let one = |made: Made| refusal(&[made.bytes()]);
    insta::assert_snapshot!(one(Made::new().file("../x", b"")), @r#"cannot take layer 1 of the image: the archive's entry "../x" leads out of the root with `..`"#);
    insta::assert_snapshot!(one(Made::new().file("a/.wh...", b"")), @r#"cannot take layer 1 of the image: the archive's entry "a/.wh..." hides nothing that can be there"#);
    for name in [".wh.", ".wh..", "a/.wh.b/c", "a/.wh..wh..opq/c/.wh.x", "a/.wh..wh.", ".wh..wh..opq/x"] {
        let made = Made::new().file(name, b"");
        let is_metadata = name.contains(".wh..wh.");
        assert_eq!(
            Layout::of(&[Made::new().file("f", b"").bytes(), made.bytes()], plain).read().is_ok(),
            is_metadata,
            "{name}"
        );
    }
    // Through a link of a layer beneath, whatever the way.
    let linked = Made::new().link("a", "/etc").file("b/c", b"").bytes();
    for upper in [
        Made::new().file("a/passwd", b""),
        Made::new().file("a/.wh.passwd", b""),
        Made::new().file("a/.wh..wh..opq", b""),
        Made::new().hard("x", "a/passwd"),
        Made::new().file("b/c/d", b""),
    ] {
        let said = refusal(&[linked.clone(), upper.bytes()]);
        assert!(said.starts_with("cannot take layer 2 of the image: the archive's entry"), "{said}");
    }
    // A directory that is named takes a link's place.
    let named = Made::new().entry("a/", EntryType::Directory, 0o755, "", b"").file("a/passwd", b"");
    assert!(Layout::of(&[linked, named.bytes()], plain).read().is_ok());
    let many = vec![Made::new().file("a", b"").bytes(); IMAGE_LAYERS_MAX + 1];
    insta::assert_snapshot!(refusal(&many), @"the image has more layers than an image may have");
    let bomb = Layout::of(&[Made::new().file("zeros", &vec![0; 100 << 20]).bytes()], gzip);
    insta::assert_snapshot!(bomb.refusal(), @"cannot take layer 1 of the image: cannot read the archive: what one compressed byte becomes passes the limit of 200");
}

#[test]
fn hostile_documents_are_refused() {
    let mut layout = Layout::of(&two_layers(), plain);
    layout.manifests[0]["digest"] = json!("sha256:../../../etc/passwd");
    insta::assert_snapshot!(layout.refusal(), @r#""sha256:../../../etc/passwd" is not a digest of SHA-256"#);
    layout.manifests[0]["digest"] = json!("sha512:00");
    assert!(layout.refusal().contains("is not a digest of SHA-256"));
    layout.files.insert("index.json".into(), b"[".to_vec());
    insta::assert_snapshot!(layout.refusal(), @"index.json of the image can't be read: EOF while parsing a list at line 1 column 1");
    layout.files.insert("index.json".into(), vec![b' '; (4 << 20) + 1]);
    insta::assert_snapshot!(layout.refusal(), @"cannot take index.json of the image: the image is larger than what describes an image may be");
    let mut nested = Layout::of(&two_layers(), plain);
    for _ in 0..5 {
        let index = json!({"manifests": nested.manifests});
        nested.manifests = vec![nested.document(INDEX, &index)];
    }
    insta::assert_snapshot!(nested.refusal(), @"the image has indexes that are nested too deep");
    let files = |layers: Value| {
        let mut files = saved(&Platform::this(), &two_layers());
        let name = files.keys().find(|name| name.len() > 64).unwrap().clone();
        let manifest = json!([{"Config": name, "Layers": layers}]).to_string();
        files.insert("manifest.json".into(), manifest.into_bytes());
        chain(&read_saved(&files).expect_err("it is wrong"))
    };
    insta::assert_snapshot!(files(json!(["0/layer.tar"])), @"the image has another number of layers than its configuration says");
    insta::assert_snapshot!(files(json!(["0/layer.tar", "../../etc/passwd"])), @"the image has no ../../etc/passwd");
    insta::assert_snapshot!(files(json!(["0/layer.tar", "0/layer.tar"])), @"cannot take layer 2 of the image: its bytes are not those of its digest");
}

#[test]
fn a_layer_that_docker_saved_as_a_link_is_found_and_none_is_followed_outside() {
    let layers = vec![two_layers()[0].clone(), two_layers()[0].clone()];
    let mut files = saved(&Platform::this(), &layers);
    files.remove("1/layer.tar");
    let made = |target: &str| {
        let made = files.iter().fold(Made::new(), |made, (name, bytes)| made.file(name, bytes));
        read_bytes(&made.link("1/layer.tar", target).bytes())
    };
    assert_eq!(made("../0/layer.tar").unwrap().0.layers, 2);
    for target in ["/etc/passwd", "../../../0/layer.tar", "../1/layer.tar", "../0"] {
        assert!(made(target).is_err(), "{target}");
    }
    // In a directory no link is followed, wherever it leads.
    let place = TempDir::new().unwrap();
    let layout = Layout::of(&layers, plain);
    for (name, bytes) in layout.files() {
        let path = place.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let blobs = place.path().join("blobs");
    fs::rename(&blobs, place.path().join("moved")).unwrap();
    std::os::unix::fs::symlink("moved", &blobs).unwrap();
    let kept = TempDir::new().unwrap();
    assert!(matches!(read_image(place.path(), kept.path()), Err(ImageError::Read { .. })));
}

#[test]
fn a_directory_without_a_layout_and_a_root_with_its_own_manifest_are_known() {
    let place = TempDir::new().unwrap();
    let error = read_image(Path::new("/"), place.path()).expect_err("the host's root is no layout");
    insta::assert_snapshot!(error.to_string(), @"/ is neither an archive nor a directory with an OCI layout");
    let root =
        Made::new().file("manifest.json", b"{\"name\": \"my app\"}").file("index.json", b"{}").file("etc/x", b"");
    let (image, _place) = read_bytes(&root.bytes()).unwrap();
    assert_eq!((image.form, paths(&image).len()), (ImageForm::RootFileSystem, 4));
}

#[test]
fn the_user_of_sandboxes_gets_a_name_where_others_have_one() {
    let text = |image: &Image, name: &str| {
        let found = listed(image)[&format!("/etc/{name}")].clone();
        let (digest, source) = image.blobs.iter().find(|(digest, _)| found.contains(&digest.to_string())).unwrap();
        let bytes = match source {
            BlobSource::Bytes(bytes) => bytes.to_vec(),
            BlobSource::File(path) => fs::read(path).unwrap(),
        };
        assert_eq!(Digest::of(&bytes), *digest);
        String::from_utf8(bytes).unwrap()
    };
    let (image, _place) =
        read_bytes(&Made::new().file("etc/passwd", b"root:x:0:0").file("etc/group", b"").bytes()).unwrap();
    assert_eq!(text(&image, "passwd"), "root:x:0:0\nmuster:x:1000:1000:muster:/home/muster:/bin/sh\n");
    assert_eq!(text(&image, "group"), "muster:x:1000:\n");
    let named = Made::new().file("etc/passwd", b"node:x:1000:1000::/:/bin/sh\n").file("etc/group", b"muster:x:7:\n");
    let (image, _place) = read_bytes(&named.bytes()).unwrap();
    assert_eq!((text(&image, "passwd").lines().count(), text(&image, "group").lines().count()), (1, 1));
}

/// One entry of a layer.
#[derive(Clone, Debug)]
enum Change {
    File(String, u8),
    Directory(String),
    Link(String),
    Hide(String),
    Empty(String),
}

fn change() -> impl Strategy<Value = Change> {
    let path = || proptest::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    prop_oneof![
        3 => (path(), 0_u8..4).prop_map(|(path, content)| Change::File(path, content)),
        1 => path().prop_map(Change::Directory),
        1 => path().prop_map(Change::Link),
        2 => path().prop_map(Change::Hide),
        1 => path().prop_map(Change::Empty),
    ]
}

fn made(changes: &[Change]) -> Vec<u8> {
    let hiding = |path: &str| match path.rsplit_once('/') {
        Some((parent, name)) => format!("{parent}/.wh.{name}"),
        None => format!(".wh.{path}"),
    };
    let made = changes.iter().fold(Made::new(), |made, change| match change {
        Change::File(path, content) => made.file(path, &[*content]),
        Change::Directory(path) => made.entry(path, EntryType::Directory, 0o755, "", b""),
        Change::Link(path) => made.link(path, "target"),
        Change::Hide(path) => made.file(&hiding(path), b""),
        Change::Empty(path) => made.file(&format!("{path}/.wh..wh..opq"), b""),
    });
    made.bytes()
}

fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}

/// Leaves out what contradicts something before it in the same layer.
fn consistent(changes: Vec<Change>) -> Vec<Change> {
    let (mut leaves, mut directories) = (BTreeSet::new(), BTreeSet::new());
    let mut kept = Vec::new();
    for change in changes {
        let (path, is_leaf) = match &change {
            Change::File(path, _) | Change::Link(path) => (path, true),
            Change::Directory(path) => (path, false),
            Change::Hide(_) | Change::Empty(_) => {
                kept.push(change);
                continue;
            }
        };
        let is_taken = leaves.contains(path) || (is_leaf && directories.contains(path));
        if is_taken || above(path).any(|parent| leaves.contains(parent)) {
            continue;
        }
        directories.extend(above(path).map(str::to_owned));
        if is_leaf {
            leaves.insert(path.clone())
        } else {
            directories.insert(path.clone())
        };
        kept.push(change);
    }
    kept
}

/// What the specification says that a layer makes of what lies beneath, on nothing but names; None when it has to be refused.
fn lay(beneath: &mut BTreeMap<String, String>, changes: &[Change]) -> Option<()> {
    let is_leaf = |all: &BTreeMap<String, String>, path: &str| all.get(path).is_some_and(|text| text != "directory");
    let remove_below = |all: &mut BTreeMap<String, String>, path: &str| {
        all.retain(|other, _| !other.starts_with(&format!("{path}/")));
    };
    for change in changes {
        if let Change::Directory(path) = change
            && is_leaf(beneath, path)
        {
            beneath.remove(path);
        }
    }
    let sorted = |pick: fn(&Change) -> Option<&String>| changes.iter().filter_map(pick).collect::<BTreeSet<_>>();
    for path in sorted(|change| if let Change::Hide(path) = change { Some(path) } else { None }) {
        if above(path).any(|parent| is_leaf(beneath, parent)) {
            return None;
        }
        beneath.remove(path);
        remove_below(beneath, path);
    }
    for path in sorted(|change| if let Change::Empty(path) = change { Some(path) } else { None }) {
        if is_leaf(beneath, path) || above(path).any(|parent| is_leaf(beneath, parent)) {
            return None;
        }
        remove_below(beneath, path);
    }
    for change in changes {
        let (path, text) = match change {
            Change::File(path, content) => (path, format!("file {} false", Digest::of(&[*content]))),
            Change::Link(path) => (path, "link target".to_owned()),
            Change::Directory(path) => (path, "directory".to_owned()),
            Change::Hide(_) | Change::Empty(_) => continue,
        };
        for parent in above(path) {
            if is_leaf(beneath, parent) {
                return None;
            }
            beneath.insert(parent.to_owned(), "directory".to_owned());
        }
        if text != "directory" {
            remove_below(beneath, path);
        }
        beneath.insert(path.clone(), text);
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whiteouts_hide_what_the_specification_says(
        layers in proptest::collection::vec(proptest::collection::vec(change(), 0..10), 1..4),
        turns in any::<prop::sample::Index>(),
    ) {
        let layers: Vec<Vec<Change>> = layers.into_iter().map(consistent).collect();
        let mut expected = BTreeMap::new();
        let is_right = layers.iter().try_for_each(|layer| lay(&mut expected, layer)).is_some() && !expected.is_empty();
        let read = read_saved(&saved(&Platform::this(), &layers.iter().map(|layer| made(layer)).collect::<Vec<_>>()));
        prop_assert_eq!(read.is_ok(), is_right, "{:?}", read.err());
        let Ok(image) = read else { return Ok(()) };
        let expected: BTreeMap<String, String> =
            expected.into_iter().map(|(path, text)| (format!("/{path}"), text)).collect();
        prop_assert_eq!(listed(&image), expected);
        // In whatever order a layer tells its changes.
        let turned = layers.iter().map(|layer| {
            let mut layer = layer.clone();
            if !layer.is_empty() {
                let by = turns.index(layer.len());
                layer.rotate_left(by);
            }
            made(&layer)
        });
        let turned = read_saved(&saved(&Platform::this(), &turned.collect::<Vec<_>>())).expect("it is the same");
        prop_assert_eq!(turned.tree.root, image.tree.root);
    }
}
