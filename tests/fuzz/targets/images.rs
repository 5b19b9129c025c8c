//! F15: of a hostile image nothing is written but files of our own, and what is taken is a tree whose blobs are what their digests say.
#![no_main]

use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use muster::image::read_image;
use muster::project::BlobSource;
use muster_cache::digest_of;
use muster_fuzz::Name;
use muster_model::{Digest, DigestFunction, digest};
use tar::{Builder, EntryType, Header};

/// Layers that are written; more are not different.
const LAYERS_MAX: usize = 4;

#[derive(Arbitrary, Debug)]
enum Image {
    /// Any bytes.
    Bytes(Vec<u8>),
    /// A root file system.
    Root(Vec<Entry>),
    /// What `docker save` writes.
    Saved(Layered),
    /// A layout of the Open Container Initiative, in a directory or in an archive.
    Layout(Layered, bool),
}

/// An image in layers.
#[derive(Arbitrary, Debug)]
struct Layered {
    layers: Vec<Layer>,
    /// Whether what is promised of layers is kept: the fuzzer would never guess a hash.
    is_honest: bool,
    /// What lies beside the image's own files.
    beside: Vec<Entry>,
}

#[derive(Arbitrary, Debug)]
struct Layer {
    entries: Vec<Entry>,
    is_compressed: bool,
}

/// An entry of an archive.
#[derive(Arbitrary, Debug)]
struct Entry {
    names: Vec<Name>,
    hides: Hides,
    kind: Kind,
    content: u8,
    /// What its header says, if not the truth: what comes next is then read as something else.
    size: Option<u32>,
}

#[derive(Arbitrary, Debug)]
enum Hides {
    Nothing,
    Name,
    Everything,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    File,
    Directory,
    Link(Vec<Name>),
    HardLink(Vec<Name>),
    Device,
    LongName(String),
    Extended(String),
    Other(u8),
}

fuzz_target!(|image: Image| {
    let place = tempfile::tempdir().expect("a temporary directory");
    fs::write(place.path().join("canary"), "sings").expect("a file");
    let (source, kept) = (place.path().join("source"), place.path().join("kept"));
    fs::create_dir(&kept).expect("a directory");
    write(&image, &source);
    let read = read_image(&source, &kept);
    let beside: Vec<PathBuf> =
        fs::read_dir(place.path()).expect("it is there").flatten().map(|entry| entry.path()).collect();
    assert_eq!(beside.len(), 3, "something was written elsewhere: {beside:?}");
    assert_eq!(fs::read(place.path().join("canary")).expect("it is there"), b"sings");
    check_kept(&kept);
    let Ok(image) = read else { return };
    for (digest, source) in image.blobs.iter() {
        let bytes = match source {
            BlobSource::Bytes(bytes) => bytes.to_vec(),
            BlobSource::File(path) => {
                assert!(path.starts_with(&kept), "{path:?}");
                fs::read(path).expect("it was kept")
            }
        };
        assert_eq!(digest_of(digest.function, &bytes), *digest);
    }
    let has = |digest: &Digest| image.blobs.get(digest).is_some();
    assert!(image.tree.files.iter().all(has) && image.tree.directories.iter().all(|(digest, _)| has(digest)));
});

/// Files, in at most one directory.
fn check_kept(kept: &Path) {
    for entry in fs::read_dir(kept).expect("it is there").flatten() {
        let kind = entry.file_type().expect("it is there");
        if kind.is_dir() {
            for entry in fs::read_dir(entry.path()).expect("it is there").flatten() {
                assert!(entry.file_type().expect("it is there").is_file(), "{entry:?}");
            }
        } else {
            assert!(kind.is_file(), "{entry:?}");
        }
    }
}

fn write(image: &Image, path: &Path) {
    let bytes = match image {
        Image::Bytes(bytes) => bytes.clone(),
        Image::Root(entries) => archive(entries, &[]),
        Image::Saved(image) => archive(&image.beside, &saved(image)),
        Image::Layout(image, false) => archive(&image.beside, &layout(image)),
        Image::Layout(image, true) => {
            fs::create_dir_all(path.join("blobs/sha256")).expect("a directory");
            for (name, bytes) in layout(image) {
                fs::write(path.join(name), bytes).expect("a file");
            }
            return;
        }
    };
    fs::write(path, bytes).expect("a file");
}

/// An archive of entries that say what they like, and then of files as they should be.
fn archive(entries: &[Entry], files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let (kind, link, content) = entry.parts();
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, entry.name()), (&mut old.linkname, link)] {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text.as_bytes()[..length]);
        }
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(entry.size.map_or(content.len() as u64, u64::from));
        header.set_cksum();
        builder.append(&header, content.as_slice()).expect("memory takes it");
    }
    for (name, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes.as_slice()).expect("memory takes it");
    }
    builder.into_inner().expect("memory takes it")
}

fn joined(names: &[Name]) -> String {
    names.iter().map(|name| name.0.as_str()).collect::<Vec<_>>().join("/")
}

impl Entry {
    fn name(&self) -> String {
        let name = joined(&self.names);
        match self.hides {
            Hides::Nothing => name,
            Hides::Name => match name.rsplit_once('/') {
                Some((above, name)) => format!("{above}/.wh.{name}"),
                None => format!(".wh.{name}"),
            },
            Hides::Everything => format!("{name}/.wh..wh..opq"),
        }
    }

    /// Its kind, what it points at, and its content.
    fn parts(&self) -> (EntryType, String, Vec<u8>) {
        let content = vec![self.content; usize::from(self.content) * 3];
        let (kind, link, content) = match &self.kind {
            Kind::File => (EntryType::Regular, String::new(), content),
            Kind::Directory => (EntryType::Directory, String::new(), Vec::new()),
            Kind::Link(names) => (EntryType::Symlink, joined(names), Vec::new()),
            Kind::HardLink(names) => (EntryType::Link, joined(names), Vec::new()),
            Kind::Device => (EntryType::Char, String::new(), Vec::new()),
            Kind::LongName(text) => (EntryType::GNULongName, String::new(), text.clone().into_bytes()),
            Kind::Extended(text) => (EntryType::XHeader, String::new(), text.clone().into_bytes()),
            Kind::Other(byte) => (EntryType::new(*byte), "a".into(), content),
        };
        (kind, link, content)
    }
}

/// What an image is made of.
struct Parts {
    /// The layers as they lie there.
    layers: Vec<Vec<u8>>,
    configuration: String,
}

impl Layered {
    fn parts(&self) -> Parts {
        let archives: Vec<Vec<u8>> =
            self.layers.iter().take(LAYERS_MAX).map(|layer| archive(&layer.entries, &[])).collect();
        let hashes: Vec<String> = archives.iter().map(|archive| format!("\"{}\"", self.promised(archive))).collect();
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let configuration = format!(
            r#"{{"os": "linux", "architecture": "{architecture}", "rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
            hashes.join(",")
        );
        let stored = |(layer, archive): (&Layer, Vec<u8>)| match layer.is_compressed {
            true => zstd::encode_all(archive.as_slice(), 1).expect("memory takes it"),
            false => archive,
        };
        Parts { layers: self.layers.iter().zip(archives).map(stored).collect(), configuration }
    }

    fn promised(&self, bytes: &[u8]) -> String {
        hash(if self.is_honest { bytes } else { b"" })
    }
}

fn hash(bytes: &[u8]) -> String {
    format!("sha256:{}", digest::hex(&digest_of(DigestFunction::Sha256, bytes).hash))
}

fn saved(image: &Layered) -> Vec<(String, Vec<u8>)> {
    let Parts { layers, configuration } = image.parts();
    let names: Vec<String> = (0..layers.len()).map(|number| format!("\"{number}.tar\"")).collect();
    let manifest = format!(r#"[{{"Config": "c.json", "Layers": [{}]}}]"#, names.join(","));
    let layers = layers.into_iter().enumerate().map(|(number, layer)| (format!("{number}.tar"), layer));
    let documents = [("c.json".into(), configuration.into_bytes()), ("manifest.json".into(), manifest.into_bytes())];
    layers.chain(documents).collect()
}

fn layout(image: &Layered) -> Vec<(String, Vec<u8>)> {
    let Parts { layers, configuration } = image.parts();
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut blob = |kind: &str, hash: String, bytes: Vec<u8>| {
        let size = bytes.len();
        let name = format!("blobs/sha256/{}", hash.trim_start_matches("sha256:"));
        if files.iter().all(|(other, _)| *other != name) {
            files.push((name, bytes));
        }
        format!(r#"{{"mediaType": "application/vnd.oci.image.{kind}", "digest": "{hash}", "size": {size}}}"#)
    };
    let layers: Vec<String> =
        layers.into_iter().map(|layer| blob("layer.v1.tar", image.promised(&layer), layer)).collect();
    let configuration = configuration.into_bytes();
    let configuration = blob("config.v1+json", hash(&configuration), configuration);
    let manifest = format!(r#"{{"config": {configuration}, "layers": [{}]}}"#, layers.join(",")).into_bytes();
    let manifest = blob("manifest.v1+json", hash(&manifest), manifest);
    files.push(("oci-layout".into(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec()));
    files.push(("index.json".into(), format!(r#"{{"manifests": [{manifest}]}}"#).into_bytes()));
    files
}
