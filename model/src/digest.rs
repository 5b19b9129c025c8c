//! Digests: which bytes, under which function, of which length.

use alloc::string::String;
use core::fmt;

/// The hash function of a [`Digest`].
///
/// Both functions make 32 bytes, so the function is never guessed from a length: it is part of the digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DigestFunction {
    /// BLAKE3 with its default 32-byte output; what Muster itself uses.
    Blake3,
    /// SHA-256 (FIPS 180-4), for Remote Execution API clients that speak nothing else.
    Sha256,
}

impl DigestFunction {
    /// The lower-case name used in resource names and paths: `blake3` or `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Blake3 => "blake3",
            Self::Sha256 => "sha256",
        }
    }
}

/// The identity of a blob: function, hash and size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    /// The function that made [`Self::hash`].
    pub function: DigestFunction,
    /// The 32 bytes of the hash.
    pub hash: [u8; 32],
    /// The length of the blob in bytes.
    pub size_bytes: u64,
}

impl Digest {
    /// The BLAKE3 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { function: DigestFunction::Blake3, hash: *blake3::hash(bytes).as_bytes(), size_bytes: bytes.len() as u64 }
    }

    /// The BLAKE3 digest of the empty blob, which is always present in every store.
    pub fn empty() -> Self {
        Self::of(&[])
    }

    /// The hash as 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.hash)
    }

    /// Reads a digest from a hexadecimal hash and a size.
    ///
    /// # Errors
    ///
    /// Only the canonical form is accepted: exactly 64 lower-case hexadecimal digits.
    pub fn parse(function: DigestFunction, hex: &str, size_bytes: u64) -> Result<Self, ParseDigestError> {
        Ok(Self { function, hash: parse_hex(hex)?, size_bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}/{}", self.function.name(), self.hex(), self.size_bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Why a text is not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// The hash has the wrong number of characters.
    #[error("a hash has 64 hexadecimal digits, not {0}")]
    Length(usize),
    /// A character is not a lower-case hexadecimal digit.
    #[error("a hash is written in lower-case hexadecimal digits")]
    Character,
}

/// Writes bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)] as char);
        text.push(DIGITS[usize::from(byte & 15)] as char);
    }
    text
}

/// Reads 64 lower-case hexadecimal digits.
///
/// # Errors
///
/// See [`ParseDigestError`].
pub fn parse_hex(text: &str) -> Result<[u8; 32], ParseDigestError> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return Err(ParseDigestError::Length(digits.len()));
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(hash)
}

fn nibble(digit: u8) -> Result<u8, ParseDigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseDigestError::Character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn empty_blob_has_the_published_blake3_hash() {
        assert_eq!(
            Digest::empty().to_string(),
            "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262/0"
        );
    }

    #[test]
    fn only_the_canonical_form_is_read() {
        let upper = "AF1349B9F5F9A1A6A0404DEA36DCC9499BCB25C9ADC112B7CC9A93CAE41F3262";
        assert_eq!(parse_hex(upper), Err(ParseDigestError::Character));
        assert_eq!(parse_hex("ab"), Err(ParseDigestError::Length(2)));
        assert_eq!(parse_hex(""), Err(ParseDigestError::Length(0)));
    }

    proptest! {
        #[test]
        fn hex_is_its_own_inverse(hash in any::<[u8; 32]>()) {
            prop_assert_eq!(parse_hex(&hex(&hash)), Ok(hash));
        }
    }
}
