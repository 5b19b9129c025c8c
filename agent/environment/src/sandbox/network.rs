//! A network of its own for several places at a time: services, and the tests that talk to them.
//!
//! Its namespace, and the user namespace that owns it, are those of a launcher that starts nothing. Launchers of places in it go into both and take
//! mounts, processes, System V objects and a host name of their own, with control groups, limits and filters like all others. Places in one
//! network share its loopback and nothing else. What a program left in the network stays there until the last place and handle are gone.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::launch::LaunchScripts;
use super::slot::{FreeSlots, Slot};

/// A handle on a network in which places can be made: loopback and nothing else. It goes with the last handle, and with it the launchers in it.
#[derive(Clone)]
pub struct SharedNetwork(pub(super) Arc<Members>);

/// What a network is held by.
pub(super) struct Members {
    /// The slot whose launcher made the network.
    pub(super) founder: Slot,
    /// The scripts name the descriptors.
    pub(super) _namespaces: [OwnedFd; 2],
    pub(super) launch: Arc<LaunchScripts>,
    pub(super) slots: Arc<FreeSlots>,
}

impl fmt::Debug for SharedNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedNetwork").finish_non_exhaustive()
    }
}

impl SharedNetwork {
    /// A connection from outside to a port of the network's loopback (IPv4).
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` when nobody listens there; otherwise what the kernel said.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let socket = self.0.founder.connect(port).await?;
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }
}
