//! How layers lie above each other and above a base: which directories of this machine are shown at a path.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::EnvironmentError;
use crate::sandbox::skeleton::Skeleton;

/// An overlay other than the root: where it is shown and what is under it, topmost first.
pub(crate) struct Overlay {
    pub(crate) mount_path: PathBuf,
    pub(crate) lower: Vec<PathBuf>,
}

/// An absolute path without `.`, `..` or doubled slashes that does not lead into what is ours.
pub(crate) fn clean_absolute(path: &Path, what: &str) -> Result<PathBuf, EnvironmentError> {
    let safe = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let ours = ["/proc", "/dev", "/sys"].iter().any(|own| path.starts_with(own));
    if !path.is_absolute() || !safe || ours {
        let reason =
            if ours { "lies in a directory that the sandbox makes itself" } else { "is not a clean absolute path" };
        return Err(EnvironmentError::Invalid(format!("{what} {} {reason}", path.display())));
    }
    Ok(path.components().collect())
}

/// Refuses layers whose top would lead our mounts elsewhere.
pub(crate) fn check_layer(directory: &Path, mount_path: &Path) -> Result<(), EnvironmentError> {
    for own in ["proc", "dev", "sys", "tmp", "etc", "usr"] {
        let Ok(inside) = Path::new("/").join(own).strip_prefix(mount_path).map(Path::to_path_buf) else { continue };
        if fs::symlink_metadata(directory.join(inside)).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(EnvironmentError::Invalid(format!("a layer has /{own}, which is not a directory")));
        }
    }
    Ok(())
}

pub(crate) fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Directories of `layers` that are shown at `path`, topmost first. What is not a directory hides the ones beneath it.
pub(crate) fn shown_at(layers: &[(PathBuf, PathBuf)], path: &Path) -> Vec<PathBuf> {
    let mut shown = Vec::new();
    for (directory, mount_path) in layers.iter().rev() {
        let Ok(inside) = path.strip_prefix(mount_path) else { continue };
        match look_inside(directory, inside) {
            Some(true) => shown.push(directory.join(inside)),
            Some(false) => break,
            None => {}
        }
    }
    shown
}

/// Whether a path in a layer is a directory; `None` when there is nothing. A link, a file or a whiteout on the way is none and is not
/// followed: it would lead out of the layer.
fn look_inside(directory: &Path, inside: &Path) -> Option<bool> {
    let mut place = directory.to_path_buf();
    for part in inside.components() {
        place.push(part);
        match fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Some(false),
            Err(_) => return None,
        }
    }
    is_real_directory(&place).then_some(true)
}

/// Parts of the root that need an overlay of their own: layers shown elsewhere than `/`, and roots of the base that layers lie beneath.
pub(crate) fn overlays(skeleton: &Skeleton, layers: &[(PathBuf, PathBuf)], with_base: bool) -> Vec<Overlay> {
    let mut overlays = Vec::<Overlay>::new();
    if with_base {
        for name in skeleton.mounted_roots.iter().chain(&skeleton.linked_roots) {
            let path = Path::new("/").join(name);
            let mut lower = shown_at(layers, &path);
            if !lower.is_empty() {
                // A root that is a link on the host (`/lib`) becomes a directory, because a layer has a directory there.
                lower.push(fs::canonicalize(&path).unwrap_or_else(|_| path.clone()));
                overlays.push(Overlay { mount_path: path, lower });
            }
        }
    }
    for (_, mount_path) in layers {
        let known = overlays.iter().any(|overlay| &overlay.mount_path == mount_path);
        if mount_path != Path::new("/") && !known {
            let mut lower = shown_at(layers, mount_path);
            let in_base = skeleton.mounted_roots.iter().any(|name| mount_path.starts_with(Path::new("/").join(name)));
            if with_base && in_base && is_real_directory(mount_path) {
                lower.push(mount_path.clone());
            }
            overlays.push(Overlay { mount_path: mount_path.clone(), lower });
        }
    }
    overlays.sort_by(|left, right| left.mount_path.cmp(&right.mount_path));
    overlays
}
