use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// Small ones, so that little data has many borders.
const SMALL: Sizes = Sizes { min: 4096, average: 16384, max: 65534 };

/// Bytes that no two runs differ in and that have no pattern a cutter could see.
fn noise(length: usize) -> Vec<u8> {
    let mut noise = vec![0; length];
    blake3::Hasher::new_derive_key("muster test noise").finalize_xof().fill(&mut noise);
    noise
}

/// Lines of source code of a kind, in which much is said again and again.
fn text(length: usize) -> Vec<u8> {
    let lines = (0_u32..).flat_map(|number| {
        format!("    let value_{} = compute(&input[{}], {number});\n", number % 97, number * 7 % 1009).into_bytes()
    });
    lines.take(length).collect()
}

/// Noise, zeros, text and one byte again and again, one after the other.
fn mixed(length: usize) -> Vec<u8> {
    let part = length / 16;
    let noise = noise(length);
    let parts = (0..16).flat_map(|number| match number % 4 {
        0 => noise[number * part..(number + 1) * part].to_vec(),
        1 => vec![0; part],
        2 => text(part),
        _ => vec![0xa5; part],
    });
    parts.collect()
}

async fn cut_in_steps(data: &[u8], step: usize, sizes: Sizes) -> Vec<Bytes> {
    let pieces: Vec<_> = data.chunks(step).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    cut(stream::iter(pieces).boxed(), sizes).map(|piece| piece.unwrap()).collect().await
}

/// The lengths of chunks as `oracle.py` finds them, which follows the paper and shares nothing with our cutter.
fn lengths_by_the_paper(data: &[u8], sizes: Sizes) -> Vec<usize> {
    let mut oracle = Command::new("python3")
        .args(["-c", include_str!("oracle.py")])
        .args([sizes.min, sizes.average, sizes.max, 2].map(|number| number.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    oracle.stdin.take().expect("a pipe").write_all(data).expect("it reads");
    let output = oracle.wait_with_output().expect("it ends");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect()
}

#[tokio::test]
async fn borders_are_those_of_the_paper() {
    // An odd byte at the end is a case of its own.
    for (sizes, length) in [(SMALL, 1_200_001), (SIZES, 5_000_000)] {
        for data in [noise(length), vec![0; length], text(length), mixed(length)] {
            let ours: Vec<usize> = cut_in_steps(&data, 65_536, sizes).await.iter().map(Bytes::len).collect();
            assert_eq!(ours, lengths_by_the_paper(&data, sizes), "{sizes:?}");
            assert!(ours.len() > 2, "{ours:?}");
        }
    }
}

#[tokio::test]
async fn blobs_around_the_sizes_are_cut_as_the_paper_says() {
    for around in [SMALL.min, SMALL.average, SMALL.max, SMALL.max * 2] {
        for length in around - 2..=around + 2 {
            for data in [noise(length), vec![0; length]] {
                let ours: Vec<usize> = cut_in_steps(&data, 4096, SMALL).await.iter().map(Bytes::len).collect();
                assert_eq!(ours, lengths_by_the_paper(&data, SMALL), "{length}");
            }
        }
    }
}

#[tokio::test]
async fn borders_are_those_of_the_library_over_the_whole_blob_however_it_comes() {
    let data = noise(9 << 20);
    let whole = FastCDC::with_level(&data, SIZES.min, SIZES.average, SIZES.max, Normalization::Level2);
    let lengths: Vec<usize> = whole.map(|chunk| chunk.length).collect();
    assert!(lengths.len() > 8, "{lengths:?}");
    for step in [1 << 20, 4097, 9 << 20] {
        let cut = cut_in_steps(&data, step, SIZES).await;
        assert_eq!(cut.iter().map(Bytes::len).collect::<Vec<_>>(), lengths, "in steps of {step}");
        assert_eq!(cut.concat(), data);
    }
}

#[tokio::test]
async fn a_byte_more_at_the_front_changes_few_chunks() {
    let data = noise(9 << 20);
    let shifted = [&[1_u8][..], &data].concat();
    let before = cut_in_steps(&data, 1 << 20, SIZES).await;
    let after = cut_in_steps(&shifted, 1 << 20, SIZES).await;
    let shared = after.iter().filter(|piece| before.contains(piece)).count();
    assert!(shared + 3 >= after.len(), "{shared} of {}", after.len());
}
