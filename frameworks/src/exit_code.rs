//! Programs that are one case: a test binary without a harness, a package's doctests. The exit status is the verdict.

use muster_model::Instant;
use muster_model::attempt::DiscoveredCase;
use muster_model::spec::TargetSpec;

use crate::alone::{Alone, exit_code, verdict_of_status};
use crate::{
    CaseEvent, DiscoveryError, DiscoveryOutput, Ending, Framework, FrameworkCommand, ResultReader, Shard, Stream,
    Summary,
};

/// The one case's name; the target's name tells it apart from others.
const CASE_NAME: &str = "main";

/// See the module.
pub(crate) struct ExitCode;

impl Framework for ExitCode {
    fn discovery_commands(&self, _target: &TargetSpec, _nonce: &str) -> Vec<FrameworkCommand> {
        Vec::new()
    }

    fn read_discovery(
        &self,
        _target: &TargetSpec,
        _nonce: &str,
        _outputs: &[DiscoveryOutput],
    ) -> Result<Vec<DiscoveredCase>, DiscoveryError> {
        Ok(vec![DiscoveredCase { name: CASE_NAME.to_owned(), ignored: false }])
    }

    fn run_command(&self, shard: &Shard<'_>) -> FrameworkCommand {
        FrameworkCommand { command: shard.target.command.clone(), collect: Vec::new() }
    }

    fn reader(&self, shard: &Shard<'_>) -> Box<dyn ResultReader> {
        Box::new(Reader(shard.cases.first().map(|(case, _)| Alone::new(*case))))
    }
}

/// Empty for an empty shard.
struct Reader(Option<Alone>);

impl ResultReader for Reader {
    fn push(&mut self, now: Instant, stream: Stream, bytes: &[u8]) {
        if let Some(alone) = &mut self.0 {
            alone.push(now, stream, bytes, |_| ());
        }
    }

    fn poll(&mut self) -> Option<CaseEvent> {
        self.0.as_mut()?.poll()
    }

    fn finish(self: Box<Self>, now: Instant, ending: Ending) -> Summary {
        let report = self.0.map(|alone| {
            let (verdict, message) = exit_code(&ending).map_or_else(|verdict| verdict, verdict_of_status);
            alone.report(now, &ending, verdict, message)
        });
        Summary { reports: report.into_iter().collect(), interruption: None }
    }
}
