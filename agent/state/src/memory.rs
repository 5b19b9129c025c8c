//! Which epochs are over: bounded, and wrong only on the side of caution.

use alloc::collections::BTreeMap;

use muster_model::Epoch;
use muster_model::limits::SPOOL_ATTEMPTS_MAX;

/// How an epoch ended here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its report was acknowledged, so nobody waits for it.
    Acknowledged,
    /// Killed or dropped: there is no report. Also everything too long ago to be remembered.
    Unreported,
}

/// The epochs that ended, the newest [`SPOOL_ATTEMPTS_MAX`] of them one by one and older ones by a watermark.
///
/// Epochs only grow, so whatever is not above the watermark is over or was never received: in both cases it must not be started.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    recent: BTreeMap<Epoch, Ended>,
    watermark: Option<Epoch>,
}

impl Memory {
    pub(crate) fn remember(&mut self, epoch: Epoch, ended: Ended) {
        if self.watermark.is_some_and(|watermark| epoch <= watermark) {
            return;
        }
        self.recent.insert(epoch, ended);
        if self.recent.len() > SPOOL_ATTEMPTS_MAX
            && let Some((oldest, _)) = self.recent.pop_first()
        {
            self.watermark = Some(oldest);
        }
    }

    pub(crate) fn recall(&self, epoch: Epoch) -> Option<Ended> {
        if self.watermark.is_some_and(|watermark| epoch <= watermark) {
            return Some(Ended::Unreported);
        }
        self.recent.get(&epoch).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_to_be_remembered_still_counts_as_ended() {
        let mut memory = Memory::default();
        for epoch in 1..=SPOOL_ATTEMPTS_MAX as u64 + 2 {
            memory.remember(Epoch(epoch), Ended::Acknowledged);
        }
        assert_eq!(memory.recent.len(), SPOOL_ATTEMPTS_MAX);
        assert_eq!(memory.recall(Epoch(1)), Some(Ended::Unreported));
        assert_eq!(memory.recall(Epoch(2)), Some(Ended::Unreported));
        assert_eq!(memory.recall(Epoch(3)), Some(Ended::Acknowledged));
        assert_eq!(memory.recall(Epoch(SPOOL_ATTEMPTS_MAX as u64 + 3)), None);
    }
}
