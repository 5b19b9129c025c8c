//! What has happened: the inputs of the agent's machine.

use alloc::vec::Vec;
use core::time::Duration;

use muster_model::Epoch;
use muster_model::attempt::Stage;

/// Something that has happened. Names are past participles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Reports that an earlier process left in the spool. Given once, before anything else.
    SpoolRestored {
        /// Their epochs.
        epochs: Vec<Epoch>,
    },
    /// A stream to the coordinator is open.
    Connected,
    /// The stream ended.
    Disconnected,
    /// The coordinator said what this agent should be doing.
    DesiredReceived {
        /// Exactly the attempts that it should hold.
        attempts: Vec<Desired>,
        /// Reports that may be forgotten.
        acknowledged: Vec<Epoch>,
        /// The coordinator's lease time.
        lease: Duration,
    },
    /// The executor moved an attempt on: `Fetching` or `Running`.
    StageReached {
        /// Which.
        epoch: Epoch,
        /// How far.
        stage: Stage,
    },
    /// A case of a running attempt began.
    CaseStarted {
        /// Which attempt.
        epoch: Epoch,
        /// Its position in the assignment.
        position: u32,
    },
    /// Nothing of an attempt runs any more and its environment is gone; only what it made is still on its way. It needs no slot for that.
    EnvironmentGone {
        /// Which.
        epoch: Epoch,
    },
    /// The executor has ended an attempt and its report is durable in the spool (or, for a killed one, there is none).
    AttemptEnded {
        /// Which.
        epoch: Epoch,
        /// Whether there is a report to send.
        reported: bool,
    },
    /// The operator wants this agent to finish what runs and leave.
    DrainRequested,
}

/// One attempt that the coordinator wants held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Which.
    pub epoch: Epoch,
    /// Whether the message carried the assignment, so that an unknown epoch can be taken on.
    pub carries_assignment: bool,
    /// Give it back if it has not started.
    pub recall: bool,
    /// The slots that it takes, if the message carried the assignment; 0 is one, and more than there are is all of them.
    pub slots: u32,
}
