//! The part of JUnit XML that everybody writes: `testcase` elements and what is in them. (There is no standard; the common ground is described
//! by <https://github.com/testmoapp/junitxml>.)
//!
//! Attributes that count (`tests=`, `failures=`) are not believed: elements are counted. Document type declarations are refused, so no entity but
//! XML's own five means anything; depth, names and kept text are bounded, and the file is read once from front to back.

use muster_model::limits::{CASE_NAME_BYTES_MAX, CASE_OUTPUT_BYTES_MAX};
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};

use crate::output::{Excerpt, message};

/// What a report says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct JunitReport {
    /// Test cases, skipped ones included.
    pub(crate) tests: usize,
    /// Those with a failure or an error.
    pub(crate) failed: usize,
    /// Those that were skipped.
    pub(crate) skipped: usize,
    /// The first [`FAILURES_MAX`] of the failed ones.
    pub(crate) failures: Vec<JunitFailure>,
}

/// One failed test case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct JunitFailure {
    /// `classname::name`, or the name alone.
    pub(crate) name: String,
    /// The failure's `message` attribute, one line.
    pub(crate) message: String,
    /// The failure's text.
    pub(crate) text: String,
}

/// Why a file is not a report.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JunitError {
    /// It is not XML.
    #[error("not well-formed XML")]
    Xml(#[from] quick_xml::Error),
    /// Elements within elements.
    #[error("elements nested more than {DEPTH_MAX} deep")]
    Depth,
    /// It declares a document type.
    #[error("document type declarations are refused")]
    DocumentType,
    /// It stops in the middle.
    #[error("the file ends inside an element")]
    Truncated,
    /// It holds no test suite.
    #[error("no `testsuite` element")]
    NoSuite,
}

/// Failures whose words are kept.
const FAILURES_MAX: usize = 32;
/// Elements within elements; real reports have five.
const DEPTH_MAX: usize = 64;

/// Reads a report.
///
/// # Errors
///
/// See [`JunitError`].
pub(crate) fn read(bytes: &[u8]) -> Result<JunitReport, JunitError> {
    let text = String::from_utf8_lossy(bytes);
    let mut reader = quick_xml::Reader::from_str(&text);
    let mut walk = Walk::default();
    loop {
        match reader.read_event()? {
            Event::Start(element) => {
                walk.open(&element)?;
                walk.depth += 1;
            }
            Event::Empty(element) => {
                walk.open(&element)?;
                walk.close(element.name().as_ref());
            }
            Event::End(element) => {
                walk.depth = walk.depth.saturating_sub(1);
                walk.close(element.name().as_ref());
            }
            Event::Text(text) => walk.text(text.as_ref()),
            Event::CData(text) => walk.text(text.as_ref()),
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().ok().flatten().map(String::from);
                let known = character.as_deref().or_else(|| resolve_predefined_entity(reference.as_ref()));
                walk.text(known.unwrap_or("\u{fffd}"));
            }
            Event::DocType(_) => return Err(JunitError::DocumentType),
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    match (walk.depth, walk.has_suite) {
        (0, true) => Ok(walk.report),
        (0, false) => Err(JunitError::NoSuite),
        _ => Err(JunitError::Truncated),
    }
}

#[derive(Default)]
struct Walk {
    report: JunitReport,
    depth: usize,
    has_suite: bool,
    case: Option<Case>,
    /// The text of the failure element that is open.
    words: Option<Excerpt>,
}

#[derive(Default)]
struct Case {
    failure: JunitFailure,
    is_failed: bool,
    is_skipped: bool,
}

impl Walk {
    fn open(&mut self, element: &BytesStart<'_>) -> Result<(), JunitError> {
        if self.depth >= DEPTH_MAX {
            return Err(JunitError::Depth);
        }
        match (element.name().as_ref(), &mut self.case) {
            ("testsuite" | "testsuites", _) => self.has_suite = true,
            ("testcase", None) => {
                let name = attribute(element, "name");
                let name = match attribute(element, "classname") {
                    class if class.is_empty() => name,
                    class => format!("{class}::{name}"),
                };
                self.case = Some(Case { failure: JunitFailure { name, ..Default::default() }, ..Default::default() });
            }
            ("failure" | "error", Some(case)) => {
                if !case.is_failed {
                    case.failure.message = message(&attribute(element, "message"));
                    self.words = Some(Excerpt::new(CASE_OUTPUT_BYTES_MAX));
                }
                case.is_failed = true;
            }
            ("skipped", Some(case)) => case.is_skipped = true,
            _ => {}
        }
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if let Some(words) = &mut self.words {
            words.push(text.as_bytes());
        }
    }

    fn close(&mut self, name: &str) {
        match name {
            "failure" | "error" => {
                if let (Some(case), Some(words)) = (&mut self.case, self.words.take()) {
                    case.failure.text = words.into_text();
                }
            }
            "testcase" => {
                let Some(case) = self.case.take() else { return };
                self.report.tests += 1;
                self.report.failed += usize::from(case.is_failed);
                self.report.skipped += usize::from(case.is_skipped && !case.is_failed);
                if case.is_failed && self.report.failures.len() < FAILURES_MAX {
                    self.report.failures.push(case.failure);
                }
            }
            _ => {}
        }
    }
}

/// An attribute's value, cut to the length of a name; empty if it is not there or makes no sense.
fn attribute(element: &BytesStart<'_>, name: &str) -> String {
    // The check for doubled names compares every attribute with every other.
    let mut attributes = element.attributes();
    let found = attributes.with_checks(false).flatten().find(|attribute| attribute.key.as_ref() == name);
    let Some(attribute) = found else { return String::new() };
    let text = &attribute.value;
    let text = &text[..text.floor_char_boundary(CASE_NAME_BYTES_MAX)];
    quick_xml::escape::unescape(text).map_or_else(|_| text.to_owned(), |text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        read(text.as_bytes()).expect_err("this is no report").to_string()
    }

    #[test]
    fn elements_are_counted_and_attributes_are_not_believed() {
        let text = r#"<?xml version="1.0"?><testsuites tests="99" failures="0"><testsuite name="s">
            <testcase classname="a.B" name="passes"/>
            <testcase name="skips"><skipped message="later"/></testcase>
            <testcase classname="a.B" name="fails &lt;x&gt;"><failure message="no &#x26; no">first<![CDATA[ <second>]]> &amp; third</failure>
              <error message="twice">not kept</error><system-out>words</system-out></testcase>
        </testsuite></testsuites>"#;
        let failure = JunitFailure {
            name: "a.B::fails <x>".to_owned(),
            message: "no & no".to_owned(),
            text: "first <second> & third".to_owned(),
        };
        let report = read(text.as_bytes()).expect("this is a report");
        assert_eq!(report, JunitReport { tests: 3, failed: 1, skipped: 1, failures: vec![failure] });
    }

    #[test]
    fn entity_bombs_depth_and_broken_files_are_refused() {
        let bomb =
            r#"<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>"#;
        assert_eq!(error(bomb), "document type declarations are refused");
        assert_eq!(error(&"<testsuite>".repeat(100_000)), "elements nested more than 64 deep");
        assert_eq!(error("<testsuite><testcase name='x'>"), "the file ends inside an element");
        assert_eq!(error("<html></html>"), "no `testsuite` element");
        assert_eq!(error(""), "no `testsuite` element");
        assert_eq!(error("<testsuite></testcase>"), "not well-formed XML");
    }

    #[test]
    fn the_words_of_a_huge_report_are_bounded() {
        let text = "x".repeat(3 * CASE_OUTPUT_BYTES_MAX);
        let case = format!("<testcase name='n'><failure message='m'>{text}</failure></testcase>");
        let report = read(format!("<testsuite>{}</testsuite>", case.repeat(100)).as_bytes()).expect("a report");
        assert_eq!((report.failed, report.failures.len()), (100, FAILURES_MAX));
        assert!(report.failures.iter().all(|failure| failure.text.len() <= CASE_OUTPUT_BYTES_MAX));
        let attributes: String = (0..200_000).map(|number| format!(" a{number}='v'")).collect();
        assert!(read(format!("<testsuite><testcase{attributes}/></testsuite>").as_bytes()).is_ok());
    }
}
