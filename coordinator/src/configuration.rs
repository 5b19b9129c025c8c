//! How a coordinator is configured: defaults, one TOML file, flags over it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_model::limits;
use serde::Deserialize;

/// Where a coordinator listens unless it is told.
pub const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7420);
/// Where a coordinator keeps its data unless it is told.
pub const DATA_DEFAULT: &str = "muster-coordinator-data";

/// Who may store results of actions in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ActionCacheWrites {
    /// Every client, and the coordinator for what its agents made.
    #[default]
    Clients,
    /// Only the coordinator, for what its agents made.
    Coordinator,
}

/// A coordinator's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The folder of ledger and cache. Made when it is not there.
    pub data: PathBuf,
    /// Size of the cache, in bytes.
    pub cache_capacity_bytes: u64,
    /// How long a blob stays after the cache said that it is there.
    pub cache_lease_time: Duration,
    /// Who may store results of actions in the cache.
    pub action_cache_writes: ActionCacheWrites,
    /// Times and counts of the scheduler; tests shorten them.
    pub scheduler: muster_scheduler::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: LISTEN_DEFAULT,
            data: DATA_DEFAULT.into(),
            cache_capacity_bytes: limits::CACHE_BYTES_DEFAULT,
            cache_lease_time: limits::BLOB_LEASE_TIME,
            action_cache_writes: ActionCacheWrites::default(),
            scheduler: muster_scheduler::Config::default(),
        }
    }
}

/// The file: every key is optional, and an unknown one is an error.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationFile {
    /// Address and port to listen on. Default `127.0.0.1:7420`; port 0 takes a free one.
    pub listen: Option<SocketAddr>,
    /// Folder of ledger and cache. Default `muster-coordinator-data`, below the current directory.
    pub data: Option<PathBuf>,
    /// Size of the cache: bytes, or a number with `KiB`, `MiB`, `GiB` or `TiB`. Default `10GiB`.
    pub cache_size: Option<Size>,
    /// How long a blob stays after the cache said that it is there: seconds, or a number with `s`, `m`, `h` or `d`. Default `10m`.
    pub cache_lease: Option<LeaseTime>,
    /// Who may store results of actions in the cache: `clients` or `coordinator`. Default `clients`.
    pub action_cache_writes: Option<ActionCacheWrites>,
    /// What is logged to standard error, as in `RUST_LOG`. Default `info`.
    pub log: Option<String>,
}

/// A number of bytes, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "SizeText")]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum SizeText {
    Number(u64),
    Text(String),
}

impl TryFrom<SizeText> for Size {
    type Error = SizeError;

    fn try_from(text: SizeText) -> Result<Self, SizeError> {
        match text {
            SizeText::Number(bytes) => Ok(Self(bytes)),
            SizeText::Text(text) => text.parse(),
        }
    }
}

/// A text is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size such as 500MiB or 10GiB")]
pub struct SizeError(String);

impl std::str::FromStr for Size {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        const UNITS: [(&str, u64); 5] =
            [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("B", 1)];
        let unit = UNITS.iter().find(|(name, _)| text.ends_with(name));
        let (name, factor) = unit.copied().unwrap_or(("", 1));
        let number = text.strip_suffix(name).unwrap_or(text).trim();
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| SizeError(text.into()))
    }
}

/// How long what a cache says holds, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "LeaseText")]
pub struct LeaseTime(pub Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum LeaseText {
    Seconds(u64),
    Text(String),
}

impl TryFrom<LeaseText> for LeaseTime {
    type Error = LeaseTimeError;

    fn try_from(text: LeaseText) -> Result<Self, LeaseTimeError> {
        match text {
            LeaseText::Seconds(seconds) => seconds.to_string().parse(),
            LeaseText::Text(text) => text.parse(),
        }
    }
}

/// A text is not a time for leases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time between 1m and 30d, such as 10m or 12h")]
pub struct LeaseTimeError(String);

impl std::str::FromStr for LeaseTime {
    type Err = LeaseTimeError;

    fn from_str(text: &str) -> Result<Self, LeaseTimeError> {
        const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 24 * 3600)];
        let unit = UNITS.iter().find_map(|(name, factor)| Some((text.strip_suffix(*name)?, *factor)));
        let (number, factor) = unit.unwrap_or((text, 1));
        let seconds = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        let time = seconds.map(Duration::from_secs);
        let allowed = limits::BLOB_LEASE_TIME_MIN..=limits::BLOB_LEASE_TIME_MAX;
        time.filter(|time| allowed.contains(time)).map(Self).ok_or_else(|| LeaseTimeError(text.into()))
    }
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// The filter of the log can't be understood.
    #[error("{0:?} is not a log filter")]
    Log(String),
}

impl ConfigurationError {
    /// The next thing to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Read { .. } => "name a TOML file that exists with --config".into(),
            Self::Parse { .. } => {
                "the keys are listen, data, cache_size, cache_lease, action_cache_writes and log".into()
            }
            Self::Log(_) => "try --log info, or --log muster_coordinator=debug".into(),
        })
    }
}

impl ConfigurationFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// See [`ConfigurationError`]; what is wrong in the file is named with line and column.
    pub fn read(path: &Path) -> Result<Self, ConfigurationError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigurationError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let before = text.get(..start).unwrap_or(&text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            ConfigurationError::Parse {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message: error.message().to_owned(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ConfigurationFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("coordinator.toml");
        std::fs::write(&path, text).unwrap();
        let prefix = format!("{}:", path.display());
        ConfigurationFile::read(&path).map_err(|error| error.to_string().replace(&prefix, ""))
    }

    #[test]
    fn an_unknown_key_is_named_with_line_and_column() {
        let error = read("listen = \"127.0.0.1:1\"\n  cache_sise = 5\n").expect_err("a misspelt key");
        assert_eq!(
            error,
            "2:3: unknown field `cache_sise`, expected one of `listen`, `data`, `cache_size`, `cache_lease`, `action_cache_writes`, `log`"
        );
    }

    #[test]
    fn the_documented_file_says_the_defaults() {
        let documented = include_str!("../coordinator.toml");
        let keys: Vec<String> = documented
            .lines()
            .filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")))
            .map(Into::into)
            .collect();
        let file = read(&keys.join("\n")).unwrap();
        let defaults = Config::default();
        assert_eq!(file.listen, Some(defaults.listen));
        assert_eq!(file.data, Some(defaults.data));
        assert_eq!(file.cache_size, Some(Size(defaults.cache_capacity_bytes)));
        assert_eq!(file.cache_lease, Some(LeaseTime(defaults.cache_lease_time)));
        assert_eq!(file.action_cache_writes, Some(defaults.action_cache_writes));
        assert_eq!(file.log.as_deref(), Some(crate::program::LOG_DEFAULT));
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        assert_eq!("10GiB".parse(), Ok(Size(10 << 30)));
        assert_eq!("7".parse(), Ok(Size(7)));
        assert_eq!(read("cache_size = 12").unwrap().cache_size, Some(Size(12)));
        assert!("10 apples".parse::<Size>().is_err());
        assert!("99999999999TiB".parse::<Size>().is_err());
    }

    #[test]
    fn leases_are_seconds_or_have_a_unit_and_bounds() {
        let of = |text: &str| text.parse::<LeaseTime>().map(|time| time.0.as_secs());
        assert_eq!((of("90"), of("90s"), of("12h")), (Ok(90), Ok(90), Ok(12 * 3600)));
        assert_eq!(read("cache_lease = 600").unwrap().cache_lease, Some(LeaseTime(Duration::from_secs(600))));
        assert_eq!(read("cache_lease = \"30d\"").unwrap().cache_lease, Some(LeaseTime(limits::BLOB_LEASE_TIME_MAX)));
        for wrong in ["", "m", "59s", "0", "31d", "1.5h", "-1m", "10 apples", "18446744073709551615h"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            read("cache_lease = 5").unwrap_err(),
            "1:15: \"5\" is not a time between 1m and 30d, such as 10m or 12h"
        );
    }
}
