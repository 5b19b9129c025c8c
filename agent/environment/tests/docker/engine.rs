//! A Docker engine of a test's own: with its own socket, data and programs, without a network, and gone with the test.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long an engine may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running engine.
pub(crate) struct Engine {
    engine: Child,
    directory: TempDir,
}

impl Engine {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = |name: &str| directory.path().join(name);
        let log = fs::File::create(at("log")).expect("a file");
        // Told to end when this process does, however it ends.
        let engine = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none"])
            .arg("--host")
            .arg(format!("unix://{}", at("docker.sock").display()))
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("docker.pid"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("dockerd starts; hint: scripts/prepare installs it");
        let mut engine = Self { engine, directory };
        let deadline = Instant::now() + PATIENCE;
        while !engine.answers() {
            let is_over = engine.engine.try_wait().expect("ours").is_some() || Instant::now() > deadline;
            assert!(!is_over, "no engine answers:\n{}", engine.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        engine
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    /// What it said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Runs a command of its client.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = Command::new("docker")
            .args(arguments)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_API_VERSION", "1.41")
            .output()
            .expect("docker starts; hint: scripts/prepare installs it");
        assert!(output.status.success(), "docker {arguments:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).expect("text")
    }

    /// The containers and images that carry the label of an agent, in lines.
    pub(crate) fn labelled(&self) -> String {
        let label = ["--all", "--quiet", "--filter", "label=muster.owner"];
        [self.docker(&[&["ps"], &label[..]].concat()), self.docker(&[&["images"], &label[..]].concat())].concat()
    }

    fn answers(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = UnixStream::connect(self.socket())?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer)?;
            Ok(answer.ends_with(b"200"))
        };
        ask().unwrap_or(false)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let id = nix::unistd::Pid::from_raw(self.engine.id().cast_signed());
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.engine.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.engine.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        unmount(self.directory.path());
    }
}

/// What an engine leaves mounted would keep its directory from going.
fn unmount(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let points = points.filter(|point| Path::new(point).starts_with(directory));
    for point in points.collect::<Vec<_>>().into_iter().rev() {
        let _ = nix::mount::umount2(Path::new(point), nix::mount::MntFlags::MNT_DETACH);
    }
}
