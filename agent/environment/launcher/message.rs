//! Messages with descriptors.

use super::protocol::DESCRIPTORS_MAX;
use super::system::{call, number};

const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const MSG_NOSIGNAL: i64 = 0x4000;
const MSG_CMSG_CLOEXEC: i64 = 0x4000_0000;
/// Bytes of `struct cmsghdr` on 64-bit machines.
const HEADER_BYTES: usize = 16;

/// `struct msghdr` of 64-bit machines.
#[repr(C)]
struct Message {
    name: usize,
    name_length: usize,
    vectors: usize,
    vector_count: usize,
    control: usize,
    control_length: usize,
    flags: usize,
}

/// One `struct cmsghdr` with descriptors.
#[repr(C, align(8))]
struct Control {
    length: usize,
    level: i32,
    kind: i32,
    descriptors: [i32; DESCRIPTORS_MAX],
}

impl Control {
    const fn new(length: usize) -> Self {
        Self { length, level: SOL_SOCKET, kind: SCM_RIGHTS, descriptors: [-1; DESCRIPTORS_MAX] }
    }
}

/// Sends a structure with descriptors. A receiver that is gone is no concern of the sender's.
pub(crate) fn send<T>(socket: i32, content: &T, descriptors: &[i32]) {
    let mut control = Control::new(HEADER_BYTES.wrapping_add(size_of_val(descriptors)));
    for (place, descriptor) in control.descriptors.iter_mut().zip(descriptors) {
        *place = *descriptor;
    }
    let vector = [core::ptr::from_ref(content).expose_provenance(), size_of::<T>()];
    let has_control = !descriptors.is_empty();
    let message = Message {
        name: 0,
        name_length: 0,
        vectors: vector.as_ptr().expose_provenance(),
        vector_count: 1,
        control: if has_control { (&raw const control).expose_provenance() } else { 0 },
        control_length: if has_control { control.length } else { 0 },
        flags: 0,
    };
    // SAFETY: every address is of a local, or of what the caller lends.
    unsafe {
        call(number::SENDMSG, [socket.into(), (&raw const message).expose_provenance() as i64, MSG_NOSIGNAL, 0, 0, 0])
    };
}

/// Receives a structure with descriptors into `content`; `None` when the other end is gone or says something of another length.
///
/// # Safety
///
/// Any bytes are a valid `T`.
pub(crate) unsafe fn receive<T, const N: usize>(socket: i32, content: &mut T) -> Option<[i32; N]> {
    const EINTR: i64 = -4;
    let mut control = Control::new(0);
    let vector = [core::ptr::from_mut(content).expose_provenance(), size_of::<T>()];
    loop {
        let mut message = Message {
            name: 0,
            name_length: 0,
            vectors: vector.as_ptr().expose_provenance(),
            vector_count: 1,
            control: (&raw mut control).expose_provenance(),
            control_length: size_of::<Control>(),
            flags: 0,
        };
        let address = (&raw mut message).expose_provenance() as i64;
        // SAFETY: every address is of a local, or of what the caller lends; the caller vouches that any bytes will do.
        let received = unsafe { call(number::RECVMSG, [socket.into(), address, MSG_CMSG_CLOEXEC, 0, 0, 0]) };
        if received == EINTR {
            continue;
        }
        if received != size_of::<T>() as i64 {
            return None;
        }
        // SAFETY: the kernel has written the length of what it has filled in.
        let control_length = unsafe { (&raw const message.control_length).read_volatile() };
        // SAFETY: as above.
        let filled = unsafe { (&raw const control).read_volatile() };
        let mut descriptors = [-1; N];
        if control_length >= HEADER_BYTES && filled.kind == SCM_RIGHTS {
            let count = filled.length.wrapping_sub(HEADER_BYTES) / size_of::<i32>();
            for (place, descriptor) in descriptors.iter_mut().zip(filled.descriptors.iter().take(count)) {
                *place = *descriptor;
            }
        }
        return Some(descriptors);
    }
}
