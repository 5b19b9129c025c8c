//! An agent's loud half, modelled: an executor that behaves as the plan says, a durable spool, a clock that drifts.

use std::collections::{BTreeMap, BTreeSet};

use core::time::Duration;

use muster_agent_state::{Config, Event, Machine};
use muster_model::attempt::{Interruption, Stage, Work};
use muster_model::key::ActionKey;
use muster_model::limits::WARM_SERVICES_MAX;
use muster_model::outcome::{FaultKind, Verdict};
use muster_model::{AgentId, CaseIndex, Epoch, Instant};
use muster_scheduler::{AttemptEnd, CaseEnd};

use super::checks::CaseName;
use super::network::Content;
use super::plan::{Behaviour, PlannedAgent, PlannedCase, Planted};
use crate::seed::Random;

/// How long a case may run before the modelled executor kills it.
const CASE_TIMEOUT: Duration = Duration::from_secs(2);

/// One thing that an executor does.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Stage(Stage),
    Case {
        position: u32,
        name: CaseName,
    },
    /// The process takes the agent with it.
    Die,
    /// The environment is gone; what was made is on its way.
    Gone,
    End(AttemptEnd),
    /// The report is durable, or there is none.
    Ended {
        reported: bool,
    },
}

/// One agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) plan: PlannedAgent,
    /// None while it is dead.
    pub(super) machine: Option<Machine>,
    /// Grows with every start, so that nothing of an earlier life reaches a later one.
    pub(super) life: u64,
    pub(super) connection: Option<u64>,
    pub(super) frozen_until: Instant,
    /// When a connection was last known to be good.
    pub(super) heard: Instant,
    /// When the coordinator last said what this agent should be doing.
    pub(super) told: Instant,
    pub(super) spool: BTreeMap<Epoch, AttemptEnd>,
    pub(super) contents: BTreeMap<Epoch, Content>,
    /// Attempts that run, and the case under way.
    pub(super) running: BTreeMap<Epoch, Option<CaseName>>,
    /// Those of them that have no environment any more.
    pub(super) delivering: BTreeSet<Epoch>,
    pub(super) gone_for_good: bool,
    /// The number of the last desired state on this connection.
    pub(super) number: u64,
    /// The exclusive groups of attempts that run, or die.
    pub(super) groups: BTreeMap<Epoch, Vec<String>>,
    /// Services that run for nobody.
    pub(super) warm: Vec<ActionKey>,
    /// Services that attempts use.
    lent: BTreeMap<Epoch, ActionKey>,
    random: Random,
    planted: Planted,
}

impl Agent {
    pub(super) fn new(id: AgentId, plan: PlannedAgent, random: Random, planted: Planted) -> Self {
        let mut agent = Self {
            id,
            plan,
            machine: None,
            life: 0,
            connection: None,
            frozen_until: Instant::default(),
            heard: Instant::default(),
            told: Instant::default(),
            spool: BTreeMap::new(),
            contents: BTreeMap::new(),
            running: BTreeMap::new(),
            delivering: BTreeSet::new(),
            gone_for_good: false,
            number: 0,
            groups: BTreeMap::new(),
            warm: Vec::new(),
            lent: BTreeMap::new(),
            random,
            planted,
        };
        agent.start(Instant::default());
        agent
    }

    /// What its own clock shows at a moment of the world: it runs fast or slow, and began long ago.
    pub(super) fn clock(&self, world: Instant) -> Instant {
        Instant(world.0 / 1000 * self.plan.clock_permille + self.id.0 * 1_000_000_000_000)
    }

    /// The moment of the world at which its own clock shows at least `own`.
    pub(super) fn world_time(&self, own: Instant) -> Instant {
        Instant((own.0.saturating_sub(self.id.0 * 1_000_000_000_000) / self.plan.clock_permille + 1) * 1000)
    }

    /// Begins a new life with what the last one left in the spool.
    pub(super) fn start(&mut self, now: Instant) {
        self.life += 1;
        self.connection = None;
        self.running.clear();
        self.delivering.clear();
        self.contents.clear();
        self.number = 0;
        self.groups.clear();
        self.warm.clear();
        self.lent.clear();
        self.heard = now;
        self.told = now;
        #[allow(unused_mut, reason = "planted bugs change it")]
        let mut config = Config::new(self.plan.slots);
        #[cfg(feature = "planted-bugs")]
        {
            config.planted = self.planted.agent;
        }
        #[cfg(not(feature = "planted-bugs"))]
        let _ = self.planted;
        let mut machine = Machine::new(config);
        machine.handle_event(self.clock(now), Event::SpoolRestored { epochs: self.spool.keys().copied().collect() });
        self.machine = Some(machine);
    }

    /// Dies, with everything that is not in the spool.
    pub(super) fn die(&mut self) {
        self.life += 1;
        self.machine = None;
        self.connection = None;
        self.running.clear();
        self.delivering.clear();
        self.groups.clear();
    }

    /// What an executor will do with an attempt: steps with the time from one to the next.
    pub(super) fn script(
        &mut self,
        content: &Content,
        cases: &[PlannedCase],
        tries: &mut BTreeMap<CaseName, u32>,
        fault_permille: u64,
    ) -> Vec<(Duration, Step)> {
        let mut steps = vec![(self.some_time(1, 40), Step::Stage(Stage::Running))];
        if self.random.happens(fault_permille) {
            return vec![(self.some_time(1, 40), Step::End(AttemptEnd::Fault(FaultKind::Environment)))];
        }
        if let Work::Action = content.work {
            return steps;
        }
        let Work::Cases { cases: wanted, alone } = &content.work else {
            steps.push((self.some_time(1, 100), Step::End(AttemptEnd::Discovered)));
            return steps;
        };
        let company = !alone && wanted.len() > 1;
        let mut ends = Vec::new();
        let mut interruption = None;
        let mut pause = Duration::from_millis(1);
        for (position, &case) in wanted.iter().enumerate() {
            let name = (content.run, content.target, case);
            let planned = cases[case.0 as usize];
            steps.push((pause, Step::Case { position: position as u32, name }));
            let count = tries.entry(name).or_default();
            *count += 1;
            pause = planned.duration.min(CASE_TIMEOUT);
            match verdict(planned.behaviour, company, *count) {
                Ending::Agent => {
                    steps.push((pause, Step::Die));
                    return steps;
                }
                Ending::Process(why) if !alone => {
                    if why == Interruption::TimedOut {
                        pause = CASE_TIMEOUT;
                    }
                    interruption = Some((why, Some(case)));
                    break;
                }
                Ending::Process(Interruption::TimedOut) => {
                    pause = CASE_TIMEOUT;
                    ends.push(end(case, Verdict::TimedOut, CASE_TIMEOUT));
                }
                Ending::Process(_) => ends.push(end(case, Verdict::Crashed { signal: 6 }, planned.duration)),
                Ending::Verdict(verdict) => ends.push(end(case, verdict, planned.duration)),
            }
        }
        let leaked_in_company = company && self.random.happens(5);
        steps.push((pause, Step::End(AttemptEnd::Ran { cases: ends, interruption, leaked_in_company })));
        steps
    }

    /// Takes warm services for an attempt, or starts them.
    pub(super) fn borrow_services(&mut self, epoch: Epoch, key: ActionKey) {
        if let Some(position) = self.warm.iter().position(|warm| *warm == key) {
            self.warm.swap_remove(position);
        }
        self.lent.insert(epoch, key);
    }

    /// Keeps what an attempt has used.
    pub(super) fn give_services_back(&mut self, epoch: Epoch) {
        self.warm.extend(self.lent.remove(&epoch));
        let surplus = self.warm.len().saturating_sub(WARM_SERVICES_MAX);
        self.warm.drain(..surplus);
    }

    pub(super) fn some_time(&mut self, low_ms: u64, high_ms: u64) -> Duration {
        Duration::from_micros(self.random.between(low_ms * 1000, high_ms * 1000))
    }
}

fn end(case: CaseIndex, verdict: Verdict, duration: Duration) -> CaseEnd {
    CaseEnd { case, verdict, duration, never_retry: false, leaked: false }
}

enum Ending {
    Verdict(Verdict),
    Process(Interruption),
    Agent,
}

fn verdict(behaviour: Behaviour, company: bool, count: u32) -> Ending {
    match behaviour {
        Behaviour::Passes => Ending::Verdict(Verdict::Passed),
        Behaviour::Fails => Ending::Verdict(Verdict::Failed),
        Behaviour::FailsAtFirst(times) if count <= times => Ending::Verdict(Verdict::Failed),
        Behaviour::FailsAtFirst(_) => Ending::Verdict(Verdict::Passed),
        Behaviour::SuffersFromCompany if company => Ending::Verdict(Verdict::Failed),
        Behaviour::SuffersFromCompany => Ending::Verdict(Verdict::Passed),
        Behaviour::Crashes => Ending::Process(Interruption::Crashed { signal: 6 }),
        Behaviour::Hangs => Ending::Process(Interruption::TimedOut),
        Behaviour::KillsAgents => Ending::Agent,
    }
}
