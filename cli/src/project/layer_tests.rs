use super::*;

fn node(blobs: &BlobSet, digest: Digest, path: &[&str]) -> reapi::Directory {
    let Some(BlobSource::Bytes(bytes)) = blobs.get(&digest) else { panic!("{digest} is a directory") };
    let directory = reapi::Directory::decode(bytes.clone()).expect("it is a message");
    let Some((first, rest)) = path.split_first() else { return directory };
    let inner = directory.directories.iter().find(|node| node.name == *first).expect("it is there");
    let digest = inner.digest.as_ref().expect("it has a digest");
    node(blobs, Digest::try_from(digest).expect("it is one"), rest)
}

fn parts(path: &Path) -> Vec<&str> {
    path.components().skip(1).map(|component| component.as_os_str().to_str().expect("ours")).collect()
}

#[test]
fn files_links_and_empty_directories_are_shown_where_they_are() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = fs::canonicalize(directory.path()).expect("it exists");
    fs::create_dir(root.join("empty")).expect("made");
    fs::write(root.join("plain"), "plain").expect("written");
    fs::write(root.join("program"), "program").expect("written");
    fs::set_permissions(root.join("program"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    std::os::unix::fs::symlink("../nowhere", root.join("link")).expect("made");
    let mut builder = LayerBuilder::new("package");
    for name in ["program", "plain", "link", "empty"] {
        let path = root.join(name);
        builder.add_entry(&path, fs::symlink_metadata(&path).expect("it exists")).expect("added");
    }
    let mut blobs = BlobSet::default();
    let layer = builder.finish(&StatCache::open(root.join("cache")), &mut blobs).expect("described");
    let shown = node(&blobs, layer.root, &parts(&root));
    let files: Vec<_> = shown.files.iter().map(|file| (file.name.as_str(), file.is_executable)).collect();
    assert_eq!(files, [("plain", false), ("program", true)]);
    assert_eq!(shown.symlinks[0].target, "../nowhere");
    assert_eq!(shown.directories[0].name, "empty");
    assert_eq!(blobs.get(&Digest::of(b"plain")), Some(&BlobSource::File(root.join("plain"))));
}

#[test]
fn a_path_through_links_brings_the_links_and_what_they_lead_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = fs::canonicalize(directory.path()).expect("it exists");
    fs::create_dir(root.join("real-1.2")).expect("made");
    fs::write(root.join("real-1.2/library.so.1.2"), "library").expect("written");
    std::os::unix::fs::symlink("library.so.1.2", root.join("real-1.2/library.so.1")).expect("made");
    std::os::unix::fs::symlink("real-1.2", root.join("current")).expect("made");
    let mut builder = LayerBuilder::new("libraries");
    let found = builder.add_resolved(&root.join("current/library.so.1"), &|_| false).expect("it is there");
    assert_eq!(found, root.join("real-1.2/library.so.1.2"));
    let mut blobs = BlobSet::default();
    let layer = builder.finish(&StatCache::open(root.join("cache")), &mut blobs).expect("described");
    let shown = node(&blobs, layer.root, &parts(&root));
    assert_eq!(shown.symlinks[0].target, "real-1.2");
    let inner = node(&blobs, layer.root, &parts(&root.join("real-1.2")));
    assert_eq!((inner.files.len(), inner.symlinks.len()), (1, 1));
}

#[test]
fn links_in_a_circle_are_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("link", &link).expect("made");
    let error = LayerBuilder::new("libraries").add_resolved(&link, &|_| false).expect_err("it has no end");
    assert!(matches!(error, ProjectError::File { action: "follow", .. }), "{error}");
}

#[test]
fn the_order_of_adding_does_not_change_the_digest() {
    let directory = tempfile::tempdir().expect("a directory");
    let paths = ["b/c", "a", "b-c", "b/a"].map(|name| directory.path().join(name));
    fs::create_dir(directory.path().join("b")).expect("made");
    for path in &paths {
        fs::write(path, "x").expect("written");
    }
    let digest = |paths: &mut dyn Iterator<Item = &PathBuf>| {
        let mut builder = LayerBuilder::new("package");
        for path in paths {
            builder.add_entry(path, fs::symlink_metadata(path).expect("it exists")).expect("added");
        }
        let cache = StatCache::open(directory.path().join("cache"));
        builder.finish(&cache, &mut BlobSet::default()).expect("described").root
    };
    assert_eq!(digest(&mut paths.iter()), digest(&mut paths.iter().rev()));
}
