//! Questions and small blobs: FindMissingBlobs, BatchUpdateBlobs, BatchReadBlobs.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use muster_cache::{Blob, BlobStore, StoreError};
use muster_model::limits::{FIND_MISSING_DIGESTS_MAX, MESSAGE_BYTES_MAX};
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi::content_addressable_storage_server::ContentAddressableStorage;
use muster_proto::reapi::{self, batch_read_blobs_response, batch_update_blobs_response, compressor, digest_function};
use tonic::{Request, Response, Status};

use super::errors::{part_status, status_of};
use crate::counters::{Counters, Kind};

/// Blobs of one batch under way at one time: enough for the store to commit them together.
const BLOBS_CONCURRENT: usize = 64;

/// The service.
#[derive(Clone)]
pub struct StorageService {
    store: Arc<dyn BlobStore>,
    counters: Arc<Counters>,
}

impl StorageService {
    pub(super) fn new(store: Arc<dyn BlobStore>, counters: Arc<Counters>) -> Self {
        Self { store, counters }
    }

    async fn update(&self, digest: Digest, compressor: i32, data: Bytes) -> Result<(), StoreError> {
        refuse_compression(compressor)?;
        self.store.put(&digest, Blob::from_bytes_of(digest, data)?).await
    }

    async fn read(&self, digest: Digest) -> Result<Bytes, StoreError> {
        self.store.get(&digest).await?.into_bytes(MESSAGE_BYTES_MAX as u64).await
    }
}

impl fmt::Debug for StorageService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StorageService")
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for StorageService {
    type GetTreeStream = BoxStream<'static, Result<reapi::GetTreeResponse, Status>>;

    async fn get_tree(
        &self,
        _request: Request<reapi::GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        Err(Status::unimplemented("trees are not served"))
    }

    async fn split_blob(
        &self,
        _request: Request<reapi::SplitBlobRequest>,
    ) -> Result<Response<reapi::SplitBlobResponse>, Status> {
        Err(Status::unimplemented("blobs are not split"))
    }

    async fn splice_blob(
        &self,
        _request: Request<reapi::SpliceBlobRequest>,
    ) -> Result<Response<reapi::SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("blobs are not spliced"))
    }

    async fn find_missing_blobs(
        &self,
        request: Request<reapi::FindMissingBlobsRequest>,
    ) -> Result<Response<reapi::FindMissingBlobsResponse>, Status> {
        let request = request.into_inner();
        let function = function(&request.instance_name, request.digest_function)?;
        if request.blob_digests.len() > FIND_MISSING_DIGESTS_MAX {
            return Err(Status::invalid_argument(format!(
                "blob_digests: more than the limit of {FIND_MISSING_DIGESTS_MAX}"
            )));
        }
        let asked: Vec<Digest> =
            request.blob_digests.iter().map(|digest| digest.to_model(function)).collect::<Result<_, _>>()?;
        let missing = self.store.find_missing(&asked).await.map_err(|error| status_of(&error))?;
        let size = |digests: &[Digest]| digests.iter().map(|digest| digest.size_bytes).fold(0, u64::saturating_add);
        let hits = asked.len().saturating_sub(missing.len()) as u64;
        self.counters.add_lookups(Kind::BlobUpload, hits, missing.len() as u64);
        self.counters.add_bytes(Kind::BlobUpload, size(&asked).saturating_sub(size(&missing)), 0);
        let missing_blob_digests = missing.iter().map(reapi::Digest::from).collect();
        Ok(Response::new(reapi::FindMissingBlobsResponse { missing_blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<reapi::BatchUpdateBlobsRequest>,
    ) -> Result<Response<reapi::BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        let function = function(&request.instance_name, request.digest_function)?;
        let bytes = request.requests.iter().map(|part| part.data.len() as u64).sum();
        self.counters.add_bytes(Kind::BlobUpload, 0, bytes);
        let mut blobs = Vec::with_capacity(request.requests.len());
        for part in request.requests {
            let digest = part.digest.ok_or_else(|| Status::invalid_argument("requests.digest: is missing"))?;
            blobs.push((digest.to_model(function)?, part.compressor, part.data));
        }
        let responses = stream::iter(blobs)
            .map(|(digest, compressor, data)| async move {
                let status = part_status(&self.update(digest, compressor, data).await);
                batch_update_blobs_response::Response { digest: Some(digest.into()), status: Some(status) }
            })
            .buffered(BLOBS_CONCURRENT)
            .collect()
            .await;
        Ok(Response::new(reapi::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<reapi::BatchReadBlobsRequest>,
    ) -> Result<Response<reapi::BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        let function = function(&request.instance_name, request.digest_function)?;
        let digests: Vec<Digest> =
            request.digests.iter().map(|digest| digest.to_model(function)).collect::<Result<_, _>>()?;
        let asked = digests.iter().map(|digest| digest.size_bytes).fold(0, u64::saturating_add);
        if asked > MESSAGE_BYTES_MAX as u64 {
            return Err(Status::invalid_argument(format!(
                "digests: {asked} bytes together pass the limit of {MESSAGE_BYTES_MAX}"
            )));
        }
        let responses: Vec<_> = stream::iter(digests)
            .map(|digest| async move {
                let (data, result) = match self.read(digest).await {
                    Ok(data) => (data, Ok(())),
                    Err(error) => (Bytes::new(), Err(error)),
                };
                let status = Some(part_status(&result));
                let compressor = compressor::Value::Identity.into();
                batch_read_blobs_response::Response { digest: Some(digest.into()), data, compressor, status }
            })
            .buffered(BLOBS_CONCURRENT)
            .collect()
            .await;
        let found = responses.iter().filter(|part| part.status.as_ref().is_some_and(|status| status.code == 0));
        let (hits, bytes) = found.fold((0, 0), |(hits, bytes), part| (hits + 1, bytes + part.data.len() as u64));
        self.counters.add_lookups(Kind::BlobDownload, hits, responses.len() as u64 - hits);
        self.counters.add_bytes(Kind::BlobDownload, 0, bytes);
        Ok(Response::new(reapi::BatchReadBlobsResponse { responses }))
    }
}

/// The function of a request's digests; without one they are SHA-256.
fn function(instance_name: &str, value: i32) -> Result<DigestFunction, Status> {
    if !instance_name.is_empty() {
        return Err(Status::invalid_argument("instance_name: there is no instance of this name; leave it empty"));
    }
    Ok(digest_function::Value::to_model(value, DigestFunction::Sha256)?)
}

fn refuse_compression(compressor: i32) -> Result<(), StoreError> {
    if compressor == i32::from(compressor::Value::Identity) {
        return Ok(());
    }
    Err(StoreError::Remote(Box::new(Status::invalid_argument("compressor: only IDENTITY is spoken here"))))
}
