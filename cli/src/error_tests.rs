//! Every expected error as people see it, and its exit code.

use super::*;

fn refused() -> Box<dyn Error + Send + Sync> {
    Box::new(io::Error::from(io::ErrorKind::ConnectionRefused))
}

fn fleet(error: FleetError) -> ExpectedError {
    error.into()
}

fn precondition(message: &str) -> ExpectedError {
    fleet(FleetError::Precondition { message: message.into(), environment: EnvironmentKind::Sandbox })
}

#[test]
fn no_project_names_what_would_be_one() {
    let error = ExpectedError::from(ProjectError::NoProject { path: "/empty".into() });
    assert_eq!(error.exit_code(), ExitCode::NothingToRun);
    insta::assert_snapshot!(error.render(), @r"
    error: no project with tests in /empty
      hint: name a directory with a Cargo.toml or pytest tests, or describe a command as [test.NAME] in /empty/muster.toml
    ");
}

#[test]
fn a_wrong_configuration_names_line_and_column() {
    let error = ExpectedError::from(ProjectError::Configuration {
        place: "muster.toml:3:1".into(),
        message: "unknown key `retrys`".into(),
        hint: "did you mean `retries`?".into(),
    });
    assert_eq!(error.exit_code(), ExitCode::ProjectFailed);
    insta::assert_snapshot!(error.render(), @r"
    error: muster.toml:3:1: unknown key `retrys`
      hint: did you mean `retries`?
    ");
}

#[test]
fn a_failed_build_shows_the_compilers_own_words() {
    let error = ExpectedError::from(ProjectError::BuildFailed {
        command: "cargo test --no-run".into(),
        status: "exit status: 101".into(),
        output: "error[E0425]: cannot find value `x`\n --> src/lib.rs:1:1\n".into(),
    });
    assert_eq!(error.exit_code(), ExitCode::ProjectFailed);
    insta::assert_snapshot!(error.render(), @r"
    error: cargo test --no-run failed (exit status: 101)
      cause: error[E0425]: cannot find value `x`
              --> src/lib.rs:1:1
      hint: see it fail without Muster: cargo test --no-run
    ");
}

#[test]
fn an_unreachable_coordinator_says_how_to_start_one() {
    let error = fleet(FleetError::Unreachable { url: "http://build:7421".into(), source: refused() });
    assert_eq!(error.exit_code(), ExitCode::FleetFault);
    insta::assert_snapshot!(error.render(), @r"
    error: cannot reach the coordinator at http://build:7421
      cause: connection refused
      hint: is it running? on its machine: muster coordinator start --listen 0.0.0.0:7421
      hint: leave out --fleet to run on this machine alone
    ");
}

#[test]
fn a_senseless_address_is_a_usage_error() {
    let error = fleet(FleetError::Address { url: "no where".into() });
    assert_eq!(error.exit_code(), ExitCode::Usage);
    insta::assert_snapshot!(error.render(), @r"
    error: `no where` is not the address of a coordinator
      hint: write it as http://HOST:7420
    ");
}

#[test]
fn no_agent_that_can_run_it_names_the_missing_property() {
    let error = precondition("no agent has property gpu=h100 (it has gpu=none)");
    assert_eq!(error.exit_code(), ExitCode::FleetFault);
    insta::assert_snapshot!(error.render(), @r"
    error: the fleet cannot run this
      cause: no agent has property gpu=h100 (it has gpu=none)
      hint: muster fleet status shows what the agents offer
      hint: start an agent with that label: muster agent start --label KEY=VALUE
    ");
    insta::assert_snapshot!(precondition("no agent has base debian-12").render(), @r"
    error: the fleet cannot run this
      cause: no agent has base debian-12
      hint: muster fleet status shows what the agents offer
      hint: --base NAME asks for a base that they have, --base none for no base at all
    ");
}

#[test]
fn a_kernel_without_user_namespaces_names_the_switch() {
    insta::assert_snapshot!(precondition("no agent has a working sandbox environment").render(), @r"
    error: the fleet cannot run this
      cause: no agent has a working sandbox environment
      hint: allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=65536 (Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0)
      hint: or run without isolation from the host: muster test --environment host
    ");
    let started = ExpectedError::from(EmbeddedError::Start {
        part: "agent-0".into(),
        source: "user namespaces are switched off".into(),
    });
    assert_eq!(started.hints(), precondition("no agent has a working sandbox environment").hints());
}

#[test]
fn a_lost_coordinator_says_how_to_find_the_run_again() {
    let error = fleet(FleetError::Lost {
        url: "http://build:7420".into(),
        run: 17,
        patience: Duration::from_secs(30),
        source: Box::new(tonic::Status::unavailable("tcp connect error")),
    });
    assert_eq!(error.exit_code(), ExitCode::FleetFault);
    insta::assert_snapshot!(error.render(), @r"
    error: lost the coordinator at http://build:7420 in the middle of run 17, and it did not come back within 30 s
      cause: tcp connect error
      hint: the run goes on when the coordinator is back
      hint: muster runs show 17 --fleet http://build:7420
    ");
}

#[test]
fn the_remaining_families_are_told_apart() {
    let errors = [
        fleet(FleetError::NoFleet { url: "http://127.0.0.1:7420".into(), data: "/home/x/.local/share/muster".into() }),
        fleet(FleetError::NoSuchRun { run: 9 }),
        fleet(FleetError::NoRuns),
        fleet(FleetError::NoSuchOperation { operation: "operations/0f\u{1b}[2J".into() }),
        fleet(FleetError::Refused { action: "list runs", source: Box::new(tonic::Status::internal("")) }),
        fleet(FleetError::Upload { source: "disk full".into() }),
        fleet(FleetError::Protocol { message: "an event was left out".into() }),
        EmbeddedError::NoHome.into(),
        EmbeddedError::Busy { data: "/data".into() }.into(),
        EmbeddedError::File { action: "make", path: "/data".into(), source: io::ErrorKind::PermissionDenied.into() }
            .into(),
        ExpectedError::Report { what: "out.xml".into(), source: io::ErrorKind::PermissionDenied.into() },
        ExpectedError::BrokenPipe,
        ExpectedError::Cancelled,
    ];
    let rendered: Vec<String> =
        errors.iter().map(|error| format!("[{}] {}", error.exit_code().number(), error.render())).collect();
    insta::assert_snapshot!(rendered.join(""), @r"
    [3] error: no coordinator at http://127.0.0.1:7420, and no runs are recorded in /home/x/.local/share/muster
      hint: muster test runs a project's tests on this machine and records the run
      hint: --fleet http://HOST:7420 (or MUSTER_FLEET) asks a coordinator elsewhere
    [3] error: there is no run 9
      hint: muster runs list
    [3] error: no run is recorded yet
      hint: muster test
    [3] error: there is no operation operations/0f\u{1b}[2J
      cause: it is forgotten 5 min 00 s after its end at the latest, and when the coordinator is started again
      hint: muster fleet status shows operations that run and wait
      hint: muster runs list shows runs, which have numbers
    [3] error: the coordinator refused to list runs
      cause: INTERNAL, without a word
    [3] error: cannot upload what the tests need
      cause: disk full
    [3] error: the coordinator's answer makes no sense
      cause: an event was left out
    [3] error: no directory for the embedded fleet's data: neither XDG_DATA_HOME nor HOME is set
      hint: --data DIR names another directory
    [3] error: /data is in use by another muster
      hint: wait for it, or use another directory: --data DIR
    [3] error: cannot make /data
      cause: permission denied
      hint: --data DIR names another directory
    [6] error: cannot write out.xml
      cause: permission denied
      hint: name a file in a directory that is there and can be written to
    [6] error: nobody reads the output
    [130] error: cancelled
    ");
}

#[test]
fn a_strangers_message_cannot_steer_the_terminal() {
    let error = precondition("no agent\u{1b}]0;title\u{7}");
    assert!(!error.render().contains('\u{1b}'));
}
