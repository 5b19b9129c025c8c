//! What an action made, taken from the dead environment.
//!
//! Architecture Invariant: outputs are looked at only when everything in the environment is dead, by descriptor and without following a link;
//! their bytes are copied into files that the environment never saw, and hashed on the way. Links are kept as they are and never read
//! through: the strategy that the capabilities state is `ALLOWED`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use muster_cache::{Copies, Folder, FolderError, TakeRules, Taken, TakenFile, UploadSource, take};
use muster_environment::{Collector, Remains, StagedLayer};
use muster_model::limits::OUTPUT_BYTES_MAX;
use muster_model::{Digest, DigestFunction};
use muster_proto::reapi;

/// What a declared output may be (Remote Execution API, `Command`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Declared {
    /// Anything: `output_paths`.
    Path,
    /// A file, or a link: `output_files`.
    File,
    /// A directory, or a link: `output_directories`.
    Directory,
}

/// What is wanted of an action.
#[derive(Clone, Debug)]
pub(crate) struct OutputRequest {
    /// The absolute path, inside, that the declared paths are relative to.
    pub(crate) working_directory: PathBuf,
    /// Paths, normalised; the empty one is the working directory itself.
    pub(crate) declared: Vec<(String, Declared)>,
    /// Modification times were asked for.
    pub(crate) with_mtime: bool,
    /// Modes were asked for.
    pub(crate) with_mode: bool,
    /// Directories are wanted as `Tree` messages.
    pub(crate) with_trees: bool,
    /// Directories are wanted as the `Directory` message of their root.
    pub(crate) with_roots: bool,
    /// The action's digest function.
    pub(crate) function: DigestFunction,
}

/// A directory that was declared and is there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutputDirectory {
    /// Of its `Tree` message, topologically sorted, if that is wanted.
    pub(crate) tree: Option<Digest>,
    /// Of its own `Directory` message, if that is wanted.
    pub(crate) root: Option<Digest>,
}

/// A link that is there in place of an output.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutputLink {
    pub(crate) declared: Declared,
    pub(crate) target: String,
    pub(crate) properties: Option<reapi::NodeProperties>,
}

/// What was there, in the order of declaration. Outputs that are missing are left out.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) files: Vec<(String, TakenFile)>,
    pub(crate) directories: Vec<(String, OutputDirectory)>,
    pub(crate) links: Vec<(String, OutputLink)>,
    copies: Copies,
}

impl Outputs {
    /// Every blob that the digests above lead to, each once. Those that are files stay while this exists.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (Digest, UploadSource)> + '_ {
        self.copies.blobs()
    }

    /// Writes what was there into the result. Links are where the client looks for them: those of `output_paths` in `output_symlinks`, those
    /// of the older fields in theirs.
    pub(crate) fn write_to(&self, result: &mut reapi::ActionResult) {
        result.output_files.extend(self.files.iter().map(|(path, file)| reapi::OutputFile {
            path: path.clone(),
            digest: Some(file.digest.into()),
            is_executable: file.executable,
            contents: bytes::Bytes::new(),
            node_properties: file.properties.clone(),
        }));
        result.output_directories.extend(self.directories.iter().map(|(path, directory)| reapi::OutputDirectory {
            path: path.clone(),
            tree_digest: directory.tree.map(Into::into),
            is_topologically_sorted: directory.tree.is_some(),
            root_directory_digest: directory.root.map(Into::into),
        }));
        for (path, link) in &self.links {
            let symlink = reapi::OutputSymlink {
                path: path.clone(),
                target: link.target.clone(),
                node_properties: link.properties.clone(),
            };
            match link.declared {
                Declared::Path => result.output_symlinks.push(symlink),
                #[expect(deprecated, reason = "clients before 2.1 look here")]
                Declared::File => result.output_file_symlinks.push(symlink),
                #[expect(deprecated, reason = "clients before 2.1 look here")]
                Declared::Directory => result.output_directory_symlinks.push(symlink),
            }
        }
    }
}

/// Where a collector puts what it finds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collected(Arc<Mutex<Option<Result<Outputs, FolderError>>>>);

impl Collected {
    /// What was found; nothing before the environment has ended, or when it ended before its program began.
    pub(crate) fn into_result(self) -> Option<Result<Outputs, FolderError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A collector for an environment, and what it will find. Copies are made in `copies_directory`, which must not exist, in a place that no
/// environment can reach.
pub(crate) fn collector(request: OutputRequest, copies_directory: PathBuf) -> (Collector, Collected) {
    let collected = Collected::default();
    let found = collected.clone();
    let collector = Collector::new(move |remains| {
        let outputs = collect(remains, &request, copies_directory.clone());
        *found.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(outputs);
    });
    (collector, collected)
}

fn collect(remains: &Remains<'_>, request: &OutputRequest, copies_directory: PathBuf) -> Result<Outputs, FolderError> {
    let mut outputs = Outputs {
        files: Vec::new(),
        directories: Vec::new(),
        links: Vec::new(),
        copies: Copies::new(copies_directory, request.function, OUTPUT_BYTES_MAX),
    };
    let rules = TakeRules {
        with_mtime: request.with_mtime,
        with_mode: request.with_mode,
        opens_up: true,
        ..TakeRules::default()
    };
    let mut nodes = 0;
    for (path, declared) in &request.declared {
        let place = request.working_directory.join(path);
        let Some((directory, rest)) = remains.locate(&place) else {
            return Err(FolderError::Name { path: path.into() });
        };
        let directory = directory.try_clone_to_owned().map_err(|source| FolderError::File {
            action: "open",
            path: path.into(),
            source,
        })?;
        let taken = take(&Folder::from(directory), &rest, &rules, &mut nodes, &mut outputs.copies)?;
        outputs.add(path, *declared, taken, request)?;
    }
    Ok(outputs)
}

impl Outputs {
    fn add(
        &mut self,
        path: &str,
        declared: Declared,
        taken: Option<Taken>,
        request: &OutputRequest,
    ) -> Result<(), FolderError> {
        let other = |found, wanted| Err(FolderError::Kind { path: path.into(), found, wanted });
        match (taken, declared) {
            (None, _) => {}
            (Some(Taken::File(_)), Declared::Directory) => return other("a file", "a directory"),
            (Some(Taken::Directory(_)), Declared::File) => return other("a directory", "a file"),
            (Some(Taken::File(file)), _) => self.files.push((path.to_owned(), file)),
            (Some(Taken::Directory(tree)), _) => {
                let directory = OutputDirectory {
                    tree: request.with_trees.then(|| self.copies.add(tree.message())),
                    root: request.with_roots.then_some(tree.root),
                };
                self.directories.push((path.to_owned(), directory));
                for skipped in &tree.skipped {
                    tracing::debug!(path = %skipped.display(), "left out: neither a file, a directory nor a link");
                }
            }
            (Some(Taken::Symlink { target, properties }), declared) => {
                self.links.push((path.to_owned(), OutputLink { declared, target, properties }));
            }
        }
        Ok(())
    }
}

/// A layer with the directories that declared outputs lie in, which an action may expect to be there (Remote Execution API,
/// `Command.output_paths`). Removed when dropped.
#[derive(Debug)]
pub(crate) struct ParentDirectories {
    layer: StagedLayer,
}

impl ParentDirectories {
    /// Makes them in `directory`, which must not exist, for `owner`. The layer is shown at `mount_path`, where the input root is shown;
    /// `working_directory` and the declared paths, all of them clean and relative, are beneath.
    pub(crate) fn create(
        directory: PathBuf,
        mount_path: PathBuf,
        owner: Option<(u32, u32)>,
        working_directory: &str,
        declared: &[(String, Declared)],
    ) -> std::io::Result<Self> {
        let mut wanted = BTreeSet::new();
        for (path, _) in declared {
            let whole = Path::new(working_directory).join(path);
            if !whole.components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(std::io::Error::other(format!("{path:?} is not a clean relative path")));
            }
            wanted.extend(whole.ancestors().skip(1).map(Path::to_path_buf));
        }
        make_directory(&directory, owner)?;
        let made = Self { layer: StagedLayer { directory, mount_path } };
        // A path comes after its own beginning.
        for path in wanted.iter().filter(|path| !path.as_os_str().is_empty()) {
            make_directory(&made.layer.directory.join(path), owner)?;
        }
        Ok(made)
    }

    /// What to overlay above the input tree.
    pub(crate) fn layer(&self) -> &StagedLayer {
        &self.layer
    }
}

impl Drop for ParentDirectories {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.layer.directory) {
            tracing::warn!(%error, directory = %self.layer.directory.display(), "cannot remove directories of outputs");
        }
    }
}

fn make_directory(path: &Path, owner: Option<(u32, u32)>) -> std::io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)?;
    // Whatever the mask of this process is.
    fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
    owner.map_or(Ok(()), |(user, group)| lchown(path, Some(user), Some(group)))
}

#[cfg(test)]
mod delta_tests;
#[cfg(test)]
mod tests;
