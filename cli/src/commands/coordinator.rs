//! `muster coordinator start`: the program `muster-coordinator`.

use std::process::ExitCode;

use clap::Subcommand;
use muster_coordinator::program;

/// `muster coordinator …`
#[derive(Debug, Subcommand)]
pub(super) enum CoordinatorCommand {
    /// Start a coordinator; the same program as muster-coordinator
    Start(program::Arguments),
}

impl CoordinatorCommand {
    /// Runs until it is stopped. It brings its own runtime.
    pub(super) fn run(self) -> ExitCode {
        let Self::Start(arguments) = self;
        program::run(&arguments)
    }
}
