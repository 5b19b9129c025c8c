//! The lines of the pretty format.

use memchr::memmem;

/// What a case's line says after its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Passed,
    Failed,
    /// With its reason.
    Ignored(String),
}

/// What the end of a case's text says: whether the harness's word stood alone, or came after something else on its line.
pub(super) fn result(tail: &[u8]) -> Option<(Said, bool)> {
    match tail {
        b"ok" => Some((Said::Passed, true)),
        b"FAILED" => Some((Said::Failed, true)),
        b"ignored" => Some((Said::Ignored(String::new()), true)),
        _ => {
            if let Some(reason) = tail.strip_prefix(b"ignored, ") {
                Some((Said::Ignored(String::from_utf8_lossy(reason).into_owned()), true))
            } else if tail.ends_with(b"ok") {
                Some((Said::Passed, false))
            } else if tail.ends_with(b"FAILED") {
                Some((Said::Failed, false))
            } else {
                None
            }
        }
    }
}

const START: &[u8] = b"test ";
const DOTS: &[u8] = b" ... ";

/// Where in a line the name of a case, if it starts with one, ends. Looks at `line[searched..]` for the dots only, and moves `searched` on, so
/// that a line which grows is read once.
pub(super) fn start<T>(line: &[u8], searched: &mut usize, find: impl Fn(&[u8]) -> Option<T>) -> Option<(T, usize)> {
    if !line.starts_with(START) {
        return None;
    }
    loop {
        let from = (*searched).max(START.len());
        let Some(offset) = line.get(from..).and_then(|rest| memmem::find(rest, DOTS)) else {
            *searched = from.max((line.len() + 1).saturating_sub(DOTS.len()));
            return None;
        };
        let end = from + offset;
        *searched = end + 1;
        if let Some(found) = find(bare_name(&line[START.len()..end])) {
            return Some((found, end + DOTS.len()));
        }
    }
}

/// A name without what the harness adds to it: padding, and the kind of a case that is to panic.
fn bare_name(name: &[u8]) -> &[u8] {
    let name = name.trim_ascii_end();
    [&b" - should panic"[..], b" - compile fail", b" - compile"]
        .iter()
        .find_map(|kind| name.strip_suffix(*kind))
        .unwrap_or(name)
}

/// The number in `running N tests`.
pub(super) fn announced(line: &[u8]) -> Option<usize> {
    let text = str::from_utf8(line).ok()?.strip_prefix("running ")?;
    text.strip_suffix(" tests").or_else(|| text.strip_suffix(" test"))?.parse().ok()
}

/// The counts of the last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) is_ok: bool,
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) ignored: usize,
}

impl Totals {
    /// How many cases they count.
    pub(super) fn sum(self) -> usize {
        self.passed.saturating_add(self.failed).saturating_add(self.ignored)
    }

    /// Whether the exit status says the same.
    pub(super) fn agrees_with(self, code: i32) -> bool {
        if self.is_ok { self.failed == 0 && code == 0 } else { self.failed > 0 && code == FAILED_CODE }
    }
}

/// The harness's exit code when a case failed (`ERROR_EXIT_CODE` in `library/test/src/lib.rs`).
pub(super) const FAILED_CODE: i32 = 101;

/// Reads `test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s`.
pub(super) fn totals(line: &[u8]) -> Option<Totals> {
    let text = str::from_utf8(line).ok()?.strip_prefix("test result: ")?;
    let (is_ok, counts) = match text.split_once(". ")? {
        ("ok", counts) => (true, counts),
        ("FAILED", counts) => (false, counts),
        _ => return None,
    };
    let mut counts = counts.split("; ");
    let mut count = |unit| counts.next()?.strip_suffix(unit)?.parse().ok();
    Some(Totals { is_ok, passed: count(" passed")?, failed: count(" failed")?, ignored: count(" ignored")? })
}

/// Finds the reason for a failure in the words of the failed test, line by line.
#[derive(Debug, Default)]
pub(super) struct Reason {
    is_next: bool,
    found: String,
    second_best: String,
}

impl Reason {
    pub(super) fn push(&mut self, line: &[u8]) {
        if !self.found.is_empty() {
            return;
        }
        if self.is_next {
            self.found = crate::output::message(&String::from_utf8_lossy(line));
            self.is_next = false;
        } else if line.starts_with(b"thread '") && memmem::find(line, b" panicked at ").is_some() {
            self.is_next = true;
        } else if self.second_best.is_empty()
            && (line.starts_with(b"Error: ") || line.starts_with(b"note: test did not panic as expected"))
        {
            self.second_best = crate::output::message(&String::from_utf8_lossy(line));
        }
    }

    pub(super) fn into_message(self) -> String {
        if self.found.is_empty() { self.second_best } else { self.found }
    }
}
