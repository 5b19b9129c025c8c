//! `[environment.NAME]`: a kind of environment and the services in it.
//!
//! ```toml
//! [environment.db]
//! kind = "sandbox"                # or "docker"
//! image = "debian-12"             # a name, or a digest that `muster image import` printed
//!
//! [environment.db.service.postgres]
//! image = "postgres15"            # the service's own root file system; that of the environment unless it is said
//! command = ["/usr/lib/postgresql/15/bin/postgres", "-D", "/data"]
//! directory = "/data"             # what `setup` fills, and where both work
//! setup = ["/usr/lib/postgresql/15/bin/initdb", "-D", "/data"]
//! data = ["schema/*.sql"]         # files of the project that the service sees
//! ready = { tcp = 5432, deadline = "60s", interval = "10ms" }
//! after = ["other"]               # services that are ready before this one starts
//! clone = "template-database"     # or "copy-on-write" or "none"
//! export = { DATABASE_URL = "postgresql://muster@{host}:{port}/{database}" }
//! env = { LANG = "C.UTF-8" }
//! memory = "512MiB"
//! processes = 64
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use muster_model::image::is_image_name;
use muster_model::platform::{EngineImage, EnvironmentKind};
use muster_model::service::{CloneMode, Probe};
use muster_model::{Digest, DigestFunction, limits};

use super::{ImageReference, Key, ProjectError, Reader, Value};

/// One `[environment.NAME]` table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NamedEnvironment {
    /// `kind`.
    pub(crate) kind: EnvironmentKind,
    /// `image`.
    pub(crate) image: Option<ImageReference>,
    /// The `[environment.NAME.service.SERVICE]` tables, each after those that it waits for.
    pub(crate) services: Vec<ServiceSettings>,
}

/// One `[environment.NAME.service.SERVICE]` table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServiceSettings {
    /// SERVICE.
    pub(crate) name: String,
    /// `image`, or that of the environment.
    pub(crate) image: Option<ImageReference>,
    /// `command`; empty for that of the image.
    pub(crate) command: Vec<String>,
    /// `directory`; empty for none.
    pub(crate) directory: String,
    /// `setup`.
    pub(crate) setup: Vec<String>,
    /// `data`: globs, relative to the file's directory.
    pub(crate) data: Vec<String>,
    /// `ready`, without its times.
    pub(crate) ready: Probe,
    /// `ready.deadline`.
    pub(crate) deadline: Duration,
    /// `ready.interval`.
    pub(crate) interval: Duration,
    /// `after`.
    pub(crate) after: Vec<String>,
    /// `clone`.
    pub(crate) clone: CloneMode,
    /// `export`.
    pub(crate) export: BTreeMap<String, String>,
    /// `env`.
    pub(crate) environment_variables: BTreeMap<String, String>,
    /// `memory`, in bytes; 0 for the default.
    pub(crate) memory_bytes: u64,
    /// `processes`; 0 for the default.
    pub(crate) processes: u32,
}

const ENVIRONMENT_KEYS: [&str; 3] = ["kind", "image", "service"];
const SERVICE_KEYS: [&str; 12] = [
    "image",
    "command",
    "directory",
    "setup",
    "data",
    "ready",
    "after",
    "clone",
    "export",
    "env",
    "memory",
    "processes",
];
/// What users of other fleets ask for and no environment is given, the name of the rule, and the rule.
const REFUSED: [(&[&str], &str, &str); 6] = [
    (
        &["privileged", "cap_add", "capabilities", "security_opt", "sysctls"],
        "no-rights",
        "programs have no rights beyond an ordinary user's, and nothing gives them any",
    ),
    (
        &["network", "network_mode", "ports", "links"],
        "own-network",
        "an environment has a loopback of its own, nothing else",
    ),
    (
        &["pid", "ipc", "uts", "userns", "userns_mode", "cgroup", "cgroup_parent"],
        "own-namespaces",
        "none is the host's",
    ),
    (
        &["volumes", "binds", "mounts", "tmpfs", "volumes_from"],
        "own-files",
        "only the base, inputs and images are shown",
    ),
    (
        &["devices", "gpus", "device_cgroup_rules"],
        "no-devices",
        "only null, zero, full, random, urandom and terminals are there",
    ),
    (&["user", "group_add"], "own-user", "programs run as a user that owns nothing of the host's"),
];
const READY_KEYS: [&str; 6] = ["tcp", "http", "exec", "log", "deadline", "interval"];

impl Reader<'_> {
    /// The tables under `environment`, by name.
    pub(super) fn environments(&self, value: &Value<'_>) -> Result<BTreeMap<String, NamedEnvironment>, ProjectError> {
        let mut environments = BTreeMap::new();
        for (key, value) in self.table(value)? {
            let name = key.get_ref().to_string();
            if ["sandbox", "docker", "host"].contains(&name.as_str()) {
                let hint = format!("call it something else, as in [environment.{name}-with-services]");
                return Err(self.error(key.span(), format!("`{name}` is a kind of environment"), hint));
            }
            environments.insert(name, self.named_environment(value)?);
        }
        Ok(environments)
    }

    fn named_environment(&self, value: &Value<'_>) -> Result<NamedEnvironment, ProjectError> {
        let mut environment = NamedEnvironment::default();
        let mut services = Vec::new();
        let mut image = None;
        for (key, value) in self.table(value)? {
            match key.get_ref().as_ref() {
                "kind" => environment.kind = self.kind(value)?,
                "image" => {
                    environment.image = Some(self.image(value)?);
                    image = Some(key);
                }
                "service" => {
                    for (key, value) in self.table(value)? {
                        services.push((key, self.service(key, value)?));
                    }
                }
                other => {
                    if let Some((_, rule, reason)) = REFUSED.iter().find(|(names, ..)| names.contains(&other)) {
                        let message = format!("`{other}` is refused by the rule `{rule}`: {reason}");
                        let hint = "remove it; docs/security.md says what environments are given".to_owned();
                        return Err(self.error(key.span(), message, hint));
                    }
                    return Err(self.unknown(key, &ENVIRONMENT_KEYS));
                }
            }
        }
        if let (Some((key, _)), EnvironmentKind::Host) = (services.first(), environment.kind) {
            let message = "a bare host has no network for services of its own".to_owned();
            return Err(self.error(key.span(), message, "write kind = \"sandbox\"".to_owned()));
        }
        let shows_engines = |image: &Option<ImageReference>| matches!(image, Some(ImageReference::Engine(_)));
        if environment.kind != EnvironmentKind::Docker
            && let Some(key) = services
                .iter()
                .find(|(_, service)| shows_engines(&service.image))
                .map(|(key, _)| *key)
                .or(image.filter(|_| shows_engines(&environment.image)))
        {
            let message = "only containers show an image of a Docker engine".to_owned();
            let hint = "write kind = \"docker\", or import it: docker export CONTAINER, then muster image import";
            return Err(self.error(key.span(), message, hint.to_owned()));
        }
        if let Some(key) = image {
            if environment.kind == EnvironmentKind::Host {
                let message = "a bare host shows no image".to_owned();
                return Err(self.error(key.span(), message, "write kind = \"sandbox\"".to_owned()));
            }
            for (_, service) in &mut services {
                service.image = service.image.take().or_else(|| environment.image.clone());
            }
        }
        environment.services = self.ordered(services)?;
        Ok(environment)
    }

    fn image(&self, value: &Value<'_>) -> Result<ImageReference, ProjectError> {
        let text = value.get_ref().as_str().unwrap_or_default();
        if let Some(image) = EngineImage::parse(text) {
            return Ok(ImageReference::Engine(image));
        }
        if text.contains("sha256:") || text.contains('@') {
            return Err(self.expected(value, "an image by digest, \"sha256:HASH\" or \"NAME@sha256:HASH\""));
        }
        if is_image_name(text) {
            return Ok(ImageReference::Name(text.to_owned()));
        }
        let digest = text
            .strip_prefix("blake3:")
            .and_then(|text| text.split_once('/'))
            .and_then(|(hash, size)| Digest::parse(DigestFunction::Blake3, hash, size.parse().ok()?).ok());
        let expected = || self.expected(value, "the name of an image, or a digest that `muster image import` printed");
        digest.map(ImageReference::Digest).ok_or_else(expected)
    }

    /// Each after those that it waits for.
    fn ordered(&self, mut waiting: Vec<(&Key<'_>, ServiceSettings)>) -> Result<Vec<ServiceSettings>, ProjectError> {
        let mut ordered: Vec<ServiceSettings> = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let is_there = |name: &String| ordered.iter().any(|service| service.name == *name);
            let free = waiting.iter().position(|(_, service)| service.after.iter().all(is_there));
            let Some(free) = free else {
                let (key, service) = &waiting[0];
                let missing = service.after.iter().find(|name| !is_there(name)).cloned().unwrap_or_default();
                let message = if waiting.iter().any(|(_, other)| other.name == missing) {
                    format!("`{}` waits for `{missing}`, which waits for it", service.name)
                } else {
                    format!("`{}` waits for `{missing}`, which is no service of this environment", service.name)
                };
                return Err(self.error(key.span(), message, "look at `after`".to_owned()));
            };
            ordered.push(waiting.remove(free).1);
        }
        Ok(ordered)
    }

    fn service(&self, key: &Key<'_>, value: &Value<'_>) -> Result<ServiceSettings, ProjectError> {
        let mut service = ServiceSettings {
            name: key.get_ref().to_string(),
            image: None,
            command: Vec::new(),
            directory: String::new(),
            setup: Vec::new(),
            data: Vec::new(),
            ready: Probe::Tcp(0),
            deadline: limits::SERVICE_READY_TIME_DEFAULT,
            interval: limits::PROBE_INTERVAL_DEFAULT,
            after: Vec::new(),
            clone: CloneMode::None,
            export: BTreeMap::new(),
            environment_variables: BTreeMap::new(),
            memory_bytes: 0,
            processes: 0,
        };
        for (key, value) in self.table(value)? {
            let name = key.get_ref().as_ref();
            match name {
                "image" => service.image = Some(self.image(value)?),
                "command" => service.command = self.strings(value)?,
                "directory" => service.directory = self.absolute(value)?,
                "setup" => service.setup = self.strings(value)?,
                "data" => service.data = self.globs(value)?,
                "ready" => self.ready(key, value, &mut service)?,
                "after" => service.after = self.strings(value)?,
                "clone" => service.clone = self.clone_mode(value)?,
                "export" => service.export = self.variables(name, value)?,
                "env" => service.environment_variables = self.variables(name, value)?,
                "memory" => service.memory_bytes = self.bytes(value)?,
                "processes" => service.processes = self.number(value, 1)?,
                _ => return Err(self.unknown(key, &SERVICE_KEYS)),
            }
        }
        let lacks = |what: &str, hint: &str| {
            Err(self.error(key.span(), format!("service `{}` has no {what}", service.name), hint.to_owned()))
        };
        if service.command.is_empty() && service.image.is_none() {
            return lacks("command", "add command = [\"PROGRAM\", \"ARGUMENT\"]");
        }
        if service.ready == Probe::Tcp(0) {
            return lacks("`ready`", "add ready = { tcp = PORT }, or one of http, exec and log");
        }
        if !service.setup.is_empty() && service.directory.is_empty() {
            return lacks("directory for what its setup makes", "add directory = \"/data\"");
        }
        if service.clone == CloneMode::TemplateDatabase && !matches!(service.ready, Probe::Tcp(_)) {
            return lacks("port of PostgreSQL", "add ready = { tcp = 5432 }");
        }
        Ok(service)
    }

    fn ready(&self, key: &Key<'_>, value: &Value<'_>, service: &mut ServiceSettings) -> Result<(), ProjectError> {
        let mut found = Vec::new();
        for (key, value) in self.table(value)? {
            match key.get_ref().as_ref() {
                "tcp" => found.push(Probe::Tcp(self.port(value)?)),
                "http" => found.push(self.http(value)?),
                "exec" => found.push(Probe::Exec(self.strings(value)?)),
                "log" => found.push(Probe::Log(self.string(value)?)),
                "deadline" => {
                    service.deadline =
                        self.bounded(value, [limits::PROBE_INTERVAL_MIN, limits::SERVICE_READY_TIME_MAX])?;
                }
                "interval" => {
                    service.interval = self.bounded(value, [limits::PROBE_INTERVAL_MIN, limits::PROBE_INTERVAL_MAX])?;
                }
                _ => return Err(self.unknown(key, &READY_KEYS)),
            }
        }
        match <[Probe; 1]>::try_from(found) {
            Ok([probe]) if probe != Probe::Exec(Vec::new()) => {
                service.ready = probe;
                Ok(())
            }
            _ => {
                let message = "`ready` needs exactly one of tcp, http, exec and log".to_owned();
                Err(self.error(key.span(), message, "write ready = { tcp = PORT }".to_owned()))
            }
        }
    }

    fn port(&self, value: &Value<'_>) -> Result<u16, ProjectError> {
        let port = self.number(value, 1).ok().and_then(|port| u16::try_from(port).ok());
        port.ok_or_else(|| self.expected(value, "a port from 1 to 65535"))
    }

    fn http(&self, value: &Value<'_>) -> Result<Probe, ProjectError> {
        let parse = |text: &str| {
            let rest = text.strip_prefix("http://")?;
            let rest = rest.strip_prefix("localhost:").or_else(|| rest.strip_prefix("127.0.0.1:"))?;
            let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
            let is_plain = !path.contains(|letter: char| letter.is_whitespace() || letter.is_control());
            is_plain.then(|| Probe::Http { port, path: if path.is_empty() { "/".into() } else { path.into() } })
        };
        let probe = value.get_ref().as_str().and_then(parse);
        probe.ok_or_else(|| self.expected(value, "a text like \"http://localhost:8080/health\""))
    }

    fn bounded(&self, value: &Value<'_>, [least, most]: [Duration; 2]) -> Result<Duration, ProjectError> {
        let duration = self.duration(value)?;
        if (least..=most).contains(&duration) {
            return Ok(duration);
        }
        Err(self.expected(value, &format!("a time from {} ms to {} ms", least.as_millis(), most.as_millis())))
    }

    fn absolute(&self, value: &Value<'_>) -> Result<String, ProjectError> {
        let path = self.string(value)?;
        let mut parts = path.strip_prefix('/').unwrap_or_default().split('/');
        if parts.all(|part| !["", ".", ".."].contains(&part)) {
            return Ok(path);
        }
        Err(self.expected(value, "an absolute path like \"/data\""))
    }

    fn clone_mode(&self, value: &Value<'_>) -> Result<CloneMode, ProjectError> {
        let known = [CloneMode::None, CloneMode::TemplateDatabase, CloneMode::CopyOnWrite];
        let named = value.get_ref().as_str().and_then(|name| known.into_iter().find(|mode| mode.name() == name));
        named.ok_or_else(|| self.expected(value, "\"template-database\", \"copy-on-write\" or \"none\""))
    }
}
