//! The end of an action: from the scheduler's decision and the agent's report to everybody's answer.

use std::sync::Arc;

use muster_model::attempt::{ActionReport, AttemptReport, AttemptResult, Usage};
use muster_model::outcome::FaultKind;
use muster_model::{ActionId, Instant};
use muster_proto::{reapi, v1};
use muster_scheduler::ActionEnd;
use prost::Message;

use super::publish::{self, Published};
use super::{Actions, answers};
use crate::reapi::action_cache::add_inline;

/// How the scheduler says that an action ended, with the report that decided it.
#[derive(Debug)]
pub(crate) struct Conclusion {
    pub(crate) action: ActionId,
    pub(crate) end: ActionEnd,
    pub(crate) attempts: u32,
    /// The agent's name and its report, when an attempt decided.
    pub(crate) report: Option<(String, AttemptReport)>,
}

/// The name under which a result says what its execution used; of a cached one it is what the execution used that made it.
const USAGE_TYPE: &str = "type.googleapis.com/muster.v1.Usage";

fn auxiliary(usage: &Usage) -> prost_types::Any {
    prost_types::Any { type_url: USAGE_TYPE.into(), value: v1::Usage::from(usage).encode_to_vec() }
}

impl Actions {
    /// Answers everybody, after what is to be kept is kept. Never waits itself.
    pub(crate) fn conclude(self: &Arc<Self>, conclusion: Conclusion) {
        let actions = self.clone();
        let reported = self.clock.now();
        tokio::spawn(async move {
            let action = conclusion.action;
            let response = actions.response(conclusion, reported).await;
            let response = actions.with_inline(action, response).await;
            let now = actions.clock.now();
            let mut table = actions.table();
            if let Some(open) = table.close(action) {
                table.answer(open, &response, now);
            }
        });
    }

    async fn response(&self, conclusion: Conclusion, reported: Instant) -> reapi::ExecuteResponse {
        let Conclusion { action, end, attempts, report } = conclusion;
        let (agent, report) = report.unzip();
        let said = match report.as_ref().map(|report| &report.result) {
            Some(AttemptResult::Fault(fault)) => fault.message.clone(),
            _ => self.table().open(action).and_then(|open| open.progress.faults.last().cloned()).unwrap_or_default(),
        };
        match (end, report) {
            (ActionEnd::Ran, Some(report)) => {
                let Some(ran) = self.note_report(action, &report, agent.unwrap_or_default(), reported) else {
                    return answers::of_end(end, attempts, &said);
                };
                self.publish(action, ran).await
            }
            (ActionEnd::Fault(FaultKind::Inputs), _) => {
                let input_root = self.table().open(action).map(|open| open.input_root);
                let missing = match input_root {
                    Some(input_root) => self.door.find_missing(input_root).await,
                    None => None,
                };
                missing.map_or_else(|| answers::of_end(end, attempts, &said), answers::of_status)
            }
            _ => answers::of_end(end, attempts, &said),
        }
    }

    /// Puts into the response what any of the requests wants inline.
    async fn with_inline(&self, action: ActionId, mut response: reapi::ExecuteResponse) -> reapi::ExecuteResponse {
        let wanted = self.table().open(action).map(|open| (open.task.action.function, open.inline.clone()));
        if let (Some((function, inline)), Some(result)) = (wanted, &mut response.result) {
            add_inline(&*self.storage.blobs, function, result, &inline.as_wanted()).await;
        }
        response
    }

    /// Notes where the time went, and writes it into the result.
    fn note_report(
        &self,
        action: ActionId,
        report: &AttemptReport,
        agent: String,
        reported: Instant,
    ) -> Option<(ActionReport, reapi::ActionResult)> {
        let AttemptResult::ActionRan(ran) = &report.result else { return None };
        let mut result = reapi::ActionResult::decode(ran.result.as_slice()).ok()?;
        let mut table = self.table();
        let progress = &mut table.open_mut(action)?.progress;
        progress.agent = agent;
        progress.reported = Some(reported);
        progress.timings = report.timings;
        progress.upload = ran.upload;
        progress.usage = report.usage;
        // By the coordinator's clock: clocks of two machines are not compared. What the way back took counts as if it came before the start.
        let elapsed = ran.elapsed.min(reported.since(progress.assigned.unwrap_or(progress.queued)));
        let mut at = Instant(reported.0 - u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).min(reported.0));
        let mut step = |time: std::time::Duration| {
            at = (at + time).min(reported);
            Some(self.clock.timestamp(at))
        };
        let metadata = result.execution_metadata.get_or_insert_default();
        metadata.worker.clone_from(&progress.agent);
        metadata.queued_timestamp = Some(self.clock.timestamp(progress.queued));
        metadata.worker_start_timestamp = step(std::time::Duration::ZERO);
        metadata.input_fetch_start_timestamp = metadata.worker_start_timestamp;
        metadata.input_fetch_completed_timestamp = step(report.timings.transfer);
        metadata.execution_start_timestamp = step(report.timings.environment);
        metadata.execution_completed_timestamp = step(report.timings.execution);
        metadata.output_upload_start_timestamp = metadata.execution_completed_timestamp;
        metadata.output_upload_completed_timestamp = step(ran.upload);
        metadata.worker_completed_timestamp = Some(self.clock.timestamp(reported));
        metadata.virtual_execution_duration = prost_types::Duration::try_from(report.timings.execution).ok();
        metadata.auxiliary_metadata.push(auxiliary(&report.usage));
        Some((ran.clone(), result))
    }

    /// Keeps a result that others may use, after it was checked that everything in it is there.
    async fn publish(&self, action: ActionId, ran: (ActionReport, reapi::ActionResult)) -> reapi::ExecuteResponse {
        let (report, result) = ran;
        let Some((key, task, may_cache, kind, duration)) = self.table().open(action).map(|open| {
            let duration = open.progress.timings.execution;
            // Its key does not say that a wall was missing, so that others must not take it for what they asked for.
            let may_cache = !open.do_not_cache && open.task.requirements.without.is_empty();
            (open.key, open.task.clone(), may_cache, open.requester.kind(), duration)
        }) else {
            return answers::of_end(ActionEnd::Cancelled, 0, "");
        };
        let function = task.action.function;
        let published = publish::publish(&self.storage, key, function, &report, &result, may_cache).await;
        let (published, outcome) = match published {
            Ok(published) => published,
            Err(status) => return answers::of_status(status),
        };
        let mut table = self.table();
        table.memory.note(key, outcome, self.clock.now());
        table.memory.learn(&kind, duration);
        if published == Published::Divergent {
            tracing::warn!(action = %task.action, "another result of an action is kept as divergent");
            table.memory.note_divergent(key);
        }
        drop(table);
        answers::of_ending(report.ending, &report.message, result, task.timeout)
    }
}
