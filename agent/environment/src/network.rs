//! A network of its own for several places at a time: services, and the tests that talk to them.
//!
//! Places in one network share its loopback and nothing else, and are made by the driver that made the network. What a program left in the network
//! stays there until the last place and handle are gone.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::EnvironmentError;

/// A handle on a network in which places can be made: loopback and nothing else. It goes with the last handle, and with it what holds it.
#[derive(Clone)]
pub struct SharedNetwork(Arc<Members>);

/// What a network is held by.
enum Members {
    Sandbox(crate::sandbox::network::Members),
    Docker(crate::docker::network::Members),
}

impl fmt::Debug for SharedNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedNetwork").finish_non_exhaustive()
    }
}

impl From<crate::sandbox::network::Members> for SharedNetwork {
    fn from(members: crate::sandbox::network::Members) -> Self {
        Self(Arc::new(Members::Sandbox(members)))
    }
}

impl From<crate::docker::network::Members> for SharedNetwork {
    fn from(members: crate::docker::network::Members) -> Self {
        Self(Arc::new(Members::Docker(members)))
    }
}

impl SharedNetwork {
    /// A connection from outside to a port of the network's loopback (IPv4).
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` when nobody listens there; otherwise what the kernel said.
    pub async fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let socket: OwnedFd = match &*self.0 {
            Members::Sandbox(members) => members.connect(port).await?,
            Members::Docker(members) => members.connect(port).await?,
        };
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }

    /// What holds it, if sandboxes can be made in it.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError::Invalid`] when it is not theirs.
    pub(crate) fn of_sandboxes(&self) -> Result<&crate::sandbox::network::Members, EnvironmentError> {
        match &*self.0 {
            Members::Sandbox(members) => Ok(members),
            Members::Docker(_) => Err(not_ours()),
        }
    }

    /// What holds it, if containers can be made in it.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError::Invalid`] when it is not theirs.
    pub(crate) fn of_containers(&self) -> Result<&crate::docker::network::Members, EnvironmentError> {
        match &*self.0 {
            Members::Docker(members) => Ok(members),
            Members::Sandbox(_) => Err(not_ours()),
        }
    }
}

fn not_ours() -> EnvironmentError {
    EnvironmentError::Invalid("another driver made this network".into())
}
