//! Figure 7: how the scheduler alone behaves with up to a million queued cases and ten thousand agents.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use muster_model::attempt::{AttemptStatus, Stage, Work};
use muster_model::outcome::Verdict;
use muster_model::platform::{EnvironmentKind, Offer, Requirements};
use muster_model::{AgentId, CaseIndex, Epoch, Instant, RunId, TargetIndex};
use muster_scheduler::{
    AttemptEnd, CaseEnd, CaseSeed, Command, Config, Event, Scheduler, SchedulingPolicy, TargetSeed,
};

use super::{Bench, median};
use crate::seed::Random;

/// Agents of one slot that do what they are told at once and report each end.
struct Crowd {
    scheduler: Scheduler,
    now: Instant,
    events: u64,
    work: BTreeMap<Epoch, Vec<CaseIndex>>,
    /// What runs, by the time of its end.
    running: BinaryHeap<Reverse<(Instant, Epoch, AgentId)>>,
    durations: Vec<Duration>,
    held: BTreeMap<AgentId, Vec<Epoch>>,
    decided: usize,
    finished: bool,
}

impl Crowd {
    fn handle(&mut self, event: Event) {
        self.events += 1;
        self.scheduler.handle_event(self.now, event);
        while let Some(command) = self.scheduler.poll_command() {
            match command {
                Command::RecordLease { epoch, work: Work::Cases { cases, .. }, .. } => {
                    self.work.insert(epoch, cases);
                }
                Command::Assign { agent, epoch } => {
                    let held = self.held.entry(agent).or_default();
                    held.push(epoch);
                    if held.len() == 1 {
                        self.start(agent, epoch);
                    }
                }
                Command::Withdraw { agent, epoch } => self.drop_attempt(agent, epoch),
                Command::Recall { agent, epoch } if self.held[&agent].first() != Some(&epoch) => {
                    self.drop_attempt(agent, epoch);
                    let end = AttemptEnd::Fault(muster_model::outcome::FaultKind::Returned);
                    self.scheduler.handle_event(self.now, Event::AttemptFinished { agent, epoch, end });
                }
                Command::DecideCase { .. } => self.decided += 1,
                Command::FinishRun { .. } => self.finished = true,
                _ => {}
            }
        }
    }

    fn drop_attempt(&mut self, agent: AgentId, epoch: Epoch) {
        let held = self.held.entry(agent).or_default();
        let was_first = held.first() == Some(&epoch);
        held.retain(|other| *other != epoch);
        self.work.remove(&epoch);
        if was_first && let Some(&next) = self.held[&agent].first() {
            self.start(agent, next);
        }
    }

    fn start(&mut self, agent: AgentId, epoch: Epoch) {
        let time: Duration = self.work[&epoch].iter().map(|case| self.durations[case.0 as usize]).sum();
        self.running.push(Reverse((self.now + time, epoch, agent)));
    }

    fn report(&mut self, agent: AgentId) {
        let held = self.held.get(&agent).cloned().unwrap_or_default();
        let status = |(position, epoch): (usize, Epoch)| AttemptStatus {
            epoch,
            stage: if position == 0 { Stage::Running } else { Stage::Waiting },
            running: (position == 0).then_some(0),
        };
        let attempts = held.into_iter().enumerate().map(status).collect();
        self.handle(Event::AgentReported { agent, draining: false, attempts, warm: Vec::new() });
    }

    /// Runs everything to its end.
    fn run(&mut self) {
        while !self.finished {
            let Some(Reverse((at, epoch, agent))) = self.running.pop() else {
                panic!("nothing runs and nothing is left")
            };
            self.now = self.now.max(at);
            if self.held.get(&agent).and_then(|held| held.first()) != Some(&epoch) {
                continue;
            }
            let cases = self.work.get(&epoch).cloned().unwrap_or_default();
            let end = |case: CaseIndex| CaseEnd {
                case,
                verdict: Verdict::Passed,
                duration: self.durations[case.0 as usize],
                never_retry: false,
                leaked: false,
            };
            let end = AttemptEnd::Ran {
                cases: cases.into_iter().map(end).collect(),
                interruption: None,
                leaked_in_company: false,
            };
            self.drop_attempt(agent, epoch);
            self.handle(Event::AttemptFinished { agent, epoch, end });
            self.report(agent);
        }
    }
}

impl Bench {
    /// Prints events per second, bytes per queued case and their growth.
    ///
    /// # Panics
    ///
    /// When a case is not decided exactly once.
    pub fn scale(&self) {
        println!("\n### The scheduler alone\n");
        println!(
            "| agents | queued cases | bytes per queued case | queueing, median | events | events per second, median |"
        );
        println!("|---:|---:|---:|---:|---:|---:|");
        // The largest first: only a process that has freed nothing yet shows in its resident memory what is new.
        for (agents, cases) in [(10_000, 1_000_000), (1000, 1_000_000), (1000, 100_000), (100, 10_000)] {
            let rounds: Vec<Round> = (0..self.rounds).map(|_| one(agents, cases)).collect();
            let bytes = rounds.first().filter(|_| agents == 10_000).map(|round| format!("{:.0}", round.bytes));
            let events = rounds.first().map_or(0, |round| round.events);
            let queueing = median(rounds.iter().map(|round| round.queueing).collect()).as_secs_f64();
            let running = median(rounds.iter().map(|round| round.running).collect()).as_secs_f64();
            println!(
                "| {agents} | {cases} | {} | {queueing:.3} s | {events} | {:.0} |",
                bytes.unwrap_or_default(),
                events as f64 / running
            );
        }
    }
}

/// What one history came to.
struct Round {
    bytes: f64,
    queueing: Duration,
    events: u64,
    running: Duration,
}

fn one(agents: u64, cases: usize) -> Round {
    let before = resident_bytes();
    let mut random = Random::new(7);
    let durations: Vec<Duration> = (0..cases).map(|_| Duration::from_millis(random.between(20, 2000))).collect();
    let seeds: Vec<CaseSeed> =
        durations.iter().map(|time| CaseSeed { expected: Some(*time), ..CaseSeed::default() }).collect();
    // Simulated agents report only ends, so that what is measured is the scheduler and not the clock's keep-alive.
    let config = Config { lease_time: Duration::from_secs(1_000_000), ..Config::default() };
    let mut crowd = Crowd {
        scheduler: Scheduler::new(config, Epoch(1)),
        now: Instant::default(),
        events: 0,
        work: BTreeMap::new(),
        running: BinaryHeap::new(),
        durations,
        held: BTreeMap::new(),
        decided: 0,
        finished: false,
    };
    let run = RunId(1);
    let targets = vec![TargetSeed { requirements: Requirements::default(), ..TargetSeed::default() }];
    crowd.handle(Event::RunSubmitted { run, policy: SchedulingPolicy::default(), targets });
    let start = std::time::Instant::now();
    crowd.handle(Event::CasesDiscovered { run, target: TargetIndex(0), cases: seeds });
    let queueing = start.elapsed();
    // The benchmark's own list of durations is no part of the scheduler.
    let own = size_of_val(crowd.durations.as_slice()) as u64;
    let bytes = resident_bytes().saturating_sub(before + own) as f64 / cases as f64;
    let offer = Offer { environments: vec![EnvironmentKind::Sandbox], ..Offer::default() };
    let start = std::time::Instant::now();
    for agent in (1..=agents).map(AgentId) {
        crowd.handle(Event::AgentConnected { agent, slots: 1, offer: offer.clone() });
        crowd.report(agent);
    }
    crowd.run();
    let running = start.elapsed();
    assert_eq!(crowd.decided, cases, "every case is decided once");
    Round { bytes, queueing, events: crowd.events, running }
}

fn resident_bytes() -> u64 {
    let statistics = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statistics.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}
