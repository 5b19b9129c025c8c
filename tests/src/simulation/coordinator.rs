//! The coordinator's loud half, modelled: carries commands out in order, each only when the records before it are durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use core::time::Duration;

use muster_agent_state::Desired;
use muster_model::attempt::Work;
use muster_model::outcome::{FaultKind, RunOutcome};
use muster_model::platform::Resources;
use muster_model::{ActionId, AgentId, Epoch, Instant, RunId, TargetIndex};
use muster_scheduler::{
    ActionEnd, AttemptEnd, CaseSeed, Command, Config, DiscoveryTries, Event, Scheduler, TargetSeed,
};

use super::actions::Room;
use super::checks::{CaseName, LeaseCheck};
use super::ledger::{Ledger, Record};
use super::network::{Content, Message};
use super::plan::{PlannedRun, PlannedTarget, Planted};
use super::warm::WarmCheck;

/// So few that every history with actions needs several blocks.
const EPOCHS_RESERVED: u64 = 16;

/// Something that may happen only once the records before it are durable.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Assign { agent: AgentId, epoch: Epoch },
    Recall { agent: AgentId, epoch: Epoch },
    Withdraw { agent: AgentId, epoch: Epoch },
    Acknowledge { agent: AgentId, epoch: Epoch },
    Resolve { run: RunId, target: TargetIndex },
    Conclude { action: ActionId, end: ActionEnd },
    Finished { run: RunId, outcome: RunOutcome, undiscovered: usize },
}

/// What one agent should hold.
#[derive(Clone, Debug, Default)]
struct Wanted {
    attempts: BTreeMap<Epoch, bool>,
    listed: BTreeSet<Epoch>,
    acknowledged: Vec<Epoch>,
    /// Attempts that may still run although they should not, with the number of the first state that is sent without them.
    withdrawn: BTreeMap<Epoch, u64>,
    sent: u64,
}

/// The coordinator.
#[derive(Debug)]
pub(super) struct Coordinator {
    /// None while it is down.
    pub(super) scheduler: Option<Scheduler>,
    pub(super) ledger: Ledger,
    pub(super) generation: u64,
    pub(super) connections: BTreeMap<AgentId, u64>,
    /// What each agent has said of itself.
    pub(super) slots: BTreeMap<AgentId, u32>,
    pub(super) leases: LeaseCheck,
    warm: WarmCheck,
    /// How the runs ended that have, published.
    pub(super) published: BTreeMap<RunId, (RunOutcome, usize)>,
    /// How often an agent was lost with a case in its hands.
    pub(super) losses: BTreeMap<CaseName, u32>,
    /// The room of actions.
    pub(super) room: Room,
    effects: VecDeque<(usize, Effect)>,
    /// What happens to attempts at actions waits for the reservation of their epochs only.
    action_effects: VecDeque<(usize, Effect)>,
    /// Reservations, with how many records have to be durable for them to be.
    reservations: Vec<(Epoch, usize)>,
    wanted: BTreeMap<AgentId, Wanted>,
    contents: BTreeMap<Epoch, Content>,
    planted: Planted,
}

/// What the lease time is for the agents; the scheduler's own.
pub(super) fn lease_time() -> Duration {
    Config::default().lease_time
}

impl Coordinator {
    pub(super) fn new(planted: Planted, room: Room) -> Self {
        let mut coordinator = Self {
            scheduler: None,
            ledger: Ledger::default(),
            generation: 0,
            connections: BTreeMap::new(),
            slots: BTreeMap::new(),
            leases: LeaseCheck::default(),
            warm: WarmCheck::default(),
            published: BTreeMap::new(),
            losses: BTreeMap::new(),
            room,
            effects: VecDeque::new(),
            action_effects: VecDeque::new(),
            reservations: Vec::new(),
            wanted: BTreeMap::new(),
            contents: BTreeMap::new(),
            planted,
        };
        coordinator.start(Instant::default(), &[]);
        coordinator
    }

    /// Starts, with what the ledger tells.
    pub(super) fn start(&mut self, now: Instant, plans: &[PlannedRun]) {
        self.generation += 1;
        self.effects.clear();
        self.action_effects.clear();
        self.reservations.clear();
        self.connections.clear();
        self.wanted.clear();
        #[allow(unused_mut, reason = "planted bugs change it")]
        let mut config = Config { epochs_reserved: EPOCHS_RESERVED, ..Config::default() };
        #[cfg(feature = "planted-bugs")]
        {
            config.planted = self.planted.scheduler;
        }
        #[cfg(not(feature = "planted-bugs"))]
        let _ = self.planted;
        let state = self.ledger.state().clone();
        let first = state.first_epoch();
        let mut scheduler = Scheduler::new(config, first);
        self.leases.restore(&state.open, first, |content| resources(plans, content).slots_taken());
        for (&epoch, &at) in &state.withdrawn {
            let Some((agent, content)) = state.leases.get(&epoch) else { continue };
            let exclusive = resources(plans, content).exclusive;
            if !exclusive.is_empty() && at + lease_time() > now {
                scheduler.handle_event(now, Event::VacatingRestored { epoch, agent: *agent, exclusive });
            }
        }
        self.warm = WarmCheck::default();
        // A run whose end was durable and not yet told: its watchers read it from the ledger.
        for (&run, &outcome) in &state.finished {
            self.published.entry(run).or_insert((outcome, 0));
        }
        for &run in state.runs.iter().filter(|run| !state.finished.contains_key(run)) {
            let planned = &plans[run.0 as usize];
            let discovered = |target: usize| state.discovered.contains(&(run, TargetIndex(target as u32)));
            let event = submitted(run, planned, discovered, &state.discovery_tries);
            self.warm.observe(now, &event);
            scheduler.handle_event(now, event);
            for (target, cases) in planned.targets.iter().enumerate().filter(|(target, _)| discovered(*target)) {
                let target = TargetIndex(target as u32);
                let mut seeds = seeds(cases);
                for (case, seed) in seeds.iter_mut().enumerate() {
                    let name = (run, target, muster_model::CaseIndex(case as u32));
                    seed.decided = state.decided.get(&name).copied();
                    seed.tries = state.tries.get(&name).copied().unwrap_or_default();
                }
                scheduler.handle_event(now, Event::CasesDiscovered { run, target, cases: seeds });
            }
        }
        for (epoch, (agent, content)) in state.open {
            self.contents.insert(epoch, content.clone());
            self.wanted.entry(agent).or_default().attempts.insert(epoch, false);
            let Content { run, target, work } = content;
            scheduler.handle_event(now, Event::LeaseRestored { epoch, agent, run, target, work });
        }
        self.scheduler = Some(scheduler);
    }

    /// Loses power; of the records that are not durable, `kept` survive.
    pub(super) fn crash(&mut self, kept: usize) {
        self.scheduler = None;
        self.effects.clear();
        self.action_effects.clear();
        self.room.lose();
        self.ledger.crash(kept);
    }

    /// Takes in an event and carries out what follows, as far as it may already be; `epoch` is that of the report the event carries.
    ///
    /// # Panics
    ///
    /// When a command breaks a promise about the order of things.
    pub(super) fn handle(&mut self, now: Instant, event: Event) {
        let reported = match &event {
            Event::AttemptFinished { epoch, .. } => Some((*epoch, self.leases.is_closed(*epoch))),
            _ => None,
        };
        self.room.hear(match &event {
            Event::AttemptFinished { end: AttemptEnd::ActionRan { duration }, .. } => Some(*duration),
            _ => None,
        });
        if let Some(scheduler) = &mut self.scheduler {
            self.warm.observe(now, &event);
            scheduler.handle_event(now, event);
            self.drain(reported);
        }
    }

    /// Takes in that time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some(scheduler) = &mut self.scheduler {
            self.warm.tick(now);
            scheduler.handle_timeout(now);
            self.drain(None);
        }
    }

    /// Records what a start's events led to.
    pub(super) fn drain(&mut self, reported: Option<(Epoch, bool)>) {
        let mut acknowledged = BTreeSet::new();
        while let Some(command) = self.scheduler.as_mut().and_then(Scheduler::poll_command) {
            if let Command::DecideCase { epoch: Some(epoch), .. } = &command {
                assert!(!acknowledged.contains(epoch), "epoch {epoch} was acknowledged before it was decided");
                assert_ne!(reported, Some((*epoch, true)), "a report under the closed epoch {epoch} decided a case");
            }
            if let Command::FinishAction { action, end, epoch, .. } = &command {
                self.room.check_end(*action, *end, *epoch, reported);
            }
            if let Command::Acknowledge { epoch, fenced: false, .. } = &command {
                acknowledged.insert(*epoch);
            }
            self.take(command);
        }
        if let Some(scheduler) = &self.scheduler {
            scheduler.assert_invariants();
        }
    }

    fn take(&mut self, command: Command) {
        let effect = match command {
            Command::RecordLease { epoch, agent, run, target, work } => {
                return self.record_lease(epoch, agent, Content { run, target, work });
            }
            Command::DecideCase { run, target, case, outcome, epoch, .. } => {
                self.ledger.append(Record::Decided { run, target, case, outcome, epoch });
                return;
            }
            Command::RecordTries { run, target, case, tries } => {
                self.ledger.append(Record::Tries { case: (run, target, case), tries });
                return;
            }
            Command::RecordDiscoveryTries { run, target, tries } => {
                self.ledger.append(Record::DiscoveryTries { target: (run, target), tries });
                return;
            }
            Command::AcceptDiscovery { run, target, .. } => {
                self.ledger.append(Record::Discovered { run, target });
                Effect::Resolve { run, target }
            }
            Command::FinishRun { run, outcome, undiscovered, .. } => {
                self.ledger.append(Record::Finished { run, outcome });
                Effect::Finished { run, outcome, undiscovered: undiscovered.len() }
            }
            Command::Assign { agent, epoch } => Effect::Assign { agent, epoch },
            Command::Recall { agent, epoch } => {
                self.leases.recalled(epoch);
                Effect::Recall { agent, epoch }
            }
            Command::Withdraw { agent, epoch } => {
                self.close(epoch, Some(self.warm.now()));
                Effect::Withdraw { agent, epoch }
            }
            Command::Acknowledge { agent, epoch, fenced } => {
                self.note_fenced(epoch, fenced);
                self.close(epoch, None);
                Effect::Acknowledge { agent, epoch }
            }
            Command::ReportFault { run, target, kind: FaultKind::AgentLost, cases, .. } => {
                for case in cases {
                    *self.losses.entry((run, target, case)).or_default() += 1;
                }
                return;
            }
            Command::PlanRun { .. }
            | Command::ReportCaseStarted { .. }
            | Command::ReportFault { .. }
            | Command::RememberIsolation { .. } => return,
            Command::ReserveEpochs { below } => {
                let count = self.ledger.append(Record::EpochsReserved(below));
                self.reservations.push((below, count));
                return;
            }
            Command::AssignAction { agent, epoch, action } => self.assign_action(agent, epoch, action),
            Command::ReportActionFault { action, kind, .. } => {
                self.room.faulted(action, kind);
                return;
            }
            Command::ReportActionStage { .. } => return,
            Command::FinishAction { end: ActionEnd::Cancelled, .. } => return,
            Command::FinishAction { action, end, .. } => Effect::Conclude { action, end },
        };
        self.push_effect(effect);
    }

    fn record_lease(&mut self, epoch: Epoch, agent: AgentId, content: Content) {
        let Content { run, target, .. } = content;
        let slots = self.slots.get(&agent).copied().unwrap_or_default();
        let is_copy = self.leases.is_leased(&content);
        match self.warm.leased(agent, run, target, is_copy, |agent| self.leases.held(agent)) {
            Some(true) => self.room.sometimes("services warm"),
            Some(false) => self.room.sometimes("services started"),
            None => {}
        }
        self.leases.opened(epoch, agent, slots, &content, &self.warm.resources(run, target));
        self.contents.insert(epoch, content.clone());
        self.ledger.append(Record::Lease { epoch, agent, content });
    }

    fn note_fenced(&mut self, epoch: Epoch, fenced: bool) {
        if fenced && self.is_of_action(epoch) {
            self.room.sometimes("action result fenced");
        }
    }

    fn assign_action(&mut self, agent: AgentId, epoch: Epoch, action: ActionId) -> Effect {
        let content = self.room.assigned(action, epoch);
        let slots = self.slots.get(&agent).copied().unwrap_or_default();
        self.leases.opened(epoch, agent, slots, &content, &Resources::default());
        self.contents.insert(epoch, content);
        Effect::Assign { agent, epoch }
    }

    /// Has an effect wait for the records before it; one on an action for the reservation of its epoch only.
    fn push_effect(&mut self, effect: Effect) {
        let of_action = match effect {
            Effect::Assign { epoch, .. }
            | Effect::Recall { epoch, .. }
            | Effect::Withdraw { epoch, .. }
            | Effect::Acknowledge { epoch, .. } => self.is_of_action(epoch).then(|| self.records_before(epoch)),
            Effect::Conclude { .. } => Some(0),
            Effect::Resolve { .. } | Effect::Finished { .. } => None,
        };
        if let Some(count) = of_action {
            return self.action_effects.push_back((count, effect));
        }
        self.effects.push_back((self.ledger.count(), effect));
    }

    fn close(&mut self, epoch: Epoch, withdrawn: Option<Instant>) {
        self.leases.closed(epoch);
        self.room.closed(epoch);
        if !self.is_of_action(epoch) {
            let closed = Record::LeaseClosed(epoch);
            self.ledger.append(withdrawn.map_or(closed, |at| Record::LeaseWithdrawn { epoch, at }));
        }
    }

    fn is_of_action(&self, epoch: Epoch) -> bool {
        self.contents.get(&epoch).is_some_and(|content| content.work == Work::Action)
    }

    /// How many records must be durable before anybody hears of an epoch that was reserved.
    fn records_before(&self, epoch: Epoch) -> usize {
        self.reservations.iter().find(|(below, _)| epoch < *below).map_or(0, |&(_, count)| count)
    }

    /// The next effect whose records are durable.
    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        let durable = self.ledger.durable();
        let queues = [&mut self.effects, &mut self.action_effects];
        let mut due = queues.into_iter().filter(|queue| queue.front().is_some_and(|(needed, _)| *needed <= durable));
        due.next()?.pop_front().map(|(_, effect)| effect)
    }

    /// Changes what an agent should hold; returns the agent to tell.
    ///
    /// # Panics
    ///
    /// When an assignment would leave before its lease is durable.
    pub(super) fn apply(&mut self, effect: &Effect) -> Option<AgentId> {
        match *effect {
            Effect::Assign { agent, epoch } if self.is_of_action(epoch) => {
                let below = self.ledger.state().reserved_below;
                assert!(epoch.0 < below, "epoch {epoch} is sent before it is reserved, which is up to {below}");
                self.wanted.entry(agent).or_default().attempts.insert(epoch, false);
                Some(agent)
            }
            Effect::Assign { agent, epoch } => {
                let durable = self.ledger.state().leases.contains_key(&epoch);
                assert!(durable, "epoch {epoch} is sent before its lease is durable");
                if self.ledger.state().open.contains_key(&epoch) {
                    self.wanted.entry(agent).or_default().attempts.insert(epoch, false);
                }
                Some(agent)
            }
            Effect::Recall { agent, epoch } => {
                if let Some(recall) = self.wanted.entry(agent).or_default().attempts.get_mut(&epoch) {
                    *recall = true;
                }
                Some(agent)
            }
            Effect::Withdraw { agent, epoch } => {
                let wanted = self.wanted.entry(agent).or_default();
                wanted.attempts.remove(&epoch);
                wanted.withdrawn.insert(epoch, (self.generation << 32) + wanted.sent + 1);
                Some(agent)
            }
            Effect::Acknowledge { agent, epoch } => {
                let wanted = self.wanted.entry(agent).or_default();
                wanted.attempts.remove(&epoch);
                wanted.acknowledged.push(epoch);
                Some(agent)
            }
            Effect::Finished { run, outcome, undiscovered } => {
                self.published.insert(run, (outcome, undiscovered));
                None
            }
            Effect::Resolve { .. } | Effect::Conclude { .. } => None,
        }
    }

    /// Notes what an agent says that it holds, so that assignments need not be sent again. Returns those that it should not have and has not.
    pub(super) fn listed(
        &mut self,
        agent: AgentId,
        epochs: BTreeSet<Epoch>,
        heard: u64,
        ending: &BTreeSet<Epoch>,
    ) -> Vec<Epoch> {
        let wanted = self.wanted.entry(agent).or_default();
        let is_vacated =
            |epoch: &Epoch, number: &mut u64| *number <= heard && !epochs.contains(epoch) && !ending.contains(epoch);
        let vacated = wanted.withdrawn.extract_if(.., is_vacated).map(|(epoch, _)| epoch).collect();
        wanted.listed = epochs;
        vacated
    }

    /// What to tell an agent; acknowledgements are told once and asked for again by a repeated report.
    pub(super) fn desired(&mut self, agent: AgentId) -> Message {
        let wanted = self.wanted.entry(agent).or_default();
        let attempts = wanted
            .attempts
            .iter()
            .map(|(&epoch, &recall)| {
                let content = (!wanted.listed.contains(&epoch)).then(|| self.contents[&epoch].clone());
                let slots =
                    content.as_ref().map_or(0, |content| self.warm.resources(content.run, content.target).slots);
                (Desired { epoch, carries_assignment: content.is_some(), recall, slots }, content)
            })
            .collect();
        wanted.sent += 1;
        let number = (self.generation << 32) + wanted.sent;
        Message::Desired { attempts, acknowledged: std::mem::take(&mut wanted.acknowledged), number }
    }
}

/// What attempts at something take.
fn resources(plans: &[PlannedRun], content: &Content) -> Resources {
    let target = plans.get(content.run.0 as usize).and_then(|run| run.targets.get(content.target.0 as usize));
    target.map(|target| target.requirements.resources.clone()).unwrap_or_default()
}

/// The event that submits a run.
pub(super) fn submitted(
    run: RunId,
    planned: &PlannedRun,
    discovered: impl Fn(usize) -> bool,
    discovery_tries: &BTreeMap<(RunId, TargetIndex), DiscoveryTries>,
) -> Event {
    let targets = planned.targets.iter().enumerate().map(|(position, target)| TargetSeed {
        requirements: target.requirements.clone(),
        needs_discovery: !discovered(position),
        retries: target.retries,
        services: target.services,
        discovery_tries: discovery_tries.get(&(run, TargetIndex(position as u32))).copied().unwrap_or_default(),
    });
    Event::RunSubmitted { run, policy: planned.policy, targets: targets.collect() }
}

/// A target's cases as history knows them.
pub(super) fn seeds(target: &PlannedTarget) -> Vec<CaseSeed> {
    let seed = |case: &super::plan::PlannedCase| CaseSeed {
        expected: case.known.then_some(case.duration),
        failed_last: case.failed_last,
        needs_alone: case.needs_alone,
        opens_group: case.opens_group,
        ..CaseSeed::default()
    };
    target.cases.iter().map(seed).collect()
}
