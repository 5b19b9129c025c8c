//! T5.4: the largest blobs need no more memory than small ones.

use muster_model::DigestFunction;
use muster_tests::load::blobs::Generated;

use super::{MEBIBYTE, assert_memory, coordinator};

/// 4 GiB up and down: less than 64 MiB more, and the bytes hash to what they should.
#[tokio::test(flavor = "multi_thread")]
async fn t5_4_four_gibibytes_up_and_down_in_little_memory() {
    let server = coordinator().await;
    let before = server.figures();
    let client = server.connect().await;
    let blob = Generated::new(DigestFunction::Blake3, 1, 4096 * MEBIBYTE);
    client.write(&blob, 1).await.expect("it is stored");
    assert_memory(&server, before, 64 * MEBIBYTE);
    server.reset_peak();
    let mut hasher = blake3::Hasher::new();
    let read = client.read(&blob.digest, |bytes| {
        hasher.update(&bytes);
    });
    assert_eq!(read.await.expect("it is there"), 4096 * MEBIBYTE);
    assert_eq!(*hasher.finalize().as_bytes(), blob.digest.hash);
    assert_memory(&server, before, 64 * MEBIBYTE);
}
