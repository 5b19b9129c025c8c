//! Matching work with agents.

use core::cmp::Reverse;
use core::time::Duration;

use muster_model::attempt::Work;
use muster_model::{AgentId, CaseIndex, RunId, TargetIndex};

use crate::Scheduler;
use crate::agents::LOAD_FULL;
use crate::case::CaseState;
use crate::classes::{Class, ClassIndex};
use crate::leases::Lease;
use crate::run::{Discovery, Urgency};
use crate::shard::{self, Shard};
use crate::share::Share;

/// Agents, runs and targets that are looked at, each, when the first ones don't want each other.
pub(crate) const SEARCH_WIDTH: usize = 16;

/// Who gets what next.
#[derive(Clone, Copy, Debug)]
struct Choice {
    agent: AgentId,
    run: RunId,
    target: TargetIndex,
}

/// Lower goes first: idle slots before prefetch, then the run with the smallest share of the fleet, then the most urgent work.
type Rank = (bool, Share, Reverse<Urgency>);

impl Scheduler {
    /// Hands out work until there is none, or no room for it.
    pub(crate) fn dispatch(&mut self) {
        self.hand_out();
        // A claim is made for work that has waited, and ends with its lease, so this ends too.
        while self.renew_claims() {
            self.hand_out();
        }
        self.balance();
    }

    fn hand_out(&mut self) {
        loop {
            let choice = self.choose();
            let is_for_idle_slot = choice.is_some_and(|((is_prefetch, ..), _)| !is_prefetch);
            if !is_for_idle_slot && self.give_way() {
                continue;
            }
            let Some((_, choice)) = choice else { break };
            self.lease_next(choice);
        }
    }

    fn choose(&self) -> Option<(Rank, Choice)> {
        self.classes.matchable().filter_map(|class| self.choose_in(class)).min_by_key(|&(rank, _)| rank)
    }

    fn choose_in(&self, index: ClassIndex) -> Option<(Rank, Choice)> {
        if !self.may_take_groups(index) {
            return None;
        }
        let available = self.classes.get(index).available.iter().take(SEARCH_WIDTH);
        available.copied().find_map(|(load, agent)| {
            let (share, urgency, mut choice) = self.choose_for(index, agent)?;
            if load < LOAD_FULL {
                choice.agent = self.prefer_warm(index, choice.run, choice.target, agent);
            }
            Some(((load >= LOAD_FULL, share, urgency), choice))
        })
    }

    /// What of a class an agent gets next.
    fn choose_for(&self, index: ClassIndex, agent: AgentId) -> Option<(Share, Reverse<Urgency>, Choice)> {
        for &(share, id) in self.classes.get(index).ready.iter().take(SEARCH_WIDTH) {
            let targets = &self.runs.get(&id)?.ready.get(&index)?.targets;
            for &(urgency, target) in targets.iter().take(SEARCH_WIDTH) {
                if !self.is_avoided(index, id, target, agent) {
                    return Some((share, urgency, Choice { agent, run: id, target }));
                }
            }
        }
        None
    }

    /// Whether an agent would get queued work of a class.
    pub(crate) fn would_take(&self, index: ClassIndex, agent: AgentId) -> bool {
        self.choose_for(index, agent).is_some()
    }

    /// Whether a target met a fault on an agent lately and there is another that could take it.
    pub(crate) fn is_avoided(&self, class: ClassIndex, run: RunId, target: TargetIndex, agent: AgentId) -> bool {
        let Some(target) = self.runs.get(&run).and_then(|run| run.target(target)) else { return false };
        if target.avoided.is_empty() {
            return false;
        }
        let still = target.avoided.iter().filter(|(_, until)| *until > self.now);
        let (count, is_listed) = still.fold((0, false), |(count, found), (id, _)| (count + 1, found || *id == agent));
        is_listed && self.classes.get(class).agents > count
    }

    /// Makes a target keep away from an agent for a while.
    pub(crate) fn avoid(&mut self, run: RunId, target: TargetIndex, agent: AgentId) {
        let (now, until) = (self.now, self.now + self.config.fault_avoid_time);
        self.with_target(run, target, |target| {
            target.avoided.retain(|&(id, end)| id != agent && end > now);
            target.avoided.push((agent, until));
        });
        self.avoidance_ends.insert(until);
    }

    /// Lets targets go back to the agents that they avoided.
    pub(crate) fn expire_avoidance(&mut self) {
        while self.avoidance_ends.first().is_some_and(|&end| end <= self.now) {
            self.avoidance_ends.pop_first();
        }
    }

    fn lease_next(&mut self, choice: Choice) {
        let Choice { agent, run: id, target: index } = choice;
        let Some(target) = self.runs.get(&id).and_then(|run| run.target(index)) else { return };
        let class = target.class;
        let (work, expected) = if target.discovery == Discovery::Queued {
            (Work::Discover, Duration::ZERO)
        } else if target.action.is_some() {
            let expected = target.case(CaseIndex(0)).and_then(|case| case.expected());
            (Work::Action, expected.unwrap_or_default())
        } else {
            self.cut_shard(id, index, class)
        };
        if matches!(&work, Work::Cases { cases, .. } if cases.is_empty()) {
            self.refresh_target(id, index);
            return;
        }
        let mut lease = Lease::new(agent, id, index, class, work, self.now);
        lease.expected = expected;
        self.lease(lease);
        self.classes.get_mut(class).waits_since = None;
    }

    /// Takes the next shard's cases out of a target's queue.
    fn cut_shard(&mut self, id: RunId, index: TargetIndex, class: ClassIndex) -> (Work, Duration) {
        let mut shard = self.shard_size(id, index, class);
        let mut manner = None;
        while let Some((alone, case, is_suspect, time)) = self.peek(id, index) {
            let is_other = manner.is_some_and(|manner| manner != alone);
            if !shard.cases.is_empty() && (is_other || shard.is_full() || is_suspect) {
                break;
            }
            manner = Some(alone);
            self.unqueue(id, index, case);
            shard.add(case, time);
            if is_suspect {
                break;
            }
            if !alone {
                self.add_group(id, index, case, &mut shard);
            }
        }
        let Shard { mut cases, expected, .. } = shard;
        // In the order in which they were discovered, as they would run without a fleet: what depends on that order goes on working.
        cases.sort_unstable();
        (Work::Cases { cases, alone: manner.unwrap_or(false) }, expected)
    }

    /// Adds what is queued of a case's group, in order, as far as the shard has room: what the group needs is loaded anyway.
    fn add_group(&mut self, id: RunId, index: TargetIndex, first: CaseIndex, shard: &mut Shard) {
        let Some(target) = self.runs.get(&id).and_then(|run| run.target(index)) else { return };
        for case in target.group_of(first, self.config.shard_cases_max).map(CaseIndex) {
            if shard.is_full() {
                return;
            }
            let Some(known) = self.runs.get(&id).and_then(|run| run.target(index)?.case(case)) else { return };
            if known.state == CaseState::Queued && !known.is_alone() && !known.is_suspect() {
                let time = known.expected();
                self.unqueue(id, index, case);
                shard.add(case, time);
            }
        }
    }

    /// The head of a target's queue: its manner, the case, whether it travels by itself, its expected time.
    fn peek(&mut self, run: RunId, index: TargetIndex) -> Option<(bool, CaseIndex, bool, Option<Duration>)> {
        let target = self.runs.get_mut(&run)?.target_mut(index);
        let (alone, _, index) = target.head()?;
        let case = target.case(index)?;
        Some((alone, index, case.is_suspect(), case.expected()))
    }

    /// An empty shard of the size that is due.
    fn shard_size(&self, id: RunId, index: TargetIndex, class: ClassIndex) -> Shard {
        let run = &self.runs[&id];
        let target = run.target(index);
        let learned = target.and_then(|target| target.mean.get()).or(run.mean.get());
        let overhead = target.and_then(|target| target.overhead.get()).unwrap_or_default();
        let load = run.ready.get(&class).map(|ready| ready.load).unwrap_or_default();
        let Class { slots, requirements, .. } = self.classes.get(class);
        let slots = if requirements.resources.exclusive.is_empty() { *slots } else { 1 };
        let size = shard::size(&self.config, &load, slots, learned, overhead);
        Shard::new(size, learned.unwrap_or(self.config.unknown_case_time))
    }
}
