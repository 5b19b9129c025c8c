//! The cases of one target that wait for an agent, longest first.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::case::{Case, CaseState};

/// An order over the cases of one target that run in one manner, alone or in company.
///
/// The first order is sorted once and then only read forward; what comes back goes into a heap. An entry counts only if its case is queued
/// and runs in this queue's manner, so that leaving the queue any other way than by [`Queue::pop`] costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    alone: bool,
    order: Vec<u32>,
    next: usize,
    again: BinaryHeap<(u32, Reverse<u32>)>,
}

impl Queue {
    /// Over those of `cases` that are queued and run in this manner.
    pub(crate) fn new(cases: &[Case], alone: bool) -> Self {
        let belongs = |index: &u32| is_waiting(&cases[*index as usize], alone);
        let mut order: Vec<u32> = (0..cases.len() as u32).filter(belongs).collect();
        order.sort_unstable_by_key(|&index| (Reverse(cases[index as usize].priority()), index));
        Self { alone, order, next: 0, again: BinaryHeap::new() }
    }

    /// Takes a queued case back in.
    pub(crate) fn push(&mut self, cases: &[Case], index: u32) {
        self.again.push((cases[index as usize].priority(), Reverse(index)));
    }

    /// The first case and its priority.
    pub(crate) fn head(&mut self, cases: &[Case]) -> Option<(u32, u32)> {
        while self.order.get(self.next).is_some_and(|&index| !is_waiting(&cases[index as usize], self.alone)) {
            self.next += 1;
        }
        while self.again.peek().is_some_and(|&(_, Reverse(index))| !is_waiting(&cases[index as usize], self.alone)) {
            self.again.pop();
        }
        let first = self.order.get(self.next).map(|&index| (cases[index as usize].priority(), Reverse(index)));
        let again = self.again.peek().copied();
        first.max(again).map(|(priority, Reverse(index))| (priority, index))
    }

    /// Whether a queued case has an entry; for the invariants.
    pub(crate) fn contains(&self, index: u32) -> bool {
        self.order[self.next..].contains(&index) || self.again.iter().any(|&(_, Reverse(entry))| entry == index)
    }
}

fn is_waiting(case: &Case, alone: bool) -> bool {
    case.state == CaseState::Queued && case.is_alone() == alone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::CaseSeed;
    use core::time::Duration;
    use proptest::prelude::*;

    fn any_cases() -> impl Strategy<Value = Vec<Case>> {
        let seed = (prop::option::of(0_u64..50), any::<bool>(), any::<bool>());
        let case = seed.prop_map(|(time, failed_last, needs_alone)| {
            let expected = time.map(Duration::from_millis);
            let mut case = Case::new(&CaseSeed { expected, failed_last, needs_alone, ..CaseSeed::default() }, false);
            case.state = CaseState::Queued;
            case
        });
        proptest::collection::vec(case, 1..60)
    }

    /// The head by looking at everything.
    fn slow_head(cases: &[Case], alone: bool) -> Option<(u32, u32)> {
        let waiting = (0..cases.len() as u32).filter(|&index| is_waiting(&cases[index as usize], alone));
        waiting
            .map(|index| (cases[index as usize].priority(), Reverse(index)))
            .max()
            .map(|(first, Reverse(index))| (first, index))
    }

    proptest! {
        #[test]
        fn the_head_is_the_most_urgent_waiting_case(
            mut cases in any_cases(), moves in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..200),
        ) {
            let (mut company, mut alone) = (Queue::new(&cases, false), Queue::new(&cases, true));
            for (index, takes_head) in moves {
                let position = if takes_head { company.head(&cases).map(|(_, head)| head as usize) } else { None };
                let position = position.unwrap_or_else(|| index.index(cases.len()));
                let case = &mut cases[position];
                if case.state == CaseState::Queued {
                    case.state = CaseState::Leased;
                } else {
                    case.state = CaseState::Queued;
                    if index.index(2) == 0 {
                        case.send_alone();
                    }
                    let queue = if case.is_alone() { &mut alone } else { &mut company };
                    queue.push(&cases, position as u32);
                }
                prop_assert_eq!(company.head(&cases), slow_head(&cases, false));
                prop_assert_eq!(alone.head(&cases), slow_head(&cases, true));
            }
        }
    }
}
