//! Talking to the engine, and what of an agent's is in it: everything carries a label with the agent's directory, whose lock is the lease.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use bollard::errors::Error;
use bollard::query_parameters::{ListContainersOptions, ListImagesOptions, RemoveContainerOptions, RemoveImageOptions};
use bollard::{API_DEFAULT_VERSION, Docker};

use super::{PREFIX, step};
use crate::EnvironmentError;
use crate::owned::abandoned;

/// The label whose value is the directory of the agent that an object belongs to.
pub(super) const OWNER: &str = "muster.owner";
/// How long one request may take, in seconds: an engine that is busy with many containers is slow.
const REQUEST_SECONDS: u64 = 120;

/// An error of the engine's under the step that failed.
pub(super) fn failed(name: &str) -> impl FnOnce(Error) -> EnvironmentError {
    move |error| step(name, io::Error::other(error))
}

/// Connects to the engine that listens on a socket, and agrees on a version of the interface with it.
///
/// # Errors
///
/// [`EnvironmentError::Unsupported`] when it does not answer.
pub(super) async fn connect(socket: &Path) -> Result<Docker, EnvironmentError> {
    let unreachable = |error: Error| EnvironmentError::Unsupported {
        feature: format!("no Docker engine answers at {}: {error}", socket.display()),
        remedy: "start it, or name its socket: --docker unix:///var/run/docker.sock".to_owned(),
    };
    let path = socket.to_string_lossy();
    let docker = Docker::connect_with_unix(&path, REQUEST_SECONDS, API_DEFAULT_VERSION).map_err(unreachable)?;
    docker.negotiate_version().await.map_err(unreachable)
}

/// The labels of everything that belongs to the agent with this directory.
pub(super) fn labels(owner: &str) -> HashMap<String, String> {
    HashMap::from([(OWNER.to_owned(), owner.to_owned())])
}

/// Removes a container, whatever it does. One that is gone is as good as removed.
pub(super) async fn remove_container(docker: &Docker, id: &str) -> Result<(), EnvironmentError> {
    let options = RemoveContainerOptions { force: true, v: true, link: false };
    match docker.remove_container(id, Some(options)).await {
        Err(Error::DockerResponseServerError { status_code: 404, .. }) => Ok(()),
        // Somebody else removes it already.
        Err(Error::DockerResponseServerError { status_code: 409, .. }) => Ok(()),
        removed => removed.map_err(failed("remove a container")),
    }
}

fn filter(label: String) -> Option<HashMap<String, Vec<String>>> {
    Some(HashMap::from([("label".to_owned(), vec![label])]))
}

/// Removes the containers and images of an owner.
pub(super) async fn remove_all_of(docker: &Docker, owner: &str) -> Result<(), EnvironmentError> {
    let label = format!("{OWNER}={owner}");
    let options = ListContainersOptions { all: true, filters: filter(label.clone()), ..Default::default() };
    for container in docker.list_containers(Some(options)).await.map_err(failed("list containers"))? {
        remove_container(docker, &container.id.unwrap_or_default()).await?;
    }
    let options = ListImagesOptions { all: true, filters: filter(label), ..Default::default() };
    for image in docker.list_images(Some(options)).await.map_err(failed("list images"))? {
        let options = RemoveImageOptions { force: true, ..Default::default() };
        docker.remove_image(&image.id, Some(options), None).await.map_err(failed("remove an image"))?;
    }
    Ok(())
}

/// Removes what dead agents have left, this one's predecessor or another's: whoever can take the lock of an owner's directory may.
///
/// # Errors
///
/// When something can't be listed or removed; the rest is tried the next time.
pub(super) async fn remove_leftovers(docker: &Docker, own: &str) -> Result<(), EnvironmentError> {
    let options = ListContainersOptions { all: true, filters: filter(OWNER.to_owned()), ..Default::default() };
    let containers = docker.list_containers(Some(options)).await.map_err(failed("list containers"))?;
    let options = ListImagesOptions { all: true, filters: filter(OWNER.to_owned()), ..Default::default() };
    let images = docker.list_images(Some(options)).await.map_err(failed("list images"))?;
    let labels = containers.into_iter().filter_map(|container| container.labels);
    let labels = labels.chain(images.into_iter().map(|image| image.labels));
    let owners: BTreeSet<String> = labels.filter_map(|mut labels| labels.remove(OWNER)).collect();
    for owner in owners.into_iter().filter(|owner| owner != own) {
        let directory = PathBuf::from(&owner);
        let checked = tokio::task::spawn_blocking(move || abandoned(&directory, PREFIX)).await;
        let checked = checked.map_err(|error| step("wait for a thread", io::Error::other(error)))?;
        if let Some(abandoned) = checked.map_err(|error| step(&format!("look at {owner}"), error))? {
            tracing::info!(owner, "removing what a dead agent has left in the engine");
            remove_all_of(docker, &owner).await?;
            let removed = tokio::task::spawn_blocking(move || abandoned.remove()).await;
            let removed = removed.map_err(|error| step("wait for a thread", io::Error::other(error)))?;
            removed.map_err(|error| step(&format!("remove {owner}"), error))?;
        }
    }
    Ok(())
}
