//! The root file system of a container: layers above a base, and memory for what is written.
//!
//! An engine takes no directory for a root, but shows directories of the host at any other path. So the agent lays the layers over each other as the
//! sandbox does, and each name in the top directory is shown under its own name. Links there can't be shown; they are in the image that the
//! container is made from (see [`stand_in`](super::stand_in)).

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use muster_model::limits;

use super::mounts::{make_in, open_directory, open_in, overlay, show_read_only, tmpfs, unmount_beneath};
use super::step;
use crate::collect::{Root, Uppers};
use crate::layers::{check_layer, clean_absolute, overlays, shown_at};
use crate::owned::remove_tree;
use crate::sandbox::skeleton::Skeleton;
use crate::{EnvironmentError, EnvironmentSpec};

/// Names in the top directory that the engine makes itself.
const OWN: [&str; 3] = ["proc", "dev", "sys"];
/// The name of the root's overlay.
const ROOT: &str = "root";

/// Something that a container is shown: where it is here, and where it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) here: PathBuf,
    pub(super) there: String,
    pub(super) is_read_only: bool,
}

/// Where a program's files are.
#[derive(Debug)]
pub(super) struct Laid {
    pub(super) roots: Vec<Root>,
    /// What it changes.
    pub(super) uppers: Uppers,
}

/// A tmpfs with mounts in it, which go when it is dropped.
#[derive(Debug)]
pub(super) struct Tree {
    directory: PathBuf,
    pub(super) shown: Vec<Shown>,
    /// Links of the top directory, sorted by name, with their targets.
    pub(super) links: Vec<(String, PathBuf)>,
}

impl Tree {
    /// Makes the mounts in a new directory, for programs of the user and group `owner`; the layers lie above the directories `under` them, the topmost of
    /// which comes first.
    ///
    /// # Errors
    ///
    /// A specification that asks for something that is not safe, or the step that failed; nothing is left.
    pub(super) fn create(
        directory: &Path,
        skeleton: &Skeleton,
        spec: &EnvironmentSpec,
        under: Vec<PathBuf>,
        owner: (u32, u32),
    ) -> Result<(Self, Laid), EnvironmentError> {
        let working_directory = clean_absolute(Path::new(&spec.command.working_directory), "the working directory")?;
        // Of an image, the topmost comes first.
        let mut layers: Vec<(PathBuf, PathBuf)> = under.into_iter().rev().map(|layer| (layer, "/".into())).collect();
        for layer in &spec.layers {
            check_layer(&layer.directory, &layer.mount_path)?;
            layers.push((layer.directory.clone(), clean_absolute(&layer.mount_path, "a layer's path")?));
        }
        let making = |error| step("make a directory", error);
        DirBuilder::new().mode(0o700).create(directory).map_err(making)?;
        // From here on, dropping it takes away what there is of it.
        let mut tree = Self { directory: directory.to_path_buf(), shown: Vec::new(), links: Vec::new() };
        tmpfs(directory, spec.memory_bytes, limits::SANDBOX_NODES_MAX).map_err(|error| step("mount a tmpfs", error))?;
        for (path, mode) in [(tree.root(), 0o755), (tree.door(), 0o755), (tree.shared_memory(), 0o1777)] {
            fs::create_dir(&path).map_err(making)?;
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).map_err(making)?;
        }
        let laid = tree.lay(skeleton, &layers, spec.with_base, &working_directory, owner)?;
        tree.show()?;
        Ok((tree, laid))
    }

    fn root(&self) -> PathBuf {
        self.directory.join(ROOT)
    }

    /// The directory for the way from a container to its agent.
    pub(super) fn door(&self) -> PathBuf {
        self.directory.join("door")
    }

    fn shared_memory(&self) -> PathBuf {
        self.directory.join("shm")
    }

    /// Lays the layers over each other.
    fn lay(
        &self,
        skeleton: &Skeleton,
        layers: &[(PathBuf, PathBuf)],
        with_base: bool,
        working_directory: &Path,
        owner: (u32, u32),
    ) -> Result<Laid, EnvironmentError> {
        let laying = |error| step("make an overlay", error);
        let scratch = open_directory(&self.directory).map_err(laying)?;
        let mut lower = shown_at(layers, Path::new("/"));
        lower.push(skeleton.root(with_base));
        let place = open_directory(&self.root()).map_err(laying)?;
        self.overlay(place, &lower, &scratch, ROOT, (0o555, owner)).map_err(laying)?;
        let root = open_directory(&self.root()).map_err(laying)?;
        let parts = overlays(skeleton, layers, with_base);
        if with_base {
            let is_part = |path: &Path| parts.iter().any(|part| part.mount_path == path);
            for path in skeleton.mounted_roots.iter().map(|name| Path::new("/").join(name)) {
                if !is_part(&path) {
                    let showing = |error| step(&format!("show {}", path.display()), error);
                    let target = open_in(root.as_fd(), &path).map_err(showing)?;
                    show_read_only(&path, target.as_fd()).map_err(showing)?;
                }
            }
        }
        let mut shown = vec![(PathBuf::from("/"), upper_name(ROOT))];
        for (index, part) in parts.into_iter().enumerate() {
            let target = make_in(root.as_fd(), &part.mount_path, owner).map_err(laying)?;
            let name = format!("part-{index}");
            self.overlay(target, &part.lower, &scratch, &name, (0o755, owner)).map_err(laying)?;
            shown.push((part.mount_path, upper_name(&name)));
        }
        self.working_directory(&root, layers, working_directory, owner)
            .map_err(|error| step(&format!("make {}", working_directory.display()), error))?;
        let open = |(path, _): &(PathBuf, String)| {
            open_in(root.as_fd(), path).map(|directory| Root { path: path.clone(), directory })
        };
        let roots = shown.iter().map(open).collect::<io::Result<_>>().map_err(laying)?;
        Ok(Laid { roots, uppers: Uppers { scratch, overlays: shown } })
    }

    /// An overlay whose top looks as given.
    fn overlay(
        &self,
        target: OwnedFd,
        lower: &[PathBuf],
        scratch: &OwnedFd,
        name: &str,
        (mode, (uid, gid)): (u32, (u32, u32)),
    ) -> io::Result<()> {
        let upper = self.directory.join(upper_name(name));
        fs::create_dir(&upper)?;
        fs::set_permissions(&upper, PermissionsExt::from_mode(mode))?;
        chown(&upper, Some(uid), Some(gid))?;
        fs::create_dir(self.directory.join(format!("{name}.work")))?;
        overlay(target.as_fd(), lower, scratch.as_fd(), name)
    }

    fn working_directory(
        &self,
        root: &OwnedFd,
        layers: &[(PathBuf, PathBuf)],
        path: &Path,
        owner: (u32, u32),
    ) -> io::Result<()> {
        let made = match make_in(root.as_fd(), path, owner) {
            // In a base that nobody may write to; the program is told when it enters it.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => return Ok(()),
            made => made?,
        };
        let in_layer = shown_at(layers, path).first().and_then(|place| fs::metadata(place).ok());
        if let Some(metadata) = in_layer.filter(|metadata| metadata.mode() & 0o200 == 0) {
            let opened = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&made));
            fs::set_permissions(opened, PermissionsExt::from_mode(metadata.mode() & 0o777 | 0o700))?;
        }
        Ok(())
    }

    /// Finds what there is in the top directory.
    fn show(&mut self) -> Result<(), EnvironmentError> {
        let reading = |error| step("read the top directory", error);
        for entry in fs::read_dir(self.root()).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let name = entry.file_name().into_string().map_err(|name| {
                EnvironmentError::Invalid(format!("the name {name:?} in the top directory is not UTF-8"))
            })?;
            if OWN.contains(&name.as_str()) {
                continue;
            }
            let kind = entry.file_type().map_err(reading)?;
            if kind.is_symlink() {
                self.links.push((name, fs::read_link(entry.path()).map_err(reading)?));
            } else if kind.is_dir() || kind.is_file() {
                self.shown.push(Shown { here: entry.path(), there: format!("/{name}"), is_read_only: false });
            }
        }
        self.links.sort();
        self.shown.sort_by(|left, right| left.there.cmp(&right.there));
        self.shown.push(Shown { here: self.shared_memory(), there: "/dev/shm".into(), is_read_only: false });
        Ok(())
    }
}

fn upper_name(overlay: &str) -> String {
    format!("{overlay}.upper")
}

impl Drop for Tree {
    fn drop(&mut self) {
        let removed = unmount_beneath(&self.directory).and_then(|()| remove_tree(&self.directory));
        if let Err(error) = removed {
            tracing::warn!(%error, directory = %self.directory.display(), "cannot remove a container's directory");
        }
    }
}
