//! The coordinator's decisions: which attempt runs where, what its end means, when a run is over.
//!
//! One state machine, [`Scheduler`], driven by five methods: `handle_event(now, Event)`, `handle_timeout(now)`, `poll_command()`,
//! `poll_timeout()` and `view()`. It is given the time and never reads it; it answers with [`Command`]s that the loud half carries out *in
//! order*: a [`Command::RecordLease`] or [`Command::DecideCase`] must be durable before any later command takes effect.
//!
//! # How it decides
//!
//! Each target has a queue of its cases, those that failed last time first, then the unknown ones, then by expected time. Agents are
//! matched with sets of requirements (*classes*), each kept once. Whenever a class has both work and an agent with room, the agent with the
//! least load, or one that has the work's services warm, gets a shard of the run with the fewest attempts under way. Shards shrink as the queue does. When the queue is empty
//! and slots are idle, work that waits behind other work is recalled; when there is nothing to recall, what runs longest gets a second copy,
//! which gives way as soon as something is queued again.
//!
//! Work that takes several slots, memory or an exclusive group gets all of it at once, on one agent; what it takes is in its class. See [`claims`] for why
//! it is never starved by work that takes less, and [`groups`] for how a group outlives the lease of an attempt that may still run.
//!
//! Every decision costs the logarithm of what is queued. A queued case costs 20 bytes.
//!
//! # After a restart
//!
//! The ledger tells runs, cases with what was charged to them, and open leases again. What is not in it starts anew: the charges of
//! discoveries, and which agents a target avoids.
//!
//! Architecture Invariant: no lock, no await, no clock, no I/O, no names of cases. A case here is an index and a few bytes.
#![no_std]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod accounting;
mod action;
mod agents;
mod case;
mod claims;
mod classes;
mod command;
mod config;
mod dispatch;
mod event;
mod finish;
mod groups;
mod invariants;
mod ladder;
mod leases;
mod leasing;
mod loss;
mod outcome;
#[cfg(feature = "planted-bugs")]
mod planted;
mod queue;
mod report;
mod run;
mod shard;
mod share;
mod speculation;
mod submit;
mod timeout;
mod tries;
mod view;
mod warm;

#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;

use muster_model::{ActionId, AgentId, Epoch, Instant, RunId, TargetIndex};

use agents::Agent;
pub use agents::AgentState;
use classes::{ClassIndex, Classes};
pub use command::{ActionEnd, Command};
pub use config::Config;
pub use event::{ActionSeed, AttemptEnd, CaseEnd, CaseSeed, Event, SchedulingPolicy, TargetSeed};
use leases::Lease;
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
use run::Run;
use timeout::Hold;
pub use tries::{CaseTries, DiscoveryTries};
pub use view::{AgentView, AttemptView, QueueView, RunView, View};

/// The coordinator's state machine.
#[derive(Debug)]
pub struct Scheduler {
    config: Config,
    now: Instant,
    next_epoch: u64,
    /// Epochs below this one are reserved in the ledger.
    reserved_below: u64,
    commands: VecDeque<Command>,
    agents: BTreeMap<AgentId, Agent>,
    /// When each agent that is not silent counts as lost.
    deadlines: BTreeSet<(Instant, AgentId)>,
    hold: Hold,
    classes: Classes,
    runs: BTreeMap<RunId, Run>,
    /// Where each open action is.
    actions: BTreeMap<ActionId, (RunId, TargetIndex)>,
    leases: BTreeMap<Epoch, Lease>,
    /// Those of the leases that are copies of others.
    copies: BTreeSet<Epoch>,
    /// Agents that hold more attempts than they have slots, by the classes of those that wait.
    surplus: BTreeSet<(ClassIndex, AgentId)>,
    /// Exclusive groups, and who holds them.
    groups: groups::Groups,
    /// Groups that are kept free for a class.
    claimed_groups: BTreeMap<String, ClassIndex>,
    /// Services that agents keep running for nobody.
    warm: warm::Warm,
    /// Times at which a target may go back to an agent that it avoided.
    avoidance_ends: BTreeSet<Instant>,
    /// What closed leases were about, for the mistakes that need it.
    #[cfg(feature = "planted-bugs")]
    closed: BTreeMap<Epoch, (RunId, TargetIndex, Option<ActionId>)>,
}

impl Scheduler {
    /// A scheduler that knows nothing. `first_epoch` must be above every epoch that was ever written to the ledger.
    pub fn new(config: Config, first_epoch: Epoch) -> Self {
        Self {
            config,
            now: Instant::default(),
            next_epoch: first_epoch.0,
            reserved_below: 0,
            commands: VecDeque::new(),
            agents: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            hold: Hold::default(),
            classes: Classes::default(),
            runs: BTreeMap::new(),
            actions: BTreeMap::new(),
            leases: BTreeMap::new(),
            copies: BTreeSet::new(),
            surplus: BTreeSet::new(),
            groups: groups::Groups::default(),
            claimed_groups: BTreeMap::new(),
            warm: warm::Warm::default(),
            avoidance_ends: BTreeSet::new(),
            #[cfg(feature = "planted-bugs")]
            closed: BTreeMap::new(),
        }
    }

    /// Takes note of something that has happened. A `now` before an earlier one counts as the earlier one.
    ///
    /// Nothing an agent says is an error: what is not known or not possible is passed over or fenced.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::AgentConnected { agent, slots, offer } => self.connect_agent(agent, slots, offer),
            Event::AgentReported { agent, draining, attempts, warm } => {
                self.note_report(agent, draining, &attempts, warm);
            }
            Event::AgentDisconnected { agent } => self.disconnect_agent(agent),
            Event::RunSubmitted { run, policy, targets } => self.open_run(run, policy, &targets),
            Event::CasesDiscovered { run, target, cases } => self.take_cases(run, target, &cases),
            Event::AttemptFinished { agent, epoch, end } => self.finish_attempt(agent, epoch, end),
            Event::RunCancelled { run } => self.cancel_run(run),
            Event::ActionSubmitted { action, invocation, seed } => self.open_action(action, invocation, &seed),
            Event::ActionCancelled { action } => self.cancel_action(action),
            Event::LeaseRestored { epoch, agent, run, target, work } => {
                self.restore_lease(epoch, agent, run, target, work)
            }
            Event::AttemptVacated { agent, epoch } => self.groups.end(agent, epoch),
            Event::VacatingRestored { epoch, agent, exclusive } => self.restore_vacating(epoch, agent, exclusive),
        }
        self.dispatch();
    }

    /// Does what is due at `now`; to be called at [`Self::poll_timeout`] or later.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        self.expire_agents();
        self.expire_avoidance();
        self.groups.expire(self.now);
        self.give_up_unschedulable();
        self.dispatch();
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// When [`Self::handle_timeout`] is due, as things are.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_timeout()
    }

    /// What is going on, to be shown to people.
    pub fn view(&self) -> View<'_> {
        View::new(self)
    }

    fn push(&mut self, command: Command) {
        self.commands.push_back(command);
    }

    #[cfg(feature = "planted-bugs")]
    fn is_planted(&self, bug: PlantedBug) -> bool {
        self.config.planted == Some(bug)
    }
}
