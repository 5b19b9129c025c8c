//! Files of an image that is told in several: by name, in a directory or in an archive.

use std::fs::File;
use std::io;
use std::path::Path;

use muster_cache::Folder;
use muster_cache::tree::{Node, TreeBuilder};
use muster_model::Digest;

use super::ImageError;
use super::error::shown;
use crate::project::{BlobSet, BlobSource};

/// Where the files are. No link of a directory is followed; one of an archive is when it stands for a file of the same archive.
pub(super) enum Container<'a> {
    /// In a directory.
    Folder(Folder),
    /// In an archive that was read.
    Archive {
        /// Names.
        tree: &'a TreeBuilder,
        /// Where the bytes were kept.
        blobs: &'a BlobSet,
    },
}

impl Container<'_> {
    /// Opens a file; None when there is none of that name.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub(super) fn find(&self, name: &str) -> Result<Option<File>, ImageError> {
        let opened = match self {
            Self::Folder(folder) => folder.open_file(Path::new(name)),
            Self::Archive { tree, blobs } => match find(tree, blobs, name) {
                Some(path) => File::open(path),
                None => return Ok(None),
            },
        };
        match opened {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ImageError::Read { path: shown(name).into(), source }),
        }
    }

    /// Opens a file that must be there.
    ///
    /// # Errors
    ///
    /// [`ImageError::Missing`].
    pub(super) fn open(&self, name: &str) -> Result<File, ImageError> {
        self.find(name)?.ok_or_else(|| ImageError::Missing { name: shown(name) })
    }

    /// The blob of a digest (OCI image specification, "Image Layout").
    ///
    /// # Errors
    ///
    /// [`ImageError::Missing`].
    pub(super) fn blob(&self, digest: &Digest) -> Result<File, ImageError> {
        self.open(&format!("blobs/sha256/{}", muster_model::digest::hex(&digest.hash)))
    }
}

/// Where the bytes of a name lie. Old versions of Docker save a layer that occurs twice as a link.
fn find<'a>(tree: &TreeBuilder, blobs: &'a BlobSet, name: &str) -> Option<&'a Path> {
    let linked;
    let mut node = tree.leaf(name)?;
    if let Node::Symlink(target) = node {
        linked = join(name, target)?;
        node = tree.leaf(&linked)?;
    }
    let Node::File { digest, .. } = node else { return None };
    match blobs.get(digest)? {
        BlobSource::File(path) => Some(path),
        BlobSource::Bytes(_) => None,
    }
}

/// The name that a relative link at `name` stands for.
fn join(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    if target.starts_with('/') {
        return None;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
