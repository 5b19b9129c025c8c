//! Mistakes on purpose: a simulation that can't find them proves nothing.

/// One protocol mistake, made whenever there is an opportunity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlantedBug {
    /// Reports are forgotten once they were sent, not once they were acknowledged.
    ForgetBeforeAcknowledged,
    /// An epoch that ended is started again when a late or doubled message carries it.
    StartEndedAgain,
    /// A cut-off agent goes on with its work.
    NeverSelfFence,
    /// A killed attempt is reported as finished.
    ReportKilledAsFinished,
    /// A recalled attempt is given back although it runs.
    ReturnStarted,
    /// An attempt that the coordinator does not want any more is left running.
    IgnoreWithdrawal,
    /// One attempt more than there are slots is started.
    ExceedSlots,
    /// A draining agent leaves without waiting for its reports to be acknowledged.
    LeaveWithReports,
    /// What takes several slots is started in one.
    WideTakesOneSlot,
}

impl PlantedBug {
    /// Every one of them.
    pub const ALL: [Self; 9] = [
        Self::ForgetBeforeAcknowledged,
        Self::StartEndedAgain,
        Self::NeverSelfFence,
        Self::ReportKilledAsFinished,
        Self::ReturnStarted,
        Self::IgnoreWithdrawal,
        Self::ExceedSlots,
        Self::LeaveWithReports,
        Self::WideTakesOneSlot,
    ];
}
