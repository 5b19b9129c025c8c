//! What an operation costs, counted: it does not grow with what is in the store.

use super::*;
use crate::files::model::ModelFiles;

const FEW: u32 = 1000;
const MANY: u32 = 100_000;
/// Evictions whose cost is counted together.
const EVICTIONS: u32 = 500;
/// Packs of a megabyte would be rewritten too seldom for their share in an eviction to be seen.
const CAPACITY: u64 = 256 << 20;

fn config_in(files: &ModelFiles) -> DiskConfig {
    DiskConfig {
        capacity_bytes: CAPACITY,
        lease_time: Duration::ZERO,
        packed_bytes_max: 4096,
        ..DiskConfig::new(files.folder())
    }
}

fn open(files: &ModelFiles) -> Arc<DiskStore> {
    DiskStore::open_on(Arc::new(files.clone()), config_in(files)).unwrap()
}

/// A store with so many blobs, one in 100 of which has a file of its own, and a result that points at every tenth.
async fn filled(count: u32) -> (ModelFiles, Arc<DiskStore>) {
    let files = ModelFiles::new();
    let store = open(&files);
    for start in (0..count).step_by(1000) {
        let numbers = start..start + 1000;
        let bytes = |number: u32| if number.is_multiple_of(100) { large(number) } else { small(number) };
        let stored = store.put_many(numbers.clone().map(|number| Blob::from_bytes(bytes(number))).collect()).await;
        assert!(stored.iter().all(Result::is_ok));
        let records = numbers.step_by(10).map(|number| {
            let key = ActionKey(Digest::of(&number.to_le_bytes()).hash);
            (key, record("payload", "outcome", &[Digest::of(&bytes(number))]))
        });
        ActionCache::put(&*store, records.collect()).await.unwrap();
        store.index.settle();
        files.forget_changes();
    }
    (files, store)
}

/// Lets every page of the index that is looked at be read from its file, so that looks are counted.
async fn without_memory(store: &DiskStore) {
    store.index.call(|index| Ok(index.connection.pragma_update(None, "cache_size", 1)?)).await.unwrap();
}

/// Operations of the file system while so much is evicted, one by one as uploads do it, and together.
async fn costs_of_evictions(count: u32) -> [u64; 2] {
    let (files, store) = filled(count).await;
    without_memory(&store).await;
    let mut costs = [0, 0];
    for (cost, together) in costs.iter_mut().zip([1, EVICTIONS]) {
        files.fail(None);
        let before = store.stats().await.unwrap();
        for _ in 0..EVICTIONS / 5 / together.min(EVICTIONS / 5) {
            let evicted = store.index.call(move |index| {
                for _ in 0..together {
                    assert!(index.evict_one(i64::MAX)?);
                }
                Ok(())
            });
            evicted.await.unwrap();
        }
        let after = store.stats().await.unwrap();
        assert!(after.blobs + after.records < before.blobs + before.records);
        *cost = files.operations();
    }
    costs
}

#[tokio::test]
async fn an_eviction_costs_the_same_among_a_hundred_times_as_many_blobs() {
    let [few, many] = [costs_of_evictions(FEW).await, costs_of_evictions(MANY).await];
    println!("operations for evictions one by one and together: {few:?} among {FEW} blobs, {many:?} among {MANY}");
    for (few, many) in few.into_iter().zip(many) {
        // A B-tree of a hundred times as many rows is one or two pages deeper.
        assert!(many <= few * 3, "{few} operations among {FEW} blobs, {many} among {MANY}");
    }
}

#[tokio::test]
async fn a_start_costs_the_same_with_a_hundred_times_as_many_blobs() {
    let mut costs = [0, 0];
    for (cost, count) in costs.iter_mut().zip([FEW, MANY]) {
        let (files, store) = filled(count).await;
        drop(store);
        files.fail(None);
        let store = open(&files);
        *cost = files.operations();
        assert_eq!(store.stats().await.unwrap().blobs, u64::from(count));
    }
    let [few, many] = costs;
    println!("operations of a start: {few} with {FEW} blobs, {many} with {MANY}");
    // The list of packs is read, which are a thousandth of the capacity each.
    assert!(many <= few + 10, "{few} operations with {FEW} blobs, {many} with {MANY}");
}
