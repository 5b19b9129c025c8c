//! Messages on their way: delayed, dropped, doubled, reordered, or stopped by a partition.

use std::collections::{BTreeMap, BTreeSet};

use core::time::Duration;

use muster_agent_state::Desired;
use muster_model::attempt::{AttemptStatus, Work};
use muster_model::key::ActionKey;
use muster_model::{AgentId, Epoch, Instant, RunId, TargetIndex};
use muster_scheduler::AttemptEnd;

use super::plan::Weather;
use crate::seed::Random;

/// What an assignment says beyond its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) run: RunId,
    pub(super) target: TargetIndex,
    pub(super) work: Work,
}

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// An agent's report.
    Report {
        draining: bool,
        attempts: Vec<AttemptStatus>,
        finished: Vec<(Epoch, AttemptEnd)>,
        warm: Vec<ActionKey>,
        /// The number of the last desired state that came.
        heard: u64,
        /// Attempts that are not wanted any more and not dead yet.
        ending: BTreeSet<Epoch>,
    },
    /// A coordinator's desired state.
    Desired { attempts: Vec<(Desired, Option<Content>)>, acknowledged: Vec<Epoch>, number: u64 },
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    ToCoordinator,
    ToAgent,
}

/// The network between the coordinator and its agents.
#[derive(Debug)]
pub(super) struct Network {
    random: Random,
    weather: Weather,
    cut: BTreeSet<(AgentId, Way)>,
    /// When the last message that kept its place arrives, each way.
    last: BTreeMap<(AgentId, Way), Instant>,
    pub(super) calm: bool,
}

impl Network {
    pub(super) fn new(random: Random, weather: Weather) -> Self {
        Self { random, weather, cut: BTreeSet::new(), last: BTreeMap::new(), calm: false }
    }

    pub(super) fn cut(&mut self, agent: AgentId, way: Way) {
        self.cut.insert((agent, way));
    }

    pub(super) fn heal(&mut self, agent: AgentId) {
        self.cut.remove(&(agent, Way::ToCoordinator));
        self.cut.remove(&(agent, Way::ToAgent));
    }

    pub(super) fn is_cut(&self, agent: AgentId) -> bool {
        [Way::ToCoordinator, Way::ToAgent].iter().any(|&way| self.cut.contains(&(agent, way)))
    }

    /// When the copies of a message arrive; none when it is lost. Most keep their order, as on one stream; some overtake or fall behind.
    pub(super) fn send(&mut self, now: Instant, agent: AgentId, way: Way) -> Vec<Instant> {
        if self.cut.contains(&(agent, way)) || (!self.calm && self.random.happens(self.weather.drop_permille)) {
            return Vec::new();
        }
        let delay = Duration::from_micros(self.random.between(50, self.weather.delay_ms_max * 1000));
        let mut arrivals = Vec::new();
        if !self.calm && self.random.happens(self.weather.reorder_permille) {
            arrivals.push(now + delay + Duration::from_micros(self.random.between(0, 15_000_000)));
        } else {
            let last = self.last.entry((agent, way)).or_default();
            *last = (*last).max(now + delay);
            arrivals.push(*last);
        }
        if !self.calm && self.random.happens(self.weather.double_permille) {
            arrivals.push(now + delay + Duration::from_micros(self.random.between(0, 5_000_000)));
        }
        arrivals
    }
}
