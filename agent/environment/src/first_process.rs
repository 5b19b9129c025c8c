//! The agent's side of a first process, whoever has started it: it is sent the program, watched, and killed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;

use crate::groups::GroupUsage;
use crate::kill::Killed;
use crate::output::{pipe, watch};
use crate::sandbox::message::{next_report, send};
use crate::sandbox::protocol::{Report, ReportKind};
use crate::sandbox::script::SealedScript;
use crate::{EnvironmentError, ExitStatus, KillReason, KillSwitch, ResourceUsage};

/// How often a program that runs is asked whether it was refused a process.
const PROCESSES_LOOK: Duration = Duration::from_millis(100);
/// How often, and how long apart, it is looked whether everything stands still. What the kernel can't stop in that time is killed as it is.
const FREEZE_LOOKS: u32 = 20;
const FREEZE_PAUSE: Duration = Duration::from_millis(1);

/// A first process, named by a descriptor so that it can never be mistaken for another. Killed when dropped.
#[derive(Debug)]
pub(crate) struct FirstProcess {
    pub(crate) descriptor: OwnedFd,
}

impl AsRawFd for FirstProcess {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl AsFd for FirstProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl FirstProcess {
    /// Kills it, and with it everything in its namespace.
    pub(crate) fn kill(&self) {
        self.signal(libc::SIGKILL);
    }

    /// Whether there was anybody to send a signal to; 0 is none and sent to nobody.
    fn signal(&self, signal: libc::c_int) -> bool {
        // SAFETY: only a descriptor that we own and numbers are passed.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.descriptor.as_raw_fd(), signal, 0, 0) == 0 }
    }
}

impl Drop for FirstProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What the one who waits for a program needs to know of its place.
pub(crate) trait Overseer: Sync {
    /// What was used so far. Asked before every kill, while there is still somebody to ask about.
    fn usage(&self) -> GroupUsage;
    /// Whether the word of the program's end is enough, or the death of the first process is waited for besides.
    fn is_enough(&self, report: &Report) -> bool;
    /// Has everything stand still; false where the machine can't. It takes a moment: see [`Self::is_frozen`].
    fn freeze(&self) -> bool;
    /// Whether everything stands still.
    fn is_frozen(&self) -> bool;
    /// Lets everything go on, or die.
    fn thaw(&self);
    /// The first process and those of the program.
    fn processes(&self) -> Vec<u32>;
}

/// What is seen of processes that stand still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// How many there are, the first process not among them.
    pub(crate) processes: u32,
    /// Bytes that they and the dead among them wrote.
    pub(crate) written_bytes: u64,
    /// The newest number among them in their own namespace, less the first process's: so many were started at least.
    pub(crate) created: u32,
}

impl Look {
    /// What is known of a program that has started.
    pub(crate) fn at_start() -> Self {
        Self { processes: 1, ..Self::default() }
    }

    /// Looks at processes; at those that are gone, or that may not be looked at, it does not.
    fn at(processes: &[u32]) -> Self {
        let mut look =
            Self { processes: u32::try_from(processes.len()).unwrap_or(u32::MAX).saturating_sub(1), ..Self::default() };
        for process in processes {
            let read = |name| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
            let written = read("io").lines().find_map(|line| line.strip_prefix("wchar: ")?.trim().parse::<u64>().ok());
            look.written_bytes = look.written_bytes.saturating_add(written.unwrap_or(0));
            let status = read("status");
            let names = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let own = names.and_then(|names| names.split_whitespace().next_back()?.parse::<u32>().ok());
            look.created = look.created.max(own.unwrap_or(0).saturating_sub(1));
        }
        look
    }

    /// What this tells of a use, where the kernel's own counts may tell more.
    pub(crate) fn tell(&self, usage: &mut ResourceUsage) {
        usage.written_bytes = usage.written_bytes.max(self.written_bytes);
        usage.processes_peak = usage.processes_peak.max(self.processes);
        usage.processes_created = usage.processes_created.max(self.created.into());
    }
}

/// A first process that waits for the word to start, and the program that it will be sent.
pub(crate) struct Held {
    process: AsyncFd<FirstProcess>,
    report: AsyncFd<OwnedFd>,
    job: SealedScript,
}

impl Held {
    /// Takes over a first process that has made its place.
    ///
    /// # Errors
    ///
    /// When a descriptor can't be watched.
    pub(crate) fn new(process: FirstProcess, report: OwnedFd, job: SealedScript) -> Result<Self, EnvironmentError> {
        fcntl(&report, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|error| talk(error.into()))?;
        Ok(Self { process: watch(process)?, report: watch(report)?, job })
    }

    /// Sends the program to the first process, with the pipes that it writes to; gives their other ends. The pipes are given to `owner`: the
    /// program opens them again by name, as `/dev/stdout` and `/dev/stderr`, and a pipe has an owner like any other file.
    ///
    /// # Errors
    ///
    /// A first process that does not listen; one that is dead already is found to be so later.
    pub(crate) fn start(&self, owner: Option<(u32, u32)>) -> Result<[AsyncFd<OwnedFd>; 2], EnvironmentError> {
        let pipes = |error| step("make a pipe", error);
        let (output, child_output) = pipe().map_err(pipes)?;
        let (error_output, child_error) = pipe().map_err(pipes)?;
        if let Some((uid, gid)) = owner {
            for pipe in [&child_output, &child_error] {
                nix::unistd::fchown(pipe, Some(uid.into()), Some(gid.into()))
                    .map_err(|error| step("hand over a pipe", error.into()))?;
            }
        }
        let descriptors = [self.job.as_fd(), child_output.as_fd(), child_error.as_fd()];
        match send(self.report.as_fd(), &0_u64, &descriptors) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => {
                return Err(talk(error));
            }
            _ => {}
        }
        Ok([watch(output)?, watch(error_output)?])
    }

    /// Waits for the program's end, and kills it when that is asked for. What is `seen` of it on the way is told. The first report counts: after
    /// a failed start, the end of what failed says nothing.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(crate) async fn ended(
        &self,
        overseer: &impl Overseer,
        killed: &Killed,
        switch: &KillSwitch,
        started: Instant,
        seen: &mut Look,
    ) -> io::Result<(Option<Report>, Instant)> {
        let mut report: Option<Report> = None;
        let mut ended_at = started;
        let mut is_reporting = true;
        let mut look = tokio::time::interval_at(tokio::time::Instant::now() + PROCESSES_LOOK, PROCESSES_LOOK);
        loop {
            tokio::select! {
                biased;
                received = next_report(&self.report), if is_reporting => match received? {
                    Some(message) => {
                        if report.is_none() {
                            report = Some(message);
                            ended_at = Instant::now();
                        }
                        if report.as_ref().is_some_and(|report| overseer.is_enough(report)) {
                            return Ok((report, ended_at));
                        }
                        // Whatever is left is killed with the first process, which ends now by itself.
                    }
                    None => is_reporting = false,
                },
                dead = self.process.readable() => {
                    dead?.retain_ready();
                    // What it said last may lie in the socket still.
                    if report.is_none() && is_reporting {
                        report = next_report(&self.report).await?;
                    }
                    let ended_at = if report.is_some() && ended_at != started { ended_at } else { Instant::now() };
                    return Ok((report, ended_at));
                }
                () = switch.pulled(), if killed.get().is_none() => killed.set(KillReason::Requested),
                () = killed.pulled() => self.end_all(overseer, seen).await,
                // Most programs end when they are refused a process; those that try for ever would pass as slow.
                _ = look.tick(), if killed.get().is_none() => {
                    let usage = overseer.usage();
                    seen.processes = seen.processes.max(usage.processes);
                    if usage.refused_processes > 0 {
                        killed.set(KillReason::Processes);
                    }
                }
            }
        }
    }

    /// Puts an end to everything in the place: it stands still, is looked at, and is killed with the first process, so that nothing gets out of the
    /// way in between. That it is dead, and that nobody is left, is waited for when the place is left, before anything of it is read.
    pub(crate) async fn end_all(&self, overseer: &impl Overseer, seen: &mut Look) {
        if overseer.freeze() {
            for _ in 0..FREEZE_LOOKS {
                if overseer.is_frozen() {
                    break;
                }
                tokio::time::sleep(FREEZE_PAUSE).await;
            }
        }
        overseer.usage();
        let look = Look::at(&overseer.processes());
        seen.processes = seen.processes.max(look.processes);
        (seen.written_bytes, seen.created) = (look.written_bytes, look.created);
        self.process.get_ref().kill();
        // In version 1 what stands still does not die.
        overseer.thaw();
    }

    /// Whether the first process lives, or nobody has taken it away yet: its number is not given to anybody else.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.get_ref().signal(0)
    }

    /// Waits for the death of the first process, after which nothing in its namespace lives.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(crate) async fn dead(&self) -> io::Result<()> {
        self.process.readable().await?.retain_ready();
        Ok(())
    }

    /// Why the program did not start.
    pub(crate) fn start_error(&self, report: Report) -> EnvironmentError {
        let source = io::Error::from_raw_os_error(report.errno);
        let name = self.job.name(report.call);
        match name.strip_prefix("start ") {
            Some(program) if !name.starts_with("start a ") => {
                EnvironmentError::Start { program: program.to_owned(), source }
            }
            _ => step(name, source),
        }
    }
}

/// Whether the program has ended, rather than failed to start.
pub(crate) fn has_ended(report: &Report) -> bool {
    report.kind == ReportKind::Ended as u32
}

/// How a program ended whose wait status this is.
pub(crate) fn exit_status(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(u8::try_from(libc::WTERMSIG(status)).unwrap_or(u8::MAX))
    } else {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    }
}

fn step(step: &str, source: io::Error) -> EnvironmentError {
    EnvironmentError::Step { step: step.to_owned(), source }
}

fn talk(source: io::Error) -> EnvironmentError {
    step("talk to the first process", source)
}
