//! The services of the Remote Execution API, version 2, and of the APIs beside it: how clients upload what is built and tested, and how they and
//! agents fetch it.

pub(crate) mod action_cache;
mod asset;
mod byte_stream;
mod capabilities;
mod cas;
mod chunks;
pub mod compression;
pub(crate) mod errors;
mod execution;
pub mod instance;
mod operations;
pub mod resource;
pub mod results;
mod tree;
mod uploads;

use std::fmt;
use std::sync::Arc;

use muster_cache::{ActionCache, BlobStore};
use muster_model::limits::MESSAGE_BYTES_MAX;
use muster_proto::asset::fetch_server::FetchServer;
use muster_proto::asset::push_server::PushServer;
use muster_proto::bytestream::byte_stream_server::ByteStreamServer;
use muster_proto::reapi::action_cache_server::ActionCacheServer;
use muster_proto::reapi::capabilities_server::CapabilitiesServer;
use muster_proto::reapi::content_addressable_storage_server::ContentAddressableStorageServer;
use tonic::service::RoutesBuilder;

use crate::budget::UploadBudget;
use crate::counters::Counters;
pub use action_cache::ActionCacheService;
pub use asset::AssetService;
pub use byte_stream::ByteStreamService;
pub use capabilities::CapabilitiesService;
pub use cas::StorageService;
pub(crate) use execution::ExecutionService;
pub(crate) use operations::{OperationsService, unknown as unknown_operation};

/// What a message may have beside its payload of [`MESSAGE_BYTES_MAX`], in bytes.
const FRAMING_BYTES: usize = 64 * 1024;

/// What the cache's services share.
#[derive(Clone)]
pub struct CacheServices {
    /// Blobs.
    pub store: Arc<dyn BlobStore>,
    /// Results.
    pub actions: Arc<dyn ActionCache>,
    /// What is carried and found is counted here.
    pub counters: Arc<Counters>,
    /// The memory for uploads, which all that take some share.
    pub budget: UploadBudget,
    /// Actions are executed.
    pub executes: bool,
    /// Clients may store results of their own.
    pub clients_write_results: bool,
}

impl fmt::Debug for CacheServices {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CacheServices")
    }
}

impl CacheServices {
    /// Adds the services.
    pub fn add_to(&self, routes: &mut RoutesBuilder) {
        let message_bytes_max = MESSAGE_BYTES_MAX + FRAMING_BYTES;
        let budget = self.budget.clone();
        let storage = StorageService {
            store: self.store.clone(),
            actions: self.actions.clone(),
            counters: self.counters.clone(),
            budget: budget.clone(),
        };
        let streams = ByteStreamService::new(self.store.clone(), self.counters.clone(), budget);
        let capabilities =
            CapabilitiesService { executes: self.executes, clients_write_results: self.clients_write_results };
        let results = ActionCacheService {
            store: self.store.clone(),
            actions: self.actions.clone(),
            counters: self.counters.clone(),
            clients_write_results: self.clients_write_results,
        };
        let assets = AssetService {
            store: self.store.clone(),
            actions: self.actions.clone(),
            counters: self.counters.clone(),
            clients_write_results: self.clients_write_results,
        };
        routes
            .add_service(FetchServer::new(assets.clone()).max_decoding_message_size(message_bytes_max))
            .add_service(PushServer::new(assets).max_decoding_message_size(message_bytes_max))
            .add_service(CapabilitiesServer::new(capabilities))
            .add_service(
                ActionCacheServer::new(results)
                    .max_decoding_message_size(message_bytes_max)
                    .max_encoding_message_size(message_bytes_max),
            )
            .add_service(
                ContentAddressableStorageServer::new(storage)
                    .max_decoding_message_size(message_bytes_max)
                    .max_encoding_message_size(message_bytes_max),
            )
            .add_service(
                ByteStreamServer::new(streams)
                    .max_decoding_message_size(message_bytes_max)
                    .max_encoding_message_size(message_bytes_max),
            );
    }
}

#[cfg(test)]
mod damage_tests;
#[cfg(test)]
mod result_tests;
#[cfg(test)]
mod storage_tests;
#[cfg(test)]
mod tests;
