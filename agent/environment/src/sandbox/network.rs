//! The network of several sandboxes.
//!
//! Its namespace, and the user namespace that owns it, are those of a launcher that starts nothing. Launchers of places in it go into both and take
//! mounts, processes, System V objects and a host name of their own, with control groups, limits and filters like all others.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::launch::LaunchScripts;
use super::slot::{FreeSlots, Slot};

/// What a network is held by.
pub(crate) struct Members {
    /// The slot whose launcher made the network.
    pub(super) founder: Slot,
    /// The scripts name the descriptors.
    pub(super) _namespaces: [OwnedFd; 2],
    pub(super) launch: Arc<LaunchScripts>,
    pub(super) slots: Arc<FreeSlots>,
}

impl Members {
    /// A connection from outside to a port of the loopback, which may not be made yet.
    ///
    /// # Errors
    ///
    /// What the kernel said.
    pub(crate) async fn connect(&self, port: u16) -> io::Result<OwnedFd> {
        self.founder.connect(port).await
    }
}
