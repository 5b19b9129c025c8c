//! What is refused on the way in, and found on the way out.

use std::io::Write;

use super::*;

/// Puts bytes under a digest that may not be theirs, as bytes, as a stream in pieces, and as a file.
async fn offers(
    store: &DiskStore,
    digest: Digest,
    bytes: &[u8],
    folder: &tempfile::TempDir,
) -> Vec<Result<(), StoreError>> {
    let bytes = Bytes::copy_from_slice(bytes);
    let path = folder.path().join("offered");
    std::fs::write(&path, &bytes).unwrap();
    let pieces: Vec<Result<Bytes, StoreError>> =
        bytes.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let whole = match Blob::from_bytes_of(digest, bytes) {
        Ok(blob) => store.put_blob(&digest, blob).await,
        Err(error) => Err(error),
    };
    let mut results = vec![
        whole,
        store.put_blob(&digest, Blob::from_stream(digest, stream::iter(pieces))).await,
        store.put_blob(&digest, Blob::from_file(&path, digest)).await,
    ];
    results.extend(store.put_many(vec![Blob::from_file(&path, digest)]).await);
    results
}

#[tokio::test]
async fn t2_1_what_is_not_of_its_digest_is_refused_and_leaves_nothing() {
    let folder = folder();
    let config = config(&folder);
    let store = DiskStore::open(config.clone()).unwrap();
    for bytes in [small(1), large(1)] {
        for function in [DigestFunction::Blake3, DigestFunction::Sha256] {
            let right = digest_of(function, &bytes);
            let other = digest_of(function, b"other");
            let swapped = match function {
                DigestFunction::Blake3 => DigestFunction::Sha256,
                DigestFunction::Sha256 => DigestFunction::Blake3,
            };
            let wrong = [
                Digest { hash: other.hash, ..right },
                Digest { size_bytes: right.size_bytes - 1, ..right },
                Digest { size_bytes: right.size_bytes + 1, ..right },
                Digest { size_bytes: 0, ..right },
                Digest { size_bytes: u64::MAX, ..right },
                Digest { function: swapped, ..right },
                digest_of(function, b""),
            ];
            for digest in wrong {
                for result in offers(&store, digest, &bytes, &folder).await {
                    // The empty blob is here whatever is offered for it.
                    let is_known_empty = digest == digest_of(function, b"");
                    let typed = matches!(result, Err(StoreError::Mismatch { .. } | StoreError::Limit { .. }));
                    assert!(typed || (is_known_empty && result.is_ok()), "{digest}: {result:?}");
                }
                if digest != digest_of(function, b"") {
                    assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
                    assert!(matches!(get(&store, &digest).await, Err(StoreError::NotFound(_))));
                }
            }
            assert_eq!(incoming(&config), 0);
        }
    }
    for hex in ["", "ABCDEF", &"a".repeat(63), &"a".repeat(65), &"A".repeat(64), &"g".repeat(64)] {
        assert!(Digest::parse(DigestFunction::Sha256, hex, 1).is_err(), "{hex}");
    }
    assert_eq!(store.stats().await.unwrap().blobs, 0);
    for function in [DigestFunction::Blake3, DigestFunction::Sha256] {
        let empty = digest_of(function, b"");
        assert_eq!(get(&store, &empty).await.unwrap(), Bytes::new());
        assert!(offers(&store, empty, b"", &folder).await.iter().all(Result::is_ok));
    }
}

#[tokio::test]
async fn t2_2_the_same_bytes_under_two_functions_never_answer_for_each_other() {
    let folder = folder();
    let store = DiskStore::open(config(&folder)).unwrap();
    for bytes in [small(1), large(1)] {
        let (blake3, sha256) = (Digest::of(&bytes), digest_of(DigestFunction::Sha256, &bytes));
        let crossed = [
            Digest { function: DigestFunction::Sha256, ..blake3 },
            Digest { function: DigestFunction::Blake3, ..sha256 },
        ];
        put(&store, &bytes).await;
        assert_eq!(store.find_missing(&[blake3, sha256]).await.unwrap(), [sha256]);
        store.put_blob(&sha256, Blob::from_bytes_of(sha256, bytes.clone()).unwrap()).await.unwrap();
        for digest in [blake3, sha256] {
            assert_eq!(get(&store, &digest).await.unwrap(), bytes);
        }
        for digest in crossed {
            assert!(matches!(get(&store, &digest).await, Err(StoreError::NotFound(_))));
            assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
        }
    }
}

#[tokio::test]
async fn t2_3_a_source_that_changes_while_it_is_read_is_stored_right_or_refused() {
    let folder = folder();
    let config = config(&folder);
    let store = DiskStore::open(config.clone()).unwrap();
    let path = folder.path().join("source");
    let (mut stored, mut refused) = (0, 0);
    for round in 0..1000_u32 {
        let bytes = if round % 2 == 0 { small(round) } else { large(round) };
        std::fs::write(&path, &bytes).unwrap();
        let digest = Digest::of(&bytes);
        let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        let length = bytes.len();
        let edit = std::thread::spawn(move || {
            use std::io::{Seek, SeekFrom};
            for _ in 0..round % 5 {
                std::thread::yield_now();
            }
            writer.seek(SeekFrom::Start((round as usize % length) as u64)).unwrap();
            writer.write_all(&[round as u8 ^ 0x5a]).unwrap();
            writer
        });
        let result = store.put_blob(&digest, Blob::from_file(&path, digest)).await;
        // The writer still has its descriptor, and uses it after the put.
        let mut writer = edit.join().unwrap();
        writer.write_all(b"late").unwrap();
        match result {
            Ok(()) => {
                stored += 1;
                assert_eq!(get(&store, &digest).await.unwrap(), bytes);
            }
            Err(StoreError::Mismatch { .. }) => {
                refused += 1;
                assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(stored + refused, 1000);
    assert_eq!(incoming(&config), 0);
}

#[tokio::test]
async fn t2_12_a_flipped_bit_in_each_of_a_thousand_blobs_is_found_by_every_reader() {
    let folder = folder();
    let config = config(&folder);
    let blobs: Vec<Bytes> =
        (0..1000).map(|number| if number % 2 == 0 { small(number) } else { large(number) }).collect();
    {
        let store = DiskStore::open(config.clone()).unwrap();
        assert!(store.put_many(blobs.iter().cloned().map(Blob::from_bytes).collect()).await.iter().all(Result::is_ok));
    }
    for blob in &blobs {
        flip(&config, &Digest::of(blob));
    }
    let store = DiskStore::open(config.clone()).unwrap();
    for (number, blob) in blobs.iter().enumerate() {
        let digest = Digest::of(blob);
        let destination = folder.path().join("copy");
        let first = match number % 4 {
            0 | 1 => get(&store, &digest).await.map(drop),
            2 => store.get_many(&[digest]).await.remove(0).map(drop),
            _ => store.link_file_in_background(&digest, &destination, number % 8 == 3).await,
        };
        // One that shares a pack may have been found when that was rewritten without the ones before.
        let found = match first {
            Err(StoreError::Corrupt(_)) => true,
            Err(StoreError::NotFound(_)) => number % 2 == 0,
            _ => false,
        };
        assert!(found, "{number}: {first:?}");
        assert!(!destination.exists());
        assert!(matches!(get(&store, &digest).await, Err(StoreError::NotFound(_))));
        assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
        put(&store, blob).await;
        assert_eq!(get(&store, &digest).await.unwrap(), blob);
    }
    assert_eq!(store.stats().await.unwrap().quarantined_blobs, 1000);
    let kept = std::fs::read_dir(config.directory.join("quarantine")).unwrap().count();
    assert_eq!(kept, muster_model::limits::QUARANTINED_BLOBS_MAX);
}

#[tokio::test]
async fn a_record_that_rotted_is_a_miss() {
    let folder = folder();
    let config = config(&folder);
    let key = ActionKey([3; 32]);
    let changes = [
        "UPDATE records SET payload = x'00'",
        "UPDATE records SET outcome = x'00'",
        "UPDATE records SET proof = x'00'",
        "UPDATE record_references SET position = 7 - position",
        "DELETE FROM record_references WHERE position = 0",
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let store = DiskStore::open(config.clone()).unwrap();
        let blobs = [put(&store, &small(1)).await, put(&store, &small(2)).await];
        let stored = ActionCache::put(&*store, vec![(key, record("right", "same", &blobs))]).await.unwrap();
        assert_eq!(stored, [Recorded::Stored]);
        drop(store);
        let index = rusqlite::Connection::open(config.directory.join("index.sqlite")).unwrap();
        index.execute(change, []).unwrap();
        drop(index);
        let store = DiskStore::open(config.clone()).unwrap();
        assert_eq!(ActionCache::get(&*store, &[key]).await.unwrap(), [None], "{number}");
        assert_eq!(store.stats().await.unwrap().quarantined_records, 1);
    }
}
