//! Bytes on their way: see [`Blob`].

/// Bytes, a file or a stream of a known digest, that yields nothing it has not checked.
#[derive(Debug)]
pub struct Blob {}
