//! Mistakes to make on purpose, so that the simulator can prove that it would find them. Not compiled without the feature
//! `planted-bugs`.

/// One deliberate mistake of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PlantedBug {
    /// A report counts even if its lease is held by another agent or closed while its run is open.
    NoEpochCheck,
    /// A case's next attempt is leased under the epoch of its last one.
    EpochReused,
    /// A silent agent keeps its leases for ever.
    LeaseNeverExpires,
    /// The leases of an agent that stays away are closed and their cases are not queued again.
    LostWithoutRequeue,
    /// A second report about a decided case is published again.
    VerdictOverwritten,
    /// The assignment is sent before the lease is written.
    AssignBeforeRecord,
    /// A report is acknowledged before what it says is written.
    AcknowledgeBeforeDecide,
    /// The slower of two copies publishes its verdict too.
    CopyDecidedAgain,
    /// Work is queued again as soon as it is recalled, without waiting for the agent's answer.
    RecallTakenForReturned,
    /// The cases that an interrupted process did not reach are forgotten.
    UnaccountedDropped,
    /// The cases of work that was given back are forgotten.
    ReturnedDropped,
    /// A case that takes agents down is queued again without end.
    PoisonRequeued,
    /// Leases that the ledger holds open are ignored after a restart, although their agents still run.
    RestoredLeaseIgnored,
    /// What was charged to a case before a restart counts no more.
    TriesForgotten,
    /// A copy is given to the agent that runs the original.
    CopyOnSameAgent,
    /// More attempts are given to an agent than it has room for.
    SlotsIgnored,
    /// Only the first block of epochs for actions is reserved.
    EpochsNotReserved,
    /// The attempts at a cancelled action go on.
    CancelledActionNotWithdrawn,
    /// An action that is cancelled while it waits stays in the queue.
    CancelledActionStaysQueued,
    /// An action whose agent is lost is not queued again.
    LostActionNotQueued,
    /// A result under a closed lease counts for an action that is open.
    FencedActionResultTaken,
    /// A late result of an action that has ended is told to those who waited.
    ActionFinishedAgain,
    /// Actions of an invocation go in any order.
    ActionPriorityIgnored,
    /// What an invocation has under way does not count when the next action is chosen.
    ActionShareIgnored,
    /// Work goes to any idle agent, whoever has its services warm.
    WarmServicesIgnored,
    /// Work that takes several slots is counted as taking one.
    WideTakesOneSlot,
    /// A group that is held is given again.
    ExclusiveIgnored,
    /// A group is free as soon as the attempt in it is withdrawn or lost.
    GroupsFreedAtWithdrawal,
}

impl PlantedBug {
    /// Every one, in the order of their declaration.
    pub const ALL: [Self; 28] = [
        Self::NoEpochCheck,
        Self::EpochReused,
        Self::LeaseNeverExpires,
        Self::LostWithoutRequeue,
        Self::VerdictOverwritten,
        Self::AssignBeforeRecord,
        Self::AcknowledgeBeforeDecide,
        Self::CopyDecidedAgain,
        Self::RecallTakenForReturned,
        Self::UnaccountedDropped,
        Self::ReturnedDropped,
        Self::PoisonRequeued,
        Self::RestoredLeaseIgnored,
        Self::TriesForgotten,
        Self::CopyOnSameAgent,
        Self::SlotsIgnored,
        Self::EpochsNotReserved,
        Self::CancelledActionNotWithdrawn,
        Self::CancelledActionStaysQueued,
        Self::LostActionNotQueued,
        Self::FencedActionResultTaken,
        Self::ActionFinishedAgain,
        Self::ActionPriorityIgnored,
        Self::ActionShareIgnored,
        Self::WarmServicesIgnored,
        Self::WideTakesOneSlot,
        Self::ExclusiveIgnored,
        Self::GroupsFreedAtWithdrawal,
    ];
}
