//! The keeper: a process between the agent and the program, to which everything that the program starts comes back.
//!
//! A process can leave its group and its session, but not its ancestors: when its parent dies, the kernel gives it to the nearest ancestor that
//! is a *child subreaper* (`prctl(2)`, `PR_SET_CHILD_SUBREAPER`). The keeper is that, and it ends only when it has no child left. It ends as
//! the program did: with its exit code, or by its signal.
//!
//! Between fork and exec the child makes only prepared system calls, and the keeper never does anything else.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::unistd::Pid;

use crate::output::pipe;

/// Where the keeper writes to the agent; everything above it is closed.
const REPORT: RawFd = 3;

/// What a keeper tells of everything that it kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Processes that were left when the program had ended by itself.
    pub(super) left: u32,
    /// Processor time of all of them.
    pub(super) cpu: Duration,
    /// The largest of them, in bytes of memory.
    pub(super) resident_bytes: u64,
    /// Bytes that they wrote, to files, pipes and terminals.
    pub(super) written_bytes: u64,
}

/// A running keeper, which kills what it keeps when this is dropped.
pub(super) struct Keeper {
    process: Option<Pid>,
    report: File,
}

impl Keeper {
    /// Starts the command under a keeper of its own. The keeper first enters the control groups whose doors are given (`cgroup.procs`, open for
    /// writing).
    ///
    /// # Errors
    ///
    /// When no process can be made, or the program can't be started.
    pub(super) fn start(
        mut command: tokio::process::Command,
        doors: Vec<File>,
    ) -> io::Result<(tokio::process::Child, Self)> {
        let (report, theirs) = pipe()?;
        // SAFETY: it makes only system calls on what was prepared here.
        unsafe { command.pre_exec(move || be_kept(&doors, &theirs)) };
        // What kills is the keeper: killed itself, it would let go of everything.
        command.kill_on_drop(false);
        // The command dies with this function, and with it our copies of the pipes' writing ends: with them open the pumps would never end.
        let child = command.spawn()?;
        let process = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Ok((child, Self { process, report: File::from(report) }))
    }

    /// Has everything killed.
    pub(super) fn kill(&self) {
        if let Some(process) = self.process {
            // It may have ended already.
            let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM);
        }
    }

    /// The keeper has been waited for: what it has told.
    pub(super) fn told(&mut self) -> Told {
        self.process = None;
        let mut told = Told::default();
        // It says nothing when it was killed itself.
        let mut numbers = [[0; 8]; 4];
        if self.report.read_exact(numbers.as_flattened_mut()).is_ok() {
            let [left, cpu_micros, resident_bytes, written_bytes] = numbers.map(u64::from_ne_bytes);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            told = Told { left, cpu: Duration::from_micros(cpu_micros), resident_bytes, written_bytes };
        }
        told
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kill();
    }
}

/// In the child: becomes the keeper, and returns in a child of its own that is going to be the program.
fn be_kept(doors: &[File], report: &OwnedFd) -> io::Result<()> {
    for door in doors {
        // 0 is the process that writes.
        nix::unistd::write(door, b"0")?;
    }
    nix::unistd::setsid()?;
    // SAFETY: numbers only.
    let prepared = unsafe {
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0) == 0
    };
    if !prepared {
        return Err(io::Error::last_os_error());
    }
    let mut signals = nix::sys::signal::SigSet::empty();
    signals.add(nix::sys::signal::Signal::SIGTERM);
    signals.add(nix::sys::signal::Signal::SIGCHLD);
    // Blocked before there is a child, so that its end can't be missed.
    let before = signals.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
    // SAFETY: the child goes on with system calls until it is replaced by the program, and so does the keeper until it ends.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            nix::unistd::setsid()?;
            // SAFETY: numbers only.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
            before.thread_set_mask()?;
            Ok(())
        }
        program => keep(program, report.as_raw_fd(), &signals),
    }
}

/// Waits for the program, or for the word to kill it; kills what is left, and ends like the program.
fn keep(program: libc::pid_t, report: RawFd, signals: &nix::sys::signal::SigSet) -> ! {
    // SAFETY: numbers only; nothing in this process uses the descriptors that are closed here.
    unsafe {
        if report != REPORT {
            libc::dup2(report, REPORT);
        }
        libc::syscall(libc::SYS_close_range, REPORT as libc::c_uint + 1, libc::c_uint::MAX, 0);
        for descriptor in 0..REPORT {
            libc::close(descriptor);
        }
    }
    let written_before = written_bytes();
    let mut status = None;
    let mut is_asked = false;
    while status.is_none() && !is_asked {
        is_asked = matches!(signals.wait(), Ok(nix::sys::signal::Signal::SIGTERM));
        while let Some((process, ended)) = reap(libc::WNOHANG) {
            if process == program {
                status = Some(ended);
            }
        }
    }
    let left = if is_asked { 0 } else { kill_children(program) };
    loop {
        kill_children(program);
        // Whoever dies here hands its children to the keeper, so this ends when nobody is left.
        match reap(0) {
            Some((process, ended)) if process == program => status = Some(ended),
            Some(_) => {}
            None => {
                tell(left, written_bytes().saturating_sub(written_before));
                end_like(status.unwrap_or(libc::SIGKILL))
            }
        }
    }
}

/// Tells of everything that was kept, which is dead and reaped.
fn tell(left: u32, written: u64) {
    // SAFETY: the structure lives until the call returns; all zeros is a valid one.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec.wrapping_mul(1_000_000).wrapping_add(time.tv_usec).cast_unsigned();
    let cpu = micros(usage.ru_utime).wrapping_add(micros(usage.ru_stime));
    let numbers = [u64::from(left), cpu, usage.ru_maxrss.cast_unsigned().wrapping_mul(1024), written];
    // SAFETY: the numbers live until the call returns.
    unsafe { libc::write(REPORT, numbers.as_ptr().cast(), size_of_val(&numbers)) };
}

/// What the kernel counts as written by this process and those that it has reaped (`proc_pid_io(5)`, `wchar`); 0 where it does not count.
fn written_bytes() -> u64 {
    let mut buffer = [0_u8; 256];
    // SAFETY: the path is a constant that ends with zero, and the buffer is as long as is said.
    let length = unsafe {
        let counters = libc::open(c"/proc/self/io".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if counters < 0 {
            return 0;
        }
        let length = libc::read(counters, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(counters);
        length
    };
    let text = usize::try_from(length).ok().and_then(|length| buffer.get(..length)).unwrap_or_default();
    let digits =
        text.split(|byte| *byte == b'\n').nth(1).unwrap_or_default().iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |value: u64, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
}

/// Reaps one child; none when there is none, or with `WNOHANG` none that has ended.
fn reap(options: libc::c_int) -> Option<(libc::pid_t, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the status lives until the call returns.
    let process = unsafe { libc::waitpid(-1, &raw mut status, options | libc::__WALL) };
    (process > 0).then_some((process, status))
}

/// Kills the children that there are now and counts them. Where the kernel does not list them, the program's group has to do.
fn kill_children(program: libc::pid_t) -> u32 {
    let mut buffer = [0_u8; 4096];
    // SAFETY: the path is a constant that ends with zero, and the buffer is as long as is said.
    let length = unsafe {
        let list = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if list < 0 {
            return u32::from(libc::kill(-program, libc::SIGKILL) == 0);
        }
        let length = libc::read(list, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(list);
        length
    };
    let mut count = 0;
    let mut process: libc::pid_t = 0;
    // A number that the buffer's end cuts off has no blank behind it, and is read whole the next time.
    for &byte in buffer.iter().take(usize::try_from(length).unwrap_or(0)) {
        match byte {
            b'0'..=b'9' => process = process.wrapping_mul(10).wrapping_add(libc::pid_t::from(byte - b'0')),
            _ if process > 0 => {
                // SAFETY: numbers only; it is a child that has not been reaped, so the number is still its.
                unsafe { libc::kill(process, libc::SIGKILL) };
                count += 1;
                process = 0;
            }
            _ => {}
        }
    }
    count
}

/// Ends this process as the status says that another one did.
fn end_like(status: libc::c_int) -> ! {
    if libc::WIFSIGNALED(status) {
        let signal = libc::WTERMSIG(status);
        // SAFETY: the structures live until the calls return; a core of the keeper would help nobody.
        unsafe {
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
            libc::signal(signal, libc::SIG_DFL);
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, signal);
            libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
            libc::kill(libc::getpid(), signal);
        }
    }
    // SAFETY: it only ends the process, without anything that the agent registered for its own end.
    unsafe { libc::_exit(libc::WEXITSTATUS(status)) }
}
