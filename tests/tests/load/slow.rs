//! T5.3: clients that are slow, or do nothing at all, cost little and are ended by rule.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use muster_model::{Digest, DigestFunction};
use muster_proto::bytestream::{ReadRequest, WriteRequest};
use muster_tests::load::blobs::{Generated, resource_name};
use muster_tests::load::servers::Server;
use muster_tests::load::{Client, raw};
use muster_tests::programs::eventually;
use tokio::task::JoinSet;
use tonic::Code;

use super::{Bystander, MEBIBYTE, assert_memory, coordinator};

const READERS: usize = 64;
const UPLOADERS: u64 = 500;
/// Uploads on one connection: under the limit of streams.
const UPLOADERS_PER_CONNECTION: u64 = 100;

const READ: &str = "/google.bytestream.ByteStream/Read";

/// Asks for a blob on a connection of its own, and never reads a byte of the answer. The windows decide where the bytes pile up: with large
/// ones in the server's socket, with small ones in the server.
async fn start_reading(server: &Server, digest: &Digest, windows: raw::Windows) -> impl Sized + use<> {
    let (requests, mut connection) = raw::connect(&server.address, windows).await.expect("it listens");
    let request = ReadRequest { resource_name: resource_name(digest), ..Default::default() };
    let called = async {
        let (response, mut stream) = raw::begin(&requests, READ, &[]).await.expect("the connection is new");
        raw::send_all(&mut stream, std::iter::once(raw::framed(&request))).await;
        let response = response.await.expect("the answer begins");
        assert_eq!(response.status(), 200);
        response
    };
    let response = tokio::select! {
        response = called => response,
        ended = &mut connection => panic!("the connection ended: {ended:?}"),
    };
    // From here on nobody polls the connection.
    (requests, connection, response)
}

/// Uploads one byte per second, and gives the code that ended it.
async fn upload_slowly(client: Client, number: u64) -> Code {
    let digest = Digest::of(&number.to_le_bytes());
    let digest = Digest { size_bytes: MEBIBYTE, ..digest };
    let resource_name = format!("uploads/slow-{number}/{}", resource_name(&digest));
    let pause = tokio::time::interval(Duration::from_secs(1));
    let bytes = tokio_stream::wrappers::IntervalStream::new(pause).zip(stream::iter(0..));
    let requests = bytes.map(move |(_, write_offset)| WriteRequest {
        resource_name: resource_name.clone(),
        write_offset,
        finish_write: false,
        data: Bytes::from_static(b"x"),
    });
    match client.bytes().write(requests).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

/// Files of large stored blobs that the coordinator has open; packs of small ones and uploads that may be resumed are not among them.
fn open_blobs(server: &Server) -> usize {
    let links = std::fs::read_dir(format!("/proc/{}/fd", server.id())).expect("it runs").flatten();
    let files = links.filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.to_string_lossy().into_owned()));
    files.filter(|file| file.contains("/cache/blobs")).count()
}

/// 64 readers of a blob of 1 GiB who never read and 500 uploaders of a byte per second: less than 64 MiB more; all of them are ended by rule,
/// and what they held is free again.
#[tokio::test(flavor = "multi_thread")]
async fn t5_3_slow_clients_cost_little_and_are_ended() {
    let server = coordinator().await;
    let client = server.connect().await;
    let blob = Generated::new(DigestFunction::Blake3, 1, 1024 * MEBIBYTE);
    client.write(&blob, 1).await.expect("it is stored");
    server.reset_peak();
    let before = server.figures();
    let bystander = Bystander::start(&server).await;

    let mut readers = Vec::new();
    for number in 0..READERS {
        let windows = match number % 2 {
            0 => raw::Windows { stream: 1 << 30, connection: 1 << 30 },
            _ => raw::Windows::default(),
        };
        readers.push(start_reading(&server, &blob.digest, windows).await);
    }
    // What has just been stored may still be open, because it is synced beside the work.
    eventually("each reader makes the coordinator open the blob", || open_blobs(&server) == READERS);
    let mut uploads = JoinSet::new();
    let mut connection = server.connect().await;
    for number in 0..UPLOADERS {
        if number % UPLOADERS_PER_CONNECTION == 0 {
            connection = server.connect().await;
        }
        uploads.spawn(upload_slowly(connection.clone(), number));
    }
    let ends = tokio::time::timeout(Duration::from_secs(180), uploads.join_all()).await;
    let ends = ends.expect("the rule ends uploads that make no progress");
    assert!(ends.iter().all(|code| *code == Code::DeadlineExceeded), "{ends:?}");
    assert_memory(&server, before, 64 * MEBIBYTE);
    for _ in 0..1200 {
        if open_blobs(&server) == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(open_blobs(&server) == 0, "the readers still hold {} files", open_blobs(&server));
    assert_memory(&server, before, 64 * MEBIBYTE);
    bystander.finish().await;
    drop(readers);
}
