//! What has to wait until the ledger has what came before it.

use std::collections::VecDeque;
use std::sync::Arc;

use muster_cache::ActionRecord;
use muster_model::attempt::Assignment;
use muster_model::key::ActionKey;
use muster_model::{AgentId, Epoch, RunId};
use muster_proto::v1;
use tokio::sync::oneshot;

use crate::ledger::Ticket;

/// Something that becomes visible outside.
pub(crate) enum Effect {
    /// An agent gets an attempt.
    Assign { agent: AgentId, assignment: Arc<Assignment> },
    /// An agent is asked for an attempt back.
    Recall { agent: AgentId, epoch: Epoch },
    /// An agent is to kill an attempt.
    Withdraw { agent: AgentId, epoch: Epoch },
    /// An agent may forget an attempt.
    Acknowledge { agent: AgentId, epoch: Epoch },
    /// Watchers may read on.
    Publish { run: RunId, sequence: u64 },
    /// A result may be used by others.
    Cache(ActionKey, ActionRecord),
    /// A run is over; the ledger has made the event.
    Finish { run: RunId, event: oneshot::Receiver<v1::RunEvent> },
    /// Somebody waits to hear that it was done.
    Answer(oneshot::Sender<()>),
}

/// Effects in order, each with the ticket of the last record before it.
#[derive(Default)]
pub(crate) struct Effects {
    waiting: VecDeque<(Ticket, Effect)>,
}

impl Effects {
    /// Adds one that must not happen before `after` is durable.
    pub(crate) fn push(&mut self, after: Ticket, effect: Effect) {
        self.waiting.push_back((after, effect));
    }

    /// The next one that may happen.
    pub(crate) fn pop(&mut self, durable: Ticket) -> Option<Effect> {
        let (after, _) = self.waiting.front()?;
        if *after > durable {
            return None;
        }
        self.waiting.pop_front().map(|(_, effect)| effect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_happens_before_what_came_before_it_is_durable() {
        let mut effects = Effects::default();
        effects.push(Ticket(2), Effect::Publish { run: RunId(1), sequence: 1 });
        effects.push(Ticket(2), Effect::Recall { agent: AgentId(1), epoch: Epoch(1) });
        effects.push(Ticket(3), Effect::Publish { run: RunId(1), sequence: 2 });
        assert!(effects.pop(Ticket(1)).is_none());
        assert!(matches!(effects.pop(Ticket(2)), Some(Effect::Publish { sequence: 1, .. })));
        assert!(matches!(effects.pop(Ticket(2)), Some(Effect::Recall { .. })));
        assert!(effects.pop(Ticket(2)).is_none());
        assert!(matches!(effects.pop(Ticket(3)), Some(Effect::Publish { sequence: 2, .. })));
    }
}
