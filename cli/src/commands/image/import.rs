//! `muster image import`.

use std::path::PathBuf;

use clap::Args;
use muster_cache::UploadStats;
use muster_model::{Digest, DigestFunction};
use muster_proto::v1;
use serde_json::json;

use super::super::fleet_access::{AskArguments, ask};
use super::super::{Format, answer, answer_json};
use super::parse_name;
use crate::client::{Client, image_refusal};
use crate::error::ExpectedError;
use crate::image::{Image, ImageError, read_image};
use crate::{submit, text};

/// `muster image import`
#[derive(Debug, Args)]
pub(in crate::commands) struct ImportArguments {
    /// A tar archive, plain or compressed: a root file system, what docker save wrote, or an OCI layout, which may be a directory too
    #[arg(value_name = "ARCHIVE")]
    archive: PathBuf,
    /// Give it a name for muster.toml, and keep it until `muster image rm` takes the name away
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

impl ImportArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let (image, directory) = read(self.archive).await?;
        let root = image.tree.root;
        let name = self.name.as_deref();
        let stored = ask(&self.ask, true, async |client| {
            let stats = submit::upload(&client, &image.blobs).await?;
            let previous = match name {
                Some(name) => name_image(&client, name, &image).await?,
                None => None,
            };
            Ok((stats, previous))
        });
        let (stats, previous) = stored.await?;
        drop(directory);
        match self.ask.format {
            Format::Human => answer(&describe(&image, &stats, name, previous.as_ref())),
            Format::Json => answer_json(&json!({
                "image": root.to_string(),
                "name": name,
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

/// Gives the image a name; what had it before, if that was another one.
async fn name_image(client: &Client, name: &str, image: &Image) -> Result<Option<Digest>, ExpectedError> {
    let said = &image.configuration;
    let property = |(key, value): &(String, String)| v1::Property { key: key.clone(), value: value.clone() };
    let configuration = v1::ImageConfiguration {
        environment: said.environment.iter().map(property).collect(),
        working_directory: said.working_directory.clone(),
        entrypoint: said.entrypoint.clone(),
        command: said.command.clone(),
        user: said.user.clone(),
    };
    let named = v1::Image {
        name: name.to_owned(),
        root: Some((&image.tree.root).into()),
        form: image.form.name().to_owned(),
        layers: u32::try_from(image.layers).unwrap_or(u32::MAX),
        configuration: Some(configuration),
        ..v1::Image::default()
    };
    let answer = client.images().name_image(v1::NameImageRequest { image: Some(named) }).await;
    let answer = answer.map_err(image_refusal(client.url(), "name the image", name))?.into_inner();
    let previous = answer.previous.and_then(|previous| previous.root?.to_model(DigestFunction::Blake3).ok());
    Ok(previous.filter(|previous| *previous != image.tree.root))
}

fn describe(image: &Image, stats: &UploadStats, name: Option<&str>, previous: Option<&Digest>) -> String {
    let lost = image.lost;
    let mut words = format!(
        "{}\nuploaded {} ({}), {} were there\n",
        image.tree.root,
        text::counted(stats.uploaded_blobs, "blob", "blobs"),
        text::size(stats.uploaded_bytes),
        stats.reused_blobs
    );
    if let Some(name) = name {
        words.push_str(&format!("it is named {name} and is kept\n"));
    }
    if let Some(previous) = previous {
        words.push_str(&format!("the name was that of {previous}\n"));
    }
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
