//! Directories that die with their process, at the latest when the next one starts.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

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
            Ok(()) => remove_tree(&entry.path())?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
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
