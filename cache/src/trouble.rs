//! Trouble that may come with every request, told in the log now and then.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often one kind of trouble is told of at most.
const INTERVAL: Duration = Duration::from_secs(10);

/// One kind of trouble. One needs it wherever a disk that is dead or full would otherwise write a line for every request that meets it.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    untold: u64,
}

impl Trouble {
    /// One that has not come yet; made to be a `static` beside the message.
    pub const fn new() -> Self {
        Self(Mutex::new(Told { at: None, untold: 0 }))
    }

    /// Has `tell` write the message, unless it was written less than ten seconds ago. `tell` is given how often the trouble came since
    /// without being told of.
    pub fn tell(&self, tell: impl FnOnce(u64)) {
        if let Some(untold) = self.come(Instant::now()) {
            tell(untold);
        }
    }

    fn come(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.at.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            told.untold += 1;
            return None;
        }
        told.at = Some(now);
        Some(std::mem::take(&mut told.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once_in_a_while_with_how_often_it_came() {
        let trouble = Trouble::new();
        let start = Instant::now();
        assert_eq!(trouble.come(start), Some(0));
        for number in 0..1000 {
            assert_eq!(trouble.come(start + INTERVAL * number / 1001), None);
        }
        assert_eq!(trouble.come(start + INTERVAL), Some(1000));
        assert_eq!(trouble.come(start + INTERVAL * 3 / 2), None);
        assert_eq!(trouble.come(start + INTERVAL * 5), Some(1));
    }
}
