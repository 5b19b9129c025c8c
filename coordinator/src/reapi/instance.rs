//! Instances: parts of one server that a client chooses between by name (Remote Execution API, version 2, `instance_name`).
//!
//! Every name is an instance. It has a default digest function for requests that name none, and action results of its own; blobs are shared,
//! because a digest says what the bytes are wherever they came from. `blake3`, and every name whose last segment is that, defaults to BLAKE3;
//! every other one, the empty name too, to SHA-256, as the specification says. The function is never guessed from a hash.

use muster_model::key::{ActionKey, remote_action_key};
use muster_model::limits::INSTANCE_NAME_BYTES_MAX;
use muster_model::{Digest, DigestFunction};
use muster_proto::convert::ConvertError;
use muster_proto::reapi::{self, digest_function};
use tonic::Status;

/// The last segment of the names whose instances default to BLAKE3.
const BLAKE3: &str = "blake3";
/// Segments that resource names are told apart by, which no instance's name may have therefore.
const KEYWORDS: [&str; 7] =
    ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    name: Box<str>,
}

/// Why a text is not an instance's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// The text is too long.
    #[error("an instance's name has at most {INSTANCE_NAME_BYTES_MAX} bytes")]
    Length,
    /// A segment is empty, a control character or a word that resource names are told apart by.
    #[error("an instance's name has segments between slashes, none of them empty or a keyword such as `blobs`")]
    Segment,
}

impl Instance {
    /// The instance of a name.
    ///
    /// # Errors
    ///
    /// [`InstanceError`] when it can't be part of a resource name.
    pub fn parse(name: &str) -> Result<Self, InstanceError> {
        if name.len() > INSTANCE_NAME_BYTES_MAX {
            return Err(InstanceError::Length);
        }
        let valid = |segment: &str| {
            !segment.is_empty() && !KEYWORDS.contains(&segment) && !segment.chars().any(char::is_control)
        };
        if !name.is_empty() && !name.split('/').all(valid) {
            return Err(InstanceError::Segment);
        }
        Ok(Self { name: name.into() })
    }

    /// The name; empty for the instance that clients use when they name none.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest function of requests that name none.
    pub fn default_function(&self) -> DigestFunction {
        match self.name.rsplit('/').next() {
            Some(BLAKE3) => DigestFunction::Blake3,
            _ => DigestFunction::Sha256,
        }
    }

    /// The digest function of a request that has `value` in its field.
    ///
    /// # Errors
    ///
    /// When the function is not one that Muster has.
    pub fn function(&self, value: i32) -> Result<DigestFunction, ConvertError> {
        digest_function::Value::to_model(value, self.default_function())
    }

    /// The key of an action's results in this instance.
    pub fn action_key(&self, action: &Digest) -> ActionKey {
        remote_action_key(&self.name, action)
    }
}

/// The instance and the digest function of a request.
///
/// # Errors
///
/// INVALID_ARGUMENT with the field that is wrong.
pub fn of_request(instance_name: &str, digest_function: i32) -> Result<(Instance, DigestFunction), Status> {
    let instance =
        Instance::parse(instance_name).map_err(|error| Status::invalid_argument(format!("instance_name: {error}")))?;
    let function = instance.function(digest_function)?;
    Ok((instance, function))
}

/// The digest in a request's field, which must be there.
///
/// # Errors
///
/// INVALID_ARGUMENT with the name of the field.
pub fn required_digest(
    field: &'static str,
    digest: Option<&reapi::Digest>,
    function: DigestFunction,
) -> Result<Digest, Status> {
    let digest = digest.ok_or_else(|| Status::invalid_argument(format!("{field}: is missing")))?;
    Ok(digest.to_model(function)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_segment_chooses_the_default_function() {
        for (name, function) in [
            ("", DigestFunction::Sha256),
            ("main", DigestFunction::Sha256),
            ("blake3/main", DigestFunction::Sha256),
            ("blake3", DigestFunction::Blake3),
            ("team/blake3", DigestFunction::Blake3),
        ] {
            assert_eq!(Instance::parse(name).unwrap().default_function(), function, "{name}");
        }
    }

    #[test]
    fn a_request_may_name_another_function_but_no_unknown_one() {
        let instance = Instance::parse("blake3").unwrap();
        assert_eq!(instance.function(0), Ok(DigestFunction::Blake3));
        assert_eq!(instance.function(1), Ok(DigestFunction::Sha256));
        assert!(instance.function(2).is_err());
        assert!(instance.function(99).is_err());
    }

    #[test]
    fn names_that_resource_names_could_not_hold_are_refused() {
        for name in ["/", "a/", "/a", "a//b", "blobs", "a/uploads", "compressed-blobs/b", "a\nb"] {
            assert_eq!(Instance::parse(name), Err(InstanceError::Segment), "{name:?}");
        }
        assert_eq!(Instance::parse(&"x".repeat(INSTANCE_NAME_BYTES_MAX + 1)), Err(InstanceError::Length));
    }

    #[test]
    fn instances_have_results_of_their_own() {
        let action = Digest::of(b"action");
        let key = |name| Instance::parse(name).unwrap().action_key(&action);
        assert_ne!(key("a"), key("b"));
        assert_eq!(key("a"), key("a"));
    }
}
