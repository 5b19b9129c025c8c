//! The only place where wire becomes model, in either direction.
//!
//! What comes in is checked against [`muster_model::limits`] here, once, at the door; what goes out is only copied. A field that is missing, out of range or
//! unknown gives a [`ConvertError`] that names it, which servers answer as `INVALID_ARGUMENT`.

mod action;
mod command;
mod digest;
mod fleet;
mod service;
mod spec;

#[cfg(test)]
mod tests;

pub use fleet::{AgentHello, DesiredEntry, PROTOCOL_VERSION};

/// Why a message is not a model value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct ConvertError {
    /// The field, as the `.proto` file spells it.
    pub field: &'static str,
    /// What is wrong with it, as a short fragment.
    pub why: String,
}

impl ConvertError {
    fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }

    fn missing(field: &'static str) -> Self {
        Self::new(field, "is missing")
    }
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}

/// The value of a message field that must be there.
fn required<T>(field: &'static str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or_else(|| ConvertError::missing(field))
}

/// Refuses a list or text that is too long.
fn at_most(field: &'static str, count: usize, limit: usize) -> Result<(), ConvertError> {
    if count > limit {
        return Err(ConvertError::new(field, format!("{count} passes the limit of {limit}")));
    }
    Ok(())
}
