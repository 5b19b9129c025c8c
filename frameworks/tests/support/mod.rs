//! Runs what a framework asks for, as an agent would, and shows what came of it.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use muster_frameworks::{
    CaseEvent, DiscoveryError, DiscoveryOutput, Ending, EndingStatus, Framework, FrameworkCommand, Shard, Stream,
    Summary, framework,
};
use muster_model::attempt::DiscoveredCase;
use muster_model::outcome::Verdict;
use muster_model::platform::{BaseRequest, EnvironmentKind, Requirements};
use muster_model::spec::{CommandSpec, EnvironmentLimits, FrameworkKind, TargetPolicy, TargetSpec};
use muster_model::{CaseIndex, Instant};

/// The nonce of recorded outputs; that of real shards begins with it.
pub(crate) const NONCE: &str = "6d75737465722d6e6f6e6365";

/// A target without layers.
pub(crate) fn target(kind: FrameworkKind, arguments: &[&str], directory: &Path) -> TargetSpec {
    TargetSpec {
        name: "sample".to_owned(),
        suite: "sample".to_owned(),
        framework: kind,
        command: CommandSpec {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            working_directory: directory.display().to_string(),
        },
        layers: Vec::new(),
        requirements: Requirements {
            base: BaseRequest::None,
            environment: EnvironmentKind::Host,
            ..Requirements::default()
        },
        limits: EnvironmentLimits::default(),
        shards: 1,
        policy: TargetPolicy::default(),
        services: Vec::new(),
    }
}

/// What a process wrote and how it ended.
pub(crate) struct Ran {
    /// In the order it came, as far as two pipes have one.
    pub(crate) chunks: Vec<(Stream, Vec<u8>)>,
    /// Its end.
    pub(crate) ending: Ending,
}

/// Starts a program and waits for its end.
pub(crate) fn run(command: &FrameworkCommand) -> Ran {
    let spec = &command.command;
    let mut child = Command::new(&spec.arguments[0])
        .args(&spec.arguments[1..])
        .env_clear()
        .envs(spec.environment.iter().cloned())
        .current_dir(&spec.working_directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program of a test starts");
    let (sender, receiver) = mpsc::channel();
    let mut readers = Vec::new();
    let pipes: [(Stream, Box<dyn Read + Send>); 2] = [
        (Stream::Standard, Box::new(child.stdout.take().expect("piped"))),
        (Stream::Error, Box::new(child.stderr.take().expect("piped"))),
    ];
    for (stream, mut pipe) in pipes {
        let sender = sender.clone();
        readers.push(std::thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                sender.send((stream, buffer[..count].to_vec())).expect("the receiver outlives the readers");
            }
        }));
    }
    drop(sender);
    let chunks = receiver.into_iter().collect();
    let status = child.wait().expect("a child can be waited for");
    let status = match (status.code(), status.signal()) {
        (Some(code), _) => EndingStatus::Code(code),
        (None, signal) => EndingStatus::Signal(signal.unwrap_or_default() as u8),
    };
    let read = |path: &String| std::fs::read(path).ok().map(|bytes| (path.clone(), bytes));
    let files = command.collect.iter().filter_map(read).collect();
    for path in &command.collect {
        let _ = std::fs::remove_file(path);
    }
    Ran { chunks, ending: Ending { status, killed: None, excess: String::new(), leaked: false, files } }
}

impl Ran {
    /// All bytes of one stream.
    pub(crate) fn bytes(&self, wanted: Stream) -> Vec<u8> {
        self.chunks.iter().filter(|(stream, _)| *stream == wanted).flat_map(|(_, bytes)| bytes.clone()).collect()
    }
}

/// Lists a target's cases.
pub(crate) fn discover(target: &TargetSpec) -> Result<Vec<DiscoveredCase>, DiscoveryError> {
    let framework = framework(target.framework);
    let output = |command: &FrameworkCommand| {
        let ran = run(command);
        DiscoveryOutput { standard: ran.bytes(Stream::Standard), error: ran.bytes(Stream::Error), ending: ran.ending }
    };
    let outputs: Vec<_> = framework.discovery_commands(target, NONCE).iter().map(output).collect();
    framework.read_discovery(target, NONCE, &outputs)
}

/// Cases numbered in order.
pub(crate) fn cases(names: &[&str]) -> Vec<(CaseIndex, String)> {
    (0..).map(CaseIndex).zip(names.iter().map(ToString::to_string)).collect()
}

/// Runs cases in one process.
pub(crate) fn run_shard(target: &TargetSpec, names: &[&str]) -> (Summary, Vec<CaseEvent>) {
    // Tests share `/tmp`, where a command's files bear the nonce.
    static SHARDS: AtomicU32 = AtomicU32::new(0);
    let nonce = format!("{NONCE}-{}-{}", std::process::id(), SHARDS.fetch_add(1, Ordering::Relaxed));
    let cases = cases(names);
    let shard = Shard { target, cases: &cases, nonce: &nonce };
    let framework: &dyn Framework = framework(target.framework);
    let ran = run(&framework.run_command(&shard));
    read(&shard, &ran.chunks, ran.ending)
}

/// Gives recorded bytes to a reader.
pub(crate) fn read(shard: &Shard<'_>, chunks: &[(Stream, Vec<u8>)], ending: Ending) -> (Summary, Vec<CaseEvent>) {
    let mut reader = framework(shard.target.framework).reader(shard);
    let mut events = Vec::new();
    reader.push(Instant(0), Stream::Standard, &[]);
    for (stream, bytes) in chunks {
        reader.push(Instant(1), *stream, bytes);
        events.extend(std::iter::from_fn(|| reader.poll()));
    }
    let summary = reader.finish(Instant(2), ending);
    check_law(shard, &summary);
    (summary, events)
}

/// No case twice, none that was not asked for, and an interruption exactly when one is left open.
pub(crate) fn check_law(shard: &Shard<'_>, summary: &Summary) {
    let mut reported: Vec<_> = summary.reports.iter().map(|report| report.case).collect();
    reported.sort();
    let count = reported.len();
    reported.dedup();
    assert_eq!(count, reported.len(), "a case was reported twice");
    assert!(reported.iter().all(|case| shard.cases.iter().any(|(index, _)| index == case)));
    assert_eq!(summary.interruption.is_some(), count < shard.cases.len());
}

/// How a case ended: its verdict, or none.
pub(crate) fn verdict(summary: &Summary, position: u32) -> Option<Verdict> {
    summary.reports.iter().find(|report| report.case == CaseIndex(position)).map(|report| report.verdict)
}

/// One line a case.
pub(crate) fn show(names: &[&str], summary: &Summary) -> String {
    let mut text = String::new();
    for (name, index) in names.iter().zip(0..) {
        let report = summary.reports.iter().find(|report| report.case == CaseIndex(index));
        let said = report.map_or_else(
            || "open".to_owned(),
            |report| match report.message.as_str() {
                "" => report.verdict.name().to_owned(),
                message => format!("{}: {message}", report.verdict.name()),
            },
        );
        writeln!(text, "{name} = {said}").expect("a string takes everything");
    }
    if let Some((interruption, suspect)) = summary.interruption {
        let suspect = suspect.and_then(|index| names.get(index.0 as usize)).unwrap_or(&"nobody");
        writeln!(text, "{interruption:?}, suspect: {suspect}").expect("a string takes everything");
    }
    text
}
