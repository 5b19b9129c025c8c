//! Figures 1, 2 and 4 of environments: what a sandbox costs beside its peers, what a thousand of them leave behind, and how soon a hostile program is
//! dead.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use muster_environment::{
    DockerConfig, DockerEnvironment, Environment, EnvironmentSpec, KillSwitch, OutputChunk, SandboxConfig,
    SandboxEnvironment, Variables,
};
use muster_model::spec::{CommandSpec, Profile};
use tokio::sync::mpsc;

use super::engine::Engine;
use super::{Bench, goal, percentile, shown};
use crate::load::process;

/// Starts of each peer in a round, in turn.
const STARTS: usize = 200;
/// Containers are started so much more rarely: each takes the time of a hundred others.
const CONTAINER_EVERY: usize = 20;
/// Starts that are counted for what they leave.
const LEFTOVER_STARTS: usize = 1000;
/// Starts before the first count: what they make stays.
const WARM_STARTS: usize = 50;
/// How long the last slots may take to clean up.
const PATIENCE: Duration = Duration::from_secs(30);
const HOSTILE_PROGRAMS: usize = 100;
/// How long a hostile program may go on before it is killed: long enough to be at its worst.
const HEAD_START: Duration = Duration::from_millis(100);
const PROGRAM: &str = "/bin/true";

/// What a program does that does not want to die.
const HOSTILE: [(&str, &str); 5] = [
    ("a fork bomb", ":(){ :|:& };:; while :; do :; done"),
    (
        "daemons that leave their session and ignore signals",
        "trap '' TERM INT HUP; for i in 1 2 3 4 5 6 7 8; do setsid -f sh -c 'trap \"\" TERM INT HUP; while :; do sleep 0.01; done'; done; sleep 600",
    ),
    (
        "memory up to the limit",
        "exec perl -e 'my @all; while (1) { push @all, \"x\" x (1 << 22); select(undef, undef, undef, 0.01) if @all > 40 }'",
    ),
    ("output without an end", "yes"),
    ("files without an end", "while :; do head -c 65536 /dev/zero > /tmp/$RANDOM$$; done"),
];

impl Bench {
    /// A program that does nothing, by itself and in everything that isolates it.
    ///
    /// # Panics
    ///
    /// When it can't be started or fails.
    pub fn starts(&self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let driver = driver(directory.path());
        let mut peers = vec![
            Peer::command("fork and exec, nothing else", &[PROGRAM]),
            Peer::command("`unshare -Urmpniu --fork`", &["unshare", "-Urmpniu", "--fork", PROGRAM]),
            Peer::command("`bwrap --unshare-all`", &["bwrap", "--unshare-all", "--ro-bind", "/", "/", PROGRAM]),
        ];
        let mut sandbox = Peer::command("Muster's sandbox, `strict`", &[]);
        let engine = Engine::start();
        let containers =
            DockerConfig::new(engine.socket(), directory.path().join("places"), directory.path().join("shared"));
        let containers = DockerEnvironment::new(containers).expect("a driver");
        let image = import(&engine, directory.path());
        let mut docker = Peer::command("`docker run --rm --network none`", &[]);
        let mut container = Peer::command("Muster's container", &[]);
        let mut parts: [(&str, Vec<Duration>); 3] =
            [("until it is ready", vec![]), ("from the word to its end", vec![]), ("from its end to clean", vec![])];
        for round in 0..self.rounds * STARTS + WARM_STARTS {
            let is_counted = round >= WARM_STARTS;
            for peer in &mut peers {
                let time = peer.run();
                if is_counted {
                    peer.times.push(time);
                }
            }
            let started = Instant::now();
            let exit = runtime.block_on(run(&driver, specification(&[PROGRAM])));
            let time = started.elapsed();
            assert_eq!(exit.1.status, muster_environment::ExitStatus::Code(0), "{:?}", exit.1);
            if is_counted {
                sandbox.times.push(time);
                let each = [exit.0, exit.1.execution, exit.1.cleaning];
                parts.iter_mut().zip(each).for_each(|((_, times), time)| times.push(time));
            }
            if is_counted && round % CONTAINER_EVERY == 0 {
                let started = Instant::now();
                engine.docker(&["run", "--rm", "--network", "none", &image, PROGRAM]);
                docker.times.push(started.elapsed());
                let started = Instant::now();
                let exit = runtime.block_on(run(&containers, specification(&[PROGRAM])));
                container.times.push(started.elapsed());
                assert_eq!(exit.1.status, muster_environment::ExitStatus::Code(0), "{:?}", exit.1);
            }
        }
        println!("\n### `{PROGRAM}` from its start until everything of it is clean\n");
        println!("| | p50 | p90 | p99 | p50 / first |\n|---|---:|---:|---:|---:|");
        let first = peers[0].percentile(50);
        for peer in peers.iter().chain([&sandbox, &docker, &container]) {
            let [half, most, nearly_all] = [50, 90, 99].map(|percent| peer.percentile(percent));
            let ratio = half.as_secs_f64() / first.as_secs_f64();
            println!("| {} | {} | {} | {} | {ratio:.2} |", peer.name, shown(half), shown(most), shown(nearly_all));
        }
        for (name, times) in parts {
            let part = Peer { name, command: Vec::new(), times };
            let [half, most, nearly_all] = [50, 90, 99].map(|percent| shown(part.percentile(percent)));
            println!("| — {name} | {half} | {most} | {nearly_all} | |");
        }
        let more = sandbox.percentile(50).saturating_sub(first);
        goal("the sandbox's p50 within 1 ms of fork and exec", &shown(more), more <= Duration::from_millis(1));
        let nearly_all = sandbox.percentile(99);
        goal("its p99 below 10 ms", &shown(nearly_all), nearly_all < Duration::from_millis(10));
    }

    /// What is there after a thousand starts and was not there before.
    ///
    /// # Panics
    ///
    /// When a program can't be started.
    pub fn leftovers(&self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let driver = driver(directory.path());
        let start = |count: usize| {
            for _ in 0..count {
                runtime.block_on(run(&driver, specification(&["/bin/sh", "-c", "sleep 600 & echo x > /tmp/file"])));
            }
        };
        start(WARM_STARTS);
        let settled = |before: Option<&Counts>| {
            // The last slots clean up after the answer.
            let deadline = Instant::now() + PATIENCE;
            loop {
                let counts = Counts::now(directory.path());
                let is_settled =
                    before.map_or_else(|| counts == Counts::now(directory.path()), |before| counts == *before);
                if is_settled || Instant::now() > deadline {
                    return counts;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        };
        std::thread::sleep(Duration::from_millis(500));
        let before = settled(None);
        let memory_before = process::Figures::of(std::process::id()).resident_bytes;
        start(LEFTOVER_STARTS);
        let after = settled(Some(&before));
        let memory_after = process::Figures::of(std::process::id()).resident_bytes;
        println!("\n### After {LEFTOVER_STARTS} starts of a program that leaves a process and a file\n");
        println!("| | before | after |\n|---|---:|---:|");
        for ((name, before), (_, after)) in before.0.iter().zip(&after.0) {
            println!("| {name} | {before} | {after} |");
        }
        let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!("| resident memory | {:.1} MiB | {:.1} MiB |", mebibytes(memory_before), mebibytes(memory_after));
        goal("nothing more than before", if after == before { "nothing" } else { "more" }, after == before);
        let more = memory_after.saturating_sub(memory_before);
        goal("at most 5 MiB more memory", &format!("{:.1} MiB", mebibytes(more)), more <= 5 << 20);
    }

    /// A hundred programs that do not want to die.
    ///
    /// # Panics
    ///
    /// When one can't be started.
    pub fn kills(&self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let driver = driver(directory.path());
        let mut times: Vec<Vec<Duration>> = vec![Vec::new(); HOSTILE.len()];
        for number in 0..HOSTILE_PROGRAMS {
            let kind = number % HOSTILE.len();
            let time = runtime.block_on(kill(&driver, HOSTILE[kind].1));
            times[kind].push(time);
        }
        println!("\n### {HOSTILE_PROGRAMS} hostile programs, from the word to kill to an empty control group\n");
        println!("| | p50 | most |\n|---|---:|---:|");
        for ((name, _), times) in HOSTILE.into_iter().zip(&times) {
            let kind = Peer { name, command: Vec::new(), times: times.clone() };
            println!("| {name} | {} | {} |", shown(kind.percentile(50)), shown(kind.percentile(100)));
        }
        let all = Peer { name: "all", command: Vec::new(), times: times.concat() };
        let nearly_all = all.percentile(99);
        println!("| all | {} | {} |", shown(all.percentile(50)), shown(all.percentile(100)));
        goal("p99 below 2 s", &shown(nearly_all), nearly_all < Duration::from_secs(2));
    }
}

/// Something that runs the program, and how long that took.
struct Peer {
    name: &'static str,
    command: Vec<&'static str>,
    times: Vec<Duration>,
}

impl Peer {
    fn command(name: &'static str, command: &[&'static str]) -> Self {
        Self { name, command: command.to_vec(), times: Vec::new() }
    }

    fn run(&self) -> Duration {
        let mut command = Command::new(self.command[0]);
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        let started = Instant::now();
        let status = command.status().expect("it starts");
        let time = started.elapsed();
        assert!(status.success(), "{:?}: {status}", self.command);
        time
    }

    fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.times, percent)
    }
}

fn driver(directory: &Path) -> SandboxEnvironment {
    let driver = SandboxEnvironment::new(SandboxConfig::new(directory.join("sandbox"))).expect("a driver");
    driver.check_readiness().expect("sandboxes can be made here");
    driver
}

/// An image of nothing but the program and what it needs; gives its digest.
fn import(engine: &Engine, directory: &Path) -> String {
    let root = directory.join("image");
    let listed = Command::new("ldd").arg(PROGRAM).output().expect("ldd starts").stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    fs::create_dir_all(&root).expect("a directory");
    let copied = Command::new("cp").args(["-L", "--parents", PROGRAM]).args(libraries).arg(&root).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let archive = directory.join("image.tar");
    let packed = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".").status();
    assert!(packed.is_ok_and(|status| status.success()));
    engine.docker(&["import", &archive.to_string_lossy()]).trim().to_owned()
}

fn specification(arguments: &[&str]) -> EnvironmentSpec {
    EnvironmentSpec {
        with_base: true,
        image: None,
        layers: Vec::new(),
        command: CommandSpec {
            arguments: arguments.iter().map(ToString::to_string).collect(),
            environment: Vec::new(),
            working_directory: "/tmp".into(),
        },
        variables: Variables::WithDefaults,
        memory_bytes: 256 << 20,
        processes: 64,
        output_bytes: 1 << 30,
        profile: Profile::Strict,
        collect: Vec::new(),
        collector: None,
        network: None,
    }
}

/// Runs it to its end; also how long it took until the place was ready.
async fn run(driver: &dyn Environment, spec: EnvironmentSpec) -> (Duration, muster_environment::Exit) {
    let started = Instant::now();
    let prepared = driver.prepare(spec).await.expect("a place");
    let ready = started.elapsed();
    let (sender, _receiver) = mpsc::channel(16);
    (ready, driver.run(prepared, sender, KillSwitch::default()).await.expect("an exit"))
}

/// From the word to the end of everything.
async fn kill(driver: &SandboxEnvironment, script: &str) -> Duration {
    let prepared = driver.prepare(specification(&["/bin/bash", "-c", script])).await.expect("a place");
    let (sender, mut receiver) = mpsc::channel::<OutputChunk>(16);
    let switch = KillSwitch::default();
    let pulled = switch.clone();
    let pull = async {
        let drain = async { while receiver.recv().await.is_some() {} };
        // A program that is killed for passing a limit meanwhile is dead before.
        let ended = tokio::time::timeout(HEAD_START, drain).await.is_ok();
        let pulled_at = Instant::now();
        pulled.pull();
        while !ended && receiver.recv().await.is_some() {}
        pulled_at
    };
    let (exit, pulled_at) = tokio::join!(driver.run(prepared, sender, switch), pull);
    let time = pulled_at.elapsed();
    exit.expect("an exit");
    time
}

/// What a machine has of everything that an environment is made of.
#[derive(Debug, PartialEq, Eq)]
struct Counts([(&'static str, usize); 6]);

impl Counts {
    fn now(directory: &Path) -> Self {
        let family = process::family(std::process::id());
        Self([
            ("mounts, as this process and its launchers see them", family.iter().map(|process| mounts(*process)).sum()),
            ("control groups", groups()),
            ("open descriptors of this process", entries(Path::new("/proc/self/fd"))),
            ("namespaces of all processes", namespaces()),
            ("files and directories of the driver", tree(directory)),
            ("living children and zombies", family.len() - 1),
        ])
    }
}

fn mounts(process: u32) -> usize {
    fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default().lines().count()
}

fn entries(path: &Path) -> usize {
    fs::read_dir(path).map_or(0, Iterator::count)
}

fn tree(directory: &Path) -> usize {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    all.map(|entry| 1 + if entry.file_type().is_ok_and(|kind| kind.is_dir()) { tree(&entry.path()) } else { 0 }).sum()
}

/// Control groups of this process's environments.
fn groups() -> usize {
    let prefix = format!("muster-{}-", std::process::id());
    let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
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

fn namespaces() -> usize {
    let mut seen = BTreeSet::new();
    // What is not a process has no namespaces.
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        for entry in fs::read_dir(process.path().join("ns")).into_iter().flatten().flatten() {
            seen.extend(fs::read_link(entry.path()));
        }
    }
    seen.len()
}
