//! The program `muster`; see [`muster::commands`].

use std::process::ExitCode;

use clap::Parser;
use muster::commands::CommandLine;

fn main() -> ExitCode {
    CommandLine::parse().run()
}
