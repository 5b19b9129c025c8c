//! The times and counts that decisions depend on.

use core::time::Duration;

use muster_model::limits;

/// Times and counts. The defaults are those of [`muster_model::limits`], and what has no limit there is documented here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Silence after which an agent's leases run out.
    pub lease_time: Duration,
    /// How long after a closed connection an agent may come back before its work is given to others.
    pub reconnect_grace: Duration,
    /// Attempts given to an agent beyond its slots.
    pub prefetch_per_agent: u32,
    /// Expected time of one shard below which cases are added while there are any.
    pub shard_time_min: Duration,
    /// Expected time of one shard above which no case is added.
    pub shard_time_max: Duration,
    /// Cases of one shard.
    pub shard_cases_max: usize,
    /// Cases of one shard as long as no case of the run has finished and nothing is known of these; default 32.
    pub shard_unknown_cases_max: usize,
    /// What a case is taken to need until a case of its run has finished; default 100 ms.
    pub unknown_case_time: Duration,
    /// Percentage of the agents that may fall silent within one lease before expiry is held back for one more.
    pub mass_loss_percent: u32,
    /// Agents below which the mass-loss guard does not act; default 4.
    pub mass_loss_agents_min: usize,
    /// Faults after which a case, or a discovery, is given up as the fleet's fault.
    pub faults_per_case_max: u8,
    /// Agents lost with a case running after which the case runs alone.
    pub losses_before_alone: u8,
    /// Agents lost with a case running alone after which it is poison.
    pub losses_alone_before_poison: u8,
    /// Agents lost before they said that a case's attempt had started, after which such losses are charged too, so that a case that kills
    /// its agent before the agent can say a word is found; default 8.
    pub losses_uncharged_max: u8,
    /// How long a target keeps away from an agent on which it met a fault, as long as another agent can take it; default 5 s.
    pub fault_avoid_time: Duration,
    /// How long work waits for an agent that satisfies it before it is given up as a fault of the environment; default 30 s.
    pub unschedulable_time: Duration,
    /// How long work that takes more than any one slot waits behind work that does not, before room is kept free for it.
    pub claim_wait: Duration,
    /// Age below which no attempt is copied; default 1 s.
    pub speculation_age_min: Duration,
    /// Age, as a percentage of an attempt's expected time, below which it is not copied; default 150.
    pub speculation_age_percent: u32,
    /// Epochs that one record in the ledger reserves for attempts at actions; at least 2.
    pub epochs_reserved: u64,
    /// A mistake to make on purpose, so that the simulator can prove that it finds it.
    #[cfg(feature = "planted-bugs")]
    pub planted: Option<crate::PlantedBug>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease_time: limits::LEASE_TIME,
            reconnect_grace: limits::RECONNECT_GRACE,
            prefetch_per_agent: limits::PREFETCH_PER_AGENT,
            shard_time_min: limits::SHARD_TIME_MIN,
            shard_time_max: limits::SHARD_TIME_MAX,
            shard_cases_max: limits::SHARD_CASES_MAX,
            shard_unknown_cases_max: 32,
            unknown_case_time: Duration::from_millis(100),
            mass_loss_percent: limits::MASS_LOSS_PERCENT,
            mass_loss_agents_min: 4,
            faults_per_case_max: limits::FAULTS_PER_CASE_MAX,
            losses_before_alone: limits::LOSSES_BEFORE_ALONE,
            losses_alone_before_poison: limits::LOSSES_ALONE_BEFORE_POISON,
            losses_uncharged_max: 8,
            fault_avoid_time: Duration::from_secs(5),
            unschedulable_time: Duration::from_secs(30),
            claim_wait: limits::CLAIM_WAIT,
            speculation_age_min: Duration::from_secs(1),
            speculation_age_percent: 150,
            epochs_reserved: limits::EPOCHS_RESERVED,
            #[cfg(feature = "planted-bugs")]
            planted: None,
        }
    }
}
