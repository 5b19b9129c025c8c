//! Specifications of runs and targets.

use core::time::Duration;

use muster_model::Digest;
use muster_model::limits;
use muster_model::platform::{
    Base, BaseRequest, EngineImage, EnvironmentKind, Offer, Properties, Requirements, Resources, Weakness,
};
use muster_model::spec::{CommandSpec, FrameworkKind, Isolation, Layer, RunPolicy, RunSpec, TargetPolicy, TargetSpec};

use super::{ConvertError, at_most, required};
use crate::v1;

impl From<&Base> for v1::Base {
    fn from(base: &Base) -> Self {
        Self { name: base.name.clone(), digest: Some(base.digest.into()) }
    }
}

impl TryFrom<&v1::Base> for Base {
    type Error = ConvertError;

    fn try_from(base: &v1::Base) -> Result<Self, ConvertError> {
        let digest = required("base.digest", base.digest.as_ref())?;
        Ok(Self { name: base.name.clone(), digest: Digest::try_from(digest)? })
    }
}

impl From<&BaseRequest> for v1::BaseRequest {
    fn from(request: &BaseRequest) -> Self {
        match request {
            BaseRequest::None => Self::default(),
            BaseRequest::Named(name) => Self { name: name.clone(), ..Self::default() },
            BaseRequest::Pinned(base) => {
                Self { name: base.name.clone(), digest: Some(base.digest.into()), ..Self::default() }
            }
            BaseRequest::Image(image) => Self { image: image.as_str().to_owned(), ..Self::default() },
        }
    }
}

impl TryFrom<&v1::BaseRequest> for BaseRequest {
    type Error = ConvertError;

    fn try_from(request: &v1::BaseRequest) -> Result<Self, ConvertError> {
        if !request.image.is_empty() {
            let image = EngineImage::parse(&request.image).filter(|_| request.name.is_empty());
            let wrong = || ConvertError::new("base_request.image", "is not an image by digest, alone");
            return image.map(Self::Image).ok_or_else(wrong);
        }
        match (&request.name, &request.digest) {
            (name, None) if name.is_empty() => Ok(Self::None),
            (name, None) => Ok(Self::Named(name.clone())),
            (name, Some(_)) if name.is_empty() => Err(ConvertError::missing("base_request.name")),
            (name, Some(digest)) => Ok(Self::Pinned(Base { name: name.clone(), digest: Digest::try_from(digest)? })),
        }
    }
}

impl From<EnvironmentKind> for v1::EnvironmentKind {
    fn from(kind: EnvironmentKind) -> Self {
        match kind {
            EnvironmentKind::Sandbox => Self::Sandbox,
            EnvironmentKind::Host => Self::Host,
            EnvironmentKind::Docker => Self::Docker,
        }
    }
}

fn environment_kind(value: i32) -> Result<EnvironmentKind, ConvertError> {
    match v1::EnvironmentKind::try_from(value) {
        Ok(v1::EnvironmentKind::Sandbox) => Ok(EnvironmentKind::Sandbox),
        Ok(v1::EnvironmentKind::Host) => Ok(EnvironmentKind::Host),
        Ok(v1::EnvironmentKind::Docker) => Ok(EnvironmentKind::Docker),
        _ => Err(ConvertError::new("environment", "is not a known kind")),
    }
}

impl From<FrameworkKind> for v1::FrameworkKind {
    fn from(kind: FrameworkKind) -> Self {
        match kind {
            FrameworkKind::Libtest => Self::Libtest,
            FrameworkKind::ExitCode => Self::ExitCode,
            FrameworkKind::Pytest => Self::Pytest,
            FrameworkKind::Command => Self::Command,
        }
    }
}

fn framework_kind(value: i32) -> Result<FrameworkKind, ConvertError> {
    match v1::FrameworkKind::try_from(value) {
        Ok(v1::FrameworkKind::Libtest) => Ok(FrameworkKind::Libtest),
        Ok(v1::FrameworkKind::ExitCode) => Ok(FrameworkKind::ExitCode),
        Ok(v1::FrameworkKind::Pytest) => Ok(FrameworkKind::Pytest),
        Ok(v1::FrameworkKind::Command) => Ok(FrameworkKind::Command),
        _ => Err(ConvertError::new("framework", "is not a known kind")),
    }
}

/// Properties as the wire has them.
pub(super) fn properties_to_wire(properties: &Properties) -> Vec<v1::Property> {
    properties.iter().map(|(key, value)| v1::Property { key: key.into(), value: value.into() }).collect()
}

/// Properties as the model has them.
pub(super) fn properties_to_model(properties: &[v1::Property]) -> Properties {
    Properties::new(properties.iter().map(|property| (property.key.clone(), property.value.clone())))
}

impl From<&Requirements> for v1::Requirements {
    fn from(requirements: &Requirements) -> Self {
        Self {
            base: Some((&requirements.base).into()),
            environment: v1::EnvironmentKind::from(requirements.environment).into(),
            properties: properties_to_wire(&requirements.properties),
            tags: requirements.tags.clone(),
            without: weaknesses_to_wire(&requirements.without),
            resources: requirements.resources.is_special().then(|| (&requirements.resources).into()),
        }
    }
}

impl From<&Resources> for v1::Resources {
    fn from(resources: &Resources) -> Self {
        let Resources { slots, memory_bytes, exclusive } = resources.clone();
        Self { slots, memory_bytes, exclusive }
    }
}

impl TryFrom<&v1::Resources> for Resources {
    type Error = ConvertError;

    fn try_from(resources: &v1::Resources) -> Result<Self, ConvertError> {
        let exclusive = names("resources.exclusive", &resources.exclusive, limits::EXCLUSIVE_GROUPS_MAX)?;
        Ok(Self { slots: resources.slots, memory_bytes: resources.memory_bytes, exclusive })
    }
}

/// The names of walls that are missing.
pub(super) fn weaknesses_to_wire(weaknesses: &[Weakness]) -> Vec<String> {
    weaknesses.iter().map(|weakness| weakness.name().to_owned()).collect()
}

/// An unknown wall is one that this build can't do without.
fn weaknesses_to_model(field: &'static str, names: &[String]) -> Result<Vec<Weakness>, ConvertError> {
    let known = |name: &String| Weakness::from_name(name).ok_or_else(|| ConvertError::new(field, "is not known"));
    let mut weaknesses: Vec<Weakness> = names.iter().map(known).collect::<Result<_, _>>()?;
    weaknesses.sort_unstable();
    weaknesses.dedup();
    Ok(weaknesses)
}

/// Names as they are kept: sorted, each once, none empty.
fn names(field: &'static str, names: &[String], most: usize) -> Result<Vec<String>, ConvertError> {
    at_most(field, names.len(), most)?;
    for name in names {
        at_most(field, name.len(), limits::NAME_BYTES_MAX)?;
        if name.is_empty() {
            return Err(ConvertError::new(field, "contains an empty name"));
        }
    }
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    Ok(names)
}

impl TryFrom<&v1::Requirements> for Requirements {
    type Error = ConvertError;

    fn try_from(requirements: &v1::Requirements) -> Result<Self, ConvertError> {
        let base = match &requirements.base {
            None => BaseRequest::None,
            Some(base) => base.try_into()?,
        };
        Ok(Self {
            base,
            environment: environment_kind(requirements.environment)?,
            properties: properties_to_model(&requirements.properties),
            without: weaknesses_to_model("requirements.without", &requirements.without)?,
            tags: names("requirements.tags", &requirements.tags, limits::TAGS_MAX)?,
            resources: requirements.resources.as_ref().map(TryInto::try_into).transpose()?.unwrap_or_default(),
        })
    }
}

/// What an agent's report offers.
pub(super) fn offer_to_model(report: &v1::AgentReport) -> Result<Offer, ConvertError> {
    Ok(Offer {
        bases: report.bases.iter().map(Base::try_from).collect::<Result<_, _>>()?,
        environments: report.environments.iter().map(|&kind| environment_kind(kind)).collect::<Result<_, _>>()?,
        properties: properties_to_model(&report.properties),
        slots: report.slots,
        memory_bytes: report.memory_bytes,
        without: weaknesses_to_model("without", &report.without)?,
    })
}

impl From<&CommandSpec> for v1::CommandSpec {
    fn from(command: &CommandSpec) -> Self {
        let pairs = command.environment.iter();
        Self {
            arguments: command.arguments.clone(),
            environment: pairs.map(|(key, value)| v1::Property { key: key.clone(), value: value.clone() }).collect(),
            working_directory: command.working_directory.clone(),
        }
    }
}

/// A layer as the wire has it.
pub(super) fn layer_to_wire(layer: &Layer) -> v1::Layer {
    v1::Layer { root: Some(layer.root.into()), mount_path: layer.mount_path.clone(), purpose: layer.purpose.clone() }
}

impl From<&TargetSpec> for v1::TargetSpec {
    fn from(target: &TargetSpec) -> Self {
        Self {
            name: target.name.clone(),
            suite: target.suite.clone(),
            framework: v1::FrameworkKind::from(target.framework).into(),
            command: Some((&target.command).into()),
            layers: target.layers.iter().map(layer_to_wire).collect(),
            requirements: Some((&target.requirements).into()),
            limits: Some((&target.limits).into()),
            shards: target.shards,
            policy: (target.policy != TargetPolicy::default()).then(|| v1::TargetPolicy {
                retries: target.policy.retries,
                case_timeout_ms: target.policy.case_timeout.map(milliseconds),
                only: target.policy.only.clone(),
                except: target.policy.except.clone(),
            }),
            services: target.services.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<&v1::TargetSpec> for TargetSpec {
    type Error = ConvertError;

    fn try_from(target: &v1::TargetSpec) -> Result<Self, ConvertError> {
        if target.name.is_empty() {
            return Err(ConvertError::missing("target.name"));
        }
        at_most("target.layers", target.layers.len(), limits::LAYERS_PER_TARGET_MAX)?;
        at_most("target.shards", target.shards as usize, limits::CASES_PER_TARGET_MAX)?;
        let policy = target.policy.clone().unwrap_or_default();
        at_most("target.policy.except", policy.except.len(), limits::CASE_PATTERNS_MAX)?;
        for pattern in policy.only.iter().chain(&policy.except) {
            at_most("target.policy", pattern.len(), limits::NAME_BYTES_MAX)?;
        }
        if policy.case_timeout_ms == Some(0) {
            return Err(ConvertError::new("target.policy.case_timeout_ms", "must be at least 1"));
        }
        Ok(Self {
            name: target.name.clone(),
            suite: target.suite.clone(),
            framework: framework_kind(target.framework)?,
            command: command(required("target.command", target.command.as_ref())?)?,
            layers: target.layers.iter().map(layer).collect::<Result<_, _>>()?,
            requirements: required("target.requirements", target.requirements.as_ref())?.try_into()?,
            limits: target.limits.unwrap_or_default().try_into()?,
            shards: target.shards,
            policy: TargetPolicy {
                retries: policy.retries,
                case_timeout: policy.case_timeout_ms.map(Duration::from_millis),
                only: policy.only,
                except: policy.except,
            },
            services: super::service::services(&target.services)?,
        })
    }
}

/// Rounded up, so that the shortest time does not become none.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

pub(super) fn command(command: &v1::CommandSpec) -> Result<CommandSpec, ConvertError> {
    let texts = command.arguments.iter().chain([&command.working_directory]);
    let pairs = command.environment.iter().flat_map(|pair| [&pair.key, &pair.value]);
    if texts.chain(pairs).any(|text| text.contains('\0')) {
        return Err(ConvertError::new("command", "contains a NUL character"));
    }
    if command.arguments.first().is_none_or(String::is_empty) {
        return Err(ConvertError::missing("command.arguments"));
    }
    if !is_absolute_and_plain(&command.working_directory) {
        return Err(ConvertError::new("command.working_directory", "must be an absolute path without `.` or `..`"));
    }
    if command.environment.iter().any(|pair| pair.key.is_empty() || pair.key.contains('=')) {
        return Err(ConvertError::new("command.environment", "has a name that is empty or contains `=`"));
    }
    Ok(CommandSpec {
        arguments: command.arguments.clone(),
        environment: command.environment.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect(),
        working_directory: command.working_directory.clone(),
    })
}

pub(super) fn layer(layer: &v1::Layer) -> Result<Layer, ConvertError> {
    if !is_absolute_and_plain(&layer.mount_path) || layer.mount_path.contains('\0') {
        return Err(ConvertError::new("layer.mount_path", "must be an absolute path without `.` or `..`"));
    }
    Ok(Layer {
        root: required("layer.root", layer.root.as_ref())?.try_into()?,
        mount_path: layer.mount_path.clone(),
        purpose: layer.purpose.clone(),
    })
}

pub(super) fn is_absolute_and_plain(path: &str) -> bool {
    path.starts_with('/') && !path.split('/').any(|component| component == "." || component == "..")
}

impl From<&RunPolicy> for v1::RunPolicy {
    fn from(policy: &RunPolicy) -> Self {
        let isolation = match policy.isolation {
            Isolation::Auto => v1::Isolation::Auto,
            Isolation::Process => v1::Isolation::Process,
        };
        Self {
            isolation: isolation.into(),
            retries: policy.retries,
            case_timeout_ms: milliseconds(policy.case_timeout),
            fail_fast: policy.fail_fast,
            read_cache: policy.read_cache,
            cache_host_results: policy.cache_host_results,
            include_ignored: policy.include_ignored,
            only_failed: policy.only_failed,
            list_only: policy.list_only,
            filters: policy.filters.clone(),
        }
    }
}

impl TryFrom<&v1::RunPolicy> for RunPolicy {
    type Error = ConvertError;

    fn try_from(policy: &v1::RunPolicy) -> Result<Self, ConvertError> {
        let isolation = match v1::Isolation::try_from(policy.isolation) {
            Ok(v1::Isolation::Auto | v1::Isolation::Unspecified) => Isolation::Auto,
            Ok(v1::Isolation::Process) => Isolation::Process,
            Err(_) => return Err(ConvertError::new("policy.isolation", "is not known")),
        };
        let case_timeout = match policy.case_timeout_ms {
            0 => limits::CASE_TIMEOUT_DEFAULT,
            milliseconds => Duration::from_millis(milliseconds),
        };
        Ok(Self {
            isolation,
            retries: policy.retries,
            case_timeout,
            fail_fast: policy.fail_fast,
            read_cache: policy.read_cache,
            cache_host_results: policy.cache_host_results,
            include_ignored: policy.include_ignored,
            only_failed: policy.only_failed,
            list_only: policy.list_only,
            filters: policy.filters.clone(),
        })
    }
}

impl From<&RunSpec> for v1::RunSpec {
    fn from(spec: &RunSpec) -> Self {
        Self {
            project: spec.project.clone(),
            targets: spec.targets.iter().map(Into::into).collect(),
            policy: Some((&spec.policy).into()),
        }
    }
}

impl TryFrom<&v1::RunSpec> for RunSpec {
    type Error = ConvertError;

    fn try_from(spec: &v1::RunSpec) -> Result<Self, ConvertError> {
        at_most("run.targets", spec.targets.len(), limits::TARGETS_PER_RUN_MAX)?;
        let targets: Vec<TargetSpec> = spec.targets.iter().map(TargetSpec::try_from).collect::<Result<_, _>>()?;
        let mut names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(ConvertError::new("run.targets", format!("two are named {:?}", pair[0])));
        }
        Ok(Self {
            project: spec.project.clone(),
            targets,
            policy: required("run.policy", spec.policy.as_ref())?.try_into()?,
        })
    }
}
