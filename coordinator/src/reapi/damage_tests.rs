//! T2.12: a bit flipped in each of a thousand stored blobs, read by each way there is.

use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use muster_cache::tree::TreeBuilder;
use muster_cache::{Blob, BlobStore, DiskStore, Fetch, Ground, ReadThrough, Stager, StoreError};
use muster_model::Digest;
use muster_model::limits::{BLOB_LEASE_TIME, CHUNK_BYTES_MAX, PACKED_BLOB_BYTES_MAX};
use muster_proto::bytestream::ReadRequest;
use muster_proto::bytestream::byte_stream_client::ByteStreamClient;
use muster_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use muster_proto::reapi::{self, digest_function};
use tokio_stream::StreamExt;
use tonic::Code;

use super::resource;
use super::tests::{Fleet, fleet_with};

const COUNT: usize = 1000;
/// What each blob begins with, wherever it is stored.
const MARK: &[u8] = b"one of a thousand: ";

/// Small ones, which share files, large ones with files of their own, and some that are handed out before they are read to their end.
fn blobs() -> Vec<Bytes> {
    let sized = |number: usize| match number {
        _ if number.is_multiple_of(100) => CHUNK_BYTES_MAX + 5000,
        _ if number.is_multiple_of(10) => PACKED_BLOB_BYTES_MAX as usize + 1,
        _ => 100 + number,
    };
    let blob = |number: usize| {
        let mut bytes = [MARK, &(number as u64).to_le_bytes()].concat();
        bytes.resize(sized(number), number as u8);
        bytes.into()
    };
    (0..COUNT).map(blob).collect()
}

/// Flips a bit behind every [`MARK`] in the files of a store; how many.
fn flip_all(folder: &Path) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            flipped += flip_all(&entry);
            continue;
        }
        if entry.file_name().unwrap().to_string_lossy().starts_with("index.sqlite") {
            continue;
        }
        let bytes = std::fs::read(&entry).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(&entry).unwrap();
        let mut start = 0;
        while let Some(found) = bytes[start..].windows(MARK.len()).position(|window| window == MARK) {
            let place = start + found + MARK.len();
            file.write_all_at(&[bytes[place] ^ 0x40], place as u64).unwrap();
            flipped += 1;
            start = place;
        }
    }
    flipped
}

async fn stored(fleet: &Fleet) -> Vec<(Digest, Bytes)> {
    let blobs = blobs();
    let stored = fleet.disk.put_many(blobs.iter().cloned().map(Blob::from_bytes).collect()).await;
    assert!(stored.iter().all(Result::is_ok));
    blobs.into_iter().map(|bytes| (Digest::of(&bytes), bytes)).collect()
}

async fn quarantined(store: &DiskStore) -> u64 {
    store.stats().await.unwrap().quarantined_blobs
}

/// What one reads of the coordinator's store, itself or from afar; none when it says that it has no such blob.
async fn read(fleet: &Fleet, digest: &Digest, way: usize) -> Option<Bytes> {
    let whole = async |blob: Result<Blob, StoreError>| match blob {
        Ok(blob) => blob.into_bytes(u64::MAX).await,
        Err(error) => Err(error),
    };
    let read = match way {
        0 => whole(fleet.disk.get_blob(digest).await).await,
        1 => whole(fleet.remote().get(digest).await).await,
        2 => {
            let (found, blob) = fleet.remote().get_many(vec![*digest]).next().await.unwrap();
            assert_eq!(found, *digest);
            whole(blob).await
        }
        3 if digest.size_bytes <= PACKED_BLOB_BYTES_MAX => {
            let request = reapi::BatchReadBlobsRequest {
                digests: vec![digest.into()],
                digest_function: digest_function::Value::Blake3.into(),
                ..Default::default()
            };
            let mut client = ContentAddressableStorageClient::new(fleet.channel.clone());
            let mut answer = client.batch_read_blobs(request).await.unwrap().into_inner();
            let part = answer.responses.remove(0);
            let status = part.status.unwrap_or_default();
            let code = Code::from(status.code);
            assert!(matches!(code, Code::Ok | Code::NotFound), "{status:?}");
            return (code == Code::Ok).then_some(part.data);
        }
        _ => {
            let request = ReadRequest { resource_name: resource::print_read(digest), read_offset: 0, read_limit: 0 };
            let mut bytes = Vec::new();
            let mut parts = match ByteStreamClient::new(fleet.channel.clone()).read(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => {
                    assert_eq!(status.code(), Code::NotFound, "{status}");
                    return None;
                }
            };
            while let Some(part) = parts.next().await {
                match part {
                    Ok(part) => bytes.extend_from_slice(&part.data),
                    Err(status) => {
                        assert_eq!(status.code(), Code::NotFound, "{status}");
                        assert!((bytes.len() as u64) < digest.size_bytes, "the last bytes of a blob that rotted");
                        return None;
                    }
                }
            }
            return Some(bytes.into());
        }
    };
    match read {
        Ok(bytes) => Some(bytes),
        Err(StoreError::NotFound(_) | StoreError::Corrupt(_)) => None,
        Err(error) => panic!("{digest}: {error:?}"),
    }
}

#[tokio::test]
async fn t2_12_a_flipped_bit_in_each_of_a_thousand_blobs_is_found_by_every_way_to_read_it() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    let stored = stored(&fleet).await;
    assert_eq!(flip_all(&fleet.server_folder()), COUNT);
    for (number, (digest, bytes)) in stored.iter().enumerate() {
        let way = (number / 2 + number / 100) % 5;
        assert_eq!(read(&fleet, digest, way).await, None, "{number}, by way {way}");
        assert_eq!(fleet.disk.find_missing(&[*digest]).await.unwrap(), [*digest]);
        // A client that is told so brings it again, and then everybody has it.
        fleet.remote().put(digest, Blob::from_bytes(bytes.clone())).await.unwrap();
        assert_eq!(read(&fleet, digest, way).await.as_ref(), Some(bytes), "{number}, by way {way}");
    }
    assert_eq!(quarantined(&fleet.disk).await, COUNT as u64);
}

/// What rotted on an agent comes from the coordinator again, and nobody sees anything of it.
#[tokio::test]
async fn t2_12_what_rotted_here_is_fetched_again_from_a_peer_that_has_it() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    let stored = stored(&fleet).await;
    let digests: Vec<Digest> = stored.iter().map(|(digest, _)| *digest).collect();
    let local = fleet.local();
    let store = ReadThrough::new(local.clone(), fleet.remote());
    assert_eq!(store.fetch_all(&digests).await.unwrap().fetched_blobs, COUNT as u64);
    assert_eq!(flip_all(&fleet.local_folder()), COUNT);
    for (digest, bytes) in &stored {
        assert_eq!(store.get_whole(digest, u64::MAX).await.unwrap(), bytes);
    }
    assert_eq!(quarantined(&local).await, COUNT as u64);
    assert_eq!(quarantined(&fleet.disk).await, 0);
    // Whoever reads by pieces hears of it at the end, and finds the blob the next time.
    let (large, bytes) = &stored[0];
    assert!(flip_all(&fleet.local_folder()) >= COUNT);
    let read = store.get(large).await.unwrap().into_bytes(u64::MAX).await;
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    assert_eq!(store.get(large).await.unwrap().into_bytes(u64::MAX).await.unwrap(), bytes);
}

/// The same for files and directories of a tree on their way into an environment.
#[tokio::test]
async fn t2_12_a_tree_whose_blobs_rotted_is_staged_from_what_a_peer_has() {
    let fleet = fleet_with(true, BLOB_LEASE_TIME).await;
    let stored = stored(&fleet).await;
    let mut builder = TreeBuilder::new();
    for (number, (digest, _)) in stored.iter().enumerate() {
        // The mark is in directories too.
        let folder = format!("{}{}", String::from_utf8_lossy(MARK), number % 7);
        builder.insert_file(&format!("/{folder}/{number}"), *digest, number % 3 == 0).unwrap();
    }
    let tree = builder.finish().unwrap();
    for (digest, bytes) in &tree.directories {
        fleet.disk.put_blob(digest, Blob::from_bytes(bytes.clone())).await.unwrap();
    }
    let local = fleet.local();
    let store = ReadThrough::new(local.clone(), fleet.remote());
    let directories = tree.directories.iter().map(|(digest, _)| *digest);
    let whole: Vec<Digest> = stored.iter().map(|(digest, _)| *digest).chain(directories).collect();
    store.fetch_all(&whole).await.unwrap();
    // The root names the mark once for each directory below it.
    assert_eq!(flip_all(&fleet.local_folder()), COUNT + 7);
    let stager = Stager::open(local.clone(), fleet.folder().join("staged")).unwrap();
    let staged = stager.stage(&tree.root, Ground::Bare, &store).await.unwrap();
    for (number, (_, bytes)) in stored.iter().enumerate() {
        let path = format!("{}{}/{number}", String::from_utf8_lossy(MARK), number % 7);
        assert_eq!(std::fs::read(staged.directories()[0].join(path)).unwrap(), bytes[..], "{number}");
    }
    assert_eq!(quarantined(&local).await, COUNT as u64 + 1);
    assert_eq!(staged.stats().fetched_blobs, COUNT as u64 + 1);
}
