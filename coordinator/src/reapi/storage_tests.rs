//! The content-addressed store's services beyond plain blobs: digest functions, compression, trees, chunks.

use bytes::Bytes;
use futures_util::stream;
use muster_cache::{Blob, digest_of};
use muster_model::limits::{BLOB_LEASE_TIME, CHUNKING_AVERAGE_BYTES};
use muster_model::{Digest, DigestFunction};
use muster_proto::bytestream::byte_stream_client::ByteStreamClient;
use muster_proto::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use muster_proto::reapi::capabilities_client::CapabilitiesClient;
use muster_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use muster_proto::reapi::{self, Directory, DirectoryNode, FileNode, batch_update_blobs_request, digest_function};
use prost::Message;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use super::resource::Encoding;
use super::tests::{Fleet, fleet_with};

const SHA256: i32 = digest_function::Value::Sha256 as i32;
const BLAKE3: i32 = digest_function::Value::Blake3 as i32;

async fn fleet() -> Fleet {
    fleet_with(true, BLOB_LEASE_TIME).await
}

fn storage(fleet: &Fleet) -> ContentAddressableStorageClient<tonic::transport::Channel> {
    ContentAddressableStorageClient::new(fleet.channel.clone())
}

async fn put(fleet: &Fleet, function: DigestFunction, bytes: impl Into<Bytes>) -> Digest {
    let bytes = bytes.into();
    let digest = digest_of(function, &bytes);
    fleet.disk.put_blob(&digest, Blob::from_bytes_of(digest, bytes).unwrap()).await.unwrap();
    digest
}

async fn read(fleet: &Fleet, resource_name: String, read_offset: i64) -> Result<Vec<u8>, Status> {
    let request = ReadRequest { resource_name, read_offset, read_limit: 0 };
    let mut answer = ByteStreamClient::new(fleet.channel.clone()).read(request).await?.into_inner();
    let mut read = Vec::new();
    while let Some(part) = answer.next().await {
        read.extend_from_slice(&part?.data);
    }
    Ok(read)
}

fn some_bytes(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number % 251) as u8 ^ (number >> 12) as u8).collect()
}

#[tokio::test]
async fn t2_2_digest_functions_are_never_confused() {
    let fleet = fleet().await;
    let digest = put(&fleet, DigestFunction::Sha256, &b"some bytes"[..]).await;
    let find = async |instance: &str, digest_function: i32| {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: instance.into(),
            blob_digests: vec![digest.into()],
            digest_function,
        };
        let missing = storage(&fleet).find_missing_blobs(request).await.unwrap().into_inner().missing_blob_digests;
        missing.is_empty()
    };
    assert!(find("", SHA256).await && find("", 0).await && find("main", 0).await && find("blake3", SHA256).await);
    assert!(!find("", BLAKE3).await && !find("blake3", 0).await && !find("team/blake3", 0).await);
    let (hash, size) = (digest.hex(), digest.size_bytes);
    for (name, found) in [
        (format!("blobs/{hash}/{size}"), true),
        (format!("team/blobs/{hash}/{size}"), true),
        (format!("blake3/blobs/sha256/{hash}/{size}"), true),
        (format!("blobs/blake3/{hash}/{size}"), false),
        (format!("blake3/blobs/{hash}/{size}"), false),
    ] {
        match read(&fleet, name.clone(), 0).await {
            Ok(bytes) => assert!(found && bytes == b"some bytes", "{name}"),
            Err(status) => assert!(!found && status.code() == Code::NotFound, "{name}: {status}"),
        }
    }
    let claimed = Digest { function: DigestFunction::Blake3, ..digest };
    let part = batch_update_blobs_request::Request {
        digest: Some(claimed.into()),
        data: Bytes::from_static(b"some bytes"),
        compressor: 0,
    };
    let request =
        reapi::BatchUpdateBlobsRequest { requests: vec![part], digest_function: BLAKE3, ..Default::default() };
    let responses = storage(&fleet).batch_update_blobs(request).await.unwrap().into_inner().responses;
    assert_eq!(responses[0].status.as_ref().unwrap().code, i32::from(Code::InvalidArgument));
    let unknown = reapi::FindMissingBlobsRequest { digest_function: 3, ..Default::default() };
    assert_eq!(storage(&fleet).find_missing_blobs(unknown).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn capabilities_name_the_instances_own_function_first() {
    let fleet = fleet().await;
    let mut client = CapabilitiesClient::new(fleet.channel.clone());
    for (instance, first) in [("", SHA256), ("main", SHA256), ("blake3", BLAKE3)] {
        let request = reapi::GetCapabilitiesRequest { instance_name: instance.into() };
        let found = client.get_capabilities(request).await.unwrap().into_inner();
        let (cache, execution) = (found.cache_capabilities.unwrap(), found.execution_capabilities.unwrap());
        assert_eq!((cache.digest_functions[0], execution.digest_function), (first, first));
        assert!(cache.digest_functions.contains(&SHA256) && cache.digest_functions.contains(&BLAKE3));
        assert!(cache.action_cache_update_capabilities.unwrap().update_enabled && !execution.exec_enabled);
        let (low, high) = (found.low_api_version.unwrap(), found.high_api_version.unwrap());
        assert_eq!((low.major, low.minor, high.major, high.minor), (2, 0, 2, 12));
        assert!(cache.max_batch_total_size_bytes >= 1 << 20);
    }
    let request = reapi::GetCapabilitiesRequest { instance_name: "a//b".into() };
    assert_eq!(client.get_capabilities(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn compressed_blobs_are_read_from_any_offset() {
    let fleet = fleet().await;
    let bytes = some_bytes(3 << 20);
    let digest = put(&fleet, DigestFunction::Sha256, bytes.clone()).await;
    let name = format!("main/compressed-blobs/zstd/{}/{}", digest.hex(), digest.size_bytes);
    for offset in [0, 1, (1 << 20) + 5, bytes.len()] {
        let compressed = read(&fleet, name.clone(), offset as i64).await.unwrap();
        assert!(compressed.len() < bytes.len() / 2);
        assert_eq!(zstd::decode_all(&compressed[..]).unwrap(), bytes[offset..], "from {offset}");
    }
    let request = ReadRequest { resource_name: name, read_offset: 0, read_limit: 1 };
    let refused = ByteStreamClient::new(fleet.channel.clone()).read(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn compressed_uploads_are_resumed_with_a_frame_of_their_own() {
    let fleet = fleet().await;
    let mut client = ByteStreamClient::new(fleet.channel.clone());
    let bytes = some_bytes(3 << 20);
    let digest = Digest::of(&bytes);
    let name = format!("uploads/one/compressed-blobs/zstd/blake3/{}/{}", digest.hex(), digest.size_bytes);
    let message = |offset: usize, data: &[u8], finish_write| WriteRequest {
        resource_name: name.clone(),
        write_offset: offset as i64,
        finish_write,
        data: Bytes::copy_from_slice(data),
    };
    let half = 1 << 20;
    let first = zstd::encode_all(&bytes[..half], 1).unwrap();
    let committed = client.write(stream::iter([message(0, &first, false)])).await.unwrap().into_inner();
    assert_eq!(committed.committed_size, half as i64);
    let query = QueryWriteStatusRequest { resource_name: name.clone() };
    let status = client.query_write_status(query).await.unwrap().into_inner();
    assert_eq!((status.committed_size, status.complete), (half as i64, false));
    // From here on offsets are the first one and the compressed bytes after it.
    let rest = zstd::encode_all(&bytes[half..], 1).unwrap();
    let (one, two) = rest.split_at(rest.len() / 2);
    let messages = [message(half, one, false), message(half + one.len(), two, true)];
    let committed = client.write(stream::iter(messages)).await.unwrap().into_inner();
    assert_eq!(committed.committed_size, (half + rest.len()) as i64);
    assert_eq!(fleet.disk.get_blob(&digest).await.unwrap().into_bytes(u64::MAX).await.unwrap(), bytes);
    let early = client.write(stream::iter([message(0, &first, false)])).await.unwrap().into_inner();
    assert_eq!(early.committed_size, -1);
}

#[tokio::test]
async fn batches_are_compressed_either_way() {
    let fleet = fleet().await;
    let bytes = some_bytes(100_000);
    let digest = digest_of(DigestFunction::Sha256, &bytes);
    let part = |data: Vec<u8>| batch_update_blobs_request::Request {
        digest: Some(digest.into()),
        data: data.into(),
        compressor: Encoding::Zstd.number(),
    };
    let frame = zstd::encode_all(&bytes[..], 1).unwrap();
    for (data, code) in [(b"no frame".to_vec(), Code::InvalidArgument), (frame, Code::Ok)] {
        let request = reapi::BatchUpdateBlobsRequest { requests: vec![part(data)], ..Default::default() };
        let responses = storage(&fleet).batch_update_blobs(request).await.unwrap().into_inner().responses;
        assert_eq!(responses[0].status.as_ref().unwrap().code, i32::from(code));
    }
    for (acceptable_compressors, encoding) in
        [(vec![], Encoding::Identity), (vec![0, Encoding::Zstd.number()], Encoding::Zstd)]
    {
        let digests = vec![digest.into()];
        let request = reapi::BatchReadBlobsRequest { digests, acceptable_compressors, ..Default::default() };
        let part = storage(&fleet).batch_read_blobs(request).await.unwrap().into_inner().responses.remove(0);
        assert_eq!(part.compressor, encoding.number());
        let read =
            if encoding == Encoding::Zstd { zstd::decode_all(&part.data[..]).unwrap() } else { part.data.into() };
        assert_eq!(read, bytes);
    }
}

/// A root with many directories, two of them the same, and the same below one of them.
async fn put_tree(fleet: &Fleet) -> (Digest, usize, Digest) {
    let file = put(fleet, DigestFunction::Sha256, &b"file"[..]).await;
    let directory = |name: String| Directory {
        files: vec![FileNode { name, digest: Some(file.into()), ..FileNode::default() }],
        ..Directory::default()
    };
    let shared = put(fleet, DigestFunction::Sha256, directory("shared".into()).encode_to_vec()).await;
    let node = |name: String, digest: Digest| DirectoryNode { name, digest: Some(digest.into()) };
    let deep = Directory { directories: vec![node("again".into(), shared)], ..Directory::default() };
    let deep = put(fleet, DigestFunction::Sha256, deep.encode_to_vec()).await;
    let mut directories = vec![node("a".into(), shared), node("b".into(), shared), node("c".into(), deep)];
    for number in 0..20 {
        let child = put(fleet, DigestFunction::Sha256, directory(format!("file{number}")).encode_to_vec()).await;
        directories.push(node(format!("d{number:02}"), child));
    }
    let absent = digest_of(DigestFunction::Sha256, b"absent");
    directories.push(node("e".into(), absent));
    let root = Directory { directories, ..Directory::default() };
    (put(fleet, DigestFunction::Sha256, root.encode_to_vec()).await, 23, absent)
}

#[tokio::test]
async fn a_tree_has_each_directory_once_in_pages_that_can_be_asked_for_again() {
    let fleet = fleet().await;
    let (root, count, absent) = put_tree(&fleet).await;
    let pages = async |root: Digest, page_size, page_token: &str| -> Result<Vec<reapi::GetTreeResponse>, Status> {
        let root_digest = Some(root.into());
        let request =
            reapi::GetTreeRequest { root_digest, page_size, page_token: page_token.into(), ..Default::default() };
        let mut answer = storage(&fleet).get_tree(request).await?.into_inner();
        let mut pages = Vec::new();
        while let Some(page) = answer.next().await {
            pages.push(page?);
        }
        Ok(pages)
    };
    let directories = |pages: &[reapi::GetTreeResponse]| -> Vec<Directory> {
        pages.iter().flat_map(|page| page.directories.clone()).collect()
    };
    let whole = pages(root, 0, "").await.unwrap();
    let all = directories(&whole);
    assert_eq!((whole.len(), all.len()), (1, count));
    assert_eq!(digest_of(DigestFunction::Sha256, &all[0].encode_to_vec()), root);
    let paged = pages(root, 5, "").await.unwrap();
    assert_eq!(paged.iter().map(|page| page.directories.len()).collect::<Vec<_>>(), [5, 5, 5, 5, 3]);
    assert_eq!(directories(&paged), all);
    let rest = pages(root, 5, &paged[1].next_page_token).await.unwrap();
    assert_eq!(directories(&rest), all[10..]);
    assert_eq!(pages(absent, 0, "").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(pages(root, -1, "").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(pages(root, 0, "x").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_split_blob_is_spliced_again() {
    let fleet = fleet().await;
    for function in [DigestFunction::Sha256, DigestFunction::Blake3] {
        let bytes = some_bytes(CHUNKING_AVERAGE_BYTES * 9);
        let digest = put(&fleet, function, bytes.clone()).await;
        let digest_function = if function == DigestFunction::Sha256 { SHA256 } else { BLAKE3 };
        let split = reapi::SplitBlobRequest { blob_digest: Some(digest.into()), digest_function, ..Default::default() };
        let chunks = storage(&fleet).split_blob(split.clone()).await.unwrap().into_inner().chunk_digests;
        assert!(chunks.len() > 1);
        let again = storage(&fleet).split_blob(split).await.unwrap().into_inner().chunk_digests;
        assert_eq!(again, chunks);
        let other = fleet_with(true, BLOB_LEASE_TIME).await;
        let splice = reapi::SpliceBlobRequest {
            blob_digest: Some(digest.into()),
            chunk_digests: chunks.clone(),
            digest_function,
            ..Default::default()
        };
        let early = storage(&other).splice_blob(splice.clone()).await.unwrap_err();
        assert_eq!(early.code(), Code::NotFound);
        for chunk in &chunks {
            let chunk = chunk.to_model(function).unwrap();
            let blob = fleet.disk.get_blob(&chunk).await.unwrap();
            other.disk.put_blob(&chunk, blob).await.unwrap();
        }
        let mut wrong = splice.clone();
        wrong.chunk_digests.swap(0, 1);
        if wrong.chunk_digests != chunks {
            assert_eq!(storage(&other).splice_blob(wrong).await.unwrap_err().code(), Code::InvalidArgument);
        }
        storage(&other).splice_blob(splice).await.unwrap();
        assert_eq!(other.disk.get_blob(&digest).await.unwrap().into_bytes(u64::MAX).await.unwrap(), bytes);
    }
    let small = put(&fleet, DigestFunction::Sha256, &b"small"[..]).await;
    let split = reapi::SplitBlobRequest { blob_digest: Some(small.into()), ..Default::default() };
    let chunks = storage(&fleet).split_blob(split).await.unwrap().into_inner().chunk_digests;
    assert_eq!(chunks, [reapi::Digest::from(small)]);
}
