//! Digests.

use muster_model::{Digest, DigestFunction};

use super::ConvertError;
use crate::{reapi, v1};

impl From<&Digest> for reapi::Digest {
    fn from(digest: &Digest) -> Self {
        Self { hash: digest.hex(), size_bytes: i64::try_from(digest.size_bytes).unwrap_or(i64::MAX) }
    }
}

impl From<Digest> for reapi::Digest {
    fn from(digest: Digest) -> Self {
        Self::from(&digest)
    }
}

impl From<&Digest> for v1::CachedDigest {
    fn from(digest: &Digest) -> Self {
        let function = reapi::digest_function::Value::from(digest.function);
        Self { function: function.into(), digest: Some(digest.into()) }
    }
}

impl TryFrom<&v1::CachedDigest> for Digest {
    type Error = ConvertError;

    fn try_from(cached: &v1::CachedDigest) -> Result<Self, ConvertError> {
        let function = reapi::digest_function::Value::to_model(cached.function, DigestFunction::Blake3)?;
        super::required("digest", cached.digest.as_ref())?.to_model(function)
    }
}

impl reapi::Digest {
    /// The digest under a function, which the message itself does not name.
    ///
    /// # Errors
    ///
    /// When the hash is not in canonical form or the size is negative.
    pub fn to_model(&self, function: DigestFunction) -> Result<Digest, ConvertError> {
        let size_bytes =
            u64::try_from(self.size_bytes).map_err(|_| ConvertError::new("digest.size_bytes", "is negative"))?;
        Digest::parse(function, &self.hash, size_bytes)
            .map_err(|error| ConvertError::new("digest.hash", error.to_string()))
    }
}

impl TryFrom<&reapi::Digest> for Digest {
    type Error = ConvertError;

    /// Reads Muster's own messages, whose digests are all BLAKE3.
    fn try_from(digest: &reapi::Digest) -> Result<Self, ConvertError> {
        digest.to_model(DigestFunction::Blake3)
    }
}

impl From<DigestFunction> for reapi::digest_function::Value {
    fn from(function: DigestFunction) -> Self {
        match function {
            DigestFunction::Blake3 => Self::Blake3,
            DigestFunction::Sha256 => Self::Sha256,
        }
    }
}

impl reapi::digest_function::Value {
    /// The function for a request's field, where a peer that leaves it out means `default`.
    ///
    /// # Errors
    ///
    /// When the function is not one that Muster has.
    pub fn to_model(value: i32, default: DigestFunction) -> Result<DigestFunction, ConvertError> {
        match Self::try_from(value) {
            Ok(Self::Unknown) => Ok(default),
            Ok(Self::Blake3) => Ok(DigestFunction::Blake3),
            Ok(Self::Sha256) => Ok(DigestFunction::Sha256),
            _ => Err(ConvertError::new("digest_function", "must be SHA256 or BLAKE3")),
        }
    }
}
