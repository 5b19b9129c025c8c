//! What of the host is shown under an environment, by name and digest.
//!
//! The digest is over everything that the base shows and a program can see: for every path beneath the roots its type, its permission bits,
//! and a file's contents or a link's target, each directory's entries in order of their names, the directories in order of their paths
//! (BLAKE3 throughout). Times, owners and inode numbers are not in it, so that two hosts with the same packages have the same digest. The
//! contents of files and directories that others may not read are not in it either, because no program in a sandbox can read them; that
//! they are there is. Package databases are not asked: a list of what should be there says less than what is there.
//!
//! # What is trusted
//!
//! The first identification reads every file and remembers the digest, what each file was like, and what each directory was like. A later one
//! looks at the status (`statx`: mode, size, inode number, device, modification and change time) of
//!
//! - every directory, the roots themselves, and every file shown in `/etc`: when none is different, the remembered digest is the answer;
//! - the files in directories that are different, which are listed again;
//! - every file, when the package manager's database is different, another file system is shown somewhere, or the last such full look was
//!   [`BASE_FULL_CHECK_INTERVAL`] ago or more.
//!
//! A file is read again when its status is different. So this is trusted: that the kernel sets the change time whenever contents change (no
//! program can set it back without changing the clock or the disk beneath the file system); and, for at most that interval, that nobody
//! changes a file outside `/etc` in place, leaving its directory as it was. Only the machine's operator can write beneath the other roots,
//! and package managers put a new file beside the old one and rename it, which changes the directory. An operator who has edited a file
//! beneath `/usr` by hand removes the remembered state, or waits.
//!
//! A path whose change time is younger than two seconds when it is looked at is not believed the next time, because a later change could
//! fall into the same tick. The remembered state is believed only when it belongs to this user, nobody else may write it, and it matches the
//! hash that it carries. [`HostBase::verify_full`] reads everything again and trusts nothing.

mod cache;
mod walk;
mod watch;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use muster_model::limits::BASE_FULL_CHECK_INTERVAL;
use muster_model::platform::Base;
use muster_model::{Digest, DigestFunction};

use self::cache::{Cache, Opened, Summary};
use self::walk::Depth;
use self::watch::Change;

/// Why a base could not be identified.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// A directory or file could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A root is not absolute.
    #[error("the base's root {} is not an absolute path", .0.display())]
    Relative(PathBuf),
}

/// The host's own userland as a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostBase {
    /// For example `debian-12-x86_64`: identifier and version of `os-release(5)` and the architecture.
    pub name: String,
    /// Over everything it shows; see the [module](self).
    pub digest: Digest,
    /// The roots that this host has, sorted.
    pub roots: Vec<PathBuf>,
    /// Files, directories and links in it.
    pub entries: u64,
    /// Bytes of files that had to be read because what was remembered of them did not hold.
    pub read_bytes: u64,
}

impl HostBase {
    /// Finds what the base is, with the help of what is remembered; see the [module](self) for how far that is trusted. Blocks: tens of
    /// milliseconds when nothing has changed, as long as it takes to read everything when nothing is remembered. What is found is remembered
    /// for the next time; when it can't be written, it is found anew then.
    ///
    /// # Errors
    ///
    /// What could not be read.
    pub fn identify(config: &BaseConfig) -> Result<Self, BaseError> {
        let started = Instant::now();
        let roots = Roots::find(config)?;
        let path = config.cache_path();
        let now = nanoseconds_now();
        let remembered = Opened::open(&path);
        let change = remembered.as_ref().map_or(Change::Everything, |file| {
            let age = now.checked_sub(file.summary.full_nanoseconds);
            // A time in the future says that the clock was set back.
            let is_due = age.is_none_or(|age| u128::from(age) >= BASE_FULL_CHECK_INTERVAL.as_nanos());
            if is_due { Change::Everything } else { watch::check(&file.summary.watched) }
        });
        let base = match (remembered, change) {
            (Some(file), Change::None) => Self::new(roots, &file.summary, 0),
            (remembered, change) => {
                let known_full = remembered.as_ref().map_or(0, |file| file.summary.full_nanoseconds);
                let cache = remembered.and_then(Opened::read);
                let depth = if change == Change::Some && cache.is_some() { Depth::Directories } else { Depth::Full };
                let full = if depth == Depth::Full { now } else { known_full };
                let found = look(&roots, &cache.unwrap_or_default(), depth, full)?;
                if (found.is_changed || depth == Depth::Full)
                    && let Err(error) = cache::replace(&path, &cache::serialize(&found.summary, &found.directories))
                {
                    tracing::warn!(%error, path = %path.display(), "cannot remember the base");
                }
                Self::new(roots, &found.summary, found.read_bytes)
            }
        };
        let (entries, read_bytes) = (base.entries, base.read_bytes);
        tracing::debug!(name = base.name, entries, read_bytes, ?change, elapsed = ?started.elapsed(), "identified the base");
        Ok(base)
    }

    /// Reads every file of the base again and tells whether the digest still holds.
    ///
    /// # Errors
    ///
    /// What could not be read.
    pub fn verify_full(&self, config: &BaseConfig) -> Result<bool, BaseError> {
        let found = look(&Roots::find(config)?, &Cache::default(), Depth::Full, 0)?;
        Ok(found.summary.hash == self.digest.hash)
    }

    fn new(roots: Roots, summary: &Summary, read_bytes: u64) -> Self {
        let digest = Digest { function: DigestFunction::Blake3, hash: summary.hash, size_bytes: summary.hashed_bytes };
        Self { name: name(), digest, roots: roots.there, entries: summary.entries, read_bytes }
    }

    /// As agents offer it.
    pub fn base(&self) -> Base {
        Base { name: self.name.clone(), digest: self.digest }
    }
}

/// The configured roots, sorted.
struct Roots {
    there: Vec<PathBuf>,
    missing: Vec<PathBuf>,
}

impl Roots {
    fn find(config: &BaseConfig) -> Result<Self, BaseError> {
        let mut roots = config.roots.clone();
        roots.sort();
        roots.dedup();
        if let Some(root) = roots.iter().find(|root| !root.is_absolute()) {
            return Err(BaseError::Relative(root.clone()));
        }
        let (there, missing) = roots.into_iter().partition(|root| fs::symlink_metadata(root).is_ok());
        Ok(Self { there, missing })
    }
}

/// What a look at the files found.
struct Found {
    summary: Summary,
    directories: Vec<walk::Directory>,
    read_bytes: u64,
    is_changed: bool,
}

fn look(roots: &Roots, cache: &Cache, depth: Depth, full_nanoseconds: u64) -> Result<Found, BaseError> {
    let mut watched = watch::beside(&roots.missing);
    let mut directories = walk::walk(&roots.there, cache, depth)?;
    directories.sort_unstable_by(|left, right| left.path.cmp(&right.path));
    watched.extend(watch::watched(&directories));
    let mut hasher = blake3::Hasher::new();
    for directory in &directories {
        hasher.update(&(directory.path.len() as u64).to_le_bytes());
        hasher.update(&directory.path);
        hasher.update(&directory.digest);
    }
    let summary = Summary {
        full_nanoseconds,
        hash: *hasher.finalize().as_bytes(),
        hashed_bytes: hasher.count(),
        entries: directories.iter().map(|directory| directory.entries.len() as u64).sum(),
        watched,
    };
    let read_bytes = directories.iter().map(|directory| directory.read_bytes).sum();
    let is_changed = directories.iter().any(|directory| directory.is_changed) || cache.len() != directories.len();
    Ok(Found { summary, directories, read_bytes, is_changed })
}

/// Since 1970.
fn nanoseconds_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// From `os-release(5)`.
fn name() -> String {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    name_from(&text.unwrap_or_default())
}

fn name_from(os_release: &str) -> String {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
    };
    let mut name = value("ID").unwrap_or_else(|| "linux".into());
    for part in [value("VERSION_ID"), Some(std::env::consts::ARCH.into())].into_iter().flatten() {
        name.push('-');
        name.push_str(&part);
    }
    name
}

/// The roots of the host that a base shows unless its operator names others; those that a host lacks are left out.
pub const ROOTS_DEFAULT: [&str; 36] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/debian_version",
    "/etc/default/locale",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/java-17-openjdk",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/lsb-release",
    "/etc/magic",
    "/etc/mime.types",
    "/etc/networks",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/pki",
    "/etc/profile",
    "/etc/protocols",
    "/etc/rpc",
    "/etc/services",
    "/etc/ssl",
    "/etc/terminfo",
    "/etc/timezone",
    "/etc/xattr.conf",
];

/// Whether a path of `/etc` holds keys, which no base shows.
pub(crate) fn is_secret(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "private")
}

/// What a base is made of and where it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseConfig {
    /// A directory for what is remembered; made when missing. Any number of processes may use it at the same time.
    pub cache_dir: PathBuf,
    /// Absolute paths of the host, directories, files and links, that the base shows; missing ones are left out.
    pub roots: Vec<PathBuf>,
}

impl Default for BaseConfig {
    fn default() -> Self {
        Self { cache_dir: cache_directory(), roots: ROOTS_DEFAULT.iter().map(PathBuf::from).collect() }
    }
}

impl BaseConfig {
    /// Each choice of roots has a file of its own.
    fn cache_path(&self) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        for root in &self.roots {
            hasher.update(root.as_os_str().as_encoded_bytes());
            hasher.update(&[0]);
        }
        let hash = hasher.finalize().to_hex();
        self.cache_dir.join(format!("status-{}", hash.get(..16).unwrap_or_default()))
    }
}

/// One place for each user of a machine: `muster/base` in the user's cache directory (XDG Base Directory Specification), or a directory among
/// the temporary ones for users without a home.
fn cache_directory() -> PathBuf {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    caches.map_or_else(
        || std::env::temp_dir().join(format!("muster-base-{}", nix::unistd::geteuid())),
        |caches| caches.join("muster/base"),
    )
}

#[cfg(test)]
mod tests;
