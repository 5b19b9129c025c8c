//! The program `muster-agent`; see [`muster_agent::program`].

use std::process::ExitCode;

use clap::Parser;
use muster_agent::program;

/// Runs tests for a coordinator.
#[derive(Parser)]
#[command(name = "muster-agent", version)]
struct Program {
    #[command(flatten)]
    arguments: program::Arguments,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Program::parse().arguments;
    program::start_log(&arguments);
    match program::run(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{}", program::explain(&error));
            ExitCode::from(program::exit_code(&error))
        }
    }
}
