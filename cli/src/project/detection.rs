//! Which suites a project has, from `muster.toml` and from what the frameworks themselves look for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use muster_model::platform::{BaseRequest, EnvironmentKind, Properties, Requirements, Resources};
use muster_model::spec::{EnvironmentLimits, TargetPolicy};

use super::config::{Configuration, NamedSuite, Settings};
use super::error::file_error;
use super::images::ImageReference;
use super::{Project, ProjectError, ProjectOptions, Suite, SuiteFramework, base};

/// Directories below the root that are searched for Python tests, and how deep.
const SEARCH_DEPTH_MAX: usize = 4;

/// What a suite is made from besides its place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// `muster.toml` and the command line, joined.
    pub(crate) settings: Settings,
    /// For commands: the program and its arguments.
    pub(crate) command: Vec<String>,
    /// For commands.
    pub(crate) shards: u32,
    /// For cargo.
    pub(crate) cargo_arguments: Vec<String>,
}

impl Suite {
    /// What its targets ask of an agent.
    pub(crate) fn requirements(&self) -> Requirements {
        let settings = &self.plan.settings;
        let labels = settings.requirements.iter().map(|(key, value)| (key.clone(), value.clone()));
        let mut properties = Properties::new(labels);
        // What is built here runs on machines like this one.
        for (key, value) in [("os", std::env::consts::OS), ("arch", std::env::consts::ARCH)] {
            if properties.get(key).is_none() {
                properties.set(key.into(), value.into());
            }
        }
        Requirements {
            // An image takes the place of a base.
            base: match &settings.image {
                Some(ImageReference::Engine(image)) => BaseRequest::Image(image.clone()),
                Some(ImageReference::Digest(_) | ImageReference::Name(_)) => BaseRequest::None,
                None => base::request(settings.base.as_deref()),
            },
            environment: settings.environment.unwrap_or(EnvironmentKind::Sandbox),
            properties,
            tags: sorted(&settings.tags),
            resources: Resources {
                slots: settings.slots.unwrap_or(0),
                memory_bytes: settings.memory_bytes.unwrap_or(0),
                exclusive: sorted(&settings.exclusive),
            },
            without: Vec::new(),
        }
    }

    /// Where its targets depart from the run's policy.
    pub(crate) fn policy(&self) -> TargetPolicy {
        let Settings { retries, timeout, .. } = self.plan.settings;
        TargetPolicy { retries, case_timeout: timeout, ..TargetPolicy::default() }
    }

    /// The bounds on its environments.
    pub(crate) fn limits(&self) -> EnvironmentLimits {
        EnvironmentLimits {
            memory_bytes: self.plan.settings.memory_bytes.unwrap_or(0),
            processes: self.plan.settings.processes.unwrap_or(0),
            output_bytes: 0,
            profile: self.plan.settings.profile.unwrap_or_default(),
        }
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort();
    names.dedup();
    names
}

/// See [`super::detect`].
pub(super) fn detect(path: &Path, options: &ProjectOptions) -> Result<Project, ProjectError> {
    let root = fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ProjectError::NoProject { path: path.into() },
        _ => file_error("open", path)(error),
    })?;
    let root = if root.is_file() { root.parent().unwrap_or(Path::new("/")).to_owned() } else { root };
    let configuration = Configuration::read(&root)?;
    let mut suites = found_suites(&root, &configuration, options);
    for named in &configuration.suites {
        suites.retain(|suite| suite.name != named.name);
        suites.push(named_suite(&root, named, &configuration.settings, options)?);
    }
    if suites.is_empty() {
        return Err(ProjectError::NoProject { path: root });
    }
    let found: Vec<String> = suites.iter().map(|suite| suite.name.clone()).collect();
    let wanted = &options.frameworks;
    suites.retain(|suite| wanted.is_empty() || wanted.contains(&suite.framework));
    if suites.is_empty() {
        let wanted: Vec<&str> = wanted.iter().map(|framework| framework.name()).collect();
        return Err(ProjectError::NoSuite { path: root, wanted: wanted.join(" or "), found: found.join(", ") });
    }
    suites.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Project {
        name: root.file_name().map_or_else(|| "root".into(), |name| name.to_string_lossy().into_owned()),
        root,
        suites,
    })
}

/// The suites that nobody named: of every framework that finds its own files, unless `[test] framework` or a `[test.NAME]` of the same
/// framework and directory says what is meant.
fn found_suites(root: &Path, configuration: &Configuration, options: &ProjectOptions) -> Vec<Suite> {
    let mut found = Vec::new();
    if root.join("Cargo.toml").is_file() {
        found.push(SuiteFramework::Cargo);
    }
    if is_pytest_project(root) {
        found.push(SuiteFramework::Pytest);
    }
    if let Some(framework) = configuration.settings.framework {
        found = vec![framework];
    }
    let is_named = |framework: &SuiteFramework| {
        configuration.suites.iter().any(|suite| {
            let directory = suite.directory.as_ref().map_or_else(|| root.to_owned(), |directory| root.join(directory));
            suite.settings.framework == Some(*framework) && directory == root
        })
    };
    let own = |framework: &SuiteFramework| *framework != SuiteFramework::Command && !is_named(framework);
    let suite = |framework: SuiteFramework| Suite {
        name: framework.name().into(),
        framework,
        directory: root.to_owned(),
        root: root.to_owned(),
        plan: plan(configuration.settings.clone(), options),
    };
    found.into_iter().filter(own).map(suite).collect()
}

fn named_suite(
    root: &Path,
    named: &NamedSuite,
    general: &Settings,
    options: &ProjectOptions,
) -> Result<Suite, ProjectError> {
    let directory = named.directory.as_ref().map_or_else(|| root.to_owned(), |directory| root.join(directory));
    let directory = fs::canonicalize(&directory).map_err(file_error("open", directory))?;
    let settings = named.settings.clone().over(general);
    let mut suite = Suite {
        name: named.name.clone(),
        framework: settings.framework.unwrap_or(SuiteFramework::Command),
        directory,
        root: root.to_owned(),
        plan: plan(settings, options),
    };
    suite.plan.command = named.command.clone();
    suite.plan.shards = named.shards.unwrap_or(1);
    Ok(suite)
}

/// The command line outranks the file.
fn plan(mut settings: Settings, options: &ProjectOptions) -> Plan {
    settings.base = options.base.clone().or(settings.base);
    settings.environment = options.environment.or(settings.environment);
    let is_shown = match (&settings.image, settings.environment) {
        (_, Some(EnvironmentKind::Host)) => false,
        (Some(ImageReference::Engine(_)), kind) => kind == Some(EnvironmentKind::Docker),
        _ => true,
    };
    if !is_shown {
        settings.image = None;
    }
    settings.requirements.extend(options.requirements.iter().cloned());
    if let Some(python) = &options.python {
        settings.python = Some(python.display().to_string());
    }
    Plan { settings, command: Vec::new(), shards: 0, cargo_arguments: options.cargo_arguments.clone() }
}

/// Whether pytest would find itself at home: its configuration (pytest documentation, "Configuration file formats"), a `conftest.py`, or
/// files named like its tests.
fn is_pytest_project(root: &Path) -> bool {
    let says = |file: &str, section: &str| {
        fs::read_to_string(root.join(file)).is_ok_and(|text| text.lines().any(|line| line.trim() == section))
    };
    root.join("pytest.ini").is_file()
        || root.join(".pytest.ini").is_file()
        || says("pyproject.toml", "[tool.pytest.ini_options]")
        || says("pyproject.toml", "[tool.pytest]")
        || says("setup.cfg", "[tool:pytest]")
        || says("tox.ini", "[pytest]")
        || has_test_files(root, SEARCH_DEPTH_MAX)
}

fn has_test_files(directory: &Path, depth: usize) -> bool {
    let mut deeper: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_file() {
            let is_test = name
                .strip_suffix(".py")
                .is_some_and(|stem| stem == "conftest" || stem.starts_with("test_") || stem.ends_with("_test"));
            if is_test {
                return true;
            }
        } else if kind.is_dir() && is_searched(name, &entry.path()) {
            deeper.push(entry.path());
        }
    }
    depth > 0 && deeper.iter().any(|directory| has_test_files(directory, depth - 1))
}

/// Not where others' code lies: hidden directories, build output, virtual environments, packages of Node.
fn is_searched(name: &str, path: &Path) -> bool {
    !name.starts_with('.')
        && !matches!(name, "target" | "node_modules" | "build" | "dist" | "venv" | "__pycache__")
        && !path.join("pyvenv.cfg").exists()
        && !path.join("CACHEDIR.TAG").exists()
}

#[cfg(test)]
#[path = "detection_tests.rs"]
mod tests;
