//! The limit of this machine: a server that speaks the same messages over the same tonic, and does nothing with them. It keeps no blob, hashes
//! no byte and answers every question as a cache that has every second blob would.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use muster_model::limits;
use muster_proto::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use muster_proto::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use muster_proto::reapi;
use muster_proto::reapi::action_cache_server::{ActionCache, ActionCacheServer};
use muster_proto::reapi::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use muster_proto::rpc;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::blobs::MESSAGE_BYTES;
use super::scenario::action_result;

/// The largest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Serves until the process ends.
///
/// # Errors
///
/// When it can't listen there.
pub async fn serve(listen: SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(listen).await?;
    let content = ContentAddressableStorageServer::new(Echo)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let bytes = ByteStreamServer::new(Echo).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        // As a coordinator has them.
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .add_service(content)
        .add_service(bytes)
        .add_service(ActionCacheServer::new(Echo))
        .serve_with_incoming(TcpListenerStream::new(listener).map(|stream| {
            let stream = stream?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        }))
        .await?;
    Ok(())
}

/// The server that does nothing.
#[derive(Clone, Copy, Debug)]
pub struct Echo;

/// The size at the end of a resource name that may be followed by nothing.
fn size(name: &str) -> Result<u64, Status> {
    let size = name.rsplit('/').next().and_then(|size| size.parse().ok());
    size.ok_or_else(|| Status::invalid_argument("resource_name: ends with the size of the blob"))
}

/// Bytes for everybody.
fn zeroes(size: usize) -> Bytes {
    static ZEROES: [u8; MESSAGE_BYTES] = [0; MESSAGE_BYTES];
    Bytes::from_static(&ZEROES[..size.min(MESSAGE_BYTES)])
}

fn not_measured() -> Status {
    Status::unimplemented("only what is measured is spoken here")
}

fn good() -> Option<rpc::Status> {
    Some(rpc::Status::default())
}

#[tonic::async_trait]
impl ContentAddressableStorage for Echo {
    async fn find_missing_blobs(
        &self,
        request: Request<reapi::FindMissingBlobsRequest>,
    ) -> Result<Response<reapi::FindMissingBlobsResponse>, Status> {
        let missing_blob_digests = request.into_inner().blob_digests.into_iter().skip(1).step_by(2).collect();
        Ok(Response::new(reapi::FindMissingBlobsResponse { missing_blob_digests }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<reapi::BatchUpdateBlobsRequest>,
    ) -> Result<Response<reapi::BatchUpdateBlobsResponse>, Status> {
        let parts = request.into_inner().requests.into_iter();
        let responses = parts
            .map(|part| reapi::batch_update_blobs_response::Response { digest: part.digest, status: good() })
            .collect();
        Ok(Response::new(reapi::BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<reapi::BatchReadBlobsRequest>,
    ) -> Result<Response<reapi::BatchReadBlobsResponse>, Status> {
        let responses = request.into_inner().digests.into_iter().map(|digest| {
            let data = zeroes(usize::try_from(digest.size_bytes).unwrap_or_default());
            let digest = Some(digest);
            reapi::batch_read_blobs_response::Response { digest, data, status: good(), ..Default::default() }
        });
        Ok(Response::new(reapi::BatchReadBlobsResponse { responses: responses.collect() }))
    }

    type GetTreeStream = BoxStream<'static, Result<reapi::GetTreeResponse, Status>>;

    async fn get_tree(&self, _: Request<reapi::GetTreeRequest>) -> Result<Response<Self::GetTreeStream>, Status> {
        Err(not_measured())
    }

    async fn split_blob(
        &self,
        _: Request<reapi::SplitBlobRequest>,
    ) -> Result<Response<reapi::SplitBlobResponse>, Status> {
        Err(not_measured())
    }

    async fn splice_blob(
        &self,
        _: Request<reapi::SpliceBlobRequest>,
    ) -> Result<Response<reapi::SpliceBlobResponse>, Status> {
        Err(not_measured())
    }
}

#[tonic::async_trait]
impl ActionCache for Echo {
    async fn get_action_result(
        &self,
        _: Request<reapi::GetActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let digest = reapi::Digest { hash: "0".repeat(64), size_bytes: 0 };
        Ok(Response::new(action_result([digest.clone(), digest])))
    }

    async fn update_action_result(
        &self,
        request: Request<reapi::UpdateActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        Ok(Response::new(request.into_inner().action_result.unwrap_or_default()))
    }
}

#[tonic::async_trait]
impl ByteStream for Echo {
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let mut left = size(&request.into_inner().resource_name)?;
        let messages = std::iter::from_fn(move || {
            let size = left.min(MESSAGE_BYTES as u64);
            left -= size;
            (size > 0).then(|| Ok(ReadResponse { data: zeroes(size as usize) }))
        });
        Ok(Response::new(stream::iter(messages).boxed()))
    }

    async fn write(&self, request: Request<Streaming<WriteRequest>>) -> Result<Response<WriteResponse>, Status> {
        let mut messages = request.into_inner();
        let mut committed_size = 0;
        while let Some(message) = messages.message().await? {
            committed_size += message.data.len() as i64;
        }
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        _: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        Err(Status::not_found("nothing is kept here"))
    }
}
