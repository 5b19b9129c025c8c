//! Reads files back from a dead environment without following links.

mod changes;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Component, Path, PathBuf};

use muster_model::limits::RESULT_FILE_BYTES_MAX;

pub(crate) use changes::Uppers;

use crate::Collector;

/// A directory of a dead environment that is still held open, and the path that it had inside.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) directory: OwnedFd,
}

/// The files of an environment in which nothing runs any more, held open until it is cleaned.
#[derive(Debug)]
pub struct Remains<'a> {
    roots: &'a [Root],
    uppers: Option<&'a Uppers>,
}

impl Remains<'_> {
    /// Files that the program made, changed or removed, but for those at or below one of `own`, as far as the environment can tell: none
    /// where it writes to the host's own file systems. At most [`muster_model::limits::STRAYS_TOLD_MAX`], sorted.
    pub fn changed_outside(&self, own: &[PathBuf]) -> Vec<PathBuf> {
        self.uppers.map(|uppers| uppers.outside(own)).unwrap_or_default()
    }

    /// The directory to start from on the way to an absolute path of the program's, and the rest of the way; `None` when the path is not a
    /// clean absolute one. The descriptor may be one that only names the directory (`O_PATH`). Whatever lies beneath was made by the
    /// program: no component of the rest may be followed as a link.
    pub fn locate(&self, path: &Path) -> Option<(BorrowedFd<'_>, PathBuf)> {
        let is_clean = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !is_clean || !path.is_absolute() {
            return None;
        }
        let (root, relative) = deepest(self.roots, path)?;
        Some((root.directory.as_fd(), relative.components().collect()))
    }
}

/// Does what a specification asks for after death: reads the files back and lets the collector look.
pub(crate) fn collect_all(
    roots: &[Root],
    uppers: Option<&Uppers>,
    files: &[PathBuf],
    collector: Option<&Collector>,
) -> Vec<(PathBuf, Vec<u8>)> {
    if let Some(collector) = collector {
        collector.look(&Remains { roots, uppers });
    }
    collect(roots, files)
}

/// The mount that holds a path, and the way from its top.
fn deepest<'a, 'b>(roots: &'a [Root], path: &'b Path) -> Option<(&'a Root, &'b Path)> {
    let holding = roots.iter().filter(|root| path.starts_with(&root.path));
    let root = holding.max_by_key(|root| root.path.components().count())?;
    Some((root, path.strip_prefix(&root.path).ok()?))
}

/// Reads those of the files that are regular, not too large and reached without a link.
fn collect(roots: &[Root], files: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut collected = Vec::new();
    for file in files {
        let Some((root, relative)) = deepest(roots, file) else { continue };
        match read_beneath(root.directory.as_raw_fd(), relative) {
            Ok(bytes) => collected.push((file.clone(), bytes)),
            Err(error) => tracing::debug!(%error, file = %file.display(), "not collected"),
        }
    }
    collected
}

/// Opens a path below a directory, following no link at all (`openat2(2)`), and reads it whole.
fn read_beneath(directory: RawFd, relative: &Path) -> io::Result<Vec<u8>> {
    let path = std::ffi::CString::new(relative.as_os_str().as_encoded_bytes())?;
    // SAFETY: an all-zero `open_how` is valid; path and structure outlive the call; a result of 0 or more is a new descriptor of ours.
    // `O_NONBLOCK` so that a named pipe does not hold us.
    let file = unsafe {
        let mut how: libc::open_how = std::mem::zeroed();
        how.flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY).cast_unsigned().into();
        how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
        let size = size_of::<libc::open_how>();
        let result = libc::syscall(libc::SYS_openat2, directory, path.as_ptr(), &raw const how, size);
        let descriptor = RawFd::try_from(result).map_err(io::Error::other)?;
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        File::from_raw_fd(descriptor)
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(RESULT_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > RESULT_FILE_BYTES_MAX {
        return Err(io::Error::other("too large"));
    }
    Ok(bytes)
}
