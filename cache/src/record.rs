//! Results of actions: what is kept under an action's key, and what happens when the same action ends in another result.

use std::time::SystemTime;

use bytes::Bytes;
use muster_model::Digest;
use muster_model::key::ActionKey;

/// What an action's key led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionRecord {
    /// The result as its owner encodes it; at most [`muster_model::limits::MESSAGE_BYTES_MAX`] bytes.
    pub payload: Bytes,
    /// Every blob that the result points at. The record dies with the first of them.
    pub references: Vec<Digest>,
    /// The digest of what must be the same when the same action runs twice: the result without times, places and other things that
    /// say how it came about. Two records of one key with different outcomes are divergent.
    pub outcome: Digest,
}

/// What a cache did with a record that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is the first of its key, and the answer from now on.
    Stored,
    /// A record of the same outcome was there; it was replaced by this newer one.
    Refreshed,
    /// A record of another outcome was there and stays the answer. This one is kept beside it as evidence.
    Divergent {
        /// The outcome that stays the answer.
        first: Digest,
    },
}

/// A result that is not the answer of its key, because another one was there first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DivergentRecord {
    /// The action.
    pub key: ActionKey,
    /// The outcome that was there first.
    pub first: Digest,
    /// This one's outcome.
    pub outcome: Digest,
    /// The result as its owner encoded it, the newest of this outcome.
    pub payload: Bytes,
    /// What it points at. These blobs are not kept for it.
    pub references: Vec<Digest>,
    /// How often this outcome came.
    pub times: u64,
    /// When it came last, by the clock of the store's machine.
    pub seen: SystemTime,
}
