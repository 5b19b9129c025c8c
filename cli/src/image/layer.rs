//! Layers: root file systems that are told as changes, one over the other (OCI image specification, "Image Layer Filesystem Changeset").

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::rc::Rc;

use muster_cache::tree::TreeBuilder;
use muster_model::Digest;
use muster_model::limits::IMAGE_LAYERS_MAX;

use super::archive::{Kept, Reading};
use super::bounded::{Allowance, Bounded, Counted, Hashed, decompressed};
use super::{ImageError, Lost};
use crate::project::BlobSet;

/// What is promised of a layer.
pub(super) struct Promise {
    /// Of its bytes as they lie there, compressed or not; None when nothing says.
    pub(super) stored: Option<Digest>,
    /// The SHA-256 of its archive, not compressed.
    pub(super) archive: [u8; 32],
}

/// Layers that are being laid over each other, the lowest first.
pub(super) struct Layers<'a> {
    kept: Kept<'a>,
    tree: TreeBuilder,
    count: usize,
    allowance: Allowance,
    read: Rc<Cell<u64>>,
}

impl<'a> Layers<'a> {
    /// Keeps files in `directory`. What layers may unfold to is measured by the size of the whole image as it lies there, or by their own.
    pub(super) fn new(directory: &'a Path, image_bytes: Option<u64>) -> Self {
        let read = Rc::default();
        let measure = image_bytes.map_or_else(|| Rc::clone(&read), |bytes| Rc::new(Cell::new(bytes)));
        let allowance = Allowance::of_compressed(measure);
        Self { kept: Kept::new(directory), tree: TreeBuilder::new(), count: 0, allowance, read }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Lays the next one over those that are there.
    ///
    /// # Errors
    ///
    /// [`ImageError::Layer`] with what is wrong with it.
    pub(super) fn add(&mut self, file: File, promise: &Promise) -> Result<(), ImageError> {
        self.count += 1;
        if self.count > IMAGE_LAYERS_MAX {
            return Err(ImageError::Whole("has more layers than an image may have"));
        }
        let number = self.count;
        self.lay(file, promise).map_err(|source| ImageError::Layer { number, source: Box::new(source) })
    }

    fn lay(&mut self, file: File, promise: &Promise) -> Result<(), ImageError> {
        // One byte more than was promised is enough to know that the promise is broken.
        let most = promise.stored.map_or(u64::MAX, |stored| stored.size_bytes.saturating_add(1));
        let mut stored = Hashed::new(Counted::new(BufReader::new(file).take(most), Rc::clone(&self.read)));
        let bytes = decompressed(&mut stored).map_err(ImageError::archive)?.bytes;
        let mut archive = Hashed::new(Bounded::new(bytes, self.allowance.clone()));
        let read = Reading::layer(&mut self.kept, &self.tree).read(&mut tar::Archive::new(&mut archive));
        // To the end of both, whatever was in the archive: a broken promise says more than what follows from it.
        let rest = io::copy(&mut archive, &mut io::sink());
        let archive_hash = archive.digest().hash;
        drop(archive);
        let drained = io::copy(&mut stored, &mut io::sink());
        if drained.is_ok() && promise.stored.is_some_and(|promised| promised != stored.digest()) {
            return Err(ImageError::Digest);
        }
        if rest.is_ok() && archive_hash != promise.archive {
            return Err(ImageError::Digest);
        }
        let layer = read?;
        rest.and(drained).map_err(ImageError::archive)?;
        layer.lay_over(&mut self.tree)
    }

    /// Everything.
    pub(super) fn finish(self) -> (TreeBuilder, BlobSet, Lost) {
        (self.tree, self.kept.blobs, self.kept.lost)
    }
}

/// One layer: what it hides of those beneath it, and what it has itself.
#[derive(Default)]
pub(super) struct Layer {
    /// What it has.
    pub(super) tree: TreeBuilder,
    /// Its directories that it names, in their order.
    pub(super) directories: Vec<String>,
    /// What is no more, of what lies beneath.
    pub(super) hidden: Vec<String>,
    /// Directories of which nothing that lies beneath is to be seen.
    pub(super) emptied: Vec<String>,
}

impl Layer {
    /// Changes what lies beneath. A layer hides nothing of its own, in whatever order it is told.
    pub(super) fn lay_over(mut self, beneath: &mut TreeBuilder) -> Result<(), ImageError> {
        // What is above goes first, and takes along what is below.
        self.hidden.sort_unstable();
        self.emptied.sort_unstable();
        for path in &self.directories {
            if beneath.leaf(path).is_some() {
                beneath.remove(path).map_err(ImageError::tree(path))?;
            }
        }
        for path in &self.hidden {
            beneath.remove(path).map_err(ImageError::tree(path))?;
        }
        for path in &self.emptied {
            beneath.clear(path).map_err(ImageError::tree(path))?;
        }
        beneath.lay_over(self.tree).map_err(ImageError::tree("/"))
    }
}
