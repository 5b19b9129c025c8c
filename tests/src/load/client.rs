//! A client of one server: one connection, messages of any size the server may send.

use bytes::Bytes;
use futures_util::stream;
use muster_model::Digest;
use muster_proto::bytestream::byte_stream_client::ByteStreamClient;
use muster_proto::bytestream::{ReadRequest, WriteRequest};
use muster_proto::reapi;
use muster_proto::reapi::action_cache_client::ActionCacheClient;
use muster_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use muster_proto::reapi::execution_client::ExecutionClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::blobs::{Generated, resource_name};

/// The largest message that is taken from a server, in bytes.
const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// HTTP/2 windows for what a server sends, in bytes.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to `HOST:PORT`.
    ///
    /// # Errors
    ///
    /// When nobody answers there.
    pub async fn connect(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .tcp_nodelay(true);
        Ok(Self { channel: endpoint.connect().await? })
    }

    /// The content-addressed store.
    pub fn content(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Streams of bytes.
    pub fn bytes(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Execution of actions.
    pub fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// What the server remembers of an action.
    ///
    /// # Errors
    ///
    /// What the server answers.
    pub async fn get_result(&self, action: reapi::Digest) -> Result<reapi::ActionResult, Status> {
        let request = reapi::GetActionResultRequest { action_digest: Some(action), ..Default::default() };
        Ok(ActionCacheClient::new(self.channel.clone()).get_action_result(request).await?.into_inner())
    }

    /// Makes the server remember a result.
    ///
    /// # Errors
    ///
    /// What the server answers.
    pub async fn put_result(&self, action: reapi::Digest, result: reapi::ActionResult) -> Result<(), Status> {
        let (action_digest, action_result) = (Some(action), Some(result));
        let request = reapi::UpdateActionResultRequest { action_digest, action_result, ..Default::default() };
        ActionCacheClient::new(self.channel.clone()).update_action_result(request).await?;
        Ok(())
    }

    /// Which of `digests` the server has not; all are of one function.
    ///
    /// # Errors
    ///
    /// What the server answers.
    pub async fn find_missing(&self, digests: Vec<reapi::Digest>) -> Result<Vec<reapi::Digest>, Status> {
        let request = reapi::FindMissingBlobsRequest { blob_digests: digests, ..Default::default() };
        Ok(self.content().find_missing_blobs(request).await?.into_inner().missing_blob_digests)
    }

    /// Uploads a batch and gives the number of its bytes.
    ///
    /// # Errors
    ///
    /// What the server answers, for the whole or for the first blob that it refuses.
    pub async fn update(&self, request: reapi::BatchUpdateBlobsRequest) -> Result<u64, Status> {
        let bytes = request.requests.iter().map(|part| part.data.len() as u64).sum();
        let wanted = request.requests.len();
        let response = self.content().batch_update_blobs(request).await?.into_inner();
        refuse(wanted, response.responses.iter().map(|part| &part.status))?;
        Ok(bytes)
    }

    /// Downloads a batch and gives the number of its bytes.
    ///
    /// # Errors
    ///
    /// What the server answers, for the whole or for the first blob that it has not.
    pub async fn read_batch(&self, digests: Vec<reapi::Digest>) -> Result<u64, Status> {
        let wanted = digests.len();
        let request = reapi::BatchReadBlobsRequest { digests, ..Default::default() };
        let response = self.content().batch_read_blobs(request).await?.into_inner();
        refuse(wanted, response.responses.iter().map(|part| &part.status))?;
        Ok(response.responses.iter().map(|part| part.data.len() as u64).sum())
    }

    /// Uploads a blob as a stream.
    ///
    /// # Errors
    ///
    /// What the server answers; [`tonic::Code::DataLoss`] when it says that it took another number of bytes.
    pub async fn write(&self, blob: &Generated, upload: u64) -> Result<u64, Status> {
        let size = blob.digest.size_bytes;
        let mut name = blob.write_name(upload);
        let mut offset = 0;
        let requests = blob.messages().map(move |data| {
            let write_offset = offset;
            offset += data.len() as i64;
            let finish_write = offset.cast_unsigned() == size;
            // Only the first message has to name the blob.
            WriteRequest { resource_name: std::mem::take(&mut name), write_offset, finish_write, data }
        });
        let response = self.bytes().write(stream::iter(requests)).await?.into_inner();
        match response.committed_size {
            taken if taken.cast_unsigned() == size => Ok(size),
            taken => Err(Status::data_loss(format!("{taken} of {size} bytes were taken"))),
        }
    }

    /// Downloads a blob as a stream, and hands its pieces to `sink`.
    ///
    /// # Errors
    ///
    /// What the server answers; [`tonic::Code::DataLoss`] when it sends another number of bytes.
    pub async fn read(&self, digest: &Digest, mut sink: impl FnMut(Bytes)) -> Result<u64, Status> {
        let request = ReadRequest { resource_name: resource_name(digest), ..Default::default() };
        let mut messages = self.bytes().read(request).await?.into_inner();
        let mut size = 0;
        while let Some(message) = messages.message().await? {
            size += message.data.len() as u64;
            sink(message.data);
        }
        if size == digest.size_bytes {
            Ok(size)
        } else {
            Err(Status::data_loss(format!("{size} of {} bytes came", digest.size_bytes)))
        }
    }
}

/// The first status of a batch that is not good.
fn refuse<'a>(
    wanted: usize,
    parts: impl ExactSizeIterator<Item = &'a Option<muster_proto::rpc::Status>>,
) -> Result<(), Status> {
    if parts.len() != wanted {
        return Err(Status::data_loss(format!("{} of {wanted} blobs were answered", parts.len())));
    }
    match parts.flatten().find(|status| status.code != 0) {
        Some(status) => Err(Status::new(status.code.into(), status.message.clone())),
        None => Ok(()),
    }
}
