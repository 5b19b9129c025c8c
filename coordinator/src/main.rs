//! The coordinator's program: see [`muster_coordinator::program`].

use std::process::ExitCode;

use clap::Parser;
use muster_coordinator::program::{Arguments, run};

#[derive(Parser)]
#[command(name = "muster-coordinator", version, about, long_about = None)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    run(&Program::parse().arguments)
}
