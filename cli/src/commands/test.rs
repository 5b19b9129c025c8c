//! `muster test`: build and fleet at the same time, upload, submit, follow, report.

use std::collections::HashMap;
use std::io::{BufWriter, IsTerminal, stderr, stdout};
use std::time::Duration;

use indicatif::ProgressDrawTarget;
use muster_model::spec::RunSpec;
use muster_proto::v1::RunEvent;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::Format;
use super::test_arguments::TestArguments;
use crate::client::Client;
use crate::embedded::{Embedded, EmbeddedOptions, default_data, default_slots};
use crate::error::{ExpectedError, FleetError};
use crate::exit_code::ExitCode;
use crate::interrupts::Interrupts;
use crate::paint::{ColorChoice, Paint};
use crate::project::{self, BuildOutput, KnownImage, PrepareOptions, PreparedRun, Progress, Project, Step};
use crate::reporter::{
    DeniedLeaks, GithubReporter, HumanReporter, JsonReporter, JunitReporter, Note, PlainReporter, Reporter, Reporters,
    Tally, github,
};
use crate::{submit, text, watch};

/// How often a display with a clock in it is drawn again.
const TICK: Duration = Duration::from_millis(200);
/// How long a cancelled run's end is waited for.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// Events that are rendered before the display is.
const EVENTS_AT_ONCE: usize = 256;

/// Runs the command.
pub(super) async fn run(arguments: TestArguments, color: ColorChoice) -> Result<ExitCode, ExpectedError> {
    let start = Instant::now();
    let mut interrupts = Interrupts::listen().map_err(ExpectedError::report("a handler for signals"))?;
    let mut reporters = reporters(&arguments, color);
    let project = project::detect(&arguments.path, &arguments.project_options())?;
    let prepared = {
        let both = open_and_prepare(&arguments, &project, &mut reporters, start);
        tokio::select! {
            both = both => both,
            () = interrupts.next() => return Err(ExpectedError::Cancelled),
        }
    };
    let fleet = match prepared.0 {
        Ok(fleet) => fleet,
        // The project's own error is the one to mend first.
        Err(error) => return Err(prepared.1.err().unwrap_or(error)),
    };
    let ended = match prepared.1 {
        Ok(prepared) => execute(&arguments, &project, prepared, &fleet, &mut reporters, &mut interrupts).await,
        Err(error) => Err(error),
    };
    fleet.close(&mut interrupts).await;
    ended
}

/// At the same time, unless the project names images: those the fleet has to be asked for first.
async fn open_and_prepare(
    arguments: &TestArguments,
    project: &Project,
    reporters: &mut Reporters,
    start: Instant,
) -> (Result<Fleet, ExpectedError>, Result<PreparedRun, ExpectedError>) {
    let names = project.image_names();
    if names.is_empty() {
        return tokio::join!(Fleet::open(arguments), prepare(project, HashMap::new(), reporters, start));
    }
    let fleet = match Fleet::open(arguments).await {
        Ok(fleet) => fleet,
        Err(error) => return (Err(error), Ok(PreparedRun::default())),
    };
    let prepared = match submit::find_images(&fleet.client, &names).await {
        Ok(images) => prepare(project, images, reporters, start).await,
        Err(error) => Err(error.into()),
    };
    (Ok(fleet), prepared)
}

/// The fleet that the run is for.
struct Fleet {
    client: Client,
    embedded: Option<Embedded>,
}

impl Fleet {
    async fn open(arguments: &TestArguments) -> Result<Self, ExpectedError> {
        if let Some(url) = &arguments.fleet {
            return Ok(Self { client: Client::connect(url).await?, embedded: None });
        }
        let data = match &arguments.data {
            Some(data) => data.clone(),
            None => default_data()?,
        };
        let options = EmbeddedOptions {
            data,
            agents: arguments.agents,
            slots: arguments.slots.unwrap_or_else(|| default_slots(arguments.agents)),
            allow_without: arguments.allow_without.clone(),
        };
        let embedded = Embedded::start(options).await?;
        let client = embedded.client().clone();
        Ok(Self { client, embedded: Some(embedded) })
    }

    /// Stops what is embedded and waits for it, unless the user does not want to wait any longer.
    async fn close(self, interrupts: &mut Interrupts) {
        if let Some(embedded) = self.embedded {
            tokio::select! {
                () = embedded.stop() => {}
                () = interrupts.next() => {}
            }
        }
    }
}

struct StepNotes<'a> {
    reporters: &'a mut Reporters,
    start: Instant,
}

impl Progress for StepNotes<'_> {
    fn step(&mut self, step: Step) {
        let (suite, step, words) = match step {
            Step::Building { suite } => (suite.clone(), "building", format!("building {suite}")),
            Step::Hashing { suite } => (suite.clone(), "hashing", format!("reading the files of {suite}")),
            Step::Ready { suite, targets } => {
                let targets = text::counted(targets as u64, "target", "targets");
                (suite.clone(), "ready", format!("{suite} is ready: {targets}"))
            }
        };
        // A reporter that can't be written says so at its first event.
        let _ = self.reporters.note(&Note::Step { suite, step, words, elapsed: self.start.elapsed() });
    }
}

async fn prepare(
    project: &Project,
    images: HashMap<String, KnownImage>,
    reporters: &mut Reporters,
    start: Instant,
) -> Result<PreparedRun, ExpectedError> {
    let options = PrepareOptions {
        cache_directory: project::default_cache_directory(),
        build_output: BuildOutput::Inherited,
        images,
    };
    let prepared = project::prepare(project, &options, &mut StepNotes { reporters, start }).await?;
    for not_run in &prepared.not_run {
        let note = Note::NotRun {
            suite: not_run.suite.clone(),
            what: not_run.what.clone(),
            why: not_run.why.clone(),
            hint: not_run.hint.clone(),
        };
        reporters.note(&note).map_err(ExpectedError::report("the report"))?;
    }
    let said: Vec<&str> = prepared.not_run.iter().map(|not_run| not_run.what.as_str()).collect();
    for notice in prepared.notices.iter().filter(|notice| !said.iter().any(|what| notice.contains(what))) {
        reporters.note(&Note::Notice(notice.clone())).map_err(ExpectedError::report("the report"))?;
    }
    Ok(prepared)
}

async fn execute(
    arguments: &TestArguments,
    project: &Project,
    prepared: PreparedRun,
    fleet: &Fleet,
    reporters: &mut Reporters,
    interrupts: &mut Interrupts,
) -> Result<ExitCode, ExpectedError> {
    if prepared.targets.is_empty() {
        return Ok(ExitCode::NothingToRun);
    }
    let PreparedRun { mut targets, blobs, .. } = prepared;
    targets.iter_mut().for_each(|target| arguments.outrank(&mut target.policy));
    let spec = RunSpec { project: project.name.clone(), targets, policy: arguments.policy() };
    let token = submit::draw_token().map_err(ExpectedError::report("a token"))?;
    let submitted = async {
        submit::upload(&fleet.client, &blobs).await?;
        drop(blobs);
        submit::submit(&fleet.client, &spec, token).await
    };
    let run = tokio::select! {
        run = submitted => run?,
        () = interrupts.next() => return Err(ExpectedError::Cancelled),
    };
    let events = watch::follow(fleet.client.clone(), run, watch::PATIENCE);
    let mut tally = Tally::default();
    let denied = arguments.deny_leaks.then(DeniedLeaks::default);
    let followed = follow(&fleet.client, run, events, denied, reporters, &mut tally, interrupts).await;
    let is_lost = matches!(followed, Err(ExpectedError::Fleet(_)));
    if followed.is_err() && !is_lost && tally.finished.is_none() {
        // Nobody watches it any more, so it is not left running. Why it is not watched is what the user is told.
        let _ = timeout(CANCEL_PATIENCE, watch::cancel(&fleet.client, run)).await;
    }
    let written = reporters.finish(&tally).map_err(ExpectedError::report("a report"));
    followed?;
    written?;
    Ok(tally.exit_code())
}

/// Reports events until the run's end, and cancels it when the user wants that.
async fn follow(
    client: &Client,
    run: u64,
    mut events: mpsc::Receiver<Result<RunEvent, FleetError>>,
    mut denied: Option<DeniedLeaks>,
    reporters: &mut Reporters,
    tally: &mut Tally,
    interrupts: &mut Interrupts,
) -> Result<(), ExpectedError> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(EVENTS_AT_ONCE);
    let mut cancelled_at: Option<Instant> = None;
    while tally.finished.is_none() {
        tokio::select! {
            count = events.recv_many(&mut batch, EVENTS_AT_ONCE) => {
                if count == 0 {
                    return Err(FleetError::Protocol { message: "the run's events ended before the run".into() }.into());
                }
                for event in batch.drain(..) {
                    let mut event = event?;
                    if let Some(denied) = &mut denied {
                        denied.apply(&mut event);
                    }
                    tally.count(&event);
                    reporters.event(&event, tally).map_err(ExpectedError::report("the report"))?;
                }
                reporters.tick(tally);
            }
            _ = ticks.tick() => {
                reporters.tick(tally);
                if cancelled_at.is_some_and(|at| at.elapsed() > CANCEL_PATIENCE) {
                    return Err(ExpectedError::Cancelled);
                }
            }
            () = interrupts.next() => {
                if cancelled_at.replace(Instant::now()).is_some() {
                    return Err(ExpectedError::Cancelled);
                }
                let note = Note::Notice(format!("cancelling run {run}; once more leaves at once"));
                reporters.note(&note).map_err(ExpectedError::report("the report"))?;
                watch::cancel(client, run).await?;
            }
        }
    }
    Ok(())
}

fn reporters(arguments: &TestArguments, color: ColorChoice) -> Reporters {
    let mut reporters = Reporters::default();
    match arguments.format {
        Format::Json => reporters.push(Box::new(JsonReporter::new(BufWriter::new(stdout())))),
        Format::Human if stdout().is_terminal() && stderr().is_terminal() => {
            let (_, columns) = console::Term::stderr().size();
            let paint = Paint::for_stream(color, &stdout());
            let target = ProgressDrawTarget::stderr();
            reporters.push(Box::new(HumanReporter::new(stdout(), target, columns, paint, arguments.verbose)));
        }
        Format::Human => {
            let paint = Paint::for_stream(color, &stdout());
            reporters.push(Box::new(PlainReporter::new(stdout(), stderr(), paint, arguments.verbose)));
        }
    }
    if let Some(path) = &arguments.junit {
        reporters.push(Box::new(JunitReporter::new(path.clone())));
    }
    if github::is_github_actions() {
        // The runner reads both streams; in the JSON format, standard output belongs to the objects.
        let summary = github::summary_path();
        match arguments.format {
            Format::Json => reporters.push(Box::new(GithubReporter::new(stderr(), summary))),
            Format::Human => reporters.push(Box::new(GithubReporter::new(stdout(), summary))),
        }
    }
    reporters
}
