//! Keeping results: only the coordinator writes the action cache for agents, after the scheduler has verified the lease, and after everything that
//! the result points at was found in the store.

use muster_cache::{Recorded, StoreError};
use muster_model::attempt::{ActionEnding, ActionReport};
use muster_model::key::ActionKey;
use muster_model::{Digest, DigestFunction};
use muster_proto::{reapi, rpc};
use tonic::Code;

use super::answers;
use crate::reapi::results::{ResultError, record_of};
use crate::storage::Storage;

/// What became of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// It is in the cache.
    Kept,
    /// It is nobody's but those who asked.
    NotKept,
    /// The cache has another result of the same action.
    Divergent,
}

/// A failed action may pass next time, so only success is kept.
pub(super) fn is_cacheable(report: &ActionReport) -> bool {
    report.ending == ActionEnding::Exited { code: 0 }
}

/// Checks that everything in a result is there, and keeps the result if it may be. Returns the digest of what must be the same when the same
/// action runs twice, too.
pub(super) async fn publish(
    storage: &Storage,
    key: ActionKey,
    function: DigestFunction,
    report: &ActionReport,
    result: &reapi::ActionResult,
    may_cache: bool,
) -> Result<(Published, Digest), rpc::Status> {
    let lost = |why: String| answers::status(Code::Unavailable, format!("an output of the action was lost: {why}"));
    let record = record_of(&*storage.blobs, function, result).await.map_err(|error| match error {
        ResultError::Missing(_) => lost(error.to_string()),
        ResultError::Store(error) => answers::of_store(&error),
        ResultError::Malformed(_) | ResultError::Limit { .. } => {
            answers::status(Code::Internal, format!("the agent's report is not valid: {error}"))
        }
    })?;
    if !is_cacheable(report) {
        // How it failed is not in the result alone.
        let outcome = Digest::of(format!("{:?} {}", report.ending, record.outcome).as_bytes());
        return Ok((Published::NotKept, outcome));
    }
    let outcome = record.outcome;
    if !may_cache {
        return Ok((Published::NotKept, outcome));
    }
    match storage.actions.put(vec![(key, record)]).await.as_deref() {
        Ok([Recorded::Divergent { .. }]) => Ok((Published::Divergent, outcome)),
        Ok(_) => Ok((Published::Kept, outcome)),
        Err(error @ StoreError::NotFound(_)) => Err(lost(error.to_string())),
        Err(error) => {
            // The result is good whether or not others can use it.
            tracing::warn!(error = error as &dyn std::error::Error, "a result can't be kept");
            Ok((Published::NotKept, outcome))
        }
    }
}
