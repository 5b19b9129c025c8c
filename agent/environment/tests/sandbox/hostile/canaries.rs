//! Things of the host's that no program may reach.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const SECRET: &str = "the host's secret";
const PATTERN: &str = "/proc/sys/kernel/core_pattern";

pub(super) struct Canaries {
    file: PathBuf,
    process: Child,
    service: TcpListener,
    abstracted: (String, UnixListener),
    named: (PathBuf, UnixListener),
    pattern: String,
    program: Vec<u8>,
}

impl Canaries {
    pub(super) fn new(parent: &Path) -> Self {
        let directory = parent.join("canaries");
        fs::create_dir(&directory).expect("a directory");
        let file = directory.join("key");
        fs::write(&file, SECRET).expect("a file");
        // The directory's name is nobody else's.
        let name = directory.to_string_lossy().into_owned();
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let path = directory.join("socket");
        let named = UnixListener::bind(&path).expect("a socket");
        let abstracted = UnixListener::bind_addr(&address).expect("a socket");
        let service = TcpListener::bind("127.0.0.1:0").expect("a port");
        named.set_nonblocking(true).expect("ours");
        abstracted.set_nonblocking(true).expect("ours");
        service.set_nonblocking(true).expect("ours");
        Self {
            file,
            process: Command::new("sleep").arg("600").spawn().expect("a process"),
            service,
            abstracted: (name, abstracted),
            named: (path, named),
            pattern: fs::read_to_string(PATTERN).expect("a switch"),
            program: own_program(),
        }
    }

    /// The variables by which a program finds them.
    pub(super) fn variables(&self) -> Vec<(String, String)> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let port = self.service.local_addr().expect("a port").port();
        let secret = std::env::var("CARGO_MANIFEST_DIR").expect("cargo gives it");
        [
            ("CANARY_FILE", text(&self.file)),
            ("CANARY_PROCESS", self.process.id().to_string()),
            ("CANARY_PORT", port.to_string()),
            ("CANARY_SOCKET", self.abstracted.0.clone()),
            ("CANARY_SOCKET_PATH", text(&self.named.0)),
            ("CANARY_SECRET", secret.chars().rev().collect()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// What was reached.
    pub(super) fn reached(&mut self) -> Vec<&'static str> {
        let waits = |accepted: io::Result<()>| accepted.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        let is_fine = [
            ("the file", fs::read_to_string(&self.file).is_ok_and(|content| content == SECRET)),
            ("the process", matches!(self.process.try_wait(), Ok(None))),
            ("the service", waits(self.service.accept().map(drop))),
            ("the abstract socket", waits(self.abstracted.1.accept().map(drop))),
            ("the socket", waits(self.named.1.accept().map(drop))),
            ("the pattern of cores", fs::read_to_string(PATTERN).is_ok_and(|pattern| pattern == self.pattern)),
        ];
        is_fine.into_iter().filter(|(_, is_fine)| !is_fine).map(|(name, _)| name).collect()
    }

    /// Whether the agent's program is as it was.
    pub(super) fn is_program_unchanged(&self) -> bool {
        own_program() == self.program
    }
}

fn own_program() -> Vec<u8> {
    fs::read("/proc/self/exe").expect("our program")
}

impl Drop for Canaries {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
