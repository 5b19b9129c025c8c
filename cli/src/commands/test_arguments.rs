//! The flags of `muster test`, and what they say about project and policy.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use muster_model::limits;
use muster_model::platform::{EnvironmentKind, Weakness};
use muster_model::spec::{Isolation, RunPolicy, TargetPolicy};

use super::Format;
use crate::project::{ProjectOptions, SuiteFramework};
use crate::text::parse_duration;

/// How cases share processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum IsolationChoice {
    /// Cases share a process where that is known to be safe; what goes wrong in company runs again alone
    Auto,
    /// Every case has a process of its own
    Process,
}

/// A framework by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FrameworkChoice {
    /// Rust tests through cargo
    Cargo,
    /// Python tests through pytest
    Pytest,
    /// The programs that muster.toml describes
    Command,
}

/// A kind of environment by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum EnvironmentChoice {
    /// Namespaces over a base: the default
    Sandbox,
    /// Containers of agents that have a Docker engine
    Docker,
    /// The agent's own host, without isolation; results say so and are not cached
    Host,
}

/// `muster test`
#[derive(Debug, Args)]
pub(super) struct TestArguments {
    /// The project's directory
    #[arg(default_value = ".")]
    pub(super) path: PathBuf,
    /// Only cases whose name contains one of these
    #[arg(last = true, value_name = "FILTER")]
    pub(super) filters: Vec<String>,

    /// Run on the coordinator at this address; without it, on a fleet embedded in this process
    #[arg(long, value_name = "URL", env = "MUSTER_FLEET", help_heading = "Fleet")]
    pub(super) fleet: Option<String>,
    /// Agents of the embedded fleet
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64), help_heading = "Fleet")]
    pub(super) agents: u32,
    /// Slots of each embedded agent [default: processors divided by agents]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(limits::SLOTS_PER_AGENT_MAX)), help_heading = "Fleet")]
    pub(super) slots: Option<u32>,
    /// A wall that sandboxes of the embedded fleet may lack, control-groups or landlock; may be repeated; every result says so
    #[arg(long, value_name = "FEATURE", value_parser = muster_agent::program::parse_weakness, help_heading = "Fleet")]
    pub(super) allow_without: Vec<Weakness>,
    /// Where the embedded fleet keeps its cache and history [default: muster in $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "DIR", help_heading = "Fleet")]
    pub(super) data: Option<PathBuf>,

    /// Only suites of this framework; may be repeated
    #[arg(long = "framework", value_name = "NAME", help_heading = "Selection")]
    pub(super) frameworks: Vec<FrameworkChoice>,
    /// Only cases that failed when they were last run
    #[arg(long, help_heading = "Selection")]
    pub(super) failed: bool,
    /// Run ignored cases too
    #[arg(long, help_heading = "Selection")]
    pub(super) include_ignored: bool,
    /// List the cases that would be run
    #[arg(long, help_heading = "Selection")]
    pub(super) list: bool,

    /// How cases share processes
    #[arg(long, value_name = "HOW", default_value = "auto", help_heading = "Execution")]
    pub(super) isolation: IsolationChoice,
    /// Try a case that failed again, up to so many times [default: 0, or what muster.toml says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=100), help_heading = "Execution")]
    pub(super) retries: Option<u32>,
    /// The time that one case may take, as in 30s or 2m [default: 5m, or what muster.toml says]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Execution")]
    pub(super) timeout: Option<Duration>,
    /// Stop after the first failure
    #[arg(long, help_heading = "Execution")]
    pub(super) fail_fast: bool,
    /// Execute every case, whatever the cache knows of its result
    #[arg(long, help_heading = "Execution")]
    pub(super) no_cache: bool,
    /// Fail cases that leave processes behind or write outside of their own places; each has a process of its own, and is executed
    #[arg(long, help_heading = "Execution")]
    pub(super) deny_leaks: bool,
    /// Where cases run
    #[arg(long, value_name = "KIND", help_heading = "Execution")]
    pub(super) environment: Option<EnvironmentChoice>,
    /// Let results of host environments be cached too
    #[arg(long, help_heading = "Execution")]
    pub(super) cache_host_results: bool,
    /// The base under every environment: a name that agents offer, or none
    #[arg(long, value_name = "NAME", help_heading = "Execution")]
    pub(super) base: Option<String>,
    /// Only on agents with this label; may be repeated
    #[arg(long = "require", value_name = "KEY=VALUE", value_parser = parse_label, help_heading = "Execution")]
    pub(super) requirements: Vec<(String, String)>,

    /// How the run is reported
    #[arg(long, value_name = "FORMAT", default_value = "human", help_heading = "Reports")]
    pub(super) format: Format,
    /// Write a JUnit XML report too
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub(super) junit: Option<PathBuf>,
    /// A line for every case, passed ones too
    #[arg(short, long, help_heading = "Reports")]
    pub(super) verbose: bool,

    #[command(flatten)]
    pub(super) build: BuildArguments,
}

/// Flags for the build.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Build")]
pub(super) struct BuildArguments {
    /// Only this package; may be repeated
    #[arg(short, long = "package", value_name = "NAME")]
    packages: Vec<String>,
    /// Every package of the workspace
    #[arg(long)]
    workspace: bool,
    /// Build with optimizations
    #[arg(short, long)]
    release: bool,
    /// Build with this profile
    #[arg(long, value_name = "NAME", conflicts_with = "release")]
    profile: Option<String>,
    /// Features to switch on, separated by commas; may be repeated
    #[arg(short = 'F', long, value_name = "FEATURES")]
    features: Vec<String>,
    /// Switch every feature on
    #[arg(long)]
    all_features: bool,
    /// Switch the default features off
    #[arg(long)]
    no_default_features: bool,
    /// A flag that is passed to cargo as it is; may be repeated
    #[arg(long = "cargo-arg", value_name = "FLAG", allow_hyphen_values = true)]
    cargo_arguments: Vec<String>,
    /// The Python interpreter for pytest suites [default: the project's virtual environment, then python3]
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
}

impl BuildArguments {
    /// The flags as cargo takes them.
    fn for_cargo(&self) -> Vec<String> {
        let switches = [
            (self.workspace, "--workspace"),
            (self.release, "--release"),
            (self.all_features, "--all-features"),
            (self.no_default_features, "--no-default-features"),
        ];
        let mut flags: Vec<String> =
            switches.into_iter().filter(|(given, _)| *given).map(|(_, flag)| flag.to_owned()).collect();
        let valued = [("--package", &self.packages), ("--features", &self.features)];
        for (flag, values) in valued {
            flags.extend(values.iter().flat_map(|value| [flag.to_owned(), value.clone()]));
        }
        if let Some(profile) = &self.profile {
            flags.extend(["--profile".to_owned(), profile.clone()]);
        }
        flags.extend(self.cargo_arguments.iter().cloned());
        flags
    }
}

impl TestArguments {
    /// What they say about the project.
    pub(super) fn project_options(&self) -> ProjectOptions {
        let framework = |choice: &FrameworkChoice| match choice {
            FrameworkChoice::Cargo => SuiteFramework::Cargo,
            FrameworkChoice::Pytest => SuiteFramework::Pytest,
            FrameworkChoice::Command => SuiteFramework::Command,
        };
        ProjectOptions {
            frameworks: self.frameworks.iter().map(framework).collect(),
            base: self.base.clone(),
            environment: self.environment.map(|choice| match choice {
                EnvironmentChoice::Sandbox => EnvironmentKind::Sandbox,
                EnvironmentChoice::Docker => EnvironmentKind::Docker,
                EnvironmentChoice::Host => EnvironmentKind::Host,
            }),
            requirements: self.requirements.clone(),
            cargo_arguments: self.build.for_cargo(),
            python: self.build.python.clone(),
        }
    }

    /// What is typed outranks what `muster.toml` says of a target's suite.
    pub(super) fn outrank(&self, target: &mut TargetPolicy) {
        if self.retries.is_some() {
            target.retries = None;
        }
        if self.timeout.is_some() {
            target.case_timeout = None;
        }
    }

    /// What they say about the run.
    pub(super) fn policy(&self) -> RunPolicy {
        RunPolicy {
            isolation: match self.isolation {
                // Of what cases leave behind that share a process, nobody can say whose it is.
                IsolationChoice::Auto if !self.deny_leaks => Isolation::Auto,
                IsolationChoice::Auto | IsolationChoice::Process => Isolation::Process,
            },
            retries: self.retries.unwrap_or(0),
            case_timeout: self.timeout.unwrap_or(limits::CASE_TIMEOUT_DEFAULT),
            fail_fast: self.fail_fast,
            // A result says nothing of it either when it was made in company.
            read_cache: !self.no_cache && !self.deny_leaks,
            cache_host_results: self.cache_host_results,
            include_ignored: self.include_ignored,
            only_failed: self.failed,
            list_only: self.list,
            filters: self.filters.clone(),
        }
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is written KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: TestArguments,
    }

    fn parse(line: &[&str]) -> Result<TestArguments, clap::Error> {
        Line::try_parse_from(std::iter::once(&"test").chain(line)).map(|line| line.arguments)
    }

    #[test]
    fn the_build_gets_the_users_own_flags() {
        let line = ["-p", "a", "-p", "b", "--release", "-F", "x,y", "--cargo-arg", "--locked", "--no-default-features"];
        insta::assert_snapshot!(
            parse(&line).unwrap().project_options().cargo_arguments.join(" "),
            @"--release --no-default-features --package a --package b --features x,y --locked"
        );
    }

    #[test]
    fn the_command_line_outranks_the_project() {
        let case_timeout = Some(Duration::from_secs(7));
        let suite = TargetPolicy { retries: Some(3), case_timeout, ..TargetPolicy::default() };
        let under = |line: &[&str]| {
            let mut target = suite.clone();
            parse(line).unwrap().outrank(&mut target);
            target
        };
        assert_eq!(under(&[]), suite);
        assert_eq!(under(&["--retries", "0"]), TargetPolicy { retries: None, ..suite.clone() });
        let typed = ["--retries", "0", "--timeout", "2m", "--no-cache", "--failed", "--isolation", "process"];
        assert_eq!(under(&typed), TargetPolicy::default());
        let policy = parse(&typed).unwrap().policy();
        assert_eq!((policy.retries, policy.case_timeout), (0, Duration::from_secs(120)));
        assert!(!policy.read_cache && policy.only_failed);
        assert_eq!(policy.isolation, Isolation::Process);
        let denying = parse(&["--deny-leaks"]).unwrap().policy();
        assert_eq!((denying.isolation, denying.read_cache), (Isolation::Process, false));
    }

    #[test]
    fn senseless_values_are_refused_where_they_are_typed() {
        for wrong in
            [["--timeout", "soon"], ["--agents", "0"], ["--slots", "0"], ["--require", "gpu"], ["--retries", "-1"]]
        {
            assert!(parse(&wrong).is_err(), "{wrong:?}");
        }
    }
}
