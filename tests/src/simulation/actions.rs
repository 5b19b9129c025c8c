//! Actions of the Remote Execution API: what clients will ask for, and the room between clients and scheduler, modelled, with what must hold.

use std::collections::{BTreeMap, BTreeSet};

use core::time::Duration;

use muster_model::attempt::Work;
use muster_model::outcome::FaultKind;
use muster_model::platform::{Properties, Requirements};
use muster_model::{ActionId, Epoch, InvocationId, RunId, TargetIndex};
use muster_scheduler::{ActionEnd, ActionSeed, AttemptEnd, Event};

use super::agent::Step;
use super::network::Content;
use crate::seed::Random;

/// Runs of the ledger are counted from 0; the upper half of the numbers is free.
const ACTIONS: u64 = 1 << 63;
/// Two losses may be anybody's fault, so less is never poison.
const LOSSES_OF_POISON_MIN: u32 = 2;

/// What an action does when it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    /// Ends with the same result every time.
    Runs,
    /// Ends with another result every time: requests share no execution once that is known.
    Differs,
    /// Never ends by itself; everybody who asks for it changes their mind.
    Hangs,
    /// Takes its agent down.
    KillsAgents,
}

/// One action that may be asked for many times.
#[derive(Clone, Debug)]
struct PlannedAction {
    behaviour: Behaviour,
    /// How long it runs; no two actions run equally long, so that a result names its action.
    duration: Duration,
    is_time_known: bool,
    needs_pool: bool,
    do_not_cache: bool,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedRequest {
    pub(super) at: Duration,
    pub(super) stops_after: Option<Duration>,
    action: usize,
    invocation: InvocationId,
    priority: i32,
}

/// What clients will ask for.
#[derive(Clone, Debug, Default)]
pub(super) struct PlannedActions {
    actions: Vec<PlannedAction>,
    pub(super) requests: Vec<PlannedRequest>,
}

impl PlannedActions {
    pub(super) fn draw(random: &mut Random, hostile: bool) -> Self {
        if random.happens(400) {
            return Self::default();
        }
        let mean_ms = [10, 200, 1500][random.between(0, 2) as usize];
        let actions: Vec<PlannedAction> =
            (0..random.between(1, 12)).map(|index| action(random, hostile, mean_ms, index)).collect();
        let requests = (0..random.between(1, 40)).map(|_| request(random, &actions)).collect();
        Self { actions, requests }
    }
}

fn action(random: &mut Random, hostile: bool, mean_ms: u64, index: u64) -> PlannedAction {
    let behaviour = match random.between(0, if hostile { 13 } else { 11 }) {
        0..9 => Behaviour::Runs,
        9 => Behaviour::Differs,
        10..12 => Behaviour::Hangs,
        _ => Behaviour::KillsAgents,
    };
    PlannedAction {
        behaviour,
        duration: Duration::from_millis(random.between(1, 2 * mean_ms)) + Duration::from_micros(index),
        is_time_known: random.happens(500),
        needs_pool: random.happens(300),
        do_not_cache: random.happens(200),
    }
}

fn request(random: &mut Random, actions: &[PlannedAction]) -> PlannedRequest {
    let action = random.between(0, actions.len() as u64 - 1) as usize;
    let stops = actions[action].behaviour == Behaviour::Hangs || random.happens(100);
    PlannedRequest {
        at: Duration::from_millis(random.between(0, 6000)),
        stops_after: stops.then(|| Duration::from_millis(random.between(0, 8000))),
        action,
        invocation: InvocationId(random.between(0, 2)),
        priority: [-200, 0, 0, 100][random.between(0, 3) as usize],
    }
}

/// A client's request, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    /// Nobody knows of it: not asked yet, or lost with the coordinator.
    Unknown,
    Waits(ActionId),
    Answered,
    Stopped,
}

#[derive(Clone, Debug)]
struct Open {
    action: usize,
    invocation: InvocationId,
    priority: i32,
    /// Who waits.
    requests: Vec<usize>,
    /// It met a fault or lost an agent, and may keep away from some agents.
    is_hurt: bool,
    losses: u32,
    /// The scheduler has said how it ended.
    is_over: bool,
}

/// The room: who waits for which action. All of it but the clients and the cache is lost with the coordinator.
#[derive(Debug)]
pub(super) struct Room {
    planned: PlannedActions,
    requests: Vec<Request>,
    next: u64,
    open: BTreeMap<ActionId, Open>,
    in_flight: BTreeMap<usize, ActionId>,
    /// Executions of each action, as far as they are remembered.
    executions: BTreeMap<usize, u32>,
    cached: BTreeSet<usize>,
    /// Open leases on actions.
    leases: BTreeMap<Epoch, ActionId>,
    /// What the report that is being handled says that its action took.
    heard: Option<Duration>,
    losses: u32,
    seen: BTreeMap<&'static str, u64>,
}

impl Room {
    pub(super) fn new(planned: &PlannedActions) -> Self {
        Self {
            planned: planned.clone(),
            requests: vec![Request::Unknown; planned.requests.len()],
            next: 0,
            open: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            executions: BTreeMap::new(),
            cached: BTreeSet::new(),
            leases: BTreeMap::new(),
            heard: None,
            losses: 0,
            seen: BTreeMap::new(),
        }
    }

    pub(super) fn sometimes(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// How often what has happened.
    pub(super) fn seen(&self) -> BTreeMap<&'static str, u64> {
        self.seen.clone()
    }

    /// A client asks, for the first time or again; what the scheduler is to be told.
    pub(super) fn ask(&mut self, client: usize) -> Option<Event> {
        if self.requests[client] != Request::Unknown {
            return None;
        }
        let PlannedRequest { action: index, invocation, priority, .. } = self.planned.requests[client];
        let planned = &self.planned.actions[index];
        if self.cached.contains(&index) {
            self.requests[client] = Request::Answered;
            self.sometimes("action known");
            return None;
        }
        let is_flaky = planned.behaviour == Behaviour::Differs && self.executions.get(&index).is_some_and(|&n| n > 1);
        let may_merge = !planned.do_not_cache && !is_flaky;
        if let Some(&action) = self.in_flight.get(&index).filter(|_| may_merge) {
            self.requests[client] = Request::Waits(action);
            if let Some(open) = self.open.get_mut(&action) {
                open.requests.push(client);
            }
            self.sometimes("action joined");
            return None;
        }
        let pool = planned.needs_pool.then(|| ("pool".into(), "a".into()));
        let requirements = Requirements { properties: Properties::new(pool), ..Requirements::default() };
        let expected = planned.is_time_known.then_some(planned.duration);
        let action = ActionId(self.next);
        self.next += 1;
        if may_merge {
            self.in_flight.insert(index, action);
        }
        let requests = vec![client];
        let open = Open { action: index, invocation, priority, requests, is_hurt: false, losses: 0, is_over: false };
        self.open.insert(action, open);
        self.requests[client] = Request::Waits(action);
        Some(Event::ActionSubmitted { action, invocation, seed: ActionSeed { requirements, priority, expected } })
    }

    /// A client cancels; the action that nobody waits for any more.
    pub(super) fn stop(&mut self, client: usize) -> Option<Event> {
        let before = self.requests[client];
        if before == Request::Answered {
            return None;
        }
        self.requests[client] = Request::Stopped;
        let Request::Waits(action) = before else { return None };
        let open = self.open.get_mut(&action)?;
        open.requests.retain(|&waiting| waiting != client);
        if !open.requests.is_empty() {
            self.sometimes("action left by one of several");
            return None;
        }
        self.close(action);
        let is_leased = self.leases.values().any(|&leased| leased == action);
        self.sometimes(if is_leased { "action cancelled under way" } else { "action cancelled" });
        Some(Event::ActionCancelled { action })
    }

    fn close(&mut self, action: ActionId) -> Option<Open> {
        let open = self.open.remove(&action)?;
        if self.in_flight.get(&open.action) == Some(&action) {
            self.in_flight.remove(&open.action);
        }
        Some(open)
    }

    /// An attempt is given to an agent; what it is to do.
    ///
    /// # Panics
    ///
    /// When nobody waits for the action; when it is a second one and nobody can know that the first is late; when another action of the
    /// invocation, or another invocation, should have come first.
    pub(super) fn assigned(&mut self, action: ActionId, epoch: Epoch) -> Content {
        let open = self.open.get(&action).filter(|open| !open.is_over);
        let open = open.unwrap_or_else(|| panic!("action {action} is assigned and nobody waits for it")).clone();
        let is_copy = self.leases.values().any(|&leased| leased == action);
        if is_copy {
            let is_known = self.planned.actions[open.action].is_time_known;
            assert!(is_known, "action {action} is run twice at once and nobody knows how long it takes");
            self.sometimes("action copied");
        } else {
            self.check_turn(action, &open);
        }
        self.leases.insert(epoch, action);
        self.sometimes("action assigned");
        Content { run: RunId(ACTIONS | action.0), target: TargetIndex(open.action as u32), work: Work::Action }
    }

    /// Whether it was this action's turn, among those that any of the same agents could have taken.
    fn check_turn(&self, action: ActionId, next: &Open) {
        let needs_pool = |open: &Open| self.planned.actions[open.action].needs_pool;
        let leased: BTreeSet<ActionId> = self.leases.values().copied().collect();
        let is_waiting = |(id, open): &(&ActionId, &Open)| {
            !open.is_over && !leased.contains(id) && needs_pool(open) == needs_pool(next)
        };
        let waiting: Vec<(&ActionId, &Open)> = self.open.iter().filter(is_waiting).collect();
        let own = waiting.iter().filter(|(_, open)| open.invocation == next.invocation);
        let most_urgent = own.map(|(_, open)| open.priority).min().unwrap_or(next.priority);
        let in_use = self.in_use(next.invocation);
        for (other, open) in waiting.iter().filter(|(id, open)| **id != action && !open.is_hurt) {
            if open.invocation == next.invocation {
                assert!(open.priority >= next.priority, "action {action} goes before {other}, which is more urgent");
            } else if open.priority <= most_urgent && self.in_use(open.invocation) == 0 {
                assert_eq!(in_use, 0, "action {action} goes before {other}, whose invocation has nothing under way");
            }
        }
    }

    fn in_use(&self, invocation: InvocationId) -> usize {
        let is_own = |action: &&ActionId| self.open.get(action).is_some_and(|open| open.invocation == invocation);
        self.leases.values().filter(is_own).count()
    }

    /// A lease is closed.
    pub(super) fn closed(&mut self, epoch: Epoch) {
        self.leases.remove(&epoch);
    }

    /// An attempt failed by the fleet's fault.
    pub(super) fn faulted(&mut self, action: ActionId, kind: FaultKind) {
        let is_loss = kind == FaultKind::AgentLost;
        if is_loss {
            self.losses += 1;
            self.sometimes("action lost");
        }
        if let Some(open) = self.open.get_mut(&action) {
            open.is_hurt = true;
            open.losses += u32::from(is_loss);
        }
    }

    /// Whether an agent was ever lost with an action in its hands.
    pub(super) fn has_losses(&self) -> bool {
        self.losses > 0
    }

    /// What the event that comes next says that its action took.
    pub(super) fn hear(&mut self, duration: Option<Duration>) {
        self.heard = duration;
    }

    /// The scheduler says how an action ended; `reported` is the report that is being handled, and whether its lease was closed.
    ///
    /// # Panics
    ///
    /// When it ended before, or not as it can have.
    pub(super) fn check_end(
        &mut self,
        action: ActionId,
        end: ActionEnd,
        epoch: Option<Epoch>,
        reported: Option<(Epoch, bool)>,
    ) {
        let Some(open) = self.open.get_mut(&action) else {
            assert_eq!(end, ActionEnd::Cancelled, "action {action} ends and nobody waits for it any more");
            return;
        };
        assert_ne!(end, ActionEnd::Cancelled, "action {action} is cancelled, which nobody has asked for");
        assert!(!open.is_over, "I1: action {action} ended twice");
        open.is_over = true;
        let planned = &self.planned.actions[open.action];
        match end {
            ActionEnd::Ran => {
                let reported = reported.filter(|(reported, _)| Some(*reported) == epoch);
                assert!(matches!(reported, Some((_, false))), "I2: action {action} ended by a report that is fenced");
                assert_eq!(self.heard, Some(planned.duration), "action {action} ended with another one's result");
                self.sometimes("action ran");
            }
            ActionEnd::Poison => {
                assert!(open.losses >= LOSSES_OF_POISON_MIN, "action {action} is poison after {} losses", open.losses);
                self.sometimes("action is poison");
            }
            ActionEnd::Fault(kind) => {
                assert!(
                    !matches!(kind, FaultKind::AgentLost | FaultKind::Returned),
                    "action {action} ended by {kind:?}"
                );
                self.sometimes("action given up");
            }
            ActionEnd::Cancelled => {}
        }
    }

    /// Everybody who waits for an action has their answer.
    ///
    /// # Panics
    ///
    /// When one of them does not wait for it.
    pub(super) fn conclude(&mut self, action: ActionId, end: ActionEnd) {
        // The last one that waited may have changed its mind in the meantime.
        let Some(open) = self.close(action) else { return };
        for client in open.requests {
            let waits = std::mem::replace(&mut self.requests[client], Request::Answered);
            assert_eq!(waits, Request::Waits(action), "I1: client {client} is answered twice, or for another action");
        }
        if end == ActionEnd::Ran {
            *self.executions.entry(open.action).or_default() += 1;
            if !self.planned.actions[open.action].do_not_cache {
                self.cached.insert(open.action);
            }
        }
    }

    /// The coordinator is gone, and with it everything that was under way.
    pub(super) fn lose(&mut self) {
        for request in &mut self.requests {
            if matches!(request, Request::Waits(_)) {
                *request = Request::Unknown;
                *self.seen.entry("action asked for again").or_default() += 1;
            }
        }
        self.open.clear();
        self.in_flight.clear();
        self.executions.clear();
        self.leases.clear();
    }

    /// Clients that wait for an answer.
    pub(super) fn waiting(&self) -> Vec<usize> {
        let waits = |client: &usize| matches!(self.requests[*client], Request::Waits(_));
        (0..self.requests.len()).filter(waits).collect()
    }

    /// Whether every client has an answer, or has stopped wanting one.
    pub(super) fn is_over(&self) -> bool {
        self.requests.iter().all(|request| matches!(request, Request::Answered | Request::Stopped))
    }

    /// What has not ended, in words.
    pub(super) fn unfinished(&self) -> impl Iterator<Item = String> {
        let is_open = |(_, request): &(usize, &Request)| !matches!(request, Request::Answered | Request::Stopped);
        let open = self.requests.iter().enumerate().filter(is_open);
        open.map(|(client, request)| format!("client {client} has no answer ({request:?})"))
    }

    /// How many actions and leases on them are open.
    pub(super) fn open(&self) -> (usize, usize) {
        (self.open.len(), self.leases.len())
    }

    /// What an executor will do with an attempt once its program runs.
    pub(super) fn script(&self, content: &Content) -> Vec<(Duration, Step)> {
        let planned = &self.planned.actions[content.target.0 as usize];
        let duration = planned.duration;
        match planned.behaviour {
            // What the longer ones make is longer on its way.
            Behaviour::Runs | Behaviour::Differs => {
                vec![(duration, Step::Gone), (duration / 2, Step::End(AttemptEnd::ActionRan { duration }))]
            }
            Behaviour::Hangs => Vec::new(),
            Behaviour::KillsAgents => vec![(duration, Step::Die)],
        }
    }
}
