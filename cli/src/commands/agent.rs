//! `muster agent start`, which is the program `muster-agent`, and `muster agent doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use muster_agent::program;
use muster_environment::doctor::Diagnosis;
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
        /// Say besides whether containers of the Docker engine at this socket can be offered
        #[arg(long, value_name = "SOCKET", value_parser = program::parse_socket)]
        docker: Option<PathBuf>,
    },
}

impl AgentCommand {
    /// Runs until it has left.
    pub(super) async fn run(self) -> ExitCode {
        let arguments = match self {
            Self::Start(arguments) => arguments,
            Self::Doctor { allow_without, docker } => return doctor(allow_without, docker).await,
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

/// Ends with the fleet's fault when an agent here would offer no sandbox, or no container where that was asked for.
async fn doctor(allowed: Vec<Weakness>, docker: Option<PathBuf>) -> ExitCode {
    use crate::exit_code::ExitCode as Code;
    let diagnoses = program::doctor(allowed, docker).await;
    let code = if diagnoses.iter().all(Diagnosis::is_fit) { Code::Passed } else { Code::FleetFault };
    let text: String = diagnoses.iter().map(ToString::to_string).collect();
    match super::answer(&text) {
        Ok(()) => code.into(),
        Err(error) => error.exit_code().into(),
    }
}
