//! Directories on this machine that somebody else filled: taken into blobs, or made from blobs, without ever leaving them.
//!
//! Everything is reached by descriptor, beneath one that is held, and no link is followed on the way (`openat2(2)` with `RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS`, `RESOLVE_NO_MAGICLINKS` and `RESOLVE_NO_XDEV`). Files are copied into fresh ones while they are hashed, so that
//! whoever has the old ones open changes nothing.

mod copies;
mod lay;
mod take;

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat};

pub use copies::Copies;
pub use lay::lay_out;
pub use take::{TakeRules, Taken, TakenFile, TakenTree, take};

use crate::StoreError;
use crate::tree::TreeError;

/// How often the kernel may say that a path changed while it was looked up (`openat2(2)`, `EAGAIN`).
const LOOKUPS_MAX: usize = 32;

/// Which links may be in a tree. None is ever followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRule {
    /// Any: targets are kept as they are (`SymlinkAbsolutePathStrategy.ALLOWED` of the Remote Execution API).
    Keep,
    /// Those that stay inside the tree: see [`stays_inside`](crate::tree::stays_inside).
    Inside,
}

/// Why a directory could not be taken, or made.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The file system said no.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as an infinitive.
        action: &'static str,
        /// On what, from the top of the directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A name or a link's target that is not UTF-8, or not a name or target that a tree can have.
    #[error("{path:?} can't be in a tree: its name or target is not valid UTF-8 or too long")]
    Name {
        /// Where.
        path: PathBuf,
    },
    /// Something else than what was asked for.
    #[error("{} is {found}, not {wanted}", path.display())]
    Kind {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What was asked for.
        wanted: &'static str,
    },
    /// A link that the rule forbids.
    #[error("the link {} leads outside, to {target}", path.display())]
    Link {
        /// Where.
        path: PathBuf,
        /// Where it leads.
        target: String,
    },
    /// More than may be taken.
    #[error("{what} passes its limit of {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// What is there makes no tree.
    #[error("{} is not a tree", path.display())]
    Tree {
        /// Where.
        path: PathBuf,
        /// Why.
        source: TreeError,
    },
    /// A store said no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FolderError {
    fn file<'a, E: Into<io::Error>>(action: &'static str, path: &'a Path) -> impl FnOnce(E) -> Self + 'a {
        move |source| Self::File { action, path: path.to_path_buf(), source: source.into() }
    }
}

/// A directory that is held open.
#[derive(Debug)]
pub struct Folder {
    descriptor: OwnedFd,
}

impl From<OwnedFd> for Folder {
    /// The descriptor may be one that only names the directory (`O_PATH`).
    fn from(descriptor: OwnedFd) -> Self {
        Self { descriptor }
    }
}

impl Folder {
    /// Opens a directory by a path that is trusted.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { descriptor: nix::fcntl::open(path, flags, Mode::empty())? })
    }

    /// Opens a regular file beneath for reading, by a path that is not trusted, following no link.
    ///
    /// # Errors
    ///
    /// What the file system says; also when it is something else than a file.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let file = self.file(path, false)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("is no regular file")) }
    }

    /// Opens what lies beneath, by a path that is not trusted, following no link.
    fn beneath(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let mut lookups = 1;
        loop {
            match openat2(&self.descriptor, path, how) {
                Err(Errno::EAGAIN) if lookups < LOOKUPS_MAX => lookups += 1,
                done => return done,
            }
        }
    }

    /// A directory beneath.
    fn folder(&self, path: &Path) -> nix::Result<Self> {
        Ok(Self { descriptor: self.beneath(path, OFlag::O_PATH | OFlag::O_DIRECTORY)? })
    }

    /// What a name in this directory stands for.
    fn status(&self, name: &Path) -> nix::Result<FileStat> {
        fstatat(&self.descriptor, name, AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Where a link in this directory leads.
    fn target(&self, name: &Path) -> nix::Result<OsString> {
        readlinkat(&self.descriptor, name)
    }

    /// Opens a file or directory beneath for reading. With `opens_up`, the owner's rights are given back to what was made unreadable.
    fn readable(&self, name: &Path, flags: OFlag, opens_up: bool) -> nix::Result<OwnedFd> {
        // `O_NONBLOCK`, so that nothing holds us that was put in a file's place.
        let flags = flags | OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        match self.beneath(name, flags) {
            Err(Errno::EACCES) if opens_up => {
                if name.as_os_str().is_empty() {
                    open_up(&self.descriptor)?;
                } else {
                    open_up(&self.beneath(name, OFlag::O_PATH | OFlag::O_NOFOLLOW)?)?;
                }
                self.beneath(name, flags)
            }
            opened => opened,
        }
    }

    /// The names in this directory, sorted, but not more than `limit`.
    fn names(&self, limit: usize, opens_up: bool) -> nix::Result<Vec<OsString>> {
        let listed = self.readable(Path::new(""), OFlag::O_DIRECTORY, opens_up)?;
        let mut names = Vec::new();
        for entry in nix::dir::Dir::from_fd(listed)?.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
            if names.len() > limit {
                return Err(Errno::E2BIG);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Opens a regular file in this directory.
    fn file(&self, name: &Path, opens_up: bool) -> nix::Result<File> {
        Ok(self.readable(name, OFlag::empty(), opens_up)?.into())
    }
}

/// Gives the owner the right to read and search what is held open.
fn open_up(held: &OwnedFd) -> nix::Result<()> {
    let status = fstat(held)?;
    let mode = Mode::from_bits_truncate(status.st_mode & 0o777 | 0o500);
    // The descriptor's own name leads to exactly what it stands for.
    let name = format!("/proc/self/fd/{}", held.as_raw_fd());
    fchmodat(AT_FDCWD, name.as_str(), mode, FchmodatFlags::FollowSymlink)
}

impl AsFd for Folder {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What a mode says that a file is.
fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

/// The same in words.
fn kind_name(kind: SFlag) -> &'static str {
    match kind {
        SFlag::S_IFREG => "a file",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFIFO => "a named pipe",
        SFlag::S_IFSOCK => "a socket",
        _ => "a device",
    }
}

#[cfg(test)]
mod path_tests;
#[cfg(test)]
mod tests;
