//! A cut of power, or the death of the process, after every change that a session makes to its file system; and a failure of every
//! operation. The index is in the model too.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::*;
use crate::files::model::image::{Image, Random, Survival};
use crate::files::model::{Change, Fault, ModelFiles};

const CAPACITY: u64 = 40_000;
const NUMBERS: u32 = 48;

fn config_in(folder: PathBuf) -> DiskConfig {
    DiskConfig {
        capacity_bytes: CAPACITY,
        lease_time: Duration::ZERO,
        packed_bytes_max: 1024,
        ..DiskConfig::new(folder)
    }
}

fn bytes(number: u32) -> Bytes {
    let count = if number.is_multiple_of(3) { 700 + number as usize } else { 20 + number as usize };
    number.to_le_bytes().repeat(count).into()
}

fn digest(number: u32) -> Digest {
    Digest::of(&bytes(number))
}

fn key(number: u32) -> ActionKey {
    ActionKey([number as u8; 32])
}

/// Steps of the session: enough for 2,000 changes unless the environment asks for more.
fn steps() -> usize {
    std::env::var("MUSTER_CRASH_STEPS").map_or(132, |steps| steps.parse().unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// What was here after a step.
#[derive(Clone, Debug)]
struct Moment {
    /// Changes made by then.
    at: usize,
    present: BTreeSet<u32>,
    /// What the step offered: that may have gone to make room, and come back.
    offered: Vec<u32>,
    /// Whether everything was durable by then.
    durable: bool,
}

/// Puts, gets, records, evictions, syncs and reopenings, from one seed.
async fn session(files: &ModelFiles) -> Vec<Moment> {
    let mut random = Random(20);
    let config = config_in(files.folder());
    let mut store = DiskStore::open_on(Arc::new(files.clone()), config.clone()).unwrap();
    let mut moments = Vec::new();
    let (mut evicted, mut compacted) = (0, 0);
    for step in 0..steps() {
        let number = random.below(NUMBERS as usize) as u32;
        let mut durable = false;
        let mut offered = Vec::new();
        match random.below(12) {
            0..=5 => {
                offered.push(number);
                store.put_blob(&digest(number), Blob::from_bytes(bytes(number))).await.unwrap();
            }
            6 | 7 => {
                offered.extend((0..6).map(|next| (number + next * 5) % NUMBERS));
                let blobs = offered.iter().map(|number| Blob::from_bytes(bytes(*number))).collect();
                assert!(store.put_many(blobs).await.iter().all(Result::is_ok));
            }
            8 => {
                let references = [digest(number), digest((number + 1) % NUMBERS)];
                let put = ActionCache::put(&*store, vec![(key(number), record("r", "r", &references))]).await;
                assert!(matches!(put, Ok(_) | Err(StoreError::NotFound(_))), "{put:?}");
            }
            9 => drop(get(&store, &digest(number)).await),
            10 if step % 3 == 0 => drop(store.collect(CollectGoal::size(CAPACITY / 2)).await.unwrap()),
            10 => drop(store.remove_blobs(&[digest(number)]).await.unwrap()),
            _ => {
                durable = true;
                if step % 2 == 0 {
                    let stats = store.stats().await.unwrap();
                    evicted += stats.evicted_blobs;
                    compacted += stats.compacted_bytes;
                    drop(store);
                    store = DiskStore::open_on(Arc::new(files.clone()), config.clone()).unwrap();
                } else {
                    store.index.settle();
                }
            }
        }
        let present = present(&store).await;
        moments.push(Moment { at: files.change_count(), present, offered, durable });
    }
    let stats = store.stats().await.unwrap();
    evicted += stats.evicted_blobs;
    compacted += stats.compacted_bytes;
    assert!(evicted > 50 && compacted > 500, "{evicted}, {compacted}, {stats:?}");
    moments
}

async fn present(store: &DiskStore) -> BTreeSet<u32> {
    let numbers: HashMap<Digest, u32> = (0..NUMBERS).map(|number| (digest(number), number)).collect();
    let page = store.list_blobs(PageRequest::default()).await.unwrap();
    page.blobs.iter().map(|entry| numbers[&entry.digest]).collect()
}

/// What must be there after a crash: what was here at the last moment that counts, and at all since, the one on its way included.
fn promised(moments: &[Moment], point: usize, power: bool) -> Vec<u32> {
    let next = moments.partition_point(|moment| moment.at <= point);
    let Some(from) = moments[..next].iter().rposition(|moment| moment.durable || !power) else { return Vec::new() };
    let mut kept = moments[from].present.clone();
    for moment in &moments[from + 1..moments.len().min(next + 1)] {
        kept.retain(|number| moment.present.contains(number) && !moment.offered.contains(number));
    }
    kept.into_iter().collect()
}

/// Opens what a crash left, and checks every promise.
async fn check(files: &ModelFiles, promised: &[u32], what: &str) {
    let store = DiskStore::open_on(Arc::new(files.clone()), config_in(files.folder()));
    let store = store.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let all: Vec<Digest> = (0..NUMBERS).map(digest).collect();
    let missing = store.find_missing(&all).await.unwrap();
    for number in promised {
        assert!(!missing.contains(&digest(*number)), "{what}: {number} is lost");
    }
    for number in 0..NUMBERS {
        match get(&store, &digest(number)).await {
            Ok(read) => assert_eq!(read, bytes(number), "{what}"),
            // Where the store says that it has it, it has it.
            Err(error) => assert!(missing.contains(&digest(number)), "{what}: {number}: {error}"),
        }
    }
    let keys: Vec<ActionKey> = (0..NUMBERS).map(key).collect();
    for (number, answer) in ActionCache::get(&*store, &keys).await.unwrap().into_iter().enumerate() {
        let Some(answer) = answer else { continue };
        let references = [digest(number as u32), digest((number as u32 + 1) % NUMBERS)];
        assert_eq!(answer, record("r", "r", &references), "{what}");
        assert!(references.iter().all(|digest| !missing.contains(digest)), "{what}: {number} dangles");
    }
    store.index.settle();
    check_files(&store, files, what).await;
}

/// No file is there that the index does not name, and what is charged is what is there.
async fn check_files(store: &DiskStore, files: &ModelFiles, what: &str) {
    let blobs = store.list_blobs(PageRequest::default()).await.unwrap().blobs;
    let packed = blobs.iter().filter(|entry| entry.digest.size_bytes <= 1024);
    let in_files: u64 = blobs.iter().map(|entry| entry.digest.size_bytes).filter(|size| *size > 1024).sum();
    let stats = store.stats().await.unwrap();
    let (mut pack_bytes, mut packs, mut blob_bytes) = (0, 0, 0);
    for (path, size) in files.files() {
        match path.components().next().map(|first| first.as_os_str().to_string_lossy().into_owned()).as_deref() {
            Some("packs") => {
                pack_bytes += size;
                packs += 1;
            }
            Some("blobs") => blob_bytes += size,
            Some("incoming" | "blobs-x") => panic!("{what}: {} is left", path.display()),
            _ => {}
        }
    }
    assert_eq!((packs, blob_bytes), (stats.packs, in_files), "{what}");
    let records = store.list_records(PageRequest::default()).await.unwrap().records;
    let rows = (stats.blobs + stats.records) * ENTRY_BYTES;
    let payloads: u64 = records.iter().map(|entry| entry.payload_bytes).sum();
    assert_eq!(stats.charged_bytes, pack_bytes + in_files + rows + payloads, "{what}");
    assert!(packed.count() > 0 || packs == 0, "{what}: an empty pack is left");
}

#[test]
fn t3_1_a_crash_after_any_change_loses_nothing_that_was_promised_and_serves_no_wrong_byte() {
    let files = ModelFiles::new();
    let moments = runtime().block_on(session(&files));
    let changes = files.changes();
    assert!(changes.len() >= 2000, "only {} changes", changes.len());
    let started = std::time::Instant::now();
    let folder = files.folder();
    // Two threads take turns; each applies all changes to its own image.
    let (states, promises) = std::thread::scope(|scope| {
        let (changes, moments, folder) = (&changes, &moments, &folder);
        let workers: Vec<_> =
            (0..2).map(|turn| scope.spawn(move || crash_everywhere(changes, moments, folder, turn))).collect();
        let done = workers.into_iter().map(|worker| worker.join().unwrap());
        done.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    let seconds = started.elapsed().as_secs_f64();
    println!("{} crash points, {states} states, {promises} promises, {seconds:.1} s", changes.len());
    assert_eq!(states, changes.len() * 8);
    assert!(promises > states, "the session promised too little for this to mean anything");
}

/// Every second change, from `turn` on: how many states were looked at, and how many promises they had to keep.
fn crash_everywhere(changes: &[Change], moments: &[Moment], folder: &Path, turn: usize) -> (usize, usize) {
    let runtime = runtime();
    let mut image = Image::default();
    let (mut states, mut promises) = (0, 0);
    for (position, change) in changes.iter().enumerate() {
        image.apply(change);
        let point = position + 1;
        if point % 2 != turn {
            continue;
        }
        let survivals = [Survival::Nothing, Survival::Everything, Survival::Contents, Survival::Names];
        let seeds = (0..4).map(|number| Survival::Some(point as u64 * 8 + number));
        for survival in survivals.into_iter().chain(seeds) {
            let promised = promised(moments, point, survival != Survival::Everything);
            let after = image.cut(survival, folder);
            let what = format!("after change {point}, {survival:?}");
            runtime.block_on(check(&after, &promised, &what));
            states += 1;
            promises += promised.len();
        }
    }
    (states, promises)
}

/// A short session that goes on whatever fails, and checks what it is told while nothing does.
async fn session_with_faults(files: &ModelFiles) {
    let Ok(store) = DiskStore::open_on(Arc::new(files.clone()), config_in(files.folder())) else { return };
    for step in 0..14_u32 {
        let number = step * 7 % NUMBERS;
        let stored = store.put_blob(&digest(number), Blob::from_bytes(bytes(number))).await;
        if let Err(error) = stored {
            assert!(!matches!(error, StoreError::Closed | StoreError::Mismatch { .. }), "{error:?}");
        }
        if step % 4 == 1 {
            let blobs = (0..5).map(|next| Blob::from_bytes(bytes((number + next) % NUMBERS))).collect();
            assert_eq!(store.put_many(blobs).await.len(), 5);
            let references = [digest(number), digest((number + 1) % NUMBERS)];
            drop(ActionCache::put(&*store, vec![(key(number), record("r", "r", &references))]).await);
        }
        if let Ok(read) = get(&store, &digest(number)).await {
            assert_eq!(read, bytes(number));
        }
        drop(store.find_missing(&[digest(number)]).await);
        if step % 5 == 4 {
            drop(store.collect(CollectGoal::size(CAPACITY / 3)).await);
            store.index.settle();
        }
    }
}

/// The store works again without the fault: at once where it stayed open, and after it was opened again.
async fn check_recovered(files: &ModelFiles, what: &str) {
    files.fail(None);
    check(files, &[], what).await;
    let store = DiskStore::open_on(Arc::new(files.clone()), config_in(files.folder())).unwrap();
    for number in 0..4 {
        store.put_blob(&digest(number), Blob::from_bytes(bytes(number))).await.unwrap();
        assert_eq!(get(&store, &digest(number)).await.unwrap(), bytes(number), "{what}");
    }
}

#[test]
fn t3_4_a_failure_of_any_operation_is_an_error_and_nothing_worse() {
    let runtime = runtime();
    let files = ModelFiles::new();
    files.fail(None);
    runtime.block_on(session_with_faults(&files));
    let operations = files.operations();
    assert!(operations > 500, "{operations}");
    for full in [false, true] {
        for from in 0..operations {
            // A single failure, and one that lasts for a while.
            for count in [1, 40] {
                let files = ModelFiles::new();
                files.fail(Some(Fault { from, count, full }));
                runtime.block_on(session_with_faults(&files));
                let what = format!("operations {from} to {} failed, full: {full}", from + count);
                runtime.block_on(check_recovered(&files, &what));
            }
        }
    }
}

#[test]
fn t3_4_a_store_that_stays_open_works_again_when_the_failure_is_over() {
    let runtime = runtime();
    for full in [false, true] {
        for from in 0..200 {
            let files = ModelFiles::new();
            let store = DiskStore::open_on(Arc::new(files.clone()), config_in(files.folder())).unwrap();
            runtime.block_on(async {
                store.put_blob(&digest(1), Blob::from_bytes(bytes(1))).await.unwrap();
                files.fail(Some(Fault { from, count: 60, full }));
                let mut failed = 0;
                for number in 2..12 {
                    let stored = store.put_blob(&digest(number), Blob::from_bytes(bytes(number))).await;
                    failed += usize::from(stored.is_err());
                }
                files.fail(None);
                for number in 1..16 {
                    store.put_blob(&digest(number), Blob::from_bytes(bytes(number))).await.unwrap();
                    assert_eq!(get(&store, &digest(number)).await.unwrap(), bytes(number), "{from}, {failed} failed");
                }
                // What could not be removed goes when the store is opened again.
                drop(store);
                let store = DiskStore::open_on(Arc::new(files.clone()), config_in(files.folder())).unwrap();
                store.index.settle();
                check_files(&store, &files, &format!("{from}, full: {full}")).await;
            });
        }
    }
}

#[tokio::test]
async fn t3_5_a_disk_that_is_nearly_full_refuses_before_it_is_full_and_makes_room_first() {
    let files = ModelFiles::new();
    let store = DiskStore::open_on(Arc::new(files.clone()), config_in(files.folder())).unwrap();
    let reserve = muster_model::limits::DISK_RESERVE_BYTES;
    store.put_blob(&digest(3), Blob::from_bytes(bytes(3))).await.unwrap();
    let lease = store.lease(&[digest(3)]).await.unwrap();
    files.set_available(reserve + 400);
    tokio::time::sleep(Duration::from_millis(250)).await;
    let refused = store.put_blob(&digest(6), Blob::from_bytes(bytes(6))).await;
    assert!(matches!(refused, Err(StoreError::DiskFull { .. })), "{refused:?}");
    assert!(refused.unwrap_err().is_full());
    assert_eq!(get(&store, &digest(3)).await.unwrap(), bytes(3));
    drop(lease);
    // What is not held gives way.
    store.put_blob(&digest(6), Blob::from_bytes(bytes(6))).await.unwrap();
    assert_eq!(store.find_missing(&[digest(3), digest(6)]).await.unwrap(), [digest(3)]);
    files.set_available(reserve * 2);
    tokio::time::sleep(Duration::from_millis(250)).await;
    store.put_blob(&digest(3), Blob::from_bytes(bytes(3))).await.unwrap();
    assert_eq!(store.find_missing(&[digest(3), digest(6)]).await.unwrap(), []);
}
