//! A store on another machine, over the Remote Execution API's ContentAddressableStorage and ByteStream. One needs it to reach the
//! coordinator's blobs: to upload what a run is made of, and to fetch it on an agent.
//!
//! Nothing that arrives is believed: see [`Blob`].

use std::collections::HashSet;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use muster_model::limits::{
    BATCH_BYTES_MAX, CHUNK_BYTES_MAX, FIND_MISSING_DIGESTS_MAX, MESSAGE_BYTES_MAX, TRANSFERS_CONCURRENT_MAX,
};
use muster_model::{Digest, DigestFunction};
use muster_proto::bytestream::byte_stream_client::ByteStreamClient;
use muster_proto::bytestream::{ReadRequest, WriteRequest};
use muster_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use muster_proto::reapi::{self, digest_function};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::{Blob, BlobStore, StoreError};

/// What a message may have beside its payload of [`MESSAGE_BYTES_MAX`], in bytes.
const FRAMING_BYTES: usize = 64 * 1024;
/// What one blob adds to a batch beside its bytes, at most.
const BATCH_ENTRY_BYTES: usize = 160;

/// A store behind a connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RemoteStore {
    storage: ContentAddressableStorageClient<Channel>,
    streams: ByteStreamClient<Channel>,
}

/// Where the bytes of an upload come from.
#[derive(Clone, Debug)]
pub enum UploadSource {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file, read only if its blob is missing.
    File(PathBuf),
}

/// What an upload came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UploadStats {
    /// Blobs sent.
    pub uploaded_blobs: u64,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Blobs that were there already.
    pub reused_blobs: u64,
    /// Their bytes.
    pub reused_bytes: u64,
}

impl RemoteStore {
    /// The store behind `channel`.
    pub fn new(channel: Channel) -> Self {
        let message_bytes_max = MESSAGE_BYTES_MAX + FRAMING_BYTES;
        Self {
            storage: ContentAddressableStorageClient::new(channel.clone())
                .max_decoding_message_size(message_bytes_max)
                .max_encoding_message_size(message_bytes_max),
            streams: ByteStreamClient::new(channel)
                .max_decoding_message_size(message_bytes_max)
                .max_encoding_message_size(message_bytes_max),
        }
    }

    /// Fetches blobs, small ones together and several requests at one time. Answers come in any order, one for each digest; each digest
    /// should be named once.
    pub fn get_many(
        &self,
        digests: Vec<Digest>,
    ) -> impl Stream<Item = (Digest, Result<Blob, StoreError>)> + Send + 'static {
        let store = self.clone();
        stream::iter(batches(digests, |digest| *digest))
            .map(move |batch| {
                let store = store.clone();
                async move {
                    match batch {
                        Batch::Large(digest) => vec![(digest, store.read(digest).await)],
                        Batch::Small(digests) => store.read_batch(digests).await,
                    }
                }
            })
            .buffer_unordered(TRANSFERS_CONCURRENT_MAX)
            .flat_map(stream::iter)
    }

    /// Uploads those of `blobs` that the store has not. A blob named twice is sent once.
    ///
    /// # Errors
    ///
    /// The first failure of any of them; [`StoreError::Mismatch`] when a file changed since its digest was computed.
    pub async fn upload_missing(
        &self,
        blobs: impl IntoIterator<Item = (Digest, UploadSource)>,
    ) -> Result<UploadStats, StoreError> {
        let mut seen = HashSet::new();
        let mut blobs: Vec<(Digest, UploadSource)> =
            blobs.into_iter().filter(|(digest, _)| seen.insert(*digest)).collect();
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let missing: HashSet<Digest> = self.find_missing(&digests).await?.into_iter().collect();
        let mut stats = UploadStats::default();
        for digest in &digests {
            let (blobs, bytes) = if missing.contains(digest) {
                (&mut stats.uploaded_blobs, &mut stats.uploaded_bytes)
            } else {
                (&mut stats.reused_blobs, &mut stats.reused_bytes)
            };
            *blobs += 1;
            *bytes += digest.size_bytes;
        }
        blobs.retain(|(digest, _)| missing.contains(digest));
        stream::iter(batches(blobs, |(digest, _)| *digest))
            .map(|batch| async {
                match batch {
                    Batch::Large((digest, source)) => self.write(digest, source.into_blob(digest)?).await,
                    Batch::Small(blobs) => self.write_batch(blobs).await,
                }
            })
            .buffer_unordered(TRANSFERS_CONCURRENT_MAX)
            .try_collect::<()>()
            .await?;
        Ok(stats)
    }

    async fn find_missing_of(&self, function: DigestFunction, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: String::new(),
            blob_digests: digests.iter().map(reapi::Digest::from).collect(),
            digest_function: wire_function(function),
        };
        let answer = self.storage.clone().find_missing_blobs(request).await.map_err(remote)?.into_inner();
        answer.missing_blob_digests.iter().map(|digest| digest.to_model(function).map_err(malformed)).collect()
    }

    /// One request for small blobs of one function.
    async fn read_batch(&self, digests: Vec<Digest>) -> Vec<(Digest, Result<Blob, StoreError>)> {
        let function = digests.first().map_or(DigestFunction::Blake3, |digest| digest.function);
        let request = reapi::BatchReadBlobsRequest {
            instance_name: String::new(),
            digests: digests.iter().map(reapi::Digest::from).collect(),
            acceptable_compressors: Vec::new(),
            digest_function: wire_function(function),
        };
        let answer = match self.storage.clone().batch_read_blobs(request).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                let again = |digest| (digest, Err(remote(status.clone())));
                return digests.into_iter().map(again).collect();
            }
        };
        let mut wanted: HashSet<Digest> = digests.into_iter().collect();
        let mut results = Vec::with_capacity(wanted.len());
        for response in answer.responses {
            let digest = response.digest.as_ref().and_then(|digest| digest.to_model(function).ok());
            let Some(digest) = digest.filter(|digest| wanted.remove(digest)) else { continue };
            let result = match part_status(response.status) {
                Some(status) => Err(not_found_or(digest, status)),
                None => Blob::from_bytes_of(digest, response.data),
            };
            results.push((digest, result));
        }
        // A peer that leaves out an answer has not got the blob, as far as one can tell.
        results.extend(wanted.into_iter().map(|digest| (digest, Err(StoreError::NotFound(digest)))));
        results
    }

    async fn read(&self, digest: Digest) -> Result<Blob, StoreError> {
        let request =
            ReadRequest { resource_name: format!("blobs/{}", resource(&digest)), read_offset: 0, read_limit: 0 };
        let answer = self.streams.clone().read(request).await;
        let chunks = answer.map_err(|status| not_found_or(digest, status))?.into_inner();
        let chunks = chunks.map_ok(|response| response.data).map_err(move |status| not_found_or(digest, status));
        Ok(Blob::from_stream(digest, chunks))
    }

    /// One request with small blobs of one function.
    async fn write_batch(&self, blobs: Vec<(Digest, UploadSource)>) -> Result<(), StoreError> {
        let function = blobs.first().map_or(DigestFunction::Blake3, |(digest, _)| digest.function);
        let mut requests = Vec::with_capacity(blobs.len());
        for (digest, source) in blobs {
            let data = source.into_blob(digest)?.into_bytes(BATCH_BYTES_MAX as u64).await?;
            requests.push(reapi::batch_update_blobs_request::Request {
                digest: Some(digest.into()),
                data,
                compressor: reapi::compressor::Value::Identity.into(),
            });
        }
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: String::new(),
            requests,
            digest_function: wire_function(function),
        };
        let answer = self.storage.clone().batch_update_blobs(request).await.map_err(remote)?.into_inner();
        match answer.responses.into_iter().find_map(|response| part_status(response.status)) {
            Some(status) => Err(remote(status)),
            None => Ok(()),
        }
    }

    async fn write(&self, digest: Digest, blob: Blob) -> Result<(), StoreError> {
        let resource_name = format!("uploads/{}/blobs/{}", upload_name(), resource(&digest));
        let (sender, failed) = tokio::sync::oneshot::channel();
        let requests = write_requests(resource_name, digest, blob.into_stream(), sender);
        let written = self.streams.clone().write(requests).await;
        // The cause on this side says more than the peer's complaint that the stream broke.
        if let Ok(error) = failed.await {
            return Err(error);
        }
        let committed = written.map_err(remote)?.into_inner().committed_size;
        if u64::try_from(committed).is_ok_and(|size| size == digest.size_bytes) {
            Ok(())
        } else {
            Err(remote(Status::data_loss(format!("committed {committed} bytes of {digest}"))))
        }
    }
}

#[async_trait]
impl BlobStore for RemoteStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        let mut asked = digests.to_vec();
        asked.sort_unstable();
        asked.dedup();
        // Sorted, so that each function's digests are together; one question is for one function, and fits one message.
        let questions = asked
            .chunk_by(|one, other| one.function == other.function)
            .flat_map(|digests| digests.chunks(FIND_MISSING_DIGESTS_MAX.min(MESSAGE_BYTES_MAX / 90)))
            .map(<[Digest]>::to_vec)
            .collect::<Vec<_>>();
        let answers = stream::iter(questions)
            .map(|digests| async move { self.find_missing_of(digests[0].function, &digests).await })
            .buffer_unordered(TRANSFERS_CONCURRENT_MAX)
            .try_collect::<Vec<_>>();
        Ok(answers.await?.concat())
    }

    async fn get(&self, digest: &Digest) -> Result<Blob, StoreError> {
        if digest.size_bytes > BATCH_BYTES_MAX as u64 {
            return self.read(*digest).await;
        }
        match self.read_batch(vec![*digest]).await.pop() {
            Some((_, result)) => result,
            None => Err(StoreError::NotFound(*digest)),
        }
    }

    async fn put(&self, digest: &Digest, blob: Blob) -> Result<(), StoreError> {
        if digest != blob.digest() {
            return Err(StoreError::Mismatch { expected: *digest, found: *blob.digest() });
        }
        if digest.size_bytes > BATCH_BYTES_MAX as u64 {
            return self.write(*digest, blob).await;
        }
        let bytes = blob.into_bytes(BATCH_BYTES_MAX as u64).await?;
        self.write_batch(vec![(*digest, UploadSource::Bytes(bytes))]).await
    }
}

impl UploadSource {
    fn into_blob(self, digest: Digest) -> Result<Blob, StoreError> {
        match self {
            Self::Bytes(bytes) => Blob::from_bytes_of(digest, bytes),
            Self::File(path) => Ok(Blob::from_file(path, digest)),
        }
    }
}

/// Requests for one blob, each at most one message.
enum Batch<T> {
    Large(T),
    Small(Vec<T>),
}

/// Packs small blobs of one function together, up to [`BATCH_BYTES_MAX`].
fn batches<T>(blobs: Vec<T>, digest_of: impl Fn(&T) -> Digest) -> Vec<Batch<T>> {
    let mut packed = Vec::new();
    let mut open: [(Vec<T>, usize); 2] = [(Vec::new(), 0), (Vec::new(), 0)];
    for blob in blobs {
        let digest = digest_of(&blob);
        let size = usize::try_from(digest.size_bytes).unwrap_or(usize::MAX).saturating_add(BATCH_ENTRY_BYTES);
        if size > CHUNK_BYTES_MAX {
            packed.push(Batch::Large(blob));
            continue;
        }
        let (batch, bytes) = &mut open[usize::from(digest.function == DigestFunction::Sha256)];
        if *bytes + size > BATCH_BYTES_MAX {
            packed.push(Batch::Small(std::mem::take(batch)));
            *bytes = 0;
        }
        batch.push(blob);
        *bytes += size;
    }
    packed.extend(open.into_iter().map(|(batch, _)| batch).filter(|batch| !batch.is_empty()).map(Batch::Small));
    packed
}

/// The messages of one upload; a failure of `chunks` ends them and is handed to `failed`.
fn write_requests(
    resource_name: String,
    digest: Digest,
    chunks: BoxStream<'static, Result<Bytes, StoreError>>,
    failed: tokio::sync::oneshot::Sender<StoreError>,
) -> impl Stream<Item = WriteRequest> + Send + 'static {
    // Only the first message needs the name.
    let first =
        WriteRequest { resource_name, write_offset: 0, finish_write: digest.size_bytes == 0, data: Bytes::new() };
    let state = Some((chunks, 0, failed));
    let rest = stream::unfold(state, move |state| async move {
        let (mut chunks, offset, failed): (_, u64, _) = state?;
        match chunks.next().await? {
            Ok(data) => {
                let end = offset + data.len() as u64;
                let request = WriteRequest {
                    resource_name: String::new(),
                    write_offset: offset.cast_signed(),
                    finish_write: end == digest.size_bytes,
                    data,
                };
                Some((request, Some((chunks, end, failed))))
            }
            Err(error) => {
                // Nobody waits when the call was given up.
                drop(failed.send(error));
                // An upload that merely stops would be kept for a client that comes back. To finish it short ends it: bytes are missing, so
                // it can't verify.
                let request = WriteRequest {
                    resource_name: String::new(),
                    write_offset: offset.cast_signed(),
                    finish_write: true,
                    data: Bytes::new(),
                };
                Some((request, None))
            }
        }
    });
    stream::iter([first]).chain(rest)
}

/// A name for one upload that no other has: this process, when it started to upload, and a count.
fn upload_name() -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static PROCESS: LazyLock<[u64; 2]> =
        LazyLock::new(|| [RandomState::new().hash_one(0), RandomState::new().hash_one(1)]);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let [high, low] = *PROCESS;
    let low = low.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
    let [a, b] = [high >> 32, high & 0xffff_ffff];
    format!("{a:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", b >> 16, b & 0xfff, low >> 52, low & 0xffff_ffff_ffff)
}

/// `[{function}/]{hash}/{size}`; the function is named where the protocol wants it named.
fn resource(digest: &Digest) -> String {
    match digest.function {
        DigestFunction::Blake3 => format!("blake3/{}/{}", digest.hex(), digest.size_bytes),
        DigestFunction::Sha256 => format!("{}/{}", digest.hex(), digest.size_bytes),
    }
}

fn wire_function(function: DigestFunction) -> i32 {
    match function {
        DigestFunction::Blake3 => digest_function::Value::Blake3.into(),
        DigestFunction::Sha256 => digest_function::Value::Sha256.into(),
    }
}

/// The failure of one part of a batch, if it failed.
fn part_status(status: Option<muster_proto::rpc::Status>) -> Option<Status> {
    status.filter(|status| status.code != 0).map(|status| Status::new(Code::from(status.code), status.message))
}

fn remote(status: Status) -> StoreError {
    StoreError::Remote(Box::new(status))
}

fn not_found_or(digest: Digest, status: Status) -> StoreError {
    if status.code() == Code::NotFound { StoreError::NotFound(digest) } else { remote(status) }
}

fn malformed(error: muster_proto::convert::ConvertError) -> StoreError {
    remote(Status::internal(error.to_string()))
}
