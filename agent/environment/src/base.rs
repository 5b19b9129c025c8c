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
//! The first identification reads every file. Later ones read the status of every file (`statx`) and read a file again only when its size,
//! modification time, change time or inode number differ from what they were when it was last read. So this is trusted: that the kernel
//! sets the change time whenever contents change (no program can set it back without changing the clock or the disk beneath the file
//! system). A file whose change time is younger than two seconds when it is read is not remembered, because a later change could fall into
//! the same tick. The cache file ends with a hash of itself; one that is damaged is as good as none.
//! [`HostBase::verify_full`] reads everything again and trusts nothing.

mod cache;
mod walk;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use muster_model::platform::Base;
use muster_model::{Digest, DigestFunction};

use self::cache::Cache;

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
    /// The stat cache could not be written.
    #[error("cannot write the base's stat cache {}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
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
    /// Files, directories and links that were looked at.
    pub entries: u64,
    /// Bytes of files that had to be read because the stat cache did not know them.
    pub read_bytes: u64,
}

impl HostBase {
    /// Finds what the base is, with the help of the stat cache. Blocks; hundreds of milliseconds when little has changed, as long as it
    /// takes to read everything when there is no cache.
    ///
    /// # Errors
    ///
    /// What could not be read or written.
    pub fn identify(config: &BaseConfig) -> Result<Self, BaseError> {
        let path = config.cache_path();
        let cache = fs::read(&path).ok().and_then(Cache::parse).unwrap_or_default();
        let (base, records, is_changed) = look(config, &cache)?;
        if is_changed {
            let bytes = cache::serialize(&records);
            cache::replace(&path, &bytes).map_err(|source| BaseError::Write { path, source })?;
        }
        Ok(base)
    }

    /// Reads every file of the base again and tells whether the digest still holds.
    ///
    /// # Errors
    ///
    /// What could not be read.
    pub fn verify_full(&self, config: &BaseConfig) -> Result<bool, BaseError> {
        let (base, ..) = look(config, &Cache::default())?;
        Ok(base.digest == self.digest)
    }

    /// As agents offer it.
    pub fn base(&self) -> Base {
        Base { name: self.name.clone(), digest: self.digest }
    }
}

fn look(config: &BaseConfig, cache: &Cache) -> Result<(HostBase, Vec<walk::Directory>, bool), BaseError> {
    let started = Instant::now();
    let mut roots = config.roots.clone();
    roots.sort();
    roots.dedup();
    if let Some(root) = roots.iter().find(|root| !root.is_absolute()) {
        return Err(BaseError::Relative(root.clone()));
    }
    roots.retain(|root| fs::symlink_metadata(root).is_ok());
    let mut directories = walk::walk(&roots, cache)?;
    directories.sort_unstable_by(|left, right| left.path.cmp(&right.path));
    let mut hasher = blake3::Hasher::new();
    for directory in &directories {
        hasher.update(&(directory.path.len() as u64).to_le_bytes());
        hasher.update(&directory.path);
        hasher.update(&directory.digest);
    }
    let entries = directories.iter().map(|directory| directory.entries.len() as u64).sum();
    let read_bytes = directories.iter().map(|directory| directory.read_bytes).sum();
    let is_changed = directories.iter().any(|directory| directory.is_changed) || cache.len() != directories.len();
    let digest =
        Digest { function: DigestFunction::Blake3, hash: *hasher.finalize().as_bytes(), size_bytes: hasher.count() };
    let base = HostBase { name: name(), digest, roots, entries, read_bytes };
    tracing::debug!(name = base.name, entries, read_bytes, elapsed = ?started.elapsed(), "looked at the base");
    Ok((base, directories, is_changed))
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

/// What a base is made of and where its stat cache lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseConfig {
    /// A directory for the stat cache; made when missing.
    pub cache_dir: PathBuf,
    /// Absolute paths of the host, directories, files and links, that the base shows; missing ones are left out.
    pub roots: Vec<PathBuf>,
}

impl Default for BaseConfig {
    fn default() -> Self {
        Self {
            cache_dir: std::env::temp_dir().join("muster-base"),
            roots: ROOTS_DEFAULT.iter().map(PathBuf::from).collect(),
        }
    }
}

impl BaseConfig {
    fn cache_path(&self) -> PathBuf {
        self.cache_dir.join("base-status")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn tree() -> (tempfile::TempDir, BaseConfig) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("a/b")).expect("directories");
        fs::write(root.join("a/file"), "one").expect("a file");
        fs::write(root.join("a/b/other"), "two").expect("a file");
        symlink("a/file", root.join("link")).expect("a link");
        let config = BaseConfig { cache_dir: directory.path().join("cache"), roots: vec![root] };
        (directory, config)
    }

    fn digest(config: &BaseConfig) -> Digest {
        HostBase::identify(config).expect("a base").digest
    }

    #[test]
    fn a_base_is_named_after_the_system() {
        let arch = std::env::consts::ARCH;
        assert_eq!(name_from("ID=debian\nVERSION_ID=\"12\"\n"), format!("debian-12-{arch}"));
        assert_eq!(name_from("NAME=x\nID=arch\n"), format!("arch-{arch}"));
        assert_eq!(name_from(""), format!("linux-{arch}"));
    }

    #[test]
    fn every_kind_of_change_changes_the_digest_and_nothing_else_does() {
        let (_directory, config) = tree();
        let root = config.roots[0].clone();
        let first = digest(&config);
        assert_eq!(digest(&config), first);
        fs::write(root.join("a/file"), "ONE").expect("a file");
        let changed = digest(&config);
        assert_ne!(changed, first, "same size, other contents");
        fs::set_permissions(root.join("a/b/other"), PermissionsExt::from_mode(0o755)).expect("ours");
        let mode = digest(&config);
        assert_ne!(mode, changed, "another mode");
        fs::remove_file(root.join("link")).expect("ours");
        symlink("a/b", root.join("link")).expect("a link");
        let link = digest(&config);
        assert_ne!(link, mode, "another target");
        fs::rename(root.join("a/b/other"), root.join("a/b/renamed")).expect("ours");
        assert_ne!(digest(&config), link, "another name");
        fs::rename(root.join("a/b/renamed"), root.join("a/b/other")).expect("ours");
        assert_eq!(digest(&config), link, "the same again");
    }

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let (_directory, config) = tree();
        assert_eq!(HostBase::identify(&config).expect("a base").read_bytes, 6);
        std::thread::sleep(walk::YOUNG + std::time::Duration::from_millis(100));
        assert_eq!(HostBase::identify(&config).expect("a base").read_bytes, 6, "too young to be remembered");
        let base = HostBase::identify(&config).expect("a base");
        assert_eq!(base.read_bytes, 0);
        assert!(base.verify_full(&config).expect("readable"));
    }

    #[test]
    fn a_damaged_cache_is_as_good_as_none() {
        let (_directory, config) = tree();
        let first = digest(&config);
        let mut bytes = fs::read(config.cache_path()).expect("a cache");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        assert!(Cache::parse(bytes.clone()).is_none());
        assert!(Cache::parse(bytes[..middle].to_vec()).is_none());
        fs::write(config.cache_path(), bytes).expect("ours");
        assert_eq!(digest(&config), first);
    }
}
