//! Root file systems as trees: what `muster image import` does before it uploads.
//!
//! An archive is believed in nothing. Names are relative and have no `..`; nothing lies below a link or below a file; a hard link names a file
//! that came before it; nothing is written but to numbered files in a directory of ours. What a tree can't hold is not made and is counted:
//! devices and pipes, owners, modes other than "may be executed", extended attributes. What makes two readers see two archives is
//! refused: sizes that the two headers of an entry tell differently, entries of one name, sparse files, malformed extension headers.

mod archive;
mod bounded;
mod error;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use muster_cache::tree::Tree;

pub use error::ImageError;

use crate::project::BlobSet;
use archive::Reading;
use bounded::Bounded;

/// A root file system that was read.
#[derive(Debug)]
pub struct RootFileSystem {
    /// Its directories.
    pub tree: Tree,
    /// The bytes of its files and directories. Those of files lie in the directory that it was read into.
    pub blobs: BlobSet,
    /// What it had that a tree can't hold.
    pub lost: Lost,
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

/// Reads a tar archive of a root file system: plain, or compressed with gzip or zstd. Its files are written into `directory`, which must be
/// empty and stay until they are uploaded.
///
/// # Errors
///
/// [`ImageError`]: what can't be read, what breaks a rule, what passes a limit. Nothing outside `directory` is written in any case.
pub fn read_archive(path: &Path, directory: &Path) -> Result<RootFileSystem, ImageError> {
    let failed = |source| ImageError::Read { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(ImageError::NoArchive { path: path.to_owned() });
    }
    let mut magic = Vec::with_capacity(4);
    file.by_ref().take(4).read_to_end(&mut magic).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let compressed = bounded::Counted::new(BufReader::new(file));
    let count = compressed.count();
    match magic.as_slice() {
        [0x1f, 0x8b, ..] => read(Bounded::ratio(flate2::read::MultiGzDecoder::new(compressed), count), directory),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::stream::read::Decoder::new(compressed).map_err(failed)?;
            decoder.window_log_max(bounded::WINDOW_LOG_MAX).map_err(failed)?;
            read(Bounded::ratio(decoder, count), directory)
        }
        _ => read(Bounded::plain(compressed), directory),
    }
}

fn read(source: Bounded<impl Read>, directory: &Path) -> Result<RootFileSystem, ImageError> {
    let mut archive = tar::Archive::new(source);
    let read = Reading::new(directory).read(&mut archive)?;
    // What comes after the end must be whole too: the checksum of a compressed archive is at its end.
    std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(ImageError::archive)?;
    Ok(read)
}
