//! An open run in memory: what the scheduler does not need to know, names above all.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use muster_model::attempt::{Assignment, CaseReport, ShardTask, Task, Timings, Work};
use muster_model::key::{ActionKey, target_key};
use muster_model::spec::{RunPolicy, RunSpec, TargetSpec};
use muster_model::{CaseIndex, Digest, Epoch, RunId, TargetIndex, limits};
use muster_proto::v1;
use prost::Message;

use crate::history::{CaseHistory, TargetHash};

/// A target whose base is pinned, with everything that is derived from it once.
#[derive(Clone, Debug)]
pub(crate) struct PreparedTarget {
    pub(crate) spec: TargetSpec,
    /// The encoded `muster.v1.TargetSpec`, which agents read from the store.
    pub(crate) encoded: bytes::Bytes,
    /// Its digest.
    pub(crate) digest: Digest,
    pub(crate) key: ActionKey,
    pub(crate) history: TargetHash,
    /// Whether results may be cached at all.
    pub(crate) is_cacheable: bool,
}

impl PreparedTarget {
    /// Derives what follows from a pinned target.
    pub(crate) fn new(project: &str, policy: &RunPolicy, spec: TargetSpec) -> Self {
        let encoded = bytes::Bytes::from(v1::TargetSpec::from(&spec).encode_to_vec());
        Self {
            digest: Digest::of(&encoded),
            encoded,
            key: target_key(&spec),
            history: TargetHash::of(project, &spec.name),
            is_cacheable: spec.is_cacheable(policy),
            spec,
        }
    }
}

/// A run that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct PreparedRun {
    pub(crate) run: RunId,
    pub(crate) project: String,
    pub(crate) policy: RunPolicy,
    pub(crate) started_unix_ms: i64,
    pub(crate) targets: Vec<Arc<PreparedTarget>>,
}

impl PreparedRun {
    /// Derives what follows from a run whose bases are pinned.
    pub(crate) fn new(run: RunId, started_unix_ms: i64, spec: RunSpec) -> Self {
        let RunSpec { project, targets, policy } = spec;
        let targets = targets.into_iter().map(|target| Arc::new(PreparedTarget::new(&project, &policy, target)));
        Self { run, started_unix_ms, targets: targets.collect(), project, policy }
    }
}

/// A planned case.
#[derive(Clone, Debug)]
pub(crate) struct OpenCase {
    pub(crate) name: String,
    pub(crate) history: Option<CaseHistory>,
    /// It has its outcome.
    pub(crate) is_decided: bool,
}

/// A target of an open run.
#[derive(Debug)]
pub(crate) struct OpenTarget {
    pub(crate) prepared: Arc<PreparedTarget>,
    /// By position; empty until the target is planned.
    pub(crate) cases: Vec<OpenCase>,
    /// Since when its work has been waiting.
    pub(crate) queued_unix_ms: i64,
    /// Watchers were told that its discovery failed.
    pub(crate) is_refused: bool,
}

/// An attempt of an open run, kept as long as the run is.
#[derive(Clone, Debug)]
pub(crate) struct LeaseNote {
    pub(crate) agent_name: String,
    pub(crate) target: TargetIndex,
    pub(crate) work: Work,
    pub(crate) assigned_unix_ms: i64,
    pub(crate) queued_unix_ms: i64,
    pub(crate) ended: Option<AttemptEndNote>,
}

/// What is known of an attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptEndNote {
    pub(crate) finished_unix_ms: i64,
    pub(crate) timings: Timings,
    pub(crate) longest_case: Duration,
}

/// An open run.
#[derive(Debug)]
pub(crate) struct OpenRun {
    pub(crate) run: RunId,
    pub(crate) project: String,
    pub(crate) policy: RunPolicy,
    pub(crate) started_unix_ms: i64,
    pub(crate) targets: Vec<OpenTarget>,
    /// The sequence number of the last event.
    pub(crate) last_sequence: u64,
    /// Watchers were told the plan.
    pub(crate) is_announced: bool,
    pub(crate) leases: HashMap<Epoch, LeaseNote>,
    /// What was said of cases that failed and are not decided: the words for a later flaky or interference.
    pub(crate) failures: HashMap<(TargetIndex, CaseIndex), CaseReport>,
}

impl OpenRun {
    /// A run of which nothing is known but its specification.
    pub(crate) fn new(prepared: PreparedRun, last_sequence: u64) -> Self {
        let PreparedRun { run, project, policy, started_unix_ms, targets } = prepared;
        let targets = targets.into_iter().map(|prepared| OpenTarget {
            prepared,
            cases: Vec::new(),
            queued_unix_ms: started_unix_ms,
            is_refused: false,
        });
        Self {
            run,
            project,
            policy,
            started_unix_ms,
            targets: targets.collect(),
            last_sequence,
            is_announced: false,
            leases: HashMap::new(),
            failures: HashMap::new(),
        }
    }

    /// A target by position.
    pub(crate) fn target(&self, target: TargetIndex) -> Option<&OpenTarget> {
        self.targets.get(target.0 as usize)
    }

    /// The name of a case; empty for one that does not exist.
    pub(crate) fn case_name(&self, target: TargetIndex, case: CaseIndex) -> &str {
        let cases = self.target(target).map(|target| &target.cases);
        cases.and_then(|cases| cases.get(case.0 as usize)).map_or("", |case| &case.name)
    }

    /// Whether a case has its outcome; one that does not exist never gets one.
    pub(crate) fn is_decided(&self, target: TargetIndex, case: CaseIndex) -> bool {
        let cases = self.target(target).map(|target| &target.cases);
        cases.and_then(|cases| cases.get(case.0 as usize)).is_none_or(|case| case.is_decided)
    }

    /// A case has its outcome.
    pub(crate) fn note_decided(&mut self, target: TargetIndex, case: CaseIndex) {
        let cases = self.targets.get_mut(target.0 as usize).map(|target| &mut target.cases);
        if let Some(case) = cases.and_then(|cases| cases.get_mut(case.0 as usize)) {
            case.is_decided = true;
        }
    }

    /// The names of cases, as far as they fit into one message beside others.
    pub(crate) fn case_names(&self, target: TargetIndex, cases: &[CaseIndex]) -> Vec<String> {
        let mut bytes = 0;
        let names = cases.iter().map(|&case| self.case_name(target, case));
        let fitting = names.take_while(|name| {
            bytes += name.len();
            bytes <= limits::SHARD_NAME_BYTES_MAX
        });
        fitting.map(str::to_owned).collect()
    }

    /// What an agent is told of a lease.
    pub(crate) fn assignment(&self, epoch: Epoch) -> Option<Assignment> {
        let lease = self.leases.get(&epoch)?;
        let target = self.target(lease.target)?;
        let (case_names, case_timeout) = match &lease.work {
            Work::Discover | Work::Action => (Vec::new(), limits::DISCOVERY_TIMEOUT),
            Work::Cases { cases, .. } => {
                let names = cases.iter().map(|&case| self.case_name(lease.target, case).to_owned());
                (names.collect(), target.prepared.spec.case_timeout(&self.policy))
            }
        };
        let task = ShardTask {
            run: self.run,
            target: lease.target,
            target_spec: target.prepared.digest,
            work: lease.work.clone(),
            case_names,
            case_timeout,
            slots: target.prepared.spec.requirements.resources.slots,
        };
        Some(Assignment { epoch, task: Task::Shard(task) })
    }
}
