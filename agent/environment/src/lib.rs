//! The ephemeral places that attempts run in.
//!
//! [`Environment`] has three verbs. A driver makes a place from a base and layers, runs one program in it, and leaves nothing behind.
//!
//! Architecture Invariant: the timer and the decision to kill are outside, with the caller; nothing here waits on the goodwill of a process inside.

#![allow(unsafe_code, reason = "namespaces and prepared system calls have no safe interface; the only crate that may")]

pub mod base;
mod collect;
mod docker;
pub mod doctor;
mod error;
mod first_process;
mod groups;
mod host;
mod kill;
mod layers;
mod network;
mod output;
mod owned;
mod sandbox;
mod spec;

use async_trait::async_trait;
use muster_model::platform::EnvironmentKind;
pub use muster_model::spec::Profile;
use tokio::sync::mpsc;

pub use base::{BaseConfig, BaseError, HostBase};
pub use collect::Remains;
pub use docker::{DockerConfig, DockerEnvironment};
pub use error::EnvironmentError;
pub use host::{HostConfig, HostEnvironment};
pub use network::SharedNetwork;
pub use sandbox::{SandboxConfig, SandboxEnvironment};
pub use spec::{
    Collector, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch, OutputChunk, OutputStream, Readiness,
    ResourceUsage, StagedLayer, Variables,
};

/// A place that is made and not used yet. Dropping it cleans it up.
pub trait Prepared: Send {
    /// How long it took to make.
    fn preparation(&self) -> std::time::Duration;
    /// For the driver that made it.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send>;
}

/// A driver of environments.
#[async_trait]
pub trait Environment: Send + Sync {
    /// The kind that results are labelled with.
    fn kind(&self) -> EnvironmentKind;

    /// Whether this machine can do it, found by making one.
    ///
    /// # Errors
    ///
    /// The missing feature, with its remedy.
    fn check_readiness(&self) -> Result<Readiness, EnvironmentError>;

    /// Makes a network that places made by this driver can share.
    ///
    /// # Errors
    ///
    /// [`EnvironmentError::Invalid`] where the kind has no networks of its own, otherwise the step that failed.
    async fn network(&self) -> Result<SharedNetwork, EnvironmentError> {
        Err(EnvironmentError::Invalid(format!("{} environments have no networks of their own", self.kind().name())))
    }

    /// Makes a place.
    ///
    /// # Errors
    ///
    /// What could not be made; nothing is left behind.
    async fn prepare(&self, spec: EnvironmentSpec) -> Result<Box<dyn Prepared>, EnvironmentError>;

    /// Runs the program to its end, kills what it left, cleans the place. Output is sent as it comes; a receiver that is slow slows the
    /// program, a receiver that is gone does not stop it.
    ///
    /// # Errors
    ///
    /// When the program could not be started or the place could not be cleaned; never for how the program ended.
    async fn run(
        &self,
        prepared: Box<dyn Prepared>,
        output: mpsc::Sender<OutputChunk>,
        kill: KillSwitch,
    ) -> Result<Exit, EnvironmentError>;
}
