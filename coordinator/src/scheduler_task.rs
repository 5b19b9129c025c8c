//! The one task that owns the scheduler.
//!
//! A loop without decisions: something happened or a time has come, the scheduler is told, its commands are carried out. A command is a record
//! for the ledger, an effect, or both. Records are appended at once and become durable in groups; an effect waits until every record before it is
//! durable, while the loop goes on, so that a commit of some milliseconds is nobody's pause.

mod actions;
mod commands;
mod finish;
mod planned;
mod restore;
mod status;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use muster_cache::ActionCache;
use muster_model::attempt::{AttemptReport, AttemptResult, AttemptStatus, DiscoveredCase};
use muster_model::key::{ActionKey, services_key};
use muster_model::{ActionId, AgentId, Epoch, RunId, TargetIndex, limits};
use muster_proto::convert::AgentHello;
use muster_proto::v1;
use muster_scheduler::{AttemptEnd, CaseEnd, DiscoveryTries, Event, Scheduler, SchedulingPolicy, TargetSeed};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::actions::{Actions, SubmittedAction};
use crate::agents::{Agents, ConnectionNumber, DesiredSender, Offered};
use crate::clock::Clock;
use crate::counters::{Counters, Kind};
use crate::effects::{Effect, Effects};
use crate::ledger::{Ledger, Record, Ticket};
use crate::open_run::{OpenRun, PreparedRun};
use crate::planning::{Plan, plan};
use crate::result_cache::CacheMessage;
use crate::watchers::Watchers;
use crate::words::KeptReport;
use actions::OpenActions;

/// Counters are written when the loop ticks this many times.
const TICKS_PER_COUNTERS: u32 = 10;

/// What an agent said.
#[derive(Debug)]
pub(crate) struct AgentNews {
    pub(crate) draining: bool,
    pub(crate) load_milli: u32,
    /// What it keeps running for nobody.
    pub(crate) services: Vec<v1::WarmServices>,
    /// The number of the last desired state that it has taken in.
    pub(crate) heard: u64,
    /// Attempts that it should not have and that are not dead yet.
    pub(crate) ending: BTreeSet<Epoch>,
    pub(crate) attempts: Vec<AttemptStatus>,
    pub(crate) finished: Vec<AttemptReport>,
}

/// Something that happened outside.
pub(crate) enum Input {
    /// An agent opened a stream, or described itself anew on it.
    AgentConnected { hello: AgentHello, connection: ConnectionNumber, desired: DesiredSender },
    /// An agent said something.
    AgentReported { agent: AgentId, connection: ConnectionNumber, news: AgentNews },
    /// A stream ended.
    AgentDisconnected { agent: AgentId, connection: ConnectionNumber },
    /// A run is in the ledger. The discoveries that are cached come with it, by position.
    RunAccepted { run: Box<PreparedRun>, discovered: Vec<Option<Vec<DiscoveredCase>>> },
    /// It is known what will be reported of a target.
    TargetPlanned { run: RunId, target: TargetIndex, plan: Plan },
    /// Somebody cancelled a run; the answer is sent when that is durable, and dropped when the run is not open.
    RunCancelled { run: RunId, answer: oneshot::Sender<()> },
    /// An action is to be run.
    ActionSubmitted(Box<SubmittedAction>),
    /// Nobody waits for an action any more.
    ActionCancelled(ActionId),
    /// Somebody asks what the fleet is doing.
    StatusAsked(oneshot::Sender<v1::FleetStatusResponse>),
}

/// What the task works with.
pub(crate) struct Surroundings {
    pub(crate) ledger: Ledger,
    pub(crate) actions: Arc<dyn ActionCache>,
    pub(crate) results: mpsc::UnboundedSender<CacheMessage>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) watchers: Watchers,
    pub(crate) room: Arc<Actions>,
    pub(crate) offers: watch::Sender<Arc<Vec<Offered>>>,
    /// Where planned targets come back.
    pub(crate) inputs: mpsc::WeakSender<Input>,
    pub(crate) clock: Clock,
}

/// The task's state.
pub(crate) struct SchedulerTask {
    surroundings: Surroundings,
    scheduler: Scheduler,
    agents: Agents,
    runs: HashMap<RunId, OpenRun>,
    run_of_epoch: BTreeMap<Epoch, RunId>,
    /// Reports whose commands are being carried out.
    reports: HashMap<Epoch, KeptReport>,
    actions: OpenActions,
    effects: Effects,
    last_ticket: Ticket,
    durable: Ticket,
    offers_changed: bool,
}

impl SchedulerTask {
    /// A task over a scheduler that knows nothing yet.
    pub(crate) fn new(surroundings: Surroundings, config: muster_scheduler::Config) -> Self {
        let (generation, first_epoch) = (surroundings.ledger.generation(), surroundings.ledger.first_epoch());
        Self {
            scheduler: Scheduler::new(config, first_epoch),
            agents: Agents::new(generation, config.lease_time),
            surroundings,
            runs: HashMap::new(),
            run_of_epoch: BTreeMap::new(),
            reports: HashMap::new(),
            actions: OpenActions::default(),
            effects: Effects::default(),
            last_ticket: Ticket::default(),
            durable: Ticket::default(),
            offers_changed: false,
        }
    }

    /// Runs until it is stopped or the ledger fails.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut stop: oneshot::Receiver<()>) {
        let mut durable = self.surroundings.ledger.durable();
        let mut ticks = interval(limits::REPORT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick_count: u32 = 0;
        let mut batch = Vec::new();
        self.settle();
        loop {
            let timeout = self.scheduler.poll_timeout().map(|due| self.surroundings.clock.deadline(due));
            tokio::select! {
                biased;
                changed = durable.changed() => {
                    if changed.is_err() {
                        // Nothing can be promised any more; agents keep what they hold for the next start.
                        return;
                    }
                    self.durable = *durable.borrow_and_update();
                }
                received = inputs.recv_many(&mut batch, limits::SCHEDULER_INPUTS_MAX) => {
                    if received == 0 {
                        break;
                    }
                    for input in batch.drain(..) {
                        self.take(input);
                    }
                }
                _ = &mut stop => break,
                () = sleep_until(timeout) => {
                    self.scheduler.handle_timeout(self.surroundings.clock.now());
                    self.carry_out();
                }
                _ = ticks.tick() => {
                    self.agents.change_all();
                    tick_count = tick_count.wrapping_add(1);
                    if tick_count.is_multiple_of(TICKS_PER_COUNTERS) {
                        self.write_counters();
                    }
                }
            }
            self.settle();
        }
        self.write_counters();
        if let Ok(()) = self.surroundings.ledger.wait(self.last_ticket).await {
            self.durable = self.last_ticket;
            self.settle();
        }
    }

    /// Lets happen what may, and tells agents what has changed for them.
    fn settle(&mut self) {
        while let Some(effect) = self.effects.pop(self.durable) {
            self.perform(effect);
        }
        while let Some(effect) = self.actions.pop_effect(self.durable) {
            self.perform(effect);
        }
        self.agents.send_changed();
        if std::mem::take(&mut self.offers_changed) {
            self.surroundings.offers.send_replace(Arc::new(self.agents.offers()));
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::AgentConnected { hello, connection, desired } => self.connect(hello, connection, desired),
            Input::AgentReported { agent, connection, news } => {
                if self.agents.is_current(agent, connection) {
                    self.note_news(agent, news);
                }
            }
            Input::AgentDisconnected { agent, connection } => {
                if self.agents.is_current(agent, connection) {
                    self.agents.disconnect(agent);
                    self.offers_changed = true;
                    self.tell(Event::AgentDisconnected { agent });
                }
            }
            Input::RunAccepted { run, discovered } => self.open(*run, discovered),
            Input::TargetPlanned { run, target, plan } => self.take_plan(run, target, plan),
            Input::RunCancelled { run, answer } => self.cancel(run, answer),
            Input::ActionSubmitted(submitted) => self.submit_action(*submitted),
            Input::ActionCancelled(action) => self.tell(Event::ActionCancelled { action }),
            // Who asked may have gone.
            Input::StatusAsked(answer) => drop(answer.send(self.status())),
        }
    }

    /// Tells the scheduler and carries out what it answers.
    fn tell(&mut self, event: Event) {
        self.scheduler.handle_event(self.surroundings.clock.now(), event);
        self.carry_out();
    }

    fn connect(&mut self, hello: AgentHello, connection: ConnectionNumber, desired: DesiredSender) {
        if !self.agents.has_room_for(hello.agent) {
            tracing::warn!(agent = hello.name, "turned away: {} agents are known already", limits::AGENTS_MAX);
            return;
        }
        tracing::info!(agent = hello.name, slots = hello.slots, "agent connected");
        let event = Event::AgentConnected { agent: hello.agent, slots: hello.slots, offer: hello.offer.clone() };
        self.agents.connect(self.surroundings.clock.now(), hello, connection, desired);
        self.offers_changed = true;
        self.tell(event);
    }

    fn note_news(&mut self, agent: AgentId, news: AgentNews) {
        let AgentNews { draining, load_milli, services, heard, ending, attempts, finished } = news;
        for report in finished {
            self.finish_attempt(agent, report);
        }
        let now = self.surroundings.clock.now();
        let (changed, vacated) =
            self.agents.note_report(now, agent, draining, load_milli, attempts.clone(), (heard, &ending));
        self.offers_changed |= changed;
        for epoch in vacated {
            self.tell(Event::AttemptVacated { agent, epoch });
        }
        let warm = services.iter().filter_map(|services| ActionKey::from_hex(&services.key)).collect();
        self.agents.note_services(agent, services);
        self.tell(Event::AgentReported { agent, draining, attempts, warm });
    }

    fn finish_attempt(&mut self, agent: AgentId, report: AttemptReport) {
        let (epoch, end) = (report.epoch, end_of(&report.result));
        let usage = report.usage;
        let kept = KeptReport::new(report);
        self.keep_failures(epoch, &kept);
        self.reports.insert(epoch, kept);
        self.tell(Event::AttemptFinished { agent, epoch, end });
        if self.reports.remove(&epoch).is_some() {
            let counters = &self.surroundings.counters;
            counters.add_bytes(Kind::BlobDownload, usage.reused_bytes, usage.fetched_bytes);
        }
    }

    /// Keeps the words of failures, for as long as their cases are not decided.
    fn keep_failures(&mut self, epoch: Epoch, kept: &KeptReport) {
        let run = self.run_of_epoch.get(&epoch).and_then(|run| self.runs.get_mut(run));
        let Some(run) = run else { return };
        let Some(target) = run.leases.get(&epoch).map(|lease| lease.target) else { return };
        for report in kept.cases() {
            if !report.verdict.is_success() && !run.is_decided(target, report.case) {
                run.failures.insert((target, report.case), report.clone());
            }
        }
    }

    fn open(&mut self, prepared: PreparedRun, mut discovered: Vec<Option<Vec<DiscoveredCase>>>) {
        discovered.resize_with(prepared.targets.len(), || None);
        let (id, event) = (prepared.run, submitted(&prepared, |target| discovered[target].is_none(), &HashMap::new()));
        let started = v1::RunStarted {
            run: id.0,
            project: prepared.project.clone(),
            targets: prepared.targets.iter().map(|target| target.spec.name.clone()).collect(),
        };
        self.runs.insert(id, OpenRun::new(prepared, 0));
        self.publish(id, v1::run_event::Event::RunStarted(started));
        self.tell(event);
        for (target, discovered) in discovered.into_iter().enumerate() {
            if let Some(discovered) = discovered {
                self.plan_target(id, TargetIndex(target as u32), discovered);
            }
        }
    }

    /// Starts to apply filters, history and cache; what comes of it is an input.
    fn plan_target(&mut self, run: RunId, target: TargetIndex, discovered: Vec<DiscoveredCase>) {
        let Some(open) = self.runs.get(&run) else { return };
        let Some(prepared) = open.target(target).map(|target| target.prepared.clone()) else { return };
        let policy = open.policy.clone();
        let Surroundings { ledger, actions, counters, inputs, .. } = &self.surroundings;
        let (ledger, actions, counters) = (ledger.clone(), actions.clone(), counters.clone());
        let inputs = inputs.clone();
        tokio::spawn(async move {
            let plan = plan(&ledger, &*actions, &counters, &prepared, &policy, discovered).await;
            if let Some(inputs) = inputs.upgrade() {
                // A task that has stopped plans again after its next start.
                let _ = inputs.send(Input::TargetPlanned { run, target, plan }).await;
            }
        });
    }

    fn cancel(&mut self, run: RunId, answer: oneshot::Sender<()>) {
        if self.runs.contains_key(&run) {
            self.append(Record::Cancelled(run));
            self.tell(Event::RunCancelled { run });
            self.effect(Effect::Answer(answer));
        }
    }

    fn append(&mut self, record: Record) {
        self.last_ticket = self.surroundings.ledger.append(record);
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push(self.last_ticket, effect);
    }

    /// Adds an event to a run: durable first, then for watchers. Returns its sequence number.
    fn publish(&mut self, run: RunId, event: v1::run_event::Event) -> u64 {
        let sequence = self.record_event(run, event);
        self.effect(Effect::Publish { run, sequence });
        sequence
    }

    /// Adds an event to a run without telling watchers yet.
    fn record_event(&mut self, run: RunId, event: v1::run_event::Event) -> u64 {
        let (sequence, record) = self.event_record(run, event);
        if let Some(record) = record {
            self.append(record);
        }
        sequence
    }

    /// What adds an event to a run, which has to be appended, and the event's number.
    fn event_record(&mut self, run: RunId, event: v1::run_event::Event) -> (u64, Option<Record>) {
        let (sequence, event) = self.number_event(run, event);
        (sequence, (sequence > 0).then_some(Record::Event { run, sequence, event }))
    }

    /// An event as the ledger keeps it, with its number, which is 0 when the run is not open.
    fn number_event(&mut self, run: RunId, event: v1::run_event::Event) -> (u64, Vec<u8>) {
        let Some(open) = self.runs.get_mut(&run) else { return (0, Vec::new()) };
        open.last_sequence += 1;
        let sequence = open.last_sequence;
        let event = v1::RunEvent { sequence, at_unix_ms: self.surroundings.clock.unix_ms(), event: Some(event) };
        (sequence, event.encode_to_vec())
    }

    fn perform(&mut self, effect: Effect) {
        let now = self.surroundings.clock.now();
        match effect {
            Effect::Assign { agent, assignment } => self.agents.assign(now, agent, assignment),
            Effect::Recall { agent, epoch } => self.agents.recall(now, agent, epoch),
            Effect::Withdraw { agent, epoch } => self.agents.withdraw(now, agent, epoch),
            Effect::Acknowledge { agent, epoch } => self.agents.acknowledge(now, agent, epoch),
            Effect::Publish { run, sequence } => self.surroundings.watchers.publish(run, sequence),
            // The task that keeps results ends after this one.
            Effect::Cache(key, record) => drop(self.surroundings.results.send(CacheMessage::Put(key, record))),
            Effect::Finish { run, event } => self.announce_finish(run, event),
            Effect::Answer(answer) => drop(answer.send(())),
        }
    }

    fn write_counters(&mut self) {
        self.append(Record::Counters(self.surroundings.counters.to_rows()));
    }
}

/// How an attempt ended, without its words.
fn end_of(result: &AttemptResult) -> AttemptEnd {
    match result {
        AttemptResult::Discovered { .. } => AttemptEnd::Discovered,
        AttemptResult::DiscoveryFailed { .. } => AttemptEnd::DiscoveryFailed,
        AttemptResult::Ran { reports, interruption, leaked_in_company } => AttemptEnd::Ran {
            cases: reports
                .iter()
                .map(|report| CaseEnd {
                    case: report.case,
                    verdict: report.verdict,
                    duration: report.duration,
                    never_retry: report.never_retry,
                    leaked: report.leaked,
                })
                .collect(),
            interruption: *interruption,
            leaked_in_company: *leaked_in_company,
        },
        AttemptResult::ActionRan(report) => AttemptEnd::ActionRan { duration: report.elapsed },
        AttemptResult::Fault(fault) => AttemptEnd::Fault(fault.kind),
    }
}

/// What the scheduler is told of a run.
fn submitted(
    run: &PreparedRun,
    needs_discovery: impl Fn(usize) -> bool,
    discovery_tries: &HashMap<TargetIndex, DiscoveryTries>,
) -> Event {
    let targets = run.targets.iter().enumerate().map(|(target, prepared)| TargetSeed {
        requirements: prepared.spec.requirements.clone(),
        needs_discovery: needs_discovery(target),
        retries: prepared.spec.policy.retries,
        services: (!prepared.spec.services.is_empty()).then(|| services_key(&prepared.spec)),
        discovery_tries: discovery_tries.get(&TargetIndex(target as u32)).copied().unwrap_or_default(),
    });
    Event::RunSubmitted {
        run: run.run,
        policy: SchedulingPolicy {
            isolation: run.policy.isolation,
            retries: run.policy.retries,
            fail_fast: run.policy.fail_fast,
        },
        targets: targets.collect(),
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
