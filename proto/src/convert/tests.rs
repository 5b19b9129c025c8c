//! What goes out comes back, and what is wrong is named.

use core::time::Duration;

use muster_model::attempt::{AttemptReport, AttemptResult, CaseReport, DiscoveredCase, Interruption, Timings, Usage};
use muster_model::outcome::{Fault, FaultKind, Verdict};
use muster_model::platform::{
    Base, BaseRequest, EngineImage, EnvironmentKind, Properties, Requirements, Resources, Weakness,
};
use muster_model::service::{CloneMode, Probe, ServiceSpec};
use muster_model::spec::{
    CommandSpec, EnvironmentLimits, FrameworkKind, Isolation, Layer, Profile, RunPolicy, RunSpec, TargetPolicy,
    TargetSpec,
};
use muster_model::{CaseIndex, Digest, Epoch};
use proptest::prelude::*;

use super::*;
use crate::v1;

fn target(name: &str) -> TargetSpec {
    TargetSpec {
        name: name.into(),
        suite: "cargo".into(),
        framework: FrameworkKind::Libtest,
        command: CommandSpec {
            arguments: vec!["/bin/test".into()],
            environment: vec![("A".into(), "1".into())],
            working_directory: "/work".into(),
        },
        layers: vec![Layer { root: Digest::of(b"layer"), mount_path: "/".into(), purpose: "binary".into() }],
        requirements: Requirements {
            base: BaseRequest::Pinned(Base { name: "debian".into(), digest: Digest::of(b"base") }),
            environment: EnvironmentKind::Sandbox,
            properties: Properties::new([("arch".into(), "x86_64".into())]),
            tags: vec!["gpu".into(), "ssd".into()],
            resources: Resources { slots: 2, memory_bytes: 1 << 30, exclusive: vec!["a".into(), "b".into()] },
            without: vec![Weakness::Landlock],
        },
        limits: EnvironmentLimits { memory_bytes: 1, processes: 2, output_bytes: 3, profile: Profile::Debug },
        shards: 0,
        policy: TargetPolicy {
            retries: Some(0),
            case_timeout: Some(Duration::from_millis(1)),
            only: Some("slow::*".into()),
            except: vec!["slow::a".into()],
        },
        services: vec![
            service("cache", Probe::Log("Ready".into())),
            ServiceSpec {
                after: vec!["cache".into()],
                clone: CloneMode::TemplateDatabase,
                setup: vec!["initdb".into()],
                ..service("database", Probe::Tcp(5432))
            },
            service("site", Probe::Http { port: 80, path: "/".into() }),
            service("queue", Probe::Exec(vec!["ask".into()])),
        ],
    }
}

fn service(name: &str, ready: Probe) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        command: CommandSpec {
            arguments: vec!["server".into()],
            environment: vec![("A".into(), "1".into())],
            working_directory: "/".into(),
        },
        with_base: name != "queue",
        image: EngineImage::parse(&format!("sha256:{}", "1".repeat(64))).filter(|_| name == "queue"),
        layers: vec![Layer { root: Digest::of(b"service"), mount_path: "/".into(), purpose: "data".into() }],
        setup: Vec::new(),
        data: "/data".into(),
        ready,
        deadline: Duration::from_secs(5),
        interval: Duration::from_millis(20),
        after: Vec::new(),
        clone: CloneMode::CopyOnWrite,
        export: vec![("URL".into(), "{host}:{port}".into())],
        limits: EnvironmentLimits { memory_bytes: 1, processes: 2, output_bytes: 3, profile: Profile::Strict },
    }
}

fn run(targets: Vec<TargetSpec>) -> RunSpec {
    let policy = RunPolicy { isolation: Isolation::Process, retries: 2, fail_fast: true, ..RunPolicy::default() };
    RunSpec { project: "project".into(), targets, policy }
}

#[test]
fn a_run_comes_back_as_it_went_out() {
    let mut spec = run(vec![target("a"), target("b"), target("c")]);
    let image = EngineImage::parse(&format!("postgres@sha256:{}", "0".repeat(64))).expect("an image");
    spec.targets[1].requirements.base = BaseRequest::Image(image);
    spec.targets[1].requirements.environment = EnvironmentKind::Docker;
    spec.targets[2].requirements.base = BaseRequest::None;
    assert_eq!(RunSpec::try_from(&v1::RunSpec::from(&spec)), Ok(spec));
}

#[test]
fn what_is_wrong_with_a_run_is_named() {
    type Change = fn(&mut v1::RunSpec);
    let changes: Vec<(Change, &str)> = vec![
        (|run| run.targets[1].name = "a".into(), "run.targets: two are named \"a\""),
        (|run| run.targets[0].name.clear(), "target.name: is missing"),
        (|run| run.targets[0].framework = 99, "framework: is not a known kind"),
        (|run| run.targets[0].command = None, "target.command: is missing"),
        (|run| run.policy = None, "run.policy: is missing"),
        (
            |run| {
                let requirements = run.targets[0].requirements.as_mut().expect("set above");
                requirements.base = Some(v1::BaseRequest { image: "postgres:15".into(), ..Default::default() });
            },
            "base_request.image: is not an image by digest, alone",
        ),
        (|run| run.targets[0].services.swap(0, 1), "service.after: no service before this one is named \"cache\""),
        (|run| run.targets[0].services[1].name = "cache".into(), "service.name: two are named \"cache\""),
        (
            |run| run.targets[0].services[1].data.clear(),
            "service.data: must be an absolute path below `/`, without `.` or `..`",
        ),
        (|run| run.targets[0].services[0].ready = None, "service.ready: is missing"),
        (|run| run.targets[0].services[0].interval_ms = 1, "service.interval_ms: must be from 10 to 50"),
        (
            |run| run.targets[0].services[0].clone = v1::CloneMode::TemplateDatabase.into(),
            "service.clone: needs a service that is ready by tcp",
        ),
        (
            |run| run.targets[0].layers[0].mount_path = "/a/../b".into(),
            "layer.mount_path: must be an absolute path without `.` or `..`",
        ),
        (
            |run| run.targets[0].layers[0].root.as_mut().expect("set above").hash = "xy".into(),
            "digest.hash: a hash has 64 hexadecimal digits, not 2",
        ),
        (
            |run| run.targets[0].command.as_mut().expect("set above").arguments[0].push('\0'),
            "command: contains a NUL character",
        ),
        (
            |run| run.targets[0].command.as_mut().expect("set above").working_directory = "relative".into(),
            "command.working_directory: must be an absolute path without `.` or `..`",
        ),
    ];
    for (change, expected) in changes {
        let mut wire = v1::RunSpec::from(&run(vec![target("a"), target("b")]));
        change(&mut wire);
        let error = RunSpec::try_from(&wire).expect_err(expected);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_case_reported_twice_is_refused() {
    let case = v1::CaseReport { case: 3, verdict: v1::VerdictKind::Passed.into(), ..Default::default() };
    let ran = v1::Ran { reports: vec![case.clone(), case], ..Default::default() };
    let wire = v1::AttemptReport { epoch: 1, result: Some(v1::attempt_report::Result::Ran(ran)), ..Default::default() };
    let error = AttemptReport::try_from(&wire).expect_err("twice");
    assert_eq!(error.to_string(), "ran.reports: case 3 is reported twice");
}

#[test]
fn a_name_discovered_twice_is_refused() {
    let wire = v1::Discovered { names: vec!["a".into(), "b".into(), "a".into()], ignored: vec![] };
    let error = Vec::<DiscoveredCase>::try_from(&wire).expect_err("twice");
    assert_eq!(error.to_string(), "discovered.names: contains \"a\" twice");
}

#[test]
fn another_protocol_is_refused_with_both_numbers() {
    let report = v1::AgentReport { protocol: 7, slots: 1, ..Default::default() };
    let error = AgentHello::try_from(&report).expect_err("another protocol");
    assert_eq!(error.to_string(), "protocol: is 7, and this coordinator speaks 1");
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Passed),
        Just(Verdict::Failed),
        Just(Verdict::Skipped),
        any::<u8>().prop_map(|signal| Verdict::Crashed { signal }),
        Just(Verdict::TimedOut),
        Just(Verdict::MemoryExceeded),
        Just(Verdict::OutputExceeded),
        Just(Verdict::ProcessesExceeded),
    ]
}

fn interruptions() -> impl Strategy<Value = (Interruption, Option<CaseIndex>)> {
    let kinds = prop_oneof![
        any::<u8>().prop_map(|signal| Interruption::Crashed { signal }),
        Just(Interruption::TimedOut),
        Just(Interruption::MemoryExceeded),
        Just(Interruption::OutputExceeded),
        Just(Interruption::ProcessesExceeded),
        Just(Interruption::Contradicted),
    ];
    (kinds, proptest::option::of(any::<u32>().prop_map(CaseIndex)))
}

fn results() -> impl Strategy<Value = AttemptResult> {
    let reports = proptest::collection::vec((verdicts(), any::<u32>(), any::<bool>(), any::<bool>()), 0..5);
    let ran =
        (reports, proptest::option::of(interruptions()), any::<bool>()).prop_map(|(reports, interruption, leaked)| {
            let reports =
                reports.into_iter().enumerate().map(|(position, (verdict, micros, never_retry, leaked))| CaseReport {
                    case: CaseIndex(position as u32),
                    verdict,
                    duration: Duration::from_micros(u64::from(micros)),
                    message: "message".into(),
                    output: "output".into(),
                    never_retry,
                    leaked,
                    strays: if leaked { vec!["/usr/a".into()] } else { Vec::new() },
                });
            AttemptResult::Ran { reports: reports.collect(), interruption, leaked_in_company: leaked }
        });
    let discovered = proptest::collection::vec(any::<bool>(), 0..5).prop_map(|ignored| AttemptResult::Discovered {
        cases: ignored
            .into_iter()
            .enumerate()
            .map(|(position, ignored)| DiscoveredCase { name: format!("case {position}"), ignored })
            .collect(),
    });
    let kinds = prop_oneof![
        Just(FaultKind::AgentLost),
        Just(FaultKind::Inputs),
        Just(FaultKind::Environment),
        Just(FaultKind::Start),
        Just(FaultKind::Returned),
        Just(FaultKind::Protocol),
    ];
    let fault = kinds.prop_map(|kind| AttemptResult::Fault(Fault { kind, message: "why".into() }));
    prop_oneof![ran, discovered, fault]
}

proptest! {
    #[test]
    fn a_report_comes_back_as_it_went_out(epoch in any::<u64>(), result in results(), micros in any::<u32>()) {
        let time = Duration::from_micros(u64::from(micros));
        let report = AttemptReport {
            epoch: Epoch(epoch),
            result,
            timings: Timings { waited: time, transfer: time, environment: time, execution: time },
            usage: Usage {
                memory_peak_bytes: 1,
                cpu: time,
                fetched_bytes: 2,
                reused_bytes: 3,
                written_bytes: 4,
                processes_peak: 5,
                processes_created: 6,
            },
        };
        prop_assert_eq!(AttemptReport::try_from(&v1::AttemptReport::from(&report)), Ok(report));
    }
}
