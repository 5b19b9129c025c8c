//! What is left of environments that were used, dropped and cancelled: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use muster_environment::{Environment, KillSwitch};
use tokio::sync::mpsc;

use crate::support::{Place, shell};

/// How long the last ones may take to go.
const PATIENCE: Duration = Duration::from_secs(60);
const STARTS: &str = "MUSTER_LEFTOVERS_STARTS";

fn names(path: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(path).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// What is mounted, but for what other tests have mounted in directories of their own meanwhile, those of engines among them.
fn mounts(own: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let is_others = |line: &str| {
        let point = Path::new(line.split(' ').nth(4).unwrap_or_default());
        (point.starts_with("/tmp") || point.starts_with(std::env::temp_dir())) && !point.starts_with(own)
    };
    text.lines().filter(|line| !is_others(line)).map(str::to_owned).collect()
}

fn children() -> String {
    let threads = fs::read_dir("/proc/self/task").expect("threads");
    let of = |path: &Path| fs::read_to_string(path.join("children")).unwrap_or_default();
    threads.map(|thread| of(&thread.expect("a thread").path())).collect()
}

fn groups() -> usize {
    let prefix = format!("muster-{}-", std::process::id());
    let mut pending = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    let mut count = 0;
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                count += usize::from(entry.file_name().to_string_lossy().starts_with(&prefix));
                pending.push(entry.path());
            }
        }
    }
    count
}

/// Counts in a process of its own, because other tests open and close things at the same time in this one.
#[test]
fn t1_3_nothing_is_left_after_a_thousand_starts() {
    let output = Command::new(std::env::current_exe().expect("a program"))
        .args(["--exact", "leftovers::starts_leave_nothing", "--test-threads", "1"])
        .env(STARTS, "1000")
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn starts_leave_nothing() {
    let starts = std::env::var(STARTS).ok().and_then(|value| value.parse().ok());
    let descriptors = || names("/proc/self/fd").len();
    let before = (descriptors(), groups());
    let place = Place::new();
    let layer = place.layer("package", &[("/project/file", "")]);
    let mut spec = shell("sleep 600 & echo x > file");
    spec.collect = vec!["/project/file".into()];
    spec.layers.push(layer);
    place.run(spec.clone()).await.expect("the first makes what stays");
    let directory = place.directory.path().join("sandbox").to_string_lossy().into_owned();
    let mounted = mounts(place.directory.path());
    let shared = names(&directory);
    for index in 0..starts.unwrap_or(10) {
        match index % 10 {
            // Prepared and never used.
            8 => drop(place.sandbox.prepare(spec.clone()).await.expect("a place")),
            // Cancelled while it runs.
            9 => {
                let prepared = place.sandbox.prepare(shell("sleep 600")).await.expect("a place");
                let (sender, _receiver) = mpsc::channel(1);
                let run = place.sandbox.run(prepared, sender, KillSwitch::default());
                assert!(tokio::time::timeout(Duration::from_millis(2), run).await.is_err(), "it sleeps");
            }
            _ => {
                let mut quick = spec.clone();
                quick.command.arguments[2] = "echo x > file".into();
                let (exit, _) = place.run(quick).await.expect("an exit");
                assert_eq!(exit.collected.len(), 1);
            }
        }
    }
    place.run(spec.clone()).await.expect("an exit");
    assert_eq!(names(&directory), shared);
    assert_eq!(mounts(place.directory.path()), mounted);
    drop(place);
    assert!(!Path::new(&directory).exists());
    if starts.is_some() {
        // Slots clean up after those who have left already.
        let deadline = Instant::now() + PATIENCE;
        while ((descriptors(), groups()), children().trim()) != (before, "") {
            let left = format!("{:?}, {:?}, not {before:?}", (descriptors(), groups()), children());
            assert!(Instant::now() < deadline, "{left}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
