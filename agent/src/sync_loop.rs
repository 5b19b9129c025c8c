//! The one task that owns the machine: events in, commands out, and no decision of its own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use muster_agent_state::{Command, Desired, Event, Machine};
use muster_environment::KillSwitch;
use muster_model::attempt::{Assignment, AttemptReport, AttemptResult, Task, Timings, Usage};
use muster_model::outcome::FaultKind;
use muster_model::{Epoch, Instant};
use muster_proto::convert::{AgentHello, DesiredEntry};
use muster_proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::connection::Signal;
use crate::executor::{Executor, Progress, fault};
use crate::reports;
use crate::spool::Spool;

/// What the owner of an agent asks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Finish what runs, then leave.
    Drain,
    /// Leave now.
    Stop,
}

/// How long a leaving agent waits for the coordinator to take its last report.
const FAREWELL: Duration = Duration::from_secs(1);

/// Messages that wait for a coordinator that is slow to read.
const OUTBOX_MAX: usize = 64;

/// What the loop is made of.
pub(crate) struct Parts {
    pub(crate) machine: Machine,
    pub(crate) clock: Clock,
    pub(crate) hello: AgentHello,
    pub(crate) executor: Arc<Executor>,
    pub(crate) spool: Spool,
    pub(crate) restored: Vec<v1::AttemptReport>,
    pub(crate) progress: mpsc::Receiver<Progress>,
    pub(crate) signals: mpsc::Receiver<Signal>,
    pub(crate) control: mpsc::Receiver<Control>,
}

/// See the module.
pub(crate) struct SyncLoop {
    parts: Parts,
    /// What is waiting to start, and when it came.
    assignments: HashMap<Epoch, (Assignment, Instant)>,
    running: HashMap<Epoch, KillSwitch>,
    /// What is in the spool, to be sent again after a reconnect.
    finished: HashMap<Epoch, v1::AttemptReport>,
    /// Attempts whose reports need not outlive this process.
    unspooled: HashSet<Epoch>,
    /// The number of the last desired state on this connection.
    heard: u64,
    outgoing: Option<mpsc::Sender<v1::AgentReport>>,
    outbox: VecDeque<v1::AgentReport>,
    attempts: JoinSet<(Epoch, Option<v1::AttemptReport>)>,
    load: reports::LoadAverage,
    is_leaving: bool,
}

/// What woke the loop.
enum Woken {
    Signal(Option<Signal>),
    Progress(Option<Progress>),
    Ended(Epoch, Option<v1::AttemptReport>),
    Control(Control),
    Sent,
    Time,
}

impl SyncLoop {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            parts,
            assignments: HashMap::new(),
            running: HashMap::new(),
            finished: HashMap::new(),
            unspooled: HashSet::new(),
            heard: 0,
            outgoing: None,
            outbox: VecDeque::new(),
            attempts: JoinSet::new(),
            load: reports::LoadAverage::default(),
            is_leaving: false,
        }
    }

    /// Runs until the agent has left.
    pub(crate) async fn run(mut self) {
        let restored = std::mem::take(&mut self.parts.restored);
        let epochs = restored.iter().map(|report| Epoch(report.epoch)).collect();
        self.finished.extend(restored.into_iter().map(|report| (Epoch(report.epoch), report)));
        self.event(Event::SpoolRestored { epochs });
        loop {
            self.carry_out().await;
            if self.is_leaving {
                break;
            }
            match self.wait().await {
                Woken::Signal(Some(signal)) => self.on_signal(signal),
                Woken::Progress(Some(progress)) => self.on_progress(progress),
                Woken::Ended(epoch, report) => self.on_ended(epoch, report),
                Woken::Sent => {}
                Woken::Time => {
                    let now = self.parts.clock.now();
                    self.parts.machine.handle_timeout(now);
                }
                Woken::Control(Control::Drain) => self.event(Event::DrainRequested),
                Woken::Control(Control::Stop) | Woken::Signal(None) | Woken::Progress(None) => break,
            }
        }
        self.leave().await;
    }

    async fn wait(&mut self) -> Woken {
        let Self { parts, outgoing, outbox, attempts, .. } = self;
        let due = parts.machine.poll_timeout().map(|at| parts.clock.moment(at));
        let sending = async {
            match outgoing {
                Some(outgoing) if !outbox.is_empty() => outgoing.reserve().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            control = parts.control.recv() => Woken::Control(control.unwrap_or(Control::Stop)),
            signal = parts.signals.recv() => Woken::Signal(signal),
            Some(ended) = attempts.join_next() => match ended {
                Ok((epoch, report)) => Woken::Ended(epoch, report),
                // Attempts catch their own panics, so this one was aborted, which only `leave` does.
                Err(_) => Woken::Sent,
            },
            progress = parts.progress.recv() => Woken::Progress(progress),
            permit = sending => {
                if let (Ok(permit), Some(report)) = (permit, outbox.pop_front()) {
                    permit.send(report);
                } else {
                    // The stream broke; the connection says so next.
                    outbox.clear();
                }
                Woken::Sent
            }
            () = sleep_until(due) => Woken::Time,
        }
    }

    fn event(&mut self, event: Event) {
        let now = self.parts.clock.now();
        self.parts.machine.handle_event(now, event);
    }

    fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Opened(outgoing) => {
                self.outgoing = Some(outgoing);
                self.outbox.clear();
                self.event(Event::Connected);
            }
            Signal::Received(state) => self.on_desired(&state),
            Signal::Closed => {
                self.outgoing = None;
                self.heard = 0;
                self.outbox.clear();
                self.event(Event::Disconnected);
            }
        }
    }

    fn on_desired(&mut self, state: &v1::DesiredState) {
        let now = self.parts.clock.now();
        let mut attempts = Vec::with_capacity(state.attempts.len());
        for wire in &state.attempts {
            let (epoch, recall) = (Epoch(wire.epoch), wire.recall);
            let mut desired = Desired { epoch, recall, carries_assignment: false, slots: 0 };
            match DesiredEntry::try_from(wire) {
                Ok(DesiredEntry { assignment: Some(assignment), .. }) => {
                    desired.carries_assignment = true;
                    desired.slots = assignment.slots();
                    self.assignments.entry(desired.epoch).or_insert((assignment, now));
                }
                Ok(_) => {}
                Err(error) => tracing::error!(epoch = wire.epoch, %error, "an assignment makes no sense"),
            }
            attempts.push(desired);
        }
        let acknowledged = state.acknowledged.iter().copied().map(Epoch).collect();
        let lease = Duration::from_millis(state.lease_ms);
        self.heard = state.number;
        self.event(Event::DesiredReceived { attempts, acknowledged, lease });
    }

    fn on_progress(&mut self, progress: Progress) {
        match progress {
            Progress::Stage(epoch, stage) => self.event(Event::StageReached { epoch, stage }),
            Progress::Case(epoch, position) => self.event(Event::CaseStarted { epoch, position }),
            Progress::EnvironmentGone(epoch) => self.event(Event::EnvironmentGone { epoch }),
        }
    }

    fn on_ended(&mut self, epoch: Epoch, report: Option<v1::AttemptReport>) {
        self.running.remove(&epoch);
        let reported = report.is_some();
        if !reported {
            self.unspooled.remove(&epoch);
        }
        self.finished.extend(report.map(|report| (epoch, report)));
        self.event(Event::AttemptEnded { epoch, reported });
    }

    async fn carry_out(&mut self) {
        while let Some(command) = self.parts.machine.poll_command() {
            match command {
                Command::Start { epoch } => self.start(epoch),
                Command::Kill { epoch } => {
                    if let Some(switch) = self.running.get(&epoch) {
                        switch.pull();
                    }
                }
                Command::Return { epoch } => self.give_back(epoch),
                Command::Report => self.report(),
                Command::Forget { epoch } => {
                    self.finished.remove(&epoch);
                    if !self.unspooled.remove(&epoch) {
                        self.parts.spool.forget(epoch).await;
                    }
                }
                Command::Leave => self.is_leaving = true,
            }
        }
        let machine = &self.parts.machine;
        self.assignments.retain(|&epoch, _| machine.awaits_start(epoch));
    }

    fn start(&mut self, epoch: Epoch) {
        let Some((assignment, received)) = self.assignments.remove(&epoch) else {
            // The machine starts only what came with its assignment, which is kept as long as it waits.
            return self.give_back(epoch);
        };
        let switch = KillSwitch::default();
        self.running.insert(epoch, switch.clone());
        let waited = self.parts.clock.now().since(received);
        let executor = Arc::clone(&self.parts.executor);
        // What becomes of an action may be lost with this process: nobody was promised that it lasts.
        let is_lasting = matches!(assignment.task, Task::Shard(_));
        let spool = is_lasting.then(|| self.parts.spool.clone());
        if !is_lasting {
            self.unspooled.insert(epoch);
        }
        self.attempts.spawn(async move {
            let work = {
                let switch = switch.clone();
                tokio::spawn(async move { executor.execute(&assignment, waited, &switch).await })
            };
            let report = match work.await {
                Ok(report) => report,
                Err(error) => {
                    tracing::error!(%epoch, %error, "an attempt failed inside the agent");
                    let message = format!("the agent failed: {error}");
                    (!switch.is_pulled()).then(|| fault_report(epoch, FaultKind::Environment, message))
                }
            };
            (epoch, spooled(spool.as_ref(), report).await)
        });
    }

    fn give_back(&mut self, epoch: Epoch) {
        let spool = self.parts.spool.clone();
        self.attempts.spawn(async move {
            let report = fault_report(epoch, FaultKind::Returned, "given back unstarted".to_owned());
            (epoch, spooled(Some(&spool), Some(report)).await)
        });
    }

    fn report(&mut self) {
        let (statuses, sent) = self.parts.machine.report();
        let mut report = v1::AgentReport {
            attempts: statuses.iter().map(Into::into).collect(),
            draining: self.parts.machine.view().draining,
            load_milli: self.load.read(self.parts.clock.now()),
            services: self.parts.executor.services.warm(),
            ending: self.parts.machine.ending().map(|epoch| epoch.0).collect(),
            heard: self.heard,
            ..v1::AgentReport::default()
        };
        self.parts.hello.write_into(&mut report);
        // A state replaces an older one that is still waiting, unless that one carries finished reports.
        self.outbox.pop_back_if(|waiting| waiting.finished.is_empty());
        let finished = sent.iter().filter_map(|epoch| self.finished.get(epoch).cloned());
        for message in reports::split(report, finished) {
            // Beyond this the coordinator does not read; what it misses is sent again when it is not acknowledged.
            if self.outbox.len() < OUTBOX_MAX {
                self.outbox.push_back(message);
            }
        }
    }

    /// Ends everything: what still runs is killed, and its places are cleaned before this returns. A drained agent says goodbye.
    async fn leave(mut self) {
        for switch in self.running.values() {
            switch.pull();
        }
        self.parts.progress.close();
        while self.attempts.join_next().await.is_some() {}
        self.parts.executor.services.stop().await;
        self.parts.spool.flush().await;
        if !self.is_leaving {
            return;
        }
        if let Some(outgoing) = self.outgoing.take() {
            let farewell = async {
                for report in self.outbox.drain(..) {
                    let _ = outgoing.send(report).await;
                }
                drop(outgoing);
                while !matches!(self.parts.signals.recv().await, None | Some(Signal::Closed)) {}
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
    }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Writes a report to the spool, if it has to last, before anybody hears of it.
async fn spooled(spool: Option<&Spool>, report: Option<AttemptReport>) -> Option<v1::AttemptReport> {
    let report = reports::fit(report?);
    let Some(spool) = spool else { return Some(report) };
    if let Err(error) = spool.store(&report).await {
        // The verdict is worth more than the promise that it survives this process.
        tracing::error!(epoch = report.epoch, %error, "a report could not be spooled and is kept in memory only");
    }
    Some(report)
}

fn fault_report(epoch: Epoch, kind: FaultKind, message: String) -> AttemptReport {
    let result = AttemptResult::Fault(fault(kind, message));
    AttemptReport { epoch, result, timings: Timings::default(), usage: Usage::default() }
}
