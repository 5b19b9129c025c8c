//! What is going on, to be shown to people.

use core::time::Duration;

use muster_model::attempt::{Stage, Work};
use muster_model::{ActionId, AgentId, CaseIndex, Epoch, RunId, TargetIndex};

use crate::Scheduler;
use crate::agents::AgentState;
use crate::leases::Recall;
use crate::run::{Discovery, Purpose};

/// A read-only look at a [`Scheduler`], for `muster fleet status` and the like.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    scheduler: &'a Scheduler,
}

/// An agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentView {
    /// Who.
    pub agent: AgentId,
    /// How it is connected.
    pub state: AgentState,
    /// How many attempts it runs at one time; 0 when it is awaited after a restart.
    pub slots: u32,
    /// Attempts leased to it, those that wait included.
    pub attempts: u32,
    /// Slots that they take.
    pub slots_held: u32,
    /// Memory that they have set aside, in bytes.
    pub memory_held: u64,
    /// Whether it is kept free for work that takes more than any one slot.
    pub is_claimed: bool,
    /// Since its last word.
    pub silence: Duration,
}

/// An attempt under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptView {
    /// Its name.
    pub epoch: Epoch,
    /// Where it is.
    pub agent: AgentId,
    /// The run.
    pub run: RunId,
    /// The target.
    pub target: TargetIndex,
    /// How far it is, as far as the agent has said.
    pub stage: Stage,
    /// How many cases it has; 0 for a discovery.
    pub cases: u32,
    /// Each of them has a process of its own.
    pub alone: bool,
    /// The case under way.
    pub running: Option<CaseIndex>,
    /// Since it was leased.
    pub age: Duration,
    /// It was asked for and has not answered.
    pub recalled: bool,
    /// It is the second copy of a straggler's cases.
    pub is_copy: bool,
    /// The action that it is an attempt at; `run` and `target` say nothing then.
    pub action: Option<ActionId>,
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueView {
    /// Cases that wait for an agent.
    pub cases: u64,
    /// Discoveries that wait for an agent.
    pub discoveries: u32,
    /// Actions that wait for an agent.
    pub actions: u32,
    /// Attempts under way.
    pub attempts: u32,
    /// Cases of those that no agent connected at the moment can run.
    pub unschedulable_cases: u64,
}

/// An open run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunView {
    /// Which.
    pub run: RunId,
    /// Its targets.
    pub targets: u32,
    /// Those whose cases are not known yet.
    pub undiscovered: u32,
    /// Cases known so far.
    pub planned: u32,
    /// Cases with an outcome.
    pub reported: u32,
    /// Cases that wait for an agent.
    pub queued: u32,
    /// Attempts under way.
    pub attempts: u32,
    /// Expected time of what waits, on one slot.
    pub expected: Duration,
}

impl<'a> View<'a> {
    pub(crate) fn new(scheduler: &'a Scheduler) -> Self {
        Self { scheduler }
    }

    /// Every agent that is connected or may come back.
    pub fn agents(self) -> impl Iterator<Item = AgentView> + 'a {
        let now = self.scheduler.now;
        self.scheduler.agents.iter().map(move |(&id, agent)| AgentView {
            agent: id,
            state: agent.state,
            slots: agent.slots,
            attempts: agent.leases.len() as u32,
            slots_held: agent.slots_held,
            memory_held: agent.memory_held,
            is_claimed: agent.claimed.is_some(),
            silence: now.since(agent.heard),
        })
    }

    /// The attempts of one agent, the oldest first.
    pub fn attempts(self, agent: AgentId) -> impl Iterator<Item = AttemptView> + 'a {
        let leases = self.scheduler.agents.get(&agent).into_iter().flat_map(|agent| &agent.leases);
        leases.filter_map(move |&epoch| self.attempt(epoch))
    }

    /// The exclusive groups that are held, those of attempts that may not be dead yet included.
    pub fn groups(self) -> impl Iterator<Item = &'a str> + 'a {
        self.scheduler.groups.held().map(|(group, _)| group)
    }

    /// One attempt under way.
    pub fn attempt(self, epoch: Epoch) -> Option<AttemptView> {
        let lease = self.scheduler.leases.get(&epoch)?;
        Some(AttemptView {
            epoch,
            agent: lease.agent,
            run: lease.run,
            target: lease.target,
            stage: lease.stage,
            cases: lease.cases().len() as u32,
            alone: matches!(lease.work, Work::Cases { alone: true, .. }),
            running: lease.running_case(),
            age: self.scheduler.now.since(lease.leased),
            recalled: lease.recall == Recall::Asked,
            is_copy: lease.copy_of.is_some(),
            action: self.scheduler.action_of(lease.run, lease.target),
        })
    }

    /// Every open action, and how many attempts at it are under way.
    pub fn actions(self) -> impl Iterator<Item = (ActionId, usize)> + 'a {
        self.scheduler.actions.iter().filter_map(move |(&action, &(run, target))| {
            let target = self.scheduler.runs.get(&run)?.target(target)?;
            Some((action, target.action.as_ref()?.leases.len()))
        })
    }

    /// What an attempt under way is to do.
    pub fn work(self, epoch: Epoch) -> Option<&'a Work> {
        self.scheduler.leases.get(&epoch).map(|lease| &lease.work)
    }

    /// What waits, over all runs.
    pub fn queue(self) -> QueueView {
        let mut queue = QueueView { attempts: self.scheduler.leases.len() as u32, ..QueueView::default() };
        for run in self.scheduler.runs.values() {
            if run.purpose != Purpose::Tests {
                queue.actions += run.ready.values().map(|ready| ready.load.cases).sum::<u32>();
                continue;
            }
            let waiting = run.targets.values().filter(|target| target.discovery == Discovery::Queued);
            queue.discoveries += waiting.count() as u32;
            for (&class, ready) in &run.ready {
                queue.cases += u64::from(ready.load.cases);
                if self.scheduler.classes.get(class).agents == 0 {
                    queue.unschedulable_cases += u64::from(ready.load.cases);
                }
            }
        }
        queue
    }

    /// Every open run of tests.
    pub fn runs(self) -> impl Iterator<Item = RunView> + 'a {
        let unknown = self.scheduler.config.unknown_case_time;
        let runs = self.scheduler.runs.iter().filter(|(_, run)| run.purpose == Purpose::Tests);
        runs.map(move |(&id, run)| RunView {
            run: id,
            targets: run.targets.len() as u32,
            undiscovered: run.undiscovered,
            planned: run.planned,
            reported: run.reported,
            queued: run.ready.values().map(|ready| ready.load.cases).sum(),
            attempts: run.in_use(),
            expected: run.expected(run.mean.get().unwrap_or(unknown)),
        })
    }
}
