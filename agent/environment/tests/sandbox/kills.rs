//! How programs end that do not end by themselves.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use muster_environment::{Environment, ExitStatus, KillReason, KillSwitch};
use tokio::sync::mpsc;

use crate::support::{Place, is_root, marked, program, shell};

/// Names the processes of a job, and says that nobody will pull the switch.
const MARKER: &str = "MUSTER_KILLS_MARKER";
/// How many agents are killed in the middle of a job, unless the variable says otherwise.
const AGENTS_KILLED: usize = 50;
pub(crate) const AGENTS_KILLED_VARIABLE: &str = "MUSTER_AGENTS_KILLED";
/// How long the kernel may take to start or to kill a few processes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for the number of marked processes to be right.
pub(crate) fn wait_for(marker: &str, is_right: impl Fn(usize) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_right(marked(marker)) {
        assert!(Instant::now() < deadline, "there are {} processes", marked(marker));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test]
async fn a_killed_program_takes_its_daemons_with_it() {
    let given = std::env::var(MARKER).ok();
    let marker = given.clone().unwrap_or_else(|| format!("600.1{:010}", std::process::id()));
    let place = Place::new();
    let switch = KillSwitch::default();
    if given.is_none() {
        let (puller, marker) = (switch.clone(), marker.clone());
        std::thread::spawn(move || {
            wait_for(&marker, |count| count >= 2);
            puller.pull();
        });
    }
    let script = format!("setsid sleep {marker} & setsid sleep {marker} & sleep {marker}");
    let (exit, _) = place.run_until(shell(&script), switch).await.expect("an exit");
    assert_eq!(exit.killed, Some(KillReason::Requested));
    assert_eq!(marked(&marker), 0, "all are dead when the exit is told");
}

#[test]
fn t1_5_nothing_survives_an_agent_that_is_killed() {
    let count = std::env::var(AGENTS_KILLED_VARIABLE).ok().and_then(|count| count.parse().ok());
    for round in 0..count.unwrap_or(AGENTS_KILLED) {
        one_agent_is_killed(round);
    }
}

fn one_agent_is_killed(round: usize) {
    let marker = format!("600.2{:010}{round:03}", std::process::id());
    let place = Place::new();
    let mut agent = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "kills::a_killed_program_takes_its_daemons_with_it"])
        .env(MARKER, &marker)
        .env("TMPDIR", place.directory.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    wait_for(&marker, |count| count >= 2);
    agent.kill().expect("it is ours");
    agent.wait().expect("it is ours");
    wait_for(&marker, |count| count == 0);
    // The next driver removes the control groups of the dead one.
    drop(Place::new());
}

#[tokio::test]
async fn exit_codes_and_signals_are_told_faithfully() {
    let place = Place::new();
    for (script, expected) in [
        ("exit 0", ExitStatus::Code(0)),
        ("exit 255", ExitStatus::Code(255)),
        ("kill -SEGV $$", ExitStatus::Signal(11)),
        ("kill -KILL $$", ExitStatus::Signal(9)),
    ] {
        let (exit, _) = place.run(shell(script)).await.expect("an exit");
        assert_eq!((exit.status, exit.killed), (expected, None), "{script}");
    }
}

#[tokio::test]
async fn what_a_program_writes_is_counted_with_its_children() {
    let place = Place::new();
    let (exit, _) = place.run(shell("head -c 100000 /dev/zero > file; head -c 5000 /dev/zero")).await.expect("an exit");
    assert!((105_000..110_000).contains(&exit.usage.written_bytes), "{:?}", exit.usage);
    assert!(exit.usage.memory_peak_bytes > 0);
}

#[tokio::test]
async fn processes_are_counted_as_they_are_started_and_at_one_time() {
    let place = Place::new();
    let (exit, _) = place.run(program(&["true"])).await.expect("an exit");
    assert_eq!((exit.usage.processes_created, exit.usage.processes_peak), (1, 1));
    // Ten one after the other, and then five besides the shell, for longer than it takes to look.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true; done; for i in 1 2 3 4 5; do sleep 0.5 & done; wait";
    let (exit, _) = place.run(shell(script)).await.expect("an exit");
    assert_eq!(exit.usage.processes_created, 16, "{:?}", exit.usage);
    let is_counted = place.sandbox.check_readiness().expect("sandboxes work here").notes.is_empty();
    assert_eq!(exit.usage.processes_peak, if is_counted { 6 } else { 1 });
    let (exit, _) = place.run(program(&["true"])).await.expect("an exit");
    assert_eq!(exit.usage.processes_peak, 1, "the mark of an earlier program is not this one's");
}

#[tokio::test]
async fn what_is_killed_stands_still_first_and_is_looked_at() {
    let place = Place::new();
    let switch = KillSwitch::default();
    let puller = switch.clone();
    // Forks as fast as it can, so that a look at moving processes would miss some and a kill of each would never end.
    // What sleeps is the newest that surely lives when it is looked at: the third, after the shell and `head`.
    let script = "head -c 300000 /dev/zero > file; sleep 600 & echo ready; while :; do (:) & done";
    let mut spec = shell(script);
    spec.collect = vec!["/project/file".into()];
    let pull = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        puller.pull();
    };
    let (ended, ()) = tokio::join!(place.run_until(spec, switch), pull);
    let (exit, _) = ended.expect("an exit");
    assert!(matches!(exit.killed, Some(KillReason::Requested | KillReason::Processes)), "{exit:?}");
    assert_eq!(exit.collected.first().map(|(_, bytes)| bytes.len()), Some(300_000), "read when all are dead");
    if place.sandbox.check_readiness().expect("sandboxes work here").notes.is_empty() {
        assert!(exit.usage.written_bytes >= 300_000, "{:?}", exit.usage);
        assert!(exit.usage.processes_created >= 3, "{:?}", exit.usage);
    }
    let (exit, _) = place.run(shell("exit 4")).await.expect("the slot works on");
    assert_eq!(exit.status, ExitStatus::Code(4));
}

#[tokio::test]
async fn of_a_killed_program_at_least_its_output_is_known_as_written() {
    let place = Place::new();
    let mut spec = shell("yes");
    spec.output_bytes = 100_000;
    let (exit, _) = place.run(spec).await.expect("an exit");
    assert!(exit.usage.written_bytes >= 100_000, "{:?}", exit.usage);
}

#[tokio::test]
async fn the_switch_kills_what_ignores_signals() {
    let place = Place::new();
    let switch = KillSwitch::default();
    let puller = switch.clone();
    let pull = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        puller.pull();
    };
    let script = "trap '' TERM INT HUP; echo started; while :; do sleep 600; done";
    let (ended, ()) = tokio::join!(place.run_until(shell(script), switch), pull);
    let (exit, text) = ended.expect("an exit");
    assert_eq!(
        (exit.killed, exit.status, text.as_str()),
        (Some(KillReason::Requested), ExitStatus::Signal(9), "started\n")
    );
}

#[tokio::test]
async fn a_stopped_first_process_does_not_hold_the_kill_up() {
    let place = Place::new();
    let switch = KillSwitch::default();
    switch.pull();
    let (exit, _) = place.run_until(shell("kill -STOP 1; kill -STOP $$"), switch).await.expect("an exit");
    assert_eq!(exit.killed, Some(KillReason::Requested));
}

#[tokio::test]
async fn daemons_are_counted_and_killed_before_results_are_read() {
    let place = Place::new();
    let mut spec = shell(
        "(setsid sh -c 'while :; do echo x >> /tmp/log; done' > /dev/null 2>&1 &) ; setsid sleep 600 & sleep 0.1",
    );
    spec.collect = vec!["/tmp/log".into()];
    let (exit, _) = place.run(spec).await.expect("an exit");
    assert_eq!((exit.status, exit.leaked_processes), (ExitStatus::Code(0), 2));
    assert_eq!(exit.collected.len(), 1);
}

#[tokio::test]
async fn too_much_output_kills() {
    let place = Place::new();
    let mut spec = shell("yes");
    spec.output_bytes = 100_000;
    let (exit, text) = place.run(spec).await.expect("an exit");
    assert_eq!((exit.killed, text.len()), (Some(KillReason::Output), 100_000));
}

#[tokio::test]
async fn a_receiver_that_is_gone_does_not_stop_the_program() {
    let place = Place::new();
    let mut spec = shell("head -c 500000 /dev/zero; echo done > result");
    spec.collect = vec!["/project/result".into()];
    let prepared = place.sandbox.prepare(spec).await.expect("a place");
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let exit = place.sandbox.run(prepared, sender, KillSwitch::default()).await.expect("an exit");
    assert_eq!((exit.status, exit.killed, exit.collected.len()), (ExitStatus::Code(0), None, 1));
}

#[tokio::test]
async fn t1_6_memory_and_processes_are_limited_or_it_is_said_that_they_are_not() {
    let place = Place::new();
    let readiness = place.sandbox.check_readiness().expect("sandboxes work here");
    if !readiness.notes.is_empty() {
        assert!(!is_root(), "root can limit: {:?}", readiness.notes);
        assert!(readiness.notes[0].starts_with("memory and the number of processes are not limited"));
        return;
    }
    let mut spec = program(&["perl", "-e", "my $x = 'x' x (200 * 1024 * 1024); print 'survived'"]);
    spec.memory_bytes = 64 * 1024 * 1024;
    let (exit, text) = place.run(spec.clone()).await.expect("an exit");
    assert_eq!((exit.killed, text.as_str()), (Some(KillReason::Memory), ""));
    assert!(exit.usage.memory_peak_bytes > 0);
    spec.command.arguments = vec!["sh".into(), "-c".into(), "head -c 200M /dev/zero > /dev/shm/x; echo $?".into()];
    let (exit, _) = place.run(spec).await.expect("an exit");
    assert_ne!((exit.killed, exit.status), (None, ExitStatus::Code(0)), "memory in a tmpfs counts");

    let mut spec =
        program(&["perl", "-e", "my $n = 0; while (defined(my $p = fork)) { $p || sleep 600; $n++ } print \"$n\\n\""]);
    spec.processes = 20;
    let (exit, text) = place.run(spec).await.expect("an exit");
    assert_eq!(exit.killed, Some(KillReason::Processes));
    // Nothing, when it was killed before it could say so.
    assert!(["19\n", ""].contains(&text.as_str()), "{text}");

    let mut spec = program(&["perl", "-e", "while (1) { defined(my $p = fork) or next; $p or sleep 600 }"]);
    spec.processes = 20;
    let (exit, _) = place.run(spec).await.expect("an exit");
    assert_eq!(exit.killed, Some(KillReason::Processes), "what tries for ever is killed too");
    let (exit, _) = place.run(shell("exit 4")).await.expect("the slot works on");
    assert_eq!((exit.status, exit.killed), (ExitStatus::Code(4), None));
}
