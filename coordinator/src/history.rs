//! What is remembered of a case from run to run.

use std::time::Duration;

use muster_model::limits::HISTORY_DURATIONS_MAX;

/// The name of a target in history: of its project's name and its own, so that neither is stored with every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TargetHash(pub(crate) [u8; 16]);

impl TargetHash {
    /// The name of a target.
    pub(crate) fn of(project: &str, target: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("muster 2026-11 history of a target v1");
        hasher.update(&(project.len() as u64).to_le_bytes());
        hasher.update(project.as_bytes());
        hasher.update(target.as_bytes());
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        Self(hash)
    }
}

/// What is remembered of one case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CaseHistory {
    /// Microseconds of the last executions, newest last.
    durations_us: Vec<u32>,
    /// It failed when it was last run.
    pub(crate) failed_last: bool,
    /// It needs a process of its own.
    pub(crate) needs_alone: bool,
}

impl CaseHistory {
    /// Remembers one more execution.
    pub(crate) fn push(&mut self, duration: Duration) {
        if self.durations_us.len() >= HISTORY_DURATIONS_MAX {
            self.durations_us.remove(0);
        }
        self.durations_us.push(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX));
    }

    /// The expected duration: the mean without the quarter at either end, so that one slow run does not count.
    pub(crate) fn expected(&self) -> Option<Duration> {
        let mut sorted = self.durations_us.clone();
        sorted.sort_unstable();
        let trimmed = &sorted[sorted.len() / 4..sorted.len() - sorted.len() / 4];
        let sum: u64 = trimmed.iter().map(|&duration| u64::from(duration)).sum();
        sum.checked_div(trimmed.len() as u64).map(Duration::from_micros)
    }

    /// The durations as the ledger keeps them.
    pub(crate) fn durations_to_bytes(&self) -> Vec<u8> {
        self.durations_us.iter().flat_map(|duration| duration.to_le_bytes()).collect()
    }

    /// Reads what [`Self::durations_to_bytes`] wrote; what is left over of a damaged row is dropped, because history only guides.
    pub(crate) fn from_row(durations: &[u8], failed_last: bool, needs_alone: bool) -> Self {
        let (whole, _) = durations.as_chunks::<4>();
        let newest = &whole[whole.len().saturating_sub(HISTORY_DURATIONS_MAX)..];
        Self { durations_us: newest.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect(), failed_last, needs_alone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_execution_does_not_move_the_expectation() {
        let mut history = CaseHistory::default();
        assert_eq!(history.expected(), None);
        for _ in 0..7 {
            history.push(Duration::from_millis(10));
        }
        history.push(Duration::from_secs(60));
        assert_eq!(history.expected(), Some(Duration::from_millis(10)));
    }

    #[test]
    fn only_the_newest_durations_are_kept() {
        let mut history = CaseHistory::default();
        for millis in 0..100 {
            history.push(Duration::from_millis(millis));
        }
        let read = CaseHistory::from_row(&history.durations_to_bytes(), false, false);
        assert_eq!(read, history);
        assert_eq!(read.durations_us.len(), HISTORY_DURATIONS_MAX);
        assert_eq!(read.durations_us.last(), Some(&99_000));
    }

    #[test]
    fn targets_of_different_projects_are_different() {
        assert_ne!(TargetHash::of("a", "bc"), TargetHash::of("ab", "c"));
    }
}
