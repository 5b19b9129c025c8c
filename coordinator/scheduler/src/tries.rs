//! What has been charged to a case that has no outcome yet: it must outlive the coordinator.
//!
//! Whatever is charged is told by [`Command::RecordTries`] before the case's next lease is, and comes back after a restart in its
//! [`crate::CaseSeed`]; [`Command::RecordDiscoveryTries`] and [`crate::TargetSeed`] do the same for discoveries. Otherwise a restart would give every case its whole budget again, and a case that takes agents down could go on
//! doing so for as long as coordinators restart.

use muster_model::{CaseIndex, Epoch, RunId, TargetIndex};

use crate::{Command, Scheduler};

/// What has been charged to a case without an outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaseTries {
    /// Attempts in which it ran, or may have run.
    pub attempts: u16,
    /// Tries alone that failed.
    pub failed_tries: u16,
    /// Faults other than lost agents.
    pub faults: u8,
    /// Agents lost with it, before it came under suspicion.
    pub losses: u8,
    /// Agents lost with it running alone, as a suspect.
    pub losses_alone: u8,
    /// Agents lost with it before they said that they had started.
    pub losses_uncharged: u8,
    /// It has to run in a process of its own.
    pub alone: bool,
    /// The attempt in which it failed in company, if it did.
    pub failed_in_company: Option<Epoch>,
}

/// What has been charged to a discovery that has not succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryTries {
    /// Faults, lost agents included.
    pub faults: u8,
    /// Agents lost with it before they said that it had started.
    pub losses_uncharged: u8,
}

impl Scheduler {
    /// Tells what is charged to a case that is tried again. An action does not outlive the coordinator, and so its tries need not either.
    pub(crate) fn record_tries(&mut self, run: RunId, target: TargetIndex, case: CaseIndex) {
        if self.action_of(run, target).is_some() {
            return;
        }
        let Some(tries) = self.with_target(run, target, |target| {
            let failed_in_company = target.company_failures.get(&case).copied();
            target.case_mut(case).tries(failed_in_company)
        }) else {
            return;
        };
        self.push(Command::RecordTries { run, target, case, tries });
    }
}
