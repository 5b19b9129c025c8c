//! What is true after every event. Numbers are those of the protocol's invariants; those not here need a ledger or a history to be checked.

use alloc::collections::BTreeMap;
use core::cmp::Reverse;

use muster_model::attempt::Work;
use muster_model::{AgentId, CaseIndex, RunId, TargetIndex};

use crate::Scheduler;
use crate::agents::AgentState;
use crate::case::CaseState;
use crate::leases::Recall;
use crate::run::{Discovery, Purpose, Run, Target};
use crate::shard::Load;
use crate::share::Share;

/// The agents that hold each case.
type Holders = BTreeMap<(RunId, TargetIndex, CaseIndex), alloc::vec::Vec<AgentId>>;

impl Scheduler {
    /// Checks everything that has to be true between events, in time linear in everything that is open.
    ///
    /// - I1, I3: a case has at most one published outcome, so that what was published and what is decided agree in number;
    /// - I5: a case is in at most two open leases, never on one agent, and in two only if the second is a copy;
    /// - I7: no agent holds more than its slots and the prefetch;
    /// - I10: every planned case is queued, leased or decided, and the queues and counts agree with that.
    ///
    /// # Panics
    ///
    /// When one of them does not hold: that is a mistake in this crate, whatever peers have sent.
    pub fn assert_invariants(&self) {
        let holders = self.assert_leases();
        for (&id, run) in &self.runs {
            self.assert_run(id, run, &holders);
        }
        self.assert_actions();
        self.assert_agents();
        self.assert_classes();
        self.assert_groups();
        self.warm.assert_consistent();
    }

    fn assert_groups(&self) {
        for (group, holders) in self.groups.held() {
            let mut fresh = 0;
            for epoch in holders {
                let lease = self.leases.get(&epoch);
                assert!(lease.is_some() || self.groups.is_vacating(epoch), "group {group} is held by somebody");
                fresh += u32::from(!lease.is_none_or(|lease| lease.is_restored));
            }
            #[cfg(feature = "planted-bugs")]
            let fresh = if self.config.planted.is_some() { 0 } else { fresh };
            assert!(fresh <= 1, "group {group} was given to {fresh} attempts");
        }
        for (epoch, lease) in &self.leases {
            assert!(lease.exclusive.is_empty() || !self.groups.are_free(&lease.exclusive), "{epoch} holds its groups");
        }
    }

    fn assert_actions(&self) {
        let mut count = 0;
        for (&id, run) in &self.runs {
            for (&index, target) in &run.targets {
                assert_eq!(target.action.is_some(), run.purpose != Purpose::Tests, "only invocations have actions");
                let Some(note) = &target.action else { continue };
                count += 1;
                assert_eq!(self.actions.get(&note.id), Some(&(id, index)), "action {} is found", note.id);
                assert!(
                    note.leases.iter().all(|epoch| run.leases.contains(epoch)),
                    "action {} has open leases",
                    note.id
                );
                assert_eq!(target.cases.len(), 1, "action {} is one case", note.id);
            }
        }
        assert_eq!(self.actions.len(), count, "every action is in an invocation");
    }

    fn assert_leases(&self) -> Holders {
        let mut holders = Holders::new();
        for (&epoch, lease) in &self.leases {
            assert!(epoch.0 < self.next_epoch, "lease {epoch} is older than the next epoch");
            let run = self.runs.get(&lease.run).expect("a lease belongs to an open run");
            assert!(run.leases.contains(&epoch), "run {} knows its lease {epoch}", lease.run);
            let agent = self.agents.get(&lease.agent).expect("a lease belongs to a known agent");
            assert!(agent.leases.contains(&epoch), "agent {} knows its lease {epoch}", lease.agent);
            let target = run.target(lease.target).expect("a lease belongs to a target of its run");
            let note = target.action.as_ref();
            assert_eq!(note.is_some(), lease.work == Work::Action, "lease {epoch} is of its target's kind");
            if let Some(note) = note {
                assert!(note.leases.contains(&epoch), "action {} knows its lease {epoch}", note.id);
                assert!(epoch.0 < self.reserved_below, "the epoch of lease {epoch} is reserved");
            }
            if lease.work == Work::Discover {
                assert_eq!(target.discovery, Discovery::Leased(epoch), "a discovery is in one lease");
                continue;
            }
            let mut undecided = 0;
            for &case in lease.cases() {
                let state = target.case(case).expect("a leased case exists").state;
                if state == CaseState::Decided {
                    continue;
                }
                undecided += 1;
                let agents = holders.entry((lease.run, lease.target, case)).or_default();
                assert!(!agents.contains(&lease.agent), "I5: case {case} is twice on agent {}", lease.agent);
                agents.push(lease.agent);
            }
            assert_eq!(lease.undecided, undecided, "lease {epoch} counts its undecided cases");
            assert!(undecided > 0, "lease {epoch} is of use");
        }
        holders
    }

    fn assert_run(&self, id: RunId, run: &Run, holders: &Holders) {
        assert!(!run.is_over(), "run {id} is over and was not finished");
        let (mut planned, mut undecided, mut undiscovered) = (0, 0, 0);
        let mut loads: BTreeMap<_, Load> = BTreeMap::new();
        for (&index, target) in &run.targets {
            planned += target.cases.len() as u32;
            undiscovered += u32::from(!matches!(target.discovery, Discovery::Done | Discovery::Failed));
            for (position, case) in (0..).map(CaseIndex).zip(&target.cases) {
                let held = holders.get(&(id, index, position)).map_or(0, |agents| agents.len());
                let expected = match case.state {
                    CaseState::Queued | CaseState::Decided => 0,
                    CaseState::Leased => 1,
                    CaseState::LeasedTwice => 2,
                    CaseState::Loose => panic!("I10: case {position} of target {index} of run {id} was lost"),
                };
                assert_eq!(
                    held, expected,
                    "I5, I10: leases of case {position} of target {index} of run {id}, {:?}",
                    case.state
                );
                undecided += u32::from(case.state != CaseState::Decided);
                if case.state == CaseState::Queued {
                    let queue = if case.is_alone() { &target.alone } else { &target.company };
                    assert!(
                        queue.contains(position.0),
                        "I10: case {position} of target {index} of run {id} is in its queue"
                    );
                    loads.entry(target.class).or_default().add(case.expected());
                }
            }
            assert_target(id, index, run, target);
        }
        assert_eq!(run.planned, planned, "run {id} counts its cases");
        assert_eq!(run.undecided, undecided, "run {id} counts its undecided cases");
        assert_eq!(run.undiscovered, undiscovered, "run {id} counts its undiscovered targets");
        assert_eq!(run.reported, planned - undecided, "I1, I3: every decided case of run {id} was published once");
        for (class, ready) in &run.ready {
            assert_eq!(ready.load, loads.get(class).copied().unwrap_or_default(), "run {id} counts its queue");
            let next = ready.targets.first().map(|&(Reverse((Reverse(priority), _)), _)| priority);
            assert_eq!(
                ready.listed,
                next.map(|priority| Share::new(self.in_use(run), priority)),
                "run {id} knows its share"
            );
            let is_listed = ready.listed.is_some_and(|share| self.classes.get(*class).ready.contains(&(share, id)));
            assert_eq!(is_listed, !ready.targets.is_empty(), "run {id} is among the ready ones if it is");
        }
    }

    fn assert_agents(&self) {
        for (&id, agent) in &self.agents {
            let held = agent.leases.len() as u32;
            let (slots, most) = (agent.slots_held, agent.slots_max);
            assert!(slots <= most, "I7: agent {id} holds attempts for {slots} slots of {most}");
            let leases = || agent.leases.iter().filter_map(|epoch| self.leases.get(epoch));
            let counted = (leases().map(|lease| lease.slots).sum(), leases().map(|lease| lease.memory_bytes).sum());
            assert_eq!(counted, (slots, agent.memory_held), "agent {id} counts what its attempts take");
            let claims = |index| self.classes.find_ref(index).is_some_and(|class| class.claim == Some(id));
            assert!(agent.claimed.is_none_or(claims), "agent {id} is kept free for who has claimed it");
            for epoch in &agent.leases {
                let lease = self.leases.get(epoch).expect("an agent's lease is open");
                assert_eq!(lease.agent, id, "a lease belongs to one agent");
            }
            if agent.state == AgentState::Silent {
                assert_eq!(held, 0, "silent agent {id} has lost its leases");
            }
            let is_due = agent.deadline.is_some_and(|deadline| self.deadlines.contains(&(deadline, id)));
            assert_eq!(is_due, agent.deadline.is_some(), "agent {id} has its deadline");
        }
    }

    fn assert_classes(&self) {
        for (index, class) in self.classes.iter() {
            let users =
                self.runs.values().flat_map(|run| run.targets.values()).filter(|target| target.class == index).count();
            assert_eq!(class.users as usize, users, "a class counts its users");
            let recalls = self.leases.values().filter(|lease| lease.class == index && lease.recall == Recall::Asked);
            assert_eq!(class.recalls as usize, recalls.count(), "a class counts its recalls");
            let serves = |agent: &&crate::agents::Agent| {
                agent.state == AgentState::Connected
                    && !agent.is_fresh
                    && agent.offer.satisfies(&class.requirements).is_ok()
            };
            let (mut agents, mut slots, mut idle) = (0, 0, 0);
            for agent in self.agents.values().filter(serves) {
                agents += 1;
                let (whole, free, _) = agent.room(&class.requirements.resources, self.config.prefetch_per_agent);
                slots += whole;
                idle += if agent.claimed.is_some_and(|claimant| claimant != index) { 0 } else { free };
            }
            assert_eq!(
                (class.agents, class.slots, class.idle_slots),
                (agents, slots, idle),
                "a class counts its agents"
            );
        }
    }
}

fn assert_target(id: RunId, index: TargetIndex, run: &Run, target: &Target) {
    let queued = target.cases.iter().filter(|case| case.state == CaseState::Queued).count();
    assert_eq!(target.queued as usize, queued, "target {index} of run {id} counts its queue");
    let is_waiting = queued > 0 || target.discovery == Discovery::Queued;
    assert_eq!(target.urgency.is_some(), is_waiting, "target {index} of run {id} is among the ready ones if it is");
    let listed = run.ready.get(&target.class).is_some_and(|ready| {
        target.urgency.is_some_and(|urgency| ready.targets.contains(&(core::cmp::Reverse(urgency), index)))
    });
    assert_eq!(listed, is_waiting, "target {index} of run {id} is listed by its urgency");
}
