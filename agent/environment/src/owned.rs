//! Directories that die with their process, at the latest when the next one starts.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::docker::unmount_beneath;

/// A locked directory, removed when dropped. The lock tells other processes that the owner lives.
#[derive(Debug)]
pub(crate) struct OwnedDirectory {
    path: PathBuf,
    is_kept: bool,
    _lock: File,
}

impl OwnedDirectory {
    /// Makes a new directory in `parent` and removes those with the same prefix whose owners are dead.
    pub(crate) fn create(parent: &Path, prefix: &str) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(parent)?;
        remove_leftovers(parent, prefix)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{prefix}{}-{number}", std::process::id()));
        DirBuilder::new().mode(0o755).create(&path)?;
        let lock = File::open(&path)?;
        lock.lock()?;
        Ok(Self { path, is_kept: false, _lock: lock })
    }

    /// Gives it another name, under which it stays. Fails when there is something with that name.
    pub(crate) fn keep_as(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.is_kept = true;
        Ok(())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnedDirectory {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Err(error) = remove_tree(&self.path) {
            tracing::warn!(%error, directory = %self.path.display(), "cannot remove a directory");
        }
    }
}

/// A directory that any number of processes use and none changes. Removed when it is replaced by another and nobody uses it.
#[derive(Debug)]
pub(crate) struct SharedDirectory {
    path: PathBuf,
    _lock: File,
}

impl SharedDirectory {
    /// The directory with this name in `parent`, whose names all begin with `prefix`; when there is none, it is made by `fill` and then
    /// those of other names that nobody uses are removed. Its name must change with what is in it.
    pub(crate) fn open(
        parent: &Path,
        prefix: &str,
        name: &str,
        fill: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<Self> {
        let path = parent.join(format!("{prefix}{name}"));
        loop {
            if let Some(lock) = lock_shared(&path)? {
                return Ok(Self { path, _lock: lock });
            }
            let making = OwnedDirectory::create(parent, &format!("making-{prefix}"))?;
            fill(making.path())?;
            match making.keep_as(&path) {
                Ok(()) => remove_unused(parent, prefix, &path)?,
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Locks a directory against its removal; `None` when there is none.
fn lock_shared(path: &Path) -> io::Result<Option<File>> {
    let lock = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    lock.lock_shared()?;
    // It may have been removed before it was locked.
    let ours = lock.metadata()?;
    let is_there = fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
    Ok(is_there.then_some(lock))
}

/// Removes the directories that nobody has locked, first from sight, so that a half of one is never found.
fn remove_unused(parent: &Path, prefix: &str, but: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let path = entry?.path();
        let is_other = path.file_name().is_some_and(|name| name.as_bytes().starts_with(prefix.as_bytes()));
        if path == but || !is_other {
            continue;
        }
        let Ok(directory) = File::open(&path) else { continue };
        if directory.try_lock().is_ok() {
            let trash = OwnedDirectory::create(parent, &format!("removing-{prefix}"))?;
            fs::rename(&path, trash.path().join("unused"))?;
        }
    }
    Ok(())
}

fn remove_leftovers(parent: &Path, prefix: &str) -> io::Result<()> {
    let own = format!("{prefix}{}-", std::process::id());
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_bytes().starts_with(prefix.as_bytes()) || name.as_bytes().starts_with(own.as_bytes()) {
            continue;
        }
        let Ok(directory) = File::open(entry.path()) else { continue };
        match directory.try_lock() {
            Ok(()) => remove_mounted(&entry.path())?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Removes a directory in which a dead owner may have mounted something.
fn remove_mounted(path: &Path) -> io::Result<()> {
    unmount_beneath(path)?;
    remove_tree(path)
}

/// What a dead owner has left; nobody else takes it over meanwhile.
#[derive(Debug)]
pub(crate) struct Abandoned {
    path: PathBuf,
    /// Nothing when the directory itself is gone.
    lock: Option<File>,
}

impl Abandoned {
    /// Removes the directory with everything that is mounted in it.
    pub(crate) fn remove(self) -> io::Result<()> {
        match self.lock {
            Some(_lock) => remove_mounted(&self.path),
            None => Ok(()),
        }
    }
}

/// Whether the owner of a directory is dead, whose name begins with `prefix` and which only root may have made. Somebody else may have written the path
/// down: what does not look like such a directory is nobody's, and one whose place is not seen from here is alive.
pub(crate) fn abandoned(path: &Path, prefix: &str) -> io::Result<Option<Abandoned>> {
    let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
    let is_clean = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let parent = path.parent().filter(|parent| path.is_absolute() && is_clean && parent.is_dir());
    if parent.is_none() || !name.starts_with(prefix.as_bytes()) {
        return Ok(None);
    }
    let found = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY).open(path);
    let lock = match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Some(Abandoned { path: path.to_path_buf(), lock: None }));
        }
        opened => opened?,
    };
    if lock.metadata()?.uid() != nix::unistd::geteuid().as_raw() {
        return Ok(None);
    }
    match lock.try_lock() {
        Ok(()) => Ok(Some(Abandoned { path: path.to_path_buf(), lock: Some(lock) })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes a directory with everything in it, directories without write permission too. Follows no link.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_directories(path)?;
            fs::remove_dir_all(path)
        }
        result => result,
    }
}

fn open_directories(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, PermissionsExt::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(parent: &Path, name: &str) -> SharedDirectory {
        let fill = |directory: &Path| fs::write(directory.join("file"), name);
        SharedDirectory::open(parent, "shared-", name, fill).expect("a directory")
    }

    fn names(parent: &Path) -> Vec<String> {
        let entries = fs::read_dir(parent).expect("the directory");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_shared_is_made_once_and_stays() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let first = open(parent.path(), "one");
        let never = |_: &Path| Err(io::Error::other("it is there"));
        let second = SharedDirectory::open(parent.path(), "shared-", "one", never).expect("the same");
        assert_eq!(first.path(), second.path());
        drop((first, second));
        assert_eq!(names(parent.path()), ["shared-one"]);
    }

    #[test]
    fn what_nobody_uses_is_removed_when_another_is_made() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        drop(open(parent.path(), "unused"));
        let used = open(parent.path(), "used");
        assert_eq!(names(parent.path()), ["shared-used"]);
        let _newer = open(parent.path(), "newer");
        assert_eq!(names(parent.path()), ["shared-newer", "shared-used"]);
        assert_eq!(fs::read_to_string(used.path().join("file")).expect("it is whole"), "used");
    }

    #[test]
    fn a_directory_that_could_not_be_filled_is_not_left() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let fail = |_: &Path| Err(io::Error::other("no"));
        SharedDirectory::open(parent.path(), "shared-", "one", fail).expect_err("it can't be filled");
        assert!(names(parent.path()).is_empty());
    }

    #[test]
    fn who_can_take_the_lock_may_remove() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let owned = OwnedDirectory::create(parent.path(), "docker-").expect("a directory");
        let path = owned.path().to_path_buf();
        assert!(abandoned(&path, "docker-").expect("it can be looked at").is_none(), "its owner lives");
        drop(owned);
        assert!(abandoned(&path, "docker-").expect("it can be looked at").is_some(), "it is gone");
        fs::create_dir(&path).expect("ours");
        fs::write(path.join("file"), "").expect("ours");
        assert!(abandoned(&path, "other-").expect("it can be looked at").is_none(), "that is no such directory");
        let left = abandoned(&path, "docker-").expect("it can be looked at").expect("nobody holds it");
        assert!(abandoned(&path, "docker-").expect("it can be looked at").is_none(), "it is being removed");
        left.remove().expect("ours");
        assert!(!path.exists());
        let elsewhere = parent.path().join("not seen from here/docker-1-0");
        assert!(abandoned(&elsewhere, "docker-").expect("it can be looked at").is_none());
        let odd = parent.path().join("../docker-1-0");
        assert!(abandoned(&odd, "docker-").expect("it can be looked at").is_none());
    }

    #[test]
    fn several_may_make_it_at_the_same_time() {
        let parent = tempfile::tempdir().expect("a temporary directory");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let name = if number % 2 == 0 { "even" } else { "odd" };
                let parent = parent.path();
                scope.spawn(move || {
                    for _ in 0..20 {
                        let shared = open(parent, name);
                        assert_eq!(fs::read_to_string(shared.path().join("file")).expect("it is whole"), name);
                    }
                });
            }
        });
        assert!(names(parent.path()).iter().all(|name| name.starts_with("shared-")));
    }
}
