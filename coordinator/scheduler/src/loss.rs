//! Agents that are lost, and what that means for the cases they had.

use alloc::vec::Vec;

use muster_model::attempt::Work;
use muster_model::outcome::{CaseOutcome, FaultKind};
use muster_model::{AgentId, CaseIndex, Epoch};

use crate::agents::AgentState;
use crate::case::Case;
use crate::leases::{Closed, Lease};
use crate::{Command, Config, Scheduler};

/// How a lost agent is charged to a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Charge {
    /// It had not run.
    None,
    /// It was running, or may have been.
    Suspicion,
}

impl Scheduler {
    /// Closes every lease of an agent and, unless its stream is open, forgets it.
    pub(crate) fn lose_agent(&mut self, id: AgentId) {
        let Some(agent) = self.agents.get(&id) else { return };
        let leases: Vec<Epoch> = agent.leases.iter().copied().collect();
        let is_gone = agent.state == AgentState::Disconnected;
        if let Some(agent) = self.agents.get_mut(&id).filter(|_| !is_gone) {
            agent.state = AgentState::Silent;
        }
        self.set_deadline(id, None);
        self.refresh_agent(id);
        for epoch in leases {
            self.lose_lease(epoch);
        }
        if is_gone {
            self.remove_agent(id);
        }
    }

    /// Closes a lease whose attempt is lost, and queues its cases again.
    pub(crate) fn lose_lease(&mut self, epoch: Epoch) {
        let Some(closed) = self.close(epoch) else { return };
        self.push(Command::Withdraw { agent: closed.lease.agent, epoch });
        self.report_fault(&closed, FaultKind::AgentLost);
        self.charge_loss(&closed);
        self.refresh_target(closed.lease.run, closed.lease.target);
        self.settle_run(closed.lease.run);
    }

    /// Charges an agent's loss to the cases that may have caused it, and queues or decides all of them.
    pub(crate) fn charge_loss(&mut self, closed: &Closed) {
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::LostWithoutRequeue) {
            return;
        }
        let config = self.config;
        let (run, target) = (closed.lease.run, closed.lease.target);
        if closed.lease.work == Work::Discover {
            self.charge_discovery(run, target, FaultKind::AgentLost, closed.lease.has_run());
            return;
        }
        #[cfg(feature = "planted-bugs")]
        if closed.lease.work == Work::Action && self.is_planted(crate::PlantedBug::LostActionNotQueued) {
            return;
        }
        for &index in &closed.loose {
            let charge = find_charge(&closed.lease, index);
            let is_poison =
                self.with_target(run, target, |target| charge_case(&config, target.case_mut(index), charge));
            #[cfg(feature = "planted-bugs")]
            let is_poison = is_poison.filter(|_| !self.is_planted(crate::PlantedBug::PoisonRequeued));
            if is_poison == Some(true) {
                self.remember(run, target, index, true);
                self.decide(run, target, index, CaseOutcome::Poison, Some(closed.epoch), None);
            } else {
                self.record_tries(run, target, index);
                self.enqueue(run, target, index);
            }
        }
    }

    /// Tells watchers of a fault and the cases it left without a verdict.
    pub(crate) fn report_fault(&mut self, closed: &Closed, kind: FaultKind) {
        let Lease { agent, run, target, .. } = closed.lease;
        if let Some(action) = self.action_of(run, target) {
            self.push(Command::ReportActionFault { action, epoch: closed.epoch, agent, kind });
            return;
        }
        let mut cases: Vec<CaseIndex> = closed.loose.iter().chain(&closed.shared).copied().collect();
        cases.sort_unstable();
        self.push(Command::ReportFault { run, target, epoch: closed.epoch, agent, kind, cases });
    }
}

fn find_charge(lease: &Lease, case: CaseIndex) -> Charge {
    let may_have_run = lease.has_run() && lease.running_case().is_none_or(|running| running == case);
    if may_have_run { Charge::Suspicion } else { Charge::None }
}

/// Counts a loss; true when the case is poison.
fn charge_case(config: &Config, case: &mut Case, charge: Charge) -> bool {
    if charge == Charge::None {
        case.losses_uncharged = case.losses_uncharged.saturating_add(1);
        if case.losses_uncharged < config.losses_uncharged_max {
            return false;
        }
    }
    case.attempts = case.attempts.saturating_add(1);
    if case.losses < config.losses_before_alone {
        case.losses += 1;
    } else {
        case.losses_alone = case.losses_alone.saturating_add(1);
    }
    if case.losses >= config.losses_before_alone {
        case.send_alone();
    }
    case.losses_alone >= config.losses_alone_before_poison
}
