//! What each agent should be doing and what it last said: the table from which desired states are made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use muster_model::attempt::{Assignment, AttemptStatus};
use muster_model::platform::Offer;
use muster_model::{AgentId, Epoch, Instant, limits};
use muster_proto::convert::{AgentHello, DesiredEntry};
use muster_proto::v1;
use prost::Message;
use tokio::sync::watch;

/// A stream of an agent; counted so that what the last stream still says is not taken for the new one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionNumber(pub(crate) u64);

/// Where an agent's newest desired state is put: states replace each other, so a slow agent costs one state and no queue.
pub(crate) type DesiredSender = watch::Sender<Option<Arc<v1::DesiredState>>>;

/// What an agent that is connected offers, for those who wait for one.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) name: String,
    pub(crate) slots: u32,
    pub(crate) offer: Offer,
}

#[derive(Debug)]
struct Desired {
    assignment: Arc<Assignment>,
    recall: bool,
    /// The agent has said that it holds it, so it need not be told what it is.
    is_listed: bool,
}

#[derive(Debug)]
struct Connection {
    number: ConnectionNumber,
    sender: DesiredSender,
}

/// An agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) hello: Option<AgentHello>,
    connection: Option<Connection>,
    pub(crate) draining: bool,
    pub(crate) load_milli: u32,
    pub(crate) services: Vec<v1::WarmServices>,
    pub(crate) last_heard: Instant,
    pub(crate) attempts: Vec<AttemptStatus>,
    desired: BTreeMap<Epoch, Desired>,
    /// Attempts that it may still be running although it should not, with the number of the first state that was sent without them.
    withdrawn: BTreeMap<Epoch, u64>,
    /// The number of the last state that was sent on this stream.
    sent: u64,
    acknowledged: BTreeSet<Epoch>,
}

impl Agent {
    fn new(now: Instant) -> Self {
        Self {
            hello: None,
            connection: None,
            draining: false,
            load_milli: 0,
            services: Vec::new(),
            last_heard: now,
            attempts: Vec::new(),
            desired: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            sent: 0,
            acknowledged: BTreeSet::new(),
        }
    }

    /// Whether it has a stream.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    fn is_forgettable(&self) -> bool {
        self.connection.is_none() && self.desired.is_empty()
    }

    fn note_attempts(&mut self, attempts: Vec<AttemptStatus>) {
        let listed: BTreeSet<Epoch> = attempts.iter().map(|status| status.epoch).collect();
        for (epoch, desired) in &mut self.desired {
            desired.is_listed = listed.contains(epoch);
        }
        // An agent lists what it holds until it has seen the acknowledgement, so what it no longer lists needs none.
        self.acknowledged.retain(|epoch| listed.contains(epoch));
        self.attempts = attempts;
    }

    /// Takes note of which attempts that it should not have it has not: those that it knows not to have, and is not still ending.
    fn note_vacated(&mut self, heard: u64, ending: &BTreeSet<Epoch>) -> Vec<Epoch> {
        let is_held = |epoch: &Epoch| ending.contains(epoch) || self.attempts.iter().any(|held| held.epoch == *epoch);
        let is_vacated = |epoch: &Epoch, number: &mut u64| *number <= heard && !is_held(epoch);
        self.withdrawn.extract_if(.., is_vacated).map(|(epoch, _)| epoch).collect()
    }

    /// The state in one message. An assignment that does not fit any more waits for the next: leaving it out is safe, because an agent that
    /// does not hold an attempt has nothing to kill.
    fn desired_state(&mut self, generation: u64, lease_time: Duration) -> v1::DesiredState {
        self.sent += 1;
        let mut attempts = Vec::with_capacity(self.desired.len());
        let mut bytes = 0;
        for (&epoch, desired) in &self.desired {
            let assignment = (!desired.is_listed).then(|| (*desired.assignment).clone());
            let entry = v1::DesiredAttempt::from(&DesiredEntry { epoch, assignment, recall: desired.recall });
            bytes += if desired.is_listed { 0 } else { entry.encoded_len() };
            if bytes <= limits::BATCH_BYTES_MAX || desired.is_listed {
                attempts.push(entry);
            }
        }
        v1::DesiredState {
            attempts,
            acknowledged: self.acknowledged.iter().map(|epoch| epoch.0).collect(),
            generation,
            lease_ms: u64::try_from(lease_time.as_millis()).unwrap_or(u64::MAX),
            number: self.sent,
        }
    }
}

/// Every agent that is connected or should be doing something.
#[derive(Debug)]
pub(crate) struct Agents {
    agents: BTreeMap<AgentId, Agent>,
    changed: BTreeSet<AgentId>,
    generation: u64,
    lease_time: Duration,
}

impl Agents {
    /// No agents.
    pub(crate) fn new(generation: u64, lease_time: Duration) -> Self {
        Self { agents: BTreeMap::new(), changed: BTreeSet::new(), generation, lease_time }
    }

    /// Every agent.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (AgentId, &Agent)> {
        self.agents.iter().map(|(&agent, state)| (agent, state))
    }

    /// Whether one more can be had.
    pub(crate) fn has_room_for(&self, agent: AgentId) -> bool {
        self.agents.len() < limits::AGENTS_MAX || self.agents.contains_key(&agent)
    }

    fn entry(&mut self, agent: AgentId, now: Instant) -> &mut Agent {
        self.changed.insert(agent);
        self.agents.entry(agent).or_insert_with(|| Agent::new(now))
    }

    /// A stream was opened. One that was open already ends, because its sender is dropped.
    pub(crate) fn connect(&mut self, now: Instant, hello: AgentHello, number: ConnectionNumber, sender: DesiredSender) {
        let agent = self.entry(hello.agent, now);
        agent.connection = Some(Connection { number, sender });
        agent.hello = Some(hello);
        agent.last_heard = now;
        agent.sent = 0;
        // Every state on this stream is without them.
        agent.withdrawn.values_mut().for_each(|number| *number = 1);
        agent.desired.values_mut().for_each(|desired| desired.is_listed = false);
    }

    /// Whether `number` is the agent's stream.
    pub(crate) fn is_current(&self, agent: AgentId, number: ConnectionNumber) -> bool {
        let connection = self.agents.get(&agent).and_then(|agent| agent.connection.as_ref());
        connection.is_some_and(|connection| connection.number == number)
    }

    /// A stream ended.
    pub(crate) fn disconnect(&mut self, agent: AgentId) {
        if let Some(state) = self.agents.get_mut(&agent) {
            state.connection = None;
        }
    }

    /// What an agent said of itself: whether it changed its mind about taking work, and which attempts that it should not have it has not any more.
    pub(crate) fn note_report(
        &mut self,
        now: Instant,
        agent: AgentId,
        draining: bool,
        load_milli: u32,
        attempts: Vec<AttemptStatus>,
        (heard, ending): (u64, &BTreeSet<Epoch>),
    ) -> (bool, Vec<Epoch>) {
        let Some(state) = self.agents.get_mut(&agent) else { return (false, Vec::new()) };
        state.last_heard = now;
        state.load_milli = load_milli;
        state.note_attempts(attempts);
        let vacated = state.note_vacated(heard, ending);
        (std::mem::replace(&mut state.draining, draining) != draining, vacated)
    }

    /// What an agent keeps running for nobody.
    pub(crate) fn note_services(&mut self, agent: AgentId, services: Vec<v1::WarmServices>) {
        if let Some(state) = self.agents.get_mut(&agent) {
            state.services = services;
        }
    }

    /// Adds an attempt to what an agent should be doing.
    pub(crate) fn assign(&mut self, now: Instant, agent: AgentId, assignment: Arc<Assignment>) {
        let desired = Desired { recall: false, is_listed: false, assignment };
        self.entry(agent, now).desired.insert(desired.assignment.epoch, desired);
    }

    /// Asks for an attempt back.
    pub(crate) fn recall(&mut self, now: Instant, agent: AgentId, epoch: Epoch) {
        if let Some(desired) = self.entry(agent, now).desired.get_mut(&epoch) {
            desired.recall = true;
        }
    }

    /// Takes an attempt out of what an agent should be doing.
    pub(crate) fn withdraw(&mut self, now: Instant, agent: AgentId, epoch: Epoch) {
        let state = self.entry(agent, now);
        state.desired.remove(&epoch);
        let next = state.sent + 1;
        state.withdrawn.insert(epoch, next);
    }

    /// Lets an agent forget a finished attempt.
    pub(crate) fn acknowledge(&mut self, now: Instant, agent: AgentId, epoch: Epoch) {
        let state = self.entry(agent, now);
        state.desired.remove(&epoch);
        state.acknowledged.insert(epoch);
    }

    /// Sends every agent its state again, so that a lost one heals.
    pub(crate) fn change_all(&mut self) {
        self.agents.retain(|_, agent| !agent.is_forgettable());
        self.changed.extend(self.agents.keys().copied());
    }

    /// Sends what has changed.
    pub(crate) fn send_changed(&mut self) {
        for agent in std::mem::take(&mut self.changed) {
            let Some(state) = self.agents.get_mut(&agent).filter(|state| state.is_connected()) else { continue };
            let desired = state.desired_state(self.generation, self.lease_time);
            if let Some(connection) = &state.connection {
                connection.sender.send_replace(Some(Arc::new(desired)));
            }
        }
    }

    /// What connected agents offer that take work.
    pub(crate) fn offers(&self) -> Vec<Offered> {
        let takers = self.agents.values().filter(|agent| agent.is_connected() && !agent.draining);
        let hellos = takers.filter_map(|agent| agent.hello.as_ref());
        hellos
            .map(|hello| Offered { name: hello.name.clone(), slots: hello.slots, offer: hello.offer.clone() })
            .collect()
    }

    /// The name of an agent, for people.
    pub(crate) fn name(&self, agent: AgentId) -> String {
        let hello = self.agents.get(&agent).and_then(|agent| agent.hello.as_ref());
        hello.map_or_else(|| format!("{:016x}", agent.0), |hello| hello.name.clone())
    }

    /// Slots of the agents that take work.
    pub(crate) fn slots(&self) -> u32 {
        let takers = self.agents.values().filter(|agent| agent.is_connected() && !agent.draining);
        takers.filter_map(|agent| agent.hello.as_ref()).map(|hello| hello.slots).sum()
    }
}
