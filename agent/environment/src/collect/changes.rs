//! What a program changed, as the upper directories of its overlays tell.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use muster_model::limits::{STRAYS_LOOKED_AT_MAX, STRAYS_TOLD_MAX};
use nix::dir::{Dir, Type};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;

/// The directory that holds the upper directories of a dead place's overlays, and what they lie over.
#[derive(Debug)]
pub(crate) struct Uppers {
    /// Held open; whatever is in the directories below was made by the program.
    pub(crate) scratch: OwnedFd,
    /// Where an overlay was shown, and the name of its upper directory.
    pub(crate) overlays: Vec<(PathBuf, String)>,
}

impl Uppers {
    /// Files, links and the like that the program made, changed, opened for writing or removed, but for those at or below `own`; directories
    /// do not count, because those above a changed file are there too. Sorted, and cut to [`STRAYS_TOLD_MAX`].
    pub(super) fn outside(&self, own: &[PathBuf]) -> Vec<PathBuf> {
        let mut search = Search { uppers: self, own, looked_at: 0, found: Vec::new() };
        for (mount_path, upper) in &self.overlays {
            search.descend(Path::new(upper), mount_path);
        }
        search.found.sort_unstable();
        search.found.truncate(STRAYS_TOLD_MAX);
        search.found
    }

    /// A directory below, following no link at all.
    fn open(&self, path: &Path) -> nix::Result<Dir> {
        let resolve =
            ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).mode(Mode::empty()).resolve(resolve);
        Dir::from_fd(openat2(self.scratch.as_fd(), path, how)?)
    }
}

struct Search<'a> {
    uppers: &'a Uppers,
    own: &'a [PathBuf],
    looked_at: usize,
    found: Vec<PathBuf>,
}

impl Search<'_> {
    /// Looks through a directory, level by level: the program decides how deep it goes, and no level holds a descriptor.
    fn descend(&mut self, upper: &Path, inside: &Path) {
        let mut waiting = vec![(upper.to_path_buf(), inside.to_path_buf())];
        while let Some((upper, inside)) = waiting.pop() {
            if self.own.iter().any(|own| inside.starts_with(own)) {
                continue;
            }
            // What the program made unreadable it wrote: the directory stands for what is in it.
            let Ok(mut directory) = self.uppers.open(&upper) else {
                self.found.push(inside);
                continue;
            };
            for entry in directory.iter().map_while(Result::ok) {
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                self.looked_at += 1;
                if self.looked_at > STRAYS_LOOKED_AT_MAX || self.found.len() > STRAYS_TOLD_MAX {
                    return;
                }
                let inside = inside.join(name);
                match entry.file_type() {
                    Some(Type::Directory) => waiting.push((upper.join(name), inside)),
                    _ if self.own.iter().any(|own| inside.starts_with(own)) => {}
                    _ => self.found.push(inside),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_lies_outside_is_told_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        for directory in ["root.upper/usr/share", "root.upper/tmp", "part-0.upper/deep/er", "elsewhere"] {
            fs::create_dir_all(place.path().join(directory)).unwrap();
        }
        for file in ["root.upper/usr/share/a", "root.upper/tmp/b", "part-0.upper/deep/er/c", "elsewhere/d"] {
            fs::write(place.path().join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("../elsewhere", place.path().join("root.upper/link")).unwrap();
        let uppers = Uppers {
            scratch: fs::File::open(place.path()).unwrap().into(),
            overlays: vec![("/".into(), "root.upper".into()), ("/opt/x".into(), "part-0.upper".into())],
        };
        let outside = |own: &[&str]| uppers.outside(&own.iter().map(PathBuf::from).collect::<Vec<_>>());
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(outside(&["/tmp"]), paths(&["/link", "/opt/x/deep/er/c", "/usr/share/a"]));
        assert_eq!(outside(&["/tmp", "/opt/x/deep", "/link", "/usr/share/a"]), paths(&[]));
    }
}
