use std::os::unix::fs::{MetadataExt, PermissionsExt};

use futures_util::stream;
use muster_model::DigestFunction;

use bytes::Bytes;
use muster_model::limits::CHUNK_BYTES_MAX;

use super::index::ENTRY_BYTES;
use super::*;

fn small(number: u32) -> Bytes {
    number.to_le_bytes().repeat(25).into()
}

fn large(number: u32) -> Bytes {
    number.to_le_bytes().repeat(2500).into()
}

/// Blobs above 4 KiB have files of their own.
fn config(directory: &tempfile::TempDir) -> DiskConfig {
    DiskConfig { lease_time: Duration::ZERO, packed_bytes_max: 4096, ..DiskConfig::new(directory.path().join("cache")) }
}

/// A capacity that takes just as much, with what a store keeps for itself.
fn capacity(bytes: u64) -> u64 {
    bytes + bytes / 200 + index::pack_bytes(bytes) / 2
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

async fn put(store: &DiskStore, bytes: &Bytes) -> Digest {
    let blob = Blob::from_bytes(bytes.clone());
    let digest = *blob.digest();
    BlobStore::put(store, &digest, blob).await.unwrap();
    digest
}

async fn get(store: &DiskStore, digest: &Digest) -> Result<Bytes, StoreError> {
    BlobStore::get(store, digest).await?.into_bytes(u64::MAX).await
}

fn incoming(store: &DiskConfig) -> usize {
    std::fs::read_dir(store.directory.join("incoming")).unwrap().count()
}

/// Changes a byte of a stored blob wherever it is.
fn flip(config: &DiskConfig, digest: &Digest) {
    let hex = digest.hex();
    let path = config.directory.join("blobs").join(digest.function.name()).join(&hex[..2]).join(&hex);
    if let Ok(mut bytes) = std::fs::read(&path) {
        bytes[0] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        return;
    }
    let index = rusqlite::Connection::open(config.directory.join("index.sqlite")).unwrap();
    let place = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let (pack, offset) =
        index.query_row("SELECT pack, offset FROM blobs WHERE hash = ?", [digest.hash], place).unwrap();
    let path = config.directory.join(format!("packs/{pack}.pack"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

#[tokio::test]
async fn what_was_put_is_there_after_reopening() {
    let folder = folder();
    let store = DiskStore::open(config(&folder)).unwrap();
    let (one, two) = (put(&store, &small(1)).await, put(&store, &large(2)).await);
    let before = store.stats().await.unwrap();
    drop(store);
    let store = DiskStore::open(config(&folder)).unwrap();
    assert_eq!(store.stats().await.unwrap(), before);
    assert_eq!(before.blobs, 2);
    assert_eq!(get(&store, &one).await.unwrap(), small(1));
    assert_eq!(get(&store, &two).await.unwrap(), large(2));
}

#[tokio::test]
async fn a_second_open_is_refused() {
    let folder = folder();
    let _store = DiskStore::open(config(&folder)).unwrap();
    let refused = DiskStore::open(config(&folder));
    assert!(matches!(refused, Err(StoreError::InUse { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_newer_layout_is_refused() {
    let folder = folder();
    let config = config(&folder);
    drop(DiskStore::open(config.clone()).unwrap());
    for text in ["3\n", "", "nonsense"] {
        std::fs::write(config.directory.join("LAYOUT"), text).unwrap();
        let refused = DiskStore::open(config.clone());
        assert!(matches!(refused, Err(StoreError::Layout { known: 2, .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn a_flipped_bit_is_found_once_quarantined_and_healed_by_putting_again() {
    let folder = folder();
    let config = config(&folder);
    for bytes in [small(1), large(1)] {
        let store = DiskStore::open(config.clone()).unwrap();
        let digest = put(&store, &bytes).await;
        drop(store);
        flip(&config, &digest);
        let store = DiskStore::open(config.clone()).unwrap();
        assert!(matches!(get(&store, &digest).await, Err(StoreError::Corrupt(_))));
        assert!(matches!(get(&store, &digest).await, Err(StoreError::NotFound(_))));
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
        put(&store, &bytes).await;
        assert_eq!(get(&store, &digest).await.unwrap(), bytes);
        assert_eq!(store.stats().await.unwrap().quarantined_blobs, 1);
    }
    let kept = std::fs::read_dir(config.directory.join("quarantine")).unwrap().count();
    assert!((1..=muster_model::limits::QUARANTINED_BLOBS_MAX).contains(&kept), "{kept}");
}

#[tokio::test]
async fn a_large_blob_that_rotted_is_found_while_it_is_streamed() {
    let folder = folder();
    let config = config(&folder);
    let store = DiskStore::open(config.clone()).unwrap();
    let bytes: Bytes = vec![9; CHUNK_BYTES_MAX * 3].into();
    let digest = put(&store, &bytes).await;
    flip(&config, &digest);
    let read = get(&store, &digest).await;
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
}

#[tokio::test]
async fn a_missing_or_torn_file_is_a_miss() {
    let folder = folder();
    let config = config(&folder);
    let store = DiskStore::open(config.clone()).unwrap();
    for torn in [false, true] {
        let digest = put(&store, &large(1)).await;
        let path = store.layout.blob_path(&digest, Form::Plain);
        std::fs::remove_file(&path).unwrap();
        if torn {
            std::fs::write(&path, b"").unwrap();
        }
        get(&store, &digest).await.unwrap_err();
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
    }
}

#[tokio::test]
async fn a_process_that_died_between_index_and_files_leaves_no_lie_and_no_orphan() {
    let folder = folder();
    let config = config(&folder);
    let (lost, orphan) = {
        let store = DiskStore::open(config.clone()).unwrap();
        (put(&store, &large(1)).await, put(&store, &large(2)).await)
    };
    let index = rusqlite::Connection::open(config.directory.join("index.sqlite")).unwrap();
    // As after a commit whose rename did not happen, and one whose removal did not happen.
    let layout = Layout::open(Arc::new(RealFiles), &config.directory, None).unwrap().0;
    std::fs::remove_file(layout.blob_path(&lost, Form::Plain)).unwrap();
    index.execute("DELETE FROM blobs WHERE hash = ?", [orphan.hash]).unwrap();
    index.execute("UPDATE state SET closed = 0, durable = 0", []).unwrap();
    std::fs::write(config.directory.join("incoming/7"), b"partial").unwrap();
    drop(index);
    let store = DiskStore::open(config.clone()).unwrap();
    assert_eq!(store.find_missing(&[lost, orphan]).await.unwrap().len(), 2);
    store.index.settle();
    assert!(!layout.blob_path(&orphan, Form::Plain).exists());
    assert_eq!(incoming(&config), 0);
}

#[tokio::test]
async fn concurrent_puts_of_one_blob_store_it_once() {
    let folder = folder();
    let config = config(&folder);
    let store = DiskStore::open(config.clone()).unwrap();
    let puts = (0..32).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            put(&store, &large(1)).await;
            put(&store, &small(1)).await;
        })
    });
    futures_util::future::try_join_all(puts).await.unwrap();
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.blobs, stats.bytes), (2, 10_100));
    let packed = packs::HEADER_BYTES + packs::ENTRY_HEADER_BYTES;
    assert_eq!(stats.charged_bytes, 10_100 + packed + 2 * ENTRY_BYTES);
    assert_eq!(incoming(&config), 0);
}

#[tokio::test]
async fn a_refused_put_gives_its_room_back() {
    let folder = folder();
    let config = DiskConfig { capacity_bytes: capacity(15_000), ..config(&folder) };
    let store = DiskStore::open(config.clone()).unwrap();
    for _ in 0..3 {
        let digest = Digest::of(&large(1));
        let wrong = Blob::from_stream(digest, stream::iter([Ok(large(2))]));
        let refused = BlobStore::put(&*store, &digest, wrong).await;
        assert!(matches!(refused, Err(StoreError::Mismatch { .. })), "{refused:?}");
    }
    assert_eq!(incoming(&config), 0);
    put(&store, &large(1)).await;
}

#[tokio::test]
async fn the_least_recently_used_goes_first_and_the_leased_never() {
    let folder = folder();
    let config = DiskConfig { capacity_bytes: capacity(3 * (10_000 + ENTRY_BYTES)), ..config(&folder) };
    let store = DiskStore::open(config).unwrap();
    let one = put(&store, &large(1)).await;
    let two = put(&store, &large(2)).await;
    let three = put(&store, &large(3)).await;
    get(&store, &one).await.unwrap();
    let lease = store.lease(&[two]).await.unwrap();
    let four = put(&store, &large(4)).await;
    assert_eq!(store.find_missing(&[one, two, three, four]).await.unwrap(), [three]);
    let all = store.lease(&[one, four]).await.unwrap();
    let refused = BlobStore::put(&*store, &three, Blob::from_bytes(large(3))).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    drop(lease);
    put(&store, &large(3)).await;
    assert_eq!(store.find_missing(&[one, two, three, four]).await.unwrap(), [two]);
    drop(all);
}

#[tokio::test]
async fn an_answer_that_a_blob_is_there_is_a_lease() {
    let folder = folder();
    let capacity_bytes = capacity(10_000 + ENTRY_BYTES);
    let config = DiskConfig { capacity_bytes, lease_time: Duration::from_secs(600), ..config(&folder) };
    let store = DiskStore::open(config).unwrap();
    let one = put(&store, &large(1)).await;
    assert_eq!(store.find_missing(&[one]).await.unwrap(), []);
    let two = Digest::of(&large(2));
    let refused = BlobStore::put(&*store, &two, Blob::from_bytes(large(2))).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_record_dies_with_its_first_blob() {
    let folder = folder();
    let config = DiskConfig { capacity_bytes: capacity(31_000), ..config(&folder) };
    let store = DiskStore::open(config).unwrap();
    let (one, two) = (put(&store, &large(1)).await, put(&store, &small(2)).await);
    let key = ActionKey([1; 32]);
    let references = vec![two, one, Digest::empty()];
    let record = ActionRecord { payload: Bytes::from_static(b"payload"), references, outcome: Digest::of(b"outcome") };
    ActionCache::put(&*store, vec![(key, record.clone())]).await.unwrap();
    let answered = ActionCache::get(&*store, &[key, ActionKey([2; 32])]).await.unwrap();
    assert_eq!(answered, [Some(ActionRecord { references: vec![two, one], ..record.clone() }), None]);
    get(&store, &two).await.unwrap();
    put(&store, &large(3)).await;
    put(&store, &large(4)).await;
    assert_eq!(store.find_missing(&[one, two]).await.unwrap(), [one]);
    assert_eq!(ActionCache::get(&*store, &[key]).await.unwrap(), [None]);
    assert_eq!(store.stats().await.unwrap().records, 0);
    let refused = ActionCache::put(&*store, vec![(key, record)]).await;
    assert!(matches!(refused, Err(StoreError::NotFound(digest)) if digest == one), "{refused:?}");
}

fn record(payload: &'static str, outcome: &str, references: &[Digest]) -> ActionRecord {
    ActionRecord {
        payload: Bytes::from_static(payload.as_bytes()),
        references: references.to_vec(),
        outcome: Digest::of(outcome.as_bytes()),
    }
}

#[tokio::test]
async fn t2_16_a_second_different_result_is_kept_beside_the_first_and_counted() {
    let folder = folder();
    let store = DiskStore::open(config(&folder)).unwrap();
    let blob = put(&store, &small(1)).await;
    let key = ActionKey([7; 32]);
    let offer = async |record: ActionRecord| ActionCache::put(&*store, vec![(key, record)]).await.unwrap()[0];
    assert_eq!(offer(record("first", "same", &[])).await, Recorded::Stored);
    assert_eq!(offer(record("later", "same", &[])).await, Recorded::Refreshed);
    let first = Digest::of(b"same");
    for times in 1..=2 {
        assert_eq!(offer(record("other", "other", &[blob])).await, Recorded::Divergent { first });
        let kept = store.list_divergent(None).await.unwrap().records;
        assert_eq!((kept.len(), kept[0].times, &kept[0].payload[..]), (1, times, &b"other"[..]));
        assert_eq!((kept[0].first, kept[0].outcome), (first, Digest::of(b"other")));
        assert_eq!((kept[0].key, &kept[0].references), (key, &vec![blob]));
        assert_eq!(store.stats().await.unwrap().divergent_results, times);
    }
    let answer = ActionCache::get(&*store, &[key]).await.unwrap().remove(0).unwrap();
    assert_eq!(answer, record("later", "same", &[]));
    for number in 0..20 {
        offer(ActionRecord { outcome: Digest::of(&[number]), ..record("many", "", &[]) }).await;
    }
    let kept = store.list_divergent(None).await.unwrap().records;
    assert_eq!(kept.len(), muster_model::limits::DIVERGENT_RESULTS_PER_ACTION_MAX);
    assert_eq!(kept.last().unwrap().outcome, Digest::of(&[19]));
    assert_eq!(store.list_records(PageRequest::default()).await.unwrap().records[0].divergent, kept.len() as u64);
    assert_eq!(store.remove_records(&[key]).await.unwrap().records, 1);
    assert_eq!(store.list_divergent(None).await.unwrap().records, []);
}

#[tokio::test]
async fn a_batch_is_stored_and_read_as_single_blobs_are() {
    let folder = folder();
    let config = DiskConfig { capacity_bytes: 40_000, ..config(&folder) };
    let store = DiskStore::open(config).unwrap();
    let good: Vec<Bytes> = vec![small(1), large(2), Bytes::new(), small(3)];
    let mut blobs: Vec<Blob> = good.iter().cloned().map(Blob::from_bytes).collect();
    let wrong = Digest::of(&small(4));
    blobs.push(Blob::from_stream(wrong, stream::iter([Ok(small(5))])));
    blobs.push(Blob::from_bytes(vec![1; 50_000].into()));
    let mut digests: Vec<Digest> = blobs.iter().map(|blob| *blob.digest()).collect();
    let stored = store.put_many(blobs).await;
    assert!(stored[..4].iter().all(Result::is_ok), "{stored:?}");
    assert!(matches!(&stored[4..], [Err(StoreError::Mismatch { .. }), Err(StoreError::Full { .. })]), "{stored:?}");
    digests.reverse();
    let mut read = store.get_many(&digests).await;
    for bytes in good {
        assert_eq!(read.pop().unwrap().unwrap().into_bytes(u64::MAX).await.unwrap(), bytes);
    }
    assert!(matches!(read[..], [Err(StoreError::NotFound(_)), Err(StoreError::NotFound(_))]), "{read:?}");
}

#[tokio::test]
async fn what_is_here_is_listed_in_pages_and_collected_by_last_use() {
    let folder = folder();
    let store = DiskStore::open(config(&folder)).unwrap();
    let blobs: Vec<Blob> = (0..1500).map(|number| Blob::from_bytes(small(number))).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| *blob.digest()).collect();
    assert!(store.put_many(blobs).await.iter().all(Result::is_ok));
    let key = ActionKey([1; 32]);
    ActionCache::put(&*store, vec![(key, record("r", "r", &digests[10..12]))]).await.unwrap();
    get(&store, &digests[0]).await.unwrap();
    let lease = store.lease(&digests[1..2]).await.unwrap();
    let (mut listed, mut from) = (Vec::new(), None);
    loop {
        let page = store.list_blobs(PageRequest { from, ..PageRequest::default() }).await.unwrap();
        assert!(page.blobs.len() <= muster_model::limits::LISTED_ENTRIES_MAX);
        listed.extend(page.blobs);
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(listed.len(), 1500);
    assert!(listed.is_sorted_by_key(|entry| entry.used));
    let tail: Vec<_> = listed[1496..].iter().map(|entry| (entry.digest, entry.leased, entry.records)).collect();
    let expected = [(digests[10], false, 1), (digests[11], false, 1), (digests[0], false, 0), (digests[1], true, 0)];
    assert_eq!(tail, expected);
    assert_eq!(store.remove_blobs(&digests[1..3]).await.unwrap().blobs, 1);
    let collected = store.collect(CollectGoal::size(0)).await.unwrap();
    assert_eq!((collected.blobs, collected.records), (1498, 1));
    assert!(collected.charged_bytes <= collected.leased_bytes + packs::HEADER_BYTES, "{collected:?}");
    assert_eq!(store.list_blobs(PageRequest::default()).await.unwrap().blobs.len(), 1);
    drop(lease);
    assert_eq!(store.collect(CollectGoal::size(0)).await.unwrap().charged_bytes, 0);
}

#[tokio::test]
async fn the_newest_first_is_the_oldest_first_backwards() {
    let folder = folder();
    let store = DiskStore::open(config(&folder)).unwrap();
    for number in 0..25 {
        let digest = put(&store, &small(number)).await;
        let result = record("r", "r", &[digest]);
        ActionCache::put(&*store, vec![(ActionKey([number as u8; 32]), result)]).await.unwrap();
    }
    let mut lists = Vec::new();
    for order in [UseOrder::OldestFirst, UseOrder::NewestFirst] {
        let (mut blobs, mut records) = (Vec::new(), Vec::new());
        let mut page = PageRequest { order, from: None, limit: 10 };
        for most in [10, 10, 5] {
            let listed = store.list_blobs(page).await.unwrap();
            assert_eq!((listed.blobs.len(), listed.total, listed.next.is_some()), (most, 25, most == 10));
            blobs.extend(listed.blobs.iter().map(|entry| entry.digest));
            page.from = listed.next;
        }
        page.from = None;
        for most in [10, 10, 5] {
            let listed = store.list_records(page).await.unwrap();
            assert_eq!((listed.records.len(), listed.total, listed.next.is_some()), (most, 25, most == 10));
            records.extend(listed.records.iter().map(|entry| entry.key));
            page.from = listed.next;
        }
        lists.push((blobs, records));
    }
    let (mut backwards, oldest) = (lists.pop().unwrap(), lists.pop().unwrap());
    backwards.0.reverse();
    backwards.1.reverse();
    assert_eq!(oldest, backwards);
}

#[tokio::test]
async fn a_result_stays_as_long_as_a_blob_of_it_is_leased() {
    let folder = folder();
    let config = DiskConfig { capacity_bytes: capacity(60_000), ..config(&folder) };
    let store = DiskStore::open(config).unwrap();
    let [leased, other] = [put(&store, &small(1)).await, put(&store, &small(2)).await];
    let results = [vec![leased, other], vec![other], vec![]];
    let key = |number: usize| ActionKey([number as u8; 32]);
    let records = results.iter().enumerate().map(|(number, references)| (key(number), record("r", "r", references)));
    ActionCache::put(&*store, records.collect()).await.unwrap();
    let listed = async || {
        let listed = store.list_records(PageRequest::default()).await.unwrap().records;
        listed.into_iter().map(|entry| entry.key).collect::<Vec<_>>()
    };
    let lease = store.lease(&[leased, other]).await.unwrap();
    let fill = async |numbers: std::ops::Range<u32>| {
        for number in numbers {
            put(&store, &large(number)).await;
        }
    };
    // What points at nothing can't be told of with bytes that are not there.
    fill(10..30).await;
    let kept = listed().await;
    assert!(kept.len() == 2 && kept.contains(&key(0)) && kept.contains(&key(1)), "{kept:?}");
    let goal = CollectGoal::size(0);
    assert_eq!(store.foresee(goal).await.unwrap(), store.collect(goal).await.unwrap());
    assert_eq!(listed().await.len(), 2);
    assert_eq!(store.find_missing(&[leased, other]).await.unwrap(), []);
    drop(lease);
    fill(30..50).await;
    assert_eq!((listed().await, store.find_missing(&[leased]).await.unwrap()), (vec![], vec![leased]));
}

#[tokio::test]
async fn what_is_foreseen_is_what_goes_by_size_and_by_age() {
    let folder = folder();
    let store = DiskStore::open(config(&folder)).unwrap();
    let mut digests = Vec::new();
    for number in 0..20 {
        digests.push(put(&store, &large(number)).await);
        let result = record("r", "r", &digests[digests.len() / 2..][..1]);
        ActionCache::put(&*store, vec![(ActionKey([number as u8; 32]), result)]).await.unwrap();
    }
    let listed = store.list_blobs(PageRequest::default()).await.unwrap().blobs;
    let oldest_first: Vec<[u8; 32]> = listed.iter().map(|entry| entry.digest.hash).collect();
    let aged = store.index.call(move |index| {
        for (hash, hours) in oldest_first.iter().zip((1..=20).rev()) {
            let aged = "UPDATE blobs SET used = used - 3600000000 * ? WHERE hash = ?";
            index.connection.execute(aged, rusqlite::params![hours, hash])?;
        }
        Ok(())
    });
    aged.await.unwrap();
    let older =
        |minutes: u64| CollectGoal { unused_for: Some(Duration::from_secs(60 * minutes)), ..CollectGoal::default() };
    let lease = store.lease(&[listed[1].digest]).await.unwrap();
    let charged = store.stats().await.unwrap().charged_bytes;
    let goals = [
        CollectGoal::size(charged),
        older(21 * 60),
        older(15 * 60 + 30),
        CollectGoal { charged_bytes_max: Some(charged), ..older(13 * 60 + 30) },
        CollectGoal::size(charged / 2),
        CollectGoal { charged_bytes_max: Some(0), ..older(21 * 60) },
    ];
    let mut gone = Vec::new();
    for goal in goals {
        let foreseen = store.foresee(goal).await.unwrap();
        assert_eq!(store.stats().await.unwrap().blobs, 20 - gone.iter().sum::<u64>(), "nothing has gone yet");
        let collected = store.collect(goal).await.unwrap();
        assert_eq!(foreseen, collected, "{goal:?}");
        assert_eq!(collected.leased_blobs, 1);
        gone.push(collected.blobs);
    }
    // Of the first five one is leased.
    assert_eq!((&gone[..4], gone.iter().sum()), (&[0, 0, 4, 2][..], 19), "{gone:?}");
    assert_eq!(store.find_missing(&[listed[1].digest]).await.unwrap(), []);
    drop(lease);
}

#[tokio::test]
async fn a_linked_file_is_the_stored_one_in_the_mode_that_was_asked_for() {
    let folder = folder();
    let store = DiskStore::open(config(&folder)).unwrap();
    for (number, bytes) in [small(1), large(1), Bytes::new()].into_iter().enumerate() {
        let digest = put(&store, &bytes).await;
        for (name, executable) in [("x1", true), ("p1", false), ("x2", true), ("p2", false)] {
            let path = folder.path().join(format!("{number}-{name}"));
            store.link_file_in_background(&digest, &path, executable).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode, if executable { 0o755 } else { 0o644 }, "{name}");
        }
        assert_eq!(get(&store, &digest).await.unwrap(), bytes);
    }
    let inode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().ino();
    assert_eq!((inode("1-x1"), inode("1-p1")), (inode("1-x2"), inode("1-p2")));
    assert_ne!(inode("1-x1"), inode("1-p1"));
    let absent = store.link_file_in_background(&Digest::of(b"absent"), &folder.path().join("absent"), false).await;
    assert!(matches!(absent, Err(StoreError::NotFound(_))), "{absent:?}");
}

#[tokio::test]
async fn one_hash_under_two_functions_or_sizes_is_two_blobs() {
    let folder = folder();
    let store = DiskStore::open(config(&folder)).unwrap();
    let digest = put(&store, &large(1)).await;
    let others = [
        Digest { function: DigestFunction::Sha256, ..digest },
        Digest { size_bytes: digest.size_bytes + 1, ..digest },
        digest_of(DigestFunction::Sha256, &large(1)),
    ];
    for other in others {
        assert!(matches!(get(&store, &other).await, Err(StoreError::NotFound(_))));
        assert_eq!(store.find_missing(&[other, digest]).await.unwrap(), [other]);
    }
}

impl DiskStore {
    async fn link_file_in_background(
        self: &Arc<Self>,
        digest: &Digest,
        destination: &std::path::Path,
        executable: bool,
    ) -> Result<(), StoreError> {
        let (store, digest, destination) = (self.clone(), *digest, destination.to_path_buf());
        blocking(move || store.link_file(&digest, &destination, executable)).await
    }
}

mod costs;
mod crash;
mod damage;
mod integrity;
mod model;
