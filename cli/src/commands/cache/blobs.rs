//! `muster cache get` and `muster cache put`: single blobs, checked byte for byte in both directions.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use muster_cache::{Blob, BlobStore, Hasher, RemoteStore, StoreError};
use muster_model::{Digest, DigestFunction};
use serde_json::json;
use tokio::io::AsyncReadExt;

use super::super::fleet_access::{AskArguments, ask};
use super::super::{Format, answer, answer_json};
use super::parse_digest;
use crate::cache_error::CacheError;
use crate::error::ExpectedError;

/// `muster cache get`
#[derive(Debug, Args)]
pub(in crate::commands) struct GetArguments {
    /// Which blob: [sha256:|blake3:]HASH/SIZE
    #[arg(value_name = "DIGEST", value_parser = parse_digest)]
    digest: Digest,
    /// Where to; standard output unless a file is named
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

impl GetArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let (digest, file) = (self.digest, self.file);
        ask(&self.ask, true, async |client| {
            let store = RemoteStore::new(client.channel());
            let blob = store.get(&digest).await.map_err(unreadable(digest))?;
            match file {
                None => to_output(blob).await,
                Some(path) => {
                    blob.write_to(&path).await.map_err(unreadable(digest))?;
                    if self.ask.format == Format::Json {
                        answer_json(&json!({"digest": digest.to_string(), "file": path}))?;
                    }
                    Ok(())
                }
            }
        })
        .await
    }
}

fn unreadable(digest: Digest) -> impl FnOnce(StoreError) -> CacheError {
    move |source| CacheError::Read { digest, source: Box::new(source) }
}

async fn to_output(blob: Blob) -> Result<(), ExpectedError> {
    let digest = *blob.digest();
    let mut chunks = blob.into_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(unreadable(digest))?;
        std::io::stdout().write_all(&chunk).map_err(ExpectedError::report("standard output"))?;
    }
    std::io::stdout().flush().map_err(ExpectedError::report("standard output"))
}

/// The function of a digest, as it is named on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Function {
    /// SHA-256: what most clients of the Remote Execution API speak.
    Sha256,
    /// BLAKE3: what Muster itself uses.
    Blake3,
}

/// `muster cache put`
#[derive(Debug, Args)]
pub(in crate::commands) struct PutArguments {
    /// What to store
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// What the digests are made with
    #[arg(long, value_name = "FUNCTION", default_value = "sha256")]
    function: Function,
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

impl PutArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let function = match self.function {
            Function::Sha256 => DigestFunction::Sha256,
            Function::Blake3 => DigestFunction::Blake3,
        };
        let stored = ask(&self.ask, true, async |client| {
            let store = RemoteStore::new(client.channel());
            let mut stored = Vec::new();
            for path in &self.files {
                let failed = |source| CacheError::Store { path: path.clone(), source: Box::new(source) };
                let digest = digest_of_file(path, function).await.map_err(failed)?;
                let is_new = !store.find_missing(&[digest]).await.map_err(failed)?.is_empty();
                if is_new {
                    store.put(&digest, Blob::from_file(path, digest)).await.map_err(failed)?;
                }
                stored.push((path.clone(), digest, is_new));
            }
            Ok(stored)
        })
        .await?;
        match self.ask.format {
            Format::Human => {
                let line = |(path, digest, _): &(PathBuf, Digest, bool)| format!("{digest}  {}\n", path.display());
                answer(&stored.iter().map(line).collect::<String>())
            }
            Format::Json => {
                let blob = |(path, digest, is_new): &(PathBuf, Digest, bool)| json!({"file": path, "digest": digest.to_string(), "uploaded": is_new});
                answer_json(&json!({"blobs": stored.iter().map(blob).collect::<Vec<_>>()}))
            }
        }
    }
}

/// Hashes a file without holding it in memory.
async fn digest_of_file(path: &Path, function: DigestFunction) -> Result<Digest, StoreError> {
    let failed = |source| StoreError::File { action: "read", path: path.to_owned(), source };
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut hasher = Hasher::new(function);
    let mut buffer = vec![0; muster_model::limits::CHUNK_BYTES_MAX];
    loop {
        match file.read(&mut buffer).await.map_err(failed)? {
            0 => return Ok(hasher.digest()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
