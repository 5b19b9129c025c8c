//! From a tree to a directory.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use muster_model::Digest;
use muster_model::limits::TRANSFERS_CONCURRENT_MAX;

use super::{FolderError, LinkRule};
use crate::blob::{Partial, blocking};
use crate::files::RealFiles;
use crate::tree::{Content, Node, stays_inside};
use crate::{BlobStore, StoreError};

/// Makes `destination`, which must not exist, the tree: directories, files and then links, so that nothing is ever written through one. A
/// failure leaves nothing; nothing outside `destination` is changed in any case.
///
/// `content` is a tree that was [collected](crate::tree::collect), so that its names are names and its size is bounded.
///
/// # Errors
///
/// [`FolderError::Link`] when the rule forbids one of its links, and what the store and the file system say.
pub async fn lay_out(
    content: &Content,
    store: &dyn BlobStore,
    destination: &Path,
    links: LinkRule,
) -> Result<(), FolderError> {
    let plan = plan(content, destination, links)?;
    fs::DirBuilder::new().mode(0o755).create(destination).map_err(FolderError::file("create", destination))?;
    let made = fill(plan, store).await;
    if made.is_err() {
        // This call has made it. No link in it is followed.
        fs::remove_dir_all(destination).map_err(FolderError::file("remove", destination))?;
    }
    made
}

/// What there is to make, in order.
struct Plan {
    directories: Vec<PathBuf>,
    files: Vec<(PathBuf, Digest, bool)>,
    links: Vec<(PathBuf, String)>,
}

fn plan(content: &Content, destination: &Path, rule: LinkRule) -> Result<Plan, FolderError> {
    let mut plan = Plan { directories: Vec::new(), files: Vec::new(), links: Vec::new() };
    let mut pending = vec![(PathBuf::new(), content.root)];
    while let Some((path, digest)) = pending.pop() {
        let Some(directory) = content.directories.get(&digest) else {
            return Err(StoreError::NotFound(digest).into());
        };
        for entry in directory.entries() {
            let path = path.join(&entry.name);
            let place = destination.join(&path);
            match &entry.node {
                Node::Directory(digest) => {
                    plan.directories.push(place);
                    pending.push((path, *digest));
                }
                Node::File { digest, executable } => plan.files.push((place, *digest, *executable)),
                Node::Symlink(target) => {
                    let is_inside = path.to_str().is_some_and(|path| stays_inside(path, target));
                    if rule == LinkRule::Inside && !is_inside {
                        return Err(FolderError::Link { path, target: target.clone() });
                    }
                    plan.links.push((place, target.clone()));
                }
            }
        }
    }
    Ok(plan)
}

async fn fill(plan: Plan, store: &dyn BlobStore) -> Result<(), FolderError> {
    let Plan { directories, files, links } = plan;
    for directory in &directories {
        fs::DirBuilder::new().mode(0o755).create(directory).map_err(FolderError::file("create", directory))?;
    }
    stream::iter(files)
        .map(|(path, digest, executable)| async move { write(store, path, digest, executable).await })
        .buffer_unordered(TRANSFERS_CONCURRENT_MAX)
        .try_collect::<()>()
        .await?;
    for (path, target) in &links {
        symlink(target, path).map_err(FolderError::file("create", path))?;
    }
    Ok(())
}

async fn write(store: &dyn BlobStore, path: PathBuf, digest: Digest, executable: bool) -> Result<(), FolderError> {
    let blob = store.get(&digest).await?;
    let created = path.clone();
    let partial = blob.pour(blocking(move || Partial::create(Arc::new(RealFiles), created)).await?).await?;
    let mode = if executable { 0o755 } else { 0o644 };
    partial.file().seal(mode, None, None).map_err(FolderError::file("change the mode of", &path))?;
    blocking(move || partial.publish(&path)).await?;
    Ok(())
}
