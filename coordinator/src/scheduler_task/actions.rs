//! Actions: commands that touch no record of a run.
//!
//! What happens to actions waits for one kind of record only, the reservation of their epochs. It is made long before it is needed, so that an
//! action is given to an agent without waiting for the ledger's commits, and in particular not for those of runs that happen beside it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use muster_model::attempt::{ActionTask, Assignment, Stage, Task};
use muster_model::outcome::FaultKind;
use muster_model::{ActionId, AgentId, Epoch};
use muster_scheduler::{ActionEnd, Event};

use super::SchedulerTask;
use crate::actions::{Conclusion, SubmittedAction};
use crate::effects::{Effect, Effects};
use crate::ledger::{Record, Ticket};
use crate::words::{KeptReport, fault_sentence};

/// Open actions and the attempts at them.
#[derive(Default)]
pub(super) struct OpenActions {
    tasks: HashMap<ActionId, Arc<ActionTask>>,
    of_epoch: HashMap<Epoch, AgentId>,
    /// Reservations that may not be durable yet, in order: every epoch below the first number, when the ticket is reached.
    reservations: VecDeque<(Epoch, Ticket)>,
    effects: Effects,
}

impl OpenActions {
    /// Whether an attempt is one at an action.
    pub(super) fn has(&self, epoch: Epoch) -> bool {
        self.of_epoch.contains_key(&epoch)
    }

    /// The record that must be durable before anybody hears of `epoch`.
    fn ticket_of(&self, epoch: Epoch) -> Ticket {
        let covering = self.reservations.iter().find(|(below, _)| epoch < *below);
        covering.map(|&(_, ticket)| ticket).unwrap_or_default()
    }

    /// The next effect that may happen.
    pub(super) fn pop_effect(&mut self, durable: Ticket) -> Option<Effect> {
        while self.reservations.len() > 1 && self.reservations[1].1 <= durable {
            self.reservations.pop_front();
        }
        self.effects.pop(durable)
    }

    /// An effect on an attempt happens after those on attempts before it.
    pub(super) fn push_effect(&mut self, epoch: Epoch, effect: Effect) {
        let ticket = self.ticket_of(epoch);
        self.effects.push(ticket, effect);
    }
}

impl SchedulerTask {
    pub(super) fn submit_action(&mut self, submitted: SubmittedAction) {
        let SubmittedAction { action, invocation, seed, task } = submitted;
        self.actions.tasks.insert(action, task);
        self.tell(Event::ActionSubmitted { action, invocation, seed });
    }

    pub(super) fn reserve_epochs(&mut self, below: Epoch) {
        self.append(Record::EpochsReserved(below));
        self.actions.reservations.push_back((below, self.last_ticket));
    }

    pub(super) fn assign_action(&mut self, agent: AgentId, epoch: Epoch, action: ActionId) {
        let Some(task) = self.actions.tasks.get(&action) else { return };
        let assignment = Arc::new(Assignment { epoch, task: Task::Action((**task).clone()) });
        self.actions.of_epoch.insert(epoch, agent);
        self.surroundings.room.note_assigned(action);
        self.actions.push_effect(epoch, Effect::Assign { agent, assignment });
    }

    pub(super) fn report_action_stage(&mut self, action: ActionId, agent: AgentId, stage: Stage) {
        self.surroundings.room.note_stage(action, self.agents.name(agent), stage);
    }

    pub(super) fn report_action_fault(&mut self, action: ActionId, epoch: Epoch, agent: AgentId, kind: FaultKind) {
        let said = self.reports.get(&epoch).and_then(KeptReport::fault_message);
        let said = said.unwrap_or_else(|| fault_sentence(kind));
        let name = self.agents.name(agent);
        tracing::info!(action = action.0, agent = name, kind = kind.name(), said, "an attempt at an action failed");
        self.surroundings.room.note_fault(action, &name, said);
    }

    pub(super) fn finish_action(&mut self, action: ActionId, end: ActionEnd, epoch: Option<Epoch>, attempts: u32) {
        self.actions.tasks.remove(&action);
        let report = epoch.and_then(|epoch| self.reports.get(&epoch)).map(|kept| {
            let agent = self.actions.of_epoch.get(&kept.report.epoch).map(|&agent| self.agents.name(agent));
            (agent.unwrap_or_default(), kept.report.clone())
        });
        if end == ActionEnd::Cancelled {
            // Whoever cancelled it has closed it already.
            return;
        }
        self.surroundings.room.conclude(Conclusion { action, end, attempts, report });
    }

    /// An attempt at an action is over, whichever way. Nothing of it is recorded.
    pub(super) fn end_action_attempt(&mut self, epoch: Epoch, effect: Effect) {
        self.actions.push_effect(epoch, effect);
        self.actions.of_epoch.remove(&epoch);
    }
}
