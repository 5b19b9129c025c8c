//! What cargo says: its JSON messages (The Cargo Book, "External tools") and `cargo metadata`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// One line of `--message-format=json`.
#[derive(Debug, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub(super) enum Message {
    /// Something was compiled, or was fresh.
    CompilerArtifact(Artifact),
    /// A build script ran, or had run.
    BuildScriptExecuted(BuildScript),
    /// Anything else.
    #[serde(other)]
    Other,
}

/// Something that was compiled.
#[derive(Debug, Deserialize)]
pub(super) struct Artifact {
    pub(super) package_id: String,
    pub(super) manifest_path: PathBuf,
    pub(super) target: Target,
    pub(super) profile: Profile,
    pub(super) executable: Option<PathBuf>,
}

/// The profile it was compiled with.
#[derive(Debug, Deserialize)]
pub(super) struct Profile {
    pub(super) test: bool,
}

/// A target in cargo's sense: a library, a binary, an integration test.
#[derive(Debug, Deserialize)]
pub(super) struct Target {
    pub(super) kind: Vec<String>,
    pub(super) name: String,
    #[serde(default)]
    pub(super) doctest: bool,
}

/// What a build script told cargo.
#[derive(Debug, Deserialize)]
pub(super) struct BuildScript {
    pub(super) package_id: String,
    #[serde(default)]
    pub(super) linked_paths: Vec<String>,
    #[serde(default)]
    pub(super) env: Vec<(String, String)>,
    pub(super) out_dir: Option<PathBuf>,
}

/// `cargo metadata --no-deps`.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) packages: Vec<Package>,
    #[serde(default)]
    pub(super) workspace_default_members: Vec<String>,
    pub(super) target_directory: PathBuf,
    #[serde(default)]
    pub(super) build_directory: Option<PathBuf>,
}

/// One package of the workspace.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Package {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) manifest_path: PathBuf,
    pub(super) authors: Vec<String>,
    pub(super) description: Option<String>,
    pub(super) homepage: Option<String>,
    pub(super) repository: Option<String>,
    pub(super) license: Option<String>,
    pub(super) license_file: Option<String>,
    pub(super) rust_version: Option<String>,
    pub(super) readme: Option<String>,
    targets: Targets,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Vec<Target>")]
struct Targets {
    has_doctests: bool,
}

impl From<Vec<Target>> for Targets {
    fn from(targets: Vec<Target>) -> Self {
        Self { has_doctests: targets.iter().any(|target| target.doctest) }
    }
}

impl Package {
    /// A package that is not of the workspace, as far as its id tells it: `…#NAME@VERSION` or `…/NAME#VERSION` (The Cargo Book, "Package ID
    /// Specifications").
    pub(super) fn outside_workspace(id: &str, manifest_path: &Path) -> Self {
        let (place, rest) = id.rsplit_once('#').unwrap_or((id, ""));
        let last = place.rsplit('/').next().unwrap_or_default();
        let (name, version) = rest.split_once('@').unwrap_or((last, rest));
        Self {
            id: id.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
            manifest_path: manifest_path.to_owned(),
            ..Self::default()
        }
    }

    /// The directory of its manifest.
    pub(super) fn root(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("/"))
    }

    /// Whether `cargo test` would run its documentation's examples.
    pub(super) fn has_doctests(&self) -> bool {
        self.targets.has_doctests
    }

    /// The variables that cargo sets for every test of the package (The Cargo Book, "Environment variables cargo sets for crates"; those
    /// that name the host, such as `CARGO`, left out).
    pub(super) fn variables(&self) -> BTreeMap<String, String> {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (numbers, pre) = self.version.split_once('-').unwrap_or((&self.version, ""));
        let pre = pre.split('+').next().unwrap_or_default();
        let numbers = numbers.split('+').next().unwrap_or_default();
        let mut parts = numbers.split('.');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        [
            ("CARGO_MANIFEST_DIR", self.root().display().to_string()),
            ("CARGO_MANIFEST_PATH", self.manifest_path.display().to_string()),
            ("CARGO_PKG_NAME", self.name.clone()),
            ("CARGO_PKG_VERSION", self.version.clone()),
            ("CARGO_PKG_VERSION_MAJOR", part()),
            ("CARGO_PKG_VERSION_MINOR", part()),
            ("CARGO_PKG_VERSION_PATCH", part()),
            ("CARGO_PKG_VERSION_PRE", pre.to_owned()),
            ("CARGO_PKG_AUTHORS", self.authors.join(":")),
            ("CARGO_PKG_DESCRIPTION", text(&self.description)),
            ("CARGO_PKG_HOMEPAGE", text(&self.homepage)),
            ("CARGO_PKG_REPOSITORY", text(&self.repository)),
            ("CARGO_PKG_LICENSE", text(&self.license)),
            ("CARGO_PKG_LICENSE_FILE", text(&self.license_file)),
            ("CARGO_PKG_RUST_VERSION", text(&self.rust_version)),
            ("CARGO_PKG_README", text(&self.readme)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

impl Target {
    /// The one word for its kind: `lib`, `bin`, `test`, `example` or `bench`.
    pub(super) fn kind(&self) -> &str {
        match self.kind.first().map(String::as_str) {
            Some(kind @ ("bin" | "test" | "example" | "bench")) => kind,
            _ => "lib",
        }
    }
}
