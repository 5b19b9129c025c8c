//! From a path to what a run needs: targets, and the blobs of their layers.
//!
//! [`detect`] looks at files only: which suites are there, by `muster.toml` and by what the frameworks themselves look for. [`prepare`] does the
//! work: it builds, finds what to run, hashes what it needs (remembered by a stat cache) and describes it as layers. Nothing here talks to a
//! coordinator: the caller asks it which of [`PreparedRun::blobs`] are missing and uploads those.
//!
//! Architecture Invariant: whatever is found and not run is named in [`PreparedRun::not_run`]; nothing is passed over in silence.

mod base;
mod cargo;
mod command;
mod config;
mod detection;
mod elf;
mod error;
mod files;
pub(crate) mod images;
mod layer;
mod preparation;
mod pytest;
mod stat_cache;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use muster_model::Digest;
use muster_model::platform::EnvironmentKind;
use muster_model::spec::TargetSpec;

pub use self::images::KnownImage;
use self::preparation::Preparation;

pub use error::ProjectError;

/// A framework as the user names it, in `--framework` and in `muster.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SuiteFramework {
    /// Rust tests through `cargo test --no-run`.
    Cargo,
    /// Python tests through pytest.
    Pytest,
    /// Any program; see `[test.NAME]` in `muster.toml`.
    Command,
}

impl SuiteFramework {
    /// The name used in `muster.toml`, on the command line and for suites that nobody named.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cargo => "cargo",
            Self::Pytest => "pytest",
            Self::Command => "command",
        }
    }
}

/// What the command line says; each field that is set outranks `muster.toml`.
#[derive(Clone, Debug, Default)]
pub struct ProjectOptions {
    /// Only suites of these frameworks; empty means all that are found.
    pub frameworks: Vec<SuiteFramework>,
    /// The base to ask for: a name, or `none`.
    pub base: Option<String>,
    /// The kind of environment.
    pub environment: Option<EnvironmentKind>,
    /// Labels that agents must carry, besides those of `muster.toml`.
    pub requirements: Vec<(String, String)>,
    /// Flags for `cargo test`, passed as they are: `--release`, `-p NAME`, `--features LIST`, `--workspace`, `--target-dir DIR` …
    pub cargo_arguments: Vec<String>,
    /// The Python interpreter for pytest suites.
    pub python: Option<PathBuf>,
}

/// Where the compiler's words go while a project is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BuildOutput {
    /// Straight to this process's standard error, as they come; [`ProjectError::BuildFailed`] then repeats nothing.
    #[default]
    Inherited,
    /// Into [`ProjectError::BuildFailed`] when the build fails, nowhere otherwise.
    Captured,
}

/// How a run is prepared.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Where the stat cache is kept: see [`default_cache_directory`]. Made if it is missing; losing it costs time only.
    pub cache_directory: PathBuf,
    /// Where the compiler's words go.
    pub build_output: BuildOutput,
    /// What the fleet knows of the images in [`Project::image_names`].
    pub images: HashMap<String, KnownImage>,
}

/// A project: a directory and the suites that were found in it.
#[derive(Clone, Debug)]
pub struct Project {
    /// The name under which history is kept: the directory's own name.
    pub name: String,
    /// The absolute path that was asked for, links resolved.
    pub root: PathBuf,
    /// What can be run, at least one; names are unique.
    pub suites: Vec<Suite>,
}

/// Where preparing has come to, for progress displays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The suite is being built or asked what it is made of.
    Building {
        /// The suite's name.
        suite: String,
    },
    /// The suite's files are being read and hashed.
    Hashing {
        /// The suite's name.
        suite: String,
    },
    /// The suite is ready.
    Ready {
        /// The suite's name.
        suite: String,
        /// Its targets.
        targets: usize,
    },
}

/// Hears where preparing has come to.
pub trait Progress: Send {
    /// A step begins.
    fn step(&mut self, step: Step);
}

/// Something that a suite holds and that does not run on the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRun {
    /// The suite's name.
    pub suite: String,
    /// What, for example `statrs (doctests)`.
    pub what: String,
    /// Why, as a sentence without its full stop.
    pub why: String,
    /// The next thing to type to have it run.
    pub hint: String,
}

/// What a run needs.
#[derive(Clone, Debug, Default)]
pub struct PreparedRun {
    /// What is to be run, sorted by suite and name; names are unique.
    pub targets: Vec<TargetSpec>,
    /// Every blob of every layer.
    pub blobs: BlobSet,
    /// What the user should know, one sentence each.
    pub notices: Vec<String>,
    /// What was found and is not run. Each is in [`Self::notices`] too.
    pub not_run: Vec<NotRun>,
}

/// Where a blob's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobSource {
    /// Here.
    Bytes(Bytes),
    /// In this file. It may have changed since it was hashed: whoever reads it must verify.
    File(PathBuf),
}

/// Blobs by digest, each once.
#[derive(Clone, Debug, Default)]
pub struct BlobSet {
    blobs: HashMap<Digest, BlobSource>,
}

impl BlobSet {
    /// Adds a blob; what is there already stays as it is.
    pub fn insert(&mut self, digest: Digest, source: BlobSource) {
        if let Entry::Vacant(entry) = self.blobs.entry(digest) {
            entry.insert(source);
        }
    }

    /// Adds every blob of another set.
    pub fn extend(&mut self, other: Self) {
        for (digest, source) in other.blobs {
            self.insert(digest, source);
        }
    }

    /// Where the bytes of `digest` are.
    pub fn get(&self, digest: &Digest) -> Option<&BlobSource> {
        self.blobs.get(digest)
    }

    /// Every digest, in no order.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.blobs.keys().copied()
    }

    /// Every blob, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&Digest, &BlobSource)> {
        self.blobs.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.blobs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// The sum of their sizes, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.blobs.keys().map(|digest| digest.size_bytes).sum()
    }
}

/// One framework's tests in a project.
#[derive(Clone, Debug)]
pub struct Suite {
    /// `cargo`, `pytest`, or the name of a `[test.NAME]` table.
    pub name: String,
    /// Its framework.
    pub framework: SuiteFramework,
    /// Its absolute directory.
    pub directory: PathBuf,
    /// The project's root.
    pub(crate) root: PathBuf,
    /// How it is run.
    pub(crate) plan: detection::Plan,
}

/// Where the stat cache is kept unless the caller says otherwise: `$XDG_CACHE_HOME/muster`, else `$HOME/.cache/muster`, else a directory of
/// the system's temporary one.
pub fn default_cache_directory() -> PathBuf {
    let named = |variable| std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named("XDG_CACHE_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".cache")))
        .map_or_else(|| std::env::temp_dir().join("muster-cache"), |directory| directory.join("muster"))
}

/// Finds the suites of the project at `path`, from files alone: `muster.toml` and what the frameworks themselves look for.
///
/// # Errors
///
/// [`ProjectError::NoProject`], [`ProjectError::NoSuite`], [`ProjectError::Configuration`], or a file that can't be read.
pub fn detect(path: &Path, options: &ProjectOptions) -> Result<Project, ProjectError> {
    detection::detect(path, options)
}

/// Builds the project, finds what to run, hashes what it needs and describes it as layers.
///
/// # Errors
///
/// [`ProjectError::BuildFailed`] with the compiler's own words, and everything else in [`ProjectError`].
pub async fn prepare(
    project: &Project,
    options: &PrepareOptions,
    progress: &mut dyn Progress,
) -> Result<PreparedRun, ProjectError> {
    let mut preparation = Preparation::new(&project.root, &options.cache_directory, options.images.clone());
    for suite in &project.suites {
        let name = || suite.name.clone();
        progress.step(Step::Building { suite: name() });
        let material = match suite.framework {
            SuiteFramework::Cargo => Material::Cargo(cargo::build(suite, options.build_output).await?),
            SuiteFramework::Pytest | SuiteFramework::Command => Material::Files,
        };
        progress.step(Step::Hashing { suite: name() });
        let before = preparation.target_count();
        preparation = describe(suite.clone(), material, preparation).await?;
        if let Some(image) = &suite.plan.settings.image
            && let Some(image) = image.resolve(&options.images)?
        {
            preparation.put_image_under(before, &image);
        }
        preparation.split_by_cases(before, &suite.plan.settings.cases);
        progress.step(Step::Ready { suite: name(), targets: preparation.target_count() - before });
    }
    preparation.finish()
}

/// What a suite was made from, before it is described.
enum Material {
    /// A build.
    Cargo(cargo::Built),
    /// Only what lies in the file system.
    Files,
}

/// Walks, reads and hashes on a thread where that may block.
async fn describe(suite: Suite, material: Material, mut preparation: Preparation) -> Result<Preparation, ProjectError> {
    let work = move || {
        match &material {
            Material::Cargo(built) => cargo::describe(&suite, built, &mut preparation)?,
            Material::Files if suite.framework == SuiteFramework::Pytest => pytest::describe(&suite, &mut preparation)?,
            Material::Files => command::describe(&suite, &mut preparation)?,
        }
        Ok(preparation)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Nobody cancels the task, so all that can end it without a result is a panic, which belongs to the caller.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
