//! Bytes of unknown length in bounded memory: lines one at a time, and the two ends of a text.

use memchr::memchr;
use muster_model::limits::{CASE_OUTPUT_BYTES_MAX, OUTPUT_LINE_BYTES_MAX};

use crate::Ending;

/// Cuts a stream into lines, however its bytes arrive.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
    is_complete: bool,
    is_overlong: bool,
}

impl Lines {
    /// Moves the bytes up to the next line's end out of `bytes`, and answers whether a line is complete; its newline is dropped.
    pub(crate) fn fill(&mut self, bytes: &mut &[u8]) -> bool {
        if self.is_complete {
            self.line.clear();
            self.is_complete = false;
            self.is_overlong = false;
        }
        let (part, rest) = match memchr(b'\n', bytes) {
            Some(end) => {
                self.is_complete = true;
                (&bytes[..end], &bytes[end + 1..])
            }
            None => (*bytes, &[][..]),
        };
        let room = OUTPUT_LINE_BYTES_MAX - self.line.len();
        self.is_overlong |= part.len() > room;
        self.line.extend_from_slice(&part[..part.len().min(room)]);
        *bytes = rest;
        self.is_complete
    }

    /// The line that is complete, or as much of the next one as is there.
    pub(crate) fn line(&self) -> &[u8] {
        &self.line
    }

    /// Whether the line's end was dropped.
    pub(crate) fn is_overlong(&self) -> bool {
        self.is_overlong
    }
}

/// Room for the sentence between the two ends of an [`Excerpt`], in bytes.
const MARKER_BYTES: usize = 64;

/// The head and the tail of a text of any length.
#[derive(Debug)]
pub(crate) struct Excerpt {
    bytes_max: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
    left_out_bytes: usize,
}

impl Excerpt {
    /// An empty text that keeps at most `bytes_max` bytes, its marker included.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, head: Vec::new(), tail: Vec::new(), left_out_bytes: 0 }
    }

    /// Appends bytes.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let end_bytes = self.end_bytes();
        let (head, rest) = bytes.split_at(bytes.len().min(end_bytes - self.head.len()));
        self.head.extend_from_slice(head);
        let tail_bytes = self.bytes_max - end_bytes;
        let kept = &rest[rest.len().saturating_sub(tail_bytes)..];
        self.left_out_bytes += rest.len() - kept.len();
        self.tail.extend_from_slice(kept);
        // Cut only when the tail has doubled, so that every byte is moved a constant number of times.
        if self.tail.len() > 2 * tail_bytes {
            self.cut_tail(tail_bytes);
        }
    }

    /// How many bytes it holds.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// How many bytes have been appended.
    fn pushed_bytes(&self) -> usize {
        self.head.len() + self.tail.len() + self.left_out_bytes
    }

    /// The text; what is not UTF-8 is replaced, what does not fit is counted in its place.
    pub(crate) fn into_text(mut self) -> String {
        let pushed_bytes = self.pushed_bytes();
        if self.left_out_bytes == 0 && pushed_bytes <= self.bytes_max {
            self.head.append(&mut self.tail);
            let text = String::from_utf8_lossy(&self.head).into_owned();
            if text.len() <= self.bytes_max {
                return text;
            }
            self.tail = self.head.split_off(self.head.len() / 2);
        }
        let end_bytes = self.end_bytes();
        self.cut_tail(end_bytes);
        // Replacement characters are longer than the bytes they stand for, so the ends are cut once more.
        let head = String::from_utf8_lossy(&self.head);
        let tail = String::from_utf8_lossy(&self.tail);
        let head = &head[..head.floor_char_boundary(end_bytes)];
        let tail = &tail[tail.ceil_char_boundary(tail.len().saturating_sub(end_bytes))..];
        format!("{head}\n[about {} bytes left out]\n{tail}", pushed_bytes.saturating_sub(2 * end_bytes))
    }

    fn end_bytes(&self) -> usize {
        self.bytes_max.saturating_sub(MARKER_BYTES) / 2
    }

    fn cut_tail(&mut self, bytes: usize) {
        let surplus = self.tail.len().saturating_sub(bytes);
        self.tail.drain(..surplus);
        self.left_out_bytes += surplus;
    }
}

/// The longest message in a report, in bytes: a line that a person reads at a glance.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The first line of a text that is not blank, cut to what a report's message may have.
pub(crate) fn message(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line[..line.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned()
}

/// Both streams of a program that lists cases, for a person to read.
pub(crate) fn both_streams(standard: &[u8], error: &[u8]) -> String {
    let mut excerpt = Excerpt::new(CASE_OUTPUT_BYTES_MAX);
    excerpt.push(standard);
    excerpt.push(error);
    excerpt.into_text()
}

/// How a program ended, as a fragment of a sentence.
pub(crate) fn how_it_ended(ending: &Ending) -> String {
    match crate::alone::exit_code(ending) {
        Ok(code) => format!("it exited with status {code}"),
        Err((_, message)) => format!("it {message}"),
    }
}

/// Whether a line is the voice of a sanitizer or a race detector, after which a second try that passes proves nothing.
pub(crate) fn is_sanitizer_report(line: &[u8]) -> bool {
    const WORDS: [&[u8]; 8] = [
        b"ERROR: AddressSanitizer",
        b"ERROR: LeakSanitizer",
        b"ERROR: HWAddressSanitizer",
        b"WARNING: ThreadSanitizer",
        b"WARNING: MemorySanitizer",
        b": runtime error: ",
        b"WARNING: DATA RACE",
        b"Undefined Behavior: ",
    ];
    // Every one of them has a colon and a space: most lines are done after one search.
    memchr(b':', line).is_some() && WORDS.iter().any(|words| memchr::memmem::find(line, words).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn excerpt(bytes_max: usize, pieces: &[&[u8]]) -> String {
        let mut excerpt = Excerpt::new(bytes_max);
        pieces.iter().for_each(|piece| excerpt.push(piece));
        excerpt.into_text()
    }

    #[test]
    fn a_short_text_is_kept_whole() {
        assert_eq!(excerpt(100, &[b"one ", b"two"]), "one two");
        assert_eq!(excerpt(100, &[&[b'a'; 100]]), "a".repeat(100));
    }

    #[test]
    fn a_long_text_keeps_both_ends() {
        let text = excerpt(84, &[b"head------", &[b'x'; 1000], b"------tail"]);
        insta::assert_snapshot!(text, @"
        head------
        [about 1000 bytes left out]
        ------tail
        ");
    }

    #[test]
    fn an_overlong_line_is_cut_and_says_so() {
        let mut lines = Lines::default();
        let text = [vec![b'x'; OUTPUT_LINE_BYTES_MAX + 5], b"\nshort\n".to_vec()].concat();
        let mut bytes = &text[..];
        assert!(lines.fill(&mut bytes));
        assert_eq!((lines.line().len(), lines.is_overlong()), (OUTPUT_LINE_BYTES_MAX, true));
        assert!(lines.fill(&mut bytes));
        assert_eq!((lines.line(), lines.is_overlong()), (&b"short"[..], false));
        assert!(!lines.fill(&mut bytes));
    }

    #[test]
    fn sanitizers_are_recognised_and_plain_errors_are_not() {
        assert!(is_sanitizer_report(b"==7==ERROR: AddressSanitizer: heap-use-after-free"));
        assert!(is_sanitizer_report(b"lib.c:3:9: runtime error: signed integer overflow"));
        assert!(!is_sanitizer_report(b"Error: something else"));
    }

    proptest! {
        #[test]
        fn an_excerpt_never_passes_its_bound(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20),
            bytes_max in 80_usize..500,
        ) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert!(excerpt(bytes_max, &pieces).len() <= bytes_max);
        }

        #[test]
        fn lines_do_not_depend_on_how_bytes_arrive(text in "[ab\n]{0,60}", cut in 0_usize..60) {
            let collect = |pieces: &[&[u8]]| {
                let mut lines = Lines::default();
                let mut found = Vec::new();
                for piece in pieces {
                    let mut bytes = *piece;
                    while lines.fill(&mut bytes) {
                        found.push(lines.line().to_vec());
                    }
                }
                found
            };
            let (first, second) = text.as_bytes().split_at(cut.min(text.len()));
            prop_assert_eq!(collect(&[first, second]), collect(&[text.as_bytes()]));
        }
    }
}
