//! What an operator decides beforehand.

/// What a machine is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Attempts at one time; at least 1 and at most [`muster_model::limits::SLOTS_PER_AGENT_MAX`], whatever is written here.
    pub slots: u32,
    /// The one mistake to make.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::PlantedBug>,
}

impl Config {
    /// A machine without mistakes, with this many slots.
    pub fn new(slots: u32) -> Self {
        Self {
            slots,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}
