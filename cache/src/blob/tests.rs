use futures_util::TryStreamExt;
use muster_model::DigestFunction;
use proptest::prelude::*;

use super::*;

fn chunks_of(bytes: &[u8], size: usize) -> Vec<Result<Bytes, StoreError>> {
    bytes.chunks(size.max(1)).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built").block_on(future)
}

/// What a stream hands out before it ends or fails.
async fn handed_out(blob: Blob) -> (usize, Option<StoreError>) {
    let mut chunks = blob.into_stream();
    let mut count = 0;
    loop {
        match chunks.next().await {
            Some(Ok(chunk)) => {
                assert!(chunk.len() <= CHUNK_BYTES_MAX);
                count += chunk.len();
            }
            Some(Err(error)) => return (count, Some(error)),
            None => return (count, None),
        }
    }
}

#[tokio::test]
async fn a_stream_that_does_not_verify_never_hands_out_all_its_bytes() {
    let bytes = vec![7; CHUNK_BYTES_MAX * 2 + 5];
    let right = Digest::of(&bytes);
    let mut flipped = bytes.clone();
    flipped[0] ^= 1;
    let cases = [
        ("flipped", flipped, right),
        ("short", bytes[1..].to_vec(), right),
        ("long", [&bytes[..], &[7]].concat(), right),
        ("empty", Vec::new(), right),
        ("size zero", bytes.clone(), Digest { size_bytes: 0, ..right }),
        ("size of all", bytes.clone(), Digest { size_bytes: u64::MAX, ..right }),
        ("other function", bytes.clone(), Digest { function: DigestFunction::Sha256, ..right }),
    ];
    for (name, offered, digest) in cases {
        for size in [1 << 16, usize::MAX] {
            let chunks = chunks_of(&offered, size);
            let (count, error) = handed_out(Blob::from_stream(digest, stream::iter(chunks))).await;
            assert!(matches!(error, Some(StoreError::Mismatch { .. })), "{name}: {error:?}");
            assert!(count < bytes.len(), "{name}");
            let folder = tempfile::tempdir().unwrap();
            let source = folder.path().join("source");
            std::fs::write(&source, &offered).unwrap();
            let (count, error) = handed_out(Blob::from_file(&source, digest)).await;
            assert!(matches!(error, Some(StoreError::Mismatch { .. })), "{name}: {error:?}");
            assert!(count < bytes.len(), "{name}");
            let refused = Blob::from_file(&source, digest).write_to(folder.path().join("copy")).await;
            assert!(matches!(refused, Err(StoreError::Mismatch { .. })), "{name}: {refused:?}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{name}: only the source is left");
        }
        assert!(matches!(Blob::from_bytes_of(digest, offered.into()), Err(StoreError::Mismatch { .. })), "{name}");
    }
}

#[tokio::test]
async fn a_blob_over_the_limit_is_not_read() {
    let endless = stream::repeat_with(|| -> Result<Bytes, StoreError> { panic!("must not be read") });
    let digest = Digest { size_bytes: 11, ..Digest::empty() };
    let refused = Blob::from_stream(digest, endless).into_bytes(10).await;
    assert!(matches!(refused, Err(StoreError::Limit { limit: 10, .. })), "{refused:?}");
}

#[tokio::test]
async fn an_endless_stream_is_left_one_byte_past_the_size() {
    let mut pulled = 0;
    let endless = stream::repeat_with(move || {
        pulled += 1;
        assert!(pulled <= 11, "read past the size");
        Ok(Bytes::from_static(b"x"))
    });
    let digest = Digest { size_bytes: 10, ..Digest::empty() };
    let (count, error) = handed_out(Blob::from_stream(digest, endless)).await;
    assert!(count < 10);
    assert!(matches!(error, Some(StoreError::Mismatch { .. })), "{error:?}");
}

#[tokio::test]
async fn an_error_of_the_source_is_handed_on() {
    let digest = Digest::of(b"xy");
    let broken = stream::iter([Ok(Bytes::from_static(b"x")), Err(StoreError::Closed)]);
    let (count, error) = handed_out(Blob::from_stream(digest, broken)).await;
    assert_eq!(count, 0);
    assert!(matches!(error, Some(StoreError::Closed)), "{error:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bytes_come_out_as_they_went_in_whatever_the_chunks(
        bytes in proptest::collection::vec(any::<u8>(), 0..5000),
        size in 1_usize..6000,
        sha256 in any::<bool>(),
    ) {
        let function = if sha256 { DigestFunction::Sha256 } else { DigestFunction::Blake3 };
        let digest = digest_of(function, &bytes);
        run(async {
            let streamed = || Blob::from_stream(digest, stream::iter(chunks_of(&bytes, size)));
            assert_eq!(streamed().into_bytes(u64::MAX).await.unwrap(), bytes);
            let all: Vec<Bytes> = streamed().into_stream().try_collect().await.unwrap();
            assert_eq!(all.concat(), bytes);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("copy");
            streamed().write_to(&path).await.unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(Blob::from_file(&path, digest).into_bytes(u64::MAX).await.unwrap(), bytes);
            let whole = Blob::from_bytes_of(digest, bytes.clone().into()).unwrap();
            assert_eq!(whole.into_bytes(u64::MAX).await.unwrap(), bytes);
        });
    }
}

#[tokio::test]
async fn files_of_every_size_around_a_read_come_out_whole_and_shorter_ones_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let chunk = 64 * 1024_usize;
    let few = [1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk, 3 * chunk + 1, 5 * chunk, 7 * chunk - 1];
    // More than is read in the smaller chunks of the beginning.
    let many = [256 * chunk, 257 * chunk + 1, 264 * chunk, 270 * chunk - 1];
    for size in few.into_iter().chain(many) {
        let bytes: Vec<u8> = (0..size).map(|position| (position * 31 % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        for blob in [
            Blob::from_file(&path, Digest::of(&bytes)),
            Blob::from_file(&path, Digest::of(&bytes)).without_read_ahead(),
            Blob::from_file(&path, Digest::of(&bytes)).with_room(|_| true),
            Blob::from_file(&path, Digest::of(&bytes)).with_room(|_| false),
        ] {
            let chunks: Vec<Bytes> = blob.into_stream().try_collect().await.unwrap();
            assert_eq!(chunks.concat(), bytes, "{size}");
        }
        for missing in [1, chunk] {
            let Some(rest) = size.checked_sub(missing) else { continue };
            std::fs::write(&path, &bytes[..rest]).unwrap();
            let blob = Blob::from_file(&path, Digest::of(&bytes)).with_room(|_| true);
            let (count, error) = handed_out(blob).await;
            assert!(matches!(error, Some(StoreError::Mismatch { .. })), "{size} - {missing}: {error:?}");
            assert!(count < bytes.len(), "{size} - {missing}");
        }
    }
}

#[tokio::test]
async fn room_is_asked_for_once_and_only_when_a_stream_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let bytes = vec![1; 20 << 20];
    std::fs::write(&path, &bytes).unwrap();
    for has_room in [true, false] {
        let (asked, asking) = std::sync::mpsc::channel();
        let blob = Blob::from_file(&path, Digest::of(&bytes)).with_room(move |bytes| {
            asked.send(bytes).unwrap();
            has_room
        });
        let mut chunks = blob.into_stream();
        let mut taken = 0;
        while taken < 16 << 20 {
            assert!(asking.try_recv().is_err(), "{taken} bytes are taken");
            let chunk = chunks.next().await.unwrap().unwrap();
            assert_eq!(chunk.len(), 64 * 1024);
            taken += chunk.len();
        }
        let rest: Vec<Bytes> = chunks.try_collect().await.unwrap();
        assert_eq!(rest.iter().any(|chunk| chunk.len() > 64 * 1024), has_room);
        assert_eq!(asking.iter().collect::<Vec<_>>(), [2 * 192 * 1024]);
        assert_eq!(taken + rest.iter().map(Bytes::len).sum::<usize>(), bytes.len());
    }
}

#[tokio::test]
async fn many_readers_share_buffers_and_never_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let readers = (0..32_u8).map(|number| {
        let bytes = vec![number; 600 * 1024 + usize::from(number)];
        let path = folder.path().join(number.to_string());
        std::fs::write(&path, &bytes).unwrap();
        tokio::spawn(async move {
            for _ in 0..4 {
                let mut chunks = Blob::from_file(&path, Digest::of(&bytes)).into_stream();
                while let Some(chunk) = chunks.next().await {
                    let chunk = chunk.unwrap();
                    tokio::task::yield_now().await;
                    assert!(chunk.iter().all(|byte| *byte == number));
                }
            }
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn nothing_is_read_ahead_where_that_is_not_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let bytes = vec![1; 300 * 1024];
    std::fs::write(&path, &bytes).unwrap();
    let mut chunks = Blob::from_file(&path, Digest::of(&bytes)).without_read_ahead().into_stream();
    assert!(chunks.next().await.unwrap().is_ok());
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    std::fs::write(&path, vec![2; bytes.len()]).unwrap();
    // What is read only now is not the blob's, so its end is withheld.
    assert!(matches!(chunks.try_collect::<Vec<_>>().await, Err(StoreError::Mismatch { .. })));
}
