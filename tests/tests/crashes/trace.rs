//! strace, which kills a program at a system call or makes the call fail.

use std::path::Path;
use std::process::{Command, Stdio};

use muster_tests::programs::{Program, eventually};
use nix::sys::signal::Signal;

/// System calls of one kind, on any file or on some alone. strace counts them for each thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    /// Their names, separated by commas.
    pub(crate) names: &'static str,
    /// Files below the coordinator's data; any if there are none.
    pub(crate) files: &'static [&'static str],
    /// How many of them lie between two places of a short run.
    pub(crate) apart: usize,
}

/// What a store and a ledger change their disk with.
pub(crate) const ALL: [Calls; 6] = [
    Calls { names: "pwrite64", files: &[], apart: 9 },
    Calls { names: "fdatasync,fsync", files: &[], apart: 3 },
    Calls { names: "rename,renameat,renameat2,unlink,unlinkat,ftruncate", files: &[], apart: 3 },
    Calls { names: "pwrite64", files: &["ledger.sqlite3-wal", "ledger.sqlite3"], apart: 5 },
    Calls { names: "fdatasync,fsync", files: &["ledger.sqlite3-wal", "ledger.sqlite3"], apart: 1 },
    Calls { names: "pwrite64", files: &["cache/incoming/0", "cache/incoming/1", "cache/incoming/2"], apart: 1 },
];

impl Calls {
    fn arguments(&self, data: &Path, injection: &str) -> Vec<String> {
        let mut arguments: Vec<String> = ["-f", "-qqq", "-o", "/dev/null", "-e"].map(str::to_owned).to_vec();
        arguments.push(format!("trace={}", self.names));
        for file in self.files {
            arguments.extend(["-P".to_owned(), data.join(file).to_string_lossy().into_owned()]);
        }
        arguments.extend(["-e".to_owned(), format!("inject={}:{injection}", self.names)]);
        arguments
    }

    /// What starts a program that is killed when a thread of it makes the `number`th of these calls. The program stays its parent's child.
    pub(crate) fn killer(&self, data: &Path, number: usize) -> Vec<String> {
        let mut starter: Vec<String> = ["strace", "-D"].map(str::to_owned).to_vec();
        starter.extend(self.arguments(data, &format!("signal=SIGKILL:when={number}")));
        starter
    }
}

/// A running program some of whose calls fail, until this is dropped.
pub(crate) struct Failing(Program);

impl Failing {
    /// From the `first` call of each thread on, so many fail with this error.
    pub(crate) fn attach(
        program: &Program,
        calls: Calls,
        data: &Path,
        error: &str,
        first: usize,
        count: usize,
    ) -> Self {
        let mut command = Command::new("strace");
        command.args(["-p", &program.id().to_string()]);
        command.args(calls.arguments(data, &format!("error={error}:when={first}..{}", first + count - 1)));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let tracer = Program::start(command);
        let status = format!("/proc/{}/status", program.id());
        eventually("strace holds the program", || {
            let status = std::fs::read_to_string(&status).unwrap_or_default();
            status.lines().any(|line| line == format!("TracerPid:\t{}", tracer.id()))
        });
        Self(tracer)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // Asked to end, it lets the program go; it may have ended with it.
        if std::path::Path::new(&format!("/proc/{}", self.0.id())).exists() {
            self.0.signal(Signal::SIGTERM);
        }
        self.0.wait();
    }
}
