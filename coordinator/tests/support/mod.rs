//! A coordinator on a free port, a client, and agents that follow a script instead of running anything.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_coordinator::{Config, Coordinator};
use muster_model::Digest;
use muster_model::attempt::{
    Assignment, AttemptReport, AttemptResult, AttemptStatus, CaseReport, DiscoveredCase, ShardTask, Stage, Task,
    Timings, Usage, Work,
};
use muster_model::outcome::Verdict;
use muster_model::platform::{Base, BaseRequest, EnvironmentKind, Offer, Properties, Requirements};
use muster_model::spec::{CommandSpec, EnvironmentLimits, FrameworkKind, RunPolicy, RunSpec, TargetPolicy, TargetSpec};
use muster_model::{AgentId, CaseIndex, Epoch};
use muster_proto::convert::{AgentHello, DesiredEntry};
use muster_proto::v1::fleet_client::FleetClient;
use muster_proto::v1::runs_client::RunsClient;
use muster_proto::v1::status_client::StatusClient;
use muster_proto::v1::{self, run_event::Event};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Starts a coordinator over `folder`, with leases short enough for a test.
pub async fn start(folder: &Path) -> Coordinator {
    let mut config = Config { listen: "127.0.0.1:0".parse().unwrap(), data: folder.to_owned(), ..Config::default() };
    config.cache_capacity_bytes = 64 * 1024 * 1024;
    Coordinator::start(config).await.unwrap()
}

pub async fn connect(coordinator: &Coordinator) -> Channel {
    let address = format!("http://{}", coordinator.address());
    Channel::from_shared(address).unwrap().connect().await.unwrap()
}

/// What a scripted agent says of a case: called with its name and how often the agent has been asked for it.
pub type Script = Arc<dyn Fn(&str, u32) -> Verdict + Send + Sync>;

/// What a scripted agent does.
#[derive(Clone)]
pub struct Behaviour {
    pub id: u64,
    pub slots: u32,
    pub cases: Vec<DiscoveredCase>,
    pub script: Script,
    /// Attempts at cases are held and never reported.
    pub holds: bool,
    /// Attempts at cases that were run so often are held and not reported.
    pub holds_after: Option<u32>,
    /// Every report is sent twice, the second time under the same epoch after it was acknowledged.
    pub doubles: bool,
}

pub fn passing(cases: &[&str]) -> Behaviour {
    Behaviour {
        id: 7,
        slots: 2,
        cases: cases.iter().map(|name| DiscoveredCase { name: (*name).into(), ignored: false }).collect(),
        script: Arc::new(|_, _| Verdict::Passed),
        holds: false,
        holds_after: None,
        doubles: false,
    }
}

/// Attempts that agents were given, by name of what was to be done.
#[derive(Clone, Default)]
pub struct Journal {
    pub entries: Arc<Mutex<Vec<String>>>,
    pub acknowledged: Arc<Mutex<Vec<u64>>>,
}

impl Journal {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.entries.lock().unwrap())
    }
}

pub fn base() -> Base {
    Base { name: "debian-12".into(), digest: Digest::of(b"base") }
}

pub fn hello(id: u64, slots: u32) -> AgentHello {
    AgentHello {
        agent: AgentId(id),
        name: format!("agent-{id}"),
        slots,
        offer: Offer {
            bases: vec![base()],
            environments: vec![EnvironmentKind::Sandbox, EnvironmentKind::Host],
            properties: Properties::new([("arch".into(), "x86_64".into())]),
            slots,
            memory_bytes: 1 << 30,
            without: Vec::new(),
        },
        version: "0.1.0".into(),
    }
}

/// An agent's memory, which outlives its connections.
#[derive(Default)]
pub struct Memory {
    holding: BTreeMap<Epoch, (Assignment, Option<AttemptReport>)>,
    runs_of_case: BTreeMap<String, u32>,
}

impl Memory {
    /// Everything that is held passes.
    pub fn finish_all(&mut self) {
        for (epoch, (assignment, report)) in &mut self.holding {
            let Task::Shard(ShardTask { work: Work::Cases { cases, .. }, .. }) = &assignment.task else { continue };
            let reports = cases.iter().map(|&case| case_report(case, "", Verdict::Passed)).collect();
            let result = AttemptResult::Ran { reports, interruption: None, leaked_in_company: false };
            *report = Some(attempt_report(*epoch, result));
        }
    }
}

fn case_report(case: CaseIndex, name: &str, verdict: Verdict) -> CaseReport {
    CaseReport {
        case,
        verdict,
        duration: Duration::from_millis(3),
        message: if verdict.is_success() { String::new() } else { format!("{name} failed") },
        output: String::new(),
        never_retry: false,
        leaked: false,
        strays: Vec::new(),
    }
}

fn attempt_report(epoch: Epoch, result: AttemptResult) -> AttemptReport {
    AttemptReport { epoch, result, timings: Timings::default(), usage: Usage::default() }
}

/// Connects an agent and lets it follow its script until the stream ends.
pub fn agent(channel: Channel, behaviour: Behaviour, journal: Journal) -> JoinHandle<Memory> {
    agent_with(channel, behaviour, journal, Memory::default())
}

pub fn agent_with(channel: Channel, behaviour: Behaviour, journal: Journal, memory: Memory) -> JoinHandle<Memory> {
    tokio::spawn(follow(channel, behaviour, journal, memory))
}

async fn follow(channel: Channel, behaviour: Behaviour, journal: Journal, mut memory: Memory) -> Memory {
    let (sender, receiver) = mpsc::channel(64);
    let hello = hello(behaviour.id, behaviour.slots);
    sender.send(report(&hello, &memory, true)).await.unwrap();
    let states = FleetClient::new(channel).sync(ReceiverStream::new(receiver)).await;
    let Ok(states) = states else { return memory };
    let mut states = states.into_inner();
    while let Ok(Some(state)) = states.message().await {
        apply(&state, &behaviour, &journal, &mut memory);
        if sender.send(report(&hello, &memory, true)).await.is_err() {
            break;
        }
    }
    memory
}

fn apply(state: &v1::DesiredState, behaviour: &Behaviour, journal: &Journal, memory: &mut Memory) {
    for epoch in &state.acknowledged {
        journal.acknowledged.lock().unwrap().push(*epoch);
        if !behaviour.doubles {
            memory.holding.remove(&Epoch(*epoch));
        }
    }
    let wanted: Vec<u64> = state.attempts.iter().map(|attempt| attempt.epoch).collect();
    if !behaviour.doubles {
        memory.holding.retain(|epoch, (_, report)| report.is_some() || wanted.contains(&epoch.0));
    }
    for attempt in &state.attempts {
        let entry = DesiredEntry::try_from(attempt).unwrap();
        let Some(assignment) = entry.assignment else { continue };
        if !memory.holding.contains_key(&entry.epoch) {
            let report = work(&assignment, behaviour, journal, &mut memory.runs_of_case);
            memory.holding.insert(entry.epoch, (assignment, report));
        }
    }
}

fn work(
    assignment: &Assignment,
    behaviour: &Behaviour,
    journal: &Journal,
    runs: &mut BTreeMap<String, u32>,
) -> Option<AttemptReport> {
    let Task::Shard(task) = &assignment.task else { return None };
    let result = match &task.work {
        Work::Action => return None,
        Work::Discover => {
            journal.entries.lock().unwrap().push("discover".into());
            AttemptResult::Discovered { cases: behaviour.cases.clone() }
        }
        Work::Cases { cases, .. } => {
            journal.entries.lock().unwrap().extend(task.case_names.iter().cloned());
            let times = |name: &String| runs.get(name).copied().unwrap_or_default();
            let is_held = |name| behaviour.holds_after.is_some_and(|most| times(name) >= most);
            if behaviour.holds || task.case_names.iter().any(is_held) {
                return None;
            }
            let reports = cases.iter().zip(&task.case_names).map(|(&case, name)| {
                let count = runs.entry(name.clone()).or_default();
                *count += 1;
                let verdict = (behaviour.script)(name, *count);
                case_report(case, name, verdict)
            });
            AttemptResult::Ran { reports: reports.collect(), interruption: None, leaked_in_company: false }
        }
    };
    Some(attempt_report(assignment.epoch, result))
}

pub fn report(hello: &AgentHello, memory: &Memory, with_finished: bool) -> v1::AgentReport {
    let mut report = v1::AgentReport::default();
    hello.write_into(&mut report);
    for (&epoch, (_, finished)) in &memory.holding {
        let stage = if finished.is_some() { Stage::Finished } else { Stage::Running };
        report.attempts.push((&AttemptStatus { epoch, stage, running: None }).into());
        if with_finished {
            report.finished.extend(finished.as_ref().map(Into::into));
        }
    }
    report
}

pub fn target(name: &str) -> TargetSpec {
    TargetSpec {
        name: name.into(),
        suite: "cargo".into(),
        framework: FrameworkKind::Libtest,
        command: CommandSpec {
            arguments: vec![format!("/bin/{name}")],
            environment: Vec::new(),
            working_directory: "/".into(),
        },
        layers: Vec::new(),
        requirements: Requirements { base: BaseRequest::Named("debian-12".into()), ..Requirements::default() },
        limits: EnvironmentLimits::default(),
        shards: 0,
        policy: TargetPolicy::default(),
        services: Vec::new(),
    }
}

pub fn run_of(targets: Vec<TargetSpec>) -> RunSpec {
    RunSpec { project: "project".into(), targets, policy: RunPolicy::default() }
}

pub fn token() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("token-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub async fn submit(channel: &Channel, spec: &RunSpec) -> Result<u64, tonic::Status> {
    submit_as(channel, spec, token()).await
}

pub async fn submit_as(channel: &Channel, spec: &RunSpec, token: String) -> Result<u64, tonic::Status> {
    let request = v1::SubmitRunRequest { spec: Some(spec.into()), token };
    Ok(RunsClient::new(channel.clone()).submit_run(request).await?.into_inner().run)
}

/// Every event of a run from a sequence number to the end of the stream.
pub async fn watch_from(channel: &Channel, run: u64, from_sequence: u64) -> Vec<v1::RunEvent> {
    let request = v1::WatchRunRequest { run, from_sequence };
    let mut stream = RunsClient::new(channel.clone()).watch_run(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Ok(Some(event)) = stream.message().await {
        events.push(event);
    }
    events
}

pub async fn watch(channel: &Channel, run: u64) -> Vec<v1::RunEvent> {
    watch_from(channel, run, 0).await
}

pub fn finished(events: &[v1::RunEvent]) -> v1::RunFinished {
    match events.last().and_then(|event| event.event.clone()) {
        Some(Event::RunFinished(finished)) => finished,
        other => panic!("the last event is {other:?}"),
    }
}

pub fn summary(events: &[v1::RunEvent]) -> v1::RunSummary {
    finished(events).summary.unwrap()
}

/// Name and outcome of every reported case, sorted.
pub fn outcomes(events: &[v1::RunEvent]) -> Vec<(String, String)> {
    let mut outcomes: Vec<(String, String)> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::CaseFinished(case)) => Some((case.name.clone(), case.outcome.clone())),
            _ => None,
        })
        .collect();
    outcomes.sort();
    outcomes
}

pub async fn fleet_status(channel: &Channel) -> v1::FleetStatusResponse {
    StatusClient::new(channel.clone()).fleet_status(v1::FleetStatusRequest {}).await.unwrap().into_inner()
}

/// Waits until something holds; the test's own time limit ends one that never does.
pub async fn until(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
