//! Reads files back from a dead environment without following links.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use muster_model::limits::RESULT_FILE_BYTES_MAX;

/// A directory of a dead environment that is still held open, and the path that it had inside.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) directory: OwnedFd,
}

/// Reads those of the files that are regular, not too large and reached without a link.
pub(crate) fn collect(roots: &[Root], files: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    let mut collected = Vec::new();
    for file in files {
        let holding = roots.iter().filter(|root| file.starts_with(&root.path));
        let Some(root) = holding.max_by_key(|root| root.path.components().count()) else { continue };
        let Ok(relative) = file.strip_prefix(&root.path) else { continue };
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
