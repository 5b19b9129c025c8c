//! What is to be run: a run of targets, each a command over a base and layers.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::Digest;
use crate::platform::{BaseRequest, EnvironmentKind, Requirements};
use crate::service::ServiceSpec;

/// The framework that knows how to list and run a target's cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameworkKind {
    /// A Rust test binary with the standard harness.
    Libtest,
    /// A program that is one case: its exit status is the verdict (`harness = false`, a doctest run).
    ExitCode,
    /// A pytest root.
    Pytest,
    /// Any program that takes a shard through Bazel's test-sharding variables and writes JUnit XML.
    Command,
}

impl FrameworkKind {
    /// The name used in keys, configuration and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Libtest => "libtest",
            Self::ExitCode => "exit-code",
            Self::Pytest => "pytest",
            Self::Command => "command",
        }
    }
}

/// A program to start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommandSpec {
    /// The program and its arguments; the program is an absolute path, or a name looked up in the environment's own `PATH`.
    pub arguments: Vec<String>,
    /// Exactly the variables that the program sees besides the environment's own defaults; sorted by name.
    pub environment: Vec<(String, String)>,
    /// An absolute path; writable.
    pub working_directory: String,
}

/// The modification time that files of layers show, since the Unix epoch: the beginning of the year 2000. Bytes are all that is content; a time of
/// an agent's own would be something that a case sees and that no key covers.
pub const LAYER_FILE_TIME: Duration = Duration::from_secs(946_684_800);

/// A directory tree in the content-addressed store, shown at a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Layer {
    /// The digest of the root `Directory` message (Remote Execution API, `Directory`).
    pub root: Digest,
    /// The absolute path that the root directory is shown at; `/` is allowed and usual.
    pub mount_path: String,
    /// What it holds, for people: `binary`, `libraries`, `package`, `data`, `interpreter`.
    pub purpose: String,
}

/// Which system calls a sandbox leaves to its programs. Part of every key: a program can see the difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Profile {
    /// What tests need.
    #[default]
    Strict,
    /// Besides that, what debuggers need: a program may look into its children, and load at fixed addresses.
    Debug,
}

impl Profile {
    /// The name used in configuration, keys and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Debug => "debug",
        }
    }

    /// Every system call that it leaves besides those of the strict one, by name. Each is in the key of a result made under it.
    pub fn differences(self) -> &'static [&'static str] {
        match self {
            Self::Strict => &[],
            Self::Debug => &[
                "kcmp",
                "personality(ADDR_NO_RANDOMIZE)",
                "pidfd_getfd",
                "process_vm_readv",
                "process_vm_writev",
                "ptrace",
            ],
        }
    }
}

/// Bounds on one environment. Zero means the agent's own default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EnvironmentLimits {
    /// Memory with its page cache and tmpfs, in bytes.
    pub memory_bytes: u64,
    /// Processes and threads at one time.
    pub processes: u32,
    /// Standard output and standard error together, in bytes.
    pub output_bytes: u64,
    /// The system calls that are left.
    pub profile: Profile,
}

/// Where a target departs from its run's [`RunPolicy`]; none of it is part of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TargetPolicy {
    /// Instead of [`RunPolicy::retries`].
    pub retries: Option<u32>,
    /// Instead of [`RunPolicy::case_timeout`].
    pub case_timeout: Option<Duration>,
    /// Only the cases whose names match ([`crate::pattern`]): the others are another target's, which is of the same program and takes other resources.
    pub only: Option<String>,
    /// None of the cases whose names match one of these.
    pub except: Vec<String>,
}

impl TargetPolicy {
    /// Whether a case is this target's.
    pub fn has(&self, case: &str) -> bool {
        let matches = |pattern: &String| crate::pattern::matches(pattern, case);
        self.only.as_ref().is_none_or(matches) && !self.except.iter().any(matches)
    }
}

/// A thing that holds cases: one test binary, one pytest root, one command.
///
/// Everything but [`Self::name`], [`Self::suite`] and [`Self::policy`] is part of the key: see [`crate::key`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TargetSpec {
    /// Unique in its run and stable over runs, for example `statrs (lib)`; history is kept under it.
    pub name: String,
    /// The suite it belongs to: `cargo`, `pytest`, or the name of a `[test.NAME]` table.
    pub suite: String,
    /// How its cases are listed and run.
    pub framework: FrameworkKind,
    /// The program, without the arguments that the framework adds.
    pub command: CommandSpec,
    /// Mounted in order, later ones above earlier ones.
    pub layers: Vec<Layer>,
    /// What an agent must offer.
    pub requirements: Requirements,
    /// Bounds on its environments.
    pub limits: EnvironmentLimits,
    /// For [`FrameworkKind::Command`]: how many shards the command is cut into; otherwise 0.
    pub shards: u32,
    /// Where it departs from the run's policy.
    pub policy: TargetPolicy,
    /// What its cases talk to, in an order in which each can be started.
    pub services: Vec<ServiceSpec>,
}

/// How cases share processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// The cases of a shard share one process; what goes wrong in company is run again alone, and that is remembered.
    #[default]
    Auto,
    /// Every case has a process, and an environment, of its own.
    Process,
}

/// How a run behaves; none of it is part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPolicy {
    /// How cases share processes.
    pub isolation: Isolation,
    /// How often a case that failed alone is tried again.
    pub retries: u32,
    /// The wall-clock time that one case may take.
    pub case_timeout: Duration,
    /// Cancel what has not started after the first final failure.
    pub fail_fast: bool,
    /// Take passed results of cases from the action cache; without this every case is executed.
    pub read_cache: bool,
    /// Allow results of `host` environments to be cached.
    pub cache_host_results: bool,
    /// Run ignored cases too.
    pub include_ignored: bool,
    /// Only the cases that failed when this target was last run.
    pub only_failed: bool,
    /// Discover and stop.
    pub list_only: bool,
    /// Substrings of which a case's name must contain one; empty means every case.
    pub filters: Vec<String>,
}

impl Default for RunPolicy {
    fn default() -> Self {
        Self {
            isolation: Isolation::Auto,
            retries: 0,
            case_timeout: crate::limits::CASE_TIMEOUT_DEFAULT,
            fail_fast: false,
            read_cache: true,
            cache_host_results: false,
            include_ignored: false,
            only_failed: false,
            list_only: false,
            filters: Vec::new(),
        }
    }
}

/// A run as a client submits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunSpec {
    /// The project's name, under which history is kept.
    pub project: String,
    /// What is to be run.
    pub targets: Vec<TargetSpec>,
    /// How.
    pub policy: RunPolicy,
}

impl TargetSpec {
    /// The wall-clock time that one of its cases may take in a run with `policy`.
    pub fn case_timeout(&self, policy: &RunPolicy) -> Duration {
        self.policy.case_timeout.unwrap_or(policy.case_timeout)
    }

    /// Whether its results may be cached at all under `policy`.
    pub fn is_cacheable(&self, policy: &RunPolicy) -> bool {
        self.requirements.environment != EnvironmentKind::Host || policy.cache_host_results
    }

    /// Whether the base is settled, so that the target may be keyed.
    pub fn is_pinned(&self) -> bool {
        !matches!(self.requirements.base, BaseRequest::Named(_))
    }
}
