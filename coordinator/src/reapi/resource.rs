//! Resource names of blobs (Remote Execution API, version 2, `ContentAddressableStorage`):
//! `[{instance}/]blobs/[{function}/]{hash}/{size}` to read, and
//! `[{instance}/]uploads/{uuid}/blobs/[{function}/]{hash}/{size}[/{anything}]` to write; compressed, `blobs` is
//! `compressed-blobs/{compressor}`, and hash and size are those of the bytes before compression.
//!
//! Without a function the digest has the instance's own; it is never guessed.

use muster_model::{Digest, DigestFunction};
use muster_proto::reapi::compressor;

use super::instance::{Instance, InstanceError};

/// The longest resource name that is read, in bytes.
const NAME_BYTES_MAX: usize = 1024;
/// The longest name of an upload, in bytes; a UUID has 36.
const UPLOAD_BYTES_MAX: usize = 128;

/// Why a text is not a resource name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResourceError {
    /// The text has another form.
    #[error("a resource name has the form {0}")]
    Form(&'static str),
    /// What stands before the keyword is no instance's name.
    #[error(transparent)]
    Instance(InstanceError),
    /// The compressor is not one that Muster has.
    #[error("the compressor must be zstd or identity")]
    Compressor,
    /// The hash function is not one that Muster has.
    #[error("the digest function must be blake3 or sha256")]
    Function,
    /// The hash or the size is not valid.
    #[error("the digest is not valid")]
    Digest,
}

const READ_FORM: &str = "[instance/]blobs/[function/]hash/size";
const WRITE_FORM: &str = "[instance/]uploads/uuid/blobs/[function/]hash/size";

/// How a blob's bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// In one Zstandard frame.
    Zstd,
}

impl Encoding {
    /// The encoding of a `Compressor.Value`, if it is one that is spoken here.
    pub fn of_number(number: i32) -> Option<Self> {
        match compressor::Value::try_from(number) {
            Ok(compressor::Value::Identity) => Some(Self::Identity),
            Ok(compressor::Value::Zstd) => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The `Compressor.Value`.
    pub fn number(self) -> i32 {
        match self {
            Self::Identity => compressor::Value::Identity.into(),
            Self::Zstd => compressor::Value::Zstd.into(),
        }
    }

    fn of_name(name: &str) -> Result<Self, ResourceError> {
        match name {
            "identity" => Ok(Self::Identity),
            "zstd" => Ok(Self::Zstd),
            _ => Err(ResourceError::Compressor),
        }
    }
}

/// A blob in an instance, and how it travels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The instance.
    pub instance: Instance,
    /// The blob.
    pub digest: Digest,
    /// How its bytes travel.
    pub encoding: Encoding,
}

/// The blob that a name to read stands for.
///
/// # Errors
///
/// [`ResourceError`] for everything that is not such a name.
pub fn parse_read(name: &str) -> Result<Resource, ResourceError> {
    let segments = segments(name, READ_FORM)?;
    let keyword = segments.iter().position(|segment| matches!(*segment, "blobs" | "compressed-blobs"));
    let (before, rest) = segments.split_at(keyword.ok_or(ResourceError::Form(READ_FORM))?);
    match blob(instance(before)?, rest, READ_FORM)? {
        (resource, []) => Ok(resource),
        _ => Err(ResourceError::Form(READ_FORM)),
    }
}

/// The upload and the blob that a name to write stands for. What follows the size is for people and means nothing.
///
/// # Errors
///
/// [`ResourceError`] for everything that is not such a name.
pub fn parse_write(name: &str) -> Result<(&str, Resource), ResourceError> {
    let segments = segments(name, WRITE_FORM)?;
    let keyword = segments.iter().position(|segment| *segment == "uploads");
    let (before, rest) = segments.split_at(keyword.ok_or(ResourceError::Form(WRITE_FORM))?);
    match rest {
        ["uploads", upload, rest @ ..] if !upload.is_empty() && upload.len() <= UPLOAD_BYTES_MAX => {
            Ok((upload, blob(instance(before)?, rest, WRITE_FORM)?.0))
        }
        _ => Err(ResourceError::Form(WRITE_FORM)),
    }
}

/// The name to read a blob in the instance without a name.
pub fn print_read(digest: &Digest) -> String {
    let function = match digest.function {
        DigestFunction::Blake3 => "blake3/",
        DigestFunction::Sha256 => "",
    };
    format!("blobs/{function}{}/{}", digest.hex(), digest.size_bytes)
}

fn segments<'a>(name: &'a str, form: &'static str) -> Result<Vec<&'a str>, ResourceError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(ResourceError::Form(form));
    }
    Ok(name.split('/').collect())
}

fn instance(segments: &[&str]) -> Result<Instance, ResourceError> {
    // A slash before the keyword makes an empty segment, which is no instance's name; no segment at all is the empty name.
    if segments == [""] {
        return Err(ResourceError::Instance(InstanceError::Segment));
    }
    Instance::parse(&segments.join("/")).map_err(ResourceError::Instance)
}

/// Reads `blobs/[{function}/]{hash}/{size}`, or its compressed form, and gives what follows it.
fn blob<'a, 'b>(
    instance: Instance,
    segments: &'b [&'a str],
    form: &'static str,
) -> Result<(Resource, &'b [&'a str]), ResourceError> {
    let (encoding, segments) = match segments {
        ["blobs", rest @ ..] => (Encoding::Identity, rest),
        ["compressed-blobs", compressor, rest @ ..] => (Encoding::of_name(compressor)?, rest),
        _ => return Err(ResourceError::Form(form)),
    };
    let (function, segments) = match segments {
        ["blake3", rest @ ..] => (DigestFunction::Blake3, rest),
        ["sha256", rest @ ..] => (DigestFunction::Sha256, rest),
        // A hash is longer than any function's name.
        [name, _, _, ..] if name.len() < 32 => return Err(ResourceError::Function),
        _ => (instance.default_function(), segments),
    };
    let [hash, size, rest @ ..] = segments else { return Err(ResourceError::Form(form)) };
    let canonical = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit());
    // Sizes are 64-bit signed on the wire.
    let size_bytes = size.parse::<i64>().ok().filter(|_| canonical && (*size == "0" || !size.starts_with('0')));
    let size_bytes = size_bytes.ok_or(ResourceError::Digest)?.cast_unsigned();
    let digest = Digest::parse(function, hash, size_bytes).map_err(|_| ResourceError::Digest)?;
    Ok((Resource { instance, digest, encoding }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    fn resource(instance: &str, function: DigestFunction, encoding: Encoding) -> Resource {
        let digest = Digest::parse(function, HASH, 7).unwrap();
        Resource { instance: Instance::parse(instance).unwrap(), digest, encoding }
    }

    #[test]
    fn names_are_read_as_the_specification_writes_them() {
        use DigestFunction::{Blake3, Sha256};
        use Encoding::{Identity, Zstd};
        for (name, instance, function, encoding) in [
            ("blobs/", "", Sha256, Identity),
            ("blobs/sha256/", "", Sha256, Identity),
            ("blobs/blake3/", "", Blake3, Identity),
            ("a/b/blobs/", "a/b", Sha256, Identity),
            ("blake3/blobs/", "blake3", Blake3, Identity),
            ("a/blake3/blobs/sha256/", "a/blake3", Sha256, Identity),
            ("compressed-blobs/zstd/", "", Sha256, Zstd),
            ("compressed-blobs/identity/", "", Sha256, Identity),
            ("a/compressed-blobs/zstd/blake3/", "a", Blake3, Zstd),
        ] {
            let expected = resource(instance, function, encoding);
            assert_eq!(parse_read(&format!("{name}{HASH}/7")), Ok(expected.clone()), "{name}");
            let keyword =
                name.find("blobs").unwrap() - if name.contains("compressed") { "compressed-".len() } else { 0 };
            let (before, after) = name.split_at(keyword);
            let upload = format!("{before}uploads/u/{after}{HASH}/7");
            assert_eq!(parse_write(&upload), Ok(("u", expected.clone())), "{upload}");
            assert_eq!(parse_write(&format!("{upload}/some/file.txt")), Ok(("u", expected)), "{upload}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let refused = |name: &str| {
            assert!(parse_read(name).is_err(), "{name}");
            assert!(parse_write(name).is_err(), "{name}");
        };
        for tail in ["", "/", "/7/", "/07", "/-1", "/+7", "/ 7", "/9223372036854775808", "/x", "//7"] {
            refused(&format!("blobs/{HASH}{tail}"));
        }
        for name in ["", "/", "blobs", "blobs/", "uploads", "uploads/u", "uploads//blobs", "uploads/u/blobs/"] {
            refused(name);
        }
        refused(&format!("blobs/{}/7", HASH.to_uppercase()));
        refused(&format!("blobs/{}/7", &HASH[1..]));
        refused(&format!("uploads//blobs/{HASH}/7"));
        refused(&format!("uploads/{}/blobs/{HASH}/7", "u".repeat(129)));
        refused(&format!("blobs/{HASH}/7/{}", "x".repeat(1024)));
        refused(&format!("compressed-blobs/{HASH}/7"));
        assert_eq!(parse_read(&format!("blobs/md5/{HASH}/7")), Err(ResourceError::Function));
        assert_eq!(parse_read(&format!("compressed-blobs/brotli/{HASH}/7")), Err(ResourceError::Compressor));
        let segment = Err(ResourceError::Instance(InstanceError::Segment));
        assert_eq!(parse_read(&format!("/blobs/{HASH}/7")), segment);
        assert_eq!(parse_read(&format!("a//blobs/{HASH}/7")), segment);
        assert_eq!(parse_read(&format!("actions/blobs/{HASH}/7")), segment);
    }

    proptest! {
        #[test]
        fn a_printed_name_is_read_back(hash in any::<[u8; 32]>(), size in 0..=i64::MAX, sha256 in any::<bool>()) {
            let function = if sha256 { DigestFunction::Sha256 } else { DigestFunction::Blake3 };
            let digest = Digest { function, hash, size_bytes: size.cast_unsigned() };
            prop_assert_eq!(parse_read(&print_read(&digest)).unwrap().digest, digest);
            let name = format!("uploads/u/{}/x", print_read(&digest));
            prop_assert_eq!(parse_write(&name).unwrap().1.digest, digest);
        }

        #[test]
        fn what_is_read_is_in_canonical_form(name in "(uploads|blobs|compressed-blobs|zstd|blake3|sha256|u|[0-9a-f]{64}|[0-9]{1,20}|/|x|\\PC){0,12}") {
            if let Ok(resource) = parse_read(&name) {
                let printed = print_read(&resource.digest);
                let plain = name.replace("compressed-blobs/zstd", "blobs").replace("compressed-blobs/identity", "blobs");
                let bare = |name: &str| name.replace("sha256/", "").replace("blake3/", "");
                prop_assert!(bare(&plain).ends_with(&bare(&printed)));
            }
            drop(parse_write(&name));
        }
    }
}
