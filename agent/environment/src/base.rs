//! Bases.

use std::path::{Path, PathBuf};

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
