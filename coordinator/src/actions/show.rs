//! Where an action's time went, for people.

use std::time::Duration;

use muster_model::Instant;
use muster_proto::{longrunning, reapi, v1};
use prost::Message;

use super::operation::Requester;
use super::table::ActionProgress;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The answer to `muster runs why OPERATION`.
pub(super) fn story(
    operation: longrunning::Operation,
    requester: Requester,
    progress: ActionProgress,
    now: Instant,
) -> v1::ShowActionResponse {
    let response = match operation.result {
        Some(longrunning::operation::Result::Response(response)) => {
            reapi::ExecuteResponse::decode(response.value.as_slice()).unwrap_or_default()
        }
        _ => reapi::ExecuteResponse::default(),
    };
    let (timings, usage) = (progress.timings, v1::Usage::from(&progress.usage));
    let on_agent = timings.transfer + timings.environment + timings.execution + progress.upload;
    // As long as there is no report, everything is waiting.
    let before = progress.reported.unwrap_or(now).since(progress.queued).saturating_sub(on_agent);
    let is_queued = progress.requests > 0;
    let status = response.status.unwrap_or_default();
    v1::ShowActionResponse {
        operation: operation.name,
        tool: requester.tool,
        invocation: requester.invocation,
        mnemonic: requester.mnemonic,
        target: requester.target,
        stage: match progress.stage {
            _ if operation.done => "done".into(),
            None => "queued".into(),
            Some(stage) => stage.name().into(),
        },
        requests: u32::try_from(progress.requests).unwrap_or(u32::MAX),
        cached: response.cached_result,
        agent: progress.agent,
        attempts: progress.attempts,
        faults: progress.faults,
        queue_us: if is_queued { micros(before) } else { 0 },
        transfer_us: micros(timings.transfer),
        environment_us: micros(timings.environment),
        execution_us: micros(timings.execution),
        upload_us: micros(progress.upload),
        answer_us: match (progress.reported, progress.answered) {
            (Some(reported), Some(answered)) => micros(answered.since(reported)),
            _ => 0,
        },
        total_us: if is_queued { micros(progress.answered.unwrap_or(now).since(progress.queued)) } else { 0 },
        fetched_bytes: usage.fetched_bytes,
        memory_peak_bytes: usage.memory_peak_bytes,
        cpu_us: usage.cpu_us,
        written_bytes: usage.written_bytes,
        processes_peak: usage.processes_peak,
        processes_created: usage.processes_created,
        code: status.code,
        message: if status.message.is_empty() { response.message } else { status.message },
        exit_code: response.result.map_or(0, |result| result.exit_code),
    }
}
