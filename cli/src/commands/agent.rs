//! `muster agent start`, which is the program `muster-agent`, and `muster agent doctor`.

use std::process::ExitCode;

use clap::Subcommand;
use muster_agent::program;

/// `muster agent …`
#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Start an agent; the same program as muster-agent
    Start(program::Arguments),
    /// Say whether sandboxes can be made here: each kernel feature they need, and the remedy where one is missing
    Doctor,
}

impl AgentCommand {
    /// Runs until it has left.
    pub(super) async fn run(self) -> ExitCode {
        let arguments = match self {
            Self::Start(arguments) => arguments,
            Self::Doctor => return doctor().await,
        };
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

/// Ends with the fleet's fault when an agent here would offer no sandbox.
async fn doctor() -> ExitCode {
    use crate::exit_code::ExitCode as Code;
    let diagnosis = program::doctor().await;
    let code = if diagnosis.is_fit() { Code::Passed } else { Code::FleetFault };
    match super::answer(&diagnosis.to_string()) {
        Ok(()) => code.into(),
        Err(error) => error.exit_code().into(),
    }
}
