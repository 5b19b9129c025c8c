//! What an operator decides.

use std::path::PathBuf;

use muster_environment::base::HostBase;
use muster_model::limits;
use muster_model::platform::{EnvironmentKind, Properties, Weakness};

use crate::AgentError;

/// Everything that an agent is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The coordinator's URL, for example `http://127.0.0.1:7420`.
    pub coordinator: String,
    /// Where the agent keeps its identity, its spool and its cache; held by one agent at a time.
    pub data: PathBuf,
    /// Attempts at one time, from 1 to [`limits::SLOTS_PER_AGENT_MAX`].
    pub slots: u32,
    /// Memory that attempts can set aside, in bytes.
    pub memory_bytes: u64,
    /// For people.
    pub name: String,
    /// Offered besides `os`, `arch`, `hostname`, `OSFamily` and `ISA`, over which they win.
    pub labels: Properties,
    /// The kinds of environment to offer, as far as they work here.
    pub environments: Vec<EnvironmentKind>,
    /// What its sandboxes may lack; with anything else missing, the agent does not start.
    pub allow_without: Vec<Weakness>,
    /// The socket of a Docker engine on this machine, whose containers are offered besides.
    pub docker: Option<PathBuf>,
    /// Bytes of blobs to keep.
    pub cache_bytes: u64,
    /// The machine's base, if the embedding program has identified it; otherwise the agent does.
    pub base: Option<HostBase>,
    /// Where the files of the base are remembered; unless named, in one place for all agents of a user on a machine
    /// ([`BaseConfig::default`](muster_environment::BaseConfig::default)).
    pub base_cache: Option<PathBuf>,
}

impl Config {
    /// An agent with every default: as many slots as processors, named like its host.
    pub fn new(coordinator: impl Into<String>, data: impl Into<PathBuf>) -> Self {
        Self {
            coordinator: coordinator.into(),
            data: data.into(),
            slots: default_slots(),
            memory_bytes: machine_memory(),
            name: hostname(),
            labels: Properties::default(),
            environments: vec![EnvironmentKind::Sandbox, EnvironmentKind::Host],
            allow_without: Vec::new(),
            docker: None,
            cache_bytes: limits::CACHE_BYTES_DEFAULT,
            base: None,
            base_cache: None,
        }
    }

    /// Refuses what is out of range.
    pub(crate) fn check(&self) -> Result<(), AgentError> {
        let value = |what, why| Err(AgentError::Value { what, why });
        if self.slots == 0 || self.slots > limits::SLOTS_PER_AGENT_MAX {
            return value("slots", format!("must be from 1 to {}, not {}", limits::SLOTS_PER_AGENT_MAX, self.slots));
        }
        if self.name.is_empty() || self.name.len() > limits::NAME_BYTES_MAX {
            return value("name", format!("must have from 1 to {} bytes", limits::NAME_BYTES_MAX));
        }
        if self.environments.is_empty() {
            return value("environments", "must name at least one".to_owned());
        }
        Ok(())
    }

    /// The labels with those that every agent has.
    pub(crate) fn properties(&self) -> Properties {
        let mut properties = Properties::new([
            ("os".to_owned(), std::env::consts::OS.to_owned()),
            ("arch".to_owned(), std::env::consts::ARCH.to_owned()),
            ("hostname".to_owned(), hostname()),
            ("OSFamily".to_owned(), std::env::consts::OS.to_owned()),
            ("ISA".to_owned(), instruction_set().to_owned()),
        ]);
        for (key, value) in self.labels.iter() {
            properties.set(key.to_owned(), value.to_owned());
        }
        properties
    }
}

/// The machine's instruction set as the platform lexicon of the Remote Execution API names it.
fn instruction_set() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "arm-a64",
        other => other,
    }
}

/// One slot for each processor that this process may use.
fn default_slots() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(processors).unwrap_or(u32::MAX).min(limits::SLOTS_PER_AGENT_MAX)
}

/// The memory of this machine, in bytes (`proc_meminfo(5)`); 0 where that can't be read.
pub fn machine_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|total| total.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0).saturating_mul(1024)
}

/// The host's name, or `agent` on a host that has none.
fn hostname() -> String {
    match nix::unistd::gethostname() {
        Ok(name) if !name.is_empty() => name.to_string_lossy().into_owned(),
        _ => "agent".to_owned(),
    }
}
