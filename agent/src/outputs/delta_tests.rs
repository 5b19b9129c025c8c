//! Trees that are staged as deltas, as programs see them and change them: by the kernel's own overlay.

use muster_cache::tree::TreeBuilder;
use muster_cache::{Blob, DiskConfig, DiskStore, Ground, Stager};

use super::tests::{Place, bytes, request};
use super::*;

/// A file by its path.
fn insert(builder: &mut TreeBuilder, files: &mut Vec<String>, path: &str, content: &str) {
    builder.insert_file(path, Digest::of(content.as_bytes()), false).expect("a path");
    files.push(content.to_owned());
}

/// 600 files; the second one of the two trees differs from the first in every way that there is.
fn tree(is_second: bool) -> (muster_cache::tree::Tree, Vec<String>) {
    let mut builder = TreeBuilder::new();
    let mut files = Vec::new();
    for directory in 0..30 {
        for number in 0..20 {
            let path = format!("work/d{directory}/f{number}");
            match (is_second, directory, number) {
                // One directory is gone, and one file.
                (true, 3, _) | (true, 4, 4) => {}
                // One file is another, one a directory, one a link.
                (true, 5, 5) => insert(&mut builder, &mut files, &path, "changed"),
                (true, 6, 6) => insert(&mut builder, &mut files, &format!("{path}/inside"), "inside"),
                (true, 7, 7) => builder.insert_symlink(&path, "f8").expect("a path"),
                _ => insert(&mut builder, &mut files, &path, &format!("{directory} {number}")),
            }
        }
    }
    // One directory is a file.
    let path = if is_second { "work/turn" } else { "work/turn/file" };
    insert(&mut builder, &mut files, path, "turned");
    (builder.finish().expect("a tree"), files)
}

#[tokio::test]
async fn a_program_sees_and_changes_a_delta_like_any_tree() {
    let place = Place::new();
    let config = DiskConfig { owner: place.sandbox.owner(), ..DiskConfig::new(place.folder.path().join("store")) };
    let store = DiskStore::open(config).expect("a store");
    let stager = Stager::open(store.clone(), place.folder.path().join("staged")).expect("a stager");
    let mut staged = Vec::new();
    for is_second in [false, true] {
        let (tree, files) = tree(is_second);
        let blobs = tree.directories.iter().map(|(_, bytes)| bytes.clone()).chain(files.into_iter().map(Into::into));
        for bytes in blobs {
            store.put_blob(&Digest::of(&bytes), Blob::from_bytes(bytes)).await.expect("room");
        }
        staged.push(stager.stage(&tree.root, Ground::Bare, &*store).await.expect("a tree"));
    }
    let second = staged.pop().expect("two");
    assert_eq!(second.directories().len(), 2);
    let layer = |directory: &PathBuf| StagedLayer { directory: directory.clone(), mount_path: "/action".into() };
    let mut wanted = request(&[("", Declared::Path)]);
    wanted.function = DigestFunction::Blake3;

    let layers: Vec<StagedLayer> = second.directories().iter().map(layer).collect();
    let (_, outputs) = place.run_over(layers.clone(), "true", wanted.clone()).await;
    let outputs = outputs.expect("outputs");
    let (model, _) = tree(true);
    let root = outputs.directories[0].1.root.expect("wanted");
    let top =
        muster_cache::tree::Directory::decode(DigestFunction::Blake3, &model.directories.last().expect("a root").1);
    let muster_cache::tree::Node::Directory(work) = top.expect("a root").entries()[0].node.clone() else {
        panic!("a directory")
    };
    assert_eq!(root, work, "the kernel shows another tree than the one that was staged");

    let script =
        "rm -r d0 d5 turn; mkdir d3; echo -n new > d3/f0; echo -n more >> d6/f6/inside; mv d8/f8 d4/f4; ls d3 d4";
    let (exit, outputs) = place.run_over(layers, script, wanted).await;
    assert_eq!(exit.status, muster_environment::ExitStatus::Code(0));
    let blobs = bytes(&outputs.expect("outputs"));
    assert!(blobs.values().any(|bytes| bytes == "insidemore") && !blobs.values().any(|bytes| bytes == "turned"));
    drop((staged, second));
    // Nothing of it has come through to what is staged.
    for entry in [place.folder.path().join("staged/trees"), place.folder.path().join("staged/deltas")] {
        assert_eq!(fs::read_dir(entry).expect("a directory").count(), 1);
    }
    let (first, _) = tree(false);
    let again = stager.stage(&first.root, Ground::Bare, &*store).await.expect("a tree");
    assert_eq!(fs::read_to_string(again.directories()[0].join("work/d5/f5")).expect("a file"), "5 5");
}
