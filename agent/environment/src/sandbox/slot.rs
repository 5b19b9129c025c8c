//! The thread that clones, one for each environment that is open at one time, kept and used again.
//!
//! A thread of its own, because the kernel ties two things to the cloning thread: the signal that a child gets when its parent dies, and (in
//! version 1) the control groups that a child is born into. So nothing has to be moved between groups when an environment starts.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::child::{ChildPlan, MAPS_ARE_WRITTEN, become_first_process};
use super::plan::Plan;
use super::script::SealedScript;
use super::{Identity, JOB_ID, step};
use crate::EnvironmentError;
use crate::groups::{ControlGroup, GroupUsage};

/// The stack of the program's last steps before `exec`, in bytes.
const STACK_BYTES: usize = 64 * 1024;

// From linux/sched.h; libc's constants are too narrow for them.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the first process of one environment is made from.
pub(super) struct Start {
    pub(super) plan: Arc<Plan>,
    pub(super) job: SealedScript,
    pub(super) memory_bytes: u64,
    pub(super) processes: u32,
    pub(super) identity: Identity,
    /// The child's ends: report, standard output, standard error.
    pub(super) descriptors: [OwnedFd; 3],
    /// The parent's end of the report's socket.
    pub(super) report: OwnedFd,
}

/// A first process that is making its place.
pub(super) struct Started {
    pub(super) process: FirstProcess,
    pub(super) report: OwnedFd,
    pub(super) job: SealedScript,
}

/// A first process, named by a descriptor so that it can never be mistaken for another. Killed and reaped when dropped.
#[derive(Debug)]
pub(super) struct FirstProcess {
    descriptor: OwnedFd,
    reaped: bool,
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
    pub(super) fn kill(&self) {
        // SAFETY: only a descriptor that we own and numbers are passed.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.descriptor.as_raw_fd(), libc::SIGKILL, 0, 0) };
    }

    /// Waits for its death and takes its zombie away. Gives the processor time that it and its reaped children used.
    pub(super) fn reap(&mut self) -> io::Result<Duration> {
        if self.reaped {
            return Ok(Duration::ZERO);
        }
        // SAFETY: all-zero values of both are valid, and the pointers are to locals. Its exit signal is none, hence `__WALL`.
        let usage = unsafe {
            let mut information: libc::siginfo_t = std::mem::zeroed();
            let mut usage: libc::rusage = std::mem::zeroed();
            let result = libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                self.descriptor.as_raw_fd(),
                &raw mut information,
                libc::WEXITED | libc::__WALL,
                &raw mut usage,
            );
            if result < 0 {
                return Err(io::Error::last_os_error());
            }
            usage
        };
        self.reaped = true;
        let time = |time: libc::timeval| {
            Duration::new(time.tv_sec.cast_unsigned(), 0) + Duration::from_micros(time.tv_usec.cast_unsigned())
        };
        Ok(time(usage.ru_utime) + time(usage.ru_stime))
    }
}

impl Drop for FirstProcess {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // The kernel kills a namespace in milliseconds; leaving the zombie would be worse.
            if let Err(error) = self.reap() {
                tracing::warn!(%error, "cannot reap the first process of a sandbox");
            }
        }
    }
}

/// Slots that nobody uses.
pub(super) type FreeSlots = Arc<Mutex<Vec<Slot>>>;

enum Request {
    Start(Box<Start>, oneshot::Sender<Result<Started, EnvironmentError>>),
    Usage(oneshot::Sender<GroupUsage>),
    /// Kills and reaps here, so that the asker need not wait, then puts the slot among the free ones.
    Retire(FirstProcess, Slot, FreeSlots),
}

/// A handle on such a thread, which ends when the handle is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    requests: Sender<Request>,
}

impl Slot {
    /// Starts a thread in a group.
    pub(super) fn create(group: Box<dyn ControlGroup>) -> Result<Self, EnvironmentError> {
        let (requests, received) = channel();
        let thread = std::thread::Builder::new().name("muster-slot".into());
        thread.spawn(move || serve(group, &received)).map_err(|error| step("start a thread", error))?;
        Ok(Self { requests })
    }

    /// Clones a first process.
    pub(super) async fn start(&self, start: Start) -> Result<Started, EnvironmentError> {
        let (reply, answer) = oneshot::channel();
        let gone = || step("clone a process", io::Error::other("its thread has ended"));
        self.requests.send(Request::Start(Box::new(start), reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// What the last environment used.
    pub(super) async fn usage(&self) -> GroupUsage {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Usage(reply)).is_err() {
            return GroupUsage::default();
        }
        answer.await.unwrap_or_default()
    }

    /// Kills and reaps without making the caller wait, and gives the slot back when that is done: until then the process holds on to the
    /// memory of its place, which must not count against the next one.
    pub(super) fn retire(self, process: FirstProcess, free: FreeSlots) {
        let requests = self.requests.clone();
        // Without the thread the process is reaped by its own drop.
        let _ = requests.send(Request::Retire(process, self, free));
    }
}

fn serve(mut group: Box<dyn ControlGroup>, requests: &Receiver<Request>) {
    let entered = group.enter();
    let mut stack = vec![0_u8; STACK_BYTES];
    while let Ok(request) = requests.recv() {
        match request {
            Request::Start(start, reply) => {
                let limits = match &entered {
                    Ok(()) => group.begin(start.memory_bytes, start.processes),
                    Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                };
                let started = limits
                    .map_err(|error| step("limit memory and processes", error))
                    .and_then(|()| clone_first_process(*start, &mut stack, group.clone_into()));
                // An answer that nobody waits for is dropped, and with it the process.
                let _ = reply.send(started);
            }
            Request::Usage(reply) => {
                let _ = reply.send(group.usage());
            }
            Request::Retire(process, slot, free) => {
                drop(process);
                free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
            }
        }
    }
}

fn clone_first_process(start: Start, stack: &mut [u8], group: Option<RawFd>) -> Result<Started, EnvironmentError> {
    const NAMESPACES: i32 = libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    let mut descriptor: RawFd = -1;
    let [report, output, error] = &start.descriptors;
    // Sixteen bytes of alignment, as every processor's calling convention wants or allows.
    let top = stack.as_mut_ptr_range().end;
    let top = top.wrapping_sub(top.addr() % 16);
    let plan = ChildPlan {
        descriptors: [report.as_raw_fd(), output.as_raw_fd(), error.as_raw_fd()],
        setup: &start.plan.setup,
        job: &start.job,
        roots: &start.plan.roots,
        stack_top: top.cast(),
    };
    // SAFETY: an all-zero `clone_args` is valid. Without `CLONE_VM` the child has a copy of this memory, and it makes only
    // async-signal-safe calls in it.
    let child = unsafe {
        let mut arguments: libc::clone_args = std::mem::zeroed();
        arguments.flags = u64::from((NAMESPACES | libc::CLONE_PIDFD).cast_unsigned()) | CLONE_CLEAR_SIGHAND;
        arguments.pidfd = (&raw mut descriptor).addr() as u64;
        if let Some(group) = group {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = u64::from(group.cast_unsigned());
        }
        let child = libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>());
        if child == 0 {
            become_first_process(&plan);
        }
        child
    };
    if child < 0 {
        return Err(step("clone a process into new namespaces", io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made the descriptor for us.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let process = FirstProcess { descriptor, reaped: false };
    write_maps(child, start.identity).map_err(|error| step("map the program's user", error))?;
    nix::unistd::write(&start.report, &[MAPS_ARE_WRITTEN])
        .map_err(|error| step("talk to the sandbox", error.into()))?;
    Ok(Started { process, report: start.report, job: start.job })
}

fn write_maps(child: i64, identity: Identity) -> io::Result<()> {
    let Identity { uid, gid, is_root } = identity;
    if !is_root {
        fs::write(format!("/proc/{child}/setgroups"), "deny")?;
    }
    fs::write(format!("/proc/{child}/uid_map"), format!("{JOB_ID} {uid} 1"))?;
    fs::write(format!("/proc/{child}/gid_map"), format!("{JOB_ID} {gid} 1"))
}
