use super::*;
use proptest::prelude::*;

fn digest_of(cache: &StatCache, path: &Path) -> Digest {
    let metadata = fs::metadata(path).expect("it was written");
    cache.digests(&[Wanted { path, metadata: &metadata }]).expect("it can be read")[0]
}

/// Waits until the file has been left alone long enough.
fn settle(path: &Path) {
    let changed = || fs::metadata(path).and_then(|metadata| metadata.modified()).expect("it was written");
    while SystemTime::now().duration_since(changed()).unwrap_or_default() < RACY_WINDOW + Duration::from_millis(50) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_settled_file_is_remembered_and_a_fresh_one_is_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    let store = directory.path().join("below/cache");
    fs::write(&file, "content").expect("written");
    let cache = StatCache::open(store.clone());
    assert_eq!(digest_of(&cache, &file), Digest::of(b"content"));
    cache.save().expect("nothing to save");
    assert!(!store.exists(), "a file that was just written is not remembered");

    settle(&file);
    assert_eq!(digest_of(&cache, &file), Digest::of(b"content"));
    cache.save().expect("saved");
    let again = StatCache::open(store);
    assert_eq!(again.state.lock().expect("ours").entries.len(), 1);
    assert_eq!(digest_of(&again, &file), Digest::of(b"content"));
    fs::write(&file, "changed").expect("written");
    assert_eq!(digest_of(&again, &file), Digest::of(b"changed"));
}

#[test]
fn many_files_keep_their_order() {
    let directory = tempfile::tempdir().expect("a directory");
    let paths: Vec<PathBuf> = (0..100).map(|index| directory.path().join(index.to_string())).collect();
    for (index, path) in paths.iter().enumerate() {
        fs::write(path, index.to_string()).expect("written");
    }
    let metadata: Vec<Metadata> = paths.iter().map(|path| fs::metadata(path).expect("written")).collect();
    let wanted: Vec<Wanted<'_>> =
        paths.iter().zip(&metadata).map(|(path, metadata)| Wanted { path, metadata }).collect();
    let digests = StatCache::open(directory.path().join("cache")).digests(&wanted).expect("they can be read");
    let expected: Vec<Digest> = (0..100).map(|index| Digest::of(index.to_string().as_bytes())).collect();
    assert_eq!(digests, expected);
}

fn remembered() -> impl Strategy<Value = Remembered> {
    (any::<[u64; 3]>(), any::<[i64; 2]>(), any::<[u8; 32]>(), any::<u8>()).prop_map(|(numbers, times, hash, age)| {
        let [size_bytes, inode, device] = numbers;
        let [modified_ns, changed_ns] = times;
        Remembered { identity: Identity { size_bytes, modified_ns, changed_ns, inode, device }, hash, age }
    })
}

fn entries() -> impl Strategy<Value = HashMap<PathBuf, Remembered>> {
    let path = "/[a-z/\u{e9}]{0,40}".prop_map(PathBuf::from);
    proptest::collection::hash_map(path, remembered(), 0..20)
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in entries()) {
        let read = decode(&encode(&entries)).expect("it is whole");
        prop_assert_eq!(read.len(), entries.len());
        for (path, entry) in entries {
            let found = &read[&path];
            prop_assert_eq!((found.identity, found.hash, found.age), (entry.identity, entry.hash, entry.age));
        }
    }

    #[test]
    fn what_is_not_whole_is_no_cache(entries in entries(), place in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = encode(&entries);
        let place = place.index(bytes.len());
        prop_assert!(decode(&bytes[..place]).is_none());
        bytes[place] ^= flip;
        prop_assert!(decode(&bytes).is_none());
    }

    #[test]
    fn any_change_of_what_stat_says_is_noticed(entry in remembered(), other in remembered()) {
        let path = PathBuf::from("/file");
        let is_same = entry.identity == other.identity;
        let mut state = State::default();
        let identity = entry.identity;
        state.entries.insert(path.clone(), entry);
        prop_assert!(state.recall(&path, identity).is_some());
        prop_assert_eq!(state.recall(&path, other.identity).is_some(), is_same);
    }
}
