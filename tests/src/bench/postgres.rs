//! PostgreSQL as others start it for tests: a server of one's own, and how GitHub's runner waits for one.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tempfile::TempDir;

use super::tools;
use crate::programs::{Program, free_address};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Between two looks at a server that starts: ten times as often as `pg_ctl --wait`.
const INTERVAL: Duration = Duration::from_millis(10);
/// What the runner waits before it looks at a service's health again: `GetExponentialBackoff` of its `ContainerOperationProvider`, from 2 s to 32 s
/// by 2 s, at the middle of its chance.
const BACK_OFF: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
];

/// A server on a port of its own, with the schema of a project. It ends, and its data goes, when it is dropped.
pub(super) struct Server {
    program: Program,
    port: String,
    /// After the program, so that it is removed when nobody writes to it any more.
    _directory: TempDir,
}

impl Server {
    /// Makes a cluster and starts a server, which may not be ready yet.
    ///
    /// # Panics
    ///
    /// When it can't be started.
    pub(super) fn start(project: &Path) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // The project is nobody else's to read.
        for file in ["cluster.sh", "schema.sql"] {
            std::fs::copy(project.join(file), directory.path().join(file)).expect("the project has it");
        }
        if let Some(user) = user() {
            chown(directory.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("it is given away");
        }
        let cluster = directory.path().join("cluster");
        let mut setup = unprivileged("sh");
        setup.arg(directory.path().join("cluster.sh")).arg(&cluster).arg(directory.path().join("schema.sql"));
        tools::run(setup.current_dir(directory.path()));
        let address = free_address();
        let port = address.rsplit(':').next().expect("an address has a port").to_owned();
        let mut server = unprivileged(&format!("{PROGRAMS}/postgres"));
        server.arg("-D").arg(&cluster).args(["-p", &port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]);
        server.arg("-c").arg(format!("unix_socket_directories={}", directory.path().display()));
        server.current_dir(directory.path()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { program: Program::start(server), port, _directory: directory }
    }

    /// Whether it serves.
    fn is_ready(&self) -> bool {
        let mut command = Command::new(format!("{PROGRAMS}/pg_isready"));
        command.args(["-q", "-h", "127.0.0.1", "-p", &self.port]).status().expect("pg_isready starts").success()
    }

    /// Waits until it serves.
    pub(super) fn wait(&self) {
        while !self.is_ready() {
            std::thread::sleep(INTERVAL);
        }
    }

    /// A new database from the template, at its URL.
    pub(super) fn clone_database(&self, name: &str) -> String {
        let mut command = Command::new(format!("{PROGRAMS}/createdb"));
        tools::run(command.args(["-h", "127.0.0.1", "-p", &self.port, "-U", "muster", "-T", "template1", name]));
        format!("postgresql://muster@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It takes its processes and its shared memory along, which a killed one leaves.
        if !self.program.has_ended() {
            self.program.signal(Signal::SIGQUIT);
            self.program.wait();
        }
    }
}

/// Whom a server runs as that is started by root, which PostgreSQL refuses.
fn user() -> Option<User> {
    let user = || User::from_name("postgres").expect("users are listed").expect("Debian's package has made it");
    Uid::effective().is_root().then(user)
}

/// A program under a user that PostgreSQL is willing to run as.
fn unprivileged(program: &str) -> Command {
    let Some(user) = user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", user.uid)).arg(format!("--regid={}", user.gid));
    command.args(["--clear-groups", "--", program]);
    command
}

/// The suite, or some of its files, under plain pytest.
pub(super) struct Suite {
    /// Its root.
    pub(super) project: PathBuf,
    /// What runs it.
    pub(super) python: PathBuf,
}

impl Suite {
    /// # Panics
    ///
    /// When a test fails.
    pub(super) fn run(&self, database: &str, files: &[String]) {
        let mut command = Command::new(&self.python);
        command.args(["-m", "pytest", "-q", "-p", "no:cacheprovider"]).args(files).current_dir(&self.project);
        tools::run(command.env("DATABASE_URL", database).stdin(Stdio::null()));
    }

    /// In two shards at one time, each of which makes and starts a server of its own.
    pub(super) fn run_with_fresh_servers(&self) {
        let files = self.files();
        std::thread::scope(|scope| {
            for shard in files.chunks(files.len().div_ceil(2)) {
                scope.spawn(|| {
                    let server = Server::start(&self.project);
                    server.wait();
                    self.run(&server.clone_database("shard"), shard);
                });
            }
        });
    }

    /// As a job with a service container: Docker looks whether the service is healthy every `interval`, or is assumed to know it at any time; the
    /// runner asks Docker with a back-off; then the tests begin. Pulling the image and starting the container cost nothing here.
    pub(super) fn run_as_a_job(&self, interval: Option<Duration>) {
        let (began, server) = (Instant::now(), OnceLock::new());
        let is_healthy = || {
            // Docker looks for the first time one interval after the start; a server is ready long before.
            let was_looked_at = interval.is_none_or(|interval| began.elapsed() >= interval);
            was_looked_at && server.get().is_some_and(Server::is_ready)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| server.get_or_init(|| Server::start(&self.project)));
            // The look at its start finds nothing.
            let mut next_look = began;
            for wait in BACK_OFF {
                next_look += wait;
                std::thread::sleep(next_look.saturating_duration_since(Instant::now()));
                if is_healthy() {
                    break;
                }
            }
        });
        let server = server.get().filter(|server| server.is_ready()).expect("it is ready within a minute");
        self.run(&server.clone_database("job"), &[]);
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.project).expect("the project is there").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut files: Vec<String> = names.filter(|name| name.starts_with("test_") && name.ends_with(".py")).collect();
        files.sort();
        files
    }
}
