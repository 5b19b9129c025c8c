//! The first process of a sandbox: it makes the place, becomes the parent of the program, and tells how that ended.
//!
//! Nobody waits for its goodwill: the agent holds a descriptor of it and kills it, and with it everything in its namespace.

use super::message::{receive, send};
use super::protocol::{COUNTERS, DESCRIPTORS_MAX, Failure, LOAD, REPORT, Report, ReportKind, SCRATCH};
use super::script::Script;
use super::system::{CLOSE_RANGE, O_DIRECTORY, PIDFD_OPEN, Usage, call, close, exit, now, number, sleep};

/// Whose first process it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// A launcher's, with which it dies, and which the agent has given a descriptor of it.
    Sandbox,
    /// That of a container engine, which does not know the agent: it watches the agent's socket, and is killed when the agent has seen what was used.
    Container,
}

/// How long what the program left behind may take to end by itself before it counts as leaked, in rounds of [`LEAK_ROUND_NANOSECONDS`].
const LEAK_ROUNDS: u32 = 4;
const LEAK_ROUND_NANOSECONDS: i64 = 2_000_000;
/// How often a container takes away the dead that are not the program.
const LOOK_NANOSECONDS: i64 = 100_000_000;

const O_CLOEXEC: i64 = 0o2_000_000;
const AT_FDCWD: i64 = -100;
const WALL: i64 = 0x4000_0000;
const WNOHANG: i64 = 1;
const SIGCHLD: i64 = 17;

/// Makes the place and waits for the program.
pub(crate) fn main(setup: i32, report: i32, home: Home) -> ! {
    // SAFETY: the agent has made the script. Mapping it frees its number, which may be the report's.
    let script = unsafe { Script::map(setup) };
    keep(report);
    // SAFETY: the script is made for this process.
    let made = unsafe { script.and_then(|script| script.perform().map(|()| script)) };
    let script = match made {
        Ok(script) => script,
        Err(failure) => {
            send_failure(ReportKind::SetupFailed, failure);
            exit(1)
        }
    };
    send_ready(&script, home);
    let mut word = 0_u64;
    // SAFETY: any bytes are a valid number.
    let Some([job, output, error]) = (unsafe { receive::<u64, 3>(REPORT, &mut word) }) else { exit(0) };
    if job < 0 || output < 0 || error < 0 {
        exit(0);
    }
    // SAFETY: descriptors 1 and 2 are nobody's here; the script is the agent's.
    let job = unsafe {
        call(number::DUP3, [output.into(), 1, 0, 0, 0, 0]);
        call(number::DUP3, [error.into(), 2, 0, 0, 0, 0]);
        close(output);
        close(error);
        Script::map(job)
    };
    match job {
        Ok(job) => supervise(&job, home),
        Err(failure) => {
            send_failure(ReportKind::StartFailed, failure);
            exit(1)
        }
    }
}

/// Gives the report its number and lets go of the launcher's socket.
fn keep(report: i32) {
    // SAFETY: descriptor 1 is no channel of anybody's in a launcher.
    unsafe {
        if report != REPORT {
            call(number::DUP3, [report.into(), REPORT.into(), O_CLOEXEC, 0, 0, 0]);
            close(report);
        }
        call(number::DUP3, [1, 0, 0, 0, 0, 0]);
    }
}

fn supervise(job: &Script, home: Home) -> ! {
    let started = now();
    // SAFETY: a copy of this process that runs the script, which becomes the program.
    let program = unsafe { call(number::FORK_CLONE, [SIGCHLD, 0, 0, 0, 0, 0]) };
    if program == 0 {
        // SAFETY: this process is made for it.
        if let Err(failure) = unsafe { job.perform() } {
            send_failure(ReportKind::StartFailed, failure);
        }
        exit(127)
    }
    if program < 0 {
        send_failure(ReportKind::StartFailed, Failure { call: u32::MAX, errno: program.wrapping_neg() as i32 });
        exit(1)
    }
    close(1);
    close(2);
    let status = match home {
        Home::Sandbox => wait_for(program),
        Home::Container => watch(program),
    };
    let mut report = Report::new(ReportKind::Ended);
    report.status = status;
    report.execution_nanoseconds = now().wrapping_sub(started);
    report.leaked = count_leaked();
    let mut usage = Usage::none();
    const CHILDREN: i64 = -1;
    // SAFETY: the address is of a local of the right size.
    unsafe { call(number::GETRUSAGE, [CHILDREN, usage.address(), 0, 0, 0, 0]) };
    report.cpu_nanoseconds = usage.cpu_nanoseconds();
    report.resident_bytes = usage.resident_bytes();
    report.written_bytes = written_bytes();
    report.created = created();
    send(REPORT, &report, &[]);
    if home == Home::Container {
        // The engine removes the control group with the last process: the agent looks at it first, and then kills.
        let mut word = 0_u64;
        // SAFETY: any bytes are a valid number.
        unsafe { receive::<u64, 1>(REPORT, &mut word) };
    }
    exit(0)
}

/// Waits for the program, and takes away the dead that are nobody else's.
fn wait_for(program: i64) -> i32 {
    let mut status = 0_i32;
    loop {
        let ended = wait(&mut status, WALL);
        if ended == program {
            return status;
        }
        if ended < 0 && ended != -4 {
            exit(1);
        }
    }
}

/// `struct pollfd` (`poll(2)`).
#[repr(C)]
struct Polled {
    descriptor: i32,
    events: i16,
    returned: i16,
}

/// Waits for the program as [`wait_for`] does, and ends with the agent: the kernel kills the container with its first process.
fn watch(program: i64) -> i32 {
    const POLLIN: i16 = 1;
    // Without it, the end of the program is seen at the next look.
    // SAFETY: only numbers are passed.
    let descriptor = unsafe { call(PIDFD_OPEN, [program, 0, 0, 0, 0, 0]) };
    loop {
        let mut polled = [REPORT, descriptor as i32].map(|descriptor| Polled { descriptor, events: POLLIN, returned: 0 });
        let time = [0_i64, LOOK_NANOSECONDS];
        let (address, time) = (polled.as_mut_ptr().expose_provenance() as i64, time.as_ptr().expose_provenance() as i64);
        // SAFETY: the addresses are of locals of the right shape, and there are two of them.
        unsafe { call(number::PPOLL, [address, 2, time, 0, 0, 0]) };
        // SAFETY: the kernel has written it, which the compiler can't see.
        if unsafe { (&raw const polled[0].returned).read_volatile() } != 0 {
            exit(1);
        }
        let mut status = 0_i32;
        loop {
            let ended = wait(&mut status, WALL | WNOHANG);
            if ended == program {
                close(descriptor as i32);
                return status;
            }
            if ended <= 0 {
                break;
            }
        }
    }
}

fn wait(status: &mut i32, flags: i64) -> i64 {
    let address = core::ptr::from_mut(status).expose_provenance() as i64;
    // SAFETY: the address is of the caller's number.
    let ended = unsafe { call(number::WAIT4, [-1, address, flags, 0, 0, 0]) };
    // SAFETY: the kernel has written it, which the compiler can't see.
    *status = unsafe { core::ptr::from_ref(status).read_volatile() };
    ended
}

/// Processes besides this one that live on for longer than a moment.
fn count_leaked() -> u32 {
    let mut round = 0_u32;
    loop {
        let mut has_children = false;
        loop {
            let mut status = 0;
            let ended = wait(&mut status, WALL | WNOHANG);
            if ended == 0 {
                has_children = true;
            }
            if ended <= 0 {
                break;
            }
        }
        // Whatever the program left has this process for its parent, or for the parent of a forebear: without children there is nobody.
        if !has_children {
            return 0;
        }
        if round >= LEAK_ROUNDS {
            return count_processes();
        }
        round = round.wrapping_add(1);
        sleep(LEAK_ROUND_NANOSECONDS);
    }
}

/// Counts the numbers in `/proc` other than 1; at least 1, because the caller has seen a child.
fn count_processes() -> u32 {
    let mut buffer = [0_u8; 4096];
    let mut count = 0_u32;
    let path = c"/proc".as_ptr().expose_provenance() as i64;
    // SAFETY: the path ends with a zero byte; the buffer is as large as the kernel is told.
    unsafe {
        let directory = call(number::OPENAT, [AT_FDCWD, path, O_CLOEXEC, 0, 0, 0]);
        if directory < 0 {
            return 1;
        }
        loop {
            let address = buffer.as_mut_ptr().expose_provenance() as i64;
            let length = call(number::GETDENTS64, [directory, address, buffer.len() as i64, 0, 0, 0]);
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
        close(directory as i32);
    }
    count.saturating_sub(1).max(1)
}

/// The second line of the counters, `wchar: N`; 0 where the kernel does not count.
fn written_bytes() -> u64 {
    let mut buffer = [0_u8; 256];
    let Some(line) = read(COUNTERS, &mut buffer).split(|byte| *byte == b'\n').nth(1) else { return 0 };
    value(line)
}

/// Numbers of processes are given in order, threads' too, so the newest tells how many there were besides this one; 0 where it can't be read.
fn created() -> u32 {
    let mut buffer = [0_u8; 128];
    let Some(last) = read(LOAD, &mut buffer).split(|byte| *byte == b' ').next_back() else { return 0 };
    u32::try_from(value(last)).unwrap_or(0).saturating_sub(1)
}

/// What can be read of a descriptor at once.
fn read(descriptor: i32, buffer: &mut [u8]) -> &[u8] {
    let address = buffer.as_mut_ptr().expose_provenance() as i64;
    // SAFETY: the buffer is as large as the kernel is told.
    let length = unsafe { call(number::READ, [descriptor.into(), address, buffer.len() as i64, 0, 0, 0]) };
    usize::try_from(length).ok().and_then(|length| buffer.get(..length)).unwrap_or(&[])
}

/// The digits of a text as one number.
fn value(text: &[u8]) -> u64 {
    let digits = text.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0_u64, |value, digit| value.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0'))))
}

fn send_failure(kind: ReportKind, failure: Failure) {
    let mut report = Report::new(kind);
    report.call = failure.call;
    report.errno = failure.errno;
    send(REPORT, &report, &[]);
}

fn send_ready(script: &Script, home: Home) {
    const O_PATH: i64 = 0o10_000_000;
    if home == Home::Container {
        // The agent knows who has connected, and where the files are.
        send(REPORT, &Report::new(ReportKind::Ready), &[]);
        close_rest();
        return;
    }
    let mut opened = [-1_i32; DESCRIPTORS_MAX];
    let mut count = 1_usize;
    // SAFETY: the paths end with a zero byte; only numbers are passed otherwise.
    unsafe {
        if let Some(own) = opened.first_mut() {
            *own = call(PIDFD_OPEN, [1, 0, 0, 0, 0, 0]) as i32;
            if *own < 0 {
                send_failure(ReportKind::SetupFailed, Failure { call: u32::MAX, errno: own.wrapping_neg() });
                exit(1)
            }
        }
        for (index, place) in opened.iter_mut().skip(1).enumerate() {
            let Some(path) = script.root(index) else { break };
            *place = call(number::OPENAT, [AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, 0, 0]) as i32;
            if *place < 0 {
                break;
            }
            count = count.wrapping_add(1);
        }
        if let Some(last) = opened.get_mut(count) {
            *last = SCRATCH;
            count = count.wrapping_add(1);
        }
        send(REPORT, &Report::new(ReportKind::Ready), opened.get(..count).unwrap_or(&[]));
    }
    close_rest();
}

/// Closes all but what this process needs to the end.
fn close_rest() {
    // SAFETY: nothing beyond is used any more.
    unsafe { call(CLOSE_RANGE, [i64::from(LOAD).wrapping_add(1), u32::MAX.into(), 0, 0, 0, 0]) };
}
