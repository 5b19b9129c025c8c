//! Messages to and from launchers and first processes.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

use super::protocol::{Answer, DESCRIPTORS_MAX, Report, Request};

const HEADER: usize = size_of::<libc::cmsghdr>();

#[repr(C, align(8))]
struct Control([u8; HEADER + DESCRIPTORS_MAX * size_of::<i32>()]);

impl Control {
    fn new() -> Self {
        Self([0; HEADER + DESCRIPTORS_MAX * size_of::<i32>()])
    }
}

/// Structures that are made of numbers without padding, so that any bytes are a valid one.
pub(crate) trait Message: Copy {}
impl Message for Answer {}
impl Message for Report {}
impl Message for Request {}
impl Message for u64 {}
const _: () =
    assert!(size_of::<Answer>() == 24 && size_of::<Report>() == 56 && size_of::<Request>() == 8, "no padding");

/// A pair of sockets that keep messages apart.
pub(crate) fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends a message with descriptors.
///
/// # Errors
///
/// `EPIPE` or `ECONNRESET` when the other side is gone.
pub(crate) fn send<T: Message>(socket: BorrowedFd<'_>, content: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut control = Control::new();
    let mut vector = libc::iovec { iov_base: std::ptr::from_ref(content).cast_mut().cast(), iov_len: size_of::<T>() };
    // SAFETY: an all-zero `msghdr` is valid; every pointer put into it outlives the call; `control` has room for as many descriptors as are
    // copied into it.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        if !descriptors.is_empty() {
            let header = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
            let count = descriptors.len().min(DESCRIPTORS_MAX);
            let length = HEADER + count * size_of::<i32>();
            (*header).cmsg_len = length as _;
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            let data = control.0.as_mut_ptr().add(HEADER).cast::<i32>();
            for (index, descriptor) in descriptors.iter().take(count).enumerate() {
                data.add(index).write(descriptor.as_raw_fd());
            }
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = length as _;
        }
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives a message with descriptors; `None` when the other side is gone.
///
/// # Errors
///
/// `WouldBlock` from a socket that does not block.
pub(crate) fn receive<T: Message>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut control = Control::new();
    let mut content = MaybeUninit::<T>::zeroed();
    let mut vector = libc::iovec { iov_base: content.as_mut_ptr().cast(), iov_len: size_of::<T>() };
    // SAFETY: the message points to locals of the given sizes; the kernel fills `control` with a whole header and descriptors that are ours
    // from then on; any bytes are a valid `T`.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        let length = loop {
            let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC);
            let error = if length < 0 { io::Error::last_os_error() } else { break length };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // The other side died with a word from us unread.
                Some(libc::ECONNRESET) => return Ok(None),
                _ => return Err(error),
            }
        };
        let mut descriptors = Vec::new();
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let count = ((*header).cmsg_len as usize).saturating_sub(HEADER) / size_of::<i32>();
            let data = libc::CMSG_DATA(header).cast::<i32>();
            for index in 0..count {
                descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
            }
        }
        Ok((length.cast_unsigned() == size_of::<T>()).then(|| (content.assume_init(), descriptors)))
    }
}

/// Waits for a report; `None` when its sender is dead.
///
/// # Errors
///
/// What the kernel said.
pub(crate) async fn next_report(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<Report>> {
    use std::os::fd::AsFd;
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(received) = ready.try_io(|socket| receive::<Report>(socket.as_fd())) {
            return received.map(|message| message.map(|(report, _)| report));
        }
    }
}
