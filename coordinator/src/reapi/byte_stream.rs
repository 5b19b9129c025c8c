//! Large blobs: reads from any offset, and writes that can be resumed, in either case as they are or compressed.

use std::fmt;
use std::future::ready;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt, TryStreamExt};
use muster_cache::{BlobStore, StoreError};
use muster_model::Digest;
use muster_model::limits::DOWNLOAD_BYTES_AHEAD_MAX;
use muster_proto::bytestream::byte_stream_server::ByteStream;
use muster_proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use tonic::{Request, Response, Status, Streaming};

use super::compression::{CompressionError, Inflater, deflate_stream};
use super::errors::{exhausted, status_of};
use super::resource::{Encoding, Resource, ResourceError, parse_read, parse_write};
use super::uploads::{Held, Uploads};
use crate::budget::{Patience, UploadBudget};
use crate::counters::{Counters, Kind};
use crate::impatience::impatient;
use crate::traffic::{Meter, Protocol, client_of};

/// What the specification has a compressed upload answered with when the blob was there before its end.
const COMMITTED_EARLY: i64 = -1;

/// The service.
#[derive(Clone)]
pub struct ByteStreamService {
    store: Arc<dyn BlobStore>,
    counters: Arc<Counters>,
    budget: UploadBudget,
    uploads: Uploads,
}

impl ByteStreamService {
    pub(super) fn new(store: Arc<dyn BlobStore>, counters: Arc<Counters>, budget: UploadBudget) -> Self {
        Self { store, counters, budget, uploads: Uploads::default() }
    }

    async fn is_present(&self, digest: &Digest) -> Result<bool, Status> {
        let missing = self.store.find_missing(&[*digest]).await.map_err(|error| status_of(&error))?;
        Ok(missing.is_empty())
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
        let meter = self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let request = request.into_inner();
        let Resource { digest, encoding, .. } =
            parse_read(&request.resource_name).map_err(|error| malformed(&error))?;
        let offset = u64::try_from(request.read_offset)
            .ok()
            .filter(|offset| *offset <= digest.size_bytes)
            .ok_or_else(|| Status::out_of_range("read_offset: is outside of the blob"))?;
        let limit = match u64::try_from(request.read_limit) {
            Ok(0) => u64::MAX,
            Ok(_) if encoding != Encoding::Identity => {
                return Err(Status::invalid_argument("read_limit: must be 0 for a compressed blob"));
            }
            Ok(limit) => limit,
            Err(_) => return Err(Status::invalid_argument("read_limit: is negative")),
        };
        let found = self.store.get(&digest).await;
        self.counters.add_lookups(Kind::BlobDownload, u64::from(found.is_ok()), u64::from(found.is_err()));
        meter.lookup(found.is_ok());
        let blob = found.map_err(|error| status_of(&error))?;
        // Where memory is short, a download becomes slower rather than impossible.
        let ahead = self.budget.take(DOWNLOAD_BYTES_AHEAD_MAX).ok();
        let blob = if ahead.is_some() {
            let (budget, mut more) = (self.budget.clone(), Vec::new());
            blob.with_room(move |bytes| {
                more.extend(budget.take(bytes).ok());
                !more.is_empty()
            })
        } else {
            blob.without_read_ahead()
        };
        let chunks = window(blob.into_stream(), offset, limit);
        let chunks = match encoding {
            Encoding::Identity => chunks.boxed(),
            Encoding::Zstd => deflate_stream(chunks.boxed(), digest.size_bytes - offset),
        };
        let counters = self.counters.clone();
        let responses = chunks
            .inspect_ok(move |data| {
                let _for_as_long_as_the_stream = &ahead;
                meter.read(data.len() as u64);
                counters.add_bytes(Kind::BlobDownload, 0, data.len() as u64);
            })
            .map_ok(|data| ReadResponse { data })
            .map_err(|error| status_of(&error));
        Ok(Response::new(impatient(responses.boxed())))
    }

    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        let meter = self.counters.meter(Protocol::RemoteExecution, &client_of(request.metadata()));
        let mut messages = Messages { rest: request.into_inner(), patience: Patience::default() };
        let first = messages.next().await.map_err(|refusal| refusal.status)?;
        let first = first.ok_or_else(|| Status::invalid_argument("an upload has a message"))?;
        let name = first.resource_name.clone();
        let (_, resource) = parse_write(&name).map_err(|error| malformed(&error))?;
        let answer = |committed_size| Ok(Response::new(WriteResponse { committed_size }));
        if self.is_present(&resource.digest).await? {
            // The specification's early exit: the blob is here, whatever this client would have sent.
            return answer(match resource.encoding {
                Encoding::Identity => resource.digest.size_bytes.cast_signed(),
                Encoding::Zstd => COMMITTED_EARLY,
            });
        }
        let upload = self.uploads.take(&name, resource.digest, &self.store)?;
        let inflater = match resource.encoding {
            Encoding::Identity => None,
            Encoding::Zstd => {
                let rest = resource.digest.size_bytes - upload.committed();
                Some(Inflater::new(rest).map_err(|error| refused(&error))?)
            }
        };
        let next_offset = upload.committed();
        let mut receiver =
            Receiver { service: self, meter, name: &name, resource: &resource, upload, inflater, next_offset };
        match receiver.receive(first, &mut messages).await {
            Ok(true) => {
                let sent = receiver.next_offset.cast_signed();
                receiver.upload.finish().await?;
                answer(sent)
            }
            Ok(false) => answer(receiver.upload.committed().cast_signed()),
            Err(refusal) => {
                if refusal.ends {
                    receiver.upload.abandon();
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
        let (_, Resource { digest, .. }) = parse_write(&name).map_err(|error| malformed(&error))?;
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

/// The messages of one connection, which may not keep us waiting for ever.
struct Messages {
    rest: Streaming<WriteRequest>,
    patience: Patience,
}

impl Messages {
    async fn next(&mut self) -> Result<Option<WriteRequest>, Refusal> {
        let came = self.patience.wait(self.rest.message()).await;
        let came = came.map_err(|slow| Refusal { status: Status::deadline_exceeded(slow.to_string()), ends: false })?;
        let message = came.map_err(|status| Refusal { status, ends: false })?;
        if let Some(message) = &message {
            self.patience.came(message.data.len());
        }
        Ok(message)
    }
}

/// Takes one connection's part of an upload.
struct Receiver<'a> {
    service: &'a ByteStreamService,
    meter: Meter,
    name: &'a str,
    resource: &'a Resource,
    upload: Held,
    /// For a compressed upload; every connection begins a frame of its own.
    inflater: Option<Inflater>,
    /// What the next message must say. For a compressed upload this begins as an offset in the blob and grows with compressed bytes, as the
    /// specification has it.
    next_offset: u64,
}

impl Receiver<'_> {
    /// Answers whether the upload came to its end, which it does not when the connection ends before.
    async fn receive(&mut self, first: WriteRequest, messages: &mut Messages) -> Result<bool, Refusal> {
        let mut next = Some(first);
        while let Some(message) = next {
            if !message.resource_name.is_empty() && message.resource_name != self.name {
                return Err(Refusal::stay("resource_name: changed within one upload"));
            }
            if u64::try_from(message.write_offset) != Ok(self.next_offset) {
                return Err(Refusal::stay(format!("write_offset: {} is expected", self.next_offset)));
            }
            self.next_offset += message.data.len() as u64;
            self.meter.written(message.data.len() as u64);
            self.service.counters.add_bytes(Kind::BlobUpload, 0, message.data.len() as u64);
            self.take(message.data).await?;
            if message.finish_write {
                if let Some(inflater) = self.inflater.take() {
                    inflater.finish().map_err(|error| Refusal { status: refused(&error), ends: true })?;
                }
                return Ok(true);
            }
            next = messages.next().await?;
        }
        Ok(false)
    }

    async fn take(&mut self, data: Bytes) -> Result<(), Refusal> {
        let Some(mut inflater) = self.inflater.take() else { return self.push(data).await };
        inflater.push(data);
        while let Some(chunk) =
            inflater.next_chunk().map_err(|error| Refusal { status: refused(&error), ends: true })?
        {
            self.push(chunk).await?;
        }
        self.inflater = Some(inflater);
        Ok(())
    }

    async fn push(&mut self, chunk: Bytes) -> Result<(), Refusal> {
        let size = self.resource.digest.size_bytes;
        if self.upload.committed() + chunk.len() as u64 > size {
            return Err(Refusal {
                status: Status::invalid_argument(format!("data: more than the {size} bytes of the blob")),
                ends: true,
            });
        }
        if chunk.is_empty() {
            return Ok(());
        }
        // What is in hand already stays, so that the client can go on when there is room.
        let share = self.service.budget.take(chunk.len());
        let share = share.map_err(|full| Refusal { status: exhausted(&full.to_string()), ends: false })?;
        self.upload.push(chunk, share).await.map_err(|status| Refusal { status, ends: true })
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

fn refused(error: &CompressionError) -> Status {
    Status::invalid_argument(format!("data: {error}"))
}
