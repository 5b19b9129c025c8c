//! From the cases that discovery found to those that will be reported: filters, history and cache.

use std::collections::HashMap;
use std::time::Duration;

use muster_cache::{ActionCache, ActionRecord};
use muster_model::attempt::DiscoveredCase;
use muster_model::key::{ActionKey, case_key, discovery_key};
use muster_model::outcome::{CaseOutcome, Verdict};
use muster_model::spec::{FrameworkKind, RunPolicy};
use muster_model::{Digest, RunId, limits};
use muster_proto::v1;
use muster_scheduler::CaseSeed;
use prost::Message;

use crate::counters::{Counters, Kind};
use crate::history::CaseHistory;
use crate::ledger::{Ledger, read};
use crate::open_run::PreparedTarget;

/// What the action cache keeps of a case that passed.
#[derive(Clone, PartialEq, Eq, Message)]
struct PassedCase {
    /// How long it took.
    #[prost(uint64, tag = "1")]
    duration_us: u64,
    /// The run in which it passed.
    #[prost(uint64, tag = "2")]
    run: u64,
}

/// How a case was decided without an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decided {
    /// It is ignored unless asked for.
    Ignored,
    /// It passed with exactly these inputs before.
    Cached {
        /// How long it took then.
        duration: Duration,
    },
}

impl Decided {
    /// The outcome that is reported.
    pub(crate) fn outcome(self) -> CaseOutcome {
        match self {
            Self::Ignored => CaseOutcome::Verdict(Verdict::Skipped),
            Self::Cached { .. } => CaseOutcome::Verdict(Verdict::Passed),
        }
    }
}

/// A case that will be reported.
#[derive(Clone, Debug)]
pub(crate) struct PlannedCase {
    pub(crate) name: String,
    pub(crate) history: Option<CaseHistory>,
    pub(crate) decided: Option<Decided>,
}

impl PlannedCase {
    /// What the scheduler is told of it.
    pub(crate) fn seed(&self) -> CaseSeed {
        seed(self.history.as_ref(), self.decided.map(Decided::outcome))
    }
}

/// Tells the scheduler where groups of cases begin.
pub(crate) fn mark_groups<'a>(framework: FrameworkKind, names: impl Iterator<Item = &'a str>, seeds: &mut [CaseSeed]) {
    let mut last = None;
    for (name, seed) in names.zip(seeds) {
        let group = muster_frameworks::group(framework, name);
        seed.opens_group = group.is_some() && group != last;
        last = group;
    }
}

/// What the scheduler is told of a case.
pub(crate) fn seed(history: Option<&CaseHistory>, decided: Option<CaseOutcome>) -> CaseSeed {
    CaseSeed {
        expected: history.and_then(CaseHistory::expected),
        failed_last: history.is_some_and(|history| history.failed_last),
        needs_alone: history.is_some_and(|history| history.needs_alone),
        decided,
        ..CaseSeed::default()
    }
}

/// What will be reported of a target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// By position.
    pub(crate) cases: Vec<PlannedCase>,
    /// Cases left out by filters.
    pub(crate) filtered: u32,
    /// With `list_only`: the names that match; then there are no `cases`.
    pub(crate) listed: Vec<String>,
}

/// Decides what will be reported of a discovered target. A cache or a history that can't be read only costs time: it counts as empty.
pub(crate) async fn plan(
    ledger: &Ledger,
    actions: &dyn ActionCache,
    counters: &Counters,
    target: &PreparedTarget,
    policy: &RunPolicy,
    discovered: Vec<DiscoveredCase>,
) -> Plan {
    let mut history = history(ledger, target).await;
    // What is another target's is not left out: it is reported there.
    let discovered: Vec<DiscoveredCase> =
        discovered.into_iter().filter(|case| target.spec.policy.has(&case.name)).collect();
    let total = discovered.len();
    let matching = discovered.into_iter().filter(|case| matches(policy, &history, case));
    let matching: Vec<DiscoveredCase> = matching.collect();
    // A target has at most a million cases.
    let filtered = (total - matching.len()) as u32;
    if policy.list_only {
        let listed = matching.into_iter().map(|case| case.name).collect();
        return Plan { cases: Vec::new(), filtered, listed };
    }
    let mut cases: Vec<PlannedCase> = matching
        .into_iter()
        .map(|case| PlannedCase {
            history: history.remove(&case.name),
            decided: (case.ignored && !policy.include_ignored).then_some(Decided::Ignored),
            name: case.name,
        })
        .collect();
    if policy.read_cache && target.is_cacheable {
        take_cached(actions, counters, target, &mut cases).await;
    }
    Plan { cases, filtered, listed: Vec::new() }
}

fn matches(policy: &RunPolicy, history: &HashMap<String, CaseHistory>, case: &DiscoveredCase) -> bool {
    let is_named = policy.filters.is_empty() || policy.filters.iter().any(|filter| case.name.contains(filter));
    let has_failed = || history.get(&case.name).is_some_and(|history| history.failed_last);
    is_named && (!policy.only_failed || has_failed())
}

/// What is remembered of a target's cases.
pub(crate) async fn history(ledger: &Ledger, target: &PreparedTarget) -> HashMap<String, CaseHistory> {
    let hash = target.history;
    match ledger.read(move |connection| read::history(connection, hash)).await {
        Ok(history) => history,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "history can't be read");
            HashMap::new()
        }
    }
}

async fn take_cached(
    actions: &dyn ActionCache,
    counters: &Counters,
    target: &PreparedTarget,
    cases: &mut [PlannedCase],
) {
    let open: Vec<usize> = (0..cases.len()).filter(|&case| cases[case].decided.is_none()).collect();
    let keys: Vec<ActionKey> = open.iter().map(|&case| case_key(target.key, &cases[case].name)).collect();
    let mut hits = 0;
    for (case, record) in open.iter().zip(look_up(actions, &keys).await) {
        let passed = record.and_then(|record| PassedCase::decode(record.payload).ok());
        if let Some(passed) = passed {
            cases[*case].decided = Some(Decided::Cached { duration: Duration::from_micros(passed.duration_us) });
            hits += 1;
        }
    }
    counters.add_lookups(Kind::CaseResult, hits, open.len() as u64 - hits);
}

async fn look_up(actions: &dyn ActionCache, keys: &[ActionKey]) -> Vec<Option<ActionRecord>> {
    if keys.is_empty() {
        return Vec::new();
    }
    match actions.get(keys).await {
        Ok(records) => records,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the action cache can't be read");
            Vec::new()
        }
    }
}

/// The record of a case that passed.
pub(crate) fn passed_record(
    target: &PreparedTarget,
    case: &str,
    duration: Duration,
    run: RunId,
) -> (ActionKey, ActionRecord) {
    let duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let payload = PassedCase { duration_us, run: run.0 }.encode_to_vec().into();
    // Only passes are cached, and nothing but having passed is what two runs of a case have in common.
    let outcome = Digest::of(b"passed");
    (case_key(target.key, case), ActionRecord { payload, references: Vec::new(), outcome })
}

/// The record of a discovery; none when it is too large to be kept.
pub(crate) fn discovery_record(target: &PreparedTarget, encoded: &[u8]) -> Option<(ActionKey, ActionRecord)> {
    let payload = bytes::Bytes::copy_from_slice(encoded);
    let record = ActionRecord { outcome: Digest::of(&payload), payload, references: Vec::new() };
    (target.is_cacheable && encoded.len() <= limits::MESSAGE_BYTES_MAX).then(|| (discovery_key(target.key), record))
}

/// The cached discoveries of targets, by position. They are taken whatever [`RunPolicy::read_cache`] says: which cases a target has is no result
/// of a case, and the key covers all that its discovery sees.
pub(crate) async fn cached_discoveries(
    actions: &dyn ActionCache,
    counters: &Counters,
    targets: &[std::sync::Arc<PreparedTarget>],
) -> Vec<Option<Vec<DiscoveredCase>>> {
    let mut discoveries = vec![None; targets.len()];
    let asked: Vec<usize> = (0..targets.len()).filter(|&target| targets[target].is_cacheable).collect();
    let keys: Vec<ActionKey> = asked.iter().map(|&target| discovery_key(targets[target].key)).collect();
    let mut hits = 0;
    for (target, record) in asked.iter().zip(look_up(actions, &keys).await) {
        let discovered = record.and_then(|record| v1::Discovered::decode(record.payload).ok());
        discoveries[*target] = discovered.and_then(|discovered| Vec::try_from(&discovered).ok());
        hits += u64::from(discoveries[*target].is_some());
    }
    counters.add_lookups(Kind::Discovery, hits, asked.len() as u64 - hits);
    discoveries
}
