use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::documents::Platform;
use super::layer_tests::saved;
use super::tests::{Made, read_bytes};
use super::*;

/// An entry that says whatever it likes.
#[derive(Clone, Debug)]
struct Hostile {
    name: String,
    kind: u8,
    link: String,
    content: Vec<u8>,
    /// What the header says of the content's size, if not the truth.
    size: Option<u64>,
}

fn name() -> impl Strategy<Value = String> {
    const NAMES: [&str; 10] =
        ["..", ".", "", "/etc", ".wh.a", ".wh..wh..opq", ".wh...", "a/../..", "\u{e4}", "manifest.json"];
    let part = prop_oneof![5 => "[abc]", 1 => prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned)];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn entry() -> impl Strategy<Value = Hostile> {
    let kind = prop_oneof![3 => Just(b'0'), 5 => prop::sample::select(b"123567xgLKS\0".to_vec())];
    let content = prop_oneof![
        2 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => name().prop_map(|name| format!("{} path={name}\n", name.len() + 9).into_bytes()),
    ];
    let size = prop_oneof![9 => Just(None), 1 => (0_u64..3000).prop_map(Some)];
    (name(), kind, name(), content, size).prop_map(|(name, kind, link, content, size)| Hostile {
        name,
        kind,
        link,
        content,
        size,
    })
}

fn archive(entries: &[Hostile]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        old.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(EntryType::new(entry.kind));
        header.set_mode(0o644);
        header.set_size(entry.size.unwrap_or(entry.content.len() as u64));
        header.set_cksum();
        builder.append(&header, entry.content.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Whatever it is, nothing is written elsewhere, and every blob of what is taken is what its digest says.
fn check(bytes: &[u8]) {
    let Ok((image, _place)) = read_bytes(bytes) else { return };
    for (digest, source) in image.blobs.iter() {
        let bytes = match source {
            BlobSource::Bytes(bytes) => bytes.to_vec(),
            BlobSource::File(path) => fs::read(path).unwrap(),
        };
        assert_eq!(muster_model::Digest::of(&bytes), *digest);
    }
    let directories = image.tree.directories.iter().map(|(digest, _)| digest);
    assert!(image.tree.files.iter().chain(directories).all(|digest| image.blobs.get(digest).is_some()));
}

proptest! {
    #[test]
    fn hostile_archives_write_nothing_elsewhere(
        entries in proptest::collection::vec(entry(), 0..8),
        kept in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = archive(&entries);
        if is_cut {
            bytes.truncate(kept.index(bytes.len()));
        }
        check(&bytes);
    }

    #[test]
    fn hostile_layers_write_nothing_elsewhere(
        layers in proptest::collection::vec(proptest::collection::vec(entry(), 0..6), 1..4),
    ) {
        let layers: Vec<Vec<u8>> = layers.iter().map(|entries| archive(entries)).collect();
        let files = saved(&Platform::this(), &layers);
        check(&files.iter().fold(Made::new(), |made, (name, bytes)| made.file(name, bytes)).bytes());
    }
}
