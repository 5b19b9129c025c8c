//! `muster image ls`, `show` and `rm`.

use clap::Args;
use muster_model::DigestFunction;
use muster_proto::v1;
use serde_json::{Value, json};

use super::super::fleet_access::{AskArguments, ask};
use super::super::{Format, answer, answer_json};
use super::parse_name;
use crate::client::image_refusal;
use crate::error::ExpectedError;
use crate::table::{Align, Table};
use crate::text;

/// `muster image ls`
#[derive(Debug, Args)]
pub(in crate::commands) struct LsArguments {
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

/// `muster image show`
#[derive(Debug, Args)]
pub(in crate::commands) struct ShowArguments {
    /// The image's name
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

/// `muster image rm`
#[derive(Debug, Args)]
pub(in crate::commands) struct RmArguments {
    /// The image's name
    #[arg(value_name = "NAME", value_parser = parse_name)]
    name: String,
    #[command(flatten)]
    pub(super) ask: AskArguments,
}

impl LsArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let images = ask(&self.ask, true, async |client| {
            let listed = client.images().list_images(v1::ListImagesRequest {}).await;
            Ok(listed.map_err(image_refusal(client.url(), "list images", ""))?.into_inner().images)
        })
        .await?;
        if self.ask.format == Format::Json {
            return answer_json(&json!({ "images": images.iter().map(to_json).collect::<Vec<_>>() }));
        }
        if images.is_empty() {
            return answer("no image has a name\nhint: muster image import --name NAME ARCHIVE\n");
        }
        let mut table = Table::new(&[
            ("name", Align::Left),
            ("files", Align::Right),
            ("size", Align::Right),
            ("", Align::Left),
            ("image", Align::Left),
        ]);
        for image in &images {
            let kept = if image.kept { "" } else { "not whole" };
            let size = text::size(image.bytes);
            table.row([image.name.clone(), image.files.to_string(), size, kept.to_owned(), root(image)]);
        }
        answer(&table.render())
    }
}

impl ShowArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let name = self.name;
        let image = ask(&self.ask, true, async |client| {
            let shown = client.images().show_image(v1::ShowImageRequest { name: name.clone() }).await;
            Ok(shown.map_err(image_refusal(client.url(), "show an image", &name))?.into_inner())
        })
        .await?;
        match self.ask.format {
            Format::Human => answer(&describe(&image)),
            Format::Json => answer_json(&to_json(&image)),
        }
    }
}

impl RmArguments {
    pub(super) async fn run(self) -> Result<(), ExpectedError> {
        let name = self.name;
        let image = ask(&self.ask, true, async |client| {
            let removed = client.images().remove_image(v1::RemoveImageRequest { name: name.clone() }).await;
            Ok(removed.map_err(image_refusal(client.url(), "remove an image's name", &name))?.into_inner())
        })
        .await?;
        match self.ask.format {
            Format::Human => answer(&format!("{name} is no name any more; it was {}\n", root(&image))),
            Format::Json => answer_json(&to_json(&image)),
        }
    }
}

/// The digest as `muster.toml` takes it.
fn root(image: &v1::Image) -> String {
    let digest = image.root.as_ref().and_then(|root| root.to_model(DigestFunction::Blake3).ok());
    digest.map(|digest| digest.to_string()).unwrap_or_default()
}

/// An image for people. What it says of itself is a stranger's.
fn describe(image: &v1::Image) -> String {
    let said = image.configuration.clone().unwrap_or_default();
    let mut words = format!("{}\n{}\n", image.name, root(image));
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            words.push_str(&format!("{name:<19}{}\n", text::escape_line(value)));
        }
    };
    let layers = text::counted(image.layers.into(), "layer", "layers");
    line("from", &format!("{}, {layers}", image.form));
    line("holds", &format!("{}, {}", text::counted(image.files, "file", "files"), text::size(image.bytes)));
    line("named", &text::date(image.named_unix_ms));
    line(
        "kept",
        if image.kept { "until it has no name any more" } else { "no: something of it is lost; import it again" },
    );
    line("user", &said.user);
    line("working directory", &said.working_directory);
    line("entrypoint", &said.entrypoint.join(" "));
    line("command", &said.command.join(" "));
    for variable in &said.environment {
        line("variable", &format!("{}={}", variable.key, variable.value));
    }
    words
}

fn to_json(image: &v1::Image) -> Value {
    let said = image.configuration.clone().unwrap_or_default();
    let variables: Vec<String> =
        said.environment.iter().map(|variable| format!("{}={}", variable.key, variable.value)).collect();
    json!({
        "name": image.name,
        "image": root(image),
        "form": image.form,
        "layers": image.layers,
        "files": image.files,
        "bytes": image.bytes,
        "named_unix_ms": image.named_unix_ms,
        "kept": image.kept,
        "configuration": {
            "environment": variables,
            "working_directory": said.working_directory,
            "entrypoint": said.entrypoint,
            "command": said.command,
            "user": said.user,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_described_without_the_terminal_hearing_of_it() {
        let property = |key: &str, value: &str| v1::Property { key: key.into(), value: value.into() };
        let configuration = v1::ImageConfiguration {
            environment: vec![property("PATH", "/usr/bin:/bin"), property("X", "a\u{1b}[31m")],
            working_directory: "/data".into(),
            entrypoint: vec!["docker-entrypoint.sh".into()],
            command: vec!["postgres".into(), "-D".into()],
            user: String::new(),
        };
        let image = v1::Image {
            name: "postgres:15".into(),
            root: Some((&muster_model::Digest::of(b"")).into()),
            form: "docker-save".into(),
            layers: 14,
            files: 1,
            bytes: 5 << 20,
            named_unix_ms: 1_700_000_000_000,
            configuration: Some(configuration),
            kept: true,
        };
        let words = describe(&image);
        assert!(!words.contains('\u{1b}'), "{words:?}");
        for line in [
            "postgres:15",
            "from               docker-save, 14 layers",
            "working directory  /data",
            "command            postgres -D",
            "variable           PATH=/usr/bin:/bin",
        ] {
            assert!(words.lines().any(|other| other == line), "{line}:\n{words}");
        }
    }
}
