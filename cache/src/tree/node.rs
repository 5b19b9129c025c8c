//! One directory, checked.

use std::collections::BTreeMap;

use bytes::Bytes;
use muster_model::limits::{DIRECTORY_ENTRIES_MAX, MESSAGE_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi;
use prost::Message;

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
    /// A name that is no directory, although something was to be below it.
    #[error("{0:?} is no directory, and something lies below it")]
    Below(String),
    /// A digest that is missing or not one.
    #[error("{0:?} has no valid digest")]
    Digest(String),
    /// The target of a symbolic link that is empty, too long, or has NUL in it.
    #[error("{0:?} has no valid target")]
    Target(String),
    /// A directory that is in itself.
    #[error("is in itself")]
    Circle,
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directory {
    /// Sorted by name.
    entries: Vec<Entry>,
    /// What is said about some of the entries, by name, and under the empty name about the directory itself. Kept, never acted on.
    properties: BTreeMap<String, reapi::NodeProperties>,
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
            None => Ok(Self { entries, properties: BTreeMap::new() }),
        }
    }

    /// The same with properties of files and links by name, and of the directory itself under the empty name. Empty ones are left out, for a
    /// name that stands for a directory or for nothing there is no place.
    #[must_use]
    pub fn with_properties(mut self, properties: impl IntoIterator<Item = (String, reapi::NodeProperties)>) -> Self {
        self.properties =
            properties.into_iter().filter(|(_, properties)| *properties != reapi::NodeProperties::default()).collect();
        self
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
        check_count(bytes)?;
        let message = reapi::Directory::decode(bytes).map_err(|_| TreeError::Malformed)?;
        let mut entries = Vec::with_capacity(message.files.len() + message.directories.len() + message.symlinks.len());
        let mut properties = Vec::new();
        let mut note = |name: &str, noted: Option<reapi::NodeProperties>| {
            properties.extend(noted.map(|noted| (name.to_owned(), noted)));
        };
        note("", message.node_properties);
        for file in message.files {
            note(&file.name, file.node_properties);
            let digest = model_digest(function, &file.name, file.digest.as_ref())?;
            let node = Node::File { digest, executable: file.is_executable };
            entries.push(Entry { name: file.name, node });
        }
        for directory in message.directories {
            let digest = model_digest(function, &directory.name, directory.digest.as_ref())?;
            entries.push(Entry { name: directory.name, node: Node::Directory(digest) });
        }
        for symlink in message.symlinks {
            note(&symlink.name, symlink.node_properties);
            entries.push(Entry { name: symlink.name, node: Node::Symlink(symlink.target) });
        }
        if properties.iter().any(|(_, properties)| !is_sorted(properties)) {
            return Err(TreeError::NotCanonical);
        }
        let directory = Self::new(entries)?.with_properties(properties);
        // Whatever this type cannot hold (another order, empty properties, unknown fields) makes the bytes differ.
        if directory.encode() == bytes { Ok(directory) } else { Err(TreeError::NotCanonical) }
    }

    /// The canonical message.
    pub fn encode(&self) -> Bytes {
        let properties = |name: &str| self.properties.get(name).cloned();
        let mut message = reapi::Directory { node_properties: properties(""), ..reapi::Directory::default() };
        for entry in &self.entries {
            let node_properties = properties(&entry.name);
            let name = entry.name.clone();
            match &entry.node {
                Node::File { digest, executable } => message.files.push(reapi::FileNode {
                    name,
                    digest: Some(digest.into()),
                    is_executable: *executable,
                    node_properties,
                }),
                Node::Directory(digest) => {
                    message.directories.push(reapi::DirectoryNode { name, digest: Some(digest.into()) });
                }
                Node::Symlink(target) => {
                    message.symlinks.push(reapi::SymlinkNode { name, target: target.clone(), node_properties });
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

/// Whether properties are in the order that the specification asks for (`NodeProperties`): by name, each once.
fn is_sorted(properties: &reapi::NodeProperties) -> bool {
    properties.properties.windows(2).all(|pair| pair[0].name < pair[1].name)
}

/// Whether the target of a link at `path`, relative to the root of a tree, stays in the tree whatever other links of that kind it passes:
/// it is relative, and climbs at its beginning only and not above the root. A target that climbs after a name may climb out of whatever the
/// name is a link to.
pub fn stays_inside(path: &str, target: &str) -> bool {
    let mut room = path.split('/').filter(|part| !part.is_empty()).count().saturating_sub(1);
    let mut is_climbing = true;
    if target.starts_with('/') {
        return false;
    }
    for part in target.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match part {
            ".." if is_climbing && room > 0 => room -= 1,
            ".." => return false,
            _ => is_climbing = false,
        }
    }
    true
}

/// Counts the fields of a message before it is read: an entry of two bytes would become one of hundreds in memory.
fn check_count(mut bytes: &[u8]) -> Result<(), TreeError> {
    let mut count = 0;
    while !bytes.is_empty() {
        let (_, wire_type) = prost::encoding::decode_key(&mut bytes).map_err(|_| TreeError::Malformed)?;
        if wire_type != prost::encoding::WireType::LengthDelimited {
            return Err(TreeError::NotCanonical);
        }
        let length = prost::encoding::decode_varint(&mut bytes).map_err(|_| TreeError::Malformed)?;
        let length = usize::try_from(length).map_err(|_| TreeError::Malformed)?;
        bytes = bytes.get(length..).ok_or(TreeError::Malformed)?;
        count += 1;
        if count > DIRECTORY_ENTRIES_MAX {
            return Err(TreeError::Limit {
                what: "the number of entries in a directory",
                limit: DIRECTORY_ENTRIES_MAX,
            });
        }
    }
    Ok(())
}

/// Checks one component of a path.
pub(crate) fn check_name(name: &str) -> Result<(), TreeError> {
    let bad = name.is_empty() || name == "." || name == ".." || name.len() > NAME_BYTES_MAX;
    if bad || name.bytes().any(|byte| byte == b'/' || byte == 0) {
        return Err(TreeError::Name(name.chars().take(80).collect()));
    }
    Ok(())
}

pub(crate) fn check_target(name: &str, target: &str) -> Result<(), TreeError> {
    if target.is_empty() || target.len() > PATH_BYTES_MAX || target.contains('\0') {
        return Err(TreeError::Target(name.to_owned()));
    }
    Ok(())
}

fn model_digest(function: DigestFunction, name: &str, digest: Option<&reapi::Digest>) -> Result<Digest, TreeError> {
    digest
        .and_then(|digest| digest.to_model(function).ok())
        .ok_or_else(|| TreeError::Digest(name.chars().take(80).collect()))
}
