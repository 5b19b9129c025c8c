//! Resource names of blobs (Remote Execution API, version 2, `ContentAddressableStorage`):
//! `[{instance}/]blobs/[{function}/]{hash}/{size}` to read, and
//! `[{instance}/]uploads/{uuid}/blobs/[{function}/]{hash}/{size}[/{anything}]` to write.
//!
//! Without a function the hash is SHA-256, as the specification says; it is never guessed.

use muster_model::{Digest, DigestFunction};

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
    /// Only the instance with the empty name exists.
    #[error("there is no instance of this name; leave it empty")]
    Instance,
    /// The hash function is not one that Muster has.
    #[error("the digest function must be blake3 or sha256")]
    Function,
    /// The hash or the size is not valid.
    #[error("the digest is not valid")]
    Digest,
}

const READ_FORM: &str = "blobs/[function/]hash/size";
const WRITE_FORM: &str = "uploads/uuid/blobs/[function/]hash/size";

/// The blob that a name to read stands for.
///
/// # Errors
///
/// [`ResourceError`] for everything that is not such a name.
pub fn parse_read(name: &str) -> Result<Digest, ResourceError> {
    let segments = segments(name, "blobs", READ_FORM)?;
    match digest(&segments, READ_FORM)? {
        (digest, []) => Ok(digest),
        _ => Err(ResourceError::Form(READ_FORM)),
    }
}

/// The upload and the blob that a name to write stands for. What follows the size is for people and means nothing.
///
/// # Errors
///
/// [`ResourceError`] for everything that is not such a name.
pub fn parse_write(name: &str) -> Result<(&str, Digest), ResourceError> {
    let segments = segments(name, "uploads", WRITE_FORM)?;
    match segments.as_slice() {
        [upload, "blobs", rest @ ..] if !upload.is_empty() && upload.len() <= UPLOAD_BYTES_MAX => {
            Ok((upload, digest(rest, WRITE_FORM)?.0))
        }
        _ => Err(ResourceError::Form(WRITE_FORM)),
    }
}

/// The name to read a blob.
pub fn print_read(digest: &Digest) -> String {
    let function = match digest.function {
        DigestFunction::Blake3 => "blake3/",
        DigestFunction::Sha256 => "",
    };
    format!("blobs/{function}{}/{}", digest.hex(), digest.size_bytes)
}

/// What follows `keyword`, which only an instance's name may stand before.
fn segments<'a>(name: &'a str, keyword: &str, form: &'static str) -> Result<Vec<&'a str>, ResourceError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(ResourceError::Form(form));
    }
    let mut segments = name.split('/');
    let before = segments.by_ref().take_while(|segment| *segment != keyword).count();
    let rest: Vec<&str> = segments.collect();
    match (before, rest.is_empty()) {
        (0, false) => Ok(rest),
        (_, false) => Err(ResourceError::Instance),
        (_, true) => Err(ResourceError::Form(form)),
    }
}

/// Reads `[{function}/]{hash}/{size}` and gives what follows it.
fn digest<'a, 'b>(segments: &'b [&'a str], form: &'static str) -> Result<(Digest, &'b [&'a str]), ResourceError> {
    let (function, segments) = match segments {
        ["blake3", rest @ ..] => (DigestFunction::Blake3, rest),
        ["sha256", rest @ ..] => (DigestFunction::Sha256, rest),
        // A hash is longer than any function's name.
        [name, _, _, ..] if name.len() < 32 => return Err(ResourceError::Function),
        _ => (DigestFunction::Sha256, segments),
    };
    let [hash, size, rest @ ..] = segments else { return Err(ResourceError::Form(form)) };
    let canonical = !size.is_empty() && size.bytes().all(|byte| byte.is_ascii_digit());
    // Sizes are 64-bit signed on the wire.
    let size_bytes = size.parse::<i64>().ok().filter(|_| canonical && (*size == "0" || !size.starts_with('0')));
    let size_bytes = size_bytes.ok_or(ResourceError::Digest)?.cast_unsigned();
    let digest = Digest::parse(function, hash, size_bytes).map_err(|_| ResourceError::Digest)?;
    Ok((digest, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

    #[test]
    fn names_are_read_as_the_specification_writes_them() {
        let sha256 = Digest::parse(DigestFunction::Sha256, HASH, 7).unwrap();
        let blake3 = Digest { function: DigestFunction::Blake3, ..sha256 };
        assert_eq!(parse_read(&format!("blobs/{HASH}/7")), Ok(sha256));
        assert_eq!(parse_read(&format!("blobs/sha256/{HASH}/7")), Ok(sha256));
        assert_eq!(parse_read(&format!("blobs/blake3/{HASH}/7")), Ok(blake3));
        assert_eq!(parse_write(&format!("uploads/u/blobs/blake3/{HASH}/7")), Ok(("u", blake3)));
        assert_eq!(parse_write(&format!("uploads/u/blobs/{HASH}/7/some/file.txt")), Ok(("u", sha256)));
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
        assert_eq!(parse_read(&format!("blobs/md5/{HASH}/7")), Err(ResourceError::Function));
        assert_eq!(parse_read(&format!("other/blobs/{HASH}/7")), Err(ResourceError::Instance));
        assert_eq!(parse_read(&format!("/blobs/{HASH}/7")), Err(ResourceError::Instance));
    }

    proptest! {
        #[test]
        fn a_printed_name_is_read_back(hash in any::<[u8; 32]>(), size in 0..=i64::MAX, sha256 in any::<bool>()) {
            let function = if sha256 { DigestFunction::Sha256 } else { DigestFunction::Blake3 };
            let digest = Digest { function, hash, size_bytes: size.cast_unsigned() };
            prop_assert_eq!(parse_read(&print_read(&digest)), Ok(digest));
            let name = format!("uploads/u/{}/x", print_read(&digest));
            prop_assert_eq!(parse_write(&name), Ok(("u", digest)));
        }

        #[test]
        fn what_is_read_is_in_canonical_form(name in "(uploads|blobs|blake3|sha256|u|[0-9a-f]{64}|[0-9]{1,20}|/|x|\\PC){0,12}") {
            if let Ok(digest) = parse_read(&name) {
                let printed = print_read(&digest);
                prop_assert!(name == printed || name.replace("sha256/", "") == printed);
            }
            drop(parse_write(&name));
        }
    }
}
