//! An action taken apart into parts with names.

use std::collections::BTreeMap;

use muster_cache::{BlobStore, RemoteStore, StoreError};
use muster_model::{Digest, limits};
use muster_proto::convert::ConvertError;
use muster_proto::reapi::{Action, Command, Platform};
use muster_proto::v1;
use prost::Message;

/// What kind of part. The order is the one in which people look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One argument of the command; its name is its position, from 0.
    Argument,
    /// An environment variable.
    Variable,
    /// The working directory.
    WorkingDirectory,
    /// A platform property.
    Property,
    /// The base under the environment.
    Base,
    /// A setting of a service.
    Service,
    /// A path that is asked for as output.
    Output,
    /// A limit of the environment, or the action's own time.
    Limit,
    /// Anything else that the key covers.
    Setting,
    /// A file, directory or symbolic link of the inputs.
    Input,
}

impl Kind {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Argument => "argument",
            Self::Variable => "variable",
            Self::WorkingDirectory => "working directory",
            Self::Property => "property",
            Self::Base => "base",
            Self::Service => "service",
            Self::Output => "output",
            Self::Limit => "limit",
            Self::Setting => "setting",
            Self::Input => "input",
        }
    }
}

/// Which part of a kind; numbers come in the order of numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A position.
    Number(usize),
    /// A name, or nothing where there is only one.
    Word(String),
}

impl Name {
    /// As it is shown.
    pub fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Word(word) => word.clone(),
        }
    }
}

/// An action in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Every part with its value, but for the inputs.
    pub parts: BTreeMap<(Kind, Name), String>,
    /// Input trees: where each is, and its root.
    pub trees: BTreeMap<String, Digest>,
    /// Whether its result may never be cached.
    pub never_cached: bool,
}

/// Why an action can't be taken apart.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// A blob of it can't be read.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// The blob is something else.
    #[error("blob {digest} is no {what}")]
    NoMessage {
        /// Which.
        digest: Digest,
        /// What was expected.
        what: &'static str,
    },
    /// A digest inside it is none.
    #[error("{what} has a malformed field")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// The field.
        source: ConvertError,
    },
}

impl From<StoreError> for SubjectError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl Subject {
    fn part(&mut self, kind: Kind, name: &str, value: impl Into<String>) {
        self.parts.insert((kind, Name::Word(name.to_owned())), value.into());
    }

    fn arguments(&mut self, arguments: &[String]) {
        for (position, argument) in arguments.iter().enumerate() {
            self.parts.insert((Kind::Argument, Name::Number(position)), argument.clone());
        }
    }

    /// Reads an action of the Remote Execution API, and its command, from the store.
    ///
    /// # Errors
    ///
    /// When a blob is not there, or is something else.
    pub async fn of_action(store: &RemoteStore, digest: &Digest) -> Result<Self, SubjectError> {
        let action: Action = message(store, digest, "Action").await?;
        let inner = |field: Option<&muster_proto::reapi::Digest>| {
            let field = field.cloned().unwrap_or_default();
            field.to_model(digest.function).map_err(|source| SubjectError::Malformed { what: "the Action", source })
        };
        let command_digest = inner(action.command_digest.as_ref())?;
        let command: Command = message(store, &command_digest, "Command").await?;
        let mut subject = Self { never_cached: action.do_not_cache, ..Self::default() };
        subject.command(&command);
        subject.platform(action.platform.as_ref(), &command);
        if let Some(timeout) = action.timeout {
            subject.part(Kind::Limit, "timeout", format!("{}.{:09} s", timeout.seconds, timeout.nanos));
        }
        if !action.salt.is_empty() {
            subject.part(Kind::Setting, "salt", muster_model::digest::hex(&action.salt));
        }
        subject.part(Kind::Setting, "do_not_cache", action.do_not_cache.to_string());
        subject.part(Kind::Setting, "digest function", digest.function.name());
        subject.trees.insert(String::new(), inner(action.input_root_digest.as_ref())?);
        Ok(subject)
    }

    #[expect(deprecated, reason = "clients before 2.1 name their outputs in no other field")]
    fn command(&mut self, command: &Command) {
        self.arguments(&command.arguments);
        for variable in &command.environment_variables {
            self.part(Kind::Variable, &variable.name, &variable.value);
        }
        self.part(Kind::WorkingDirectory, "", &command.working_directory);
        for path in &command.output_paths {
            self.part(Kind::Output, path, "asked for");
        }
        for path in &command.output_files {
            self.part(Kind::Output, path, "asked for as a file");
        }
        for path in &command.output_directories {
            self.part(Kind::Output, path, "asked for as a directory");
        }
        for property in &command.output_node_properties {
            self.part(Kind::Setting, &format!("output property {property}"), "asked for");
        }
        self.part(Kind::Setting, "output_directory_format", command.output_directory_format.to_string());
    }

    #[expect(deprecated, reason = "clients before 2.2 have properties in the command")]
    fn platform(&mut self, of_action: Option<&Platform>, command: &Command) {
        // Both are part of the digest; nearly always they are the same.
        for platform in [of_action, command.platform.as_ref()].into_iter().flatten() {
            for property in &platform.properties {
                self.part(Kind::Property, &property.name, &property.value);
            }
        }
        self.part(Kind::Setting, "platform in the action", of_action.is_some().to_string());
        self.part(Kind::Setting, "platform in the command", command.platform.is_some().to_string());
    }

    /// Takes a target of a run apart, as far as its key covers it.
    ///
    /// # Errors
    ///
    /// When a layer's digest is malformed.
    pub fn of_target(target: &v1::TargetSpec) -> Result<Self, SubjectError> {
        let malformed = |source| SubjectError::Malformed { what: "the target", source };
        let mut subject = Self::default();
        subject.part(Kind::Setting, "framework", target.framework().as_str_name());
        let command = target.command.clone().unwrap_or_default();
        subject.arguments(&command.arguments);
        for variable in &command.environment {
            subject.part(Kind::Variable, &variable.key, &variable.value);
        }
        subject.part(Kind::WorkingDirectory, "", command.working_directory);
        let requirements = target.requirements.clone().unwrap_or_default();
        subject.part(Kind::Setting, "environment", requirements.environment().as_str_name());
        for property in &requirements.properties {
            subject.part(Kind::Property, &property.key, &property.value);
        }
        for tag in &requirements.tags {
            subject.part(Kind::Property, tag, "any value");
        }
        for wall in &requirements.without {
            subject.part(Kind::Setting, &format!("without {wall}"), "allowed");
        }
        let base = requirements.base.unwrap_or_default();
        let digest = base.digest.as_ref().map(Digest::try_from).transpose().map_err(malformed)?;
        let pinned = digest.map_or_else(String::new, |digest| format!(" {digest}"));
        let name = if base.image.is_empty() { base.name } else { base.image };
        subject.part(Kind::Base, "", format!("{name}{pinned}"));
        let limits = target.limits.unwrap_or_default();
        subject.part(Kind::Limit, "memory_bytes", limits.memory_bytes.to_string());
        subject.part(Kind::Limit, "processes", limits.processes.to_string());
        subject.part(Kind::Limit, "output_bytes", limits.output_bytes.to_string());
        subject.part(Kind::Setting, "profile", limits.profile().as_str_name());
        subject.part(Kind::Setting, "shards", target.shards.to_string());
        for (position, layer) in target.layers.iter().enumerate() {
            let root = Digest::try_from(&layer.root.clone().unwrap_or_default()).map_err(malformed)?;
            subject.layer(position, layer, "", root);
        }
        for service in &target.services {
            subject.service(service)?;
        }
        Ok(subject)
    }

    /// How long a service is waited for is in no key.
    fn service(&mut self, service: &v1::ServiceSpec) -> Result<(), SubjectError> {
        use v1::service_spec::Ready;
        let name = &service.name;
        let mut part = |what: &str, value: String| self.part(Kind::Service, &format!("{name} {what}"), value);
        let command = service.command.clone().unwrap_or_default();
        part("command", command.arguments.join(" "));
        part("directory", command.working_directory);
        for variable in &command.environment {
            part(&format!("variable {}", variable.key), variable.value.clone());
        }
        part("base", if service.without_base { "none" } else { "that of the target" }.to_owned());
        part("image", service.image.clone());
        part("setup", service.setup.join(" "));
        part("data", service.data.clone());
        part(
            "ready",
            match &service.ready {
                Some(Ready::Tcp(port)) => format!("tcp {port}"),
                Some(Ready::Http(probe)) => format!("http {} {}", probe.port, probe.path),
                Some(Ready::Exec(probe)) => format!("exec {}", probe.arguments.join(" ")),
                Some(Ready::Log(text)) => format!("log {text}"),
                None => String::new(),
            },
        );
        part("after", service.after.join(" "));
        part("clone", service.clone().as_str_name().to_owned());
        for export in &service.export {
            part(&format!("export {}", export.key), export.value.clone());
        }
        let limits = service.limits.unwrap_or_default();
        for (what, number) in [
            ("memory_bytes", limits.memory_bytes),
            ("processes", limits.processes.into()),
            ("output_bytes", limits.output_bytes),
        ] {
            part(what, number.to_string());
        }
        part("profile", limits.profile().as_str_name().to_owned());
        for (position, layer) in service.layers.iter().enumerate() {
            let malformed = |source| SubjectError::Malformed { what: "a service", source };
            let root = Digest::try_from(&layer.root.clone().unwrap_or_default()).map_err(malformed)?;
            self.layer(position, layer, &format!("service {name}: "), root);
        }
        Ok(())
    }

    /// Several layers may be at one place; the later one is then told apart by its position.
    fn layer(&mut self, position: usize, layer: &v1::Layer, whose: &str, root: Digest) {
        let place = match layer.mount_path.as_str() {
            "/" => whose.to_owned(),
            path => format!("{whose}{path}"),
        };
        let place = match self.trees.contains_key(&place) {
            true => format!("{place} (layer {position}, {})", layer.purpose),
            false => place,
        };
        self.trees.insert(place, root);
    }
}

async fn message<M: Message + Default>(
    store: &RemoteStore,
    digest: &Digest,
    what: &'static str,
) -> Result<M, SubjectError> {
    let bytes = store.get(digest).await?.into_bytes(limits::MESSAGE_BYTES_MAX as u64).await?;
    M::decode(bytes).map_err(|_| SubjectError::NoMessage { digest: *digest, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_targets_key_covers_is_a_part_or_a_tree() {
        let property = |key: &str, value: &str| v1::Property { key: key.into(), value: value.into() };
        let layer = |path: &str, byte: u8| v1::Layer {
            root: Some(Digest::of(&[byte]).into()),
            mount_path: path.into(),
            purpose: "package".into(),
        };
        let target = v1::TargetSpec {
            command: Some(v1::CommandSpec {
                arguments: vec!["/bin/test".into(), "--exact".into()],
                environment: vec![property("HOME", "/home")],
                working_directory: "/work".into(),
            }),
            layers: vec![layer("/", 1), layer("/", 2), layer("/data", 3)],
            requirements: Some(v1::Requirements {
                base: Some(v1::BaseRequest {
                    name: "debian".into(),
                    digest: Some(Digest::of(b"base").into()),
                    image: String::new(),
                }),
                properties: vec![property("arch", "x86_64")],
                ..v1::Requirements::default()
            }),
            limits: Some(v1::EnvironmentLimits {
                memory_bytes: 1,
                processes: 2,
                output_bytes: 3,
                ..Default::default()
            }),
            services: vec![v1::ServiceSpec {
                name: "db".into(),
                layers: vec![layer("/", 4)],
                export: vec![property("URL", "{host}")],
                deadline_ms: 1,
                ..v1::ServiceSpec::default()
            }],
            ..v1::TargetSpec::default()
        };
        let subject = Subject::of_target(&target).unwrap();
        let of = |kind: Kind| subject.parts.keys().filter(|(one, _)| *one == kind).count();
        assert_eq!([Kind::Argument, Kind::Variable, Kind::Property, Kind::Base, Kind::Limit].map(of), [2, 1, 1, 1, 3]);
        let places: Vec<_> = subject.trees.keys().map(String::as_str).collect();
        assert_eq!(places, ["", " (layer 1, package)", "/data", "service db: "]);
        let mut changed = target.clone();
        let of_service = |target: &v1::TargetSpec| Subject::of_target(target).unwrap();
        let service = &mut changed.services[0];
        service.deadline_ms = 2;
        assert_eq!(of_service(&changed), subject);
        type Change = fn(&mut v1::ServiceSpec);
        let changes: [Change; 10] = [
            |service| service.command = Some(v1::CommandSpec { arguments: vec!["x".into()], ..Default::default() }),
            |service| service.without_base = true,
            |service| service.image = "sha256:1".into(),
            |service| service.setup = vec!["x".into()],
            |service| service.data = "/x".into(),
            |service| service.ready = Some(v1::service_spec::Ready::Tcp(1)),
            |service| service.after = vec!["x".into()],
            |service| service.set_clone(v1::CloneMode::CopyOnWrite),
            |service| service.export.clear(),
            |service| service.layers.clear(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = target.clone();
            change(&mut changed.services[0]);
            assert_ne!(of_service(&changed), subject, "{number}");
        }
    }
}
