//! Opening and closing leases, and moving cases between their states.

use alloc::vec::Vec;
use core::cmp::Reverse;

use muster_model::attempt::Work;
use muster_model::{CaseIndex, Epoch, RunId, TargetIndex};

use crate::case::CaseState;
use crate::classes::ClassIndex;
use crate::leases::{Closed, Lease, Recall};
use crate::run::Discovery;
use crate::share::Share;
use crate::{Command, Scheduler};

impl Scheduler {
    /// Leases work to an agent: recorded, then assigned. An action's lease is not recorded, its epoch is reserved.
    pub(crate) fn lease(&mut self, lease: Lease) {
        let Lease { agent, run, target, .. } = lease;
        if lease.work == Work::Action {
            self.reserve_epochs();
        }
        let epoch = self.draw_epoch();
        let work = lease.work.clone();
        self.insert_lease(epoch, lease);
        if let Some(action) = self.action_of(run, target) {
            self.push(Command::AssignAction { agent, epoch, action });
            return;
        }
        let record = Command::RecordLease { epoch, agent, run, target, work };
        let assign = Command::Assign { agent, epoch };
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::AssignBeforeRecord) {
            self.push(assign);
            self.push(record);
            return;
        }
        self.push(record);
        self.push(assign);
    }

    fn draw_epoch(&mut self) -> Epoch {
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::EpochReused) && self.next_epoch.is_multiple_of(5) {
            let last = Epoch(self.next_epoch - 1);
            if !self.leases.contains_key(&last) {
                return last;
            }
        }
        let epoch = Epoch(self.next_epoch);
        self.next_epoch += 1;
        epoch
    }

    /// Enters a lease everywhere; its cases leave the queue.
    pub(crate) fn insert_lease(&mut self, epoch: Epoch, mut lease: Lease) {
        let (agent, run, target) = (lease.agent, lease.run, lease.target);
        let resources = &self.classes.get(lease.class).requirements.resources;
        (lease.slots, lease.memory_bytes) = (resources.slots_taken(), resources.memory_bytes);
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::WideTakesOneSlot) {
            lease.slots = 1;
        }
        lease.exclusive.clone_from(&resources.exclusive);
        self.groups.take(epoch, &lease.exclusive);
        lease.undecided = 0;
        for position in 0..lease.cases().len() {
            let case = lease.cases()[position];
            if self.hold_case(run, target, case, epoch, lease.copy_of) {
                lease.undecided += 1;
            }
        }
        if lease.work == Work::Discover {
            self.with_target(run, target, |target| target.discovery = Discovery::Leased(epoch));
        }
        self.with_action(run, target, |action| action.leases.push(epoch));
        if lease.copy_of.is_some() {
            self.copies.insert(epoch);
        }
        if let Some(services) = self.services_of(run, target) {
            self.warm.take(agent, services);
        }
        let (slots, memory_bytes) = (lease.slots, lease.memory_bytes);
        self.leases.insert(epoch, lease);
        self.change_run_leases(run, |leases| {
            leases.insert(epoch);
        });
        self.refresh_target(run, target);
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.leases.insert(epoch);
            agent.slots_held += slots;
            agent.memory_held += memory_bytes;
        }
        self.refresh_agent(agent);
    }

    /// One more lease for a case; false when it is decided already.
    fn hold_case(
        &mut self,
        run: RunId,
        target: TargetIndex,
        case: CaseIndex,
        epoch: Epoch,
        copy_of: Option<Epoch>,
    ) -> bool {
        match self.case_state(run, target, case) {
            Some(CaseState::Queued) => self.unqueue(run, target, case),
            Some(CaseState::Loose) => {}
            Some(CaseState::Leased) => {
                let other = copy_of.or_else(|| self.find_lease_of(run, target, case));
                self.with_target(run, target, |target| {
                    target.case_mut(case).state = CaseState::LeasedTwice;
                    target.twins.insert(case, [other.unwrap_or(epoch), epoch]);
                });
                return true;
            }
            Some(CaseState::LeasedTwice | CaseState::Decided) | None => return false,
        }
        self.with_target(run, target, |target| target.case_mut(case).state = CaseState::Leased);
        true
    }

    /// Looks through a run's leases: only for restored ones.
    fn find_lease_of(&self, run: RunId, target: TargetIndex, case: CaseIndex) -> Option<Epoch> {
        let holds = |epoch: &Epoch| {
            self.leases.get(epoch).is_some_and(|lease| lease.target == target && lease.cases().contains(&case))
        };
        self.runs.get(&run)?.leases.iter().copied().find(holds)
    }

    pub(crate) fn case_state(&self, run: RunId, target: TargetIndex, case: CaseIndex) -> Option<CaseState> {
        Some(self.runs.get(&run)?.target(target)?.case(case)?.state)
    }

    /// Takes a lease out everywhere. Its undecided cases are then in another lease, or loose: the caller has to decide or queue them.
    pub(crate) fn close(&mut self, epoch: Epoch) -> Option<Closed> {
        let lease = self.leases.remove(&epoch)?;
        self.copies.remove(&epoch);
        #[cfg(feature = "planted-bugs")]
        self.closed.insert(epoch, (lease.run, lease.target, self.action_of(lease.run, lease.target)));
        if let Some(class) = self.classes.find(lease.class) {
            if let Some(at) = lease.straggles_at {
                class.stragglers.remove(&(at, epoch));
            }
            if lease.recall == Recall::Asked {
                class.recalls -= 1;
            }
        }
        self.change_run_leases(lease.run, |leases| {
            leases.remove(&epoch);
        });
        self.with_action(lease.run, lease.target, |action| action.leases.retain(|&held| held != epoch));
        let (mut loose, mut shared) = (Vec::new(), Vec::new());
        self.with_target(lease.run, lease.target, |target| {
            if target.discovery == Discovery::Leased(epoch) {
                target.discovery = Discovery::Awaited;
            }
            for &index in lease.cases() {
                let case = target.case_mut(index);
                match case.state {
                    CaseState::Leased => {
                        case.state = CaseState::Loose;
                        target.twins.remove(&index);
                        loose.push(index);
                    }
                    CaseState::LeasedTwice => {
                        case.state = CaseState::Leased;
                        shared.push(index);
                    }
                    CaseState::Queued | CaseState::Loose | CaseState::Decided => {}
                }
            }
        });
        if let Some(agent) = self.agents.get_mut(&lease.agent) {
            agent.leases.remove(&epoch);
            agent.slots_held -= lease.slots;
            agent.memory_held -= lease.memory_bytes;
        }
        self.refresh_agent(lease.agent);
        self.let_groups_go(epoch, &lease);
        Some(Closed { epoch, lease, loose, shared })
    }

    /// An attempt whose lease is closed may run on until its agent knows, unless it is the agent that has told of its end.
    fn let_groups_go(&mut self, epoch: Epoch, lease: &Lease) {
        self.groups.release(epoch, &lease.exclusive);
        #[cfg(feature = "planted-bugs")]
        if self.is_planted(crate::PlantedBug::GroupsFreedAtWithdrawal) {
            return;
        }
        let until = self.now + self.config.lease_time;
        self.groups.vacate(epoch, lease.agent, lease.exclusive.clone(), until);
    }

    /// Closes a lease whose work is of no use any more; its undecided cases are queued again.
    pub(crate) fn withdraw(&mut self, epoch: Epoch) {
        let Some(closed) = self.close(epoch) else { return };
        self.push(Command::Withdraw { agent: closed.lease.agent, epoch });
        for case in closed.loose {
            self.enqueue(closed.lease.run, closed.lease.target, case);
        }
        self.refresh_target(closed.lease.run, closed.lease.target);
    }

    /// Queues a loose case.
    pub(crate) fn enqueue(&mut self, run: RunId, target: TargetIndex, case: CaseIndex) {
        self.mark_queued(run, target, case.0 as usize);
        self.with_target(run, target, |target| {
            let queue = if target.cases[case.0 as usize].is_alone() { &mut target.alone } else { &mut target.company };
            queue.push(&target.cases, case.0);
        });
    }

    /// Counts a loose case as queued; its entry in a queue is the caller's.
    pub(crate) fn mark_queued(&mut self, run: RunId, target: TargetIndex, position: usize) {
        let Some(run) = self.runs.get_mut(&run) else { return };
        let target = run.target_mut(target);
        let case = &mut target.cases[position];
        case.state = CaseState::Queued;
        target.queued += 1;
        let expected = case.expected();
        let class = target.class;
        run.ready.entry(class).or_default().load.add(expected);
    }

    /// Counts a queued case as loose. Its entry in a queue is dropped when it gets to the front.
    pub(crate) fn unqueue(&mut self, run: RunId, target: TargetIndex, case: CaseIndex) {
        let Some(run) = self.runs.get_mut(&run) else { return };
        let target = run.target_mut(target);
        let case = target.case_mut(case);
        case.state = CaseState::Loose;
        let expected = case.expected();
        target.queued -= 1;
        let class = target.class;
        run.ready.entry(class).or_default().load.remove(expected);
    }

    /// Brings a target's place among its run's ready targets, and the run's among its class's, up to date.
    pub(crate) fn refresh_target(&mut self, id: RunId, index: TargetIndex) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let Some(target) = run.targets.get_mut(&index) else { return };
        let (old, new, class) = (target.urgency, target.find_urgency(), target.class);
        if old == new {
            return;
        }
        target.urgency = new;
        let ready = run.ready.entry(class).or_default();
        if let Some(old) = old {
            ready.targets.remove(&(Reverse(old), index));
        }
        if let Some(new) = new {
            ready.targets.insert((Reverse(new), index));
        }
        self.relist_run(id, class);
    }

    /// Attempts of a run that count when the next one is chosen.
    pub(crate) fn in_use(&self, run: &crate::run::Run) -> u32 {
        #[cfg(feature = "planted-bugs")]
        if run.purpose != crate::run::Purpose::Tests && self.is_planted(crate::PlantedBug::ActionShareIgnored) {
            return 0;
        }
        run.in_use()
    }

    /// Brings a run's place among its class's ready runs up to date.
    fn relist_run(&mut self, id: RunId, class: ClassIndex) {
        let Some(in_use) = self.runs.get(&id).map(|run| self.in_use(run)) else { return };
        let Some(run) = self.runs.get_mut(&id) else { return };
        let Some(ready) = run.ready.get_mut(&class) else { return };
        let next = ready.targets.first().map(|&(Reverse((Reverse(priority), _)), _)| priority);
        let listed = next.map(|priority| Share::new(in_use, priority));
        if listed == ready.listed {
            return;
        }
        let old = core::mem::replace(&mut ready.listed, listed);
        let runs = &mut self.classes.get_mut(class).ready;
        if let Some(old) = old {
            runs.remove(&(old, id));
        }
        if let Some(new) = listed {
            runs.insert((new, id));
        }
        self.classes.refresh(class);
    }

    fn change_run_leases(&mut self, id: RunId, change: impl FnOnce(&mut alloc::collections::BTreeSet<Epoch>)) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        change(&mut run.leases);
        let classes: Vec<ClassIndex> = run.ready.keys().copied().collect();
        for class in classes {
            self.relist_run(id, class);
        }
    }

    pub(crate) fn with_target<T>(
        &mut self,
        run: RunId,
        target: TargetIndex,
        change: impl FnOnce(&mut crate::run::Target) -> T,
    ) -> Option<T> {
        let target = self.runs.get_mut(&run)?.targets.get_mut(&target)?;
        Some(change(target))
    }
}
