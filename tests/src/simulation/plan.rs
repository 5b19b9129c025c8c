//! What a seed draws before anything happens.

use core::time::Duration;

use muster_model::key::ActionKey;
use muster_model::platform::{EnvironmentKind, Offer, Properties, Requirements, Resources};
use muster_model::spec::Isolation;
use muster_scheduler::SchedulingPolicy;

use super::actions::PlannedActions;
use crate::seed::Random;

/// The mistake to make on purpose, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// In the scheduler.
    #[cfg(feature = "planted-bugs")]
    pub scheduler: Option<muster_scheduler::PlantedBug>,
    /// In every agent.
    #[cfg(feature = "planted-bugs")]
    pub agent: Option<muster_agent_state::PlantedBug>,
}

/// What a case does when it is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Passes, always.
    Passes,
    /// Fails, always.
    Fails,
    /// Fails this many times, then passes.
    FailsAtFirst(u32),
    /// Fails in company, passes alone.
    SuffersFromCompany,
    /// Takes its process down.
    Crashes,
    /// Never ends by itself.
    Hangs,
    /// Takes its agent down.
    KillsAgents,
}

/// One case.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlannedCase {
    pub(super) behaviour: Behaviour,
    pub(super) duration: Duration,
    pub(super) known: bool,
    pub(super) failed_last: bool,
    pub(super) needs_alone: bool,
    pub(super) opens_group: bool,
}

/// One target.
#[derive(Clone, Debug)]
pub(super) struct PlannedTarget {
    pub(super) requirements: Requirements,
    /// Instead of the run's.
    pub(super) retries: Option<u32>,
    /// The services that its attempts need.
    pub(super) services: Option<ActionKey>,
    pub(super) cases: Vec<PlannedCase>,
}

/// One run.
#[derive(Clone, Debug)]
pub(super) struct PlannedRun {
    pub(super) at: Duration,
    pub(super) policy: SchedulingPolicy,
    pub(super) targets: Vec<PlannedTarget>,
    pub(super) cancelled_after: Option<Duration>,
}

/// One agent.
#[derive(Clone, Debug)]
pub(super) struct PlannedAgent {
    pub(super) slots: u32,
    pub(super) offer: Offer,
    /// Thousandths by which its clock runs fast (over 1,000) or slow.
    pub(super) clock_permille: u64,
}

/// How bad the first phase is. Rates are per thousand messages, or mean times between.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weather {
    pub(super) drop_permille: u64,
    pub(super) double_permille: u64,
    pub(super) delay_ms_max: u64,
    pub(super) reorder_permille: u64,
    pub(super) fault_every_ms: u64,
    pub(super) environment_fault_permille: u64,
    pub(super) crashes_coordinator: bool,
    /// Agents that are killed stay away for good, except for the first one.
    pub(super) deaths_are_final: bool,
}

/// Everything that a seed draws before anything happens.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) agents: Vec<PlannedAgent>,
    pub(super) runs: Vec<PlannedRun>,
    pub(super) actions: PlannedActions,
    pub(super) weather: Weather,
    /// When faults stop.
    pub(super) calm_at: Duration,
}

impl Plan {
    pub(super) fn draw(random: &mut Random) -> Self {
        let agents = (0..random.between(1, 7)).map(|_| agent(random)).collect();
        let hostile = random.happens(150);
        let runs = (0..random.between(1, 3)).map(|_| run(random, hostile)).collect();
        let stormy = random.between(0, 3);
        let weather = Weather {
            drop_permille: random.between(0, 60) * stormy.min(1),
            double_permille: random.between(0, 100) * stormy.min(1),
            delay_ms_max: random.between(1, 300),
            reorder_permille: random.between(0, 20) * stormy.min(1),
            fault_every_ms: [u64::MAX, 6000, 3000, 1000][stormy as usize],
            environment_fault_permille: if random.happens(300) { random.between(0, 50) } else { 0 },
            crashes_coordinator: random.happens(500),
            deaths_are_final: random.happens(300),
        };
        let actions = PlannedActions::draw(&mut random.fork(), hostile);
        Self { agents, runs, actions, weather, calm_at: Duration::from_millis(random.between(5000, 40_000)) }
    }
}

fn agent(random: &mut Random) -> PlannedAgent {
    let pool = if random.happens(800) { "a" } else { "b" };
    let offer = Offer {
        bases: Vec::new(),
        environments: vec![EnvironmentKind::Sandbox],
        properties: Properties::new([("pool".into(), pool.into())]),
        slots: random.between(1, 3) as u32,
        memory_bytes: random.between(2, 4),
        without: Vec::new(),
    };
    PlannedAgent { slots: offer.slots, offer, clock_permille: random.between(970, 1030) }
}

fn run(random: &mut Random, hostile: bool) -> PlannedRun {
    let policy = SchedulingPolicy {
        isolation: if random.happens(300) { Isolation::Process } else { Isolation::Auto },
        retries: if random.happens(500) { random.between(1, 3) as u32 } else { 0 },
        fail_fast: random.happens(80),
    };
    let targets = (0..random.between(1, 3)).map(|_| target(random, hostile)).collect();
    PlannedRun {
        at: Duration::from_millis(random.between(0, 5000)),
        policy,
        targets,
        cancelled_after: random.happens(60).then(|| Duration::from_millis(random.between(0, 8000))),
    }
}

fn target(random: &mut Random, hostile: bool) -> PlannedTarget {
    let pool = random.happens(300).then(|| ("pool".into(), "a".into()));
    let mean_ms = [5, 50, 400, 1500][random.between(0, 3) as usize];
    let trouble = if random.happens(500) { random.between(0, 200) } else { 0 };
    // Now and then a target has nothing to run.
    let count = Some(random.between(0, 60)).filter(|count| *count > 3).unwrap_or(0);
    let cases = (0..count).map(|_| case(random, hostile, mean_ms, trouble)).collect();
    let retries = random.happens(200).then(|| random.between(0, 3) as u32);
    let resources = if random.happens(400) { resources(random) } else { Resources::default() };
    let requirements = Requirements { properties: Properties::new(pool), resources, ..Requirements::default() };
    let services = random.happens(400).then(|| ActionKey([random.between(1, 2) as u8; 32]));
    PlannedTarget { requirements, retries, services, cases }
}

/// More than any one slot, perhaps.
fn resources(random: &mut Random) -> Resources {
    let mut exclusive: Vec<String> =
        (0..2).filter(|_| random.happens(500)).map(|group| format!("group-{group}")).collect();
    exclusive.sort();
    Resources {
        slots: random.between(1, 2) as u32,
        memory_bytes: if random.happens(300) { random.between(1, 2) } else { 0 },
        exclusive,
    }
}

fn case(random: &mut Random, hostile: bool, mean_ms: u64, trouble: u64) -> PlannedCase {
    let behaviour = if !random.happens(trouble) {
        Behaviour::Passes
    } else {
        match random.between(0, if hostile { 9 } else { 8 }) {
            0 | 1 => Behaviour::Fails,
            2 | 3 => Behaviour::FailsAtFirst(random.between(1, 3) as u32),
            4 | 5 => Behaviour::SuffersFromCompany,
            6 | 7 => Behaviour::Crashes,
            8 => Behaviour::Hangs,
            _ => Behaviour::KillsAgents,
        }
    };
    PlannedCase {
        behaviour,
        duration: Duration::from_millis(random.between(1, 2 * mean_ms)),
        known: random.happens(600),
        failed_last: random.happens(50),
        needs_alone: random.happens(50),
        opens_group: random.happens(100),
    }
}
