//! Services: programs that tests talk to, started before them in a network that both share.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::platform::EngineImage;
use crate::spec::{CommandSpec, EnvironmentLimits, Layer};

/// A program that tests talk to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceSpec {
    /// Unique in its environment.
    pub name: String,
    /// The program.
    pub command: CommandSpec,
    /// Whether it sees the target's base, or its Docker image; one that has an image of its own does not.
    pub with_base: bool,
    /// A Docker image of its own, for containers; an image of the fleet's is its lowest layer.
    pub image: Option<EngineImage>,
    /// What it sees above the base; writable to it, never changed by it.
    pub layers: Vec<Layer>,
    /// A program and its arguments that makes the data, once for each content of this service; empty when nothing has to be made.
    pub setup: Vec<String>,
    /// The absolute path of the directory in which [`Self::setup`] leaves data. Not empty when `setup` is not.
    pub data: String,
    /// When it is ready.
    pub ready: Probe,
    /// How long it may take until then.
    pub deadline: Duration,
    /// The pause between two probes.
    pub interval: Duration,
    /// Names of services that are ready before this one is started; all of them come earlier in the list.
    pub after: Vec<String>,
    /// How each shard gets its own.
    pub clone: CloneMode,
    /// Variables that tests see, with placeholders: see [`Self::expand`].
    pub export: Vec<(String, String)>,
    /// Bounds on its environment.
    pub limits: EnvironmentLimits,
}

/// How a service is found to be ready.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// It accepts a connection to this port of the loopback.
    Tcp(u16),
    /// It answers `GET` with a status from 200 to 399.
    Http {
        /// The port of the loopback.
        port: u16,
        /// With its first slash.
        path: String,
    },
    /// A program in the same network exits with 0: it and its arguments.
    Exec(Vec<String>),
    /// It writes a line that contains this.
    Log(String),
}

impl Probe {
    /// The port that it looks at, if it looks at one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(port) | Self::Http { port, .. } => Some(*port),
            Self::Exec(_) | Self::Log(_) => None,
        }
    }
}

/// How a shard, or a case that runs alone, gets a service of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloneMode {
    /// It does not: what one leaves the next one sees.
    #[default]
    None,
    /// PostgreSQL: a new database of the running server, made from `template1`.
    TemplateDatabase,
    /// The service is started anew over its first data, which it sees as if nobody had written there.
    CopyOnWrite,
}

impl CloneMode {
    /// The name used in configuration and keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TemplateDatabase => "template-database",
            Self::CopyOnWrite => "copy-on-write",
        }
    }
}

/// The database that a service has without a clone.
pub const DATABASE_DEFAULT: &str = "postgres";
/// Where every service is for its tests.
pub const SERVICE_HOST: &str = "127.0.0.1";

impl ServiceSpec {
    /// An exported value with `{host}`, `{port}` and `{database}` replaced: the loopback, the port of the probe, and the clone's name.
    pub fn expand(&self, value: &str, database: &str) -> String {
        use alloc::string::ToString;
        let port = self.ready.port().map(|port| port.to_string()).unwrap_or_default();
        value.replace("{host}", SERVICE_HOST).replace("{port}", &port).replace("{database}", database)
    }
}
