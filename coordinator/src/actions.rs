//! The room of actions: operations and those who wait for them, around the one task that owns the scheduler.
//!
//! ```text
//! Execute ->  an operation, named at once  ->  door: read, check, look up  ->  join one in flight, or a new action  ->  scheduler
//!    ^                                                                                                                    |
//!    +------ every operation of the action  <-  publish: verify outputs, write the action cache  <-  report  <------------+
//! ```
//!
//! An *operation* is one client's request; an *action* is one execution, which several operations may wait for. The last operation that is
//! cancelled takes the action with it. A broken stream cancels nothing: the client comes back with the operation's name, and what nobody
//! listens to for [`limits::OPERATION_ABANDONED_TIME`] is cancelled then.
//!
//! Everything here is of the cache's durability class: it is lost with the process, clients are told so with NOT_FOUND, and ask again.

mod answers;
mod conclude;
mod door;
mod memory;
mod names;
mod operation;
mod platform;
mod publish;
mod show;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use muster_cache::ActionRecord;
use muster_model::attempt::{ActionTask, Stage};
use muster_model::key::ActionKey;
use muster_model::{ActionId, Digest, Instant, InvocationId, limits};
use muster_proto::{longrunning, reapi, v1};
use muster_scheduler::ActionSeed;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tonic::Status;

use crate::clock::Clock;
use crate::closure::Closures;
use crate::reapi::action_cache::{Inline, add_inline};
use crate::scheduler_task::Input;
use crate::storage::Storage;
use crate::submission::Offers;
pub(crate) use conclude::Conclusion;
use door::{Door, Prepared};
use names::Names;
pub(crate) use operation::{Listener, Requester};
pub(crate) use table::ActionFacts;
use table::Table;

/// What a client wants executed.
#[derive(Clone, Debug)]
pub(crate) struct ExecuteRequest {
    /// The instance's name.
    pub(crate) instance: String,
    /// The digest of the `Action`.
    pub(crate) action: Digest,
    /// Where the result is kept.
    pub(crate) key: ActionKey,
    /// Run it although its result may be known.
    pub(crate) skip_cache_lookup: bool,
    /// Lower goes first.
    pub(crate) priority: i32,
    /// Who asks.
    pub(crate) requester: Requester,
    /// What is wanted inside the answer.
    pub(crate) inline: InlineWanted,
}

/// What of a result is wanted inside an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct InlineWanted {
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) files: Vec<String>,
}

impl InlineWanted {
    fn as_wanted(&self) -> Inline<'_> {
        Inline { stdout: self.stdout, stderr: self.stderr, files: &self.files }
    }

    /// What one or the other wants: an answer to several requests may say more than each has asked for.
    fn join(&mut self, other: Self) {
        self.stdout |= other.stdout;
        self.stderr |= other.stderr;
        self.files.extend(other.files);
    }
}

/// An action on its way to the scheduler.
pub(crate) struct SubmittedAction {
    pub(crate) action: ActionId,
    pub(crate) invocation: InvocationId,
    pub(crate) seed: ActionSeed,
    pub(crate) task: Arc<ActionTask>,
}

/// The room.
pub(crate) struct Actions {
    door: Door,
    storage: Storage,
    clock: Clock,
    inputs: mpsc::WeakSender<Input>,
    names: Names,
    table: Mutex<Table>,
}

impl Actions {
    /// An empty room, and the task that tidies it as long as it exists.
    pub(crate) fn open(
        storage: Storage,
        offers: Offers,
        clock: Clock,
        inputs: mpsc::WeakSender<Input>,
    ) -> std::io::Result<Arc<Self>> {
        let door = Door { storage: storage.clone(), closures: Closures::new(storage.lease_time), offers };
        let names = Names::draw()?;
        let actions = Arc::new(Self { door, storage, clock, inputs, names, table: Mutex::default() });
        tokio::spawn(tidy(Arc::downgrade(&actions)));
        Ok(actions)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation.
    pub(crate) fn execute(self: &Arc<Self>, request: ExecuteRequest) -> Result<Listener, Status> {
        let name = self.names.next(&request.instance);
        let listener = self.table().begin(self, &name, &request)?;
        let actions = self.clone();
        tokio::spawn(async move { actions.admit(name, request).await });
        Ok(listener)
    }

    /// Listens to an operation again.
    pub(crate) fn listen(self: &Arc<Self>, name: &str) -> Option<Listener> {
        self.table().listen(self, name)
    }

    /// An operation as it is.
    pub(crate) fn get(&self, name: &str) -> Option<longrunning::Operation> {
        self.table().get(name)
    }

    /// Operations of an instance in the order of their names, after `after`, at most `count`.
    pub(crate) fn list(&self, instance: &str, after: &str, count: usize) -> Vec<longrunning::Operation> {
        self.table().list(instance, after, count)
    }

    /// Cancels an operation; false when there is none of that name.
    pub(crate) async fn cancel(&self, name: &str) -> bool {
        let cancelled = self.table().cancel(name, self.clock.now());
        match cancelled {
            None => false,
            Some(last_of) => {
                self.withdraw(last_of).await;
                true
            }
        }
    }

    /// Forgets an operation; what it was waiting for goes on. False when there is none of that name.
    pub(crate) fn forget(&self, name: &str) -> bool {
        self.table().forget(name)
    }

    /// What is known of an action, for people.
    pub(crate) fn facts(&self, action: ActionId) -> Option<ActionFacts> {
        self.table().facts(action)
    }

    /// How an operation's action fared, for people.
    pub(crate) fn show(&self, name: &str) -> Option<v1::ShowActionResponse> {
        let (operation, requester, progress) = self.table().progress(name)?;
        Some(show::story(operation, requester, progress, self.clock.now()))
    }

    /// The scheduler tells how far an action is.
    pub(crate) fn note_stage(&self, action: ActionId, agent: String, stage: Stage) {
        self.table().note_stage(&self.clock, action, agent, stage);
    }

    /// The scheduler has given an action to an agent.
    pub(crate) fn note_assigned(&self, action: ActionId) {
        self.table().note_assigned(action, self.clock.now());
    }

    /// An attempt at an action failed by the fleet's fault.
    pub(crate) fn note_fault(&self, action: ActionId, agent: &str, said: &str) {
        self.table().note_fault(action, agent, said);
    }

    /// Ends every stream. Clients find out that nothing is known any more, and execute again.
    pub(crate) fn close_all(&self) {
        *self.table() = Table::default();
    }

    async fn admit(self: Arc<Self>, name: String, request: ExecuteRequest) {
        let began = self.clock.now();
        if !request.skip_cache_lookup && self.answer_from_cache(&name, &request).await {
            return;
        }
        let prepared = async {
            let read = self.door.read(request.action).await?;
            self.door.prepare(read).await
        };
        let prepared = match prepared.await {
            Ok(prepared) => prepared,
            Err(status) => {
                self.table().finish(&name, answers::of_status(status), self.clock.now());
                return;
            }
        };
        // One like it may have ended between the question and now.
        let is_known = self.table().memory.has_finished_since(&request.key, began);
        if is_known
            && !request.skip_cache_lookup
            && !prepared.do_not_cache
            && self.answer_from_cache(&name, &request).await
        {
            return;
        }
        self.queue(name, request, prepared).await;
    }

    async fn answer_from_cache(&self, name: &str, request: &ExecuteRequest) -> bool {
        let records = self.storage.actions.get(&[request.key]).await;
        let record = match records {
            Ok(records) => records.into_iter().next().flatten(),
            Err(error) => {
                // Running the action needs the cache's index less than an answer from it would.
                tracing::warn!(error = &error as &dyn std::error::Error, "the action cache can't be asked");
                None
            }
        };
        let Some(mut result) = record.and_then(decode) else { return false };
        let inline = request.inline.as_wanted();
        add_inline(&*self.storage.blobs, request.action.function, &mut result, &inline).await;
        self.table().finish(name, answers::of_cached(result), self.clock.now());
        true
    }

    async fn queue(&self, name: String, request: ExecuteRequest, prepared: Prepared) {
        let queued = self.table().join_or_open(&name, request, prepared, self.clock.now());
        let Some(submitted) = queued else { return };
        let action = submitted.action;
        self.tell(Input::ActionSubmitted(Box::new(submitted))).await;
        // A cancellation that came before the submission was for nothing.
        if !self.table().is_open(action) {
            self.tell(Input::ActionCancelled(action)).await;
        }
    }

    async fn withdraw(&self, action: Option<ActionId>) {
        if let Some(action) = action {
            self.tell(Input::ActionCancelled(action)).await;
        }
    }

    async fn tell(&self, input: Input) {
        if let Some(inputs) = self.inputs.upgrade() {
            // A coordinator that stops ends every stream, and clients ask again.
            let _ = inputs.send(input).await;
        }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }
}

fn decode(record: ActionRecord) -> Option<reapi::ActionResult> {
    match reapi::ActionResult::decode(record.payload) {
        Ok(result) => Some(result),
        Err(error) => {
            tracing::warn!(%error, "a record of the action cache is no ActionResult");
            None
        }
    }
}

/// Cancels what nobody listens to and forgets what was kept long enough.
async fn tidy(actions: Weak<Actions>) {
    let mut ticks = interval(limits::REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(actions) = actions.upgrade() else { return };
        let now = actions.clock.now();
        let abandoned = {
            let mut table = actions.table();
            table.forget_old(now);
            table.abandoned(now)
        };
        for name in abandoned {
            tracing::info!(operation = name, "cancelled: nobody listens to it any more");
            actions.cancel(&name).await;
        }
    }
}
