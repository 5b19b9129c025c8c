//! Measures the staging of 10,000 files in 1,000 directories beside hard-linking the same tree; `scripts/bench staging` runs it.
//!
//! Arguments: the directory to work in, and how often each row is measured (5).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_cache::tree::{Tree, TreeBuilder};
use muster_cache::{Blob, DiskConfig, DiskStore, Ground, StagedTree, Stager};
use muster_model::Digest;

const DIRECTORIES: usize = 1000;
const FILES_PER_DIRECTORY: usize = 10;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let place = PathBuf::from(arguments.next().ok_or("usage: staging DIRECTORY [ROUNDS]")?);
    let rounds = arguments.next().map_or(Ok(5), |rounds| rounds.parse())?;
    std::fs::create_dir_all(&place)?;
    let runtime = tokio::runtime::Runtime::new()?;
    println!("### Staging {} files in {DIRECTORIES} directories\n", DIRECTORIES * FILES_PER_DIRECTORY);
    println!("| | file size | wall, median | wall, least | wall, greatest | / `cp -al` |");
    println!("|---|---:|---:|---:|---:|---:|");
    for size in [1024, 16 * 1024] {
        runtime.block_on(measure(&place, size, rounds))?;
    }
    Ok(())
}

/// A tree like a source tree: `group/directory/file`; `changed` makes one file another one.
fn tree(size: usize, changed: usize) -> Result<(Tree, Vec<Bytes>), Failure> {
    let mut builder = TreeBuilder::new();
    let mut files = Vec::new();
    for directory in 0..DIRECTORIES {
        for number in 0..FILES_PER_DIRECTORY {
            let is_changed = changed > 0 && directory == DIRECTORIES / 2 && number == 0;
            let mut bytes = format!("{directory} {number} {}\n", if is_changed { changed } else { 0 }).into_bytes();
            bytes.resize(size, b'.');
            let bytes = Bytes::from(bytes);
            let path = format!("group{}/directory{directory}/file{number}", directory % 20);
            builder.insert_file(&path, Digest::of(&bytes), false)?;
            files.push(bytes);
        }
    }
    Ok((builder.finish()?, files))
}

async fn put(store: &DiskStore, tree: &Tree, files: Vec<Bytes>) -> Result<(), Failure> {
    use futures_util::{StreamExt, TryStreamExt, stream};
    let blobs = tree.directories.iter().map(|(_, bytes)| bytes.clone()).chain(files);
    let puts = blobs.map(|bytes| async move { store.put_blob(&Digest::of(&bytes), Blob::from_bytes(bytes)).await });
    Ok(stream::iter(puts).buffer_unordered(64).try_collect::<()>().await?)
}

async fn measure(place: &Path, size: usize, rounds: usize) -> Result<(), Failure> {
    let folder = tempfile::tempdir_in(place)?;
    let store_path = folder.path().join("store");
    let (first, files) = tree(size, 0)?;
    put(&*DiskStore::open(DiskConfig::new(&store_path))?, &first, files).await?;

    let mut cold = Vec::new();
    let mut linked = Vec::new();
    let mut kept = None;
    for round in 0..=rounds {
        // As after a start of the agent: nothing is remembered, neither what was verified nor what was read.
        drop(kept.take());
        let store = DiskStore::open(DiskConfig::new(&store_path))?;
        let stager = Stager::open(store.clone(), folder.path().join(format!("staged{round}")))?;
        let (staged, took) = stage(&stager, &store, &first.root).await?;
        let copy = folder.path().join(format!("copy{round}"));
        let began = Instant::now();
        let status = Command::new("cp").arg("-al").arg(&staged.directories()[0]).arg(&copy).status()?;
        if !status.success() {
            return Err("cp failed".into());
        }
        let copied = began.elapsed();
        if round > 0 {
            cold.push(took);
            linked.push(copied);
        }
        kept = Some((staged, stager, store));
    }
    let Some((_staged, stager, store)) = kept else { return Err("no rounds".into()) };
    let mut unchanged = Vec::new();
    let mut changed = Vec::new();
    for round in 1..=rounds {
        unchanged.push(stage(&stager, &store, &first.root).await?.1);
        let (tree, files) = tree(size, round)?;
        put(&store, &tree, files).await?;
        let (staged, took) = stage(&stager, &store, &tree.root).await?;
        if staged.directories().len() != 2 {
            return Err("not a delta".into());
        }
        changed.push(took);
    }
    let peer = median(&linked);
    row("`cp -al` of the staged tree", size, linked, peer);
    row("cold: from the local store, after a start", size, cold, peer);
    row("warm, unchanged", size, unchanged, peer);
    row("warm, one file changed", size, changed, peer);
    Ok(())
}

async fn stage(stager: &Arc<Stager>, store: &Arc<DiskStore>, root: &Digest) -> Result<(StagedTree, Duration), Failure> {
    let began = Instant::now();
    let staged = stager.stage(root, Ground::Bare, &**store).await?;
    Ok((staged, began.elapsed()))
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn row(what: &str, size: usize, times: Vec<Duration>, peer: Duration) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let (least, greatest) = (times.iter().min().copied(), times.iter().max().copied());
    let middle = median(&times);
    println!(
        "| {what} | {size} B | {:.3} ms | {:.3} ms | {:.3} ms | {:.3} |",
        milliseconds(middle),
        milliseconds(least.unwrap_or_default()),
        milliseconds(greatest.unwrap_or_default()),
        middle.as_secs_f64() / peer.as_secs_f64()
    );
}
