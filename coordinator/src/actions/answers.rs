//! What those who wait for an action are told: statuses and results in the words that clients need.
//!
//! The answer to an action that was accepted is always an `ExecuteResponse`: clients treat an error of the call itself, or `Operation.error`, as
//! the end of everything, and read details only here.

use muster_cache::StoreError;
use muster_model::attempt::ActionEnding;
use muster_model::outcome::FaultKind;
use muster_model::{Digest, limits};
use muster_proto::{reapi, rpc};
use muster_scheduler::ActionEnd;
use prost::Message;
use tonic::Code;

use crate::reapi::errors::missing_blobs;

/// Exit code of a program that a signal killed, less the signal's number, as shells have it.
const SIGNAL_EXIT_CODE: i32 = 128;
/// SIGKILL, by which the fleet kills.
const KILL: u8 = 9;

/// A status without details.
pub(crate) fn status(code: Code, message: impl Into<String>) -> rpc::Status {
    rpc::Status { code: code.into(), message: message.into(), details: Vec::new() }
}

/// What a client is told of a store's trouble.
pub(crate) fn of_store(error: &StoreError) -> rpc::Status {
    let said = crate::storage::status(error);
    status(said.code(), said.message())
}

/// A message packed with the address of its type.
pub(super) fn pack(type_name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: format!("type.googleapis.com/{type_name}"), value: message.encode_to_vec() }
}

/// The status of an action whose inputs are not all there: exactly one detail, one violation for each blob.
pub(crate) fn precondition_missing(missing: &[Digest]) -> rpc::Status {
    let named = &missing[..missing.len().min(limits::MISSING_INPUTS_NAMED_MAX)];
    let failure = missing_blobs(named);
    rpc::Status {
        code: Code::FailedPrecondition.into(),
        message: format!("{} inputs are not in the store", missing.len()),
        details: vec![pack("google.rpc.PreconditionFailure", &failure)],
    }
}

/// The response for an action whose program ran; `said` is what the agent has to say beside.
pub(super) fn of_ending(
    ending: ActionEnding,
    said: &str,
    mut result: reapi::ActionResult,
    timeout: std::time::Duration,
) -> reapi::ExecuteResponse {
    let killed = |what: &str| format!("{what} and was killed by signal {KILL} (SIGKILL)");
    let (code, message) = match ending {
        ActionEnding::Exited { code } => {
            result.exit_code = code;
            (Code::Ok, said.to_owned())
        }
        ActionEnding::Signalled { signal } => {
            result.exit_code = SIGNAL_EXIT_CODE + i32::from(signal);
            (Code::Ok, format!("the program was killed by signal {signal}{}", signal_name(signal)))
        }
        ActionEnding::MemoryExceeded => {
            result.exit_code = SIGNAL_EXIT_CODE + i32::from(KILL);
            (Code::Ok, killed("the program passed its memory"))
        }
        ActionEnding::OutputExceeded => {
            result.exit_code = SIGNAL_EXIT_CODE + i32::from(KILL);
            (Code::Ok, killed("the program wrote more to standard output and error than it may"))
        }
        ActionEnding::ProcessesExceeded => {
            result.exit_code = SIGNAL_EXIT_CODE + i32::from(KILL);
            (Code::Ok, killed("the program wanted more processes at one time than it may have"))
        }
        ActionEnding::TimedOut => {
            result.exit_code = SIGNAL_EXIT_CODE + i32::from(KILL);
            let seconds = timeout.as_secs_f64();
            (Code::DeadlineExceeded, killed(&format!("the program passed its timeout of {seconds} s")))
        }
        ActionEnding::OutputsRefused => (Code::InvalidArgument, format!("the outputs can't be kept: {said}")),
    };
    reapi::ExecuteResponse {
        result: Some(result),
        status: Some(status(code, if code == Code::Ok { String::new() } else { message.clone() })),
        message,
        ..reapi::ExecuteResponse::default()
    }
}

/// The response for an action that was not run to an end.
pub(super) fn of_end(end: ActionEnd, attempts: u32, said: &str) -> reapi::ExecuteResponse {
    let (code, message) = match end {
        ActionEnd::Cancelled => (Code::Cancelled, "the operation was cancelled".to_owned()),
        // Without details, and not a code that clients try again: that would take more agents down.
        ActionEnd::Poison => {
            (Code::FailedPrecondition, format!("the action took agents down with it in {attempts} attempts"))
        }
        ActionEnd::Fault(kind) => {
            let code = if kind == FaultKind::Protocol { Code::Internal } else { Code::Unavailable };
            (code, format!("the fleet could not run the action in {attempts} attempts: {said}"))
        }
        ActionEnd::Ran => (Code::Internal, "the result of the action was lost".to_owned()),
    };
    of_status(status(code, message))
}

/// A response that only says why there is no result.
pub(super) fn of_status(status: rpc::Status) -> reapi::ExecuteResponse {
    let message = status.message.clone();
    reapi::ExecuteResponse { status: Some(status), message, ..reapi::ExecuteResponse::default() }
}

/// The response for a result that was known before.
pub(super) fn of_cached(result: reapi::ActionResult) -> reapi::ExecuteResponse {
    let status = Some(rpc::Status::default());
    reapi::ExecuteResponse { result: Some(result), cached_result: true, status, ..reapi::ExecuteResponse::default() }
}

/// The usual name of a signal, in brackets; empty for those without one (signal(7), the numbers of x86 and ARM).
fn signal_name(signal: u8) -> &'static str {
    match signal {
        1 => " (SIGHUP)",
        2 => " (SIGINT)",
        3 => " (SIGQUIT)",
        4 => " (SIGILL)",
        5 => " (SIGTRAP)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        10 => " (SIGUSR1)",
        11 => " (SIGSEGV)",
        12 => " (SIGUSR2)",
        13 => " (SIGPIPE)",
        14 => " (SIGALRM)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ)",
        31 => " (SIGSYS)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::DigestFunction;
    use std::time::Duration;

    #[test]
    fn missing_inputs_are_one_detail_with_the_subjects_that_clients_look_for() {
        let blake3 = Digest::of(b"x");
        let sha256 = Digest { function: DigestFunction::Sha256, ..blake3 };
        let status = precondition_missing(&[blake3, sha256]);
        assert_eq!((status.code, status.details.len()), (Code::FailedPrecondition.into(), 1));
        assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let failure = rpc::PreconditionFailure::decode(status.details[0].value.as_slice()).unwrap();
        let subjects: Vec<&str> = failure.violations.iter().map(|violation| violation.subject.as_str()).collect();
        let hex = blake3.hex();
        assert_eq!(subjects, [format!("blobs/blake3/{hex}/1"), format!("blobs/{hex}/1")]);
        assert!(failure.violations.iter().all(|violation| violation.r#type == "MISSING"));
    }

    #[test]
    fn a_signal_is_reported_as_that_signal_and_a_failure_is_no_error() {
        let of = |ending| of_ending(ending, "", reapi::ActionResult::default(), Duration::from_secs(3));
        let crashed = of(ActionEnding::Signalled { signal: 11 });
        assert_eq!((crashed.result.unwrap().exit_code, crashed.status.unwrap().code), (139, 0));
        assert_eq!(crashed.message, "the program was killed by signal 11 (SIGSEGV)");
        let failed = of(ActionEnding::Exited { code: 3 });
        assert_eq!((failed.result.unwrap().exit_code, failed.status.unwrap().code), (3, 0));
        let late = of(ActionEnding::TimedOut);
        assert_eq!(late.status.unwrap().code, i32::from(Code::DeadlineExceeded));
        assert!(late.result.is_some() && late.message.contains("its timeout of 3 s"), "{}", late.message);
    }

    #[test]
    fn only_what_may_be_different_next_time_has_a_code_that_clients_try_again() {
        let code = |end| of_end(end, 3, "why").status.unwrap().code;
        assert_eq!(code(ActionEnd::Fault(FaultKind::AgentLost)), i32::from(Code::Unavailable));
        assert_eq!(code(ActionEnd::Poison), i32::from(Code::FailedPrecondition));
        assert!(of_end(ActionEnd::Poison, 3, "").status.unwrap().details.is_empty());
        assert_eq!(code(ActionEnd::Cancelled), i32::from(Code::Cancelled));
    }
}
