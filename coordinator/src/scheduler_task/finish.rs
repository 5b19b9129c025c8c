//! The end of a run.

use muster_model::outcome::RunOutcome;
use muster_model::{RunId, TargetIndex};
use muster_proto::v1;
use tokio::sync::oneshot;

use super::SchedulerTask;
use crate::effects::Effect;
use crate::efficiency::efficiency;
use crate::ledger::{FinishRecord, Record};
use crate::result_cache::CacheMessage;

impl SchedulerTask {
    /// Closes a run. The ledger counts its rows again and makes the event: see `ledger::tally`.
    pub(super) fn finish_run(
        &mut self,
        run: RunId,
        outcome: RunOutcome,
        planned: u32,
        reported: u32,
        undiscovered: &[TargetIndex],
    ) {
        let now_unix_ms = self.surroundings.clock.unix_ms();
        let slots = self.agents.slots();
        let Some(mut open) = self.runs.remove(&run) else { return };
        for epoch in open.leases.keys() {
            self.run_of_epoch.remove(epoch);
        }
        open.last_sequence += 1;
        let wall_ms = now_unix_ms.saturating_sub(open.started_unix_ms).max(0).unsigned_abs();
        let unlisted =
            undiscovered.iter().filter_map(|&target| open.target(target)).filter(|target| !target.is_refused);
        let faults = match outcome {
            RunOutcome::Fault => unlisted
                .map(|target| format!("the cases of {} could not be listed", target.prepared.spec.name))
                .collect(),
            _ => Vec::new(),
        };
        let (reply, event) = oneshot::channel();
        let finish = FinishRecord {
            run,
            outcome,
            planned,
            reported,
            efficiency: efficiency(&open, now_unix_ms, slots),
            faults,
            sequence: open.last_sequence,
            at_unix_ms: now_unix_ms,
            wall_ms,
        };
        self.append(Record::Finish(Box::new(finish), reply));
        self.effect(Effect::Finish { run, event });
    }

    /// Tells watchers once the run's results are in the cache.
    pub(super) fn announce_finish(&mut self, run: RunId, mut event: oneshot::Receiver<v1::RunEvent>) {
        // The ledger answers before it says that the record is durable, which is what let this effect happen.
        let Ok(event) = event.try_recv() else { return };
        if let Some(v1::run_event::Event::RunFinished(finished)) = &event.event {
            let outcome = finished.summary.as_ref().map_or("", |summary| summary.outcome.as_str());
            tracing::info!(run = run.0, outcome, "run finished");
            for fault in &finished.faults {
                tracing::warn!(run = run.0, "{fault}");
            }
        }
        let message = CacheMessage::Finish { run, sequence: event.sequence };
        // The task that keeps results ends after this one.
        let _ = self.surroundings.results.send(message);
    }
}
