//! What is to be done: the outputs of the agent's machine.

use muster_model::Epoch;

/// Something to do. Names are imperatives. Carried out in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begin this attempt in a slot of its own; the executor answers with `StageReached`, `CaseStarted` and at last `AttemptEnded`.
    Start {
        /// Which.
        epoch: Epoch,
    },
    /// Kill this running attempt and make no report; the executor answers with `AttemptEnded { reported: false }`.
    Kill {
        /// Which.
        epoch: Epoch,
    },
    /// Write a `Returned` fault for an attempt that never started into the spool; the executor answers with `AttemptEnded`.
    Return {
        /// Which.
        epoch: Epoch,
    },
    /// Send the current state; `Machine::report()` says what goes in.
    Report,
    /// Remove a report from the spool.
    Forget {
        /// Which.
        epoch: Epoch,
    },
    /// Drained: nothing runs and nothing is left in the spool.
    Leave,
}
