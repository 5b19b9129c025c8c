//! T2.11: compressed uploads that are not what they say. Alone in its program, because it measures the program's memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

mod support;

use bytes::Bytes;
use muster_model::limits::ZSTD_WINDOW_BYTES_MAX;
use muster_model::{Digest, DigestFunction};
use muster_proto::bytestream::WriteRequest;
use muster_proto::bytestream::byte_stream_client::ByteStreamClient;
use muster_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use muster_proto::reapi::{
    BatchUpdateBlobsRequest, FindMissingBlobsRequest, batch_update_blobs_request, compressor, digest_function,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

/// What memory may grow by, in bytes.
const GROWTH_BYTES_MAX: u64 = 16 << 20;
/// Bytes of a block that a block header can name (RFC 8878, section 3.1.1.2.4).
const BLOCK_BYTES: u32 = 128 * 1024;

/// A frame of `blocks` run-length blocks of zeros with a window of 2^`window_log` bytes (RFC 8878, section 3.1.1).
fn bomb(window_log: u8, blocks: usize, has_end: bool) -> Bytes {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3];
    for number in 1..=blocks {
        let is_last = u32::from(has_end && number == blocks);
        let header = is_last | 1 << 1 | BLOCK_BYTES << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame.into()
}

async fn upload(channel: &Channel, digest: &Digest, frame: &Bytes, number: usize) -> Result<i64, Status> {
    let (hash, size) = (digest.hex(), digest.size_bytes);
    let name = format!("uploads/{number}/compressed-blobs/zstd/blake3/{hash}/{size}");
    let pieces: Vec<Bytes> = (0..frame.len())
        .step_by(256 << 10)
        .map(|start| frame.slice(start..frame.len().min(start + (256 << 10))))
        .collect();
    let last = pieces.len() - 1;
    let messages = pieces.into_iter().enumerate().map(move |(number, data)| WriteRequest {
        resource_name: name.clone(),
        write_offset: (number * (256 << 10)) as i64,
        finish_write: number == last,
        data,
    });
    let mut client = ByteStreamClient::new(channel.clone());
    Ok(client.write(tokio_stream::iter(messages)).await?.into_inner().committed_size)
}

async fn is_missing(channel: &Channel, digest: &Digest) -> bool {
    let request = FindMissingBlobsRequest {
        blob_digests: vec![digest.into()],
        digest_function: digest_function::Value::Blake3.into(),
        ..Default::default()
    };
    let mut client = ContentAddressableStorageClient::new(channel.clone());
    !client.find_missing_blobs(request).await.unwrap().into_inner().missing_blob_digests.is_empty()
}

/// A value of `/proc/self/status`, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn t2_11_zstd_bombs_stop_at_the_declared_size_and_cost_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = support::start(folder.path()).await;
    let channel = support::connect(&coordinator).await;
    let size = 1 << 20;
    let zeros = vec![0; size];
    let digest = Digest::of(&zeros);
    let honest = Bytes::from(zstd::encode_all(&zeros[..], 1).unwrap());
    // What every upload costs once is not counted.
    let other = vec![1; size];
    let frame = Bytes::from(zstd::encode_all(&other[..], 1).unwrap());
    upload(&channel, &Digest::of(&other), &frame, 1000).await.unwrap();
    let window_log = ZSTD_WINDOW_BYTES_MAX.ilog2() as u8;
    let exact = size / BLOCK_BYTES as usize;
    let ten_mebibytes = (10 << 20) / 4;
    let bombs = [
        ("10 MiB that would be 320 GiB", bomb(window_log, ten_mebibytes, true)),
        ("a window of 2 GiB", bomb(31, exact, true)),
        ("a window past the limit", bomb(window_log + 1, exact, true)),
        ("no end", bomb(window_log, exact, false)),
        ("cut off", honest.slice(..honest.len() - 1)),
        ("two frames", [&honest[..], &honest[..]].concat().into()),
        ("a block less", bomb(window_log, exact - 1, true)),
        ("a block more", bomb(window_log, exact + 1, true)),
        ("a byte less", zstd::encode_all(&zeros[1..], 1).unwrap().into()),
        ("a byte more", zstd::encode_all(&[&zeros[..], &[0]].concat()[..], 1).unwrap().into()),
        ("nothing", Bytes::from_static(b"x")),
    ];
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory("VmRSS");
    for (number, (what, bomb)) in bombs.iter().enumerate() {
        let refused = upload(&channel, &digest, bomb, number).await;
        let refused = refused.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
        let part = batch_update_blobs_request::Request {
            digest: Some(digest.into()),
            // Batches are smaller than the biggest bomb.
            data: bomb.slice(..bomb.len().min(2 << 20)),
            compressor: compressor::Value::Zstd.into(),
        };
        let request = BatchUpdateBlobsRequest {
            requests: vec![part],
            digest_function: digest_function::Value::Blake3.into(),
            ..Default::default()
        };
        let mut client = ContentAddressableStorageClient::new(channel.clone());
        let status =
            client.batch_update_blobs(request).await.unwrap().into_inner().responses[0].status.clone().unwrap();
        assert_eq!(status.code, i32::from(Code::InvalidArgument), "{what}");
        assert!(is_missing(&channel, &digest).await, "{what}");
    }
    let growth = memory("VmHWM").saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "memory grew by {growth} bytes");
    assert_eq!(digest.function, DigestFunction::Blake3);
    assert_eq!(upload(&channel, &digest, &honest, 999).await.unwrap(), honest.len() as i64);
    assert!(!is_missing(&channel, &digest).await);
    coordinator.shutdown().await;
}
