//! `muster agent start`, which is the program `muster-agent`, and `muster agent doctor`.

use std::process::ExitCode;

use clap::Subcommand;
use muster_agent::program;
use muster_model::platform::Weakness;

/// `muster agent …`
#[derive(Debug, Subcommand)]
pub(super) enum AgentCommand {
    /// Start an agent; the same program as muster-agent
    Start(Box<program::Arguments>),
    /// Say whether sandboxes can be made here: each kernel feature they need, and the remedy where one is missing
    Doctor {
        /// A wall that sandboxes may lack, control-groups or landlock; may be repeated
        #[arg(long, value_name = "FEATURE", value_parser = program::parse_weakness)]
        allow_without: Vec<Weakness>,
    },
}

impl AgentCommand {
    /// Runs until it has left.
    pub(super) async fn run(self) -> ExitCode {
        let arguments = match self {
            Self::Start(arguments) => arguments,
            Self::Doctor { allow_without } => return doctor(allow_without).await,
        };
        program::start_log(&arguments);
        match program::run(*arguments).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprint!("{}", program::explain(&error));
                ExitCode::from(program::exit_code(&error))
            }
        }
    }
}

/// Ends with the fleet's fault when an agent here would offer no sandbox.
async fn doctor(allowed: Vec<Weakness>) -> ExitCode {
    use crate::exit_code::ExitCode as Code;
    let diagnosis = program::doctor(allowed).await;
    let code = if diagnosis.is_fit() { Code::Passed } else { Code::FleetFault };
    match super::answer(&diagnosis.to_string()) {
        Ok(()) => code.into(),
        Err(error) => error.exit_code().into(),
    }
}
