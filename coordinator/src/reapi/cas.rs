//! Questions and small blobs: FindMissingBlobs, BatchUpdateBlobs, BatchReadBlobs; and the doors to trees and chunks.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use muster_cache::{ActionCache, Blob, BlobStore, StoreError};
use muster_model::Digest;
use muster_model::limits::{BATCH_BYTES_MAX, CHUNKS_PER_SPLICE_MAX, FIND_MISSING_DIGESTS_MAX, MESSAGE_BYTES_MAX};
use muster_proto::reapi::content_addressable_storage_server::ContentAddressableStorage;
use muster_proto::reapi::{self, batch_read_blobs_response, batch_update_blobs_request, batch_update_blobs_response};
use prost::Message;
use tonic::{Request, Response, Status};

use super::compression::{deflate, inflate};
use super::errors::{exhausted, part_status, status_of};
use super::instance::{of_request, required_digest};
use super::resource::Encoding;
use super::{chunks, tree};
use crate::budget::UploadBudget;
use crate::counters::{Counters, Kind};
use crate::traffic::{Protocol, client_of};

/// Blobs smaller than this are not compressed, in bytes: a frame has a head and a tail of its own.
const COMPRESSED_BYTES_MIN: u64 = 512;

/// The service.
#[derive(Clone)]
pub struct StorageService {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) actions: Arc<dyn ActionCache>,
    pub(super) counters: Arc<Counters>,
    pub(super) budget: UploadBudget,
}

impl fmt::Debug for StorageService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StorageService")
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for StorageService {
    type GetTreeStream = BoxStream<'static, Result<reapi::GetTreeResponse, Status>>;

    async fn find_missing_blobs(
        &self,
        request: Request<reapi::FindMissingBlobsRequest>,
    ) -> Result<Response<reapi::FindMissingBlobsResponse>, Status> {
        let meter = self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let request = request.into_inner();
        let (_, function) = of_request(&request.instance_name, request.digest_function)?;
        if request.blob_digests.len() > FIND_MISSING_DIGESTS_MAX {
            return Err(Status::invalid_argument(format!(
                "blob_digests: more than the limit of {FIND_MISSING_DIGESTS_MAX}"
            )));
        }
        let _share = self.budget.take(request.encoded_len()).map_err(|full| exhausted(&full.to_string()))?;
        let asked: Vec<Digest> =
            request.blob_digests.iter().map(|digest| digest.to_model(function)).collect::<Result<_, _>>()?;
        let missing = self.store.find_missing(&asked).await.map_err(|error| status_of(&error))?;
        let hits = asked.len().saturating_sub(missing.len()) as u64;
        self.counters.add_lookups(Kind::BlobUpload, hits, missing.len() as u64);
        self.counters.add_bytes(Kind::BlobUpload, size_of(&asked).saturating_sub(size_of(&missing)), 0);
        meter.lookups(hits, missing.len() as u64);
        let missing_blob_digests = missing.iter().map(reapi::Digest::from).collect();
        Ok(Response::new(reapi::FindMissingBlobsResponse { missing_blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<reapi::BatchUpdateBlobsRequest>,
    ) -> Result<Response<reapi::BatchUpdateBlobsResponse>, Status> {
        let meter = self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let request = request.into_inner();
        let (_, function) = of_request(&request.instance_name, request.digest_function)?;
        let digests: Vec<Digest> = request
            .requests
            .iter()
            .map(|part| required_digest("requests.digest", part.digest.as_ref(), function))
            .collect::<Result<_, _>>()?;
        let whole = batch_size("requests", &digests)?;
        let sent = request.requests.iter().map(|part| part.data.len()).sum::<usize>();
        let share = self.budget.take(whole.max(sent)).map_err(|full| exhausted(&full.to_string()))?;
        meter.written(sent as u64);
        self.counters.add_bytes(Kind::BlobUpload, 0, sent as u64);
        let parts: Vec<_> = digests.iter().copied().zip(request.requests).collect();
        // A batch takes milliseconds to hash, which is too long for a thread that others wait for.
        let checked = tokio::task::spawn_blocking(move || parts.into_iter().map(check).collect::<Vec<_>>());
        let checked = checked.await.map_err(|_| Status::unavailable("the coordinator is stopping"))?;
        let statuses = self.put_checked(checked).await;
        drop(share);
        let response = |(digest, status): (Digest, Result<(), Status>)| batch_update_blobs_response::Response {
            digest: Some(digest.into()),
            status: Some(part_status(&status)),
        };
        let responses = digests.into_iter().zip(statuses).map(response).collect();
        Ok(Response::new(reapi::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<reapi::BatchReadBlobsRequest>,
    ) -> Result<Response<reapi::BatchReadBlobsResponse>, Status> {
        let meter = self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let request = request.into_inner();
        let (_, function) = of_request(&request.instance_name, request.digest_function)?;
        let digests: Vec<Digest> =
            request.digests.iter().map(|digest| digest.to_model(function)).collect::<Result<_, _>>()?;
        let whole = batch_size("digests", &digests)?;
        // An answer is in memory twice: as blobs, and encoded until it is sent, in a buffer that may have grown to twice its size.
        let share = Arc::new(self.budget.take(2 * whole).map_err(|full| exhausted(&full.to_string()))?);
        let zstd = request.acceptable_compressors.contains(&Encoding::Zstd.number());
        let blobs = self.store.get_many(&digests).await;
        let mut responses = Vec::with_capacity(digests.len());
        for (digest, blob) in digests.into_iter().zip(blobs) {
            responses.push(read_part(digest, blob, zstd).await);
        }
        let found = responses.iter().filter(|part| part.status.as_ref().is_some_and(|status| status.code == 0));
        let (hits, bytes) = found.fold((0, 0), |(hits, bytes), part| (hits + 1, bytes + part.data.len() as u64));
        let misses = responses.len() as u64 - hits;
        self.counters.add_lookups(Kind::BlobDownload, hits, misses);
        self.counters.add_bytes(Kind::BlobDownload, 0, bytes);
        meter.lookups(hits, misses);
        meter.read(bytes);
        let mut response = Response::new(reapi::BatchReadBlobsResponse { responses });
        response.extensions_mut().insert(share);
        Ok(response)
    }

    async fn get_tree(&self, request: Request<reapi::GetTreeRequest>) -> Result<Response<Self::GetTreeStream>, Status> {
        self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let request = request.into_inner();
        let (_, function) = of_request(&request.instance_name, request.digest_function)?;
        let root = required_digest("root_digest", request.root_digest.as_ref(), function)?;
        let page_size = match usize::try_from(request.page_size) {
            Ok(0) => usize::MAX,
            Ok(size) => size,
            Err(_) => return Err(Status::invalid_argument("page_size: is negative")),
        };
        let skipped = match request.page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| Status::invalid_argument("page_token: is not from an answer"))?,
        };
        Ok(Response::new(tree::pages(self.store.clone(), root, page_size, skipped).await?))
    }

    async fn split_blob(
        &self,
        request: Request<reapi::SplitBlobRequest>,
    ) -> Result<Response<reapi::SplitBlobResponse>, Status> {
        self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let request = request.into_inner();
        let (_, function) = of_request(&request.instance_name, request.digest_function)?;
        let digest = required_digest("blob_digest", request.blob_digest.as_ref(), function)?;
        Ok(Response::new(chunks::split(&self.store, &self.actions, digest).await?))
    }

    async fn splice_blob(
        &self,
        request: Request<reapi::SpliceBlobRequest>,
    ) -> Result<Response<reapi::SpliceBlobResponse>, Status> {
        self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let request = request.into_inner();
        let (_, function) = of_request(&request.instance_name, request.digest_function)?;
        let digest = required_digest("blob_digest", request.blob_digest.as_ref(), function)?;
        if request.chunk_digests.len() > CHUNKS_PER_SPLICE_MAX {
            return Err(Status::invalid_argument(format!("chunk_digests: more than {CHUNKS_PER_SPLICE_MAX}")));
        }
        let chunks: Vec<Digest> =
            request.chunk_digests.iter().map(|digest| digest.to_model(function)).collect::<Result<_, _>>()?;
        chunks::splice(&self.store, digest, chunks).await?;
        Ok(Response::new(reapi::SpliceBlobResponse { blob_digest: Some(digest.into()) }))
    }
}

impl StorageService {
    /// Stores the blobs that were in order, and gives the statuses of all, in their order.
    async fn put_checked(&self, checked: Vec<Result<Blob, Status>>) -> Vec<Result<(), Status>> {
        let mut blobs = Vec::with_capacity(checked.len());
        let statuses: Vec<Result<(), Status>> =
            checked.into_iter().map(|result| result.map(|blob| blobs.push(blob))).collect();
        let mut stored = self.store.put_many(blobs).await.into_iter();
        let fill = |status: Result<(), Status>| {
            status?;
            let result = stored.next().unwrap_or(Err(StoreError::Closed));
            result.map_err(|error| status_of(&error))
        };
        statuses.into_iter().map(fill).collect()
    }
}

/// The blob of one part of an update, decompressed and verified.
fn check((digest, part): (Digest, batch_update_blobs_request::Request)) -> Result<Blob, Status> {
    let data = match Encoding::of_number(part.compressor) {
        Some(Encoding::Identity) => part.data,
        Some(Encoding::Zstd) => {
            inflate(part.data, digest.size_bytes).map_err(|error| Status::invalid_argument(format!("data: {error}")))?
        }
        None => return Err(Status::invalid_argument("compressor: must be IDENTITY or ZSTD")),
    };
    Blob::from_bytes_of(digest, data).map_err(|error| status_of(&error))
}

async fn read_part(digest: Digest, blob: Result<Blob, StoreError>, zstd: bool) -> batch_read_blobs_response::Response {
    let bytes = match blob {
        Ok(blob) => blob.into_bytes(MESSAGE_BYTES_MAX as u64).await,
        Err(error) => Err(error),
    };
    let (data, encoding, status) = match bytes {
        Ok(data) if zstd && digest.size_bytes >= COMPRESSED_BYTES_MIN => match deflate(&data) {
            Some(data) => (data, Encoding::Zstd, Ok(())),
            None => (data, Encoding::Identity, Ok(())),
        },
        Ok(data) => (data, Encoding::Identity, Ok(())),
        Err(error) => (Bytes::new(), Encoding::Identity, Err(status_of(&error))),
    };
    batch_read_blobs_response::Response {
        digest: Some(digest.into()),
        data,
        compressor: encoding.number(),
        status: Some(part_status(&status)),
    }
}

fn size_of(digests: &[Digest]) -> u64 {
    digests.iter().map(|digest| digest.size_bytes).fold(0, u64::saturating_add)
}

/// The bytes of a batch's blobs together, before compression; at most what the capabilities state.
fn batch_size(field: &str, digests: &[Digest]) -> Result<usize, Status> {
    let whole = size_of(digests);
    if whole > BATCH_BYTES_MAX as u64 {
        return Err(Status::invalid_argument(format!(
            "{field}: {whole} bytes together pass the limit of {BATCH_BYTES_MAX}"
        )));
    }
    Ok(whole as usize)
}
