//! T5.5: messages that are too large, or lie about their size.

use bytes::Bytes;
use muster_model::limits::MESSAGE_BYTES_MAX;
use muster_tests::load::raw;
use muster_tests::load::servers::Server;
use tonic::Code;

use super::{Bystander, MEBIBYTE, assert_memory, assert_serves, coordinator};

/// What a message may have beside its payload, in bytes; past this nothing is taken.
const FRAMING_BYTES_MAX: usize = 64 * 1024;
/// How often each of them is sent at one time: their memory would add up.
const TOGETHER: usize = 8;

const UNARY: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
const STREAM: &str = "/google.bytestream.ByteStream/Write";

/// Calls whose one message claims `claimed` bytes and has `sent`: every one is answered with one of `codes`, and the connection lives.
async fn assert_refused(
    server: &Server,
    path: &str,
    headers: &[(&'static str, &'static str)],
    prefix: Bytes,
    sent: usize,
    codes: &[Code],
) {
    let (requests, connection) = raw::connect(&server.address, raw::Windows::default()).await.expect("it listens");
    let connection = tokio::spawn(connection);
    let mut calls = Vec::new();
    for _ in 0..TOGETHER {
        let (response, mut stream) = raw::begin(&requests, path, headers).await.expect("the connection lives");
        let zeroes = (0..sent.div_ceil(1 << 14)).map(|_| Bytes::from_static(&[0; 1 << 14]));
        let bytes: Vec<Bytes> = std::iter::once(prefix.clone()).chain(zeroes).collect();
        calls.push(tokio::spawn(async move {
            let (status, ()) = tokio::join!(raw::status(response), raw::send_all(&mut stream, bytes.into_iter()));
            status
        }));
    }
    for call in calls {
        let status = call.await.expect("the call ends").map(Code::from_i32);
        assert!(status.is_some_and(|code| codes.contains(&code)), "{path} {prefix:?} {sent}: {status:?}");
    }
    let (response, mut stream) = raw::begin(&requests, UNARY, &[]).await.expect("the connection lives");
    raw::send_all(&mut stream, std::iter::once(raw::prefix(0, 0).freeze())).await;
    assert_eq!(raw::status(response).await, Some(0), "the connection still serves");
    connection.abort();
}

/// A message of the limit and a byte, of 64 MiB, one that claims 2 GiB, and one that would grow when it is unpacked: refused, with less than
/// 8 MiB more, and everybody else is served.
#[tokio::test(flavor = "multi_thread")]
async fn t5_5_messages_that_are_too_large_are_refused_in_little_memory() {
    let server = coordinator().await;
    let bystander = Bystander::start(&server).await;
    let claim = |length: usize| raw::prefix(0, u32::try_from(length).expect("fits the prefix")).freeze();
    // Once, so that the code of refusals is in memory.
    assert_refused(&server, UNARY, &[], claim(1 << 31), 0, &[Code::ResourceExhausted]).await;
    server.reset_peak();
    let before = server.figures();
    for path in [UNARY, STREAM] {
        for length in [MESSAGE_BYTES_MAX + FRAMING_BYTES_MAX + 1, 64 * MEBIBYTE as usize] {
            assert_refused(&server, path, &[], claim(length), length, &[Code::ResourceExhausted]).await;
        }
        assert_refused(&server, path, &[], claim(1 << 31), 1 << 14, &[Code::ResourceExhausted]).await;
        // A server that does not unpack says so; one that does must stop.
        let bomb = Bytes::from([&raw::prefix(1, gzip_bomb().len() as u32)[..], &gzip_bomb()].concat());
        let codes = [Code::ResourceExhausted, Code::Unimplemented];
        assert_refused(&server, path, &[("grpc-encoding", "gzip")], bomb, 0, &codes).await;
    }
    assert_memory(&server, before, 8 * MEBIBYTE);
    bystander.finish().await;
    assert_serves(&server.connect().await).await;
}

/// 64 MiB of zeroes, packed (RFC 1951, 1952): one literal, then copies of 258 bytes from one byte before, in the fixed code.
fn gzip_bomb() -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut count) = (0_u64, 0);
    // Codes are written from their first bit on: a last block of the fixed code, the literal 0 (0011_0000), the copies, the end.
    let copies = 64 * MEBIBYTE / 258;
    let codes = [(0b011, 3), (0b0000_1100, 8)].into_iter();
    let codes = codes.chain((0..copies).flat_map(|_| [(0b1010_0011, 8), (0, 5)])).chain([(0, 7)]);
    for (code, length) in codes {
        bits |= code << count;
        count += length;
        while count >= 8 {
            bytes.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
    }
    bytes.push(bits as u8);
    // The checksum is never reached by who stops in time.
    bytes.extend_from_slice(&[0; 8]);
    bytes
}
