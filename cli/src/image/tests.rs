use std::io::Write;
use std::path::PathBuf;

use muster_model::Digest;
use muster_model::limits::IMAGE_HEADER_BYTES_MAX;
use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::*;
use crate::project::BlobSource;

/// An archive in the making; names are written as they are, whatever they are.
pub(super) struct Made(Builder<Vec<u8>>);

impl Made {
    pub(super) fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub(super) fn entry(mut self, name: &str, kind: EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub(super) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, EntryType::Regular, 0o644, "", content)
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, 0o777, target, b"")
    }

    pub(super) fn hard(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Link, 0o644, target, b"")
    }

    fn extended(self, key: &str, value: &str) -> Self {
        let record = |length: usize| format!("{length} {key}={value}\n");
        let length = (1..200).find(|length| record(*length).len() == *length).unwrap();
        self.entry("x", EntryType::XHeader, 0o644, "", record(length).as_bytes())
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn read(self) -> Result<(Image, TempDir), ImageError> {
        read_bytes(&self.bytes())
    }

    /// What is said of it, which must not be taken.
    fn refusal(self) -> String {
        chain(&self.read().expect_err("it breaks a rule"))
    }
}

/// An error with its causes.
pub(super) fn chain(error: &ImageError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    causes.fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

pub(super) fn read_bytes(bytes: &[u8]) -> Result<(Image, TempDir), ImageError> {
    let place = TempDir::new().unwrap();
    let (archive, directory) = (place.path().join("archive"), place.path().join("files"));
    std::fs::write(&archive, bytes).unwrap();
    std::fs::create_dir(&directory).unwrap();
    let read = read_image(&archive, &directory);
    let beside: Vec<PathBuf> = std::fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(beside.len(), 2, "nothing is written elsewhere: {beside:?}");
    Ok((read?, place))
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn ordinary() -> Made {
    Made::new()
        .entry("./", EntryType::Directory, 0o755, "", b"")
        .entry("./bin/", EntryType::Directory, 0o755, "", b"")
        .entry("./bin/sh", EntryType::Regular, 0o755, "", b"shell")
        .link("./bin/bash", "sh")
        .hard("bin/dash", "./bin/sh")
        .file("etc/os-release", b"ID=small\n")
}

#[test]
fn an_archive_becomes_the_tree_that_it_describes() {
    let (image, _place) = ordinary().read().unwrap();
    let mut expected = muster_cache::tree::TreeBuilder::new();
    let shell = Digest::of(b"shell");
    expected.insert_file("bin/sh", shell, true).unwrap();
    expected.insert_file("bin/dash", shell, true).unwrap();
    expected.insert_symlink("bin/bash", "sh").unwrap();
    expected.insert_file("etc/os-release", Digest::of(b"ID=small\n"), false).unwrap();
    assert_eq!(image.tree, expected.finish().unwrap());
    assert_eq!((image.lost, image.form, image.layers), (Lost::default(), ImageForm::RootFileSystem, 1));
    let Some(BlobSource::File(path)) = image.blobs.get(&shell) else { panic!("the shell is kept in a file") };
    assert_eq!(std::fs::read(path).unwrap(), b"shell");
    // Two files and three directories.
    assert_eq!(image.blobs.len(), 5);
}

#[test]
fn compression_makes_no_difference() {
    let plain = ordinary().bytes();
    let root = |bytes: &[u8]| read_bytes(bytes).unwrap().0.tree.root;
    assert_eq!(root(&gzip(&plain)), root(&plain));
    assert_eq!(root(&zstd::encode_all(plain.as_slice(), 3).unwrap()), root(&plain));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    insta::assert_snapshot!(Made::new().file("/etc/passwd", b"").refusal(), @r#"the archive's entry "/etc/passwd" has an absolute name, or one with a NUL character"#);
    insta::assert_snapshot!(Made::new().file("a/../../b", b"").refusal(), @r#"the archive's entry "a/../../b" leads out of the root with `..`"#);
    insta::assert_snapshot!(Made::new().file("a/.wh.b", b"").refusal(), @r#"the archive's entry "a/.wh.b" hides something of another layer, and a root file system has none"#);
    for (link, target) in [("a", "../../x"), ("a", "/etc/passwd"), ("a", "not/there")] {
        let said = Made::new().hard(link, target).refusal();
        assert!(said.starts_with("the archive's entry"), "{said}");
    }
}

#[test]
fn nothing_lies_below_a_link_or_a_file() {
    for escape in ["/etc", "../..", "sub"] {
        let said = Made::new().link("a", escape).file("a/passwd", b"x").refusal();
        assert!(said.contains("does not fit into a tree"), "{said}");
    }
    assert!(Made::new().file("a", b"").file("a/b", b"").refusal().contains("does not fit"));
    assert!(Made::new().link("a", "/etc").hard("b", "a/passwd").refusal().contains("did not come before it"));
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    insta::assert_snapshot!(Made::new().file("a", b"1").file("./a", b"2").refusal(), @r#"the archive's entry "./a" is there twice"#);
    insta::assert_snapshot!(Made::new().file("a", b"1").link("a", "b").refusal(), @r#"the archive's entry "a" does not fit into a tree: "a" occurs twice"#);
    insta::assert_snapshot!(Made::new().extended("size", "512").file("a", b"").refusal(), @r#"the archive's entry "a" has two sizes"#);
    insta::assert_snapshot!(Made::new().extended("GNU.sparse.major", "1").file("a", b"").refusal(), @r#"the archive's entry "GNU.sparse.major" belongs to a sparse file"#);
    insta::assert_snapshot!(Made::new().entry("s", EntryType::GNUSparse, 0o644, "", b"").refusal(), @r#"the archive's entry "s" is of a kind that is not taken"#);
    let malformed = Made::new().entry("x", EntryType::XHeader, 0o644, "", b"9999 path=a\n").file("a", b"");
    insta::assert_snapshot!(malformed.refusal(), @"cannot read the archive: malformed pax extension");
    let global = Made::new().entry("g", EntryType::XGlobalHeader, 0o644, "", b"10 path=a\n").file("a", b"");
    insta::assert_snapshot!(global.refusal(), @r#"the archive's entry "path" is told of every entry at once"#);
}

#[test]
fn limits_are_kept() {
    let long = "n".repeat(256);
    assert!(Made::new().extended("path", &long[..180]).file("a", b"").read().is_ok());
    let said = Made::new().entry("L", EntryType::GNULongName, 0o644, "", long.as_bytes()).file("a", b"").refusal();
    assert!(said.contains("does not fit"), "{said}");
    let path = "d/".repeat(3000);
    let said = Made::new().entry("L", EntryType::GNULongName, 0o644, "", path.as_bytes()).file("a", b"").refusal();
    assert!(said.contains("a name that is too long"), "{said}");
    let header = vec![b'n'; usize::try_from(IMAGE_HEADER_BYTES_MAX).unwrap() + 1];
    let said = Made::new().entry("L", EntryType::GNULongName, 0o644, "", &header).refusal();
    assert!(said.contains("is a header that is too long"), "{said}");
    let deep = "d/".repeat(400);
    let said = Made::new().entry("L", EntryType::GNULongName, 0o644, "", deep.as_bytes()).file("a", b"").refusal();
    assert!(said.contains("depth"), "{said}");
}

#[test]
fn a_bomb_is_not_unpacked() {
    let bomb = gzip(&Made::new().file("zeros", &vec![0; 100 << 20]).bytes());
    let error = read_bytes(&bomb).expect_err("it becomes a thousand times as large");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!(cause, "what one compressed byte becomes passes the limit of 200");
}

#[test]
fn what_is_cut_off_or_nothing_is_refused() {
    let whole = ordinary().bytes();
    for cut in [700, 1600, 2100] {
        assert!(read_bytes(&whole[..cut]).is_err(), "{cut}");
    }
    let compressed = gzip(&whole);
    assert!(read_bytes(&compressed[..compressed.len() - 4]).is_err(), "the checksum is missing");
    for nothing in [b"".as_slice(), b"not an archive", &[0; 1024]] {
        assert!(read_bytes(nothing).is_err());
    }
}

#[test]
fn what_a_tree_cannot_hold_is_counted_and_not_made() {
    let made = Made::new()
        .entry("dev/null", EntryType::Char, 0o666, "", b"")
        .entry("dev/sda", EntryType::Block, 0o660, "", b"")
        .entry("run/pipe", EntryType::Fifo, 0o600, "", b"")
        .extended("SCHILY.xattr.security.capability", "x")
        .entry("bin/su", EntryType::Regular, 0o4755, "", b"su");
    let (image, _place) = made.read().unwrap();
    let lost = Lost { special_files: 3, set_id_files: 1, owned_entries: 0, extended_attributes: 1 };
    assert_eq!((image.lost, image.blobs.len()), (lost, 3));
}
