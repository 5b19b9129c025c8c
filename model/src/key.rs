//! Keys of actions: BLAKE3 in key-derivation mode over length-prefixed fields (BLAKE3 specification, section 2.3, `derive_key`).
//!
//! A key covers exactly what a case can see: framework, command, variables, working directory, base, layers, kind of environment, limits
//! and the case's own name. It leaves out how the run behaves (retries, isolation, timeout), because a passed result does not depend on
//! that.
//!
//! Architecture Invariant: a key is made only of values that are in the specification. When keys shrink to the files that a case was seen to open,
//! that is a *second* key looked up after this one, not a change to it.

use crate::digest::hex;
use crate::platform::{BaseRequest, EnvironmentKind};
use crate::service::{Probe, ServiceSpec};
use crate::spec::{EnvironmentLimits, TargetSpec};
use crate::{Digest, DigestFunction};
use alloc::string::String;
use core::fmt;

/// The name of a result in the action cache.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionKey(pub [u8; 32]);

impl ActionKey {
    /// The key as 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }

    /// The key that [`Self::hex`] wrote; none for any other text.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut key = [0; 32];
        if text.len() != 2 * key.len() {
            return None;
        }
        for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |digit: u8| match digit {
                b'0'..=b'9' => Some(digit - b'0'),
                b'a'..=b'f' => Some(digit - b'a' + 10),
                _ => None,
            };
            *byte = digit(digits[0])? * 16 + digit(digits[1])?;
        }
        Some(Self(key))
    }
}

impl fmt::Debug for ActionKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.hex())
    }
}

/// The key of a target, from which the keys of its discovery and its cases derive.
///
/// # Panics
///
/// When the base is not pinned: the coordinator pins before it keys, so this is its own promise.
pub fn target_key(target: &TargetSpec) -> ActionKey {
    assert!(target.is_pinned(), "a target is keyed only after its base is pinned");
    let mut fields = Fields::new("muster 2026-11 target key v1");
    fields.text(target.framework.name());
    fields.count(target.command.arguments.len());
    for argument in &target.command.arguments {
        fields.text(argument);
    }
    fields.count(target.command.environment.len());
    for (name, value) in &target.command.environment {
        fields.text(name);
        fields.text(value);
    }
    fields.text(&target.command.working_directory);
    fields.count(target.layers.len());
    for layer in &target.layers {
        fields.digest(&layer.root);
        fields.text(&layer.mount_path);
    }
    fields.base(&target.requirements.base);
    fields.text(target.requirements.environment.name());
    fields.count(target.requirements.properties.iter().count());
    for (name, value) in target.requirements.properties.iter() {
        fields.text(name);
        fields.text(value);
    }
    fields.limits(&target.limits);
    fields.number(u64::from(target.shards));
    // A target without tags keeps the key that it had before there were any.
    if !target.requirements.tags.is_empty() {
        fields.text("tags");
        fields.texts(&target.requirements.tags);
    }
    // Likewise one whose sandboxes have every wall.
    for weakness in &target.requirements.without {
        fields.text("without");
        fields.text(weakness.name());
    }
    // A target without services keeps the key that it had before there were any.
    for service in &target.services {
        fields.service(service);
    }
    fields.finish()
}

/// The key of a target's services together: two targets with the same one may use the same running services, one after the other.
pub fn services_key(target: &TargetSpec) -> ActionKey {
    let mut fields = Fields::new("muster 2026-11 services key v1");
    fields.base(&target.requirements.base);
    // Services in sandboxes keep the key that they had before there were others.
    if target.requirements.environment != EnvironmentKind::Sandbox {
        fields.text(target.requirements.environment.name());
    }
    for service in &target.services {
        fields.service(service);
    }
    fields.finish()
}

/// The key of the data that a service's setup makes over a base.
pub fn service_data_key(base: &BaseRequest, service: &ServiceSpec) -> ActionKey {
    let mut fields = Fields::new("muster 2026-11 service data key v1");
    fields.base(base);
    fields.service(service);
    fields.finish()
}

/// The key of a target's discovery.
pub fn discovery_key(target: ActionKey) -> ActionKey {
    let mut fields = Fields::new("muster 2026-11 discovery key v1");
    fields.bytes(&target.0);
    fields.finish()
}

/// The key of one case.
pub fn case_key(target: ActionKey, case: &str) -> ActionKey {
    let mut fields = Fields::new("muster 2026-11 case key v1");
    fields.bytes(&target.0);
    fields.text(case);
    fields.finish()
}

/// The key of an action of the Remote Execution API, which has results of its own in every instance.
pub fn remote_action_key(instance: &str, action: &Digest) -> ActionKey {
    let mut fields = Fields::new("muster 2026-11 remote action key v1");
    fields.text(instance);
    fields.digest(action);
    fields.finish()
}

/// The key of an entry that a client of a small cache protocol named itself: which protocol, whose entries, which entry.
pub fn named_entry_key(protocol: &str, scope: &str, name: &str) -> ActionKey {
    let mut fields = Fields::new("muster 2026-11 named entry key v1");
    fields.text(protocol);
    fields.text(scope);
    fields.text(name);
    fields.finish()
}

/// Length-prefixed fields, so that no two lists of fields give the same bytes.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn digest(&mut self, digest: &Digest) {
        self.number(match digest.function {
            DigestFunction::Blake3 => 0,
            DigestFunction::Sha256 => 1,
        });
        self.bytes(&digest.hash);
        self.number(digest.size_bytes);
    }

    fn base(&mut self, base: &BaseRequest) {
        match base {
            BaseRequest::Pinned(base) => {
                self.text("pinned");
                self.text(&base.name);
                self.digest(&base.digest);
            }
            BaseRequest::Image(image) => {
                self.text("image");
                self.text(image.as_str());
            }
            BaseRequest::Named(_) | BaseRequest::None => self.text("none"),
        }
    }

    fn texts(&mut self, texts: &[String]) {
        self.count(texts.len());
        for text in texts {
            self.text(text);
        }
    }

    fn pairs(&mut self, pairs: &[(String, String)]) {
        self.count(pairs.len());
        for (name, value) in pairs {
            self.text(name);
            self.text(value);
        }
    }

    /// All but how long it is waited for: that changes nothing that a case sees.
    fn service(&mut self, service: &ServiceSpec) {
        self.text("service");
        self.text(&service.name);
        self.texts(&service.command.arguments);
        self.pairs(&service.command.environment);
        self.text(&service.command.working_directory);
        // A service over a base keeps the key that it had before there were others.
        if !service.with_base {
            self.text("without base");
        }
        if let Some(image) = &service.image {
            self.text("image");
            self.text(image.as_str());
        }
        self.count(service.layers.len());
        for layer in &service.layers {
            self.digest(&layer.root);
            self.text(&layer.mount_path);
        }
        self.texts(&service.setup);
        self.text(&service.data);
        match &service.ready {
            Probe::Tcp(port) => {
                self.text("tcp");
                self.number(u64::from(*port));
            }
            Probe::Http { port, path } => {
                self.text("http");
                self.number(u64::from(*port));
                self.text(path);
            }
            Probe::Exec(command) => {
                self.text("exec");
                self.texts(command);
            }
            Probe::Log(line) => {
                self.text("log");
                self.text(line);
            }
        }
        self.texts(&service.after);
        self.text(service.clone.name());
        self.pairs(&service.export);
        self.limits(&service.limits);
    }

    fn limits(&mut self, limits: &EnvironmentLimits) {
        self.number(limits.memory_bytes);
        self.number(u64::from(limits.processes));
        self.number(limits.output_bytes);
        self.text(limits.profile.name());
        for difference in limits.profile.differences() {
            self.text(difference);
        }
    }

    fn finish(self) -> ActionKey {
        ActionKey(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::{Base, EngineImage, Requirements, Weakness};
    use crate::service::CloneMode;
    use crate::spec::{CommandSpec, EnvironmentLimits, FrameworkKind, Layer, Profile, TargetPolicy};
    use alloc::vec;
    use alloc::vec::Vec;

    fn service() -> ServiceSpec {
        ServiceSpec {
            name: "a".into(),
            command: CommandSpec { arguments: vec!["server".into()], ..CommandSpec::default() },
            with_base: true,
            image: None,
            layers: Vec::new(),
            setup: vec!["a".into()],
            data: "/a".into(),
            ready: Probe::Tcp(1),
            deadline: core::time::Duration::from_secs(1),
            interval: core::time::Duration::from_millis(10),
            after: Vec::new(),
            clone: CloneMode::None,
            export: Vec::new(),
            limits: EnvironmentLimits::default(),
        }
    }

    #[test]
    fn how_long_a_service_is_waited_for_is_in_no_key() {
        let mut slow = service();
        slow.deadline *= 2;
        slow.interval *= 2;
        assert_eq!(service_data_key(&BaseRequest::None, &slow), service_data_key(&BaseRequest::None, &service()));
        let with = |service| TargetSpec { services: vec![service], ..target() };
        assert_eq!(target_key(&with(slow.clone())), target_key(&with(service())));
        assert_eq!(services_key(&with(slow)), services_key(&with(service())));
        assert_ne!(services_key(&with(ServiceSpec { name: "b".into(), ..service() })), services_key(&with(service())));
    }

    fn target() -> TargetSpec {
        TargetSpec {
            name: "name".into(),
            suite: "suite".into(),
            framework: FrameworkKind::Libtest,
            command: CommandSpec {
                arguments: vec!["/a".into(), "b".into()],
                environment: vec![("A".into(), "1".into())],
                working_directory: "/work".into(),
            },
            layers: vec![Layer { root: Digest::of(b"x"), mount_path: "/".into(), purpose: "package".into() }],
            requirements: Requirements {
                base: BaseRequest::Pinned(Base { name: "debian".into(), digest: Digest::of(b"base") }),
                ..Requirements::default()
            },
            limits: EnvironmentLimits::default(),
            shards: 0,
            policy: TargetPolicy::default(),
            services: Vec::new(),
        }
    }

    #[test]
    fn every_part_that_a_case_can_see_changes_the_key() {
        let changes: Vec<fn(&mut TargetSpec)> = vec![
            |target| target.framework = FrameworkKind::ExitCode,
            |target| target.command.arguments = vec!["/ab".into()],
            |target| target.command.arguments.push("c".into()),
            |target| target.command.environment[0].1 = "2".into(),
            |target| target.command.environment[0].0 = "B".into(),
            |target| target.command.working_directory = "/".into(),
            |target| target.layers[0].root = Digest::of(b"y"),
            |target| target.layers[0].mount_path = "/elsewhere".into(),
            |target| target.layers.clear(),
            |target| target.requirements.base = BaseRequest::None,
            |target| {
                let image = EngineImage::parse(&alloc::format!("sha256:{}", "0".repeat(64))).expect("an image");
                target.requirements.base = BaseRequest::Image(image);
            },
            |target| target.requirements.environment = EnvironmentKind::Docker,
            |target| target.requirements.environment = EnvironmentKind::Host,
            |target| target.requirements.properties.set("arch".into(), "x".into()),
            |target| target.requirements.tags.push("gpu".into()),
            |target| target.requirements.without.push(Weakness::Landlock),
            |target| target.requirements.without.push(Weakness::ControlGroups),
            |target| target.limits.memory_bytes = 1,
            |target| target.limits.processes = 1,
            |target| target.limits.output_bytes = 1,
            |target| target.limits.profile = Profile::Debug,
            |target| target.shards = 2,
            |target| target.services.push(service()),
            |target| target.services.extend([service(), service()]),
            |target| target.services.push(ServiceSpec { name: "b".into(), ..service() }),
            |target| target.services.push(ServiceSpec { setup: vec!["b".into()], ..service() }),
            |target| target.services.push(ServiceSpec { data: "/b".into(), ..service() }),
            |target| target.services.push(ServiceSpec { ready: Probe::Tcp(2), ..service() }),
            |target| target.services.push(ServiceSpec { ready: Probe::Log("1".into()), ..service() }),
            |target| target.services.push(ServiceSpec { ready: Probe::Exec(vec!["1".into()]), ..service() }),
            |target| {
                target.services.push(ServiceSpec { ready: Probe::Http { port: 1, path: "/".into() }, ..service() })
            },
            |target| target.services.push(ServiceSpec { after: vec!["b".into()], ..service() }),
            |target| target.services.push(ServiceSpec { clone: CloneMode::CopyOnWrite, ..service() }),
            |target| target.services.push(ServiceSpec { export: vec![("A".into(), "b".into())], ..service() }),
            |target| target.services.push(ServiceSpec { layers: target.layers.clone(), ..service() }),
            |target| target.services.push(ServiceSpec { with_base: false, ..service() }),
            |target| {
                let image = EngineImage::parse(&alloc::format!("sha256:{}", "0".repeat(64)));
                target.services.push(ServiceSpec { image, ..service() });
            },
            |target| {
                target
                    .services
                    .push(ServiceSpec { limits: EnvironmentLimits { processes: 1, ..Default::default() }, ..service() })
            },
        ];
        let mut keys = vec![target_key(&target())];
        for change in changes {
            let mut changed = target();
            change(&mut changed);
            keys.push(target_key(&changed));
        }
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }

    #[test]
    fn names_for_people_do_not_change_the_key() {
        let mut renamed = target();
        renamed.name = "another".into();
        renamed.suite = "another".into();
        renamed.layers[0].purpose = "another".into();
        assert_eq!(target_key(&renamed), target_key(&target()));
    }

    #[test]
    fn remote_actions_are_apart_by_instance_function_hash_and_size() {
        let action = Digest::of(b"action");
        let keys = [
            remote_action_key("", &action),
            remote_action_key("blake3", &action),
            remote_action_key("", &Digest { function: DigestFunction::Sha256, ..action }),
            remote_action_key("", &Digest { size_bytes: 0, ..action }),
            remote_action_key("", &Digest::of(b"another")),
        ];
        assert_eq!(keys.iter().collect::<alloc::collections::BTreeSet<_>>().len(), keys.len());
    }

    #[test]
    fn a_named_entry_is_not_mistaken_for_one_of_another_scope() {
        assert_ne!(named_entry_key("gradle", "a", "b"), named_entry_key("gradle", "", "ab"));
        assert_ne!(named_entry_key("gradle", "a", "b"), named_entry_key("ccache", "a", "b"));
        assert_eq!(named_entry_key("gradle", "a", "b"), named_entry_key("gradle", "a", "b"));
    }

    #[test]
    fn a_key_is_read_as_it_was_written() {
        let key = target_key(&target());
        assert_eq!(ActionKey::from_hex(&key.hex()), Some(key));
        for wrong in ["", "0a", &key.hex()[1..], &"0A".repeat(32), &"0g".repeat(32), &"\u{e4}".repeat(32)] {
            assert_eq!(ActionKey::from_hex(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn discovery_and_cases_have_keys_of_their_own() {
        let key = target_key(&target());
        assert_ne!(discovery_key(key), case_key(key, ""));
        assert_ne!(case_key(key, "a"), case_key(key, "b"));
    }
}
