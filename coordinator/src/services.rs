//! The gRPC services, one file each.

pub(crate) mod fleet;
pub(crate) mod images;
pub(crate) mod runs;
pub(crate) mod status;

use tonic::Status;

use crate::ledger::LedgerError;

/// The coordinator is stopping, or its ledger has failed.
fn stopping() -> Status {
    Status::unavailable("the coordinator is stopping")
}

impl From<LedgerError> for Status {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Closed => stopping(),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "a question to the ledger failed");
                Self::internal("the coordinator's ledger failed; its log says why")
            }
        }
    }
}
