//! Runs and their cases coming in.

use alloc::vec::Vec;

use muster_model::attempt::Work;
use muster_model::platform::Requirements;
use muster_model::spec::Isolation;
use muster_model::{AgentId, CaseIndex, Epoch, RunId, TargetIndex};

use crate::agents::{Agent, AgentState};
use crate::case::{Case, CaseState};
use crate::classes::ClassIndex;
use crate::event::{CaseSeed, SchedulingPolicy, TargetSeed};
use crate::leases::Lease;
use crate::queue::Queue;
use crate::run::{Discovery, Purpose, Run, Target};
use crate::{Command, Scheduler};

impl Scheduler {
    pub(crate) fn open_run(&mut self, id: RunId, policy: SchedulingPolicy, seeds: &[TargetSeed]) {
        if self.runs.contains_key(&id) {
            return;
        }
        let mut run = Run::new(Purpose::Tests, policy, self.now);
        run.undiscovered = seeds.len() as u32;
        for (index, seed) in (0..).map(TargetIndex).zip(seeds) {
            let class = self.acquire_class(&seed.requirements);
            let mut target = Target::new(class, seed.needs_discovery, seed.retries.unwrap_or(policy.retries));
            target.discovery_tries = seed.discovery_tries;
            target.services = seed.services;
            #[cfg(feature = "planted-bugs")]
            if self.is_planted(crate::PlantedBug::TriesForgotten) {
                target.discovery_tries = Default::default();
            }
            run.targets.insert(index, target);
        }
        self.runs.insert(id, run);
        for index in 0..seeds.len() as u32 {
            self.refresh_target(id, TargetIndex(index));
        }
        self.settle_run(id);
    }

    /// The class of a set of requirements, with one more user.
    pub(crate) fn acquire_class(&mut self, requirements: &Requirements) -> ClassIndex {
        let (class, is_new) = self.classes.acquire(requirements, self.now);
        if is_new {
            self.match_class(class);
        }
        class
    }

    pub(crate) fn take_cases(&mut self, id: RunId, index: TargetIndex, seeds: &[CaseSeed]) {
        #[cfg(feature = "planted-bugs")]
        let forgetful: Vec<CaseSeed> =
            seeds.iter().map(|seed| CaseSeed { tries: Default::default(), ..*seed }).collect();
        #[cfg(feature = "planted-bugs")]
        let seeds = if self.is_planted(crate::PlantedBug::TriesForgotten) { forgetful.as_slice() } else { seeds };
        let Some(run) = self.runs.get_mut(&id) else { return };
        let always_alone = run.policy.isolation == Isolation::Process;
        let Some(target) = run.target(index) else { return };
        let discovery = target.discovery;
        if matches!(discovery, Discovery::Done | Discovery::Failed) {
            return;
        }
        if let Discovery::Leased(epoch) = discovery {
            self.withdraw(epoch);
        }
        let Some(run) = self.runs.get_mut(&id) else { return };
        let target = run.target_mut(index);
        target.discovery = Discovery::Done;
        target.has_groups = seeds.iter().any(|seed| seed.opens_group);
        target.cases = seeds.iter().map(|seed| Case::new(seed, always_alone)).collect();
        let mut undecided = Vec::with_capacity(seeds.len());
        for (position, seed) in seeds.iter().enumerate() {
            match seed.decided {
                Some(outcome) => run.tally(outcome),
                None => {
                    if let Some(epoch) = seed.tries.failed_in_company {
                        let case = CaseIndex(position as u32);
                        run.target_mut(index).company_failures.insert(case, epoch);
                    }
                    run.to_execute.add(run.target(index).and_then(|target| target.cases[position].expected()));
                    undecided.push(position);
                }
            }
        }
        run.planned += seeds.len() as u32;
        run.undecided += undecided.len() as u32;
        run.undiscovered -= 1;
        for position in undecided {
            self.mark_queued(id, index, position);
        }
        if let Some(run) = self.runs.get_mut(&id) {
            let target = run.target_mut(index);
            target.company = Queue::new(&target.cases, false);
            target.alone = Queue::new(&target.cases, true);
        }
        self.refresh_target(id, index);
        self.settle_run(id);
    }

    pub(crate) fn restore_lease(&mut self, epoch: Epoch, agent: AgentId, run: RunId, index: TargetIndex, work: Work) {
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::RestoredLeaseIgnored) {
            return;
        }
        self.next_epoch = self.next_epoch.max(epoch.0.saturating_add(1));
        if self.leases.contains_key(&epoch) {
            return;
        }
        if !self.can_restore(agent, run, index, &work) {
            self.push(Command::Withdraw { agent, epoch });
            return;
        }
        if !self.agents.contains_key(&agent) {
            self.agents.insert(agent, Agent::new(AgentState::Disconnected, self.now));
            self.set_deadline(agent, Some(self.now + self.config.lease_time));
        }
        if let (Work::Cases { cases, alone: true }, Some(run)) = (&work, self.runs.get_mut(&run)) {
            for &case in cases {
                run.target_mut(index).case_mut(case).mark_alone();
            }
        }
        let Some(class) = self.runs.get(&run).and_then(|run| run.target(index)).map(|target| target.class) else {
            return;
        };
        let mut lease = Lease::new(agent, run, index, class, work, self.now);
        lease.is_restored = true;
        self.insert_lease(epoch, lease);
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.slots_max = agent.slots_max.max(agent.slots_held);
        }
    }

    /// Whether a restored lease still has something to do and each of its cases can be in one more lease.
    fn can_restore(&self, agent: AgentId, run: RunId, index: TargetIndex, work: &Work) -> bool {
        let Some(target) = self.runs.get(&run).and_then(|run| run.target(index)) else { return false };
        let Work::Cases { cases, .. } = work else { return target.discovery == Discovery::Queued };
        let is_known = cases.iter().all(|&case| target.case(case).is_some());
        let is_free = cases.iter().all(|&case| match target.case(case).map(|case| case.state) {
            Some(CaseState::Queued | CaseState::Decided) => true,
            Some(CaseState::Leased) => !self.agents.get(&agent).is_some_and(|agent| {
                let holds = |epoch: &Epoch| {
                    self.leases
                        .get(epoch)
                        .is_some_and(|lease| lease.run == run && lease.target == index && lease.cases().contains(&case))
                };
                agent.leases.iter().any(holds)
            }),
            _ => false,
        });
        let is_useful =
            cases.iter().any(|&case| target.case(case).is_some_and(|case| case.state != CaseState::Decided));
        is_known && is_free && is_useful
    }
}
