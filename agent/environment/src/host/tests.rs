use super::*;
use crate::StagedLayer;
use muster_model::spec::{CommandSpec, Profile};

async fn run_script(script: &str, collect: &[&str]) -> (Exit, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layer = directory.path().join("layer");
    std::fs::create_dir_all(layer.join("project/sub")).expect("a layer");
    std::fs::write(layer.join("project/sub/file"), "old\n").expect("a file");
    let driver = HostEnvironment::new(HostConfig::new(directory.path().join("host"))).expect("a driver");
    let spec = EnvironmentSpec {
        with_base: true,
        image: None,
        layers: vec![StagedLayer { directory: layer.clone(), mount_path: "/".into() }],
        command: CommandSpec {
            arguments: vec!["/bin/sh".into(), "-c".into(), script.into(), "/project/sub/file".into()],
            environment: vec![("RESULT".into(), "/project/result".into()), ("LIST".into(), "/project:/usr/lib".into())],
            working_directory: "/project/sub".into(),
        },
        memory_bytes: 1 << 28,
        processes: 64,
        output_bytes: 1000,
        profile: Profile::Strict,
        collect: collect.iter().map(Into::into).collect(),
        collector: None,
        variables: Default::default(),
        network: None,
    };
    let prepared = driver.prepare(spec).await.expect("a place");
    let (sender, mut receiver) = mpsc::channel(16);
    let exit = driver.run(prepared, sender, KillSwitch::default()).await.expect("an exit");
    let mut text = String::new();
    while let Some(chunk) = receiver.recv().await {
        text.push_str(&String::from_utf8_lossy(&chunk.bytes));
    }
    assert_eq!(std::fs::read(layer.join("project/sub/file")).expect("the file"), b"old\n", "the layer is untouched");
    drop(driver);
    let left = std::fs::read_dir(directory.path().join("host")).expect("the directory").count();
    assert_eq!(left, 0, "nothing is left");
    (exit, text)
}

#[tokio::test]
async fn paths_of_layers_are_rewritten_and_results_are_read_back() {
    let script = "cat file; cat $0; echo new > file; cp file $RESULT; echo ${LIST##*:}; pwd | grep -c /host-; touch $TMPDIR/x ~/y";
    let (exit, text) = run_script(script, &["/project/result", "/project/missing"]).await;
    assert_eq!((exit.status, text.as_str()), (ExitStatus::Code(0), "old\nold\n/usr/lib\n1\n"));
    assert_eq!(exit.collected, vec![("/project/result".into(), b"new\n".to_vec())]);
}

#[tokio::test]
async fn what_is_left_behind_is_counted_and_killed() {
    let (exit, _) = run_script("sleep 600 & exit 3", &[]).await;
    assert_eq!((exit.status, exit.leaked_processes, exit.killed), (ExitStatus::Code(3), 1, None));
}

#[tokio::test]
async fn what_is_used_is_told() {
    let script =
        "head -c 100000 /dev/zero > file; head -c 500 /dev/zero; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done";
    let (exit, _) = run_script(script, &[]).await;
    assert!((100_500..102_000).contains(&exit.usage.written_bytes), "{:?}", exit.usage);
    assert!(exit.usage.memory_peak_bytes > 0 && !exit.usage.cpu.is_zero(), "{:?}", exit.usage);
    let (exit, _) = run_script("head -c 100000 /dev/zero > file; yes", &[]).await;
    assert_eq!(exit.killed, Some(KillReason::Output));
    assert!(exit.usage.written_bytes > 101_000, "what was written is known of a killed program too: {:?}", exit.usage);
}

#[tokio::test]
async fn too_much_output_kills() {
    let (exit, text) = run_script("yes", &[]).await;
    assert_eq!((exit.status, exit.killed, text.len()), (ExitStatus::Signal(9), Some(KillReason::Output), 1000));
}

#[tokio::test]
async fn a_process_that_leaves_its_session_does_not_survive() {
    // Twice removed: its parent is gone, and so is its session.
    let script = "setsid sh -c 'sleep 601.25 & sleep 601.25' & sleep 0.2; exit 4";
    let (exit, _) = run_script(script, &[]).await;
    assert_eq!((exit.status, exit.killed), (ExitStatus::Code(4), None));
    assert!(exit.leaked_processes > 0);
    let alive = std::process::Command::new("pgrep").args(["-f", "^sleep 601.25"]).output().expect("pgrep is there");
    assert_eq!(String::from_utf8_lossy(&alive.stdout), "");
}

#[tokio::test]
async fn a_signal_is_told_as_it_was() {
    let (exit, _) = run_script("kill -SEGV $$", &[]).await;
    assert_eq!((exit.status, exit.killed), (ExitStatus::Signal(11), None));
}

#[tokio::test]
async fn memory_is_limited_where_the_machine_has_control_groups() {
    assert!(!matches!(Groups::discover(), Groups::None(_)), "this machine has control groups");
    // 1 GiB where 256 MiB are allowed.
    let script = "exec python3 -c 'x = b\"x\" * (1 << 30); print(len(x))'";
    let (exit, text) = run_script(script, &[]).await;
    assert_eq!((exit.killed, text.as_str()), (Some(KillReason::Memory), ""));
    assert!(exit.usage.memory_peak_bytes > 1 << 27, "{:?}", exit.usage);
}
