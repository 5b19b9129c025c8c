//! What runs between the clone and the program: the sandbox's first process and the program's last steps before `exec`.
//!
//! Architecture Invariant: nothing here allocates, locks or panics; see [`script`](super::script).

use std::ffi::{c_int, c_void};
use std::os::fd::RawFd;

use super::script::{Failure, REGISTERS, SealedScript};

/// Byte from the parent: the identity maps are written.
pub(super) const MAPS_ARE_WRITTEN: u8 = b'm';
/// Byte from the parent: start the program.
pub(super) const START: u8 = b's';

/// The descriptor of the first process that talks to the parent.
pub(super) const REPORT_DESCRIPTOR: RawFd = 0;

/// How long what the program left behind may take to end by itself before it counts as leaked, in rounds of [`LEAK_ROUND_NANOSECONDS`].
const LEAK_ROUNDS: u32 = 4;
const LEAK_ROUND_NANOSECONDS: i64 = 2_000_000;

/// Descriptors that one message can carry.
pub(super) const ROOTS_MAX: usize = 40;

/// What a report is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    /// A call of the setup failed.
    SetupFailed = 1,
    /// The place is made. Carries the roots to collect from, if any.
    Ready = 2,
    /// A call before the program's `exec`, or that itself, failed.
    StartFailed = 3,
    /// The program ended.
    Ended = 4,
}

/// A message from the first process to the parent.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Report {
    /// A [`Kind`], as a number because it comes from another process.
    pub(super) kind: u32,
    /// The call that failed.
    pub(super) call: u32,
    /// What the kernel said to it.
    pub(super) errno: i32,
    /// The wait status of the program.
    pub(super) status: i32,
    /// Processes that it left.
    pub(super) leaked: u32,
    /// Keeps the size free of padding.
    pub(super) reserved: u32,
    /// From the program's start to its end.
    pub(super) execution_nanoseconds: u64,
    /// Processor time of the program and of those of its children that were waited for, in nanoseconds.
    pub(super) cpu_nanoseconds: u64,
}

impl Report {
    /// Whether the program has ended and left nobody. Then the first process, which runs no code but ours, is the only one, and its own end,
    /// which takes the kernel longer than most programs run, need not be waited for.
    pub(super) fn is_alone(&self) -> bool {
        self.kind == Kind::Ended as u32 && self.leaked == 0
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind: kind as u32,
            call: 0,
            errno: 0,
            status: 0,
            leaked: 0,
            reserved: 0,
            execution_nanoseconds: 0,
            cpu_nanoseconds: 0,
        }
    }
}

/// Everything that the child needs, in the parent's memory of which it has a copy.
pub(super) struct ChildPlan<'a> {
    /// The parent's numbers of the three descriptors to keep: report, standard output, standard error.
    pub(super) descriptors: [RawFd; 3],
    /// Makes the place.
    pub(super) setup: &'a SealedScript,
    /// Becomes the program.
    pub(super) job: &'a SealedScript,
    /// Paths with their final zero to open for the parent to collect from.
    pub(super) roots: &'a [Vec<u8>],
    /// The top of a stack that nobody else uses.
    pub(super) stack_top: *mut c_void,
}

/// The first process of a sandbox.
///
/// # Safety
///
/// Only in a process that was cloned for it, with a copy of the parent's memory.
pub(super) unsafe fn become_first_process(plan: &ChildPlan<'_>) -> ! {
    let mut registers = [0_i64; REGISTERS];
    // SAFETY: this process is made for it, as the caller vouches; each function below touches only this process.
    unsafe {
        keep_descriptors(plan.descriptors);
        if let Err(failure) = plan.setup.perform(&mut registers) {
            send_failure(Kind::SetupFailed, failure);
            libc::_exit(1);
        }
        send_ready(plan.roots);
        let mut byte = 0_u8;
        if libc::read(REPORT_DESCRIPTOR, (&raw mut byte).cast(), 1) != 1 || byte != START {
            libc::_exit(0);
        }
        supervise(plan)
    }
}

/// Moves the three descriptors to 0, 1 and 2 and closes all others.
///
/// # Safety
///
/// As for [`become_first_process`].
unsafe fn keep_descriptors(given: [RawFd; 3]) {
    let mut high = [-1_i32; 3];
    // SAFETY: only numbers are passed.
    unsafe {
        for (place, descriptor) in high.iter_mut().zip(given) {
            *place = libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3);
        }
        let [report, output, error] = high;
        libc::dup2(report, 0);
        libc::dup2(output, 1);
        libc::dup2(error, 2);
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
    }
}

/// # Safety
///
/// As for [`become_first_process`].
unsafe fn supervise(plan: &ChildPlan<'_>) -> ! {
    let mut job = Job { script: plan.job, failure: None };
    // SAFETY: the stack is the caller's gift; `job` outlives the clone because `CLONE_VFORK` holds this process until the child has left this
    // memory; the rest are plain calls.
    unsafe {
        let started = now();
        let program = libc::clone(
            start_program,
            plan.stack_top,
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut job).cast(),
        );
        if program < 0 {
            send_failure(Kind::StartFailed, Failure { call: u32::MAX, errno: *libc::__errno_location() });
            libc::_exit(1);
        }
        // Written by the child into this memory, which the compiler can't see.
        if let Some(failure) = std::ptr::read_volatile(&raw const job.failure) {
            send_failure(Kind::StartFailed, failure);
            libc::_exit(1);
        }
        libc::close(1);
        libc::close(2);
        let mut status = 0;
        loop {
            let ended = libc::waitpid(-1, &raw mut status, libc::__WALL);
            if ended == program {
                break;
            }
            if ended < 0 && *libc::__errno_location() != libc::EINTR {
                libc::_exit(1);
            }
        }
        let mut report = Report::new(Kind::Ended);
        report.status = status;
        report.execution_nanoseconds = now().wrapping_sub(started);
        report.leaked = count_leaked();
        report.cpu_nanoseconds = cpu_of_children();
        send(&report, &[]);
        libc::_exit(0)
    }
}

struct Job<'a> {
    script: &'a SealedScript,
    failure: Option<Failure>,
}

extern "C" fn start_program(argument: *mut c_void) -> c_int {
    let mut registers = [0_i64; REGISTERS];
    // SAFETY: `supervise` passes its `Job` and waits until this process has executed the program or ended.
    unsafe {
        let job = argument.cast::<Job<'_>>();
        if let Err(failure) = (*job).script.perform(&mut registers) {
            std::ptr::write_volatile(&raw mut (*job).failure, Some(failure));
        }
        libc::_exit(127)
    }
}

/// Processes besides this one that live on for longer than a moment.
///
/// # Safety
///
/// As for [`become_first_process`].
unsafe fn count_leaked() -> u32 {
    // SAFETY: plain calls on this process's own children.
    unsafe {
        let mut round = 0;
        loop {
            let mut children = false;
            loop {
                let ended = libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG);
                if ended == 0 {
                    children = true;
                }
                if ended <= 0 {
                    break;
                }
            }
            // Whatever the program left has this process for its parent, or for the parent of a forebear: without children there is nobody.
            if !children {
                return 0;
            }
            if round >= LEAK_ROUNDS {
                return count_processes();
            }
            round += 1;
            let time = libc::timespec { tv_sec: 0, tv_nsec: LEAK_ROUND_NANOSECONDS };
            libc::nanosleep(&raw const time, std::ptr::null_mut());
        }
    }
}

/// Counts the numbers in `/proc` other than 1; at least 1, because the caller has seen a child.
///
/// # Safety
///
/// As for [`become_first_process`].
unsafe fn count_processes() -> u32 {
    let mut buffer = [0_u8; 4096];
    let mut count = 0_u32;
    // SAFETY: the buffer is large enough for what the kernel is told; the rest are plain calls.
    unsafe {
        let directory = libc::open(c"/proc".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC);
        if directory < 0 {
            return 1;
        }
        loop {
            let length = libc::syscall(libc::SYS_getdents64, directory, buffer.as_mut_ptr(), buffer.len());
            let Some(mut entries) = usize::try_from(length).ok().and_then(|length| buffer.get(..length)) else { break };
            if entries.is_empty() {
                break;
            }
            // struct linux_dirent64: inode 8, offset 8, record length 2, type 1, name.
            while let (Some(&[low, high]), Some(&first)) = (entries.get(16..18), entries.get(19)) {
                count = count.wrapping_add(u32::from(first.is_ascii_digit()));
                let record = usize::from(u16::from_ne_bytes([low, high]));
                let Some(rest) = entries.get(record..) else { break };
                entries = rest;
            }
        }
        libc::close(directory);
    }
    count.saturating_sub(1).max(1)
}

/// # Safety
///
/// As for [`become_first_process`].
unsafe fn send_failure(kind: Kind, failure: Failure) {
    let mut report = Report::new(kind);
    report.call = failure.call;
    report.errno = failure.errno;
    // SAFETY: as the caller vouches.
    unsafe { send(&report, &[]) };
}

/// # Safety
///
/// As for [`become_first_process`].
unsafe fn send_ready(roots: &[Vec<u8>]) {
    let mut opened = [-1_i32; ROOTS_MAX];
    let mut count = 0_usize;
    // SAFETY: the paths end with a zero byte.
    unsafe {
        for (place, root) in opened.iter_mut().zip(roots) {
            let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
            *place = libc::openat(libc::AT_FDCWD, root.as_ptr().cast(), flags);
            if *place < 0 {
                break;
            }
            count = count.wrapping_add(1);
        }
        send(&Report::new(Kind::Ready), opened.get(..count).unwrap_or(&[]));
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
    }
}

/// # Safety
///
/// As for [`become_first_process`].
unsafe fn send(report: &Report, descriptors: &[RawFd]) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    #[repr(C, align(8))]
    struct Control([u8; HEADER + ROOTS_MAX * size_of::<RawFd>()]);
    let mut control = Control([0; HEADER + ROOTS_MAX * size_of::<RawFd>()]);
    let mut vector =
        libc::iovec { iov_base: std::ptr::from_ref(report).cast_mut().cast(), iov_len: size_of::<Report>() };
    // SAFETY: an all-zero `msghdr` is valid; every pointer put into it outlives the call; `control` has room for `ROOTS_MAX` descriptors.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        if !descriptors.is_empty() {
            let length = HEADER.wrapping_add(size_of_val(descriptors));
            let header = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
            (*header).cmsg_len = length as _;
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            let data = control.0.as_mut_ptr().wrapping_add(HEADER).cast::<RawFd>();
            std::ptr::copy_nonoverlapping(descriptors.as_ptr(), data, descriptors.len());
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = length as _;
        }
        libc::sendmsg(REPORT_DESCRIPTOR, &raw const message, libc::MSG_NOSIGNAL);
    }
}

/// # Safety
///
/// As for [`become_first_process`].
unsafe fn cpu_of_children() -> u64 {
    // SAFETY: an all-zero `rusage` is valid, and the pointer is to a local.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let nanoseconds = |time: libc::timeval| {
        time.tv_sec
            .cast_unsigned()
            .wrapping_mul(1_000_000_000)
            .wrapping_add(time.tv_usec.cast_unsigned().wrapping_mul(1000))
    };
    nanoseconds(usage.ru_utime).wrapping_add(nanoseconds(usage.ru_stime))
}

/// # Safety
///
/// As for [`become_first_process`].
unsafe fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.cast_unsigned())
}
