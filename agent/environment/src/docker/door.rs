//! The way from a container to its agent: a directory with the launcher's program and a socket, shown read-only.
//!
//! The socket takes one connection, from the container's first process, and is gone before there is any other.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen, socket,
};
use tokio::io::unix::AsyncFd;

use crate::first_process::FirstProcess;
use crate::output::watch;
use crate::sandbox::launcher::PROGRAM;

/// Where a container sees it.
pub(super) const INSIDE: &str = "/.muster";
const LAUNCHER: &str = "launcher";
const SOCKET: &str = "agent";

/// What a container starts with.
pub(super) fn command() -> Vec<String> {
    [LAUNCHER, SOCKET].map(|name| format!("{INSIDE}/{name}")).to_vec()
}

/// A socket that waits for a first process.
#[derive(Debug)]
pub(super) struct Door {
    listener: AsyncFd<OwnedFd>,
    socket: PathBuf,
}

/// A first process that has come through the door.
pub(super) struct Visitor {
    /// As this machine numbers it.
    pub(super) id: u32,
    pub(super) process: FirstProcess,
    pub(super) report: OwnedFd,
}

impl Door {
    /// Puts the program and the socket into a directory; the socket is for `owner` alone.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(super) fn open(directory: &Path, owner: (u32, u32)) -> io::Result<Self> {
        let program = directory.join(LAUNCHER);
        fs::write(&program, PROGRAM)?;
        fs::set_permissions(&program, PermissionsExt::from_mode(0o555))?;
        let listener =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        // Through the descriptor: the path of an agent's data may be longer than that of a socket may be.
        let opened = super::mounts::open_directory(directory)?;
        let short = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()));
        bind(listener.as_raw_fd(), &UnixAddr::new(&short)?)?;
        let socket = directory.join(SOCKET);
        fs::set_permissions(&socket, PermissionsExt::from_mode(0o600))?;
        chown(&socket, Some(owner.0), Some(owner.1))?;
        listen(&listener, Backlog::new(1)?)?;
        Ok(Self { listener: watch(listener).map_err(io::Error::other)?, socket })
    }

    /// Waits for the first process, which belongs to user `uid`. Nobody can come after it.
    ///
    /// # Errors
    ///
    /// A visitor of somebody else's, or what the kernel said.
    pub(super) async fn visitor(self, uid: u32) -> io::Result<Visitor> {
        let report = loop {
            let mut ready = self.listener.readable().await?;
            let accepted = ready.try_io(|listener| {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                accept4(listener.as_raw_fd(), flags).map_err(io::Error::from)
            });
            if let Ok(accepted) = accepted {
                // SAFETY: a new descriptor that nobody else has.
                break unsafe { OwnedFd::from_raw_fd(accepted?) };
            }
        };
        fs::remove_file(&self.socket)?;
        let peer = getsockopt(&report, PeerCredentials)?;
        let id = u32::try_from(peer.pid()).ok().filter(|id| *id > 0 && peer.uid() == uid);
        let id = id.ok_or_else(|| io::Error::other(format!("user {} came instead", peer.uid())))?;
        let process = open_process(id)?;
        Ok(Visitor { id, process: FirstProcess { descriptor: process }, report })
    }
}

/// A descriptor of a process. Whether it is the one meant is known when it answers on its socket afterwards.
fn open_process(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: only numbers are passed; a result of 0 or more is a new descriptor of ours.
    unsafe {
        let opened = libc::syscall(libc::SYS_pidfd_open, id, 0);
        let opened = i32::try_from(opened).map_err(io::Error::other)?;
        if opened < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(opened)) }
    }
}
