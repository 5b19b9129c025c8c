//! The first process of a container, which a container engine has started: it goes to the agent by itself.

use super::first::{self, Home};
use super::message::receive;
use super::system::{call, close, exit, number};

const AF_UNIX: u16 = 1;
const SOCK_SEQPACKET: i64 = 5;
const SOCK_CLOEXEC: i64 = 0o2_000_000;
/// `struct sockaddr_un` (`unix(7)`): the path with its last zero byte, after the family.
const PATH_BYTES: usize = 108;

#[repr(C)]
struct Address {
    family: u16,
    path: [u8; PATH_BYTES],
}

/// Connects to the agent's socket at a path, is sent the script of the setup, and goes on as every first process does.
pub(crate) fn main(path: *const u8) -> ! {
    let Some(report) = connect(path) else { exit(1) };
    let mut word = 0_u64;
    // SAFETY: any bytes are a valid number.
    let Some([setup]) = (unsafe { receive::<u64, 1>(report, &mut word) }) else { exit(1) };
    first::main(setup, report, Home::Container)
}

fn connect(path: *const u8) -> Option<i32> {
    let mut address = Address { family: AF_UNIX, path: [0; PATH_BYTES] };
    for (index, place) in address.path.iter_mut().take(PATH_BYTES - 1).enumerate() {
        // SAFETY: the kernel ends arguments with a zero byte, after which nothing is read.
        *place = unsafe { path.wrapping_add(index).read() };
        if *place == 0 {
            break;
        }
    }
    // SAFETY: the address is of a local, and as long as the kernel is told.
    unsafe {
        let socket = call(number::SOCKET, [AF_UNIX.into(), SOCK_SEQPACKET | SOCK_CLOEXEC, 0, 0, 0, 0]);
        let location = (&raw const address).expose_provenance() as i64;
        let connected = call(number::CONNECT, [socket, location, size_of::<Address>() as i64, 0, 0, 0]);
        if socket >= 0 && connected >= 0 {
            return Some(socket as i32);
        }
        close(socket as i32);
    }
    None
}
