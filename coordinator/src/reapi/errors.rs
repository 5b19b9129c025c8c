//! The one place where a store's errors become gRPC codes.

use std::error::Error;

use muster_cache::StoreError;
use muster_proto::rpc;
use tonic::Status;

/// What a client is told.
pub(super) fn status_of(error: &StoreError) -> Status {
    let said = error.to_string();
    match error {
        StoreError::NotFound(_) | StoreError::Corrupt(_) => Status::not_found(said),
        StoreError::Mismatch { .. } | StoreError::Limit { .. } | StoreError::Tree { .. } => {
            Status::invalid_argument(said)
        }
        StoreError::Full { .. } => Status::resource_exhausted(said),
        StoreError::Remote(status) => Status::clone(status),
        StoreError::Closed => Status::unavailable(said),
        StoreError::File { .. }
        | StoreError::Index(_)
        | StoreError::Batch(_)
        | StoreError::InUse { .. }
        | StoreError::Layout { .. } => {
            // Paths and causes are for the operator.
            tracing::error!(error = error as &dyn Error, "the store failed");
            Status::internal("the coordinator's store failed; its log says why")
        }
    }
}

/// The status of one part of a batch.
pub(super) fn part_status(result: &Result<(), StoreError>) -> rpc::Status {
    match result {
        Ok(()) => rpc::Status::default(),
        Err(error) => {
            let status = status_of(error);
            rpc::Status { code: status.code().into(), message: status.message().to_owned(), details: Vec::new() }
        }
    }
}
