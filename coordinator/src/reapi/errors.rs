//! The one place where a store's errors become gRPC codes.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use muster_cache::{StoreError, Trouble};
use muster_model::Digest;
use muster_proto::rpc;
use prost::Message;
use tonic::{Code, Status};

use super::resource::print_read;
use crate::storage::tell_failed;

/// When a client whose request found no room may come again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// What a client is told.
pub(crate) fn status_of(error: &StoreError) -> Status {
    let said = error.to_string();
    match error {
        StoreError::NotFound(_) | StoreError::Corrupt(_) => Status::not_found(said),
        StoreError::Mismatch { .. } | StoreError::Limit { .. } | StoreError::Tree { .. } => {
            Status::invalid_argument(said)
        }
        StoreError::Full { .. } | StoreError::DiskFull { .. } => exhausted(&said),
        StoreError::Remote(status) => Status::clone(status),
        StoreError::Closed => Status::unavailable(said),
        error if error.is_full() => {
            static FULL: Trouble = Trouble::new();
            FULL.tell(|untold| tracing::error!(error = error as &dyn Error, untold, "the disk is full"));
            exhausted("the coordinator's disk is full")
        }
        StoreError::File { .. }
        | StoreError::Index(_)
        | StoreError::Batch { .. }
        | StoreError::InUse { .. }
        | StoreError::Layout { .. } => {
            tell_failed(error);
            Status::internal("the coordinator's store failed; its log says why")
        }
    }
}

/// RESOURCE_EXHAUSTED, with the time after which it is worth trying again.
pub(crate) fn exhausted(message: &str) -> Status {
    let delay = prost_types::Duration { seconds: RETRY_DELAY.as_secs().cast_signed(), nanos: 0 };
    with_details(Code::ResourceExhausted, message, "google.rpc.RetryInfo", &rpc::RetryInfo { retry_delay: Some(delay) })
}

/// FAILED_PRECONDITION that lists missing blobs in the form that clients upload them for: see [`missing_blobs`].
pub(crate) fn missing_status(message: &str, missing: &[Digest]) -> Status {
    with_details(Code::FailedPrecondition, message, "google.rpc.PreconditionFailure", &missing_blobs(missing))
}

/// Missing blobs as the specification wants them: violations of type `MISSING`, the function part of the subject only where it is not SHA-256.
pub(crate) fn missing_blobs(missing: &[Digest]) -> rpc::PreconditionFailure {
    let violation = |digest| rpc::precondition_failure::Violation {
        r#type: "MISSING".into(),
        subject: print_read(digest),
        description: String::new(),
    };
    rpc::PreconditionFailure { violations: missing.iter().map(violation).collect() }
}

/// A status with one detail, a message of the type `name`.
fn with_details(code: Code, message: &str, name: &str, detail: &impl Message) -> Status {
    let type_url = format!("type.googleapis.com/{name}");
    let status = rpc::Status {
        code: code.into(),
        message: message.to_owned(),
        details: vec![prost_types::Any { type_url, value: detail.encode_to_vec() }],
    };
    Status::with_details(code, message, Bytes::from(status.encode_to_vec()))
}

/// The status of one part of a batch.
pub(super) fn part_status(result: &Result<(), Status>) -> rpc::Status {
    match result {
        Ok(()) => rpc::Status::default(),
        Err(status) => {
            rpc::Status { code: status.code().into(), message: status.message().to_owned(), details: Vec::new() }
        }
    }
}
