//! `muster image`: root file systems that tests can run in.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use muster_cache::UploadStats;
use serde_json::json;

use super::fleet_access::{AskArguments, ask};
use super::{Format, answer, answer_json};
use crate::error::ExpectedError;
use crate::image::{Image, ImageError, read_image};
use crate::{submit, text};

/// `muster image …`
#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// Store an image, and print its digest for `image` in an [environment.NAME] of muster.toml
    Import(ImportArguments),
}

/// `muster image import`
#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// A tar archive, plain or compressed: a root file system, what docker save wrote, or an OCI layout, which may be a directory too
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    #[command(flatten)]
    ask: AskArguments,
}

impl ImageCommand {
    pub(super) fn format(&self) -> Format {
        let Self::Import(arguments) = self;
        arguments.ask.format
    }

    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let Self::Import(arguments) = self;
        arguments.run().await
    }
}

impl ImportArguments {
    async fn run(self) -> Result<(), ExpectedError> {
        let (image, directory) = read(self.archive).await?;
        let root = image.tree.root;
        let stats = ask(&self.ask, true, async |client| Ok(submit::upload(&client, &image.blobs).await?)).await?;
        drop(directory);
        match self.ask.format {
            Format::Human => answer(&describe(&image, &stats)),
            Format::Json => answer_json(&json!({
                "image": root.to_string(),
                "form": image.form.name(),
                "layers": image.layers,
                "files": image.tree.files.len(),
                "uploaded_blobs": stats.uploaded_blobs,
                "uploaded_bytes": stats.uploaded_bytes,
                "reused_blobs": stats.reused_blobs,
                "lost": {
                    "special_files": image.lost.special_files,
                    "set_id_files": image.lost.set_id_files,
                    "owned_entries": image.lost.owned_entries,
                    "extended_attributes": image.lost.extended_attributes,
                },
            })),
        }
    }
}

/// Reads the archive where that may block; its files stay as long as the directory.
async fn read(archive: PathBuf) -> Result<(Image, tempfile::TempDir), ExpectedError> {
    let reading = tokio::task::spawn_blocking(move || {
        let kept = std::env::temp_dir();
        let directory = tempfile::Builder::new().prefix("muster-image-").tempdir();
        let directory = directory.map_err(|source| ImageError::Keep { path: kept, source })?;
        Ok((read_image(&archive, directory.path())?, directory))
    });
    match reading.await {
        Ok(read) => read,
        // Nobody cancels it.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn describe(image: &Image, stats: &UploadStats) -> String {
    let lost = image.lost;
    let mut words = format!(
        "{}\nuploaded {} ({}), {} were there\n",
        image.tree.root,
        text::counted(stats.uploaded_blobs, "blob", "blobs"),
        text::size(stats.uploaded_bytes),
        stats.reused_blobs
    );
    let kinds = [
        (lost.special_files, "devices and pipes were not made"),
        (lost.set_id_files, "files run as their owner no more"),
        (lost.owned_entries, "entries belonged to others than root"),
        (lost.extended_attributes, "extended attributes were left out"),
    ];
    for (count, what) in kinds.into_iter().filter(|(count, _)| *count > 0) {
        words.push_str(&format!("lost: {count} {what}\n"));
    }
    words
}
