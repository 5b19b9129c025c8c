//! Actions of the Remote Execution API.
//!
//! An invocation is a run whose targets come and go, and an action is a target with one case that always runs alone: so leases, fencing,
//! budgets of faults, recall, prefetch and copies are those of tests, and so is the share of the fleet that one client gets beside others.
//! What differs is here: an action ends with its attempt, whatever the program said; its lease is not recorded, because a result of the
//! cache's durability class may be lost, and instead epochs are reserved in blocks, so that fencing survives a restart all the same.

use alloc::vec;
use alloc::vec::Vec;

use muster_model::outcome::CaseOutcome;
use muster_model::{ActionId, CaseIndex, Epoch, InvocationId, RunId, TargetIndex};

use crate::case::Case;
use crate::event::{ActionSeed, CaseSeed, SchedulingPolicy};
use crate::queue::Queue;
use crate::run::{ActionNote, Discovery, Purpose, Run, Target};
use crate::{Command, Scheduler};

/// Runs of the ledger are counted from 1, so the upper half of the numbers is free for invocations.
const INVOCATIONS: u64 = 1 << 63;

const ONLY_CASE: CaseIndex = CaseIndex(0);

impl Scheduler {
    pub(crate) fn open_action(&mut self, action: ActionId, invocation: InvocationId, seed: &ActionSeed) {
        if self.actions.contains_key(&action) {
            return;
        }
        self.reserve_epochs();
        let class = self.acquire_class(&seed.requirements);
        let id = RunId(INVOCATIONS | invocation.0);
        let now = self.now;
        let run = self
            .runs
            .entry(id)
            .or_insert_with(|| Run::new(Purpose::Actions { next: 0 }, SchedulingPolicy::default(), now));
        let Purpose::Actions { next } = &mut run.purpose else { return };
        let index = TargetIndex(*next);
        *next = next.wrapping_add(1);
        let case = CaseSeed { expected: seed.expected, ..CaseSeed::default() };
        let mut target = Target::new(class, false, 0);
        target.discovery = Discovery::Done;
        let priority = seed.priority;
        #[cfg(feature = "planted-bugs")]
        let priority = if self.config.planted == Some(crate::PlantedBug::ActionPriorityIgnored) { 0 } else { priority };
        target.action = Some(ActionNote { id: action, priority, leases: Vec::new() });
        target.cases = vec![Case::new(&case, true)];
        run.targets.insert(index, target);
        run.planned += 1;
        run.undecided += 1;
        self.actions.insert(action, (id, index));
        self.mark_queued(id, index, 0);
        self.with_target(id, index, |target| target.alone = Queue::new(&target.cases, true));
        self.refresh_target(id, index);
    }

    /// Epochs are reserved long before the last reserved one is drawn, so that nothing has to wait for the ledger.
    pub(crate) fn reserve_epochs(&mut self) {
        let block = self.config.epochs_reserved.max(2);
        if self.next_epoch + block / 2 < self.reserved_below {
            return;
        }
        #[cfg(feature = "planted-bugs")]
        if self.reserved_below > 0 && self.is_planted(crate::PlantedBug::EpochsNotReserved) {
            return;
        }
        self.reserved_below = self.next_epoch + block;
        self.push(Command::ReserveEpochs { below: Epoch(self.reserved_below) });
    }

    pub(crate) fn cancel_action(&mut self, action: ActionId) {
        let Some(&(run, index)) = self.actions.get(&action) else { return };
        let leases = self.with_action(run, index, |action| action.leases.clone()).unwrap_or_default();
        #[cfg(feature = "planted-bugs")]
        if leases.is_empty() && self.is_planted(crate::PlantedBug::CancelledActionStaysQueued) {
            return;
        }
        for epoch in leases {
            if let Some(closed) = self.close(epoch) {
                #[cfg(feature = "planted-bugs")]
                if self.is_planted(crate::PlantedBug::CancelledActionNotWithdrawn) {
                    continue;
                }
                self.push(Command::Withdraw { agent: closed.lease.agent, epoch });
            }
        }
        self.decide(run, index, ONLY_CASE, CaseOutcome::Cancelled, None, None);
    }

    /// The action that a target stands for.
    pub(crate) fn action_of(&self, run: RunId, index: TargetIndex) -> Option<ActionId> {
        Some(self.runs.get(&run)?.target(index)?.action.as_ref()?.id)
    }

    pub(crate) fn with_action<T>(
        &mut self,
        run: RunId,
        index: TargetIndex,
        change: impl FnOnce(&mut ActionNote) -> T,
    ) -> Option<T> {
        self.with_target(run, index, |target| target.action.as_mut().map(change)).flatten()
    }

    /// Forgets an action that has ended, and its invocation when nothing else is open in it.
    pub(crate) fn remove_action(&mut self, id: RunId, index: TargetIndex) {
        let Some(action) = self.action_of(id, index) else { return };
        self.refresh_target(id, index);
        self.actions.remove(&action);
        let Some(run) = self.runs.get_mut(&id) else { return };
        let Some(target) = run.targets.remove(&index) else { return };
        run.planned -= 1;
        run.reported -= 1;
        let is_idle =
            run.ready.get(&target.class).is_some_and(|ready| ready.targets.is_empty() && ready.load.cases == 0);
        if is_idle {
            run.ready.remove(&target.class);
        }
        if run.targets.is_empty() {
            self.runs.remove(&id);
        }
        if self.classes.release(target.class) {
            self.unmatch_class(target.class);
        }
    }
}
