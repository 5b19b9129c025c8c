//! Images for containers that are made from none: nothing but the links of a top directory.
//!
//! An engine makes a container from an image, and only an image puts links into its top directory. Such an image is made in the engine itself, once for
//! each set of links, and goes with the agent.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;

use bollard::Docker;
use bollard::query_parameters::CreateImageOptions;
use futures_util::TryStreamExt;
use tokio::sync::Mutex;

use super::engine::{OWNER, failed};
use super::step;
use crate::EnvironmentError;

/// Links by name, with their targets.
pub(super) type Links = Vec<(String, PathBuf)>;

/// The images that there are.
#[derive(Debug, Default)]
pub(super) struct StandIns(Mutex<HashMap<Links, String>>);

impl StandIns {
    /// The image with these links, by its digest; made when there is none.
    ///
    /// # Errors
    ///
    /// When the engine does not take it.
    pub(super) async fn image(&self, docker: &Docker, owner: &str, links: &Links) -> Result<String, EnvironmentError> {
        // Held while it is made, so that it is made once.
        let mut known = self.0.lock().await;
        if let Some(image) = known.get(links) {
            return Ok(image.clone());
        }
        let archive = archive(links).map_err(|error| step("write an archive", error))?;
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            changes: vec![format!("LABEL {}={}", quoted(OWNER), quoted(owner))],
            ..CreateImageOptions::default()
        };
        let importing = docker.create_image(Some(options), Some(bollard::body_full(archive.into())), None);
        let told: Vec<_> = importing.try_collect().await.map_err(failed("import an image"))?;
        let image = told.into_iter().filter_map(|line| line.status).find(|status| status.starts_with("sha256:"));
        let image = image.ok_or_else(|| step("import an image", io::Error::other("the engine names no digest")))?;
        known.insert(links.clone(), image.clone());
        Ok(image)
    }
}

fn archive(links: &Links) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, target) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_link(&mut header, name, target)?;
    }
    archive.into_inner()
}

/// As an instruction of a Dockerfile takes it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        if matches!(letter, '"' | '\\' | '$') {
            quoted.push('\\');
        }
        quoted.push(letter);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_links_and_nothing_else() {
        let links = vec![("bin".to_owned(), PathBuf::from("usr/bin")), ("lib".to_owned(), PathBuf::from("usr/lib"))];
        let bytes = archive(&links).expect("an archive");
        let mut read = tar::Archive::new(&bytes[..]);
        let entries = read.entries().expect("entries").map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.path().expect("a name").to_string_lossy().into_owned();
            (name, entry.link_name().expect("a target").expect("a target").into_owned())
        });
        assert_eq!(entries.collect::<Links>(), links);
    }

    #[test]
    fn a_label_is_quoted() {
        assert_eq!(quoted(r#"/a b/"$c"\d"#), r#""/a b/\"\$c\"\\d""#);
    }
}
