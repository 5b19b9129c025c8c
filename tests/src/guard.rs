//! The programs that a test has started end with it, also when the test is killed and nothing in it is dropped any more.
//!
//! A shell waits at the end of a pipe whose other end only this process has. When the process is gone, however it went, the kernel closes the
//! pipe, and the shell kills what it was told of last.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Keeps the newest line, and at the end of the input kills the processes that it names.
const SCRIPT: &str = "while read -r line; do living=$line; done; [ -z \"$living\" ] || kill -KILL $living";

static GUARD: Mutex<Option<Guard>> = Mutex::new(None);

/// The shell, and what it knows.
struct Guard {
    shell: Child,
    living: BTreeSet<u32>,
}

impl Guard {
    fn start() -> Self {
        let mut shell = Command::new("sh");
        // In a group of its own, so that it outlives a signal to the whole group of the test.
        shell.args(["-c", SCRIPT]).process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { shell: shell.spawn().expect("sh starts"), living: BTreeSet::new() }
    }

    fn tell(&mut self) {
        let line = self.living.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n";
        let pipe = self.shell.stdin.as_mut().expect("is piped");
        pipe.write_all(line.as_bytes()).expect("the guard reads");
    }
}

/// A process that is killed if this one ends before the value is dropped. Dropping it kills nothing.
#[derive(Debug)]
pub(crate) struct Guarded(u32);

impl Guarded {
    /// Guards the process with this id.
    ///
    /// # Panics
    ///
    /// When there is no shell.
    pub(crate) fn new(process: u32) -> Self {
        let mut guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = guard.get_or_insert_with(Guard::start);
        guard.living.insert(process);
        guard.tell();
        Self(process)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(guard) = GUARD.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            guard.living.remove(&self.0);
            guard.tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn what_lives_when_the_pipe_closes_is_killed_and_what_was_taken_off_is_not() {
        let sleep = || Command::new("sleep").arg("600").spawn().expect("sleep starts");
        let (mut forgotten, mut taken_off) = (sleep(), sleep());
        let mut guard = Guard::start();
        guard.living = BTreeSet::from([forgotten.id(), taken_off.id()]);
        guard.tell();
        guard.living.remove(&taken_off.id());
        guard.tell();
        // As when this process ends.
        drop(guard.shell.stdin.take());
        assert_eq!(forgotten.wait().expect("is waited for").signal(), Some(9));
        assert!(guard.shell.wait().expect("is waited for").success());
        assert!(taken_off.try_wait().expect("is looked at").is_none(), "it was killed too");
        taken_off.kill().expect("it lives");
        taken_off.wait().expect("is waited for");
    }
}
