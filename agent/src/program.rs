//! The program `muster-agent`: flags over a configuration file, and signals.

use std::path::PathBuf;

use muster_cache::StoreError;
use muster_environment::doctor::{self, Diagnosis};
use muster_environment::{BaseConfig, DockerConfig, SandboxConfig};
use muster_model::platform::{EnvironmentKind, Weakness};
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::data::file_error;
use crate::error_text::chain;
use crate::{Agent, AgentError, Config};

/// The coordinator that is asked for when none is named: one on this machine.
const COORDINATOR_DEFAULT: &str = "http://127.0.0.1:7420";

/// The flags. What is not given comes from the configuration file, and then from the default.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The coordinator's URL [default: http://127.0.0.1:7420]
    #[arg(long, value_name = "URL")]
    pub coordinator: Option<String>,
    /// Where the agent keeps its identity, reports and cache [default: muster-agent in $XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Attempts at one time [default: one for each processor]
    #[arg(long, value_name = "N")]
    pub slots: Option<u32>,
    /// Memory that attempts can set aside, with K, M, G or T for powers of 1024 [default: the machine's]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory: Option<u64>,
    /// A property that work can ask for; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// The agent's name, for people [default: the host's name]
    #[arg(long)]
    pub name: Option<String>,
    /// A kind of environment to offer; may be repeated [default: sandbox and host, as far as they work]
    #[arg(long = "environment", value_name = "KIND", value_parser = parse_environment)]
    pub environments: Vec<EnvironmentKind>,
    /// A wall that sandboxes may lack here, control-groups or landlock; may be repeated [default: none; see `muster agent doctor`]
    #[arg(long = "allow-without", value_name = "FEATURE", value_parser = parse_weakness)]
    pub allow_without: Vec<Weakness>,
    /// The socket of a Docker engine on this machine, whose containers are offered besides; whoever may use it is root there
    #[arg(long, value_name = "SOCKET", value_parser = parse_socket)]
    pub docker: Option<PathBuf>,
    /// Bytes of blobs to keep, with K, M, G or T for powers of 1024 [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub cache_size: Option<u64>,
    /// A TOML file with the same settings; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to log, as in `info` or `muster_agent=debug` [default: info]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
}

/// The configuration file; the keys are those of the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    coordinator: Option<String>,
    data: Option<PathBuf>,
    slots: Option<u32>,
    memory: Option<Size>,
    name: Option<String>,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    environments: Option<Vec<Kind>>,
    #[serde(default)]
    allow_without: Vec<Wall>,
    docker: Option<Socket>,
    cache_size: Option<Size>,
}

/// An [`EnvironmentKind`] as the file spells it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Kind(EnvironmentKind);

/// A [`Weakness`] as the file spells it.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Wall(Weakness);

impl TryFrom<String> for Wall {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_weakness(&text).map(Self)
    }
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_environment(&text).map(Self)
    }
}

/// A socket as the file spells it.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
struct Socket(PathBuf);

impl TryFrom<String> for Socket {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_socket(&text).map(Self)
    }
}

/// A size as the file spells it: a text with a unit, or a number of bytes.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "toml::Value")]
struct Size(u64);

impl TryFrom<toml::Value> for Size {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::String(text) => parse_size(&text).map(Self),
            toml::Value::Integer(bytes) => {
                u64::try_from(bytes).map(Self).map_err(|_| "must not be negative".to_owned())
            }
            _ => Err("must be a number of bytes or a text like \"10G\"".to_owned()),
        }
    }
}

/// Runs an agent until it has left: after the first SIGTERM or SIGINT it drains, after the second it stops at once.
///
/// # Errors
///
/// See [`AgentError`].
pub async fn run(arguments: Arguments) -> Result<(), AgentError> {
    let config = configure(arguments)?;
    let listen = |kind| signal(kind).map_err(file_error("listen for", "signals".as_ref()));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let coordinator = config.coordinator.clone();
    let mut asked = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let agent = tokio::select! {
        agent = Agent::start(config) => agent?,
        () = asked() => return Ok(()),
    };
    tracing::info!(agent = format!("{:016x}", agent.id().0), coordinator, "started");
    asked().await;
    tracing::info!("draining; a second signal stops at once");
    tokio::select! {
        () = agent.drain() => {}
        () = asked() => agent.stop().await,
    }
    Ok(())
}

/// Looks at what this machine can do for sandboxes, and makes one; then, if there is a socket, at what a Docker engine can do, and makes a container.
/// They may lack what is `allowed`.
pub async fn doctor(allowed: Vec<Weakness>, docker: Option<PathBuf>) -> Vec<Diagnosis> {
    let examined = tokio::task::spawn_blocking(move || {
        let shared = BaseConfig::default().cache_dir;
        let mut diagnoses = vec![doctor::examine(SandboxConfig::new(shared.join("sandbox")), allowed.clone())];
        diagnoses.extend(docker.map(|socket| {
            let places = shared.join("docker-doctor");
            doctor::examine_docker(DockerConfig::new(socket, places, shared.join("docker")), allowed)
        }));
        diagnoses
    });
    match examined.await {
        Ok(diagnoses) => diagnoses,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Writes the log to standard error, filtered as the flags say. Does nothing where a log was started before.
pub fn start_log(arguments: &Arguments) {
    let filter = arguments.log.as_deref().unwrap_or("info");
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    // An embedding program may have its own.
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A log that can't be written, on a disk that is full for example, must not end what it tells of.
    let _ = log.log_internal_errors(false).try_init();
}

/// The error as people read it: sentence, cause and hint, a line each.
pub fn explain(error: &AgentError) -> String {
    let hint = error.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    format!("error: {}\n{hint}", chain(error))
}

/// 2 where the command line, the configuration file or the data folder is wrong, 3 where the machine is.
pub fn exit_code(error: &AgentError) -> u8 {
    match error {
        AgentError::Configuration { .. } | AgentError::Value { .. } | AgentError::Coordinator { .. } => 2,
        AgentError::InUse(_)
        | AgentError::Cache { source: StoreError::InUse { .. } | StoreError::Layout { .. }, .. } => 2,
        _ => 3,
    }
}

fn configure(arguments: Arguments) -> Result<Config, AgentError> {
    let file = match &arguments.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(file_error("read", path))?;
            parse_file(path, &text)?
        }
        None => File::default(),
    };
    let coordinator = arguments.coordinator.or(file.coordinator);
    let data = arguments.data.or(file.data).map_or_else(default_data, Ok)?;
    let mut config = Config::new(coordinator.unwrap_or_else(|| COORDINATOR_DEFAULT.to_owned()), data);
    config.slots = arguments.slots.or(file.slots).unwrap_or(config.slots);
    config.memory_bytes = arguments.memory.or(file.memory.map(|size| size.0)).unwrap_or(config.memory_bytes);
    config.name = arguments.name.or(file.name).unwrap_or(config.name);
    for (key, value) in file.labels.into_iter().chain(arguments.labels) {
        config.labels.set(key, value);
    }
    let named = file.environments.unwrap_or_default().into_iter().map(|kind| kind.0);
    let named = if arguments.environments.is_empty() { named.collect() } else { arguments.environments };
    if !named.is_empty() {
        config.environments = named;
    }
    config.allow_without = file.allow_without.into_iter().map(|wall| wall.0).chain(arguments.allow_without).collect();
    config.docker = arguments.docker.or(file.docker.map(|socket| socket.0));
    let size = arguments.cache_size.or(file.cache_size.map(|size| size.0));
    config.cache_bytes = size.unwrap_or(config.cache_bytes);
    config.check()?;
    Ok(config)
}

/// `$XDG_STATE_HOME/muster-agent`, or the place that the XDG Base Directory Specification gives for it.
fn default_data() -> Result<PathBuf, AgentError> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
    state
        .map(|state| state.join("muster-agent"))
        .ok_or_else(|| AgentError::Value { what: "data", why: "has no default because HOME is not set".to_owned() })
}

fn parse_file(path: &std::path::Path, text: &str) -> Result<File, AgentError> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        AgentError::Configuration {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: error.message().to_owned(),
        }
    })
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is written KEY=VALUE".to_owned()),
    }
}

fn parse_environment(text: &str) -> Result<EnvironmentKind, String> {
    let kinds = [EnvironmentKind::Sandbox, EnvironmentKind::Host];
    let found = kinds.into_iter().find(|kind| kind.name() == text);
    let there_are = "there are sandbox and host, and containers with --docker SOCKET";
    found.ok_or_else(|| format!("{text:?} is not a kind of environment; {there_are}"))
}

/// `unix:///path` as Docker writes it, or the path alone.
pub fn parse_socket(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text.strip_prefix("unix://").unwrap_or(text));
    let wrong = || format!("{text:?} is not a socket on this machine like unix:///var/run/docker.sock");
    path.is_absolute().then_some(path).ok_or_else(wrong)
}

/// A wall that sandboxes may lack.
///
/// # Errors
///
/// For a name of none, in words.
pub fn parse_weakness(text: &str) -> Result<Weakness, String> {
    let names = Weakness::ALL.map(Weakness::name).join(" and ");
    Weakness::from_name(text)
        .ok_or_else(|| format!("{text:?} is not a wall that sandboxes may lack; there are {names}"))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size like 10G");
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let exponent = match &text[digits.len()..] {
        "" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1024_u64.pow(exponent)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<File, String> {
        parse_file("agent.toml".as_ref(), text).map_err(|error| explain(&error))
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        let text = "slots = 3\nmemory = \"4G\"\nname = \"from-file\"\nenvironments = [\"host\"]\nallow-without = [\"landlock\"]\ncache-size = \"2G\"\n\
                    data = \"/data\"\n[labels]\nzone = \"a\"\nrack = \"1\"\n";
        std::fs::write(&path, text).unwrap();
        let arguments = Arguments {
            config: Some(path),
            slots: Some(5),
            labels: vec![("zone".to_owned(), "b".to_owned())],
            ..Arguments::default()
        };
        let config = configure(arguments).unwrap();
        assert_eq!((config.slots, config.name.as_str()), (5, "from-file"));
        assert_eq!(config.coordinator, COORDINATOR_DEFAULT);
        assert_eq!((config.cache_bytes, config.memory_bytes), (2 << 30, 4 << 30));
        assert_eq!(config.environments, [EnvironmentKind::Host]);
        assert_eq!(config.allow_without, [Weakness::Landlock]);
        let labels: Vec<_> = config.labels.iter().collect();
        assert_eq!(labels, [("rack", "1"), ("zone", "b")]);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_column() {
        insta::assert_snapshot!(file("slots = 2\n  slotz = 3\n").unwrap_err(), @r"
        error: agent.toml:2:3: unknown field `slotz`, expected one of `coordinator`, `data`, `slots`, `memory`, `name`, `labels`, `environments`, `allow-without`, `docker`, `cache-size`
        hint: the keys are the flags of muster-agent --help; labels are a table
        ");
        insta::assert_snapshot!(file("environments = [\"docker\"]\n").unwrap_err(), @r#"
        error: agent.toml:1:16: "docker" is not a kind of environment; there are sandbox and host, and containers with --docker SOCKET
        hint: the keys are the flags of muster-agent --help; labels are a table
        "#);
        insta::assert_snapshot!(file("cache-size = -1\n").unwrap_err(), @r"
        error: agent.toml:1:14: must not be negative
        hint: the keys are the flags of muster-agent --help; labels are a table
        ");
    }

    #[test]
    fn a_value_out_of_range_is_refused() {
        let arguments = Arguments { slots: Some(0), data: Some("/data".into()), ..Arguments::default() };
        insta::assert_snapshot!(explain(&configure(arguments).unwrap_err()), @r"
        error: slots must be from 1 to 1024, not 0
        hint: muster-agent --help
        ");
    }

    #[test]
    fn a_socket_is_a_path_on_this_machine() {
        assert_eq!(parse_socket("unix:///run/docker.sock"), Ok("/run/docker.sock".into()));
        assert_eq!(parse_socket("/run/docker.sock"), Ok("/run/docker.sock".into()));
        for wrong in ["", "tcp://127.0.0.1:2375", "docker.sock", "unix://docker.sock"] {
            assert!(parse_socket(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_size("10G"), Ok(10 << 30));
        assert_eq!(parse_size("512"), Ok(512));
        for wrong in ["", "G", "10GG", "1.5G", "-1", "99999999T"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
