use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

fn tree() -> (tempfile::TempDir, BaseConfig) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let root = directory.path().join("root");
    fs::create_dir_all(root.join("a/b")).expect("directories");
    fs::write(root.join("a/file"), "one").expect("a file");
    fs::write(root.join("a/b/other"), "two").expect("a file");
    symlink("a/file", root.join("link")).expect("a link");
    let config = BaseConfig { cache_dir: directory.path().join("cache"), roots: vec![root] };
    (directory, config)
}

fn digest(config: &BaseConfig) -> Digest {
    HostBase::identify(config).expect("a base").digest
}

/// Waits until what is there now is believed.
fn grow_old() {
    std::thread::sleep(walk::YOUNG + std::time::Duration::from_millis(100));
}

/// Makes the remembered full look as old as it may be.
fn forget_the_full_look(config: &BaseConfig) {
    let path = config.cache_path();
    let mut summary = Opened::open(&path).expect("a cache").summary;
    summary.full_nanoseconds -= u64::try_from(BASE_FULL_CHECK_INTERVAL.as_nanos()).expect("it fits");
    let first = summary.serialize();
    let mut bytes = fs::read(&path).expect("a cache");
    bytes[..first.len()].copy_from_slice(&first);
    cache::replace(&path, &bytes).expect("ours");
}

#[test]
fn a_base_is_named_after_the_system() {
    let arch = std::env::consts::ARCH;
    assert_eq!(name_from("ID=debian\nVERSION_ID=\"12\"\n"), format!("debian-12-{arch}"));
    assert_eq!(name_from("NAME=x\nID=arch\n"), format!("arch-{arch}"));
    assert_eq!(name_from(""), format!("linux-{arch}"));
}

#[test]
fn every_kind_of_change_changes_the_digest_and_nothing_else_does() {
    let (_directory, config) = tree();
    let root = config.roots[0].clone();
    let first = digest(&config);
    assert_eq!(digest(&config), first);
    fs::write(root.join("a/file"), "ONE").expect("a file");
    let changed = digest(&config);
    assert_ne!(changed, first, "same size, other contents");
    fs::set_permissions(root.join("a/b/other"), PermissionsExt::from_mode(0o755)).expect("ours");
    let mode = digest(&config);
    assert_ne!(mode, changed, "another mode");
    fs::remove_file(root.join("link")).expect("ours");
    symlink("a/b", root.join("link")).expect("a link");
    let link = digest(&config);
    assert_ne!(link, mode, "another target");
    fs::rename(root.join("a/b/other"), root.join("a/b/renamed")).expect("ours");
    assert_ne!(digest(&config), link, "another name");
    fs::rename(root.join("a/b/renamed"), root.join("a/b/other")).expect("ours");
    assert_eq!(digest(&config), link, "the same again");
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let (_directory, config) = tree();
    assert_eq!(HostBase::identify(&config).expect("a base").read_bytes, 6);
    grow_old();
    assert_eq!(HostBase::identify(&config).expect("a base").read_bytes, 6, "too young to be remembered");
    let base = HostBase::identify(&config).expect("a base");
    assert_eq!(base.read_bytes, 0);
    assert!(base.verify_full(&config).expect("readable"));
}

#[test]
fn a_damaged_cache_is_as_good_as_none() {
    let (_directory, config) = tree();
    let first = digest(&config);
    let whole = fs::read(config.cache_path()).expect("a cache");
    for place in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[place] ^= 1;
        fs::write(config.cache_path(), bytes).expect("ours");
        let read = Opened::open(&config.cache_path()).and_then(Opened::read);
        assert!(read.is_none(), "byte {place}");
    }
    for length in 0..whole.len() {
        fs::write(config.cache_path(), &whole[..length]).expect("ours");
        assert!(Opened::open(&config.cache_path()).and_then(Opened::read).is_none(), "{length} bytes");
    }
    assert_eq!(digest(&config), first);
}

#[test]
fn a_file_that_is_replaced_is_found_at_once_and_one_that_is_edited_in_place_by_the_full_look() {
    let (_directory, config) = tree();
    let root = config.roots[0].clone();
    grow_old();
    let first = HostBase::identify(&config).expect("a base");
    let edited = root.join("a/b/other");
    fs::write(&edited, "TWO").expect("a file");
    assert_eq!(digest(&config), first.digest, "no directory is different");
    assert!(!first.verify_full(&config).expect("readable"));
    forget_the_full_look(&config);
    let second = digest(&config);
    assert_ne!(second, first.digest);
    fs::write(root.join("a/new"), "one").expect("a file");
    fs::rename(root.join("a/new"), root.join("a/file")).expect("ours");
    assert_eq!(digest(&config), second, "the same contents in another file");
    fs::write(root.join("a/new"), "ONE").expect("a file");
    fs::rename(root.join("a/new"), root.join("a/file")).expect("ours");
    let third = digest(&config);
    assert_ne!(third, second);
    fs::remove_dir_all(root.join("a/b")).expect("ours");
    assert_ne!(digest(&config), third);
}

#[test]
fn a_root_that_appears_is_found_at_once() {
    let (directory, mut config) = tree();
    let other = directory.path().join("other");
    config.roots.push(other.clone());
    grow_old();
    let first = HostBase::identify(&config).expect("a base");
    assert_eq!(first.roots.len(), 1);
    fs::write(&other, "").expect("a file");
    let second = HostBase::identify(&config).expect("a base");
    assert_eq!(second.roots.len(), 2);
    assert_ne!(second.digest, first.digest);
}

#[test]
fn several_may_identify_at_the_same_time() {
    let (_directory, config) = tree();
    let digests = std::thread::scope(|scope| {
        let threads = [(); 8].map(|()| scope.spawn(|| digest(&config)));
        threads.map(|thread| thread.join().expect("a digest"))
    });
    assert!(digests.iter().all(|found| *found == digests[0]));
    assert_eq!(fs::read_dir(&config.cache_dir).expect("the directory").count(), 1);
    assert!(Opened::open(&config.cache_path()).and_then(Opened::read).is_some());
}

#[test]
fn what_others_may_write_is_not_believed() {
    let (_directory, config) = tree();
    digest(&config);
    let path = config.cache_path();
    assert!(Opened::open(&path).is_some());
    fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).expect("ours");
    assert!(Opened::open(&path).is_none());
}
