//! The data directory: held by one agent at a time, and what its predecessor left is cleared away.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use muster_model::AgentId;

use crate::AgentError;
use crate::clock::Chance;

/// An agent's data directory, locked until dropped.
///
/// - `lock`: held by the running agent (`flock(2)`)
/// - `agent-id`: sixteen hexadecimal digits, drawn once
/// - `spool`: reports that are not acknowledged
/// - `cache/`: blobs and staged trees
/// - `sandbox/`: what sandboxes share, where the user's cache directory can't be written
/// - `environments/`: places under way; emptied at the start
/// - `docker/`: containers under way; what is mounted there goes at the start
/// - `actions/`: directories and outputs of actions under way; emptied at the start
/// - `services/`: data that setups of services made; emptied at the start
#[derive(Debug)]
pub(crate) struct DataDirectory {
    root: PathBuf,
    _lock: File,
}

impl DataDirectory {
    pub(crate) fn open(root: &Path) -> Result<Self, AgentError> {
        fs::create_dir_all(root).map_err(file_error("create", root))?;
        // Environments mount layers by absolute path.
        let root = root.canonicalize().map_err(file_error("find", root))?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(file_error("create", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(AgentError::InUse(root)),
            Err(TryLockError::Error(source)) => Err(file_error("lock", &path)(source)),
        }
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    pub(crate) fn sandbox(&self) -> PathBuf {
        self.root.join("sandbox")
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// An empty folder for environments. What a dead predecessor left there goes.
    pub(crate) fn environments(&self) -> Result<PathBuf, AgentError> {
        self.emptied("environments")
    }

    /// The folder for containers, whose driver knows how to empty it.
    pub(crate) fn docker(&self) -> PathBuf {
        self.root.join("docker")
    }

    /// An empty folder for what actions need and make.
    pub(crate) fn actions(&self) -> Result<PathBuf, AgentError> {
        self.emptied("actions")
    }

    /// An empty folder for what setups of services make.
    pub(crate) fn services(&self) -> Result<PathBuf, AgentError> {
        self.emptied("services")
    }

    fn emptied(&self, name: &str) -> Result<PathBuf, AgentError> {
        let path = self.root.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file_error("empty", &path)(error)),
            _ => {}
        }
        fs::create_dir_all(&path).map_err(file_error("create", &path))?;
        Ok(path)
    }

    /// The identity kept here, or a new one.
    pub(crate) fn identity(&self, chance: &Chance) -> Result<AgentId, AgentError> {
        let path = self.root.join("agent-id");
        match fs::read_to_string(&path) {
            Ok(text) => {
                u64::from_str_radix(text.trim(), 16).map(AgentId).map_err(|_| AgentError::Identity(path.clone()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let identity = chance.number();
                let partial = self.root.join("agent-id.partial");
                fs::write(&partial, format!("{identity:016x}\n")).map_err(file_error("write", &partial))?;
                fs::rename(&partial, &path).map_err(file_error("write", &path))?;
                Ok(AgentId(identity))
            }
            Err(error) => Err(file_error("read", &path)(error)),
        }
    }
}

/// Makes an error of what the system said about `path`.
pub(crate) fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AgentError {
    let path = path.to_owned();
    move |source| AgentError::File { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_drawn_once_and_a_second_agent_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let chance = Chance::draw().unwrap();
        let data = DataDirectory::open(folder.path()).unwrap();
        let identity = data.identity(&chance).unwrap();
        assert!(matches!(DataDirectory::open(folder.path()), Err(AgentError::InUse(_))));
        drop(data);
        let data = DataDirectory::open(folder.path()).unwrap();
        assert_eq!(data.identity(&chance).unwrap(), identity);
        fs::write(data.root.join("agent-id"), "who").unwrap();
        assert!(matches!(data.identity(&chance), Err(AgentError::Identity(_))));
    }

    #[test]
    fn what_a_dead_predecessor_left_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(folder.path()).unwrap();
        let path = data.environments().unwrap();
        fs::create_dir(path.join("place")).unwrap();
        assert_eq!(data.environments().unwrap().read_dir().unwrap().count(), 0);
    }
}
