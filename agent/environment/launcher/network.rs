//! The network of a launcher: a loopback that is up, and nothing else.
//!
//! A network namespace is the dearest of all to make and to take down, and most tests never use it. It is used again only when it is as new:
//! its one device has never carried a packet, no socket of any family is left in it, and no flow label (RFC 6437) is held. Without a packet
//! there is no connection in any state, no cached metric, neighbour or fragment; everything else that a namespace remembers takes a
//! capability over it, which no program has. If anything is otherwise, or can't be read, the launcher moves to a new namespace.

use super::message::send;
use super::protocol::{Answer, CONTROL, Failure};
use super::system::{call, close, number};

const AT_FDCWD: i64 = -100;
const O_CLOEXEC: i64 = 0o2_000_000;
const CLONE_NEWNET: i64 = 0x4000_0000;

/// Replaces the network if it has been used.
pub(crate) fn renew() -> Answer {
    if is_new() {
        return Answer::default();
    }
    match replace() {
        Ok(()) => Answer { renewed: 1, ..Answer::default() },
        Err(Failure { call, errno }) => Answer { call, errno, renewed: 1, ..Answer::default() },
    }
}

fn is_new() -> bool {
    let mut buffer = [0_u8; 1024];
    let has_carried_nothing = read(c"/proc/self/net/dev", &mut buffer).is_some_and(|text| {
        // Two lines of headings, then one device whose counters are zero.
        let mut devices = text.split(|byte| *byte == b'\n').skip(2).filter(|line| !line.is_empty());
        let only = devices.next().and_then(|line| line.split(|byte| *byte == b':').nth(1));
        devices.next().is_none() && only.is_some_and(|counters| counters.iter().all(|byte| matches!(byte, b' ' | b'0')))
    });
    let has_no_socket = has_carried_nothing
        && read(c"/proc/self/net/sockstat", &mut buffer).is_some_and(|text| text.starts_with(b"sockets: used 0\n"));
    // The file is missing where the kernel has no IPv6.
    has_no_socket
        && read(c"/proc/self/net/ip6_flowlabel", &mut buffer)
            .is_none_or(|text| text.iter().filter(|byte| **byte == b'\n').count() <= 1)
}

/// Reads the beginning of a file.
fn read<'a>(path: &core::ffi::CStr, buffer: &'a mut [u8; 1024]) -> Option<&'a [u8]> {
    let path = path.as_ptr().expose_provenance() as i64;
    let address = buffer.as_mut_ptr().expose_provenance() as i64;
    // SAFETY: the path ends with a zero byte, and the buffer is as large as the kernel is told.
    let length = unsafe {
        let file = call(number::OPENAT, [AT_FDCWD, path, O_CLOEXEC, 0, 0, 0]);
        if file < 0 {
            return None;
        }
        let length = call(number::READ, [file, address, buffer.len() as i64, 0, 0, 0]);
        close(file as i32);
        length
    };
    usize::try_from(length).ok().and_then(|length| buffer.get(..length))
}

fn replace() -> Result<(), Failure> {
    const AF_INET_DATAGRAM: [i64; 2] = [2, 2 | O_CLOEXEC];
    const SIOCSIFFLAGS: i64 = 0x8914;
    const UP_AND_RUNNING: u16 = 0x41;
    // struct ifreq: the name in 16 bytes, then the flags.
    let mut request = [0_u16; 20];
    request[0] = u16::from_ne_bytes(*b"lo");
    request[8] = UP_AND_RUNNING;
    let failed = |result: i64| Failure { call: u32::MAX, errno: result.wrapping_neg() as i32 };
    // SAFETY: this process has one thread; the address is of a local of the right shape.
    unsafe {
        let result = call(number::UNSHARE, [CLONE_NEWNET, 0, 0, 0, 0, 0]);
        if result < 0 {
            return Err(failed(result));
        }
        let [family, kind] = AF_INET_DATAGRAM;
        let socket = call(number::SOCKET, [family, kind, 0, 0, 0, 0]);
        if socket < 0 {
            return Err(failed(socket));
        }
        let result = call(number::IOCTL, [socket, SIOCSIFFLAGS, request.as_ptr().expose_provenance() as i64, 0, 0, 0]);
        close(socket as i32);
        if result < 0 { Err(failed(result)) } else { Ok(()) }
    }
}

/// Connects to a port of the loopback and answers with the socket.
pub(crate) fn connect(port: u32) {
    const AF_INET: u16 = 2;
    const STREAM: i64 = 1 | O_CLOEXEC | 0o4000;
    const EINPROGRESS: i64 = -115;
    let [high, low] = (port as u16).to_be_bytes();
    // struct sockaddr_in: family, port and address, these two in network order, then padding.
    let mut address = [0_u16; 8];
    address[0] = AF_INET;
    address[1] = u16::from_ne_bytes([high, low]);
    address[2] = u16::from_ne_bytes([127, 0]);
    address[3] = u16::from_ne_bytes([0, 1]);
    let refuse = |result: i64| {
        let answer = Answer { call: u32::MAX, errno: result.wrapping_neg() as i32, ..Answer::default() };
        send(CONTROL, &answer, &[]);
    };
    // SAFETY: the address is of a local of the size that the kernel is told.
    unsafe {
        let socket = call(number::SOCKET, [AF_INET.into(), STREAM, 0, 0, 0, 0]);
        if socket < 0 {
            return refuse(socket);
        }
        let place = address.as_ptr().expose_provenance() as i64;
        let result = call(number::CONNECT, [socket, place, size_of_val(&address) as i64, 0, 0, 0]);
        if result < 0 && result != EINPROGRESS {
            refuse(result);
        } else {
            send(CONTROL, &Answer::default(), &[socket as i32]);
        }
        close(socket as i32);
    }
}
