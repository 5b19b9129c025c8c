//! Services of targets.

use core::time::Duration;
use std::collections::BTreeSet;

use muster_model::limits;
use muster_model::platform::EngineImage;
use muster_model::service::{CloneMode, Probe, ServiceSpec};
use muster_model::spec::{EnvironmentLimits, Profile};

use super::spec::{command, is_absolute_and_plain, layer, layer_to_wire, milliseconds};
use super::{ConvertError, at_most, required};
use crate::v1;

impl From<&EnvironmentLimits> for v1::EnvironmentLimits {
    fn from(limits: &EnvironmentLimits) -> Self {
        Self {
            memory_bytes: limits.memory_bytes,
            processes: limits.processes,
            output_bytes: limits.output_bytes,
            profile: match limits.profile {
                Profile::Strict => v1::Profile::Strict,
                Profile::Debug => v1::Profile::Debug,
            }
            .into(),
        }
    }
}

impl TryFrom<v1::EnvironmentLimits> for EnvironmentLimits {
    type Error = ConvertError;

    fn try_from(limits: v1::EnvironmentLimits) -> Result<Self, ConvertError> {
        let profile = match v1::Profile::try_from(limits.profile) {
            Ok(v1::Profile::Unspecified | v1::Profile::Strict) => Profile::Strict,
            Ok(v1::Profile::Debug) => Profile::Debug,
            Err(_) => return Err(ConvertError::new("target.limits.profile", "is unknown")),
        };
        let v1::EnvironmentLimits { memory_bytes, processes, output_bytes, .. } = limits;
        Ok(Self { memory_bytes, processes, output_bytes, profile })
    }
}

impl From<&ServiceSpec> for v1::ServiceSpec {
    fn from(service: &ServiceSpec) -> Self {
        use v1::service_spec::Ready;
        Self {
            name: service.name.clone(),
            command: Some((&service.command).into()),
            layers: service.layers.iter().map(layer_to_wire).collect(),
            without_base: !service.with_base,
            image: service.image.as_ref().map(|image| image.as_str().to_owned()).unwrap_or_default(),
            setup: service.setup.clone(),
            data: service.data.clone(),
            ready: Some(match &service.ready {
                Probe::Tcp(port) => Ready::Tcp(u32::from(*port)),
                Probe::Http { port, path } => Ready::Http(v1::HttpProbe { port: (*port).into(), path: path.clone() }),
                Probe::Exec(arguments) => Ready::Exec(v1::ExecProbe { arguments: arguments.clone() }),
                Probe::Log(text) => Ready::Log(text.clone()),
            }),
            deadline_ms: milliseconds(service.deadline),
            interval_ms: milliseconds(service.interval),
            after: service.after.clone(),
            clone: match service.clone {
                CloneMode::None => v1::CloneMode::None,
                CloneMode::TemplateDatabase => v1::CloneMode::TemplateDatabase,
                CloneMode::CopyOnWrite => v1::CloneMode::CopyOnWrite,
            }
            .into(),
            export: service
                .export
                .iter()
                .map(|(key, value)| v1::Property { key: key.clone(), value: value.clone() })
                .collect(),
            limits: Some((&service.limits).into()),
        }
    }
}

/// The services of a target, in an order in which they can be started.
pub(super) fn services(services: &[v1::ServiceSpec]) -> Result<Vec<ServiceSpec>, ConvertError> {
    at_most("target.services", services.len(), limits::SERVICES_PER_TARGET_MAX)?;
    let mut earlier = BTreeSet::new();
    let mut checked = Vec::with_capacity(services.len());
    for service in services {
        if let Some(unknown) = service.after.iter().find(|name| !earlier.contains(name.as_str())) {
            return Err(ConvertError::new("service.after", format!("no service before this one is named {unknown:?}")));
        }
        checked.push(one(service)?);
        if !earlier.insert(service.name.as_str()) {
            return Err(ConvertError::new("service.name", format!("two are named {:?}", service.name)));
        }
    }
    Ok(checked)
}

fn one(service: &v1::ServiceSpec) -> Result<ServiceSpec, ConvertError> {
    if service.name.is_empty() {
        return Err(ConvertError::missing("service.name"));
    }
    at_most("service.layers", service.layers.len(), limits::LAYERS_PER_TARGET_MAX)?;
    let has_data = !service.data.is_empty();
    if (has_data && (!is_absolute_and_plain(&service.data) || service.data == "/"))
        || (!has_data && !service.setup.is_empty())
    {
        return Err(ConvertError::new("service.data", "must be an absolute path below `/`, without `.` or `..`"));
    }
    let clone = match v1::CloneMode::try_from(service.clone) {
        Ok(v1::CloneMode::Unspecified | v1::CloneMode::None) => CloneMode::None,
        Ok(v1::CloneMode::TemplateDatabase) => CloneMode::TemplateDatabase,
        Ok(v1::CloneMode::CopyOnWrite) => CloneMode::CopyOnWrite,
        Err(_) => return Err(ConvertError::new("service.clone", "is unknown")),
    };
    let image = match service.image.as_str() {
        "" => None,
        text => Some(EngineImage::parse(text).ok_or_else(|| ConvertError::new("service.image", "is not by digest"))?),
    };
    let ready = probe(required("service.ready", service.ready.as_ref())?)?;
    if clone == CloneMode::TemplateDatabase && !matches!(ready, Probe::Tcp(_)) {
        return Err(ConvertError::new("service.clone", "needs a service that is ready by tcp"));
    }
    let texts = service.setup.iter().chain(&service.after).chain([&service.name, &service.data]);
    let pairs = service.export.iter().flat_map(|pair| [&pair.key, &pair.value]);
    if texts.chain(pairs).any(|text| text.contains('\0')) {
        return Err(ConvertError::new("service", "contains a NUL character"));
    }
    if service.export.iter().any(|pair| pair.key.is_empty() || pair.key.contains('=')) {
        return Err(ConvertError::new("service.export", "has a name that is empty or contains `=`"));
    }
    Ok(ServiceSpec {
        name: service.name.clone(),
        command: command(required("service.command", service.command.as_ref())?)?,
        with_base: !service.without_base,
        image,
        layers: service.layers.iter().map(layer).collect::<Result<_, _>>()?,
        setup: service.setup.clone(),
        data: service.data.clone(),
        ready,
        deadline: within(
            "service.deadline_ms",
            service.deadline_ms,
            [limits::PROBE_INTERVAL_MIN, limits::SERVICE_READY_TIME_MAX],
        )?,
        interval: within(
            "service.interval_ms",
            service.interval_ms,
            [limits::PROBE_INTERVAL_MIN, limits::PROBE_INTERVAL_MAX],
        )?,
        after: service.after.clone(),
        clone,
        export: service.export.iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect(),
        limits: service.limits.unwrap_or_default().try_into()?,
    })
}

fn within(field: &'static str, milliseconds: u64, [least, most]: [Duration; 2]) -> Result<Duration, ConvertError> {
    let duration = Duration::from_millis(milliseconds);
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(ConvertError::new(field, format!("must be from {} to {}", least.as_millis(), most.as_millis())))
}

fn probe(ready: &v1::service_spec::Ready) -> Result<Probe, ConvertError> {
    use v1::service_spec::Ready;
    let port = |port: u32| match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(ConvertError::new("service.ready", "is not a port from 1 to 65535")),
    };
    Ok(match ready {
        Ready::Tcp(number) => Probe::Tcp(port(*number)?),
        Ready::Http(probe) if probe.path.starts_with('/') && !probe.path.contains(char::is_whitespace) => {
            Probe::Http { port: port(probe.port)?, path: probe.path.clone() }
        }
        Ready::Http(_) => {
            return Err(ConvertError::new("service.ready", "is not a path that begins with `/` and has no blanks"));
        }
        Ready::Exec(probe) if probe.arguments.first().is_some_and(|program| !program.is_empty()) => {
            Probe::Exec(probe.arguments.clone())
        }
        Ready::Log(text) if !text.is_empty() => Probe::Log(text.clone()),
        Ready::Exec(_) | Ready::Log(_) => return Err(ConvertError::missing("service.ready")),
    })
}
