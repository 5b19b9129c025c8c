//! An index that is damaged, gone, or another's: it is made anew from what is on the disk, and never makes the store serve a wrong byte.

use std::collections::BTreeMap;

use super::*;
use crate::files::model::ModelFiles;
use crate::files::model::image::Random;

const NUMBERS: u32 = 40;

fn config_in(files: &ModelFiles) -> DiskConfig {
    DiskConfig { lease_time: Duration::ZERO, packed_bytes_max: 4096, ..DiskConfig::new(files.folder()) }
}

fn bytes(number: u32) -> Bytes {
    if number.is_multiple_of(4) { large(number) } else { small(number) }
}

fn digest(number: u32) -> Digest {
    Digest::of(&bytes(number))
}

fn record_of(number: u32) -> ActionRecord {
    record("payload", "outcome", &[digest(number), digest((number + 1) % NUMBERS)])
}

async fn fill(files: &ModelFiles) -> Arc<DiskStore> {
    let store = DiskStore::open_on(Arc::new(files.clone()), config_in(files)).unwrap();
    let blobs = (0..NUMBERS).map(|number| Blob::from_bytes(bytes(number))).collect();
    assert!(store.put_many(blobs).await.iter().all(Result::is_ok));
    let records = (0..NUMBERS).map(|number| (ActionKey([number as u8; 32]), record_of(number))).collect();
    ActionCache::put(&*store, records).await.unwrap();
    store
}

/// Opens a damaged store: whatever it answers is right, and it takes everything again.
async fn check(files: &ModelFiles, what: &str) -> usize {
    let store = DiskStore::open_on(Arc::new(files.clone()), config_in(files));
    let store = store.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    let mut found = 0;
    for number in 0..NUMBERS {
        if let Ok(read) = get(&store, &digest(number)).await {
            assert_eq!(read, bytes(number), "{what}");
            found += 1;
        }
        if let Ok(answers) = ActionCache::get(&*store, &[ActionKey([number as u8; 32])]).await
            && let Some(Some(answer)) = answers.first()
        {
            assert_eq!(answer, &record_of(number), "{what}");
        }
    }
    for number in 0..NUMBERS {
        // The first uses may find the damage, and then a row goes, or a new index is made.
        let mut read = Err(StoreError::NotFound(digest(number)));
        for _ in 0..3 {
            if read.is_err() {
                drop(store.put_blob(&digest(number), Blob::from_bytes(bytes(number))).await);
                read = get(&store, &digest(number)).await;
            }
        }
        assert_eq!(read.unwrap_or_else(|error| panic!("{what}: {number}: {error:?}")), bytes(number), "{what}");
    }
    found
}

#[tokio::test]
async fn t3_7_a_thousand_flipped_bytes_of_the_index_never_serve_a_wrong_byte() {
    let files = ModelFiles::new();
    let store = fill(&files).await;
    // While the store is open the log is there too.
    let open = files.fork();
    drop(store);
    let mut random = Random(5);
    let mut found = 0;
    for round in 0..1000 {
        let (source, name) = if round % 3 == 0 { (&open, "index.sqlite-wal") } else { (&files, "index.sqlite") };
        let damaged = source.fork();
        let mut what = String::new();
        damaged.edit(name, |mut bytes| {
            let (place, bit) = (random.below(bytes.len()), random.below(8));
            bytes[place] ^= 1 << bit;
            what = format!("round {round}: bit {bit} of byte {place} of {name}");
            Some(bytes)
        });
        found += check(&damaged, &what).await;
    }
    // Most of what is stored is found again in most rounds.
    assert!(found > 1000 * NUMBERS as usize * 3 / 4, "{found}");
}

#[tokio::test]
async fn t3_7_a_truncated_log_and_missing_or_swapped_files_are_survived() {
    let files = ModelFiles::new();
    let store = fill(&files).await;
    let open = files.fork();
    drop(store);
    let mut random = Random(6);
    for round in 0..60 {
        let damaged = open.fork();
        damaged.edit("index.sqlite-wal", |mut bytes| {
            bytes.truncate(random.below(bytes.len()));
            Some(bytes)
        });
        check(&damaged, &format!("truncated log, round {round}")).await;
        let damaged = files.fork();
        damaged.edit("index.sqlite", |mut bytes| {
            bytes.truncate(random.below(bytes.len()));
            Some(bytes)
        });
        check(&damaged, &format!("truncated index, round {round}")).await;
    }
    let gone = files.fork();
    gone.edit("index.sqlite", |_| None);
    assert_eq!(check(&gone, "no index").await, NUMBERS as usize);
    let nonsense = files.fork();
    nonsense.edit("index.sqlite", |_| Some(b"this is no database, and was never one".repeat(200)));
    assert_eq!(check(&nonsense, "nonsense").await, NUMBERS as usize);
    // Another store's index, whose packs and files are not here.
    let other = ModelFiles::new();
    drop(fill(&other).await);
    let swapped = files.fork();
    let mut taken = None;
    other.edit("index.sqlite", |bytes| {
        taken = Some(bytes.clone());
        Some(bytes)
    });
    swapped.edit("index.sqlite", |_| taken);
    check(&swapped, "another store's index").await;
    // A log without its index, and an index with another's log.
    let torn = open.fork();
    torn.edit("index.sqlite", |_| Some(Vec::new()));
    check(&torn, "an empty index with a log").await;
}

type Rows = BTreeMap<Digest, (u64, Option<(i64, i64)>)>;

fn rows(config: &DiskConfig) -> Rows {
    let index = rusqlite::Connection::open(config.directory.join("index.sqlite")).unwrap();
    let mut statement = index.prepare("SELECT function, hash, size, copies, pack, offset FROM blobs").unwrap();
    let rows = statement
        .query_map([], |row| {
            let digest = index::digest_from(row.get(0)?, row.get(1)?, row.get(2)?)?;
            let place = row.get::<_, Option<i64>>(4)?.zip(row.get::<_, Option<i64>>(5)?);
            Ok((digest, (row.get::<_, i64>(3)?.cast_unsigned(), place)))
        })
        .unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn t3_8_the_index_of_a_hundred_thousand_blobs_is_made_anew_as_it_was() {
    let folder = folder();
    let config = config(&folder);
    let store = DiskStore::open(config.clone()).unwrap();
    for batch in 0..100_u32 {
        let blobs: Vec<Blob> = (0..1000)
            .map(|number| {
                let number = batch * 1000 + number;
                Blob::from_bytes(if number.is_multiple_of(200) { large(number) } else { small(number) })
            })
            .collect();
        assert!(store.put_many(blobs).await.iter().all(Result::is_ok));
    }
    let before = store.stats().await.unwrap();
    drop(store);
    let lost = rows(&config);
    assert_eq!(lost.len(), 100_000);
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        drop(std::fs::remove_file(config.directory.join(name)));
    }
    let started = std::time::Instant::now();
    let store = DiskStore::open(config.clone()).unwrap();
    println!("the index of {} blobs was made anew in {:.2} s", lost.len(), started.elapsed().as_secs_f64());
    let after = store.stats().await.unwrap();
    assert_eq!((after.blobs, after.bytes, after.charged_bytes), (before.blobs, before.bytes, before.charged_bytes));
    drop(store);
    assert_eq!(rows(&config), lost);
}
