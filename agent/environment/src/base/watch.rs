//! What tells, without a look at every file, that a base has not changed: the status of its directories and of a few files.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use super::walk::{self, Directory, Status};

/// What package managers write whenever they change something: of Debian, RPM, Arch and Alpine.
const PACKAGE_DATABASES: [&str; 4] =
    ["/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite", "/var/lib/pacman/local", "/lib/apk/db/installed"];
/// Paths that a thread takes at one time.
const BATCH: usize = 256;

/// What a path was like; all zeros for one that is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) status: Status,
    pub(super) device: u64,
}

impl Witness {
    fn look(path: &Path) -> Self {
        let found = fs::symlink_metadata(path);
        found.map_or(Self::default(), |metadata| Self { status: Status::from(&metadata), device: metadata.dev() })
    }
}

/// A path that is looked at every time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) path: Vec<u8>,
    pub(super) witness: Witness,
    /// Whether a later change can't have fallen into the same tick of the file system's clock.
    pub(super) is_old: bool,
}

/// What has become of the watched paths. Ordered by how much must be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// Some are different: files in directories that changed must be looked at.
    Some,
    /// Packages were changed or another file system is shown: every file must be looked at.
    Everything,
}

/// What is beside the base itself: `missing` are roots that are not there. To be asked for before the base is looked at.
pub(super) fn beside(missing: &[PathBuf]) -> Vec<Watched> {
    let missing = missing.iter().map(|path| (path.as_path(), Witness::default()));
    let databases = PACKAGE_DATABASES.map(Path::new).map(|path| (path, Witness::look(path)));
    let watched =
        |(path, witness): (&Path, _)| Watched { path: path.as_os_str().as_bytes().to_vec(), witness, is_old: true };
    missing.chain(databases).map(watched).collect()
}

/// The paths of the base to watch, with what they were like when they were looked at.
pub(super) fn watched(directories: &[Directory]) -> Vec<Watched> {
    let mut watched = Vec::new();
    for directory in directories {
        let path = Path::new(OsStr::from_bytes(&directory.path));
        let is_root = directory.path.is_empty();
        for entry in &directory.entries {
            let Some(device) = entry.device else { continue };
            if is_root || walk::is_watched(path, &entry.status, entry.is_old) {
                watched.push(Watched {
                    path: path.join(OsStr::from_bytes(&entry.name)).into_os_string().into_encoded_bytes(),
                    witness: Witness { status: entry.status, device },
                    is_old: entry.is_old,
                });
            }
        }
    }
    watched
}

/// Looks at every watched path, on as many threads as there are processors.
pub(super) fn check(watched: &[Watched]) -> Change {
    let next = AtomicUsize::new(0);
    let worst = AtomicU8::new(Change::None as u8);
    let work = || {
        while worst.load(Ordering::Relaxed) != Change::Everything as u8 {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(rest) = watched.get(start..).filter(|rest| !rest.is_empty()) else { return };
            let change = rest.iter().take(BATCH).map(compare).max().unwrap_or(Change::None);
            worst.fetch_max(change as u8, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..walk::threads() {
            scope.spawn(work);
        }
        work();
    });
    match worst.into_inner() {
        0 => Change::None,
        1 => Change::Some,
        _ => Change::Everything,
    }
}

fn compare(watched: &Watched) -> Change {
    let path = Path::new(OsStr::from_bytes(&watched.path));
    let now = Witness::look(path);
    let then = watched.witness;
    let is_there = now != Witness::default() && then != Witness::default();
    if now == then && watched.is_old {
        Change::None
    } else if (is_there && now.device != then.device) || PACKAGE_DATABASES.iter().any(|known| Path::new(known) == path)
    {
        Change::Everything
    } else {
        Change::Some
    }
}
