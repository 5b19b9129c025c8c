//! The content-addressed store's services of the Remote Execution API, version 2: how clients upload what a run is made of, and how agents
//! fetch it.

mod byte_stream;
mod cas;
mod errors;
pub mod instance;
pub mod resource;
mod uploads;

use std::sync::Arc;

use muster_cache::BlobStore;
use muster_model::limits::MESSAGE_BYTES_MAX;
use muster_proto::bytestream::byte_stream_server::ByteStreamServer;
use muster_proto::reapi::content_addressable_storage_server::ContentAddressableStorageServer;

use crate::counters::Counters;
pub use byte_stream::ByteStreamService;
pub use cas::StorageService;

/// What a message may have beside its payload of [`MESSAGE_BYTES_MAX`], in bytes.
const FRAMING_BYTES: usize = 64 * 1024;

/// The services over one store; what they carry and find is counted in `counters`.
pub fn services(
    store: Arc<dyn BlobStore>,
    counters: Arc<Counters>,
) -> (ContentAddressableStorageServer<StorageService>, ByteStreamServer<ByteStreamService>) {
    let message_bytes_max = MESSAGE_BYTES_MAX + FRAMING_BYTES;
    (
        ContentAddressableStorageServer::new(StorageService::new(store.clone(), counters.clone()))
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max),
        ByteStreamServer::new(ByteStreamService::new(store, counters))
            .max_decoding_message_size(message_bytes_max)
            .max_encoding_message_size(message_bytes_max),
    )
}

#[cfg(test)]
mod tests;
