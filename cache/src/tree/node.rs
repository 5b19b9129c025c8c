//! One directory, checked.

use bytes::Bytes;
use muster_model::limits::{MESSAGE_BYTES_MAX, NAME_BYTES_MAX};
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi;
use prost::Message;

/// The longest target of a symbolic link, in bytes (Linux: `PATH_MAX` with its final NUL).
const TARGET_BYTES_MAX: usize = 4095;

/// Why bytes are not a directory of a tree, or a path has no place in one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Not a `Directory` message.
    #[error("is not a directory message")]
    Malformed,
    /// A message whose canonical form is another one: unsorted, with fields that mean nothing, or encoded in a strange way.
    #[error("is not in canonical form")]
    NotCanonical,
    /// A name that is empty, `.` or `..`, too long, or has a slash or NUL in it.
    #[error("{0:?} is not a name")]
    Name(String),
    /// The same name twice.
    #[error("{0:?} occurs twice")]
    Duplicate(String),
    /// A digest that is missing or not one.
    #[error("{0:?} has no valid digest")]
    Digest(String),
    /// The target of a symbolic link that is empty, too long, or has NUL in it.
    #[error("{0:?} has no valid target")]
    Target(String),
    /// A limit was passed.
    #[error("{what} passes its limit of {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A file.
    File {
        /// Its bytes.
        digest: Digest,
        /// Whether it can be executed.
        executable: bool,
    },
    /// A directory, by the digest of its own message.
    Directory(Digest),
    /// A symbolic link; its target is kept as it is and never followed.
    Symlink(String),
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// One component: not empty, not `.` or `..`, without slash and NUL.
    pub name: String,
    /// What it stands for.
    pub node: Node,
}

/// A directory whose names are valid and unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Sorted by name.
    entries: Vec<Entry>,
}

impl Directory {
    /// A directory of these entries, in any order.
    ///
    /// # Errors
    ///
    /// [`TreeError`] when a name or target is not valid, or a name occurs twice.
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, TreeError> {
        for entry in &entries {
            check_name(&entry.name)?;
            if let Node::Symlink(target) = &entry.node {
                check_target(&entry.name, target)?;
            }
        }
        entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        match entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
            Some(pair) => Err(TreeError::Duplicate(pair[0].name.clone())),
            None => Ok(Self { entries }),
        }
    }

    /// Reads a message. Its digests are of `function`, that of the digest which named it.
    ///
    /// # Errors
    ///
    /// [`TreeError`] for everything that is not the canonical form of a valid directory: reading and writing are each other's inverse.
    pub fn decode(function: DigestFunction, bytes: &[u8]) -> Result<Self, TreeError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(TreeError::Limit { what: "the size of a directory", limit: MESSAGE_BYTES_MAX });
        }
        let message = reapi::Directory::decode(bytes).map_err(|_| TreeError::Malformed)?;
        let mut entries = Vec::with_capacity(message.files.len() + message.directories.len() + message.symlinks.len());
        for file in message.files {
            let digest = model_digest(function, &file.name, file.digest.as_ref())?;
            let node = Node::File { digest, executable: file.is_executable };
            entries.push(Entry { name: file.name, node });
        }
        for directory in message.directories {
            let digest = model_digest(function, &directory.name, directory.digest.as_ref())?;
            entries.push(Entry { name: directory.name, node: Node::Directory(digest) });
        }
        for symlink in message.symlinks {
            entries.push(Entry { name: symlink.name, node: Node::Symlink(symlink.target) });
        }
        let directory = Self::new(entries)?;
        // Whatever this type cannot hold (another order, node properties, unknown fields) makes the bytes differ.
        if directory.encode() == bytes { Ok(directory) } else { Err(TreeError::NotCanonical) }
    }

    /// The canonical message.
    pub fn encode(&self) -> Bytes {
        let mut message = reapi::Directory::default();
        for entry in &self.entries {
            let name = entry.name.clone();
            match &entry.node {
                Node::File { digest, executable } => message.files.push(reapi::FileNode {
                    name,
                    digest: Some(digest.into()),
                    is_executable: *executable,
                    node_properties: None,
                }),
                Node::Directory(digest) => {
                    message.directories.push(reapi::DirectoryNode { name, digest: Some(digest.into()) });
                }
                Node::Symlink(target) => {
                    message.symlinks.push(reapi::SymlinkNode { name, target: target.clone(), node_properties: None })
                }
            }
        }
        message.encode_to_vec().into()
    }

    /// The entries, sorted by name.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Checks one component of a path.
pub(super) fn check_name(name: &str) -> Result<(), TreeError> {
    let bad = name.is_empty() || name == "." || name == ".." || name.len() > NAME_BYTES_MAX;
    if bad || name.bytes().any(|byte| byte == b'/' || byte == 0) {
        return Err(TreeError::Name(name.chars().take(80).collect()));
    }
    Ok(())
}

pub(super) fn check_target(name: &str, target: &str) -> Result<(), TreeError> {
    if target.is_empty() || target.len() > TARGET_BYTES_MAX || target.contains('\0') {
        return Err(TreeError::Target(name.to_owned()));
    }
    Ok(())
}

fn model_digest(function: DigestFunction, name: &str, digest: Option<&reapi::Digest>) -> Result<Digest, TreeError> {
    digest
        .and_then(|digest| digest.to_model(function).ok())
        .ok_or_else(|| TreeError::Digest(name.chars().take(80).collect()))
}
