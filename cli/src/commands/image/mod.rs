//! `muster image`: root file systems that tests and services can run in.

mod import;
mod names;

use clap::Subcommand;

use super::Format;
use crate::error::ExpectedError;

/// `muster image …`
#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Store an image, and print its digest for `image` in an [environment.NAME] of muster.toml
    Import(import::ImportArguments),
    /// List the images that have names
    Ls(names::LsArguments),
    /// Show an image that has a name: where it came from, and what it says of programs that run in it
    Show(names::ShowArguments),
    /// Take a name from an image, which goes when room is needed
    Rm(names::RmArguments),
}

impl ImageCommand {
    pub(super) fn format(&self) -> Format {
        match self {
            Self::Import(arguments) => arguments.ask.format,
            Self::Ls(arguments) => arguments.ask.format,
            Self::Show(arguments) => arguments.ask.format,
            Self::Rm(arguments) => arguments.ask.format,
        }
    }

    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        match self {
            Self::Import(arguments) => arguments.run().await,
            Self::Ls(arguments) => arguments.run().await,
            Self::Show(arguments) => arguments.run().await,
            Self::Rm(arguments) => arguments.run().await,
        }
    }
}

/// Reads the name of an image.
fn parse_name(text: &str) -> Result<String, String> {
    if muster_model::image::is_image_name(text) {
        return Ok(text.to_owned());
    }
    Err("a name has letters, digits and `._/:@-`, a letter or digit first, and is no digest".to_owned())
}
