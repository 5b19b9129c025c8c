//! Images as trees: what `muster image import` does before it uploads.
//!
//! An image is a root file system in one archive, or layers over each other: in an OCI layout (a directory, or an archive of it) or in what
//! `docker save` wrote. Which of them it is its content says. Layers become one tree, since files are kept by their digests and are the same
//! in whatever layer they came.
//!
//! An archive is believed in nothing. Names are relative and have no `..`; nothing lies below a link or below a file; a hard link names a file
//! that came before it; nothing is written but to numbered files in a directory of ours. What a tree can't hold is not made and is counted:
//! devices and pipes, owners, modes other than "may be executed", extended attributes. What makes two readers see two archives is
//! refused: sizes that the two headers of an entry tell differently, entries of one name, sparse files, malformed extension headers. What is
//! named by a digest is compared with it, as it lies there and, a layer, as the archive that it unfolds to.

mod archive;
mod bounded;
mod container;
mod documents;
mod error;
mod layer;
mod layout;
mod saved;
mod user;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;
use std::rc::Rc;

use muster_cache::Folder;
use muster_cache::tree::{Node, Tree, TreeBuilder};

pub use error::ImageError;

use crate::project::{BlobSet, BlobSource};
use archive::{Kept, Reading};
use bounded::{Allowance, Bounded, Counted, decompressed};
use container::Container;
use layer::Layers;

/// An image that was read.
#[derive(Debug)]
pub struct Image {
    /// Its directories.
    pub tree: Tree,
    /// The bytes of its files and directories. Those of files lie in the directory that it was read into.
    pub blobs: BlobSet,
    /// What it had that a tree can't hold.
    pub lost: Lost,
    /// What it was read from.
    pub form: ImageForm,
    /// How many layers it was told in; 1 for a root file system.
    pub layers: usize,
    /// What it says of programs that run in it.
    pub configuration: ImageConfiguration,
}

/// What an image was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageForm {
    /// One archive of a root file system.
    RootFileSystem,
    /// A layout of the Open Container Initiative.
    Layout,
    /// What `docker save` wrote.
    Saved,
}

impl ImageForm {
    /// Its name: `root-file-system`, `oci-layout` or `docker-save`.
    pub fn name(self) -> &'static str {
        match self {
            Self::RootFileSystem => "root-file-system",
            Self::Layout => "oci-layout",
            Self::Saved => "docker-save",
        }
    }
}

/// What an image says of programs that run in it (OCI image specification, "Image Configuration"); a root file system says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfiguration {
    /// Variables, in their order.
    pub environment: Vec<(String, String)>,
    /// Where programs start; empty for `/`.
    pub working_directory: String,
    /// The program that is run, with arguments that always come first.
    pub entrypoint: Vec<String>,
    /// What is run, or the arguments that come after [`Self::entrypoint`].
    pub command: Vec<String>,
    /// Whom programs run as; empty for root.
    pub user: String,
}

/// How often there was something that a tree can't hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Devices and pipes, which were not made.
    pub special_files: u64,
    /// Files that run as their owner or group, which do so no more.
    pub set_id_files: u64,
    /// Entries that belong to somebody else than root, who owns them no more.
    pub owned_entries: u64,
    /// Extended attributes, capabilities among them.
    pub extended_attributes: u64,
}

/// Reads an image: a tar archive, plain or compressed with gzip or zstd, of a root file system, of an OCI layout, or as `docker save` writes it;
/// or a directory with an OCI layout. Its files are written into `directory`, which must be empty and stay until they are uploaded.
///
/// # Errors
///
/// [`ImageError`]: what can't be read, what breaks a rule, what passes a limit. Nothing outside `directory` is written in any case.
pub fn read_image(path: &Path, directory: &Path) -> Result<Image, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_owned(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        let container = Container::Folder(Folder::open(path).map_err(failed)?);
        if container.find(layout::LAYOUT_FILE)?.is_none() {
            return Err(ImageError::NoImage { path: path.to_owned() });
        }
        let mut layers = Layers::new(directory, None);
        let configuration = layout::read(&container, &mut layers)?;
        return layered(layers, ImageForm::Layout, configuration);
    }
    if !metadata.is_file() {
        return Err(ImageError::NoImage { path: path.to_owned() });
    }
    let [outer, inner] = ["archive", "layers"].map(|name| directory.join(name));
    for directory in [&outer, &inner] {
        fs::create_dir(directory).map_err(|source| ImageError::Keep { path: directory.clone(), source })?;
    }
    let mut kept = Kept::new(&outer);
    let tree = read_archive(File::open(path).map_err(failed)?, &mut kept)?;
    let layers = Layers::new(&inner, Some(metadata.len()));
    match read_container(&tree, &kept.blobs, layers)? {
        Some(image) => Ok(image),
        None => finish(tree, kept.blobs, kept.lost, ImageForm::RootFileSystem, 1, ImageConfiguration::default()),
    }
}

fn read_archive(file: File, kept: &mut Kept<'_>) -> Result<TreeBuilder, ImageError> {
    let count = Rc::<Cell<u64>>::default();
    let unfolded = decompressed(Counted::new(BufReader::new(file), Rc::clone(&count))).map_err(ImageError::archive)?;
    let allowance = if unfolded.is_compressed { Allowance::of_compressed(count) } else { Allowance::plain() };
    let mut archive = tar::Archive::new(Bounded::new(unfolded.bytes, allowance));
    let read = Reading::whole(kept).read(&mut archive)?;
    // What comes after the end must be whole too: the checksum of a compressed archive is at its end.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(ImageError::archive)?;
    Ok(read.tree)
}

/// The image that an archive holds in files of its own; None when the archive is a root file system itself.
fn read_container(tree: &TreeBuilder, blobs: &BlobSet, mut layers: Layers<'_>) -> Result<Option<Image>, ImageError> {
    let container = Container::Archive { tree, blobs };
    let is_file = |name| matches!(tree.leaf(name), Some(Node::File { .. }));
    if is_file(layout::LAYOUT_FILE) && is_file(layout::INDEX_FILE) {
        let configuration = layout::read(&container, &mut layers)?;
        return layered(layers, ImageForm::Layout, configuration).map(Some);
    }
    match saved::images(&container)? {
        Some(images) => {
            let configuration = saved::read(&container, images, &mut layers)?;
            layered(layers, ImageForm::Saved, configuration).map(Some)
        }
        None => Ok(None),
    }
}

fn layered(layers: Layers<'_>, form: ImageForm, configuration: ImageConfiguration) -> Result<Image, ImageError> {
    let count = layers.count();
    let (tree, blobs, lost) = layers.finish();
    finish(tree, blobs, lost, form, count, configuration)
}

fn finish(
    mut tree: TreeBuilder,
    mut kept: BlobSet,
    lost: Lost,
    form: ImageForm,
    layers: usize,
    configuration: ImageConfiguration,
) -> Result<Image, ImageError> {
    if tree.is_empty() {
        return Err(ImageError::Whole("holds no file"));
    }
    user::name_user(&mut tree, &mut kept)?;
    let tree = tree.finish().map_err(ImageError::tree("/"))?;
    // Of what was kept, layers above may have hidden some.
    let mut blobs = BlobSet::default();
    for digest in &tree.files {
        if let Some(source) = kept.get(digest) {
            blobs.insert(*digest, source.clone());
        }
    }
    for (digest, bytes) in &tree.directories {
        blobs.insert(*digest, BlobSource::Bytes(bytes.clone()));
    }
    Ok(Image { tree, blobs, lost, form, layers, configuration })
}
