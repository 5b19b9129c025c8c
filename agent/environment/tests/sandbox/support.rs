//! A driver with a directory of its own, and programs to run in it.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_environment::{
    Environment, EnvironmentError, EnvironmentSpec, Exit, KillSwitch, OutputChunk, SandboxConfig, SandboxEnvironment,
    StagedLayer,
};
use muster_model::spec::{CommandSpec, Profile};
use tempfile::TempDir;
use tokio::sync::mpsc;

/// Whether these tests are run by root.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A driver and layers.
pub(crate) struct Place {
    // Dropped before the directory that it is in.
    pub(crate) sandbox: SandboxEnvironment,
    pub(crate) directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let sandbox = SandboxEnvironment::new(SandboxConfig::new(directory.path().join("sandbox"))).expect("a driver");
        Self { sandbox, directory }
    }

    /// Stages a layer of files at absolute paths, owned as the driver wants it.
    pub(crate) fn layer(&self, name: &str, files: &[(&str, &str)]) -> StagedLayer {
        let layer = stage(self.directory.path(), name, files);
        self.give(&layer.directory);
        layer
    }

    /// Hands a tree to the user that programs run under.
    pub(crate) fn give(&self, path: &Path) {
        give(path, self.sandbox.owner());
    }

    pub(crate) async fn run(&self, spec: EnvironmentSpec) -> Result<(Exit, String), EnvironmentError> {
        self.run_until(spec, KillSwitch::default()).await
    }

    pub(crate) async fn run_until(
        &self,
        spec: EnvironmentSpec,
        kill: KillSwitch,
    ) -> Result<(Exit, String), EnvironmentError> {
        finish(&self.sandbox, spec, kill).await
    }
}

/// Writes files at absolute paths into a new directory.
pub(crate) fn stage(directory: &Path, name: &str, files: &[(&str, &str)]) -> StagedLayer {
    let root = directory.join(name);
    fs::create_dir(&root).expect("a layer");
    for (path, content) in files {
        let path = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories");
        fs::write(path, content).expect("a file");
    }
    StagedLayer { directory: root, mount_path: "/".into() }
}

/// Hands a tree to a user and group.
pub(crate) fn give(path: &Path, owner: Option<(u32, u32)>) {
    let Some((uid, gid)) = owner else { return };
    lchown(path, Some(uid), Some(gid)).expect("root may");
    if fs::symlink_metadata(path).expect("it is there").is_dir() {
        for entry in fs::read_dir(path).expect("a directory") {
            give(&entry.expect("an entry").path(), owner);
        }
    }
}

/// Makes a place and runs its program to the end; gives the output of both streams.
pub(crate) async fn finish(
    driver: &dyn Environment,
    spec: EnvironmentSpec,
    kill: KillSwitch,
) -> Result<(Exit, String), EnvironmentError> {
    let prepared = driver.prepare(spec).await?;
    let (sender, receiver) = mpsc::channel(16);
    let (exit, text) = tokio::join!(driver.run(prepared, sender, kill), read(receiver));
    Ok((exit?, text))
}

impl Drop for Place {
    fn drop(&mut self) {
        // What sandboxes share stays, in directories from which only root may remove anything.
        let opened = Command::new("chmod").args(["-R", "u+w"]).arg(self.directory.path()).status();
        assert!(std::thread::panicking() || opened.is_ok_and(|status| status.success()), "ours");
    }
}

async fn read(mut receiver: mpsc::Receiver<OutputChunk>) -> String {
    let mut bytes = Vec::new();
    while let Some(chunk) = receiver.recv().await {
        bytes.extend(chunk.bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program with its arguments in `/project`, with limits that do not hold it back.
pub(crate) fn program(arguments: &[&str]) -> EnvironmentSpec {
    EnvironmentSpec {
        with_base: true,
        image: None,
        layers: Vec::new(),
        command: CommandSpec {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
            working_directory: "/project".into(),
        },
        memory_bytes: 256 * 1024 * 1024,
        processes: 128,
        output_bytes: 1024 * 1024,
        profile: Profile::Strict,
        collect: Vec::<PathBuf>::new(),
        collector: None,
        variables: Default::default(),
        network: None,
    }
}

/// A shell script.
pub(crate) fn shell(script: &str) -> EnvironmentSpec {
    program(&["sh", "-c", script])
}

/// Processes of the whole machine with a marker among their arguments.
pub(crate) fn marked(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let arguments = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    arguments.filter(|arguments| String::from_utf8_lossy(arguments).contains(marker)).count()
}

/// Where an ordinary user, who may not be able to enter the build's directory, finds the hostile program.
pub(crate) const HOSTILE: &str = "MUSTER_HOSTILE_PROGRAM";

/// The hostile program.
pub(crate) fn hostile_program() -> PathBuf {
    std::env::var_os(HOSTILE).map_or_else(|| env!("CARGO_BIN_EXE_hostile").into(), PathBuf::from)
}
