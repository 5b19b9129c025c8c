//! What an agent offers and what work asks for.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::{Digest, limits};

/// A sorted set of `key = value` properties, each key at most once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Properties(Vec<(String, String)>);

impl Properties {
    /// Sorts and keeps the last value of a key that occurs twice.
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut properties = Self::default();
        for (key, value) in pairs {
            properties.set(key, value);
        }
        properties
    }

    /// Sets one property.
    pub fn set(&mut self, key: String, value: String) {
        match self.0.binary_search_by(|(known, _)| known.cmp(&key)) {
            Ok(position) => self.0[position].1 = value,
            Err(position) => self.0.insert(position, (key, value)),
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let position = self.0.binary_search_by(|(known, _)| known.as_str().cmp(key)).ok()?;
        Some(&self.0[position].1)
    }

    /// Every pair in order of keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// A base as an agent offers it: a name that people use and a digest that keys use.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Base {
    /// For example `debian-12-x86_64`.
    pub name: String,
    /// Over everything the base shows; see `muster-environment`'s `base` module for what goes in.
    pub digest: Digest,
}

/// The base that work asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BaseRequest {
    /// Nothing under the layers: the hermetic form, `base = "none"`.
    #[default]
    None,
    /// This name, any digest; the coordinator pins it to what its agents offer before anything is keyed or queued.
    Named(String),
    /// Exactly this.
    Pinned(Base),
    /// A Docker image, in a container.
    Image(EngineImage),
}

impl BaseRequest {
    /// Whether the agent's own base is under the layers.
    pub fn shows_base(&self) -> bool {
        matches!(self, Self::Named(_) | Self::Pinned(_))
    }

    /// The Docker image that is asked for.
    pub fn image(&self) -> Option<&EngineImage> {
        match self {
            Self::Image(image) => Some(image),
            Self::None | Self::Named(_) | Self::Pinned(_) => None,
        }
    }
}

/// A Docker image by digest: `sha256:` and 64 lower-case hexadecimal digits, the image's own digest as `docker images --digests --no-trunc` tells it, or
/// the same after a name and an `@`, the digest that a registry gave it. A name alone may mean something else tomorrow, and is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EngineImage(String);

impl EngineImage {
    /// Reads one; `None` when it is not by digest, or longer than [`limits::NAME_BYTES_MAX`].
    pub fn parse(text: &str) -> Option<Self> {
        let (name, digest) = text.split_once('@').map_or((None, text), |(name, digest)| (Some(name), digest));
        let hash = digest.strip_prefix("sha256:")?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':');
        let is_named = name.is_none_or(|name| !name.is_empty() && name.bytes().all(is_letter));
        let is_one = is_hash && is_named && text.len() <= limits::NAME_BYTES_MAX;
        is_one.then(|| Self(text.into()))
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a registry knows it, so that it can be pulled.
    pub fn has_name(&self) -> bool {
        self.0.contains('@')
    }
}

impl fmt::Display for EngineImage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where an attempt runs. The kind is part of every action's key and of every result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EnvironmentKind {
    /// Namespaces over a base and layers.
    #[default]
    Sandbox,
    /// The bare host: labelled in every result, never cached unless asked for.
    Host,
    /// A container of a Docker engine on the agent's machine, over a base and layers.
    Docker,
}

impl EnvironmentKind {
    /// The name used in configuration, results and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Host => "host",
            Self::Docker => "docker",
        }
    }
}

/// A wall of sandboxes that a machine may lack. An agent offers no sandbox without it unless its operator allows that, and then every result says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Weakness {
    /// Control groups: without them memory is limited by nothing but the size of files in it, and processes by the kernel's own count.
    ControlGroups,
    /// Landlock: without it the file system has one wall less.
    Landlock,
}

impl Weakness {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::ControlGroups, Self::Landlock];

    /// The name used in flags, keys and results.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlGroups => "control-groups",
            Self::Landlock => "landlock",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|weakness| weakness.name() == name)
    }
}

/// What an attempt takes of the fleet while it runs. None of it is part of a key: it changes when and where a case runs, not what it sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resources {
    /// Slots of its agent, all of them at once; 0 is one.
    pub slots: u32,
    /// Memory that is set aside on its agent, in bytes; 0 for nothing, and then it only counts as a slot does.
    pub memory_bytes: u64,
    /// Groups of which no two attempts run at one time in the whole fleet; sorted, each once.
    pub exclusive: Vec<String>,
}

impl Resources {
    /// The slots that an attempt takes; at least 1.
    pub fn slots_taken(&self) -> u32 {
        self.slots.max(1)
    }

    /// Whether it takes more than any one slot.
    pub fn is_special(&self) -> bool {
        self.slots > 1 || self.memory_bytes > 0 || !self.exclusive.is_empty()
    }
}

/// What a target needs of an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirements {
    /// The base under the layers. Never [`BaseRequest::Named`] once it is queued.
    pub base: BaseRequest,
    /// The kind of environment.
    pub environment: EnvironmentKind,
    /// Labels that the agent must carry with exactly these values.
    pub properties: Properties,
    /// Labels that the agent must carry, whatever their values; sorted, each once.
    pub tags: Vec<String>,
    /// What an attempt takes while it runs.
    pub resources: Resources,
    /// Walls of sandboxes that the agent may lack; sorted, each once. Settled by the coordinator by what its agents offer.
    pub without: Vec<Weakness>,
}

/// What an agent has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offer {
    /// The bases it can put under an environment.
    pub bases: Vec<Base>,
    /// The kinds of environment that it has found to work.
    pub environments: Vec<EnvironmentKind>,
    /// Its labels, `os` and `arch` among them.
    pub properties: Properties,
    /// Attempts of one slot that it runs at one time; 0 is one.
    pub slots: u32,
    /// Memory that attempts can set aside, in bytes.
    pub memory_bytes: u64,
    /// Walls that its sandboxes lack; sorted, each once.
    pub without: Vec<Weakness>,
}

/// The first thing that an offer lacks for a requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// No base of that name and digest.
    Base(BaseRequest),
    /// The kind of environment does not work there.
    Environment(EnvironmentKind),
    /// The property is missing or differs.
    Property {
        /// Its key.
        key: String,
        /// The value asked for.
        wanted: String,
        /// The value offered, if any.
        offered: Option<String>,
    },
    /// Its sandboxes have a wall less than asked for.
    Wall(Weakness),
    /// The label is missing.
    Tag(String),
    /// An attempt takes more slots than there are.
    Slots {
        /// What it takes.
        wanted: u32,
        /// What there is.
        offered: u32,
    },
    /// An attempt sets more memory aside than there is.
    Memory {
        /// What it takes, in bytes.
        wanted: u64,
        /// What there is, in bytes.
        offered: u64,
    },
}

impl Lack {
    /// Whether the agent is merely too small.
    pub fn is_of_size(&self) -> bool {
        matches!(self, Self::Slots { .. } | Self::Memory { .. })
    }
}

impl Offer {
    /// Whether work with these requirements can run here.
    ///
    /// # Errors
    ///
    /// The first thing that is missing, in the order environment, walls, base, properties, tags, slots, memory.
    pub fn satisfies(&self, requirements: &Requirements) -> Result<(), Lack> {
        if !self.environments.contains(&requirements.environment) {
            return Err(Lack::Environment(requirements.environment));
        }
        let is_lacking = |weakness: &&Weakness| !requirements.without.contains(weakness);
        if requirements.environment == EnvironmentKind::Sandbox
            && let Some(weakness) = self.without.iter().find(is_lacking)
        {
            return Err(Lack::Wall(*weakness));
        }
        let has_base = match &requirements.base {
            BaseRequest::None => true,
            BaseRequest::Named(name) => self.bases.iter().any(|base| &base.name == name),
            BaseRequest::Pinned(pinned) => self.bases.contains(pinned),
            // An engine has it or gets it; only containers have one.
            BaseRequest::Image(_) => requirements.environment == EnvironmentKind::Docker,
        };
        if !has_base {
            return Err(Lack::Base(requirements.base.clone()));
        }
        for (key, wanted) in requirements.properties.iter() {
            let offered = self.properties.get(key);
            if offered != Some(wanted) {
                return Err(Lack::Property {
                    key: key.into(),
                    wanted: wanted.into(),
                    offered: offered.map(Into::into),
                });
            }
        }
        if let Some(tag) = requirements.tags.iter().find(|tag| self.properties.get(tag).is_none()) {
            return Err(Lack::Tag(tag.clone()));
        }
        let Resources { memory_bytes, .. } = requirements.resources;
        let (wanted, offered) = (requirements.resources.slots_taken(), self.slots.max(1));
        if wanted > offered {
            return Err(Lack::Slots { wanted, offered });
        }
        if memory_bytes > self.memory_bytes {
            return Err(Lack::Memory { wanted: memory_bytes, offered: self.memory_bytes });
        }
        Ok(())
    }
}

impl fmt::Display for BaseRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => formatter.write_str("none"),
            Self::Named(name) => formatter.write_str(name),
            Self::Pinned(base) => fmt::Display::fmt(base, formatter),
            Self::Image(image) => fmt::Display::fmt(image, formatter),
        }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = self.digest.hex();
        write!(formatter, "{}@{}", self.name, &hex[..12])
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base(request) => write!(formatter, "base {request}"),
            Self::Environment(kind) => write!(formatter, "a working {} environment", kind.name()),
            Self::Property { key, wanted, offered: None } => write!(formatter, "property {key}={wanted}"),
            Self::Property { key, wanted, offered: Some(offered) } => {
                write!(formatter, "property {key}={wanted} (it has {key}={offered})")
            }
            Self::Wall(weakness) => write!(formatter, "{} in its sandboxes", weakness.name()),
            Self::Tag(tag) => write!(formatter, "tag {tag}"),
            Self::Slots { wanted, offered } => {
                write!(formatter, "slots: an attempt takes {wanted} and it has {offered}")
            }
            Self::Memory { wanted, offered } => {
                let mebibytes = |bytes: &u64| bytes.div_ceil(1 << 20);
                let (wanted, offered) = (mebibytes(wanted), mebibytes(offered));
                write!(formatter, "memory: an attempt takes {wanted} MiB and it has {offered} MiB")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;

    #[test]
    fn an_image_is_named_by_digest_or_not_at_all() {
        let hash = "0123456789abcdef".repeat(4);
        let digest = alloc::format!("sha256:{hash}");
        for right in [digest.clone(), alloc::format!("postgres@{digest}"), alloc::format!("host:5000/a/b-c@{digest}")] {
            let image = EngineImage::parse(&right).expect("an image");
            assert_eq!((image.as_str(), image.has_name()), (&*right, right.contains('@')));
        }
        let upper = digest.to_uppercase();
        for wrong in ["", "postgres", "postgres:15", "sha256:12", &*upper, "postgres@sha256:", "@", "a b@", "sha512:"] {
            assert_eq!(EngineImage::parse(wrong), None, "{wrong}");
            assert_eq!(EngineImage::parse(&alloc::format!("{wrong} @{digest}")), None, "{wrong}");
        }
        assert_eq!(EngineImage::parse(&alloc::format!("@{digest}")), None);
        assert_eq!(EngineImage::parse(&alloc::format!("{}@{digest}", "n".repeat(limits::NAME_BYTES_MAX))), None);
    }

    #[test]
    fn an_image_is_for_containers_alone() {
        let image = EngineImage::parse(&alloc::format!("sha256:{}", "0".repeat(64))).expect("an image");
        let environments = vec![EnvironmentKind::Sandbox, EnvironmentKind::Docker];
        let offer = Offer { environments, ..Offer::default() };
        let mut wanted = Requirements { base: BaseRequest::Image(image), ..Requirements::default() };
        assert!(matches!(offer.satisfies(&wanted), Err(Lack::Base(_))));
        wanted.environment = EnvironmentKind::Docker;
        assert_eq!(offer.satisfies(&wanted), Ok(()));
    }

    #[test]
    fn an_offer_names_the_first_thing_it_lacks() {
        let base = Base { name: "debian-12".into(), digest: Digest::of(b"base") };
        let offer = Offer {
            bases: vec![base.clone()],
            environments: vec![EnvironmentKind::Sandbox],
            properties: Properties::new([("arch".into(), "x86_64".into())]),
            slots: 2,
            memory_bytes: 1 << 30,
            without: vec![Weakness::Landlock],
        };
        let mut wanted = Requirements { base: BaseRequest::Pinned(base), ..Requirements::default() };
        assert_eq!(offer.satisfies(&wanted), Err(Lack::Wall(Weakness::Landlock)));
        wanted.without = Weakness::ALL.to_vec();
        assert_eq!(offer.satisfies(&wanted), Ok(()));
        wanted.properties.set("arch".into(), "aarch64".into());
        let lack = offer.satisfies(&wanted).expect_err("another architecture");
        assert_eq!(lack.to_string(), "property arch=aarch64 (it has arch=x86_64)");
        wanted.properties = Properties::default();
        let lacks = |tag: &str, slots, memory_bytes| {
            let resources = Resources { slots, memory_bytes, ..Resources::default() };
            let wanted = Requirements { tags: vec![tag.into()], resources, ..wanted.clone() };
            offer.satisfies(&wanted).map_err(|lack| lack.to_string())
        };
        assert_eq!(lacks("arch", 2, 1 << 30), Ok(()));
        assert_eq!(lacks("gpu", 1, 0), Err("tag gpu".into()));
        assert_eq!(lacks("arch", 3, 0), Err("slots: an attempt takes 3 and it has 2".into()));
        let memory = "memory: an attempt takes 1025 MiB and it has 1024 MiB";
        assert_eq!(lacks("arch", 0, (1 << 30) + 1), Err(memory.into()));
        wanted.environment = EnvironmentKind::Host;
        assert_eq!(offer.satisfies(&wanted), Err(Lack::Environment(EnvironmentKind::Host)));
    }
}
