//! Eviction against a map that knows what was put, what is leased, and the order of use.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

const CAPACITY: u64 = 400_000;

#[derive(Clone, Debug)]
enum Operation {
    Put(u32),
    PutMany(Vec<u32>),
    Get(u32),
    Lease(u32),
    Release(u32),
    Record(u32, u32),
    Collect(u64),
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    let number = 0_u32..160;
    prop_oneof![
        40 => number.clone().prop_map(Operation::Put),
        8 => proptest::collection::vec(number.clone(), 1..12).prop_map(Operation::PutMany),
        30 => number.clone().prop_map(Operation::Get),
        10 => number.clone().prop_map(Operation::Lease),
        12 => any::<u32>().prop_map(Operation::Release),
        6 => (number.clone(), number).prop_map(|(key, blob)| Operation::Record(key, blob)),
        1 => (0..CAPACITY).prop_map(Operation::Collect),
        1 => Just(Operation::Reopen),
    ]
}

fn bytes(number: u32) -> Bytes {
    let count = match number % 4 {
        0 => 1000 + 70 * number as usize,
        1 => 5,
        2 => 1 + number as usize,
        _ => 900 + number as usize % 100,
    };
    number.to_le_bytes().repeat(count).into()
}

fn digest(number: u32) -> Digest {
    Digest::of(&bytes(number))
}

/// What should be here, by last use.
#[derive(Default)]
struct Model {
    used: HashMap<u32, u64>,
    leased: BTreeMap<u64, (u32, Lease)>,
    /// Leased since they were used last: an eviction that met them has put them behind all others.
    passed_over: HashSet<u32>,
    /// By key: the blob that the record points at.
    records: HashMap<u32, u32>,
    clock: u64,
}

impl Model {
    fn touch(&mut self, number: u32) {
        self.clock += 1;
        self.used.insert(number, self.clock);
        self.passed_over.remove(&number);
    }

    fn held(&self) -> HashSet<u32> {
        self.leased.values().map(|(number, _)| *number).collect()
    }

    /// Takes over what was evicted, after checking that it was the store's to evict.
    fn compare(&mut self, listed: &[u32], just_put: &[u32], operation: &Operation) {
        let present: HashSet<u32> = listed.iter().copied().collect();
        for number in &present {
            assert!(self.used.contains_key(number), "{number} is here, and was evicted before {operation:?}");
        }
        let held = self.held();
        let order: Vec<u32> = listed
            .iter()
            .filter(|number| !held.contains(number) && !self.passed_over.contains(number))
            .copied()
            .collect();
        assert!(order.is_sorted_by_key(|number| self.used[number]), "{operation:?}: {order:?}, {:?}", self.used);
        for number in &held {
            assert!(present.contains(number), "{operation:?} evicted {number}, which is leased");
        }
        let evicted: Vec<u32> = self.used.keys().filter(|number| !present.contains(number)).copied().collect();
        let newest_evicted =
            evicted.iter().filter(|number| !just_put.contains(number)).map(|number| self.used[number]).max();
        let comparable = |number: &&u32| !held.contains(number) && !self.passed_over.contains(number);
        let oldest_kept = present.iter().filter(comparable).map(|number| self.used[number]).min();
        if let (Some(newest_evicted), Some(oldest_kept)) = (newest_evicted, oldest_kept) {
            assert!(
                newest_evicted < oldest_kept,
                "{operation:?} evicted what was used later than what stays: {evicted:?}, {:?}",
                self.used
            );
        }
        self.used.retain(|number, _| present.contains(number));
    }
}

/// What is here, the least recently used first.
async fn present(store: &DiskStore) -> Vec<u32> {
    let mut listed = Vec::new();
    let mut from = None;
    let numbers: HashMap<Digest, u32> = (0..160).map(|number| (digest(number), number)).collect();
    loop {
        let page = store.list_blobs(PageRequest { from, ..PageRequest::default() }).await.unwrap();
        listed.extend(page.blobs.iter().map(|entry| numbers[&entry.digest]));
        from = page.next;
        if from.is_none() {
            return listed;
        }
    }
}

async fn apply(store: &Arc<DiskStore>, model: &mut Model, operation: &Operation) -> Vec<u32> {
    match operation {
        Operation::Put(number) => {
            let stored = store.put_blob(&digest(*number), Blob::from_bytes(bytes(*number))).await;
            put_came_to(model, *number, &stored);
            return vec![*number];
        }
        Operation::PutMany(numbers) => {
            let stored = store.put_many(numbers.iter().map(|number| Blob::from_bytes(bytes(*number))).collect()).await;
            // Files are stored as their turn comes, small blobs together after that.
            let small = |number: &u32| digest(*number).size_bytes <= 4096;
            let in_order = numbers.iter().zip(&stored).filter(|(number, _)| !small(number));
            for (number, stored) in in_order.chain(numbers.iter().zip(&stored).filter(|(number, _)| small(number))) {
                put_came_to(model, *number, stored);
            }
            return numbers.clone();
        }
        Operation::Get(number) => match get(store, &digest(*number)).await {
            Ok(read) => {
                assert_eq!(read, bytes(*number));
                assert!(model.used.contains_key(number));
                model.touch(*number);
            }
            Err(error) => assert!(!model.used.contains_key(number), "{error}"),
        },
        Operation::Lease(number) => match store.lease(&[digest(*number)]).await {
            Ok(lease) => {
                assert!(model.used.contains_key(number));
                model.touch(*number);
                model.leased.insert(model.clock, (*number, lease));
            }
            Err(error) => assert!(!model.used.contains_key(number), "{error}"),
        },
        Operation::Release(chosen) => {
            let keys: Vec<u64> = model.leased.keys().copied().collect();
            if !keys.is_empty() {
                let released = model.leased.remove(&keys[*chosen as usize % keys.len()]);
                model.passed_over.extend(released.map(|(number, _)| number));
            }
        }
        Operation::Record(key, number) => {
            let put =
                ActionCache::put(&**store, vec![(ActionKey([*key as u8; 32]), record("r", "r", &[digest(*number)]))]);
            match put.await {
                Ok(_) => {
                    assert!(model.used.contains_key(number));
                    model.touch(*number);
                    model.records.insert(*key, *number);
                }
                // What it points at was looked at before there was no room for it.
                Err(StoreError::Full { .. }) => model.touch(*number),
                Err(error) => assert!(!model.used.contains_key(number), "{error}"),
            }
        }
        Operation::Collect(target) => {
            let foreseen = store.foresee(CollectGoal::size(*target)).await.unwrap();
            let collected = store.collect(CollectGoal::size(*target)).await.unwrap();
            assert!(collected.charged_bytes <= *target || collected.charged_bytes <= collected.leased_bytes + 5000);
            let difference = foreseen.charged_bytes.abs_diff(collected.charged_bytes);
            // A pack more or less, and with it one blob more or less.
            assert!(difference <= 5000 + digest(156).size_bytes, "{foreseen:?} {collected:?}");
        }
        Operation::Reopen => {}
    }
    Vec::new()
}

fn put_came_to(model: &mut Model, number: u32, stored: &Result<(), StoreError>) {
    match stored {
        Ok(()) => model.touch(number),
        Err(StoreError::Full { .. }) => {
            assert!(!model.leased.is_empty() || digest(number).size_bytes > CAPACITY / 2, "{stored:?}");
        }
        Err(error) => panic!("{error}"),
    }
}

/// Every record that is answered points at a blob that is here.
async fn check_records(store: &DiskStore, model: &mut Model) {
    let keys: Vec<u32> = model.records.keys().copied().collect();
    let listed = store.list_records(PageRequest::default()).await.unwrap().records;
    for key in keys {
        let there = listed.iter().any(|entry| entry.key == ActionKey([key as u8; 32]));
        let blob = model.records[&key];
        assert!(!there || model.used.contains_key(&blob), "a record outlived its blob");
        if !there {
            model.records.remove(&key);
        }
    }
}

async fn run(runner: &mut TestRunner, count: usize) {
    let folder = folder();
    let config = DiskConfig { capacity_bytes: CAPACITY, ..config(&folder) };
    let mut store = DiskStore::open(config.clone()).unwrap();
    let mut model = Model::default();
    for _ in 0..count {
        let operation = operation().new_tree(runner).unwrap().current();
        let just_put = apply(&store, &mut model, &operation).await;
        if matches!(operation, Operation::Reopen) {
            let released = std::mem::take(&mut model.leased);
            model.passed_over.extend(released.into_values().map(|(number, _)| number));
            let before = present(&store).await;
            drop(store);
            store = DiskStore::open(config.clone()).unwrap();
            assert_eq!(present(&store).await, before);
        }
        let present = present(&store).await;
        model.compare(&present, &just_put, &operation);
        check_records(&store, &mut model).await;
        let stats = store.stats().await.unwrap();
        assert!(stats.charged_bytes <= CAPACITY, "{operation:?}: {stats:?}");
        assert_eq!(stats.blobs, model.used.len() as u64);
    }
    let on_disk: u64 = walk(&config.directory.join("blobs")).iter().chain(&walk(&config.directory.join("packs"))).sum();
    assert!(on_disk <= CAPACITY, "{on_disk} bytes on the disk");
    let stats = store.stats().await.unwrap();
    assert!(stats.evicted_blobs > 0 && stats.compacted_bytes > 0, "{stats:?}");
    let files = model.used.keys().filter(|number| digest(**number).size_bytes > 4096).count();
    assert_eq!(walk(&config.directory.join("blobs")).len(), files);
}

/// The sizes of all files below a folder.
fn walk(path: &std::path::Path) -> Vec<u64> {
    if path.is_dir() {
        std::fs::read_dir(path).unwrap().flat_map(|entry| walk(&entry.unwrap().path())).collect()
    } else {
        vec![std::fs::metadata(path).unwrap().len()]
    }
}

#[test]
fn t2_15_ten_thousand_random_operations_never_evict_what_is_leased() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
    for _ in 0..4 {
        runtime.block_on(run(&mut runner, 2500));
    }
}
