//! T5.6: floods of frames that cost their sender little.

use std::time::Duration;

use muster_tests::load::frames::{
    self, ACKNOWLEDGED, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, call_headers, indexed_header, kind,
};
use muster_tests::load::servers::Server;
use tokio::io::AsyncWriteExt;

use super::{Bystander, MEBIBYTE, assert_memory, assert_serves, coordinator};

const PATH: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
/// What no flood may make the server hold, in bytes.
const MORE_BYTES_MAX: u64 = 32 * MEBIBYTE;

/// Writes on one connection until all is written or the server has closed it; gives what it sent that is `wanted`.
async fn flood(server: &Server, mut bytes: impl FnMut() -> Option<Vec<u8>>, wanted: fn(&Frame) -> bool) -> Vec<Frame> {
    let (reader, mut writer) = frames::connect(&server.address).await.expect("it listens");
    let answers = tokio::spawn(reader.collect(wanted));
    while let Some(bytes) = bytes() {
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
    }
    // A connection that is gone has no other half to close.
    let _ = writer.shutdown().await;
    answers.await.expect("the answers were read")
}

fn goaway(frame: &Frame) -> bool {
    frame.kind == kind::GOAWAY
}

/// Whether the server went away, and said that it was asked too much.
fn assert_told_to_be_calm(frames: &[Frame]) {
    let errors: Vec<u32> = frames.iter().filter_map(Frame::goaway_error).collect();
    assert!(errors.contains(&ENHANCE_YOUR_CALM), "GOAWAY with {errors:?}");
}

/// After a flood: memory as before, nothing left to compute, everybody else served.
async fn assert_unharmed(server: &Server, before: muster_tests::load::Figures, bystander: Bystander) {
    bystander.finish().await;
    assert_memory(server, before, MORE_BYTES_MAX);
    let mut used = server.figures().cpu;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = server.figures().cpu;
        // A clock tick or two is what an idle coordinator may need.
        if now.saturating_sub(used) <= Duration::from_millis(20) {
            assert_serves(&server.connect().await).await;
            return;
        }
        used = now;
    }
    panic!("the coordinator still computes after the flood");
}

/// CVE-2023-44487: streams that are opened and reset at once. The server must not start all that work, and closes the connection.
#[tokio::test(flavor = "multi_thread")]
async fn t5_6_rapid_reset() {
    const RESETS: u32 = 100_000;
    /// In one write, so that the server finds many at one time.
    const TOGETHER: u32 = 64;
    let server = coordinator().await;
    let (before, bystander) = (server.figures(), Bystander::start(&server).await);
    let mut sent = 0;
    let mut connections = 0;
    let mut goaways = 0;
    while sent < RESETS {
        let mut stream = 1;
        let burst = || {
            let mut bytes = Vec::new();
            for _ in 0..TOGETHER {
                let (flags, payload) = (END_HEADERS, call_headers(PATH));
                bytes.extend(Frame { kind: kind::HEADERS, flags, stream, payload }.encode());
                // CANCEL (RFC 9113, section 7).
                let payload = 8_u32.to_be_bytes().to_vec();
                bytes.extend(Frame { kind: kind::RST_STREAM, flags: 0, stream, payload }.encode());
                stream += 2;
                sent += 1;
            }
            (sent < RESETS).then_some(bytes)
        };
        let frames = flood(&server, burst, goaway).await;
        goaways += usize::from(frames.iter().any(|frame| frame.goaway_error() == Some(ENHANCE_YOUR_CALM)));
        connections += 1;
    }
    println!("{sent} resets, {goaways} of {connections} connections were told to be calm");
    // The last connection may have ended before it had sent enough.
    assert!(goaways > 0 && goaways + 1 >= connections, "{goaways} of {connections} connections were closed");
    assert_unharmed(&server, before, bystander).await;
}

/// RUSTSEC-2024-0332: a block of headers that never ends.
#[tokio::test(flavor = "multi_thread")]
async fn t5_6_continuation_flood() {
    let server = coordinator().await;
    let (before, bystander) = (server.figures(), Bystander::start(&server).await);
    let mut begun = false;
    let mut left = 10_000;
    let frames = flood(
        &server,
        || {
            let kind = if std::mem::replace(&mut begun, true) { kind::CONTINUATION } else { kind::HEADERS };
            let mut payload = if kind == kind::HEADERS { call_headers(PATH) } else { Vec::new() };
            indexed_header(&mut payload, "x", &"y".repeat(8192));
            left -= 1;
            (left > 0).then(|| Frame { kind, flags: 0, stream: 1, payload }.encode())
        },
        goaway,
    )
    .await;
    assert!(left > 0, "the server read 80 MiB of headers");
    assert_told_to_be_calm(&frames);
    assert_unharmed(&server, before, bystander).await;
}

/// Questions about the connection itself: every one is answered or the connection is closed, and a client that reads no answers makes the
/// server keep none of them.
#[tokio::test(flavor = "multi_thread")]
async fn t5_6_settings_and_ping_floods() {
    const FRAMES: usize = 10_000;
    let server = coordinator().await;
    let (before, bystander) = (server.figures(), Bystander::start(&server).await);
    for (kind, payload) in [(kind::SETTINGS, vec![]), (kind::PING, vec![0; 8])] {
        let bytes = Frame { kind, flags: 0, stream: 0, payload }.encode();
        let mut left = FRAMES;
        let frames = flood(
            &server,
            || {
                left = left.checked_sub(1)?;
                Some(bytes.clone())
            },
            |frame| goaway(frame) || frame.flags & ACKNOWLEDGED != 0,
        )
        .await;
        let answered = frames.iter().filter(|frame| frame.kind == kind).count();
        // The server's own settings are not acknowledged by this client, but its first ones may be among the answers.
        assert!(
            frames.iter().any(goaway) || answered >= FRAMES,
            "{answered} answers to {FRAMES} frames of kind {kind}"
        );
        let (reader, mut writer) = frames::connect(&server.address).await.expect("it listens");
        let unread = bytes.repeat(FRAMES * 20);
        // It fills every buffer on the way and then waits, because nobody reads the answers; or it is closed.
        let _ = tokio::time::timeout(Duration::from_secs(2), writer.write_all(&unread)).await;
        drop(reader);
    }
    assert_unharmed(&server, before, bystander).await;
}

/// Headers that are small on the wire and large when they are read, and a table that should grow.
#[tokio::test(flavor = "multi_thread")]
async fn t5_6_header_compression_cannot_be_made_to_grow() {
    let server = coordinator().await;
    let (before, bystander) = (server.figures(), Bystander::start(&server).await);
    let mut stream = 1;
    let references = flood(
        &server,
        || {
            let mut payload = call_headers(PATH);
            // One entry of the dynamic table, and then 12,000 references to it (RFC 7541, section 6.1): 45 MiB of headers in 16 KiB.
            indexed_header(&mut payload, "x", &"y".repeat(3900));
            payload.extend_from_slice(&[0x80 | 62; 12_000]);
            let flags = END_HEADERS | END_STREAM;
            let bytes = Frame { kind: kind::HEADERS, flags, stream, payload }.encode();
            stream += 2;
            (stream < 400).then_some(bytes)
        },
        |frame| goaway(frame) || frame.kind == kind::RST_STREAM || frame.kind == kind::HEADERS,
    )
    .await;
    assert!(!references.is_empty(), "the server answers, resets or goes away");
    let mut once = Some(());
    let grown = flood(
        &server,
        || {
            once.take()?;
            // A table of 2^28 bytes (RFC 7541, section 6.3), which the server's settings do not allow.
            let mut payload = vec![0x3f, 0xe1, 0xff, 0xff, 0x7f];
            payload.extend(call_headers(PATH));
            Some(Frame { kind: kind::HEADERS, flags: END_HEADERS | END_STREAM, stream: 1, payload }.encode())
        },
        |frame| goaway(frame) || frame.kind == kind::RST_STREAM,
    )
    .await;
    assert!(!grown.is_empty(), "a table beyond the settings is an error");
    assert_unharmed(&server, before, bystander).await;
}
