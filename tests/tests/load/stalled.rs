//! T5.3, of what stops halfway: it is ended by rule, what had come is not lost, and what it held is free again.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use muster_model::DigestFunction;
use muster_model::limits::{ARRIVING_BYTES_MAX, MESSAGE_BYTES_MAX};
use muster_proto::bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse, WriteRequest};
use muster_tests::load::blobs::{Generated, MESSAGE_BYTES};
use muster_tests::load::servers::Server;
use muster_tests::load::{Client, raw};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::{Bystander, MEBIBYTE, assert_memory, assert_serves, coordinator};

const WRITE: &str = "/google.bytestream.ByteStream/Write";
const UPDATE: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
/// Much longer than any rule takes to end a call.
const PATIENCE: Duration = Duration::from_secs(300);
/// Messages of an upload that come before it stops.
const MESSAGES: usize = 24;
const UPLOAD_BYTES: u64 = 2 * (MESSAGES * MESSAGE_BYTES) as u64;
/// What came.
const COMMITTED: i64 = (MESSAGES * MESSAGE_BYTES) as i64;

/// The messages that upload a blob, from the one of a number on.
fn requests(blob: &Generated, from: usize) -> impl Iterator<Item = WriteRequest> + Send + 'static {
    let (name, size) = (blob.write_name(0), blob.digest.size_bytes);
    blob.messages().enumerate().skip(from).map(move |(number, data)| {
        let write_offset = (number * MESSAGE_BYTES) as i64;
        let finish_write = write_offset.cast_unsigned() + data.len() as u64 == size;
        WriteRequest { resource_name: name.clone(), write_offset, finish_write, data }
    })
}

/// Sends all of `bytes` and nothing more, on a connection of its own; gives the code of the answer.
async fn stop_after(server: &Server, path: &'static str, bytes: Vec<Bytes>) -> JoinHandle<Option<Code>> {
    let (requests, connection) = raw::connect(&server.address, raw::Windows::default()).await.expect("it listens");
    tokio::spawn(async move {
        let connection = tokio::spawn(connection);
        let (response, mut stream) = raw::begin(&requests, path, &[]).await.expect("the connection is new");
        let sent = raw::send(&mut stream, bytes.into_iter());
        let ((), status) = tokio::join!(sent, tokio::time::timeout(PATIENCE, raw::status(response)));
        connection.abort();
        status.expect("the rule ends what makes no progress").map(Code::from_i32)
    })
}

async fn ask(client: &Client, blob: &Generated) -> Result<QueryWriteStatusResponse, Status> {
    let request = QueryWriteStatusRequest { resource_name: blob.write_name(0) };
    Ok(client.bytes().query_write_status(request).await?.into_inner())
}

/// Asks until the answer is the one that is waited for.
async fn ask_until(
    client: &Client,
    blob: &Generated,
    wanted: impl Fn(&Result<QueryWriteStatusResponse, Code>) -> bool,
) {
    let mut answer = Err(Code::Unknown);
    let end = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < end {
        answer = ask(client, blob).await.map_err(|status| status.code());
        if wanted(&answer) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the last answer was {answer:?}");
}

/// One stops between two messages, one inside of one, one is never taken up again. All are ended with DEADLINE_EXCEEDED; nobody else may write
/// to them as long as they are not; then they go on from where QueryWriteStatus says, or are forgotten with what was stored of them.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_stop_are_ended_and_go_on_from_where_they_were() {
    let server = coordinator().await;
    let bystander = Bystander::start(&server).await;
    let client = server.connect().await;
    let blobs = [1, 2, 3].map(|number| Generated::new(DigestFunction::Blake3, number, UPLOAD_BYTES));
    let mut ends = Vec::new();
    for (number, blob) in blobs.iter().enumerate() {
        let mut bytes: Vec<Bytes> = requests(blob, 0).take(MESSAGES).map(|request| raw::framed(&request)).collect();
        if number == 1 {
            let next = requests(blob, MESSAGES).next().map(|request| raw::framed(&request)).expect("there are more");
            bytes.push(next.slice(..next.len() / 2));
        }
        ends.push(stop_after(&server, WRITE, bytes).await);
    }
    for blob in &blobs {
        ask_until(&client, blob, |answer| answer.as_ref().is_ok_and(|said| said.committed_size == COMMITTED)).await;
        let other = client.bytes().write(stream::iter(requests(blob, MESSAGES))).await;
        assert_eq!(other.expect_err("somebody else is writing it").code(), Code::Aborted);
    }
    for end in ends {
        assert_eq!(end.await.expect("no panic"), Some(Code::DeadlineExceeded));
    }
    let [one, two, three] = &blobs;
    for blob in [one, two] {
        let said = ask(&client, blob).await.expect("it can be resumed");
        assert_eq!((said.committed_size, said.complete), (COMMITTED, false));
        let written = client.bytes().write(stream::iter(requests(blob, MESSAGES))).await.expect("it goes on");
        assert_eq!(written.into_inner().committed_size.cast_unsigned(), UPLOAD_BYTES);
        let said = ask(&client, blob).await.expect("it is there");
        assert_eq!((said.committed_size.cast_unsigned(), said.complete), (UPLOAD_BYTES, true));
        let mut hasher = blake3::Hasher::new();
        let read = client.read(&blob.digest, |bytes| {
            hasher.update(&bytes);
        });
        read.await.expect("it is there");
        assert_eq!(*hasher.finalize().as_bytes(), blob.digest.hash);
    }
    ask_until(&client, three, |answer| matches!(answer, Err(Code::NotFound))).await;
    let incoming = server.data().join("cache/incoming");
    let left = || std::fs::read_dir(&incoming).expect("it is there").count();
    for _ in 0..600 {
        if left() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(left(), 0, "what came of an upload that nobody went on with is still there");
    bystander.finish().await;
}

/// Messages that come nearly whole, and whole requests that never end: together they may hold so much and no more, whoever sends them, and none for
/// long. Requests of others pass meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_never_whole_cost_no_more_than_their_limit() {
    const CALLS: usize = 96;
    let server = coordinator().await;
    let bystander = Bystander::start(&server).await;
    // Once, so that the code of refusals is in memory.
    let nothing = stop_after(&server, UPDATE, vec![raw::prefix(0, 0).freeze()]).await;
    assert_eq!(nothing.await.expect("no panic"), Some(Code::DeadlineExceeded), "it does not end");
    server.reset_peak();
    let before = server.figures();
    let piece = Bytes::from(vec![0; 1 << 16]);
    let large = |path| {
        let claimed = raw::prefix(0, u32::try_from(MESSAGE_BYTES_MAX).expect("it fits")).freeze();
        let nearly = std::iter::repeat_n(piece.clone(), MESSAGE_BYTES_MAX / piece.len() - 1);
        stop_after(&server, path, std::iter::once(claimed).chain(nearly).collect())
    };
    let mut ends = Vec::new();
    for number in 0..CALLS {
        ends.push(large(if number % 2 == 0 { UPDATE } else { WRITE }).await);
    }
    let (mut refused, mut slow) = (0, 0);
    for end in ends {
        match end.await.expect("no panic") {
            Some(Code::ResourceExhausted) => refused += 1,
            Some(Code::DeadlineExceeded) => slow += 1,
            other => panic!("a call ended in {other:?}"),
        }
    }
    println!("{refused} of {CALLS} were refused, {slow} ended");
    assert!(slow > 0 && slow * (MESSAGE_BYTES_MAX - 4 * piece.len()) <= ARRIVING_BYTES_MAX, "{slow} were held at once");
    assert_memory(&server, before, ARRIVING_BYTES_MAX as u64 + 64 * MEBIBYTE);
    bystander.finish().await;
    let client = server.connect().await;
    assert_serves(&client).await;
    client.write(&Generated::new(DigestFunction::Blake3, 1, UPLOAD_BYTES), 1).await.expect("there is room again");
}
