//! The table of operations and actions: who waits for what. No I/O, no await: the room holds its lock for one step at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use muster_model::attempt::{ActionTask, Stage};
use muster_model::key::ActionKey;
use muster_model::{ActionId, Digest, Instant, InvocationId, limits};
use muster_proto::{longrunning, reapi};
use muster_scheduler::ActionSeed;
use reapi::execution_stage::Value as ExecutionStage;
use tokio::sync::watch;
use tonic::Status;

use super::answers;
use super::door::Prepared;
use super::memory::Memory;
use super::names::prefix;
use super::operation::{Listener, Operation, Requester, unfinished};
use super::{Actions, ExecuteRequest, InlineWanted, SubmittedAction};
use crate::clock::Clock;

/// Faults of one action that are remembered in words.
const FAULTS_REMEMBERED_MAX: usize = 8;

/// An action that is open.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) key: ActionKey,
    pub(super) task: Arc<ActionTask>,
    pub(super) input_root: Digest,
    pub(super) do_not_cache: bool,
    pub(super) requester: Requester,
    /// What any of those who wait wants inside the answer.
    pub(super) inline: InlineWanted,
    /// Those who wait for it, by name.
    pub(super) operations: Vec<String>,
    pub(super) progress: ActionProgress,
    invocation: String,
}

/// Where an action's time went, so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActionProgress {
    /// When it was queued.
    pub(crate) queued: Instant,
    /// When it was given to the agent that it is on, or was last on.
    pub(crate) assigned: Option<Instant>,
    /// When its report came.
    pub(crate) reported: Option<Instant>,
    /// When everybody had their answer.
    pub(crate) answered: Option<Instant>,
    /// The agent that it is on, or was last on.
    pub(crate) agent: String,
    /// How far it is there.
    pub(crate) stage: Option<Stage>,
    /// Attempts that were made at it.
    pub(crate) attempts: u32,
    /// Faults of the fleet, in words, the first few.
    pub(crate) faults: Vec<String>,
    /// What the attempt that counted took.
    pub(crate) timings: muster_model::attempt::Timings,
    /// Collecting and uploading the outputs.
    pub(crate) upload: std::time::Duration,
    /// What the attempt that counted used.
    pub(crate) usage: muster_model::attempt::Usage,
    /// Requests that it answered.
    pub(crate) requests: usize,
}

/// An action for people.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActionFacts {
    pub(crate) operation: String,
    pub(crate) requester: Requester,
    pub(crate) queued: Instant,
}

#[derive(Debug)]
struct Invocation {
    id: InvocationId,
    open: usize,
}

/// An operation that is done and still known.
#[derive(Debug)]
struct Kept {
    since: Instant,
    name: String,
    bytes: usize,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    operations: BTreeMap<String, Operation>,
    /// How actions of kept operations fared; shared by the operations of one action.
    fared: HashMap<String, Arc<ActionProgress>>,
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    actions: HashMap<ActionId, Open>,
    in_flight: HashMap<ActionKey, ActionId>,
    invocations: HashMap<String, Invocation>,
    next_action: u64,
    next_invocation: u64,
    pub(super) memory: Memory,
}

impl Table {
    /// Enters a new operation.
    pub(super) fn begin(
        &mut self,
        actions: &Arc<Actions>,
        name: &str,
        request: &ExecuteRequest,
    ) -> Result<Listener, Status> {
        if self.operations.len() >= limits::OPERATIONS_MAX {
            let most = limits::OPERATIONS_MAX;
            return Err(Status::resource_exhausted(format!("{most} operations are known already; try again later")));
        }
        let state = unfinished(name.to_owned(), request.action, ExecutionStage::CacheCheck, None);
        let (sender, states) = watch::channel(Arc::new(state));
        let operation = Operation {
            requester: request.requester.clone(),
            action_digest: request.action,
            action: None,
            state: sender,
            listeners: 1,
            abandoned: None,
        };
        self.operations.insert(name.to_owned(), operation);
        Ok(Listener::new(name.to_owned(), states, actions))
    }

    pub(super) fn listen(&mut self, actions: &Arc<Actions>, name: &str) -> Option<Listener> {
        let operation = self.operations.get_mut(name)?;
        operation.listeners += 1;
        operation.abandoned = None;
        Some(Listener::new(name.to_owned(), operation.state.subscribe(), actions))
    }

    pub(super) fn stop_listening(&mut self, name: &str, now: Instant) {
        if let Some(operation) = self.operations.get_mut(name) {
            operation.listeners = operation.listeners.saturating_sub(1);
            operation.abandoned = (operation.listeners == 0).then_some(now);
        }
    }

    /// Operations that nobody has listened to for too long.
    pub(super) fn abandoned(&self, now: Instant) -> Vec<String> {
        let is_abandoned = |operation: &Operation| {
            let since = operation.abandoned.filter(|_| !operation.is_done());
            since.is_some_and(|since| now.since(since) >= limits::OPERATION_ABANDONED_TIME)
        };
        self.operations.iter().filter(|(_, operation)| is_abandoned(operation)).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<longrunning::Operation> {
        Some((**self.operations.get(name)?.state.borrow()).clone())
    }

    pub(super) fn list(&self, instance: &str, after: &str, count: usize) -> Vec<longrunning::Operation> {
        let prefix = prefix(instance);
        let from = if after.is_empty() { Bound::Included(prefix.as_str()) } else { Bound::Excluded(after) };
        let listed = self.operations.range::<str, _>((from, Bound::Unbounded));
        let listed = listed.take_while(|(name, _)| name.starts_with(&prefix)).take(count);
        listed.map(|(_, operation)| (**operation.state.borrow()).clone()).collect()
    }

    /// Joins an action in flight, or makes a new one, which is returned.
    pub(super) fn join_or_open(
        &mut self,
        name: &str,
        request: ExecuteRequest,
        prepared: Prepared,
        now: Instant,
    ) -> Option<SubmittedAction> {
        // It may have been cancelled in the meantime.
        let operation = self.operations.get_mut(name).filter(|operation| !operation.is_done())?;
        let may_merge = !prepared.do_not_cache && !self.memory.is_flaky(&request.key);
        if may_merge
            && let Some(&action) = self.in_flight.get(&request.key)
            && let Some(open) = self.actions.get_mut(&action)
        {
            operation.action = Some(action);
            open.operations.push(name.to_owned());
            open.inline.join(request.inline);
            operation.advance(open.execution_stage(), None);
            return None;
        }
        if self.actions.len() >= limits::ACTIONS_OPEN_MAX {
            let why = format!("{} actions wait or are under way already; try again later", limits::ACTIONS_OPEN_MAX);
            let status = answers::status(tonic::Code::ResourceExhausted, why);
            self.finish(name, answers::of_status(status), now);
            return None;
        }
        operation.advance(ExecutionStage::Queued, None);
        let action = ActionId(self.next_action);
        self.next_action += 1;
        operation.action = Some(action);
        let queue = request.requester.queue();
        let invocation = self.enter_invocation(&queue);
        let expected = self.memory.expected(&request.requester.kind());
        let requirements = prepared.task.requirements.clone();
        let task = Arc::new(prepared.task);
        if may_merge {
            self.in_flight.insert(request.key, action);
        }
        self.actions.insert(
            action,
            Open {
                key: request.key,
                task: task.clone(),
                input_root: prepared.input_root,
                do_not_cache: prepared.do_not_cache,
                requester: request.requester,
                inline: request.inline,
                operations: vec![name.to_owned()],
                progress: ActionProgress { queued: now, ..ActionProgress::default() },
                invocation: queue,
            },
        );
        let seed = ActionSeed { requirements, priority: request.priority, expected };
        Some(SubmittedAction { action, invocation, seed, task })
    }

    fn enter_invocation(&mut self, name: &str) -> InvocationId {
        if let Some(invocation) = self.invocations.get_mut(name) {
            invocation.open += 1;
            return invocation.id;
        }
        let id = InvocationId(self.next_invocation);
        self.next_invocation += 1;
        self.invocations.insert(name.to_owned(), Invocation { id, open: 1 });
        id
    }

    pub(super) fn is_open(&self, action: ActionId) -> bool {
        self.actions.contains_key(&action)
    }

    pub(super) fn open(&self, action: ActionId) -> Option<&Open> {
        self.actions.get(&action)
    }

    pub(super) fn open_mut(&mut self, action: ActionId) -> Option<&mut Open> {
        self.actions.get_mut(&action)
    }

    /// Takes an action out; who comes from now on starts a new one.
    pub(super) fn close(&mut self, action: ActionId) -> Option<Open> {
        let open = self.actions.remove(&action)?;
        if self.in_flight.get(&open.key) == Some(&action) {
            self.in_flight.remove(&open.key);
        }
        if let Some(invocation) = self.invocations.get_mut(&open.invocation) {
            invocation.open -= 1;
            if invocation.open == 0 {
                self.invocations.remove(&open.invocation);
            }
        }
        Some(open)
    }

    /// Answers an operation and keeps it for those who ask again. One that has its answer keeps it.
    pub(super) fn finish(&mut self, name: &str, response: reapi::ExecuteResponse, now: Instant) {
        let Some(operation) = self.operations.get_mut(name).filter(|operation| !operation.is_done()) else { return };
        let bytes = operation.finish(&response);
        self.kept_bytes += bytes;
        self.kept.push_back(Kept { since: now, name: name.to_owned(), bytes });
    }

    /// Answers everybody who waited for a closed action.
    pub(super) fn answer(&mut self, mut open: Open, response: &reapi::ExecuteResponse, now: Instant) {
        open.progress.answered = Some(now);
        open.progress.requests = open.operations.len();
        let progress = Arc::new(open.progress);
        for name in &open.operations {
            if self.operations.contains_key(name) {
                self.fared.insert(name.clone(), progress.clone());
            }
            self.finish(name, response.clone(), now);
        }
    }

    /// Cancels an operation; none when there is none. When it was the last that waited for its action, that is closed and returned.
    pub(super) fn cancel(&mut self, name: &str, now: Instant) -> Option<Option<ActionId>> {
        let action = self.operations.get(name)?.action;
        self.finish(name, answers::of_end(muster_scheduler::ActionEnd::Cancelled, 0, ""), now);
        let Some(action) = action else { return Some(None) };
        let Some(open) = self.actions.get_mut(&action) else { return Some(None) };
        open.operations.retain(|waiting| waiting != name);
        if !open.operations.is_empty() {
            return Some(None);
        }
        self.close(action);
        Some(Some(action))
    }

    pub(super) fn forget(&mut self, name: &str) -> bool {
        self.fared.remove(name);
        self.operations.remove(name).is_some()
    }

    /// Forgets operations that are done, the oldest first, when their time is over or too much is kept.
    pub(super) fn forget_old(&mut self, now: Instant) {
        while let Some(oldest) = self.kept.front() {
            let age = now.since(oldest.since);
            let is_too_much = self.kept_bytes > limits::OPERATIONS_KEPT_BYTES_MAX
                || self.operations.len() > limits::OPERATIONS_MAX / 2;
            let most = if is_too_much { limits::OPERATION_KEPT_TIME_MIN } else { limits::OPERATION_KEPT_TIME };
            if age < most {
                return;
            }
            let Some(Kept { name, bytes, .. }) = self.kept.pop_front() else { return };
            self.kept_bytes -= bytes;
            self.forget(&name);
        }
    }

    pub(super) fn note_assigned(&mut self, action: ActionId, now: Instant) {
        if let Some(open) = self.actions.get_mut(&action) {
            open.progress.assigned = Some(now);
            open.progress.attempts += 1;
            open.progress.stage = Some(Stage::Waiting);
        }
    }

    pub(super) fn note_stage(&mut self, clock: &Clock, action: ActionId, agent: String, stage: Stage) {
        let Some(open) = self.actions.get_mut(&action) else { return };
        let before = open.execution_stage();
        open.progress.agent = agent;
        open.progress.stage = Some(stage);
        let after = open.execution_stage();
        if before == after {
            return;
        }
        let execution = reapi::ExecutedActionMetadata {
            worker: open.progress.agent.clone(),
            queued_timestamp: Some(clock.timestamp(open.progress.queued)),
            worker_start_timestamp: Some(clock.timestamp(clock.now())),
            ..reapi::ExecutedActionMetadata::default()
        };
        for name in &open.operations {
            if let Some(operation) = self.operations.get(name) {
                operation.advance(after, Some(execution.clone()));
            }
        }
    }

    pub(super) fn note_fault(&mut self, action: ActionId, agent: &str, said: &str) {
        let Some(open) = self.actions.get_mut(&action) else { return };
        if open.progress.faults.len() < FAULTS_REMEMBERED_MAX {
            open.progress.faults.push(format!("on {agent}: {said}"));
        }
        open.progress.stage = None;
        // It waits again.
        for name in &open.operations {
            if let Some(operation) = self.operations.get(name) {
                operation.advance(ExecutionStage::Queued, None);
            }
        }
    }

    pub(super) fn facts(&self, action: ActionId) -> Option<ActionFacts> {
        let open = self.actions.get(&action)?;
        Some(ActionFacts {
            operation: open.operations.first().cloned().unwrap_or_default(),
            requester: open.requester.clone(),
            queued: open.progress.queued,
        })
    }

    pub(super) fn progress(&self, name: &str) -> Option<(longrunning::Operation, Requester, ActionProgress)> {
        let operation = self.operations.get(name)?;
        let open = operation.action.and_then(|action| self.actions.get(&action));
        let progress = match (self.fared.get(name), open) {
            (Some(fared), _) => (**fared).clone(),
            (None, Some(open)) => ActionProgress { requests: open.operations.len(), ..open.progress.clone() },
            (None, None) => ActionProgress::default(),
        };
        Some(((**operation.state.borrow()).clone(), operation.requester.clone(), progress))
    }
}

impl Open {
    fn execution_stage(&self) -> ExecutionStage {
        match self.progress.stage {
            None | Some(Stage::Waiting) => ExecutionStage::Queued,
            Some(Stage::Fetching | Stage::Running | Stage::Uploading | Stage::Finished) => ExecutionStage::Executing,
        }
    }
}
