//! F15: of a hostile image nothing is written but files of our own, and what is taken is a tree whose blobs are what their digests say.
#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use muster::image::read_image;
use muster::project::BlobSource;
use muster_cache::digest_of;
use muster_fuzz::Name;
use muster_model::{Digest, DigestFunction};
use tar::{Builder, EntryType, Header};

/// What the archive is.
#[derive(Arbitrary, Debug)]
enum Image {
    /// Any bytes.
    Bytes(Vec<u8>),
    /// A root file system.
    Root(Vec<Entry>),
    /// What `docker save` writes, but for what its digests say.
    Saved(Vec<Vec<Entry>>, bool),
}

/// An entry of an archive.
#[derive(Arbitrary, Debug)]
struct Entry {
    names: Vec<Name>,
    hides: Option<bool>,
    kind: Kind,
    content: u8,
    size: Option<u32>,
}

#[derive(Arbitrary, Debug)]
enum Kind {
    File,
    Directory,
    Link(Name),
    HardLink(Vec<Name>),
    Device,
    LongName(String),
    Extended(String),
    Other(u8),
}

fuzz_target!(|image: Image| {
    let place = tempfile::tempdir().expect("a temporary directory");
    fs::write(place.path().join("canary"), "sings").expect("a file");
    let (archive, kept) = (place.path().join("archive"), place.path().join("kept"));
    fs::create_dir(&kept).expect("a directory");
    fs::write(&archive, bytes(&image)).expect("a file");
    let read = read_image(&archive, &kept);
    let beside: Vec<PathBuf> = fs::read_dir(place.path()).expect("it is there").flatten().map(|entry| entry.path()).collect();
    assert_eq!(beside.len(), 3, "something was written elsewhere: {beside:?}");
    assert_eq!(fs::read(place.path().join("canary")).expect("it is there"), b"sings");
    check_kept(&kept);
    if let Ok(image) = read {
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
    }
});

/// Two levels of directories, and files in them.
fn check_kept(kept: &Path) {
    for entry in fs::read_dir(kept).expect("it is there").flatten() {
        assert!(entry.file_type().expect("it is there").is_dir());
        for entry in fs::read_dir(entry.path()).expect("it is there").flatten() {
            assert!(entry.file_type().expect("it is there").is_file());
        }
    }
}

fn bytes(image: &Image) -> Vec<u8> {
    match image {
        Image::Bytes(bytes) => bytes.clone(),
        Image::Root(entries) => archive(entries),
        Image::Saved(layers, is_honest) => saved(layers, *is_honest),
    }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut name = entry.names.iter().map(|name| name.0.as_str()).collect::<Vec<_>>().join("/");
        match entry.hides {
            Some(true) => name = format!("{name}/.wh..wh..opq"),
            Some(false) => name = name.rsplit_once('/').map_or(format!(".wh.{name}"), |(above, name)| format!("{above}/.wh.{name}")),
            None => {}
        }
        let content = vec![entry.content; usize::from(entry.content) * 3];
        let (kind, link, content) = match &entry.kind {
            Kind::File => (EntryType::Regular, String::new(), content),
            Kind::Directory => (EntryType::Directory, String::new(), Vec::new()),
            Kind::Link(target) => (EntryType::Symlink, target.0.clone(), Vec::new()),
            Kind::HardLink(names) => {
                let target = names.iter().map(|name| name.0.as_str()).collect::<Vec<_>>().join("/");
                (EntryType::Link, target, Vec::new())
            }
            Kind::Device => (EntryType::Char, String::new(), Vec::new()),
            Kind::LongName(text) => (EntryType::GNULongName, String::new(), text.clone().into_bytes()),
            Kind::Extended(text) => (EntryType::XHeader, String::new(), text.clone().into_bytes()),
            Kind::Other(byte) => (EntryType::new(*byte), link_of(*byte), content),
        };
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name[..], &name), (&mut old.linkname[..], &link)] {
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text.as_bytes()[..length]);
        }
        header.set_entry_type(kind);
        header.set_mode(0o755);
        // A size that lies makes the next header something else.
        header.set_size(entry.size.map_or(content.len() as u64, u64::from));
        header.set_cksum();
        builder.append(&header, content.as_slice()).expect("memory takes it");
    }
    builder.into_inner().expect("memory takes it")
}

fn link_of(byte: u8) -> String {
    char::from(byte).to_string()
}

fn saved(layers: &[Vec<Entry>], is_honest: bool) -> Vec<u8> {
    let layers: Vec<Vec<u8>> = layers.iter().take(4).map(|entries| archive(entries)).collect();
    let hash = |bytes: &[u8]| muster_model::digest::hex(&digest_of(DigestFunction::Sha256, bytes).hash);
    let hashes: Vec<String> = layers.iter().map(|layer| format!("\"sha256:{}\"", hash(if is_honest { layer } else { b"" }))).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let configuration = format!(
        r#"{{"os": "linux", "architecture": "{architecture}", "rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
        hashes.join(",")
    );
    let names: Vec<String> = (0..layers.len()).map(|number| format!("\"{number}.tar\"")).collect();
    let manifest = format!(r#"[{{"Config": "c.json", "Layers": [{}]}}]"#, names.join(","));
    let mut files: BTreeMap<String, Vec<u8>> =
        layers.into_iter().enumerate().map(|(number, layer)| (format!("{number}.tar"), layer)).collect();
    files.insert("c.json".into(), configuration.into_bytes());
    files.insert("manifest.json".into(), manifest.into_bytes());
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes.as_slice()).expect("memory takes it");
    }
    builder.into_inner().expect("memory takes it")
}
