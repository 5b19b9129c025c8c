//! From what was prepared to a run on the fleet: upload what is missing, then submit.

use std::fs::File;
use std::io::{self, Read};

use muster_cache::{RemoteStore, UploadSource, UploadStats};
use muster_model::digest;
use muster_model::platform::EnvironmentKind;
use muster_model::spec::RunSpec;
use muster_proto::v1;

use crate::client::{Client, submission_refusal};
use crate::error::FleetError;
use crate::project::{BlobSet, BlobSource};

/// Uploads those blobs that the fleet has not.
///
/// # Errors
///
/// [`FleetError::Upload`], also when a file changed since it was hashed.
pub async fn upload(client: &Client, blobs: &BlobSet) -> Result<UploadStats, FleetError> {
    let sources = blobs.iter().map(|(digest, source)| {
        let source = match source {
            BlobSource::Bytes(bytes) => UploadSource::Bytes(bytes.clone()),
            BlobSource::File(path) => UploadSource::File(path.clone()),
        };
        (*digest, source)
    });
    let uploaded = RemoteStore::new(client.channel()).upload_missing(sources).await;
    uploaded.map_err(|error| FleetError::Upload { source: error.into() })
}

/// Submits a run; its blobs are there already. Repeated with the same token it answers with the same run.
///
/// # Errors
///
/// [`FleetError::Precondition`] when no agent can run it or a limit is passed, and what [`Client`] knows.
pub async fn submit(client: &Client, spec: &RunSpec, token: String) -> Result<u64, FleetError> {
    let environment = spec.targets.first().map_or(EnvironmentKind::Sandbox, |target| target.requirements.environment);
    let request = v1::SubmitRunRequest { spec: Some(spec.into()), token };
    let answer = client.runs().submit_run(request).await;
    let run = answer.map_err(submission_refusal(client.url(), environment))?.into_inner().run;
    if run == 0 {
        return Err(FleetError::Protocol { message: "it gave the run no number".into() });
    }
    Ok(run)
}

/// A token that nobody else draws: 128 bits from the kernel.
///
/// # Errors
///
/// When the kernel's source of randomness can't be read.
pub fn draw_token() -> io::Result<String> {
    let mut token = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut token)?;
    Ok(digest::hex(&token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ() {
        let (one, other) = (draw_token().unwrap(), draw_token().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
