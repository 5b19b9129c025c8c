//! What is due at a time: agents that fell silent, targets that nobody can run.

use alloc::vec::Vec;

use muster_model::outcome::{CaseOutcome, FaultKind};
use muster_model::{AgentId, CaseIndex, Instant, RunId, TargetIndex};

use crate::Scheduler;
use crate::agents::AgentState;
use crate::case::CaseState;
use crate::classes::{Class, ClassIndex};
use crate::run::Discovery;

/// The mass-loss guard: when most agents fall silent at one time, the fault is more likely ours than theirs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hold {
    /// No agent counts as lost before this.
    until: Option<Instant>,
    /// No new hold begins before this, so that a real mass loss is only put off by one lease time.
    next_allowed: Instant,
}

impl Scheduler {
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let expiry = self.deadlines.first().map(|&(deadline, _)| deadline.max(self.hold.until.unwrap_or_default()));
        let avoidance = self.avoidance_ends.first().copied();
        let claims = [self.next_claim(), self.groups.next_end()];
        let others = [expiry, avoidance, self.next_copy(), self.next_giving_up()];
        others.into_iter().chain(claims).flatten().min()
    }

    /// Declares lost whoever is due, unless most of the fleet is silent.
    pub(crate) fn expire_agents(&mut self) {
        let now = self.now;
        if self.hold.until.is_some_and(|until| until > now) {
            return;
        }
        let due: Vec<AgentId> = self.deadlines.iter().take_while(|&&(at, _)| at <= now).map(|&(_, id)| id).collect();
        let was_held = self.hold.until.take().is_some();
        if due.is_empty() {
            return;
        }
        if was_held {
            self.hold.next_allowed = now + self.config.lease_time;
        } else if now >= self.hold.next_allowed && self.is_mass_loss() {
            self.hold.until = Some(now + self.config.lease_time);
            return;
        }
        for id in due {
            #[cfg(feature = "planted-bugs")]
            if self.is_planted(crate::PlantedBug::LeaseNeverExpires) {
                self.set_deadline(id, None);
                continue;
            }
            self.lose_agent(id);
        }
    }

    fn is_mass_loss(&self) -> bool {
        let known = self.agents.values().filter(|agent| agent.state != AgentState::Silent);
        let half_lease = self.config.lease_time / 2;
        let (total, silent) = known.fold((0, 0), |(total, silent), agent| {
            let is_silent = agent.state == AgentState::Disconnected || self.now.since(agent.heard) > half_lease;
            (total + 1, silent + usize::from(is_silent))
        });
        total >= self.config.mass_loss_agents_min && silent * 100 > total * self.config.mass_loss_percent as usize
    }

    /// Decides work as the environment's fault that has waited too long for any agent that satisfies it.
    pub(crate) fn give_up_unschedulable(&mut self) {
        let now = self.now;
        let mut due: Vec<(ClassIndex, RunId)> = Vec::new();
        for (index, class) in self.classes.iter() {
            due.extend(self.giving_up(class).filter(|&(at, _)| at <= now).map(|(_, run)| (index, run)));
        }
        for (class, run) in due {
            self.give_up(class, run);
        }
    }

    fn give_up(&mut self, class: ClassIndex, id: RunId) {
        let targets: Vec<TargetIndex> =
            self.runs.get(&id).map(|run| run.targets.keys().copied().collect()).unwrap_or_default();
        for index in targets {
            let Some(target) =
                self.runs.get(&id).and_then(|run| run.target(index)).filter(|target| target.class == class)
            else {
                continue;
            };
            let is_undiscovered = target.discovery == Discovery::Queued;
            let queued = |(_, case): &(usize, &crate::case::Case)| case.state == CaseState::Queued;
            let cases: Vec<u32> = target.cases.iter().enumerate().filter(queued).map(|(case, _)| case as u32).collect();
            if is_undiscovered {
                self.fail_discovery(id, index, Some(FaultKind::Environment));
            }
            for case in cases {
                self.decide(id, index, CaseIndex(case), CaseOutcome::Fault(FaultKind::Environment), None, None);
            }
            self.refresh_target(id, index);
        }
        self.settle_run(id);
    }

    fn next_giving_up(&self) -> Option<Instant> {
        self.classes.iter().flat_map(|(_, class)| self.giving_up(class)).map(|(at, _)| at).min()
    }

    /// The runs with queued work for a class that no agent satisfies, and when that work is given up.
    fn giving_up<'a>(&'a self, class: &'a Class) -> impl Iterator<Item = (Instant, RunId)> + 'a {
        let since = class.empty_since;
        class.ready.iter().filter_map(move |&(_, id)| {
            let since = since?.max(self.runs.get(&id)?.submitted);
            Some((since + self.config.unschedulable_time, id))
        })
    }
}
