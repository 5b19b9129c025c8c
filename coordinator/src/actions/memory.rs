//! What is remembered of actions from one execution to the next: how they ended, which decides whether requests may share an execution, and how
//! long their kind takes, which decides what goes first.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use muster_model::key::ActionKey;
use muster_model::{Digest, Instant, limits};

use crate::history::CaseHistory;

/// Kinds of actions whose times are remembered.
const KINDS_MAX: usize = 10_000;

/// How an action ended when it was run last.
#[derive(Clone, Copy, Debug)]
struct Last {
    /// What has to be the same when the same action runs again.
    outcome: Digest,
    finished: Instant,
    /// Two executions differed.
    is_flaky: bool,
}

/// Bounded memory. Lost with the process: then the first two executions of a flake may be shared again, until they differ again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    actions: HashMap<ActionKey, Last>,
    order: VecDeque<ActionKey>,
    kinds: HashMap<String, CaseHistory>,
}

impl Memory {
    /// Remembers an execution that came to an end of its own.
    pub(super) fn note(&mut self, key: ActionKey, outcome: Digest, finished: Instant) {
        if let Some(last) = self.actions.get_mut(&key) {
            let is_flaky = last.is_flaky || last.outcome != outcome;
            *last = Last { outcome, finished, is_flaky };
            return;
        }
        if self.order.len() >= limits::ACTIONS_REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.actions.remove(&oldest);
        }
        self.order.push_back(key);
        self.actions.insert(key, Last { outcome, finished, is_flaky: false });
    }

    /// The cache has a result of the action that differs from a later one.
    pub(super) fn note_divergent(&mut self, key: ActionKey) {
        if let Some(last) = self.actions.get_mut(&key) {
            last.is_flaky = true;
        }
    }

    /// Executions of it have differed: each request gets one of its own, because one bad result shared by many is many bad results.
    pub(super) fn is_flaky(&self, key: &ActionKey) -> bool {
        self.actions.get(key).is_some_and(|last| last.is_flaky)
    }

    /// Whether it was run to an end after `since`.
    pub(super) fn has_finished_since(&self, key: &ActionKey, since: Instant) -> bool {
        self.actions.get(key).is_some_and(|last| last.finished >= since)
    }

    /// Learns how long an action of a kind has run. A kind is what the client calls it; nothing is learned of one without a name.
    pub(super) fn learn(&mut self, kind: &str, duration: Duration) {
        if kind.is_empty() {
            return;
        }
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(kind) {
            self.kinds.clear();
        }
        self.kinds.entry(kind.to_owned()).or_default().push(duration);
    }

    /// How long an action of a kind is expected to run.
    pub(super) fn expected(&self, kind: &str) -> Option<Duration> {
        self.kinds.get(kind)?.expected()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ActionKey = ActionKey([1; 32]);

    #[test]
    fn an_action_is_flaky_from_the_first_difference_on() {
        let mut memory = Memory::default();
        let (passed, failed) = (Digest::of(b"0"), Digest::of(b"1"));
        memory.note(KEY, failed, Instant(1));
        memory.note(KEY, failed, Instant(2));
        assert!(!memory.is_flaky(&KEY));
        memory.note(KEY, passed, Instant(3));
        memory.note(KEY, passed, Instant(4));
        assert!(memory.is_flaky(&KEY));
        assert!(memory.has_finished_since(&KEY, Instant(4)) && !memory.has_finished_since(&KEY, Instant(5)));
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_goes_first() {
        let mut memory = Memory::default();
        let key = |number: usize| ActionKey(Digest::of(&number.to_le_bytes()).hash);
        for number in 0..limits::ACTIONS_REMEMBERED_MAX + 10 {
            memory.note(key(number), Digest::empty(), Instant(0));
            memory.note_divergent(key(number));
        }
        assert_eq!(memory.actions.len(), limits::ACTIONS_REMEMBERED_MAX);
        assert!(!memory.is_flaky(&key(9)) && memory.is_flaky(&key(10)));
    }

    #[test]
    fn a_kind_is_expected_to_take_what_it_took() {
        let mut memory = Memory::default();
        assert_eq!(memory.expected("CppCompile"), None);
        memory.learn("CppCompile", Duration::from_secs(2));
        memory.learn("", Duration::from_secs(9));
        assert_eq!((memory.expected("CppCompile"), memory.expected("")), (Some(Duration::from_secs(2)), None));
    }
}
