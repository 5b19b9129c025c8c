//! From the entries of an archive to a tree, or to a layer over one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use muster_cache::Hasher;
use muster_cache::tree::{Node, TreeBuilder};
use muster_model::limits::{CHUNK_BYTES_MAX, IMAGE_HEADER_BYTES_MAX, PATH_BYTES_MAX, TREE_NODES_MAX};
use muster_model::{Digest, DigestFunction};
use tar::{Archive, Entry, EntryType, PaxExtensions};

use super::layer::Layer;
use super::{ImageError, Lost};
use crate::project::{BlobSet, BlobSource};

/// Any of these bits lets somebody execute a file.
const EXECUTABLE_BITS: u32 = 0o111;
/// Run as the file's owner, or as its group.
const SET_ID_BITS: u32 = 0o6000;
/// What a layer's archive calls the names that it hides (OCI image specification, "Whiteouts").
const WHITEOUT_PREFIX: &str = ".wh.";
/// What it calls names that are about a layer itself.
const METADATA_PREFIX: &str = ".wh..wh.";
/// The one of them that hides everything in its directory.
const OPAQUE: &str = ".wh..wh..opq";

/// What headers before an entry say of it.
#[derive(Default)]
struct Told {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// What all archives of one image share: files that were kept until they are uploaded, and what is counted.
pub(super) struct Kept<'a> {
    directory: &'a Path,
    pub(super) blobs: BlobSet,
    pub(super) lost: Lost,
    files: u64,
    entries: usize,
}

impl<'a> Kept<'a> {
    /// Keeps files in `directory`.
    pub(super) fn new(directory: &'a Path) -> Self {
        Self { directory, blobs: BlobSet::default(), lost: Lost::default(), files: 0, entries: 0 }
    }

    /// Copies a file out of an archive and hashes it on the way.
    fn keep(&mut self, entry: &mut Entry<'_, impl Read>, name: &[u8], size: u64) -> Result<Digest, ImageError> {
        let path: PathBuf = self.directory.join(self.files.to_string());
        let failed = |source: io::Error| ImageError::Keep { path: path.clone(), source };
        let mut file = File::create_new(&path).map_err(failed)?;
        let mut hasher = Hasher::new(DigestFunction::Blake3);
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(CHUNK_BYTES_MAX).clamp(1, CHUNK_BYTES_MAX)];
        let mut copied = 0;
        loop {
            let read = entry.read(&mut buffer).map_err(ImageError::archive)?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            hasher.update(bytes);
            file.write_all(bytes).map_err(failed)?;
            copied += read as u64;
        }
        if copied != size {
            return Err(refuse(name, "is cut off"));
        }
        let digest = hasher.digest();
        if self.blobs.get(&digest).is_some() {
            fs::remove_file(&path).map_err(failed)?;
        } else {
            self.files += 1;
            self.blobs.insert(digest, BlobSource::File(path));
        }
        Ok(digest)
    }
}

/// An archive that is being read.
pub(super) struct Reading<'a, 'kept> {
    kept: &'a mut Kept<'kept>,
    /// What a layer lies over; None for what is no layer.
    beneath: Option<&'a TreeBuilder>,
    layer: Layer,
}

impl<'a, 'kept> Reading<'a, 'kept> {
    /// An archive that stands for itself.
    pub(super) fn whole(kept: &'a mut Kept<'kept>) -> Self {
        Self { kept, beneath: None, layer: Layer::default() }
    }

    /// An archive that changes what lies beneath it.
    pub(super) fn layer(kept: &'a mut Kept<'kept>, beneath: &'a TreeBuilder) -> Self {
        Self { kept, beneath: Some(beneath), layer: Layer::default() }
    }

    /// Reads every entry.
    pub(super) fn read(mut self, archive: &mut Archive<impl Read>) -> Result<Layer, ImageError> {
        let mut told = Told::default();
        // Raw: the headers that belong to an entry are read here, where their size is bounded and where they are compared.
        for entry in archive.entries().map_err(ImageError::archive)?.raw(true) {
            let mut entry = entry.map_err(ImageError::archive)?;
            self.kept.entries += 1;
            if self.kept.entries > TREE_NODES_MAX {
                return Err(ImageError::Whole("has more entries than a tree may have"));
            }
            match entry.header().entry_type() {
                EntryType::GNULongName => told.name = Some(long_name(&mut entry)?),
                EntryType::GNULongLink => told.link = Some(long_name(&mut entry)?),
                EntryType::XHeader => self.extensions(&mut entry, &mut told)?,
                EntryType::XGlobalHeader => global(&mut entry)?,
                kind => self.entry(&mut entry, kind, std::mem::take(&mut told))?,
            }
        }
        Ok(self.layer)
    }

    fn extensions(&mut self, entry: &mut Entry<'_, impl Read>, told: &mut Told) -> Result<(), ImageError> {
        let bytes = header_bytes(entry)?;
        for extension in PaxExtensions::new(&bytes) {
            let extension = extension.map_err(ImageError::archive)?;
            let wrong = |why: &str| refuse(extension.key_bytes(), why);
            match extension.key_bytes() {
                b"path" => told.name = Some(extension.value_bytes().to_vec()),
                b"linkpath" => told.link = Some(extension.value_bytes().to_vec()),
                b"size" => {
                    let size = extension.value().ok().and_then(|value| value.parse().ok());
                    told.size = Some(size.ok_or_else(|| wrong("is no number"))?);
                }
                key if key.starts_with(b"GNU.sparse") => return Err(wrong("belongs to a sparse file")),
                key if key.starts_with(b"SCHILY.xattr.") => self.kept.lost.extended_attributes += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &mut Entry<'_, impl Read>, kind: EntryType, told: Told) -> Result<(), ImageError> {
        let bytes = told.name.unwrap_or_else(|| entry.header().path_bytes().into_owned());
        let path = clean(&bytes)?;
        if has_whiteout(&path) {
            return self.whiteout(&bytes, &path);
        }
        let header = entry.header();
        let size = header.entry_size().map_err(ImageError::archive)?;
        if told.size.is_some_and(|told| told != size) {
            return Err(refuse(&bytes, "has two sizes"));
        }
        let mode = header.mode().map_err(ImageError::archive)?;
        let is_owned = [header.uid(), header.gid()].into_iter().any(|id| id.is_ok_and(|id| id != 0));
        self.kept.lost.owned_entries += u64::from(is_owned);
        let link = told.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        match kind {
            EntryType::Directory => {
                self.layer.tree.insert_directory(&path).map_err(ImageError::tree(&path))?;
                self.layer.directories.push(path);
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => {
                self.refuse_second(&bytes, &path)?;
                self.kept.lost.set_id_files += u64::from(mode & SET_ID_BITS != 0);
                let digest = self.kept.keep(entry, &bytes, size)?;
                let is_executable = mode & EXECUTABLE_BITS != 0;
                self.layer.tree.insert_file(&path, digest, is_executable).map_err(ImageError::tree(&path))
            }
            EntryType::Link => {
                let target = clean(&link.unwrap_or_default())?;
                let here = self.layer.tree.leaf(&target);
                let found = here.or_else(|| self.beneath.and_then(|beneath| beneath.leaf(&target)));
                let Some(Node::File { digest, executable }) = found.cloned() else {
                    return Err(refuse(&bytes, "is a hard link to a file that did not come before it"));
                };
                self.refuse_second(&bytes, &path)?;
                self.layer.tree.insert_file(&path, digest, executable).map_err(ImageError::tree(&path))
            }
            EntryType::Symlink => {
                let target = String::from_utf8(link.unwrap_or_default());
                let target = target.map_err(|_| refuse(&bytes, "points at a name that is not UTF-8"))?;
                self.layer.tree.insert_symlink(&path, &target).map_err(ImageError::tree(&path))
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.kept.lost.special_files += 1;
                Ok(())
            }
            _ => Err(refuse(&bytes, "is of a kind that is not taken")),
        }
    }

    fn refuse_second(&self, bytes: &[u8], path: &str) -> Result<(), ImageError> {
        match self.layer.tree.leaf(path) {
            Some(Node::File { .. }) => Err(refuse(bytes, "is there twice")),
            _ => Ok(()),
        }
    }

    /// A name that hides another one (OCI image specification, "Whiteouts").
    fn whiteout(&mut self, bytes: &[u8], path: &str) -> Result<(), ImageError> {
        if self.beneath.is_none() {
            return Err(refuse(bytes, "hides something of another layer, and a root file system has none"));
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name == OPAQUE && !has_whiteout(parent) {
            self.layer.emptied.push(parent.to_owned());
            return Ok(());
        }
        if path.split('/').any(|part| part.starts_with(METADATA_PREFIX)) {
            // What AUFS kept for itself, and what old versions of Docker let into layers.
            return Ok(());
        }
        let hidden = name.strip_prefix(WHITEOUT_PREFIX).filter(|hidden| !matches!(*hidden, "" | "." | ".."));
        match hidden {
            Some(hidden) if !has_whiteout(parent) && !hidden.starts_with(WHITEOUT_PREFIX) => {
                let separator = if parent.is_empty() { "" } else { "/" };
                self.layer.hidden.push(format!("{parent}{separator}{hidden}"));
                Ok(())
            }
            _ => Err(refuse(bytes, "hides nothing that can be there")),
        }
    }
}

fn has_whiteout(path: &str) -> bool {
    path.split('/').any(|part| part.starts_with(WHITEOUT_PREFIX))
}

fn refuse(name: &[u8], why: &str) -> ImageError {
    let name = String::from_utf8_lossy(name).chars().take(200).collect();
    ImageError::Entry { name, why: why.to_owned() }
}

/// A path relative to the root, without what means nothing; empty for the root itself.
fn clean(bytes: &[u8]) -> Result<String, ImageError> {
    let name = std::str::from_utf8(bytes).map_err(|_| refuse(bytes, "has a name that is not UTF-8"))?;
    if name.is_empty() || name.len() > PATH_BYTES_MAX {
        return Err(refuse(bytes, "has no name, or a name that is too long"));
    }
    if name.starts_with('/') || name.contains('\0') {
        return Err(refuse(bytes, "has an absolute name, or one with a NUL character"));
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return Err(refuse(bytes, "leads out of the root with `..`"));
    }
    Ok(parts.join("/"))
}

/// The bytes of a header that has a content.
fn header_bytes(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ImageError> {
    let size = entry.header().entry_size().map_err(ImageError::archive)?;
    if size > IMAGE_HEADER_BYTES_MAX {
        return Err(refuse(&entry.header().path_bytes(), "is a header that is too long"));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(ImageError::archive)?;
    if bytes.len() as u64 != size {
        return Err(refuse(&entry.header().path_bytes(), "is cut off"));
    }
    Ok(bytes)
}

/// The name in a header of GNU tar, which ends with a NUL character.
fn long_name(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, ImageError> {
    let mut bytes = header_bytes(entry)?;
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

/// A header for everything that follows may comment and no more.
fn global(entry: &mut Entry<'_, impl Read>) -> Result<(), ImageError> {
    let bytes = header_bytes(entry)?;
    for extension in PaxExtensions::new(&bytes) {
        let extension = extension.map_err(ImageError::archive)?;
        if matches!(extension.key_bytes(), b"path" | b"linkpath" | b"size") {
            return Err(refuse(extension.key_bytes(), "is told of every entry at once"));
        }
    }
    Ok(())
}
