//! The ledger: records in order, of which a tail is not durable yet.

use std::collections::BTreeMap;

use muster_model::attempt::Work;
use muster_model::outcome::{CaseOutcome, RunOutcome};
use muster_model::{AgentId, CaseIndex, Epoch, Instant, RunId, TargetIndex};

use muster_scheduler::{CaseTries, Config, DiscoveryTries};

use super::checks::CaseName;
use super::network::Content;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Run(RunId),
    Discovered {
        run: RunId,
        target: TargetIndex,
    },
    Lease {
        epoch: Epoch,
        agent: AgentId,
        content: Content,
    },
    LeaseClosed(Epoch),
    /// A lease is closed, and its attempt may run on.
    LeaseWithdrawn {
        epoch: Epoch,
        at: Instant,
    },
    /// Every epoch below this one may have been told to agents.
    EpochsReserved(Epoch),
    Decided {
        run: RunId,
        target: TargetIndex,
        case: CaseIndex,
        outcome: CaseOutcome,
        epoch: Option<Epoch>,
    },
    Tries {
        case: CaseName,
        tries: CaseTries,
    },
    DiscoveryTries {
        target: (RunId, TargetIndex),
        tries: DiscoveryTries,
    },
    Finished {
        run: RunId,
        outcome: RunOutcome,
    },
}

/// What the durable records add up to.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) runs: Vec<RunId>,
    pub(super) discovered: Vec<(RunId, TargetIndex)>,
    pub(super) leases: BTreeMap<Epoch, (AgentId, Content)>,
    pub(super) open: BTreeMap<Epoch, (AgentId, Content)>,
    pub(super) decided: BTreeMap<(RunId, TargetIndex, CaseIndex), CaseOutcome>,
    pub(super) tries: BTreeMap<CaseName, CaseTries>,
    pub(super) discovery_tries: BTreeMap<(RunId, TargetIndex), DiscoveryTries>,
    pub(super) finished: BTreeMap<RunId, RunOutcome>,
    /// When leases were withdrawn.
    pub(super) withdrawn: BTreeMap<Epoch, Instant>,
    /// Epochs below this one are reserved for actions.
    pub(super) reserved_below: u64,
}

impl State {
    /// Takes in one record.
    ///
    /// # Panics
    ///
    /// When a case is decided twice (I1, I3), by an attempt that was never leased for it (I2), against what was charged to it, or a run is
    /// closed twice.
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Run(run) => self.runs.push(*run),
            Record::Discovered { run, target } => self.discovered.push((*run, *target)),
            Record::Lease { epoch, agent, content } => {
                let known = self.leases.insert(*epoch, (*agent, content.clone()));
                assert!(known.is_none(), "epoch {epoch} was leased twice");
                self.open.insert(*epoch, (*agent, content.clone()));
            }
            Record::EpochsReserved(below) => self.reserved_below = self.reserved_below.max(below.0),
            Record::LeaseClosed(epoch) => {
                self.open.remove(epoch);
            }
            Record::LeaseWithdrawn { epoch, at } => {
                self.open.remove(epoch);
                self.withdrawn.insert(*epoch, *at);
            }
            Record::Decided { run, target, case, outcome, epoch } => {
                if let Some(epoch) = epoch {
                    self.assert_leased(*epoch, *run, *target, *case);
                }
                self.assert_earned(&(*run, *target, *case), *outcome);
                assert!(!self.finished.contains_key(run), "I3: a case of the finished run {run} was decided");
                let known = self.decided.insert((*run, *target, *case), *outcome);
                assert!(known.is_none(), "I1: case {case} of target {target} of run {run} was decided twice");
            }
            Record::Tries { case, tries } => {
                self.tries.insert(*case, *tries);
            }
            Record::DiscoveryTries { target, tries } => {
                let known = self.discovery_tries.insert(*target, *tries).unwrap_or_default();
                let is_more = tries.faults >= known.faults && tries.losses_uncharged >= known.losses_uncharged;
                assert!(is_more && *tries != known, "{target:?} was charged {known:?}, and then {tries:?}");
            }
            Record::Finished { run, outcome } => {
                assert!(self.finished.insert(*run, *outcome).is_none(), "run {run} finished twice");
                self.open.retain(|_, (_, content)| content.run != *run);
            }
        }
    }

    /// An epoch above every one that anybody may know.
    pub(super) fn first_epoch(&self) -> Epoch {
        let leased = self.leases.last_key_value().map_or(0, |(epoch, _)| epoch.0);
        Epoch((leased + 1).max(self.reserved_below))
    }

    /// What an outcome rests on is in the ledger too: it must be the same whether the coordinator was restarted on the way or not.
    fn assert_earned(&self, case: &CaseName, outcome: CaseOutcome) {
        let tries = self.tries.get(case).copied().unwrap_or_default();
        let failed = (tries.failed_tries > 0, tries.failed_in_company.is_some());
        match outcome {
            CaseOutcome::Flaky => assert!(failed.0, "{case:?} is flaky and no failed try is recorded"),
            CaseOutcome::Interference => assert!(failed.1, "{case:?} never failed in company, by what is recorded"),
            CaseOutcome::Poison => {
                let losses = Config::default().losses_alone_before_poison - 1;
                assert!(tries.losses_alone >= losses, "{case:?} is poison after {tries:?}");
            }
            outcome if outcome.is_success() => {
                assert_eq!(failed, (false, false), "{case:?} is {outcome:?} and has failed before");
            }
            _ => {}
        }
    }

    fn assert_leased(&self, epoch: Epoch, run: RunId, target: TargetIndex, case: CaseIndex) {
        let (_, content) = self
            .leases
            .get(&epoch)
            .unwrap_or_else(|| panic!("I2: a verdict under epoch {epoch}, which was never leased"));
        assert_eq!((content.run, content.target), (run, target), "I2: a verdict under another target's epoch {epoch}");
        let Work::Cases { cases, .. } = &content.work else { panic!("I2: a verdict from a discovery") };
        assert!(cases.contains(&case), "I2: a verdict of case {case} under epoch {epoch}, which was not leased for it");
    }
}

/// Records, the durable ones first.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: Vec<Record>,
    durable: usize,
    state: State,
}

impl Ledger {
    /// Appends a record that is not durable yet; returns how many records have to be durable for it to be.
    pub(super) fn append(&mut self, record: Record) -> usize {
        self.records.push(record);
        self.records.len()
    }

    /// How many records there are.
    pub(super) fn count(&self) -> usize {
        self.records.len()
    }

    /// Makes everything up to `count` durable.
    pub(super) fn commit(&mut self, count: usize) {
        let count = count.min(self.records.len());
        while self.durable < count {
            let record = self.records[self.durable].clone();
            self.state.apply(&record);
            self.durable += 1;
        }
    }

    /// How many records are durable.
    pub(super) fn durable(&self) -> usize {
        self.durable
    }

    /// Loses power: of the records that are not durable the first `kept` survive, and the next one is torn, which reading back notices.
    pub(super) fn crash(&mut self, kept: usize) {
        self.commit(self.durable + kept);
        self.records.truncate(self.durable);
    }

    /// What the durable records add up to.
    pub(super) fn state(&self) -> &State {
        &self.state
    }
}
