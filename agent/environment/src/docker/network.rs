//! The network of several containers: that of one whose first process never gets a program.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use muster_model::spec::{CommandSpec, Profile};
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use tokio::sync::oneshot;

use super::place::Place;
use super::step;
use crate::{EnvironmentError, EnvironmentSpec};

/// Bounds of a container that runs nothing.
const FOUNDER_MEMORY_BYTES: u64 = 16 * 1024 * 1024;
const FOUNDER_PROCESSES: u32 = 1;

/// What a network is held by.
pub(crate) struct Members {
    /// Keeps the network; the container goes with it.
    _founder: Box<Place>,
    /// The engine's name of that container.
    pub(super) container: String,
    namespace: Arc<File>,
}

/// The container that founds a network.
pub(super) fn founder() -> EnvironmentSpec {
    EnvironmentSpec {
        with_base: false,
        image: None,
        layers: Vec::new(),
        command: CommandSpec {
            arguments: vec!["/never".into()],
            environment: Vec::new(),
            working_directory: "/tmp".into(),
        },
        variables: Default::default(),
        memory_bytes: FOUNDER_MEMORY_BYTES,
        processes: FOUNDER_PROCESSES,
        output_bytes: 0,
        profile: Profile::Strict,
        collect: Vec::new(),
        collector: None,
        network: None,
    }
}

impl Members {
    /// Takes over the container that is made.
    ///
    /// # Errors
    ///
    /// When its first process has died.
    pub(super) fn new(founder: Place) -> Result<Self, EnvironmentError> {
        let finding = |error| step("find the container's network", error);
        let namespace = File::open(format!("/proc/{}/ns/net", founder.process)).map_err(finding)?;
        // While it lives, its number was nobody else's.
        if !founder.first.is_alive() {
            return Err(finding(io::ErrorKind::NotFound.into()));
        }
        let container = founder.remains.container.clone();
        let container = container.ok_or_else(|| EnvironmentError::Invalid("the place has no container".into()))?;
        Ok(Self { _founder: Box::new(founder), container, namespace: Arc::new(namespace) })
    }

    /// A connection from outside to a port of the loopback, which may not be made yet.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(crate) async fn connect(&self, port: u16) -> io::Result<OwnedFd> {
        let namespace = self.namespace.clone();
        let (reply, answer) = oneshot::channel();
        // A thread goes into another namespace and does not come back: it is used for nothing else.
        std::thread::Builder::new().name("muster-connect".into()).spawn(move || {
            // Who asked may be gone.
            let _ = reply.send(connect_inside(&namespace, port));
        })?;
        answer.await.map_err(io::Error::other)?
    }
}

fn connect_inside(namespace: &File, port: u16) -> io::Result<OwnedFd> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let opened = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
    match connect(opened.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(opened),
        Err(error) => Err(error.into()),
    }
}
