//! Why a driver kills a program, and the word that it should.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::KillReason;

/// The first reason stays, and is the only one that asks for a kill: once is enough.
#[derive(Debug, Default)]
pub(crate) struct Killed {
    reason: Mutex<Option<KillReason>>,
    now: Notify,
}

impl Killed {
    /// Names a reason and asks for the kill, unless that was done.
    pub(crate) fn set(&self, reason: KillReason) {
        let mut first = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(reason);
            self.now.notify_one();
        }
    }

    /// The reason, if there is one.
    pub(crate) fn get(&self) -> Option<KillReason> {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a kill is asked for.
    pub(crate) async fn pulled(&self) {
        self.now.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_asked(killed: &Killed) -> bool {
        tokio::select! {
            biased;
            () = killed.pulled() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test]
    async fn the_first_reason_stays_and_asks_once() {
        let killed = Killed::default();
        assert!(!is_asked(&killed).await);
        killed.set(KillReason::Output);
        killed.set(KillReason::Requested);
        assert!(is_asked(&killed).await);
        killed.set(KillReason::Processes);
        assert!(!is_asked(&killed).await, "once is enough");
        assert_eq!(killed.get(), Some(KillReason::Output));
    }
}
