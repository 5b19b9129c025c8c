//! What can be typed: one file per command.

mod action_why;
mod agent;
mod cache;
mod conformance;
mod coordinator;
mod fleet;
mod fleet_access;
mod image;
mod runs;
mod runs_why;
mod test;
mod test_arguments;

use std::io::Write;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use serde_json::Value;

use crate::error::{EmbeddedError, ExpectedError};
use crate::exit_code::{ExitCode, help_table};
use crate::paint::ColorChoice;

/// How long threads that block are waited for at the end.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(1);

/// How answers are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: a progress bar on a terminal, plain lines elsewhere, tables.
    #[default]
    Human,
    /// For programs: JSON, as docs/json-output.md describes it.
    Json,
}

/// Run a project's tests on a fleet of agents, each in an environment of its own, and never run again what did not change.
#[derive(Debug, Parser)]
#[command(name = "muster", version, after_help = help_table(), max_term_width = 120)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
    /// When to use colour; NO_COLOR is respected
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a project's tests
    Test(Box<test_arguments::TestArguments>),
    /// The coordinator: decides what runs where
    #[command(subcommand)]
    Coordinator(coordinator::CoordinatorCommand),
    /// An agent: runs what it is told
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// What the fleet is doing
    #[command(subcommand)]
    Fleet(fleet::FleetCommand),
    /// What was run, and where the time went
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    /// What the cache holds and saves
    #[command(subcommand)]
    Cache(cache::CacheCommand),
    /// Root file systems that tests can run in
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Ask any server of the Remote Execution API whether it keeps the specification's rules
    Conformance(conformance::ConformanceArguments),
}

impl CommandLine {
    /// Runs the command to its end. Everything that has to be said is said.
    pub fn run(self) -> std::process::ExitCode {
        let format = self.format();
        // The coordinator and the agent speak for themselves, as their own binaries do.
        let command = match self.command {
            Command::Coordinator(command) => return command.run(),
            command => command,
        };
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(source) => {
                let error = EmbeddedError::Start { part: "runtime".into(), source: source.into() }.into();
                say(&error, format);
                return error.exit_code().into();
            }
        };
        let color = self.color;
        let ended = runtime.block_on(async {
            match command {
                Command::Agent(command) => Err(command.run().await),
                Command::Test(arguments) => {
                    start_log();
                    Ok(test::run(*arguments, color).await)
                }
                Command::Fleet(command) => Ok(command.run().await.map(|()| ExitCode::Passed)),
                Command::Runs(command) => Ok(command.run(color).await.map(|()| ExitCode::Passed)),
                Command::Cache(command) => Ok(command.run().await.map(|()| ExitCode::Passed)),
                Command::Image(command) => Ok(command.run().await.map(|()| ExitCode::Passed)),
                Command::Conformance(arguments) => Ok(arguments.run(color).await),
                Command::Coordinator(_) => Ok(Ok(ExitCode::Passed)),
            }
        });
        // What still runs then belongs to nobody: a build whose run was cancelled, a file being hashed.
        runtime.shutdown_timeout(RUNTIME_PATIENCE);
        match ended {
            Err(code) => code,
            Ok(Ok(code)) => code.into(),
            Ok(Err(error)) => {
                say(&error, format);
                error.exit_code().into()
            }
        }
    }

    fn format(&self) -> Format {
        match &self.command {
            Command::Test(arguments) => arguments.format,
            Command::Fleet(command) => command.format(),
            Command::Runs(command) => command.format(),
            Command::Cache(command) => command.format(),
            Command::Image(command) => command.format(),
            Command::Conformance(arguments) => arguments.format,
            Command::Coordinator(_) | Command::Agent(_) => Format::Human,
        }
    }
}

/// Logs what the embedded fleet says to standard error, if `MUSTER_LOG` asks for it: a level, or filters as in `RUST_LOG`.
fn start_log() {
    if let Ok(filter) = std::env::var("MUSTER_LOG") {
        let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
        // A program that embeds this one may log already.
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // A log that can't be written must not end what it tells of.
        let _ = log.log_internal_errors(false).try_init();
    }
}

/// Says what went wrong: in words to standard error, and for programs as a JSON object to standard output.
fn say(error: &ExpectedError, format: Format) {
    if matches!(error, ExpectedError::BrokenPipe) {
        return;
    }
    // There is nobody left to tell when these fail.
    if format == Format::Json {
        let _ = writeln!(std::io::stdout(), "{}", crate::reporter::error_line(error));
    }
    let _ = write!(std::io::stderr(), "{}", error.render());
}

/// Writes an answer to standard output.
fn answer(words: &str) -> Result<(), ExpectedError> {
    let mut output = std::io::stdout().lock();
    output.write_all(words.as_bytes()).and_then(|()| output.flush()).map_err(ExpectedError::report("standard output"))
}

/// Writes a JSON answer, indented, to standard output.
fn answer_json(value: &Value) -> Result<(), ExpectedError> {
    answer(&format!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_flag_is_documented() {
        fn check(command: &clap::Command) {
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(argument.get_help().is_some(), "{} {name} has no help", command.get_name());
            }
            command.get_subcommands().for_each(check);
        }
        let command = CommandLine::command();
        command.clone().debug_assert();
        check(&command);
    }

    #[test]
    fn the_help_shows_the_exit_codes() {
        let help = CommandLine::command().render_help().to_string();
        assert!(help.contains("130  cancelled"), "{help}");
    }

    #[test]
    fn filters_come_after_two_dashes() {
        let parsed = CommandLine::try_parse_from(["muster", "test", "here", "--retries", "2", "--", "a", "b"]).unwrap();
        let Command::Test(arguments) = parsed.command else { panic!("not a test command") };
        assert_eq!(arguments.filters, ["a", "b"]);
        assert_eq!(arguments.path.to_str(), Some("here"));
        assert_eq!(arguments.retries, Some(2));
    }
}
