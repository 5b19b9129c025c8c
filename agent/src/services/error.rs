//! What goes wrong with services: faults of the fleet, never of a test.

use std::io;
use std::time::Duration;

use muster_environment::EnvironmentError;

use crate::inputs::InputError;

/// Why there is no service. The log is its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// Its layers can't be had.
    #[error("service {service}")]
    Inputs {
        /// The service's name.
        service: String,
        source: Box<InputError>,
    },
    /// Its place, or that of its setup or probe, can't be made.
    #[error("service {service}")]
    Environment {
        /// The service's name, or `network`.
        service: String,
        source: EnvironmentError,
    },
    /// It ended.
    #[error("service {service} ended{when}: {how}{log}")]
    Ended {
        /// The service's name.
        service: String,
        /// Before which event, as words with a blank before them.
        when: &'static str,
        /// How.
        how: String,
        /// The end of its log.
        log: String,
    },
    /// It was not ready in time.
    #[error("service {service} was not ready after {} ms{log}", deadline.as_millis())]
    NotReady {
        /// The service's name.
        service: String,
        /// The time that it had.
        deadline: Duration,
        /// The end of its log.
        log: String,
    },
    /// Its setup failed.
    #[error("the setup of service {service} failed: {how}{log}")]
    Setup {
        /// The service's name.
        service: String,
        /// How.
        how: String,
        /// The end of what the setup wrote.
        log: String,
    },
    /// The data that its setup made can't be kept.
    #[error("the data of service {service} can't be kept")]
    Data {
        /// The service's name.
        service: String,
        source: io::Error,
    },
    /// A database can't be made from the template.
    #[error("service {service} gives no new database")]
    Database {
        /// The service's name.
        service: String,
        source: io::Error,
    },
}
