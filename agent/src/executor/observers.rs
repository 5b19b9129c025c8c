//! Who listens to a program: a framework's reader, or for a discovery a recorder.

use muster_frameworks::{CaseEvent, Ending, ResultReader, Stream, Summary};
use muster_model::Instant;

use super::process::{Observed, Observer};

/// Hands the output of a shard to its reader.
pub(super) struct CaseObserver {
    reader: Box<dyn ResultReader>,
    /// The assignment's position of the shard's first case.
    first: u32,
}

impl CaseObserver {
    pub(super) fn new(reader: Box<dyn ResultReader>, first: u32) -> Self {
        Self { reader, first }
    }

    pub(super) fn finish(self, now: Instant, ending: Ending) -> Summary {
        self.reader.finish(now, ending)
    }
}

impl Observer for CaseObserver {
    fn observe(&mut self, now: Instant, stream: Stream, bytes: &[u8]) -> Observed {
        self.reader.push(now, stream, bytes);
        let mut observed = Observed::default();
        while let Some(event) = self.reader.poll() {
            observed.moved = true;
            if let CaseEvent::Started(position) = event {
                observed.started = Some(self.first.saturating_add(position));
            }
        }
        observed
    }
}

/// Keeps everything; the environment bounds how much that is.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) standard: Vec<u8>,
    pub(super) error: Vec<u8>,
}

impl Observer for Recorder {
    fn observe(&mut self, _now: Instant, stream: Stream, bytes: &[u8]) -> Observed {
        match stream {
            Stream::Standard => self.standard.extend_from_slice(bytes),
            Stream::Error => self.error.extend_from_slice(bytes),
        }
        Observed::default()
    }
}
