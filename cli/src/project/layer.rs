//! Layers: directory trees described as canonical `Directory` messages (Remote Execution API v2, `Directory`).
//!
//! A layer is rooted at `/` and shows files at the absolute paths that they have on this host, links resolved the way the kernel would:
//! a path through a symbolic link adds the link, verbatim, and the file where it really is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use muster_model::spec::Layer;
use muster_model::{Digest, limits};
use muster_proto::reapi;
use prost::Message;

use super::error::file_error;
use super::stat_cache::{StatCache, Wanted};
use super::{BlobSet, BlobSource, ProjectError};

/// Links followed on one path before it is taken for a loop; what Linux does (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

enum Node {
    Directory(BTreeMap<String, Node>),
    File(usize),
    Link(String),
}

struct SourceFile {
    path: PathBuf,
    metadata: Metadata,
}

/// A layer in the making.
pub(crate) struct LayerBuilder {
    purpose: &'static str,
    root: BTreeMap<String, Node>,
    files: Vec<SourceFile>,
    nodes: usize,
    left_out: Vec<String>,
}

impl LayerBuilder {
    /// An empty layer. `purpose` is for people; see [`Layer::purpose`].
    pub(crate) fn new(purpose: &'static str) -> Self {
        Self { purpose, root: BTreeMap::new(), files: Vec::new(), nodes: 0, left_out: Vec::new() }
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.root.is_empty()
    }

    /// Adds an empty directory, or keeps the one that is there.
    pub(crate) fn add_directory(&mut self, path: &Path) -> Result<(), ProjectError> {
        let Some(names) = self.names(path)? else { return Ok(()) };
        descend(&mut self.root, &names, &mut self.nodes);
        self.check_nodes()
    }

    /// Adds the file, link or directory at `path` as it is, without following it; the directories above it must be real ones.
    /// `metadata` is that of the path itself. Sockets, pipes and devices are left out, and that is said in the result of
    /// [`Self::take_left_out`].
    pub(crate) fn add_entry(&mut self, path: &Path, metadata: Metadata) -> Result<(), ProjectError> {
        let kind = metadata.file_type();
        if kind.is_dir() {
            return self.add_directory(path);
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).map_err(file_error("read the link", path))?;
            return match target.into_os_string().into_string() {
                Ok(target) => self.add_node(path, Node::Link(target)),
                Err(target) => {
                    self.left_out.push(format!("{} points at {target:?}, which is not UTF-8", path.display()));
                    Ok(())
                }
            };
        }
        if !kind.is_file() {
            self.left_out.push(format!("{} is neither file, directory nor link", path.display()));
            return Ok(());
        }
        self.add_file(path, path, metadata)
    }

    /// Adds the file `source` at the absolute path `at`.
    pub(crate) fn add_file(&mut self, at: &Path, source: &Path, metadata: Metadata) -> Result<(), ProjectError> {
        self.files.push(SourceFile { path: source.to_owned(), metadata });
        self.add_node(at, Node::File(self.files.len() - 1))
    }

    /// Adds what `path` leads to, and every link on the way; returns where that is. Links inside `base` are left to the base.
    pub(crate) fn add_resolved(
        &mut self,
        path: &Path,
        is_in_base: &dyn Fn(&Path) -> bool,
    ) -> Result<PathBuf, ProjectError> {
        let mut rest: Vec<OsString> = path.components().rev().filter_map(normal).collect();
        let mut place = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                place.pop();
                continue;
            }
            place.push(name);
            let metadata = fs::symlink_metadata(&place).map_err(file_error("look at", &place))?;
            if metadata.file_type().is_symlink() {
                links += 1;
                if links > LINKS_MAX {
                    let loops = std::io::Error::from_raw_os_error(nix::libc::ELOOP);
                    return Err(file_error("follow", path)(loops));
                }
                let target = fs::read_link(&place).map_err(file_error("read the link", &place))?;
                if !is_in_base(&place) {
                    self.add_entry(&place, metadata)?;
                }
                if target.is_absolute() {
                    place = PathBuf::from("/");
                } else {
                    place.pop();
                }
                rest.extend(target.components().rev().filter_map(normal));
            } else if rest.is_empty() && !is_in_base(&place) {
                self.add_entry(&place, metadata)?;
            }
        }
        Ok(place)
    }

    /// The files added so far whose own path is wanted.
    pub(crate) fn sources(&self, is_wanted: impl Fn(&Path) -> bool) -> Vec<(PathBuf, Metadata)> {
        let wanted = self.files.iter().filter(|file| is_wanted(&file.path));
        wanted.map(|file| (file.path.clone(), file.metadata.clone())).collect()
    }

    /// What could not be put into the layer, one sentence each.
    pub(crate) fn take_left_out(&mut self) -> Vec<String> {
        std::mem::take(&mut self.left_out)
    }

    /// Hashes the files, adds every blob to `blobs` and describes the layer.
    pub(crate) fn finish(self, cache: &StatCache, blobs: &mut BlobSet) -> Result<Layer, ProjectError> {
        let wanted: Vec<Wanted<'_>> =
            self.files.iter().map(|file| Wanted { path: &file.path, metadata: &file.metadata }).collect();
        let digests = cache.digests(&wanted)?;
        let files: Vec<(Digest, bool)> = digests
            .into_iter()
            .zip(&self.files)
            .map(|(digest, file)| (digest, file.metadata.mode() & 0o111 != 0))
            .collect();
        let root = encode(&self.root, &files, blobs);
        for ((digest, _), file) in files.iter().zip(self.files) {
            if digest.size_bytes > limits::BLOB_BYTES_MAX {
                return Err(ProjectError::Limit {
                    what: file.path.display().to_string(),
                    limit: limits::BLOB_BYTES_MAX,
                });
            }
            blobs.insert(*digest, BlobSource::File(file.path));
        }
        Ok(Layer { root, mount_path: "/".into(), purpose: self.purpose.into() })
    }

    fn add_node(&mut self, path: &Path, node: Node) -> Result<(), ProjectError> {
        let Some(mut names) = self.names(path)? else { return Ok(()) };
        let Some(last) = names.pop() else { return Ok(()) };
        let directory = descend(&mut self.root, &names, &mut self.nodes);
        // What is below an entry that is there already is worth more than the entry: a link to a directory gives way to the directory.
        if !matches!(directory.get(&last), Some(Node::Directory(_))) && directory.insert(last, node).is_none() {
            self.nodes += 1;
        }
        self.check_nodes()
    }

    /// The names on an absolute path; None when the wire can't carry one of them.
    fn names(&mut self, path: &Path) -> Result<Option<Vec<String>>, ProjectError> {
        let mut names = Vec::new();
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let Some(name) = name.to_str() else {
                self.left_out.push(format!("the name of {} is not UTF-8", path.display()));
                return Ok(None);
            };
            names.push(name.to_owned());
        }
        if names.len() > limits::TREE_DEPTH_MAX {
            let what = format!("the depth of {}", path.display());
            return Err(ProjectError::Limit { what, limit: limits::TREE_DEPTH_MAX as u64 });
        }
        Ok(Some(names))
    }

    fn check_nodes(&self) -> Result<(), ProjectError> {
        if self.nodes > limits::TREE_NODES_MAX {
            let what = format!("the number of files in the {} layer", self.purpose);
            return Err(ProjectError::Limit { what, limit: limits::TREE_NODES_MAX as u64 });
        }
        Ok(())
    }
}

fn normal(component: Component<'_>) -> Option<OsString> {
    match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }
}

/// The directory at `names`, made where it is missing; a file or link in the way gives way.
fn descend<'a>(
    mut directory: &'a mut BTreeMap<String, Node>,
    names: &[String],
    nodes: &mut usize,
) -> &'a mut BTreeMap<String, Node> {
    for name in names {
        let node = directory.entry(name.clone()).or_insert_with(|| {
            *nodes += 1;
            Node::Directory(BTreeMap::new())
        });
        if !matches!(node, Node::Directory(_)) {
            *node = Node::Directory(BTreeMap::new());
        }
        directory = match node {
            Node::Directory(inner) => inner,
            Node::File(_) | Node::Link(_) => unreachable!("replaced by a directory just above"),
        };
    }
    directory
}

/// Adds the `Directory` messages of a tree, deepest first; returns the digest of the topmost. The map's order is the canonical one.
fn encode(directory: &BTreeMap<String, Node>, files: &[(Digest, bool)], blobs: &mut BlobSet) -> Digest {
    let mut message = reapi::Directory::default();
    for (name, node) in directory {
        let name = name.clone();
        match node {
            Node::Directory(inner) => {
                let digest = Some(encode(inner, files, blobs).into());
                message.directories.push(reapi::DirectoryNode { name, digest });
            }
            Node::File(index) => {
                let (digest, is_executable) = files[*index];
                let digest = Some(digest.into());
                message.files.push(reapi::FileNode { name, digest, is_executable, node_properties: None });
            }
            Node::Link(target) => {
                message.symlinks.push(reapi::SymlinkNode { name, target: target.clone(), node_properties: None });
            }
        }
    }
    let bytes = Bytes::from(message.encode_to_vec());
    let digest = Digest::of(&bytes);
    blobs.insert(digest, BlobSource::Bytes(bytes));
    digest
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
