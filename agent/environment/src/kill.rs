//! Why a driver kills a program, and the word that it should.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::KillReason;

/// The first reason stays.
#[derive(Debug, Default)]
pub(crate) struct Killed {
    reason: Mutex<Option<KillReason>>,
    now: Notify,
}

impl Killed {
    /// Names a reason and asks for the kill.
    pub(crate) fn set(&self, reason: KillReason) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.now.notify_one();
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
