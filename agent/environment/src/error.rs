//! What can go wrong with an environment.

use std::io;

/// Why an environment could not be made, run or cleaned.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The machine lacks something.
    #[error("this machine cannot make a sandbox: {feature}")]
    Unsupported {
        /// What is missing, in words.
        feature: String,
        /// What the operator can do about it, as the next thing to type.
        remedy: String,
    },
    /// A step of making the place failed.
    #[error("cannot {step}")]
    Step {
        /// What was tried, as an infinitive with its object.
        step: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program could not be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The specification asks for something that is not safe or not possible.
    #[error("{0}")]
    Invalid(String),
}
