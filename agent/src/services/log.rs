//! The end of what a service wrote.

use std::sync::{Arc, Mutex, PoisonError};

use muster_model::limits;

/// A log that several may read while it grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Log(Arc<Mutex<Written>>);

#[derive(Debug, Default)]
struct Written {
    end: Vec<u8>,
    /// What is looked for, until it was seen.
    awaited: Option<String>,
    /// The line under way.
    line: Vec<u8>,
}

impl Log {
    /// One in which a line that contains `awaited` will be seen.
    pub(super) fn awaiting(awaited: Option<String>) -> Self {
        Self(Arc::new(Mutex::new(Written { awaited, ..Written::default() })))
    }

    /// Takes more of it.
    pub(super) fn write(&self, bytes: &[u8]) {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        written.look(bytes);
        written.end.extend_from_slice(bytes);
        let surplus = written.end.len().saturating_sub(limits::SERVICE_LOG_BYTES_MAX);
        written.end.drain(..surplus);
    }

    /// Whether what is looked for was seen.
    pub(super) fn has_seen(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).awaited.is_none()
    }

    /// The last lines, each after a line break, to be put behind a sentence; nothing when nothing was written.
    pub(super) fn tail(&self) -> String {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&written.end);
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let first = lines.len().saturating_sub(limits::SERVICE_LOG_LINES_SHOWN);
        lines[first..].iter().map(|line| format!("\n    {line}")).collect()
    }
}

impl Written {
    fn look(&mut self, bytes: &[u8]) {
        let Some(awaited) = &self.awaited else { return };
        let mut is_seen = false;
        for byte in bytes {
            if *byte == b'\n' {
                is_seen |= String::from_utf8_lossy(&self.line).contains(awaited.as_str());
                self.line.clear();
            } else if self.line.len() < limits::OUTPUT_LINE_BYTES_MAX {
                self.line.push(*byte);
            }
        }
        if is_seen || String::from_utf8_lossy(&self.line).contains(awaited.as_str()) {
            self.awaited = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_seen_however_it_arrives_and_the_end_is_kept() {
        let log = Log::awaiting(Some("ready to accept".to_owned()));
        log.write(b"starting\nready to");
        assert!(!log.has_seen());
        log.write(b" accept connections");
        assert!(log.has_seen());
        assert_eq!(log.tail(), "\n    starting\n    ready to accept connections");
        for line in 0..100_000 {
            log.write(format!("\nline {line}").as_bytes());
        }
        assert_eq!(log.tail().lines().filter(|line| !line.is_empty()).count(), limits::SERVICE_LOG_LINES_SHOWN);
        assert!(log.tail().ends_with("line 99999"));
    }
}
