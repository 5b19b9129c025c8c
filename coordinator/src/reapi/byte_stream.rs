//! Large blobs: reads from any offset, and writes that can be resumed.

use std::fmt;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use muster_cache::{BlobStore, StoreError};
use muster_model::Digest;
use muster_proto::bytestream::byte_stream_server::ByteStream;
use muster_proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use tonic::{Request, Response, Status, Streaming};

use super::errors::status_of;
use super::resource::{ResourceError, parse_read, parse_write};
use super::uploads::{Held, Uploads};
use crate::counters::{Counters, Kind};

/// The service.
#[derive(Clone)]
pub struct ByteStreamService {
    store: Arc<dyn BlobStore>,
    counters: Arc<Counters>,
    uploads: Uploads,
}

impl ByteStreamService {
    pub(super) fn new(store: Arc<dyn BlobStore>, counters: Arc<Counters>) -> Self {
        Self { store, counters, uploads: Uploads::default() }
    }

    async fn is_present(&self, digest: &Digest) -> Result<bool, Status> {
        let missing = self.store.find_missing(&[*digest]).await.map_err(|error| status_of(&error))?;
        Ok(missing.is_empty())
    }

    /// Takes the messages of one connection. `Ok(None)` when it ended before the blob did.
    async fn receive(
        &self,
        upload: &mut Held,
        name: &str,
        digest: &Digest,
        first: WriteRequest,
        rest: &mut Streaming<WriteRequest>,
    ) -> Result<Option<()>, Refusal> {
        let mut next = Some(first);
        while let Some(request) = next {
            if !request.resource_name.is_empty() && request.resource_name != name {
                return Err(Refusal::stay("resource_name: changed within one upload"));
            }
            let committed = upload.committed();
            if u64::try_from(request.write_offset) != Ok(committed) {
                return Err(Refusal::stay(format!("write_offset: {committed} bytes are committed")));
            }
            let end = committed + request.data.len() as u64;
            if end > digest.size_bytes {
                return Err(Refusal::end(format!("data: more than the {} bytes of the blob", digest.size_bytes)));
            }
            if !request.data.is_empty() {
                self.counters.add_bytes(Kind::BlobUpload, 0, request.data.len() as u64);
                upload.push(request.data).await.map_err(|status| Refusal { status, ends: true })?;
            }
            if request.finish_write {
                return Ok(Some(()));
            }
            next = rest.message().await.map_err(|status| Refusal { status, ends: false })?;
        }
        Ok(None)
    }
}

/// Why an upload's messages were not taken, and whether that is its end.
struct Refusal {
    status: Status,
    ends: bool,
}

impl Refusal {
    fn stay(why: impl Into<String>) -> Self {
        Self { status: Status::invalid_argument(why), ends: false }
    }

    fn end(why: impl Into<String>) -> Self {
        Self { status: Status::invalid_argument(why), ends: true }
    }
}

impl fmt::Debug for ByteStreamService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ByteStreamService")
    }
}

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let digest = parse_read(&request.resource_name).map_err(|error| malformed(&error))?;
        let offset = u64::try_from(request.read_offset)
            .ok()
            .filter(|offset| *offset <= digest.size_bytes)
            .ok_or_else(|| Status::out_of_range("read_offset: is outside of the blob"))?;
        let limit = match u64::try_from(request.read_limit) {
            Ok(0) => u64::MAX,
            Ok(limit) => limit,
            Err(_) => return Err(Status::invalid_argument("read_limit: is negative")),
        };
        let found = self.store.get(&digest).await;
        self.counters.add_lookups(Kind::BlobDownload, u64::from(found.is_ok()), u64::from(found.is_err()));
        let chunks = found.map_err(|error| status_of(&error))?.into_stream();
        let counters = self.counters.clone();
        let responses = window(chunks, offset, limit)
            .inspect_ok(move |data| counters.add_bytes(Kind::BlobDownload, 0, data.len() as u64))
            .map_ok(|data| ReadResponse { data })
            .map_err(|error| status_of(&error));
        Ok(Response::new(responses.boxed()))
    }

    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        let mut rest = request.into_inner();
        let first = rest.message().await?.ok_or_else(|| Status::invalid_argument("an upload has a message"))?;
        let name = first.resource_name.clone();
        let (_, digest) = parse_write(&name).map_err(|error| malformed(&error))?;
        let whole = Response::new(WriteResponse { committed_size: digest.size_bytes.cast_signed() });
        if self.is_present(&digest).await? {
            // The specification's early exit: the blob is here, whatever this client would have sent.
            return Ok(whole);
        }
        let mut upload = self.uploads.take(&name, digest, &self.store)?;
        match self.receive(&mut upload, &name, &digest, first, &mut rest).await {
            Ok(Some(())) => {
                upload.finish().await?;
                Ok(whole)
            }
            Ok(None) => {
                let committed_size = upload.committed().cast_signed();
                Ok(Response::new(WriteResponse { committed_size }))
            }
            Err(refusal) => {
                if refusal.ends {
                    upload.abandon();
                }
                Err(refusal.status)
            }
        }
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let name = request.into_inner().resource_name;
        let (_, digest) = parse_write(&name).map_err(|error| malformed(&error))?;
        let (committed, complete) = if self.is_present(&digest).await? {
            (digest.size_bytes, true)
        } else {
            let committed = self.uploads.committed(&name);
            (committed.ok_or_else(|| Status::not_found("no such upload is open"))?, false)
        };
        let committed_size = committed.cast_signed();
        Ok(Response::new(QueryWriteStatusResponse { committed_size, complete }))
    }
}

/// The bytes from `offset` on, at most `limit` of them. Reads no further than it must.
fn window(
    chunks: impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static,
    offset: u64,
    limit: u64,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send + 'static {
    let cut = chunks.scan((offset, limit), |(skip, left), chunk| {
        if *left == 0 {
            return ready(None);
        }
        let cut = chunk.map(|mut bytes| {
            // Both fit: they are at most the length of a slice in memory.
            let skipped = (*skip).min(bytes.len() as u64);
            *skip -= skipped;
            let mut bytes = bytes.split_off(skipped as usize);
            let taken = (*left).min(bytes.len() as u64);
            *left -= taken;
            bytes.truncate(taken as usize);
            bytes
        });
        ready(Some(cut))
    });
    cut.try_filter(|bytes| ready(!bytes.is_empty()))
}

fn malformed(error: &ResourceError) -> Status {
    Status::invalid_argument(format!("resource_name: {error}"))
}
