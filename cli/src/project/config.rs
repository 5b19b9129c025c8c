//! `muster.toml`, the one file in which a project says what can't be found out.
//!
//! ```toml
//! [test]                          # for every suite
//! framework = "cargo"             # only suites of this framework
//! data = ["../testdata/**"]       # files that cases see besides their package's own; they may be ignored by git
//! base = "debian-12-x86_64"       # the base to ask for: a name, "none", or "host" (this host's, the default)
//! environment = "sandbox"         # or "host", or the name of an [environment.NAME]: see `environments`
//! timeout = "90s"                 # wall-clock time of one case: a number of seconds, or a text with ms, s, m or h
//! retries = 2                     # how often a case that failed alone is tried again
//! env = { RUST_BACKTRACE = "1" }  # variables that every case sees
//! memory = "2GiB"                 # of one environment, and set aside for it: a number of bytes, or a text with KiB, MiB or GiB
//! cpu = 2                         # slots that an attempt takes
//! exclusive = "database"          # a group, or a list of groups, of which no two attempts run at one time in the whole fleet
//! tags = ["gpu"]                  # labels that an agent must carry, whatever their values
//! cases = { "*slow*" = { cpu = 2 } }  # cases with resources of their own, by patterns over their names: see `cases`
//! processes = 512                 # processes and threads of one environment
//!
//! [test.api]                      # a suite of its own; it has the keys above and these
//! framework = "command"           # or "cargo" or "pytest"
//! directory = "api"               # relative to this file
//! command = ["./run-tests.sh"]    # for "command"
//! shards = 4                      # for "command": into how many shards it can cut itself
//! args = ["--quick"]              # added to the framework's own command line
//! python = ".venv/bin/python"     # for "pytest": the interpreter
//! requirements = { gpu = "yes" }  # labels that an agent must carry
//! ```
//!
//! Keys of `[test.NAME]` outrank those of `[test]`; `env` and `requirements` are joined, `data` is added.

pub(crate) mod cases;
pub(crate) mod environments;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use muster_model::limits;
use muster_model::platform::EnvironmentKind;
use muster_model::spec::Profile;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use self::cases::CaseSettings;
use self::environments::{NamedEnvironment, ServiceSettings};
use super::error::file_error;
use super::images::ImageReference;
use super::{ProjectError, SuiteFramework};

/// The name of the file.
pub(crate) const FILE_NAME: &str = "muster.toml";

/// What `[test]` and `[test.NAME]` have in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// `framework`.
    pub(crate) framework: Option<SuiteFramework>,
    /// `data`: globs, relative to the file's directory.
    pub(crate) data: Vec<String>,
    /// `base`.
    pub(crate) base: Option<String>,
    /// `environment`, as a kind.
    pub(crate) environment: Option<EnvironmentKind>,
    /// `image` of the `[environment.NAME]` that it names.
    pub(crate) image: Option<ImageReference>,
    /// The services of the environment that it names.
    pub(crate) services: Vec<ServiceSettings>,
    /// `timeout`.
    pub(crate) timeout: Option<Duration>,
    /// `retries`.
    pub(crate) retries: Option<u32>,
    /// `env`.
    pub(crate) environment_variables: BTreeMap<String, String>,
    /// `memory`, in bytes.
    pub(crate) memory_bytes: Option<u64>,
    /// See [`EnvironmentLimits::profile`](muster_model::spec::EnvironmentLimits::profile).
    pub(crate) profile: Option<Profile>,
    /// `processes`.
    pub(crate) processes: Option<u32>,
    /// `args`.
    pub(crate) arguments: Vec<String>,
    /// `python`.
    pub(crate) python: Option<String>,
    /// `requirements`.
    pub(crate) requirements: BTreeMap<String, String>,
    /// `cpu`.
    pub(crate) slots: Option<u32>,
    /// `exclusive`.
    pub(crate) exclusive: Vec<String>,
    /// `tags`.
    pub(crate) tags: Vec<String>,
    /// `cases`, those that go first first.
    pub(crate) cases: Vec<CaseSettings>,
}

/// One `[test.NAME]` table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NamedSuite {
    /// NAME.
    pub(crate) name: String,
    /// `directory`, relative to the file's.
    pub(crate) directory: Option<String>,
    /// `command`.
    pub(crate) command: Vec<String>,
    /// `shards`.
    pub(crate) shards: Option<u32>,
    /// Its own settings, those of `[test]` not yet merged in.
    pub(crate) settings: Settings,
}

/// The file's content.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Configuration {
    /// The keys of `[test]`.
    pub(crate) settings: Settings,
    /// The `[test.NAME]` tables, sorted by name.
    pub(crate) suites: Vec<NamedSuite>,
}

const COMMON_KEYS: [&str; 17] = [
    "framework",
    "data",
    "base",
    "environment",
    "timeout",
    "retries",
    "env",
    "memory",
    "processes",
    "profile",
    "args",
    "python",
    "requirements",
    "cpu",
    "exclusive",
    "tags",
    "cases",
];
/// Keys whose value is a table: a suite can't have such a name.
const TABLE_KEYS: [&str; 3] = ["env", "requirements", "cases"];
const SUITE_KEYS: [&str; 3] = ["directory", "command", "shards"];
const ROOT_KEYS: [&str; 2] = ["test", "environment"];

impl Configuration {
    /// Reads the file in `directory`; one that is not there says nothing.
    ///
    /// # Errors
    ///
    /// [`ProjectError::Configuration`] with line and column, or a file that can't be read.
    pub(crate) fn read(directory: &Path) -> Result<Self, ProjectError> {
        let path = directory.join(FILE_NAME);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(file_error("read", path)(error)),
        }
    }

    fn parse(text: &str) -> Result<Self, ProjectError> {
        let mut reader = Reader { text, environments: BTreeMap::new() };
        let document = DeTable::parse(text).map_err(|error| {
            let hint = "see the keys and their forms in the documentation of muster.toml".to_owned();
            reader.error(error.span().unwrap_or(0..0), error.message().to_owned(), hint)
        })?;
        let mut configuration = Self::default();
        let environments = document.get_ref().iter().find(|(key, _)| key.get_ref() == "environment");
        if let Some((_, value)) = environments {
            reader.environments = reader.environments(value)?;
        }
        for (key, value) in document.get_ref() {
            match key.get_ref().as_ref() {
                "environment" => {}
                "test" => reader.test(value, &mut configuration)?,
                _ => return Err(reader.unknown(key, &ROOT_KEYS)),
            }
        }
        Ok(configuration)
    }
}

impl Settings {
    /// These settings where they say something, `general` where they do not.
    pub(crate) fn over(mut self, general: &Self) -> Self {
        let joined = |own: BTreeMap<String, String>, general: &BTreeMap<String, String>| {
            let mut joined = general.clone();
            joined.extend(own);
            joined
        };
        let mut data = general.data.clone();
        data.append(&mut self.data);
        Self {
            framework: self.framework.or(general.framework),
            data,
            base: self.base.or_else(|| general.base.clone()),
            image: if self.environment.is_some() { self.image } else { general.image.clone() },
            services: if self.environment.is_some() { self.services } else { general.services.clone() },
            environment: self.environment.or(general.environment),
            timeout: self.timeout.or(general.timeout),
            retries: self.retries.or(general.retries),
            environment_variables: joined(self.environment_variables, &general.environment_variables),
            memory_bytes: self.memory_bytes.or(general.memory_bytes),
            processes: self.processes.or(general.processes),
            profile: self.profile.or(general.profile),
            arguments: if self.arguments.is_empty() { general.arguments.clone() } else { self.arguments },
            python: self.python.or_else(|| general.python.clone()),
            requirements: joined(self.requirements, &general.requirements),
            slots: self.slots.or(general.slots),
            exclusive: if self.exclusive.is_empty() { general.exclusive.clone() } else { self.exclusive },
            tags: [general.tags.clone(), self.tags].concat(),
            cases: if self.cases.is_empty() { general.cases.clone() } else { self.cases },
        }
    }
}

type Key<'a> = Spanned<DeString<'a>>;
type Value<'a> = Spanned<DeValue<'a>>;

/// Turns positions into lines and columns.
struct Reader<'a> {
    text: &'a str,
    /// By name, once they have been read.
    environments: BTreeMap<String, NamedEnvironment>,
}

impl Reader<'_> {
    fn test(&self, value: &Value<'_>, configuration: &mut Configuration) -> Result<(), ProjectError> {
        for (key, value) in self.table(value)? {
            let name = key.get_ref().as_ref();
            let is_suite = value.get_ref().is_table() && !TABLE_KEYS.contains(&name);
            if !is_suite && self.common(name, value, &mut configuration.settings)? {
                continue;
            }
            if !value.get_ref().is_table() {
                return Err(self.unknown(key, &COMMON_KEYS));
            }
            configuration.suites.push(self.suite(key, value)?);
        }
        Ok(())
    }

    fn suite(&self, key: &Key<'_>, value: &Value<'_>) -> Result<NamedSuite, ProjectError> {
        let name = key.get_ref().to_string();
        let mut suite =
            NamedSuite { name, directory: None, command: Vec::new(), shards: None, settings: Settings::default() };
        for (key, value) in self.table(value)? {
            match key.get_ref().as_ref() {
                "directory" => suite.directory = Some(self.string(value)?),
                "command" => suite.command = self.strings(value)?,
                "shards" => suite.shards = Some(self.number(value, 1)?),
                name if self.common(name, value, &mut suite.settings)? => {}
                _ => {
                    let known: Vec<&str> = COMMON_KEYS.into_iter().chain(SUITE_KEYS).collect();
                    return Err(self.unknown(key, &known));
                }
            }
        }
        if suite.settings.framework.is_none() {
            if suite.command.is_empty() {
                let message = format!("suite `{}` has no framework", suite.name);
                let hint = "add framework = \"cargo\", \"pytest\" or \"command\"".to_owned();
                return Err(self.error(key.span(), message, hint));
            }
            suite.settings.framework = Some(SuiteFramework::Command);
        }
        if suite.settings.framework == Some(SuiteFramework::Command) && suite.command.is_empty() {
            let message = format!("suite `{}` has no command", suite.name);
            return Err(self.error(key.span(), message, "add command = [\"PROGRAM\", \"ARGUMENT\"]".to_owned()));
        }
        Ok(suite)
    }

    /// Takes a key that `[test]` and `[test.NAME]` share; false when it is none.
    fn common(&self, name: &str, value: &Value<'_>, settings: &mut Settings) -> Result<bool, ProjectError> {
        match name {
            "framework" => settings.framework = Some(self.framework(value)?),
            "data" => settings.data = self.globs(value)?,
            "base" => settings.base = Some(self.string(value)?),
            "environment" => {
                let environment = self.environment(value)?;
                settings.environment = Some(environment.kind);
                settings.image = environment.image;
                settings.services = environment.services;
            }
            "timeout" => settings.timeout = Some(self.duration(value)?),
            "retries" => settings.retries = Some(self.number(value, 0)?),
            "env" => settings.environment_variables = self.variables(name, value)?,
            "memory" => settings.memory_bytes = Some(self.bytes(value)?),
            "processes" => settings.processes = Some(self.number(value, 1)?),
            "profile" => settings.profile = Some(self.profile(value)?),
            "args" => settings.arguments = self.strings(value)?,
            "python" => settings.python = Some(self.string(value)?),
            "requirements" => settings.requirements = self.variables(name, value)?,
            "cpu" => settings.slots = Some(self.number(value, 1)?),
            "exclusive" => settings.exclusive = self.groups(value)?,
            "tags" => settings.tags = self.strings(value)?,
            "cases" => settings.cases = self.cases(value)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn framework(&self, value: &Value<'_>) -> Result<SuiteFramework, ProjectError> {
        match value.get_ref().as_str() {
            Some("cargo") => Ok(SuiteFramework::Cargo),
            Some("pytest") => Ok(SuiteFramework::Pytest),
            Some("command") => Ok(SuiteFramework::Command),
            _ => Err(self.expected(value, "\"cargo\", \"pytest\" or \"command\"")),
        }
    }

    /// A kind, or the name of an `[environment.NAME]`.
    fn environment(&self, value: &Value<'_>) -> Result<NamedEnvironment, ProjectError> {
        match value.get_ref().as_str().and_then(|name| self.environments.get(name)) {
            Some(named) => Ok(named.clone()),
            None => self.kind(value).map(|kind| NamedEnvironment { kind, ..NamedEnvironment::default() }),
        }
    }

    fn kind(&self, value: &Value<'_>) -> Result<EnvironmentKind, ProjectError> {
        match value.get_ref().as_str() {
            Some("sandbox") => Ok(EnvironmentKind::Sandbox),
            Some("host") => Ok(EnvironmentKind::Host),
            Some("docker") => Ok(EnvironmentKind::Docker),
            _ if self.environments.is_empty() => Err(self.expected(value, "\"sandbox\", \"docker\" or \"host\"")),
            _ => {
                let names: Vec<String> = self.environments.keys().map(|name| format!("{name:?}")).collect();
                Err(self.expected(value, &format!("\"sandbox\", \"docker\", \"host\" or {}", names.join(" or "))))
            }
        }
    }

    fn profile(&self, value: &Value<'_>) -> Result<Profile, ProjectError> {
        let known = [Profile::Strict, Profile::Debug];
        let named = value.get_ref().as_str().and_then(|name| known.into_iter().find(|profile| profile.name() == name));
        named.ok_or_else(|| self.expected(value, "\"strict\" or \"debug\""))
    }

    /// One name, or several.
    fn groups(&self, value: &Value<'_>) -> Result<Vec<String>, ProjectError> {
        let groups = match value.get_ref().as_str() {
            Some(_) => vec![self.string(value)?],
            None => self.strings(value)?,
        };
        let is_fit = |group: &String| group.len() <= limits::NAME_BYTES_MAX && !group.contains('\0');
        if groups.len() > limits::EXCLUSIVE_GROUPS_MAX || !groups.iter().all(is_fit) {
            let most =
                format!("at most {} names of at most {} bytes", limits::EXCLUSIVE_GROUPS_MAX, limits::NAME_BYTES_MAX);
            return Err(self.expected(value, &most));
        }
        Ok(groups)
    }

    fn globs(&self, value: &Value<'_>) -> Result<Vec<String>, ProjectError> {
        let globs = self.strings(value)?;
        for glob in &globs {
            if let Err(error) = globset::Glob::new(glob) {
                return Err(self.error(
                    value.span(),
                    error.to_string(),
                    "write a glob like \"testdata/**\"".to_owned(),
                ));
            }
        }
        Ok(globs)
    }

    fn duration(&self, value: &Value<'_>) -> Result<Duration, ProjectError> {
        const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
        let milliseconds = self.measured(value, 1_000, &UNITS);
        match milliseconds {
            Some(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
            _ => Err(self.expected(value, "a number of seconds, or a text like \"500ms\", \"90s\" or \"5m\"")),
        }
    }

    fn bytes(&self, value: &Value<'_>) -> Result<u64, ProjectError> {
        const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
        let bytes = self.measured(value, 1, &UNITS);
        bytes
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| self.expected(value, "a number of bytes, or a text like \"512MiB\""))
    }

    /// A whole number, in `plain` when it has no unit.
    fn measured(&self, value: &Value<'_>, plain: u64, units: &[(&str, u64)]) -> Option<u64> {
        if let Some(integer) = value.get_ref().as_integer() {
            return integer_of(integer)?.checked_mul(plain);
        }
        let text = value.get_ref().as_str()?.trim();
        let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic() || character == ' ');
        let unit = text[digits.len()..].trim();
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        digits.parse::<u64>().ok()?.checked_mul(*factor)
    }

    fn number(&self, value: &Value<'_>, least: u32) -> Result<u32, ProjectError> {
        let number = value.get_ref().as_integer().and_then(integer_of).and_then(|number| u32::try_from(number).ok());
        let number = number.filter(|number| *number >= least);
        number.ok_or_else(|| self.expected(value, &format!("a whole number from {least} to {}", u32::MAX)))
    }

    fn string(&self, value: &Value<'_>) -> Result<String, ProjectError> {
        let text = value.get_ref().as_str().filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| self.expected(value, "a text"))
    }

    fn strings(&self, value: &Value<'_>) -> Result<Vec<String>, ProjectError> {
        let array = value.get_ref().as_array().ok_or_else(|| self.expected(value, "a list of texts"))?;
        array.iter().map(|value| self.string(value)).collect()
    }

    /// The table of the key `name`.
    fn variables(&self, name: &str, value: &Value<'_>) -> Result<BTreeMap<String, String>, ProjectError> {
        let mut variables = BTreeMap::new();
        for (key, value) in self.table(value)? {
            if ["framework", "command"].contains(&key.get_ref().as_ref()) {
                let message = format!("`{name}` is a key, and no suite can have its name");
                let hint = format!("call the suite something else, as in [test.{name}-tests]");
                return Err(self.error(key.span(), message, hint));
            }
            let text = value.get_ref().as_str().ok_or_else(|| self.expected(value, "a text"))?;
            variables.insert(key.get_ref().to_string(), text.to_owned());
        }
        Ok(variables)
    }

    fn table<'a>(&self, value: &'a Value<'a>) -> Result<&'a DeTable<'a>, ProjectError> {
        value.get_ref().as_table().ok_or_else(|| self.expected(value, "a table"))
    }

    fn expected(&self, value: &Value<'_>, wanted: &str) -> ProjectError {
        let found = self.text.get(value.span()).unwrap_or_default().lines().next().unwrap_or_default();
        self.error(value.span(), format!("`{found}` is not {wanted}"), format!("write {wanted}"))
    }

    fn unknown(&self, key: &Key<'_>, known: &[&str]) -> ProjectError {
        let name = key.get_ref().as_ref();
        let nearest = known.iter().min_by_key(|candidate| distance(name, candidate));
        let hint = match nearest {
            Some(nearest) if distance(name, nearest) <= 2 => format!("did you mean `{nearest}`?"),
            _ => format!("known keys are {}", known.join(", ")),
        };
        self.error(key.span(), format!("unknown key `{name}`"), hint)
    }

    fn error(&self, span: Range<usize>, message: String, hint: String) -> ProjectError {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        ProjectError::Configuration { place: format!("{FILE_NAME}:{line}:{column}"), message, hint }
    }
}

fn integer_of(integer: &toml::de::DeInteger<'_>) -> Option<u64> {
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

/// How many characters must be added, removed or replaced to make one text of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, character) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (position, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *wanted);
            diagonal = row[position + 1];
            row[position + 1] = replaced.min(diagonal + 1).min(row[position] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
