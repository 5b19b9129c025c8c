//! The scratch directory of one attempt on the bare host.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::owned::remove_tree;
use crate::sandbox::{HOME, variables};
use crate::{EnvironmentError, EnvironmentSpec};

/// How long the output of processes that left the group is waited for, once the program has ended.
pub(super) const DRAIN_TIME: Duration = Duration::from_millis(500);

/// A directory that stands for the root; removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    /// Copies the layers, later ones over earlier ones.
    pub(super) fn create(parent: &Path, number: u64, spec: &EnvironmentSpec) -> io::Result<Self> {
        let directory = parent.join(number.to_string());
        fs::create_dir(&directory)?;
        let scratch = Self { directory };
        for path in ["/tmp", HOME, &spec.command.working_directory] {
            fs::create_dir_all(scratch.inside(Path::new(path))?)?;
        }
        for layer in &spec.layers {
            copy_over(&layer.directory, &scratch.inside(&layer.mount_path)?)?;
        }
        Ok(scratch)
    }

    /// Where an absolute path of the program's lies.
    fn inside(&self, path: &Path) -> io::Result<PathBuf> {
        let safe = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let relative = path.strip_prefix("/").ok().filter(|_| safe);
        let relative =
            relative.ok_or_else(|| io::Error::other(format!("{} is not a clean absolute path", path.display())))?;
        Ok(self.directory.join(relative))
    }

    /// The directory, opened.
    pub(super) fn open_root(&self) -> io::Result<OwnedFd> {
        Ok(File::open(&self.directory)?.into())
    }

    /// The command with its paths rewritten.
    ///
    /// # Errors
    ///
    /// A command without a program.
    pub(super) fn command(&self, spec: &EnvironmentSpec) -> Result<Command, EnvironmentError> {
        let Some((program, arguments)) = spec.command.arguments.split_first() else {
            return Err(EnvironmentError::Invalid("the command has no program".into()));
        };
        let mut command = Command::new(self.rewrite(program));
        command.args(arguments.iter().map(|argument| self.rewrite(argument)));
        command.env_clear();
        for (name, value) in variables(&spec.command, spec.variables) {
            let value = value.split(':').map(|part| self.rewrite(part)).collect::<Vec<_>>().join(":");
            command.env(name, value);
        }
        let directory = self.inside(Path::new(&spec.command.working_directory));
        command.current_dir(directory.map_err(|error| EnvironmentError::Invalid(error.to_string()))?);
        Ok(command)
    }

    /// Rewrites `PATH` and `NAME=PATH` where a layer brings the path, or the directory that it is in.
    fn rewrite(&self, text: &str) -> String {
        if !text.starts_with('/') {
            return match text.split_once('=') {
                Some((name, value)) if value.starts_with('/') => format!("{name}={}", self.rewrite(value)),
                _ => text.to_owned(),
            };
        }
        let Ok(inside) = self.inside(Path::new(text)) else { return text.to_owned() };
        let in_directory = inside.parent().is_some_and(|parent| parent != self.directory && parent.is_dir());
        let is_there = inside != self.directory && fs::symlink_metadata(&inside).is_ok();
        if is_there || in_directory { inside.to_string_lossy().into_owned() } else { text.to_owned() }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_tree(&self.directory) {
            tracing::warn!(%error, directory = %self.directory.display(), "cannot remove a scratch directory");
        }
    }
}

fn copy_over(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        let is_directory = fs::symlink_metadata(&target).map(|metadata| metadata.is_dir());
        match (kind.is_dir(), is_directory) {
            (true, Ok(false)) | (false, Ok(false)) => fs::remove_file(&target)?,
            (false, Ok(true)) => remove_tree(&target)?,
            (true, Ok(true)) | (_, Err(_)) => {}
        }
        if kind.is_dir() {
            copy_over(&entry.path(), &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
