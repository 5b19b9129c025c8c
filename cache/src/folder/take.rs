//! From a directory to a tree.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use muster_model::Digest;
use muster_model::limits::{MESSAGE_BYTES_MAX, OUTPUT_NODES_MAX, TREE_DEPTH_MAX};
use muster_proto::reapi;
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};

use super::{Copies, Folder, FolderError, LinkRule, kind, kind_name};
use crate::digest_of;
use crate::tree::{Directory, Entry, Node, TreeError, check_name, check_target, stays_inside};

/// What is taken, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeRules {
    /// Which links may be there.
    pub links: LinkRule,
    /// Whether modification times become node properties.
    pub with_mtime: bool,
    /// Whether modes become node properties, without the bits that give rights away (set-user-id, set-group-id, sticky).
    pub with_mode: bool,
    /// Whether what was made unreadable is made readable: for directories that are thrown away afterwards.
    pub opens_up: bool,
    /// Files, directories and links at most, all that is taken under these rules together.
    pub nodes_max: usize,
}

impl Default for TakeRules {
    fn default() -> Self {
        let nodes_max = OUTPUT_NODES_MAX;
        Self { links: LinkRule::Keep, with_mtime: false, with_mode: false, opens_up: false, nodes_max }
    }
}

/// A regular file.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenFile {
    /// Its bytes.
    pub digest: Digest,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Its properties, if they were asked for.
    pub properties: Option<reapi::NodeProperties>,
}

/// A directory with everything in it.
#[derive(Clone, Debug, PartialEq)]
pub struct TakenTree {
    /// The digest of its own message.
    pub root: Digest,
    /// The messages of all directories, each once, a directory before those in it, so the root is the first.
    pub directories: Vec<(Digest, Bytes)>,
    /// What is neither a file, a directory nor a link, and was left out.
    pub skipped: Vec<PathBuf>,
}

impl TakenTree {
    /// The `Tree` message: its directories in topological order, each once, in the form that the specification wants of
    /// `OutputDirectory.is_topologically_sorted`.
    pub fn message(&self) -> Bytes {
        let mut message = Vec::new();
        for (number, (_, bytes)) in self.directories.iter().enumerate() {
            // The root is field 1, every other directory field 2; both are messages.
            message.push(if number == 0 { 0x0a } else { 0x12 });
            prost::encoding::encode_varint(bytes.len() as u64, &mut message);
            message.extend_from_slice(bytes);
        }
        message.into()
    }
}

/// What a path stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    /// A regular file.
    File(TakenFile),
    /// A directory.
    Directory(TakenTree),
    /// A link, with its target and its properties.
    Symlink {
        /// Where it leads, as it is.
        target: String,
        /// Its properties, if they were asked for.
        properties: Option<reapi::NodeProperties>,
    },
}

/// Takes what is at `path` beneath `folder`; nothing when nothing is there, or when a link or a file is on the way. Bytes of files go to
/// `copies`, and so do messages of directories. `nodes` counts what was taken so far, over several calls.
///
/// # Errors
///
/// [`FolderError`]; what was copied so far stays in `copies`.
pub fn take(
    folder: &Folder,
    path: &Path,
    rules: &TakeRules,
    nodes: &mut usize,
    copies: &mut Copies,
) -> Result<Option<Taken>, FolderError> {
    let mut walk = Walk { rules, nodes, copies, finished: Vec::new(), seen: HashSet::new(), skipped: Vec::new() };
    let Some(name) = path.file_name() else {
        return Ok(Some(Taken::Directory(walk.tree(folder, path)?)));
    };
    let parent = match folder.folder(path.parent().unwrap_or(Path::new(""))) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
        found => found.map_err(FolderError::file("open the directory of", path))?,
    };
    let name = Path::new(name);
    let status = match parent.status(name) {
        Err(Errno::ENOENT) => return Ok(None),
        found => found.map_err(FolderError::file("look at", path))?,
    };
    Ok(Some(match kind(&status) {
        SFlag::S_IFDIR => {
            let folder = parent.folder(name).map_err(FolderError::file("open", path))?;
            Taken::Directory(walk.tree(&folder, path)?)
        }
        SFlag::S_IFREG => Taken::File(walk.file(&parent, name, path, &status)?),
        SFlag::S_IFLNK => {
            let target = walk.link(&parent, name, path)?;
            Taken::Symlink { target, properties: walk.properties(&status) }
        }
        other => {
            let wanted = "a file, a directory or a link";
            return Err(FolderError::Kind { path: path.to_path_buf(), found: kind_name(other), wanted });
        }
    }))
}

struct Walk<'a> {
    rules: &'a TakeRules,
    nodes: &'a mut usize,
    copies: &'a mut Copies,
    /// Messages, a directory after those in it.
    finished: Vec<(Digest, Bytes)>,
    seen: HashSet<Digest>,
    skipped: Vec<PathBuf>,
}

impl Walk<'_> {
    fn tree(mut self, folder: &Folder, path: &Path) -> Result<TakenTree, FolderError> {
        let status = nix::sys::stat::fstat(folder).map_err(FolderError::file("look at", path))?;
        let root = self.directory(folder, path, &status, 1)?;
        self.finished.reverse();
        for (_, message) in &self.finished {
            self.copies.add(message.clone());
        }
        Ok(TakenTree { root, directories: self.finished, skipped: self.skipped })
    }

    fn count(&mut self) -> Result<(), FolderError> {
        *self.nodes += 1;
        if *self.nodes > self.rules.nodes_max {
            return Err(self.too_many());
        }
        Ok(())
    }

    fn too_many(&self) -> FolderError {
        FolderError::Limit { what: "the number of files, directories and links", limit: self.rules.nodes_max as u64 }
    }

    fn directory(
        &mut self,
        folder: &Folder,
        path: &Path,
        status: &FileStat,
        depth: usize,
    ) -> Result<Digest, FolderError> {
        self.count()?;
        if depth > TREE_DEPTH_MAX {
            return Err(FolderError::Limit { what: "the depth of a tree", limit: TREE_DEPTH_MAX as u64 });
        }
        let left = self.rules.nodes_max - *self.nodes;
        let names = match folder.names(left, self.rules.opens_up) {
            Err(Errno::E2BIG) => return Err(self.too_many()),
            names => names.map_err(FolderError::file("list", path))?,
        };
        let mut entries = Vec::with_capacity(names.len());
        let mut properties = vec![(String::new(), self.properties(status).unwrap_or_default())];
        for name in names {
            let place = path.join(&name);
            let invalid = || FolderError::Name { path: place.clone() };
            let name = name.into_string().map_err(|_| invalid())?;
            check_name(&name).map_err(|_| invalid())?;
            let local = Path::new(&name);
            let status = folder.status(local).map_err(FolderError::file("look at", &place))?;
            let node = match kind(&status) {
                SFlag::S_IFDIR => {
                    let inner = folder.folder(local).map_err(FolderError::file("open", &place))?;
                    Node::Directory(self.directory(&inner, &place, &status, depth + 1)?)
                }
                SFlag::S_IFREG => {
                    let file = self.file(folder, local, &place, &status)?;
                    properties.push((name.clone(), file.properties.unwrap_or_default()));
                    Node::File { digest: file.digest, executable: file.executable }
                }
                SFlag::S_IFLNK => {
                    properties.push((name.clone(), self.properties(&status).unwrap_or_default()));
                    Node::Symlink(self.link(folder, local, &place)?)
                }
                _ => {
                    self.skipped.push(place);
                    continue;
                }
            };
            entries.push(Entry { name, node });
        }
        let wrong = |source| FolderError::Tree { path: path.to_path_buf(), source };
        let bytes = Directory::new(entries).map_err(wrong)?.with_properties(properties).encode();
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(wrong(TreeError::Limit { what: "the size of a directory", limit: MESSAGE_BYTES_MAX }));
        }
        let digest = digest_of(self.copies.function(), &bytes);
        if self.seen.insert(digest) {
            self.finished.push((digest, bytes));
        }
        Ok(digest)
    }

    fn file(&mut self, folder: &Folder, name: &Path, path: &Path, status: &FileStat) -> Result<TakenFile, FolderError> {
        self.count()?;
        let file = folder.file(name, self.rules.opens_up).map_err(FolderError::file("open", path))?;
        let digest = self.copies.copy(file, status.st_size.try_into().unwrap_or(0), path)?;
        let executable = status.st_mode & 0o100 != 0;
        Ok(TakenFile { digest, executable, properties: self.properties(status) })
    }

    fn link(&mut self, folder: &Folder, name: &Path, path: &Path) -> Result<String, FolderError> {
        self.count()?;
        let target = folder.target(name).map_err(FolderError::file("read the link", path))?;
        let invalid = || FolderError::Name { path: path.to_path_buf() };
        let target = target.into_string().map_err(|_| invalid())?;
        check_target("", &target).map_err(|_| invalid())?;
        let is_inside = || path.to_str().is_some_and(|path| stays_inside(path, &target));
        if self.rules.links == LinkRule::Inside && !is_inside() {
            return Err(FolderError::Link { path: path.to_path_buf(), target });
        }
        Ok(target)
    }

    fn properties(&self, status: &FileStat) -> Option<reapi::NodeProperties> {
        if !self.rules.with_mtime && !self.rules.with_mode {
            return None;
        }
        let mtime =
            prost_types::Timestamp { seconds: status.st_mtime, nanos: status.st_mtime_nsec.try_into().unwrap_or(0) };
        Some(reapi::NodeProperties {
            properties: Vec::new(),
            mtime: self.rules.with_mtime.then_some(mtime),
            unix_mode: self.rules.with_mode.then_some(status.st_mode & 0o777),
        })
    }
}
