//! Actions of the Remote Execution API between coordinators and agents.

use core::time::Duration;

use muster_model::attempt::{ActionEnding, ActionReport, ActionTask};
use muster_model::{DigestFunction, limits};

use super::{ConvertError, at_most, required};
use crate::reapi::digest_function;
use crate::v1;

impl From<&ActionTask> for v1::ActionTask {
    fn from(task: &ActionTask) -> Self {
        Self {
            digest: Some(task.action.into()),
            digest_function: digest_function::Value::from(task.action.function).into(),
            action: task.encoded_action.clone().into(),
            command: task.encoded_command.clone().into(),
            timeout_ms: u64::try_from(task.timeout.as_millis()).unwrap_or(u64::MAX),
            requirements: Some((&task.requirements).into()),
        }
    }
}

impl TryFrom<&v1::ActionTask> for ActionTask {
    type Error = ConvertError;

    fn try_from(task: &v1::ActionTask) -> Result<Self, ConvertError> {
        let function = digest_function::Value::to_model(task.digest_function, DigestFunction::Blake3)?;
        Ok(Self {
            action: required("action_task.digest", task.digest.as_ref())?.to_model(function)?,
            encoded_action: task.action.to_vec(),
            encoded_command: task.command.to_vec(),
            timeout: Duration::from_millis(task.timeout_ms),
            requirements: required("action_task.requirements", task.requirements.as_ref())?.try_into()?,
        })
    }
}

impl From<&ActionReport> for v1::ActionReport {
    fn from(report: &ActionReport) -> Self {
        let (ending, code, signal) = match report.ending {
            ActionEnding::Exited { code } => (v1::ActionEndingKind::Exited, code, 0),
            ActionEnding::Signalled { signal } => (v1::ActionEndingKind::Signalled, 0, u32::from(signal)),
            ActionEnding::TimedOut => (v1::ActionEndingKind::TimedOut, 0, 0),
            ActionEnding::MemoryExceeded => (v1::ActionEndingKind::MemoryExceeded, 0, 0),
            ActionEnding::OutputExceeded => (v1::ActionEndingKind::OutputExceeded, 0, 0),
            ActionEnding::ProcessesExceeded => (v1::ActionEndingKind::ProcessesExceeded, 0, 0),
            ActionEnding::OutputsRefused => (v1::ActionEndingKind::OutputsRefused, 0, 0),
        };
        let (result, message) = (report.result.clone().into(), report.message.clone());
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let (upload_us, elapsed_us) = (micros(report.upload), micros(report.elapsed));
        Self { ending: ending.into(), code, signal, result, message, upload_us, elapsed_us }
    }
}

impl TryFrom<&v1::ActionReport> for ActionReport {
    type Error = ConvertError;

    fn try_from(report: &v1::ActionReport) -> Result<Self, ConvertError> {
        let signal = || {
            let number = u8::try_from(report.signal).ok().filter(|&signal| signal > 0);
            number.ok_or_else(|| ConvertError::new("action_report.signal", "is not a signal's number"))
        };
        let ending = match v1::ActionEndingKind::try_from(report.ending) {
            Ok(v1::ActionEndingKind::Exited) => ActionEnding::Exited { code: report.code },
            Ok(v1::ActionEndingKind::Signalled) => ActionEnding::Signalled { signal: signal()? },
            Ok(v1::ActionEndingKind::TimedOut) => ActionEnding::TimedOut,
            Ok(v1::ActionEndingKind::MemoryExceeded) => ActionEnding::MemoryExceeded,
            Ok(v1::ActionEndingKind::OutputExceeded) => ActionEnding::OutputExceeded,
            Ok(v1::ActionEndingKind::ProcessesExceeded) => ActionEnding::ProcessesExceeded,
            Ok(v1::ActionEndingKind::OutputsRefused) => ActionEnding::OutputsRefused,
            _ => return Err(ConvertError::new("action_report.ending", "is not known")),
        };
        at_most("action_report.message", report.message.len(), limits::CASE_OUTPUT_BYTES_MAX)?;
        at_most("action_report.result", report.result.len(), limits::ACTION_RESULT_BYTES_MAX)?;
        Ok(Self {
            ending,
            result: report.result.to_vec(),
            message: report.message.clone(),
            upload: Duration::from_micros(report.upload_us),
            elapsed: Duration::from_micros(report.elapsed_us),
        })
    }
}
