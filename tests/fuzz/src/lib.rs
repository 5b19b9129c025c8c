//! What the fuzz targets share: messages that are valid on the wire and hostile in what they say.

use arbitrary::{Arbitrary, Result, Unstructured};
use muster_proto::reapi;

/// A name as a hostile peer writes it: mostly one of those that have meant trouble somewhere.
#[derive(Clone, Debug)]
pub struct Name(pub String);

const NAMES: [&str; 16] =
    ["", ".", "..", "/", "a/b", "../a", "/etc", "a\0b", "a", "b", "A", "a ", "-rf", "con", "\u{202e}a", "~"];

impl<'a> Arbitrary<'a> for Name {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match bytes.int_in_range(0..=7_u8)? {
            0 => String::arbitrary(bytes)?,
            1 => "n".repeat(bytes.int_in_range(250..=260)?),
            // Most names are good ones, so that what comes after them is reached too.
            2 => bytes.choose(&NAMES)?.to_string(),
            _ => char::from(bytes.int_in_range(b'a'..=b'h')?).to_string(),
        }))
    }
}

/// A digest that may be missing, malformed or one that nothing has.
#[derive(Arbitrary, Clone, Debug)]
pub enum WireDigest {
    /// No digest at all.
    Missing,
    /// A text instead of a hash.
    Malformed(String, i64),
    /// One that is valid.
    Valid([u8; 32], i64),
}

impl WireDigest {
    /// The field of a message.
    pub fn to_wire(&self) -> Option<reapi::Digest> {
        match self {
            Self::Missing => None,
            Self::Malformed(hash, size_bytes) => Some(reapi::Digest { hash: hash.clone(), size_bytes: *size_bytes }),
            Self::Valid(hash, size_bytes) => {
                Some(reapi::Digest { hash: muster_model::digest::hex(hash), size_bytes: *size_bytes })
            }
        }
    }
}

/// A `Directory` message.
#[derive(Arbitrary, Clone, Debug)]
pub struct WireDirectory {
    files: Vec<(Name, WireDigest, bool)>,
    directories: Vec<(Name, WireDigest)>,
    symlinks: Vec<(Name, String)>,
    is_sorted: bool,
}

impl WireDirectory {
    /// The message.
    pub fn to_wire(&self) -> reapi::Directory {
        let mut directory = reapi::Directory::default();
        for (name, digest, is_executable) in &self.files {
            directory.files.push(reapi::FileNode {
                name: name.0.clone(),
                digest: digest.to_wire(),
                is_executable: *is_executable,
                ..Default::default()
            });
        }
        for (name, digest) in &self.directories {
            directory.directories.push(reapi::DirectoryNode { name: name.0.clone(), digest: digest.to_wire() });
        }
        for (name, target) in &self.symlinks {
            let (name, target) = (name.0.clone(), target.clone());
            directory.symlinks.push(reapi::SymlinkNode { name, target, ..Default::default() });
        }
        if self.is_sorted {
            directory.files.sort_by(|one, other| one.name.cmp(&other.name));
            directory.directories.sort_by(|one, other| one.name.cmp(&other.name));
            directory.symlinks.sort_by(|one, other| one.name.cmp(&other.name));
        }
        directory
    }
}
