//! `muster agent start`: the program `muster-agent`.

use std::process::ExitCode;

use clap::Subcommand;
use muster_agent::program;

/// `muster agent …`
#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Start an agent; the same program as muster-agent
    Start(program::Arguments),
}

impl AgentCommand {
    /// Runs until it has left.
    pub(super) async fn run(self) -> ExitCode {
        let Self::Start(arguments) = self;
        program::start_log(&arguments);
        match program::run(arguments).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprint!("{}", program::explain(&error));
                ExitCode::from(program::exit_code(&error))
            }
        }
    }
}
