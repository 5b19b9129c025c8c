//! The servers that are measured, each a process of its own on a free port of loopback.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Client, Figures, process};
use crate::programs::{Program, binary, free_address};

/// Looks for a server that is coming up; what is slowest here takes a few seconds.
const CONNECTION_TRIES_MAX: u32 = 600;
const CONNECTION_PAUSE: Duration = Duration::from_millis(50);

/// What kind of server it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A coordinator.
    Muster,
    /// The echo: [`super::echo`].
    Echo,
    /// BuildGrid, whose `bgd` is at this path: the cache half of it, on a disk.
    BuildGrid(PathBuf),
}

impl Kind {
    /// What people call it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Muster => "Muster",
            Self::Echo => "tonic echo",
            Self::BuildGrid(_) => "BuildGrid 0.4.4",
        }
    }
}

/// A running server. It ends, and its data goes, when it is dropped.
pub struct Server {
    /// `HOST:PORT`.
    pub address: String,
    program: Program,
    /// After the program, so that it is removed when nobody writes to it any more.
    directory: TempDir,
}

impl Server {
    /// Starts it and waits until it answers. `place` is on the disk that is to be measured.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub async fn start(kind: &Kind, place: &Path) -> Self {
        let directory = tempfile::tempdir_in(place).expect("a temporary directory");
        let address = free_address();
        let mut command = match kind {
            Kind::Muster => {
                let mut command = Command::new(binary("muster-coordinator"));
                command
                    .args(["--listen", &address, "--log", "warn", "--cache-size", "64GiB", "--data"])
                    .arg(directory.path().join("data"));
                command
            }
            Kind::Echo => {
                let mut command = Command::new(binary("load"));
                command.args(["echo", "--listen", &address]);
                command
            }
            Kind::BuildGrid(program) => {
                let file = directory.path().join("buildgrid.yml");
                std::fs::write(&file, buildgrid(&address, directory.path())).expect("is written");
                let mut command = Command::new(program);
                command.args(["server", "start"]).arg(file);
                command
            }
        };
        let log = std::fs::File::create(directory.path().join("log")).expect("a log file");
        command.stdout(Stdio::from(log.try_clone().expect("a second handle"))).stderr(log);
        let server = Self { address, program: Program::start(command), directory };
        server.connect().await;
        server
    }

    /// A new connection to it.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub async fn connect(&self) -> Client {
        for _ in 0..CONNECTION_TRIES_MAX {
            if let Ok(client) = Client::connect(&self.address).await {
                return client;
            }
            tokio::time::sleep(CONNECTION_PAUSE).await;
        }
        panic!("the server does not answer:\n{}", self.log());
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.program.id()
    }

    /// Where a coordinator keeps its data.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// What it has used so far.
    pub fn figures(&self) -> Figures {
        Figures::of(self.id())
    }

    /// Lets the peak of its memory begin anew.
    pub fn reset_peak(&self) {
        process::reset_peak(self.id());
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// BuildGrid's configuration as a cache, by its own reference: a disk storage, results in memory, no limit that is lower than ours.
fn buildgrid(address: &str, directory: &Path) -> String {
    let mut text = String::new();
    write!(
        text,
        "server:\n- !channel\n  address: {address}\n  insecure-mode: true\n\
         storages:\n- !disk-storage &content\n  path: {}\n\
         caches:\n- !lru-action-cache &results\n  storage: *content\n  max-cached-refs: 100000\n  allow-updates: true\n\
         instances:\n- name: ''\n  services:\n  - !action-cache\n    cache: *results\n  - !cas\n    storage: *content\n  \
         - !bytestream\n    storage: *content\n\
         thread-pool-size: 100\n",
        directory.join("content").display()
    )
    .expect("a text takes everything");
    text
}
