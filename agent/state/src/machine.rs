//! The state machine.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::time::Duration;

use muster_model::attempt::{AttemptStatus, Stage};
use muster_model::limits;
use muster_model::{Epoch, Instant};

use crate::memory::{Ended, Memory};
use crate::{Command, Config, Desired, Event};

/// Where an attempt is, in more detail than the wire's [`Stage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In the queue.
    Waiting,
    /// Never to be started; the report that says so is being written.
    Returning,
    /// In a slot. The stage is `Fetching` or `Running`.
    Started { stage: Stage, running: Option<u32> },
    /// Out of its slot: its environment is gone, and what it made is on its way.
    Delivering,
    /// Not ours any more: it is not listed, and ends without a report. Given back after that if wanted. It keeps the slot that it has.
    Killing { wanted: bool, in_slot: bool },
    /// In the spool.
    Finished { sent: Option<Instant> },
}

/// What the machine holds, for people and tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Attempts at one time.
    pub slots: u32,
    /// Slots in use, those of killed attempts that have not ended yet included.
    pub occupied: u32,
    /// Attempts that are out of their slots and not at their end, killed ones included.
    pub delivering: u32,
    /// Attempts that have not started.
    pub waiting: u32,
    /// Reports that are not acknowledged.
    pub spooled: u32,
    /// Takes no new work.
    pub draining: bool,
    /// A stream to the coordinator is open.
    pub connected: bool,
}

/// The agent's decisions. See the crate's documentation for its rules.
#[derive(Debug)]
pub struct Machine {
    config: Config,
    now: Instant,
    attempts: BTreeMap<Epoch, Phase>,
    /// In the order received; holds exactly the attempts in [`Phase::Waiting`].
    queue: VecDeque<Epoch>,
    /// Slots that attempts take which wait or are in slots, where that is more than one.
    wide: BTreeMap<Epoch, u32>,
    memory: Memory,
    occupied: u32,
    delivering: u32,
    /// Started attempts whose environments are gone; they leave their slots when not too many others deliver.
    over: BTreeSet<Epoch>,
    spooled: usize,
    connected: bool,
    /// When the coordinator was last heard, and the lease it spoke of.
    heard: Option<(Instant, Duration)>,
    draining: bool,
    /// The coordinator was told that this agent drains, and has spoken since.
    drain_heard: bool,
    drain_reported: bool,
    left: bool,
    /// When the next report is due, if the coordinator can be reached.
    report_due: Instant,
    last_report: Option<Instant>,
    commands: VecDeque<Command>,
}

impl Machine {
    /// A machine that holds nothing and is not connected.
    pub fn new(mut config: Config) -> Self {
        config.slots = config.slots.clamp(1, limits::SLOTS_PER_AGENT_MAX);
        Self {
            config,
            now: Instant::default(),
            attempts: BTreeMap::new(),
            queue: VecDeque::new(),
            wide: BTreeMap::new(),
            memory: Memory::default(),
            occupied: 0,
            delivering: 0,
            over: BTreeSet::new(),
            spooled: 0,
            connected: false,
            heard: None,
            draining: false,
            drain_heard: false,
            drain_reported: false,
            left: false,
            report_due: Instant::default(),
            last_report: None,
            commands: VecDeque::new(),
        }
    }

    /// Takes in what has happened. `now` never goes back.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::SpoolRestored { epochs } => {
                for epoch in epochs.into_iter().filter(|epoch| !self.attempts.contains_key(epoch)).collect::<Vec<_>>() {
                    self.finish(epoch);
                }
            }
            Event::Connected => self.on_connected(),
            Event::Disconnected => self.connected = false,
            Event::DesiredReceived { attempts, acknowledged, lease } => {
                let lease = if lease.is_zero() { limits::LEASE_TIME } else { lease };
                self.heard = Some((self.now, lease));
                self.drain_heard |= self.drain_reported;
                self.on_desired(&attempts, &acknowledged);
            }
            Event::StageReached { epoch, stage } => self.on_stage(epoch, stage),
            Event::CaseStarted { epoch, position } => self.on_case(epoch, position),
            Event::EnvironmentGone { epoch } => self.on_environment_gone(epoch),
            Event::AttemptEnded { epoch, reported } => self.on_ended(epoch, reported),
            Event::DrainRequested => self.on_drain(),
        }
        self.settle();
    }

    /// Takes in that time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.fence_time().is_some_and(|at| self.now >= at) {
            self.fence();
        }
        if self.resend_time().is_some_and(|at| self.now >= at) {
            self.report_due = self.now;
        }
        self.settle();
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        if let Some(command) = self.commands.pop_front() {
            return Some(command);
        }
        if self.connected && self.now >= self.report_due {
            self.report_due = self.now + limits::REPORT_INTERVAL;
            self.last_report = Some(self.now);
            self.drain_reported |= self.draining;
            return Some(Command::Report);
        }
        if self.may_leave() {
            self.left = true;
            return Some(Command::Leave);
        }
        None
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let report = self.connected.then_some(self.report_due);
        [report, self.fence_time(), self.resend_time()].into_iter().flatten().min()
    }

    /// What goes into the report that [`Command::Report`] asked for: every attempt held, and the finished ones whose reports are to be
    /// sent along, which are taken to be sent by this.
    pub fn report(&mut self) -> (Vec<AttemptStatus>, Vec<Epoch>) {
        let now = self.now;
        let mut statuses = Vec::with_capacity(self.attempts.len());
        let mut finished = Vec::new();
        for (&epoch, phase) in &mut self.attempts {
            let (stage, running) = match phase {
                Phase::Waiting | Phase::Returning => (Stage::Waiting, None),
                Phase::Started { stage, running } => (*stage, *running),
                Phase::Delivering => (Stage::Uploading, None),
                Phase::Killing { .. } => continue,
                Phase::Finished { sent } => {
                    if sent.is_none_or(|at| now >= at + limits::REPORT_RESEND_INTERVAL) {
                        *sent = Some(now);
                        finished.push(epoch);
                    }
                    (Stage::Finished, None)
                }
            };
            statuses.push(AttemptStatus { epoch, stage, running });
        }
        #[cfg(feature = "planted-bugs")]
        if self.config.planted == Some(crate::PlantedBug::ForgetBeforeAcknowledged) {
            for &epoch in &finished {
                self.acknowledge(epoch);
            }
        }
        (statuses, finished)
    }

    /// Whether this attempt has not started and may: its assignment has to be kept.
    pub fn awaits_start(&self, epoch: Epoch) -> bool {
        self.attempts.get(&epoch) == Some(&Phase::Waiting)
    }

    /// Attempts in slots that are not ours any more: they are not listed, and end without a report.
    pub fn ending(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.attempts.iter().filter(|(_, phase)| matches!(phase, Phase::Killing { .. })).map(|(&epoch, _)| epoch)
    }

    /// The slots that an attempt takes.
    fn slots_of(&self, epoch: Epoch) -> u32 {
        self.wide.get(&epoch).copied().unwrap_or(1)
    }

    /// What is held.
    pub fn view(&self) -> View {
        View {
            slots: self.config.slots,
            occupied: self.occupied,
            delivering: self.delivering,
            waiting: u32::try_from(self.queue.len()).unwrap_or(u32::MAX),
            spooled: u32::try_from(self.spooled).unwrap_or(u32::MAX),
            draining: self.draining,
            connected: self.connected,
        }
    }

    /// Panics when the machine has broken a promise to itself; for simulations and tests, after every event.
    ///
    /// # Panics
    ///
    /// With the promise that was broken.
    pub fn assert_invariants(&self) {
        let count = |wanted: fn(&Phase) -> bool| self.attempts.values().filter(|phase| wanted(phase)).count();
        let is_in_slots = |phase: &Phase| matches!(phase, Phase::Started { .. } | Phase::Killing { in_slot: true, .. });
        let in_slots = self.attempts.iter().filter(|(_, phase)| is_in_slots(phase));
        let occupied: u32 = in_slots.map(|(&epoch, _)| self.slots_of(epoch)).sum();
        assert_eq!(occupied, self.occupied, "slots in use are counted right");
        for epoch in self.wide.keys() {
            let phase = self.attempts.get(epoch);
            assert!(phase.is_some_and(|phase| *phase == Phase::Waiting || is_in_slots(phase)), "slots are of use");
        }
        assert!(self.occupied <= self.config.slots, "no agent above its slots");
        let delivering = count(|phase| matches!(phase, Phase::Delivering | Phase::Killing { in_slot: false, .. }));
        assert_eq!(delivering, self.delivering as usize, "deliveries are counted right");
        assert!(self.delivering <= self.config.slots, "no more deliveries than slots");
        for epoch in &self.over {
            let phase = self.attempts.get(epoch);
            assert!(matches!(phase, Some(Phase::Started { .. })), "what is over is still in its slot");
        }
        assert_eq!(count(|phase| matches!(phase, Phase::Finished { .. })), self.spooled, "the spool is counted right");
        let queued: BTreeSet<Epoch> = self.queue.iter().copied().collect();
        assert_eq!(queued.len(), self.queue.len(), "nothing waits twice");
        assert_eq!(count(|phase| *phase == Phase::Waiting), self.queue.len(), "what waits is in the queue");
        for epoch in &self.queue {
            assert_eq!(self.attempts.get(epoch), Some(&Phase::Waiting), "what is in the queue waits");
        }
        for (epoch, phase) in &self.attempts {
            let may_have_ended = matches!(phase, Phase::Returning | Phase::Finished { .. });
            assert!(may_have_ended || self.memory.recall(*epoch).is_none(), "an ended epoch is never taken on again");
        }
        let in_hands = (self.occupied, self.delivering, self.spooled);
        assert!(!self.left || in_hands == (0, 0, 0), "it leaves with nothing in its hands");
    }

    fn on_connected(&mut self) {
        self.connected = true;
        self.drain_reported = false;
        self.report_due = self.now;
        for phase in self.attempts.values_mut() {
            if let Phase::Finished { sent } = phase {
                *sent = None;
            }
        }
    }

    fn on_desired(&mut self, desired: &[Desired], acknowledged: &[Epoch]) {
        for &epoch in acknowledged {
            self.acknowledge(epoch);
        }
        let wanted: BTreeSet<Epoch> = desired.iter().map(|desired| desired.epoch).collect();
        self.withdraw(|epoch| !wanted.contains(&epoch));
        for desired in desired {
            match self.attempts.get(&desired.epoch) {
                None => self.take_on(desired),
                Some(Phase::Waiting) if desired.recall => self.give_back(desired.epoch),
                #[cfg(feature = "planted-bugs")]
                Some(Phase::Started { .. })
                    if desired.recall && self.config.planted == Some(crate::PlantedBug::ReturnStarted) =>
                {
                    self.commands.push_back(Command::Return { epoch: desired.epoch });
                }
                Some(&Phase::Killing { in_slot, .. }) => {
                    self.attempts.insert(desired.epoch, Phase::Killing { wanted: true, in_slot });
                }
                Some(_) => {}
            }
        }
    }

    fn take_on(&mut self, desired: &Desired) {
        let epoch = desired.epoch;
        let ended = self.memory.recall(epoch);
        #[cfg(feature = "planted-bugs")]
        let ended = ended.filter(|_| self.config.planted != Some(crate::PlantedBug::StartEndedAgain));
        match ended {
            Some(Ended::Acknowledged) => return,
            Some(Ended::Unreported) => return self.give_back(epoch),
            None if !desired.carries_assignment || self.attempts.len() >= limits::SPOOL_ATTEMPTS_MAX => return,
            None => {}
        }
        if self.draining || desired.recall {
            return self.give_back(epoch);
        }
        self.attempts.insert(epoch, Phase::Waiting);
        let slots = desired.slots.min(self.config.slots);
        #[cfg(feature = "planted-bugs")]
        let slots = if self.config.planted == Some(crate::PlantedBug::WideTakesOneSlot) { 1 } else { slots };
        if slots > 1 {
            self.wide.insert(epoch, slots);
        }
        self.queue.push_back(epoch);
        self.report_due = self.now;
    }

    /// Has a report written that says that the attempt was not started here and never will be.
    fn give_back(&mut self, epoch: Epoch) {
        self.queue.retain(|&waiting| waiting != epoch);
        self.wide.remove(&epoch);
        self.attempts.insert(epoch, Phase::Returning);
        self.commands.push_back(Command::Return { epoch });
    }

    /// Kills or drops what is held, unfinished and `unwanted`.
    fn withdraw(&mut self, unwanted: impl Fn(Epoch) -> bool) {
        let mut dropped = Vec::new();
        for (&epoch, phase) in self.attempts.iter_mut().filter(|(epoch, _)| unwanted(**epoch)) {
            match phase {
                Phase::Waiting => dropped.push(epoch),
                Phase::Started { .. } | Phase::Delivering => {
                    #[cfg(feature = "planted-bugs")]
                    if self.config.planted == Some(crate::PlantedBug::IgnoreWithdrawal) {
                        continue;
                    }
                    *phase = Phase::Killing { wanted: false, in_slot: *phase != Phase::Delivering };
                    self.over.remove(&epoch);
                    self.commands.push_back(Command::Kill { epoch });
                }
                Phase::Killing { wanted, .. } => {
                    *wanted = false;
                    continue;
                }
                // A report is on its way into the spool or there; the coordinator acknowledges it, even if only to say that it is fenced.
                Phase::Returning | Phase::Finished { .. } => continue,
            }
            self.report_due = self.now;
        }
        for epoch in dropped {
            self.attempts.remove(&epoch);
            self.wide.remove(&epoch);
            self.queue.retain(|&waiting| waiting != epoch);
            self.memory.remember(epoch, Ended::Unreported);
        }
    }

    fn acknowledge(&mut self, epoch: Epoch) {
        if let Some(Phase::Finished { .. }) = self.attempts.get(&epoch) {
            self.attempts.remove(&epoch);
            self.spooled -= 1;
            self.memory.remember(epoch, Ended::Acknowledged);
            self.commands.push_back(Command::Forget { epoch });
            self.report_due = self.now;
        }
    }

    fn on_stage(&mut self, epoch: Epoch, reached: Stage) {
        if let Some(Phase::Started { stage, .. }) = self.attempts.get_mut(&epoch)
            && matches!(reached, Stage::Fetching | Stage::Running)
            && *stage < reached
        {
            *stage = reached;
            self.progress();
        }
    }

    fn on_case(&mut self, epoch: Epoch, position: u32) {
        if let Some(Phase::Started { stage, running }) = self.attempts.get_mut(&epoch) {
            *stage = Stage::Running;
            *running = Some(position);
            self.progress();
        }
    }

    fn on_environment_gone(&mut self, epoch: Epoch) {
        // A killed one keeps its slot for the moment that is left of it.
        if matches!(self.attempts.get(&epoch), Some(Phase::Started { .. })) {
            self.over.insert(epoch);
        }
    }

    /// Progress inside an attempt is told at once after a quiet time, and otherwise with the next report but not much later.
    fn progress(&mut self) {
        let soon = self.last_report.map_or(self.now, |last| last + limits::PROGRESS_REPORT_INTERVAL);
        self.report_due = self.report_due.min(soon.max(self.now));
    }

    fn on_ended(&mut self, epoch: Epoch, reported: bool) {
        let Some(&phase) = self.attempts.get(&epoch) else { return };
        #[cfg(feature = "planted-bugs")]
        let reported = reported
            || matches!(phase, Phase::Killing { .. })
                && self.config.planted == Some(crate::PlantedBug::ReportKilledAsFinished);
        match phase {
            Phase::Started { .. } | Phase::Killing { in_slot: true, .. } => self.occupied -= self.slots_of(epoch),
            Phase::Delivering | Phase::Killing { in_slot: false, .. } => self.delivering -= 1,
            Phase::Waiting | Phase::Returning | Phase::Finished { .. } => {}
        }
        if !matches!(phase, Phase::Returning | Phase::Finished { .. }) {
            self.wide.remove(&epoch);
        }
        self.over.remove(&epoch);
        match phase {
            Phase::Finished { .. } => {}
            Phase::Waiting => {
                self.queue.retain(|&waiting| waiting != epoch);
                self.end(epoch, reported, false);
            }
            Phase::Returning | Phase::Started { .. } | Phase::Delivering => self.end(epoch, reported, false),
            Phase::Killing { wanted, .. } => self.end(epoch, reported, wanted),
        }
    }

    fn end(&mut self, epoch: Epoch, reported: bool, wanted: bool) {
        self.attempts.remove(&epoch);
        if reported {
            self.finish(epoch);
            return;
        }
        self.memory.remember(epoch, Ended::Unreported);
        if wanted {
            self.give_back(epoch);
        }
        self.report_due = self.now;
    }

    fn finish(&mut self, epoch: Epoch) {
        if self.attempts.insert(epoch, Phase::Finished { sent: None }).is_none() {
            self.spooled += 1;
        }
        self.report_due = self.now;
    }

    fn on_drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.report_due = self.now;
        for epoch in core::mem::take(&mut self.queue) {
            self.give_back(epoch);
        }
    }

    /// Stops everything that the coordinator is about to give to others.
    fn fence(&mut self) {
        #[cfg(feature = "planted-bugs")]
        if self.config.planted == Some(crate::PlantedBug::NeverSelfFence) {
            self.heard = None;
            return;
        }
        self.withdraw(|_| true);
    }

    /// When own work stops being own, if there is any.
    fn fence_time(&self) -> Option<Instant> {
        let (heard, lease) = self.heard?;
        let owned = |phase: &Phase| matches!(phase, Phase::Waiting | Phase::Started { .. } | Phase::Delivering);
        let owned = self.attempts.values().any(owned);
        let (numerator, denominator) = limits::LEASE_SELF_FENCE;
        owned.then(|| heard + lease.saturating_mul(numerator) / denominator)
    }

    /// When the oldest report that was sent and not acknowledged is sent again.
    fn resend_time(&self) -> Option<Instant> {
        if !self.connected || self.spooled == 0 {
            return None;
        }
        let sent = self.attempts.values().filter_map(|phase| match phase {
            Phase::Finished { sent } => *sent,
            _ => None,
        });
        sent.min().map(|at| at + limits::REPORT_RESEND_INTERVAL)
    }

    /// Lets out of their slots what needs none any more, and starts what can be started, in the order received: what takes several slots waits for
    /// them, and nothing overtakes it.
    fn settle(&mut self) {
        let slots = self.config.slots;
        while self.delivering < slots {
            let Some(epoch) = self.over.pop_first() else { break };
            self.attempts.insert(epoch, Phase::Delivering);
            self.occupied -= self.slots_of(epoch);
            self.wide.remove(&epoch);
            self.delivering += 1;
            self.progress();
        }
        #[cfg(feature = "planted-bugs")]
        let slots = slots + u32::from(self.config.planted == Some(crate::PlantedBug::ExceedSlots));
        while self.spooled < limits::SPOOL_ATTEMPTS_MAX {
            let Some(&epoch) = self.queue.front() else { break };
            let taken = self.slots_of(epoch);
            if self.occupied + taken > slots {
                break;
            }
            self.queue.pop_front();
            self.attempts.insert(epoch, Phase::Started { stage: Stage::Fetching, running: None });
            self.occupied += taken;
            self.commands.push_back(Command::Start { epoch });
            self.progress();
        }
    }

    fn may_leave(&self) -> bool {
        if !self.draining || self.left {
            return false;
        }
        #[cfg(feature = "planted-bugs")]
        if self.config.planted == Some(crate::PlantedBug::LeaveWithReports) && self.occupied == 0 {
            return true;
        }
        // A coordinator that has not yet spoken since it was told may have work under way to here.
        self.attempts.is_empty() && (self.drain_heard || !self.connected)
    }
}
