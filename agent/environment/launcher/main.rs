//! The launcher: a small program with one thread that starts the first processes of sandboxes.
//!
//! An agent has many threads and much memory: to fork it costs milliseconds, and every byte of it would be in the copy. So each slot of an
//! agent has a launcher, which is executed from a sealed file in memory and lives in the slot's control groups, in a user namespace, with a
//! network, a host name and mounts that are ready for use. Starting a sandbox is then a clone of a few pages. It reads nothing but the agent's
//! messages, whose scripts of system calls it plays, and ends with the agent: its socket is closed then.
//!
//! Started with the path of a socket, it is the first process of a container instead: see [`contained`].
//!
//! It is built without the standard library, and without any other, by the build script of `muster-environment`.

#![no_std]
#![no_main]
#![no_builtins]
#![allow(unsafe_code, reason = "a program that consists of system calls")]

mod contained;
mod first;
mod memory;
mod message;
mod network;
#[allow(dead_code, reason = "the other half is the agent's")]
mod protocol;
mod script;
mod system;

use self::first::Home;
use self::message::{receive, send};
use self::protocol::{Answer, CONTROL, Failure, PLACES_MAX, Report, ReportKind, Request, RequestKind};
use self::script::Script;
use self::system::{Usage, call, close, exit, number};

const CLONE_NAMESPACES: i64 = 0x2000_0000 | 0x0002_0000 | 0x0800_0000;
const SIGCHLD: i64 = 17;
const SIGKILL: i64 = 9;
const WNOHANG: i64 = 1;
const WALL: i64 = 0x4000_0000;

/// The first processes that have not been reaped, as (place, process id).
type Places = [(u32, i64); PLACES_MAX];

/// Where the program begins, with the address of what the kernel has put on the stack: the number of arguments, then their addresses.
extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: as the kernel starts every program (`execve(2)`).
    let path = unsafe { (stack.read() > 1).then(|| stack.wrapping_add(2).read()) };
    if let Some(path) = path {
        contained::main(core::ptr::with_exposed_provenance(path));
    }
    let mut places: Places = [(0, 0); PLACES_MAX];
    loop {
        let mut request = Request { kind: 0, place: 0 };
        // SAFETY: any bytes are a valid request.
        let Some([script, report]) = (unsafe { receive::<Request, 2>(CONTROL, &mut request) }) else { end(&places) };
        const PLAY: u32 = RequestKind::Play as u32;
        const PLACE: u32 = RequestKind::Place as u32;
        const REAP: u32 = RequestKind::Reap as u32;
        const RENEW: u32 = RequestKind::Renew as u32;
        const CONNECT: u32 = RequestKind::Connect as u32;
        match request.kind {
            PLAY => answer(play(script)),
            PLACE => start(request.place, script, report, &mut places),
            REAP => send(CONTROL, &reap(request.place, &mut places), &[]),
            RENEW => send(CONTROL, &network::renew(), &[]),
            CONNECT => network::connect(request.place),
            _ => end(&places),
        }
    }
}

/// The agent is gone: takes everything along.
fn end(places: &Places) -> ! {
    for (_, process) in places {
        if *process > 0 {
            // SAFETY: it is a child of this process that has not been reaped.
            unsafe {
                call(number::KILL, [*process, SIGKILL, 0, 0, 0, 0]);
                call(number::WAIT4, [*process, 0, WALL, 0, 0, 0]);
            }
        }
    }
    exit(0)
}

fn answer(result: Result<(), Failure>) {
    let answer = match result {
        Ok(()) => Answer::default(),
        Err(Failure { call, errno }) => {
            Answer { call, errno: if errno == 0 { -1 } else { errno }, ..Answer::default() }
        }
    };
    send(CONTROL, &answer, &[]);
}

fn play(script: i32) -> Result<(), Failure> {
    // SAFETY: the agent has made the script for this process.
    unsafe {
        let script = Script::map(script)?;
        let result = script.perform();
        script.unmap();
        result
    }
}

fn start(place: u32, script: i32, report: i32, places: &mut Places) {
    for (_, process) in places.iter_mut().filter(|(_, process)| *process > 0) {
        // SAFETY: it is a child of this process that has not been reaped.
        if unsafe { call(number::WAIT4, [*process, 0, WALL | WNOHANG, 0, 0, 0]) } != 0 {
            *process = 0;
        }
    }
    let free = places.iter_mut().find(|(_, process)| *process == 0);
    // SAFETY: a copy of this process in new namespaces, which has a function of its own.
    let process = unsafe { call(number::FORK_CLONE, [CLONE_NAMESPACES | SIGCHLD, 0, 0, 0, 0, 0]) };
    if process == 0 {
        first::main(script, report, Home::Sandbox);
    }
    if process < 0 {
        let mut failed = Report::new(ReportKind::SetupFailed);
        failed.call = u32::MAX;
        failed.errno = process.wrapping_neg() as i32;
        send(report, &failed, &[]);
    } else if let Some(free) = free {
        *free = (place, process);
    }
    close(script);
    close(report);
}

fn reap(place: u32, places: &mut Places) -> Answer {
    let mut usage = Usage::none();
    for (number, process) in places {
        if *number == place && *process > 0 {
            // SAFETY: it is a child of this process that has not been reaped; the address is of a local of the right size.
            unsafe { call(number::WAIT4, [*process, 0, WALL, usage.address(), 0, 0]) };
            *process = 0;
        }
    }
    Answer { cpu_nanoseconds: usage.cpu_nanoseconds(), ..Answer::default() }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(101)
}
