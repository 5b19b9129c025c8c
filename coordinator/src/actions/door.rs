//! The door of an action: what has to be true before it is queued.

use std::time::Duration;

use bytes::Bytes;
use muster_cache::StoreError;
use muster_model::attempt::ActionTask;
use muster_model::{Digest, limits};
use muster_proto::{reapi, rpc};
use prost::Message;
use tonic::Code;

use super::answers::{self, precondition_missing};
use super::platform::{self, Unplaceable};
use crate::closure::{ClosureError, Closures, Trail};
use crate::storage::Storage;
use crate::submission::Offers;

/// An action that can be queued.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) task: ActionTask,
    pub(super) input_root: Digest,
    /// The action says that its result may be neither looked up nor stored, and that it may not be merged.
    pub(super) do_not_cache: bool,
}

/// An `Action` as it was read.
pub(super) struct Read {
    encoded: Bytes,
    action: reapi::Action,
    digest: Digest,
}

/// What actions are checked against.
pub(super) struct Door {
    pub(super) storage: Storage,
    pub(super) closures: Closures,
    pub(super) offers: Offers,
}

impl Door {
    /// Reads an action; one that is not there is a missing input like any other.
    pub(super) async fn read(&self, digest: Digest) -> Result<Read, rpc::Status> {
        let encoded = self.blob(digest).await?.ok_or_else(|| precondition_missing(&[digest]))?;
        let action = reapi::Action::decode(encoded.clone())
            .map_err(|error| invalid(format!("{digest} is no Action: {error}")))?;
        Ok(Read { encoded, action, digest })
    }

    /// Checks everything that an action needs.
    pub(super) async fn prepare(&self, read: Read) -> Result<Prepared, rpc::Status> {
        let Read { encoded, action, digest } = read;
        let named = |field: &str, digest: &Option<reapi::Digest>, function| {
            let digest = digest.as_ref().ok_or_else(|| invalid(format!("the Action has no {field}")))?;
            digest.to_model(function).map_err(|error| invalid(format!("{field}: {error}")))
        };
        let command_digest = named("command_digest", &action.command_digest, digest.function)?;
        let input_root = named("input_root_digest", &action.input_root_digest, digest.function)?;
        let encoded_command = self.blob(command_digest).await?;
        let mut missing: Vec<Digest> = encoded_command.is_none().then_some(command_digest).into_iter().collect();
        let encoded_command = encoded_command.unwrap_or_default();
        let command = reapi::Command::decode(encoded_command.clone());
        let working_directory = command.as_ref().map_or("", |command| command.working_directory.as_str());
        let mut trail = Trail::new(input_root, working_directory);
        match self.closures.check_along(&*self.storage.blobs, &[input_root], &mut trail).await {
            Ok(()) => {}
            Err(ClosureError::Missing(inputs)) => missing.extend(inputs),
            Err(error @ ClosureError::Malformed { .. }) => return Err(invalid(error.to_string())),
            Err(ClosureError::Store(error)) => return Err(answers::of_store(&error)),
        }
        if !missing.is_empty() {
            return Err(precondition_missing(&missing));
        }
        let is_there = self.find_directory(trail, working_directory).await;
        let command = command.map_err(|error| invalid(format!("{command_digest} is no Command: {error}")))?;
        command.check().map_err(|error| invalid(format!("the Command's {error}")))?;
        is_there?;
        let timeout = timeout(&action)?;
        // Clients before 2.2 have it in the command.
        #[allow(deprecated, reason = "clients before 2.2 have no other place for it")]
        let platform = action.platform.as_ref().or(command.platform.as_ref()).cloned().unwrap_or_default();
        let requirements = self.place(&platform).await?;
        let task = ActionTask {
            action: digest,
            encoded_action: encoded.to_vec(),
            encoded_command: encoded_command.to_vec(),
            timeout,
            requirements,
        };
        Ok(Prepared { task, input_root, do_not_cache: action.do_not_cache })
    }

    /// A working directory must be in the input tree (`Command.working_directory`). Where a link leads is for the agent to find out.
    async fn find_directory(&self, mut trail: Trail<'_>, path: &str) -> Result<(), rpc::Status> {
        // Only what was known to be whole, and so was not read, is left to be read here.
        while let Some(digest) = trail.next() {
            let encoded = self.blob(digest).await?.ok_or_else(|| precondition_missing(&[digest]))?;
            let directory = reapi::Directory::decode(encoded)
                .map_err(|error| invalid(format!("{digest} is no Directory: {error}")))?;
            trail.follow(&digest, &directory);
        }
        match trail.absent() {
            None => Ok(()),
            Some(name) => Err(invalid(format!(
                "the Command's working directory {path:?} is not in its input tree: no directory {name:?}"
            ))),
        }
    }

    /// The inputs that are missing now; for an action whose agent could not get one.
    pub(super) async fn find_missing(&self, input_root: Digest) -> Option<rpc::Status> {
        match Closures::new(self.storage.lease_time).check(&*self.storage.blobs, &[input_root]).await {
            Err(ClosureError::Missing(missing)) => Some(precondition_missing(&missing)),
            _ => None,
        }
    }

    /// Waits a little for the first agent; what connected agents lack is answered at once.
    async fn place(&self, platform: &reapi::Platform) -> Result<muster_model::platform::Requirements, rpc::Status> {
        let mut offers = self.offers.clone();
        let placed = platform::place(&offers.borrow_and_update().clone(), platform);
        let placed = match placed {
            Err(Unplaceable::NoAgent) => {
                let first = offers.wait_for(|offers| !offers.is_empty());
                // A coordinator that stops closes the channel, and then there is no agent either.
                let _ = tokio::time::timeout(limits::AGENT_WAIT, first).await;
                platform::place(&self.offers.borrow().clone(), platform)
            }
            placed => placed,
        };
        placed.map_err(|why| match why {
            Unplaceable::NoAgent => {
                let hint = "\nhint: start one with `muster agent start --coordinator URL`";
                answers::status(Code::Unavailable, format!("{why}{hint}"))
            }
            Unplaceable::Contradiction { .. } => invalid(why.to_string()),
            // Without details: with one of a missing blob, clients would upload and ask again for ever.
            Unplaceable::Unsatisfied { .. } => answers::status(Code::FailedPrecondition, why.to_string()),
        })
    }

    async fn blob(&self, digest: Digest) -> Result<Option<Bytes>, rpc::Status> {
        let read = async { self.storage.blobs.get(&digest).await?.into_bytes(limits::MESSAGE_BYTES_MAX as u64).await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(StoreError::NotFound(_) | StoreError::Corrupt(_)) => Ok(None),
            Err(error) => Err(answers::of_store(&error)),
        }
    }
}

fn invalid(why: impl Into<String>) -> rpc::Status {
    answers::status(Code::InvalidArgument, why.into())
}

fn timeout(action: &reapi::Action) -> Result<Duration, rpc::Status> {
    let Some(timeout) = &action.timeout else { return Ok(limits::ACTION_TIMEOUT_DEFAULT) };
    let timeout = Duration::try_from(*timeout).map_err(|_| invalid("the Action's timeout is negative"))?;
    if timeout.is_zero() {
        return Ok(limits::ACTION_TIMEOUT_DEFAULT);
    }
    if timeout > limits::ACTION_TIMEOUT_MAX {
        let (given, most) = (timeout.as_secs(), limits::ACTION_TIMEOUT_MAX.as_secs());
        return Err(invalid(format!("the Action's timeout of {given} s passes the limit of {most} s")));
    }
    Ok(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_a_default_and_a_limit() {
        let of = |seconds| {
            let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
            timeout_of(&reapi::Action { timeout, ..reapi::Action::default() })
        };
        let timeout_of_default = timeout_of(&reapi::Action::default());
        assert_eq!(timeout_of_default, Some(limits::ACTION_TIMEOUT_DEFAULT));
        assert_eq!((of(5), of(-5), of(1 << 40)), (Some(Duration::from_secs(5)), None, None));
    }

    fn timeout_of(action: &reapi::Action) -> Option<Duration> {
        timeout(action).ok()
    }
}
