//! The world: one queue of happenings, one clock, one thread.

mod actions;
mod faults;
mod groups;

use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

use core::cmp::Reverse;
use core::time::Duration;

use muster_agent_state as state;
use muster_model::attempt::Work;
use muster_model::outcome::{CaseOutcome, FaultKind};
use muster_model::platform::Resources;
use muster_model::{ActionId, AgentId, Epoch, Instant, RunId, TargetIndex};
use muster_scheduler::{ActionEnd, AttemptEnd, Event};

use super::History;
use super::actions::Room;
use super::agent::{Agent, Step};
use super::checks::{CaseName, Excuses, check_outcome, check_run};
use super::coordinator::{Coordinator, Effect, lease_time, seeds, submitted};
use super::network::{Content, Message, Network, Way};
use super::plan::{Plan, Planted};
use crate::seed::Random;

/// Everything must have ended this long after the faults have.
const CALM_TIME_MAX: Duration = Duration::from_secs(1200);
/// At rest nothing may be left after this.
const REST_TIME: Duration = Duration::from_secs(30);
/// More steps than this are a loop.
const STEPS_MAX: u64 = 3_000_000;

#[derive(Clone, Debug)]
enum Happening {
    Submit(RunId),
    Cancel(RunId),
    Ask { client: usize },
    StopAsking { client: usize },
    Conclude { generation: u64, action: ActionId, end: ActionEnd },
    Resolved { generation: u64, run: RunId, target: TargetIndex },
    Arrive { agent: usize, way: Way, connection: u64, message: Message },
    Connect { agent: usize, life: u64 },
    ConnectionLost { agent: usize, connection: u64 },
    Step { agent: usize, life: u64, epoch: Epoch, step: Step },
    Commit { generation: u64, count: usize },
    Tick,
    Fault,
    Heal { agent: usize },
    Restart { agent: usize },
    CoordinatorUp,
    Calm,
}

/// One seed's world.
#[derive(Debug)]
pub(super) struct World {
    now: Instant,
    plan: Plan,
    random: Random,
    network: Network,
    coordinator: Coordinator,
    agents: Vec<Agent>,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    ordinal: u64,
    connections: u64,
    committing: bool,
    /// The coordinator loses power while it next writes.
    crash_awaits_write: bool,
    calm: bool,
    tries: BTreeMap<CaseName, u32>,
    cancelled: Vec<RunId>,
    /// Attempts that run although their leases are closed, and since when their agents could have known.
    condemned: BTreeMap<(AgentId, Epoch), Instant>,
    checked: usize,
    trace: DefaultHasher,
    narrate: bool,
    history: History,
}

impl World {
    pub(super) fn new(seed: u64, planted: Planted, narrate: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random.fork());
        let mut network = Network::new(random.fork(), plan.weather);
        network.calm = false;
        let agents = plan.agents.iter().enumerate();
        let agents: Vec<Agent> = agents
            .map(|(position, agent)| Agent::new(AgentId(position as u64 + 1), agent.clone(), random.fork(), planted))
            .collect();
        let mut world = Self {
            now: Instant::default(),
            random,
            network,
            coordinator: Coordinator::new(planted, Room::new(&plan.actions)),
            agents,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            ordinal: 0,
            connections: 0,
            committing: false,
            crash_awaits_write: false,
            calm: false,
            tries: BTreeMap::new(),
            cancelled: Vec::new(),
            condemned: BTreeMap::new(),
            checked: 0,
            trace: DefaultHasher::new(),
            narrate,
            history: History::default(),
            plan,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for (run, planned) in self.plan.runs.clone().iter().enumerate() {
            let run = RunId(run as u64);
            self.at(planned.at, Happening::Submit(run));
            if let Some(after) = planned.cancelled_after {
                self.at(planned.at + after, Happening::Cancel(run));
            }
        }
        self.plan_asking();
        for agent in 0..self.agents.len() {
            let delay = Duration::from_millis(self.random.between(0, 500));
            self.at(delay, Happening::Connect { agent, life: 1 });
        }
        self.at(Duration::from_secs(1), Happening::Tick);
        self.at(self.plan.calm_at, Happening::Calm);
        self.plan_fault();
    }

    pub(super) fn into_history(mut self) -> History {
        self.history.sometimes.extend(self.coordinator.room.seen());
        self.history.trace = self.trace.finish();
        self.history
    }

    /// Runs to the end, or panics with the promise that was broken.
    pub(super) fn run(&mut self) {
        let mut rest_until = None;
        loop {
            self.settle();
            let is_over = self.coordinator.published.len() == self.plan.runs.len() && self.coordinator.room.is_over();
            if is_over && self.calm && rest_until.is_none() {
                rest_until = Some(self.now + REST_TIME);
            }
            let Some(next) = self.next_time() else { panic!("I6: nothing will ever happen again") };
            if rest_until.is_some_and(|until| next > until) {
                break;
            }
            let deadline = Instant::default() + self.plan.calm_at + CALM_TIME_MAX;
            assert!(next < deadline, "I6: {} s after the faults {}", CALM_TIME_MAX.as_secs(), self.unfinished());
            self.history.steps += 1;
            assert!(self.history.steps < STEPS_MAX, "I6: a loop without end");
            self.now = self.now.max(next);
            self.step();
        }
        self.assert_rest();
    }

    /// What has not ended, for the message of a failure.
    fn unfinished(&self) -> String {
        let ledger = self.coordinator.ledger.state();
        let open = self
            .plan
            .runs
            .iter()
            .enumerate()
            .filter(|(run, _)| !self.coordinator.published.contains_key(&RunId(*run as u64)));
        let text = open.map(|(run, planned)| {
            let decided = ledger.decided.keys().filter(|case| case.0.0 == run as u64).count();
            let cases: usize = planned.targets.iter().map(|target| target.cases.len()).sum();
            format!("run {run} is open with {decided} of {cases} cases decided")
        });
        text.chain(self.coordinator.room.unfinished()).collect::<Vec<_>>().join(", ")
    }

    /// The earliest of what is queued and what the machines wait for.
    fn next_time(&self) -> Option<Instant> {
        let queued = self.queue.peek().map(|Reverse((at, _))| *at);
        let scheduler = self.coordinator.scheduler.as_ref().and_then(|scheduler| scheduler.poll_timeout());
        let agents = self.agents.iter().filter_map(|agent| {
            let own = agent.machine.as_ref()?.poll_timeout()?;
            Some(agent.world_time(own).max(agent.frozen_until))
        });
        agents.chain(queued).chain(scheduler).min()
    }

    fn step(&mut self) {
        let now = self.now;
        let mut timers = false;
        if self
            .coordinator
            .scheduler
            .as_ref()
            .and_then(|scheduler| scheduler.poll_timeout())
            .is_some_and(|at| at <= now)
        {
            self.coordinator.handle_timeout(now);
        }
        for agent in &mut self.agents {
            let clock = agent.clock(now);
            if agent.frozen_until <= now
                && let Some(machine) = &mut agent.machine
                && machine.poll_timeout().is_some_and(|at| at <= clock)
            {
                machine.handle_timeout(clock);
                machine.assert_invariants();
                timers = true;
            }
        }
        // What a timer asks for, a kill for example, comes before anything else that happens at the same moment.
        if timers {
            return;
        }
        if let Some(Reverse((at, ordinal))) = self.queue.peek().copied()
            && at <= now
        {
            self.queue.pop();
            if let Some(happening) = self.happenings.remove(&ordinal) {
                self.note(&happening);
                self.happen(happening);
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Submit(run) => self.submit(run),
            Happening::Cancel(run) => self.cancel(run),
            Happening::Ask { client } => self.ask(client),
            Happening::StopAsking { client } => self.stop_asking(client),
            Happening::Conclude { generation, action, end } => self.conclude(generation, action, end),
            Happening::Resolved { generation, run, target } => {
                if generation == self.coordinator.generation {
                    let cases = seeds(&self.plan.runs[run.0 as usize].targets[target.0 as usize]);
                    self.coordinator.handle(self.now, Event::CasesDiscovered { run, target, cases });
                }
            }
            Happening::Arrive { agent, way: Way::ToCoordinator, connection, message } => {
                self.arrive_at_coordinator(agent, connection, message);
            }
            Happening::Arrive { agent, way: Way::ToAgent, connection, message } => {
                self.arrive_at_agent(agent, connection, message);
            }
            Happening::Connect { agent, life } => self.connect(agent, life),
            Happening::ConnectionLost { agent, connection } => {
                let id = self.agents[agent].id;
                if self.coordinator.connections.get(&id) == Some(&connection) {
                    self.coordinator.connections.remove(&id);
                    self.coordinator.handle(self.now, Event::AgentDisconnected { agent: id });
                    self.sometimes("agent disconnected");
                }
            }
            Happening::Step { agent, life, epoch, step } => self.execute(agent, life, epoch, step),
            Happening::Commit { generation, count } => {
                if generation == self.coordinator.generation && self.coordinator.scheduler.is_some() {
                    if std::mem::take(&mut self.crash_awaits_write) && !self.calm {
                        return self.crash_coordinator();
                    }
                    self.committing = false;
                    self.coordinator.ledger.commit(count);
                }
            }
            Happening::Tick => self.tick(),
            Happening::Fault => {
                self.fault();
                self.plan_fault();
            }
            Happening::Heal { agent } => self.network.heal(self.agents[agent].id),
            Happening::Restart { agent } => self.restart(agent),
            Happening::CoordinatorUp => self.coordinator_up(),
            Happening::Calm => self.calm(),
        }
    }

    fn submit(&mut self, run: RunId) {
        if self.coordinator.scheduler.is_none() {
            return self.at(Duration::from_millis(200), Happening::Submit(run));
        }
        // A run is accepted only once it is durable, so the client's submission and its record are one step here.
        let count = self.coordinator.ledger.append(super::ledger::Record::Run(run));
        self.coordinator.ledger.commit(count);
        let event = submitted(run, &self.plan.runs[run.0 as usize], |_| false, &BTreeMap::new());
        self.coordinator.handle(self.now, event);
    }

    fn cancel(&mut self, run: RunId) {
        let known = self.coordinator.ledger.state().runs.contains(&run);
        if self.coordinator.scheduler.is_none() || !known {
            return self.at(Duration::from_millis(200), Happening::Cancel(run));
        }
        self.cancelled.push(run);
        self.coordinator.handle(self.now, Event::RunCancelled { run });
        self.sometimes("run cancelled");
    }

    /// Sends the desired state to every connected agent, and has agents notice that nobody speaks to them.
    fn tick(&mut self) {
        self.at(Duration::from_secs(1), Happening::Tick);
        self.check_kills();
        for agent in 0..self.agents.len() {
            self.send_desired(agent);
            let silent = self.now.since(self.agents[agent].heard) > Duration::from_secs(5);
            if silent && self.agents[agent].frozen_until <= self.now {
                self.disconnect(agent);
            }
        }
    }

    fn arrive_at_coordinator(&mut self, position: usize, connection: u64, message: Message) {
        let Message::Report { draining, attempts, finished, warm, heard, ending } = message else { return };
        if self.coordinator.scheduler.is_none() {
            return;
        }
        let agent = self.agents[position].id;
        let known = self.coordinator.connections.get(&agent).copied().unwrap_or(0);
        if connection < known {
            return;
        }
        if connection > known {
            self.coordinator.connections.insert(agent, connection);
            self.coordinator.slots.insert(agent, self.agents[position].plan.slots);
            let PlanView { slots, offer } = self.plan_view(position);
            self.coordinator.handle(self.now, Event::AgentConnected { agent, slots, offer });
        }
        for (epoch, end) in finished {
            self.coordinator.handle(self.now, Event::AttemptFinished { agent, epoch, end });
        }
        for status in attempts.iter().filter(|status| status.stage != muster_model::attempt::Stage::Waiting) {
            self.coordinator.leases.started(status.epoch);
        }
        let listed = attempts.iter().map(|status| status.epoch).collect();
        for epoch in self.coordinator.listed(agent, listed, heard, &ending) {
            self.coordinator.handle(self.now, Event::AttemptVacated { agent, epoch });
        }
        self.coordinator.handle(self.now, Event::AgentReported { agent, draining, attempts, warm });
    }

    fn plan_view(&self, position: usize) -> PlanView {
        let plan = &self.agents[position].plan;
        PlanView { slots: plan.slots, offer: plan.offer.clone() }
    }

    fn arrive_at_agent(&mut self, position: usize, connection: u64, message: Message) {
        let now = self.now;
        let agent = &mut self.agents[position];
        if agent.frozen_until > now {
            let later = agent.frozen_until.since(now);
            let happening = Happening::Arrive { agent: position, way: Way::ToAgent, connection, message };
            return self.at(later, happening);
        }
        let Message::Desired { attempts, acknowledged, number } = message else { return };
        let clock = agent.clock(now);
        let Some(machine) = agent.machine.as_mut().filter(|_| agent.connection == Some(connection)) else { return };
        agent.heard = now;
        agent.told = now;
        agent.number = agent.number.max(number);
        let mut desired = Vec::new();
        for (entry, content) in attempts {
            if let Some(content) = content {
                agent.contents.insert(entry.epoch, content);
            }
            desired.push(entry);
        }
        let lease = lease_time();
        machine.handle_event(clock, state::Event::DesiredReceived { attempts: desired, acknowledged, lease });
        machine.assert_invariants();
    }

    fn connect(&mut self, position: usize, life: u64) {
        let agent = &self.agents[position];
        if agent.life != life || agent.machine.is_none() || agent.connection.is_some() {
            return;
        }
        let reachable = self.coordinator.scheduler.is_some() && !self.network.is_cut(agent.id);
        if !reachable || agent.frozen_until > self.now {
            let backoff = Duration::from_millis(self.random.between(100, 1500));
            return self.at(backoff, Happening::Connect { agent: position, life });
        }
        self.connections += 1;
        let agent = &mut self.agents[position];
        agent.connection = Some(self.connections);
        agent.number = 0;
        agent.heard = self.now;
        let clock = agent.clock(self.now);
        if let Some(machine) = &mut agent.machine {
            machine.handle_event(clock, state::Event::Connected);
        }
        self.sometimes("agent connected");
    }

    /// The agent's side of a connection ends; the coordinator learns of it if the network lets it.
    fn disconnect(&mut self, position: usize) {
        let now = self.now;
        let agent = &mut self.agents[position];
        let Some(connection) = agent.connection.take() else { return };
        let clock = agent.clock(now);
        if let Some(machine) = &mut agent.machine {
            machine.handle_event(clock, state::Event::Disconnected);
        }
        let (id, life) = (agent.id, agent.life);
        self.lose_connection(position, id, connection);
        self.within(1, 1500, Happening::Connect { agent: position, life });
    }

    fn lose_connection(&mut self, position: usize, id: AgentId, connection: u64) {
        for arrival in self.network.send(self.now, id, Way::ToCoordinator).into_iter().take(1) {
            self.at(arrival.since(self.now), Happening::ConnectionLost { agent: position, connection });
        }
    }

    /// Carries out what the machines have asked for until they ask for nothing more.
    fn settle(&mut self) {
        loop {
            let mut idle = true;
            while let Some(effect) = self.coordinator.poll_effect() {
                idle = false;
                self.effect(&effect);
            }
            for position in 0..self.agents.len() {
                idle &= !self.settle_agent(position);
            }
            if idle {
                break;
            }
        }
        self.coordinator.drain(None);
        let ledger = &self.coordinator.ledger;
        if !self.committing && ledger.count() > ledger.durable() && self.coordinator.scheduler.is_some() {
            self.committing = true;
            let happening = Happening::Commit { generation: self.coordinator.generation, count: ledger.count() };
            let delay = Duration::from_micros(self.random.between(200, 8000));
            self.at(delay, happening);
        }
        self.check_decisions();
    }

    fn effect(&mut self, effect: &Effect) {
        if let Some(agent) = self.coordinator.apply(effect) {
            self.send_desired(agent.0 as usize - 1);
        }
        match effect {
            Effect::Resolve { run, target } => {
                let happening =
                    Happening::Resolved { generation: self.coordinator.generation, run: *run, target: *target };
                self.within(0, 20, happening);
            }
            Effect::Finished { run, outcome, undiscovered } => {
                let planned = &self.plan.runs[run.0 as usize];
                check_run(*run, planned, *outcome, self.coordinator.ledger.state(), *undiscovered);
                self.sometimes(outcome.name());
            }
            Effect::Conclude { action, end } => {
                let (generation, action, end) = (self.coordinator.generation, *action, *end);
                self.within(0, 20, Happening::Conclude { generation, action, end });
            }
            Effect::Recall { .. } => self.sometimes("recall"),
            Effect::Withdraw { .. } => self.sometimes("withdrawal"),
            Effect::Assign { .. } | Effect::Acknowledge { .. } => {}
        }
    }

    fn send_desired(&mut self, position: usize) {
        let agent = self.agents[position].id;
        if let Some(&connection) = self.coordinator.connections.get(&agent) {
            let message = self.coordinator.desired(agent);
            self.send(position, Way::ToAgent, connection, &message);
        }
    }

    fn send(&mut self, position: usize, way: Way, connection: u64, message: &Message) {
        let arrivals = self.network.send(self.now, self.agents[position].id, way);
        match arrivals.len() {
            0 => self.sometimes("message lost"),
            1 => {}
            _ => self.sometimes("message doubled"),
        }
        for arrival in arrivals {
            let message = message.clone();
            self.at(arrival.since(self.now), Happening::Arrive { agent: position, way, connection, message });
        }
    }

    /// Carries out one agent's commands; whether there were any.
    fn settle_agent(&mut self, position: usize) -> bool {
        let mut any = false;
        while self.agents[position].frozen_until <= self.now {
            let Some(command) = self.agents[position].machine.as_mut().and_then(state::Machine::poll_command) else {
                break;
            };
            any = true;
            self.command(position, command);
        }
        any
    }

    fn command(&mut self, position: usize, command: state::Command) {
        match command {
            state::Command::Start { epoch } => self.start_attempt(position, epoch),
            state::Command::Kill { epoch } => {
                let agent = &mut self.agents[position];
                let life = agent.life;
                agent.delivering.remove(&epoch);
                if agent.running.remove(&epoch).is_some() {
                    let delay = agent.some_time(1, 200);
                    let step = Step::Ended { reported: false };
                    self.at(delay, Happening::Step { agent: position, life, epoch, step });
                }
            }
            state::Command::Return { epoch } => {
                let agent = &mut self.agents[position];
                let life = agent.life;
                agent.spool.insert(epoch, AttemptEnd::Fault(FaultKind::Returned));
                let delay = agent.some_time(1, 20);
                self.sometimes("returned");
                self.at(delay, Happening::Step { agent: position, life, epoch, step: Step::Ended { reported: true } });
            }
            state::Command::Report => self.report(position),
            state::Command::Forget { epoch } => {
                let closed = self.coordinator.leases.is_closed(epoch);
                assert!(
                    closed,
                    "agent {} forgot the report of epoch {epoch}, which counts still",
                    self.agents[position].id
                );
                self.agents[position].spool.remove(&epoch);
            }
            state::Command::Leave => {
                let agent = &mut self.agents[position];
                assert!(agent.spool.is_empty(), "an agent left with reports that nobody has acknowledged");
                assert!(agent.running.is_empty(), "an agent left with work running");
                let connection = agent.connection;
                agent.die();
                let id = agent.id;
                if let Some(connection) = connection {
                    self.lose_connection(position, id, connection);
                }
                self.sometimes("agent drained and left");
                self.within(500, 5000, Happening::Restart { agent: position });
            }
        }
    }

    fn report(&mut self, position: usize) {
        let agent = &mut self.agents[position];
        let (Some(machine), Some(connection)) = (&mut agent.machine, agent.connection) else { return };
        let (attempts, finished) = machine.report();
        let draining = machine.view().draining;
        let finished =
            finished.into_iter().filter_map(|epoch| Some((epoch, agent.spool.get(&epoch)?.clone()))).collect();
        let ending = machine.ending().collect();
        let (warm, heard) = (agent.warm.clone(), agent.number);
        let message = Message::Report { draining, attempts, finished, warm, heard, ending };
        self.send(position, Way::ToCoordinator, connection, &message);
    }

    fn start_attempt(&mut self, position: usize, epoch: Epoch) {
        let agent = &mut self.agents[position];
        let content = agent.contents.get(&epoch).cloned();
        let content = content.unwrap_or_else(|| panic!("epoch {epoch} is started without its assignment"));
        let again = agent.running.insert(epoch, None);
        assert!(again.is_none(), "epoch {epoch} is started while it runs");
        let resources = |content: &Content| {
            let run = self.plan.runs.get(content.run.0 as usize);
            let target = run.and_then(|run| run.targets.get(content.target.0 as usize));
            target.map(|target| target.requirements.resources.clone()).unwrap_or_default()
        };
        let in_slots = agent.running.keys().filter(|epoch| !agent.delivering.contains(epoch));
        let contents = in_slots.filter_map(|epoch| agent.contents.get(epoch));
        let taken: u32 = contents.map(|content| resources(content).slots_taken()).sum();
        let slots = agent.plan.slots;
        assert!(
            taken <= slots && agent.delivering.len() <= slots as usize,
            "I7: agent {} is above its slots",
            agent.id
        );
        let Resources { slots, exclusive, .. } = resources(&content);
        agent.groups.insert(epoch, exclusive);
        self.check_groups(position, epoch);
        if slots > 1 {
            self.sometimes("several slots taken");
        }
        let agent = &mut self.agents[position];
        let permille = if self.calm { 0 } else { self.plan.weather.environment_fault_permille };
        let run = self.plan.runs.get(content.run.0 as usize);
        if let Some(key) = run.and_then(|run| run.targets.get(content.target.0 as usize)?.services) {
            agent.borrow_services(epoch, key);
        }
        let mut script = match &content.work {
            Work::Action => agent.script(&content, &[], &mut self.tries, permille),
            Work::Discover | Work::Cases { .. } => {
                let cases = &self.plan.runs[content.run.0 as usize].targets[content.target.0 as usize].cases;
                agent.script(&content, cases, &mut self.tries, permille)
            }
        };
        if matches!((&content.work, script.last()), (Work::Action, Some((_, Step::Stage(_))))) {
            script.extend(self.coordinator.room.script(&content));
        }
        let life = agent.life;
        let mut delay = Duration::ZERO;
        for (pause, step) in script {
            delay += pause;
            self.at(delay, Happening::Step { agent: position, life, epoch, step });
        }
    }

    fn execute(&mut self, position: usize, life: u64, epoch: Epoch, step: Step) {
        let now = self.now;
        let agent = &mut self.agents[position];
        if agent.life != life {
            return;
        }
        if agent.frozen_until > now {
            let later = agent.frozen_until.since(now);
            return self.at(later, Happening::Step { agent: position, life, epoch, step });
        }
        let killed = !agent.running.contains_key(&epoch) && !matches!(step, Step::Ended { .. });
        if killed {
            return;
        }
        let clock = agent.clock(now);
        let Some(machine) = &mut agent.machine else { return };
        match step {
            Step::Stage(stage) => {
                let is_action = agent.contents.get(&epoch).is_some_and(|content| content.work == Work::Action);
                let silence = now.since(agent.told);
                assert!(!is_action || silence <= lease_time(), "agent {} begins {epoch} after its lease", agent.id);
                machine.handle_event(clock, state::Event::StageReached { epoch, stage });
            }
            Step::Case { position, name } => {
                let silence = now.since(agent.told);
                assert!(silence <= lease_time(), "agent {} starts {name:?} long after its lease has run out", agent.id);
                agent.running.insert(epoch, Some(name));
                machine.handle_event(clock, state::Event::CaseStarted { epoch, position });
            }
            Step::Die => return self.kill(position),
            Step::Gone => {
                agent.delivering.insert(epoch);
                machine.handle_event(clock, state::Event::EnvironmentGone { epoch });
            }
            Step::End(end) => {
                agent.running.remove(&epoch);
                agent.delivering.remove(&epoch);
                agent.spool.insert(epoch, end);
                let delay = agent.some_time(0, 10);
                let step = Step::Ended { reported: true };
                return self.at(delay, Happening::Step { agent: position, life, epoch, step });
            }
            Step::Ended { reported } => {
                machine.handle_event(clock, state::Event::AttemptEnded { epoch, reported });
                agent.give_services_back(epoch);
                agent.groups.remove(&epoch);
            }
        }
        if let Some(machine) = &self.agents[position].machine {
            machine.assert_invariants();
        }
    }

    /// Looks at every outcome that has become durable since the last look.
    fn check_decisions(&mut self) {
        if self.coordinator.ledger.durable() == self.checked {
            return;
        }
        self.checked = self.coordinator.ledger.durable();
        let decided: Vec<(CaseName, CaseOutcome)> =
            self.coordinator.ledger.state().decided.iter().map(|(case, outcome)| (*case, *outcome)).collect();
        for (case, outcome) in decided {
            let run = &self.plan.runs[case.0.0 as usize];
            let target = &run.targets[case.1.0 as usize];
            let behaviour = target.cases[case.2.0 as usize].behaviour;
            let retries = target.retries.unwrap_or(run.policy.retries);
            let excuses = Excuses {
                losses: self.coordinator.losses.get(&case).copied().unwrap_or(0),
                cancelled: run.policy.fail_fast || self.cancelled.contains(&case.0),
                faults: self.plan.weather.environment_fault_permille > 0 || self.may_be_unschedulable(),
            };
            check_outcome(case, behaviour, retries, outcome, excuses);
        }
    }

    /// Whether there are moments with no agent for some target.
    fn may_be_unschedulable(&self) -> bool {
        let stormy = self.plan.weather.fault_every_ms != u64::MAX;
        let lonely = self.plan.agents.iter().any(|agent| agent.offer.properties.get("pool") == Some("b"));
        let agents = || self.plan.agents.iter();
        let needs_some = |target: &super::plan::PlannedTarget| {
            agents().any(|agent| agent.offer.satisfies(&target.requirements).is_err())
        };
        let picky = self.plan.runs.iter().any(|run| run.targets.iter().any(needs_some));
        stormy
            || lonely
            || picky
            || self.coordinator.room.has_losses()
            || self.plan.runs.iter().any(|run| run.targets.iter().any(|target| !target.cases.is_empty()))
                && !self.coordinator.losses.is_empty()
    }

    fn assert_rest(&self) {
        for agent in &self.agents {
            let Some(machine) = &agent.machine else { continue };
            let view = machine.view();
            assert_eq!((view.occupied, view.delivering), (0, 0), "I8: agent {} still runs something at rest", agent.id);
            assert_eq!((view.spooled, agent.spool.len()), (0, 0), "I8: agent {} still has reports", agent.id);
        }
        let open = &self.coordinator.ledger.state().open;
        assert!(open.is_empty(), "I8: the ledger still holds leases: {open:?}");
        self.assert_actions_rest();
    }

    fn at(&mut self, delay: Duration, happening: Happening) {
        self.ordinal += 1;
        self.queue.push(Reverse((self.now + delay, self.ordinal)));
        self.happenings.insert(self.ordinal, happening);
    }

    /// Some time from `low_ms` to `high_ms` from now.
    fn within(&mut self, low_ms: u64, high_ms: u64, happening: Happening) {
        let delay = Duration::from_micros(self.random.between(low_ms * 1000, high_ms * 1000));
        self.at(delay, happening);
    }

    fn sometimes(&mut self, what: &'static str) {
        *self.history.sometimes.entry(what).or_default() += 1;
    }

    fn note(&mut self, happening: &impl Debug) {
        let text = format!("{:>12} {happening:?}", self.now.0 / 1000);
        text.hash(&mut self.trace);
        if self.narrate {
            println!("{text}");
        }
    }
}

struct PlanView {
    slots: u32,
    offer: muster_model::platform::Offer,
}
