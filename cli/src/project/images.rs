//! Images that `muster.toml` names.

use std::collections::{BTreeSet, HashMap};

use muster_model::Digest;
use muster_model::platform::EngineImage;

use super::{Project, ProjectError};

/// `image` in an `[environment.NAME]` or a service of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageReference {
    /// The root `Directory` of a root file system.
    Digest(Digest),
    /// A name that the fleet knows.
    Name(String),
    /// An image of the agents' Docker engines.
    Engine(EngineImage),
}

/// What the fleet knows of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownImage {
    /// The root `Directory` of its tree.
    pub root: Digest,
    /// What it says of variables, in its order.
    pub environment: Vec<(String, String)>,
    /// Where it says that programs start; empty when it does not.
    pub working_directory: String,
    /// The program that it runs, and its arguments; empty when it says nothing.
    pub command: Vec<String>,
}

/// Variables of an image that are not taken: the sandbox's user is not the image's.
const NOT_TAKEN: [&str; 4] = ["HOME", "USER", "LOGNAME", "SHELL"];

impl KnownImage {
    /// One of which only the tree is known.
    pub(crate) fn of(root: Digest) -> Self {
        Self { root, environment: Vec::new(), working_directory: String::new(), command: Vec::new() }
    }

    /// Adds its variables to those that are there already, which win. Sorted by name afterwards.
    pub(crate) fn add_variables(&self, variables: &mut Vec<(String, String)>) {
        for (name, value) in &self.environment {
            let is_there = variables.iter().any(|(there, _)| there == name);
            if !is_there && !NOT_TAKEN.contains(&name.as_str()) && !name.is_empty() {
                variables.push((name.clone(), value.clone()));
            }
        }
        variables.sort();
    }
}

impl ImageReference {
    /// What the fleet knows of the image; `None` for what only engines know.
    ///
    /// # Errors
    ///
    /// [`ProjectError::Image`] when nobody has looked its name up.
    pub(crate) fn resolve(&self, images: &HashMap<String, KnownImage>) -> Result<Option<KnownImage>, ProjectError> {
        match self {
            Self::Digest(root) => Ok(Some(KnownImage::of(*root))),
            Self::Name(name) => {
                let known = images.get(name).cloned();
                known.map(Some).ok_or_else(|| ProjectError::Image { name: name.clone() })
            }
            Self::Engine(_) => Ok(None),
        }
    }
}

impl Project {
    /// The names of images that its suites and their services run in, which the fleet has to be asked for.
    pub fn image_names(&self) -> BTreeSet<String> {
        let settings = self.suites.iter().map(|suite| &suite.plan.settings);
        let references = settings.flat_map(|settings| {
            settings.image.iter().chain(settings.services.iter().filter_map(|service| service.image.as_ref()))
        });
        let name = |reference: &ImageReference| match reference {
            ImageReference::Name(name) => Some(name.clone()),
            ImageReference::Digest(_) | ImageReference::Engine(_) => None,
        };
        references.filter_map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_project_win_and_the_users_own_are_not_taken() {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        let environment = pairs(&[("PATH", "/opt/bin"), ("A", "image"), ("HOME", "/root"), ("", "x")]);
        let image = KnownImage { environment, ..KnownImage::of(Digest::of(b"")) };
        let mut variables = pairs(&[("Z", "1"), ("A", "project")]);
        image.add_variables(&mut variables);
        assert_eq!(variables, pairs(&[("A", "project"), ("PATH", "/opt/bin"), ("Z", "1")]));
    }
}
