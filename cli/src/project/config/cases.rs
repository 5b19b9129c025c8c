//! `cases`: cases with resources of their own.
//!
//! ```toml
//! [test.api.cases]
//! "*database*" = { exclusive = "database" }
//! "slow::*" = { cpu = 2, memory = "4GiB" }
//! ```
//!
//! `*` stands for any characters and `?` for one. Of several patterns that a case matches, the longest holds. What a pattern does not say is as for the
//! suite.

use core::cmp::Reverse;

use muster_model::limits;
use muster_model::spec::TargetSpec;

use super::{ProjectError, Reader, Value};

/// One pattern and what it says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CaseSettings {
    /// Over the names of cases.
    pub(crate) pattern: String,
    /// `cpu`.
    slots: Option<u32>,
    /// `memory`, in bytes.
    memory_bytes: Option<u64>,
    /// `exclusive`.
    exclusive: Option<Vec<String>>,
}

impl CaseSettings {
    /// A target like another one, with these resources.
    pub(crate) fn applied_to(&self, target: &TargetSpec) -> TargetSpec {
        let mut target = target.clone();
        let resources = &mut target.requirements.resources;
        resources.slots = self.slots.unwrap_or(resources.slots);
        resources.memory_bytes = self.memory_bytes.unwrap_or(resources.memory_bytes);
        target.limits.memory_bytes = self.memory_bytes.unwrap_or(target.limits.memory_bytes);
        if let Some(exclusive) = &self.exclusive {
            resources.exclusive.clone_from(exclusive);
            resources.exclusive.sort();
            resources.exclusive.dedup();
        }
        target
    }
}

impl Reader<'_> {
    /// The table of the key `cases`.
    pub(super) fn cases(&self, value: &Value<'_>) -> Result<Vec<CaseSettings>, ProjectError> {
        let mut cases = Vec::new();
        for (pattern, value) in self.table(value)? {
            let mut settings = CaseSettings { pattern: pattern.get_ref().to_string(), ..CaseSettings::default() };
            if settings.pattern.is_empty() || settings.pattern.len() > limits::NAME_BYTES_MAX {
                let message = format!("a pattern must have from 1 to {} bytes", limits::NAME_BYTES_MAX);
                return Err(self.error(pattern.span(), message, "write a pattern like \"slow::*\"".to_owned()));
            }
            for (key, value) in self.table(value)? {
                match key.get_ref().as_ref() {
                    "cpu" => settings.slots = Some(self.number(value, 1)?),
                    "memory" => settings.memory_bytes = Some(self.bytes(value)?),
                    "exclusive" => settings.exclusive = Some(self.groups(value)?),
                    _ => return Err(self.unknown(key, &["cpu", "memory", "exclusive"])),
                }
            }
            cases.push(settings);
        }
        if cases.len() > limits::CASE_PATTERNS_MAX {
            let message =
                format!("there are {} patterns, and at most {} may be", cases.len(), limits::CASE_PATTERNS_MAX);
            return Err(self.error(value.span(), message, "let patterns stand for more cases".to_owned()));
        }
        cases.sort_by_key(|settings| (Reverse(settings.pattern.chars().count()), settings.pattern.clone()));
        Ok(cases)
    }
}
