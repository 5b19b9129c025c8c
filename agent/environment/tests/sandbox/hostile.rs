//! What a hostile program tries, and that it gets nowhere.

mod canaries;
mod table;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_environment::{
    Environment, EnvironmentError, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch, Profile, StagedLayer,
};
use tokio::sync::mpsc;

use self::canaries::Canaries;
use self::table::{Judge, Row, TABLE};
use crate::containers::Containers;
use crate::support::{Place, finish, give, hostile_program, program, stage};

const PROCESSES: u32 = 64;
const MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// Where hostile programs run.
enum Home {
    Sandbox(Place),
    Containers(Containers),
}

impl Home {
    fn driver(&self) -> &dyn Environment {
        match self {
            Self::Sandbox(place) => &place.sandbox,
            Self::Containers(containers) => &containers.driver,
        }
    }

    fn owner(&self) -> Option<(u32, u32)> {
        match self {
            Self::Sandbox(place) => place.sandbox.owner(),
            Self::Containers(containers) => Some(containers.driver.owner()),
        }
    }

    fn directory(&self) -> &Path {
        match self {
            Self::Sandbox(place) => place.directory.path(),
            Self::Containers(containers) => containers.directory.path(),
        }
    }

    /// A socket that is worth more than root: that of an engine.
    fn engine(&self) -> String {
        match self {
            Self::Sandbox(_) => "/var/run/docker.sock".into(),
            Self::Containers(containers) => containers.engine.socket().to_string_lossy().into_owned(),
        }
    }

    /// Containers start a thousand times slower.
    fn fewer(&self, count: usize) -> usize {
        match self {
            Self::Sandbox(_) => count,
            Self::Containers(_) => count / 10,
        }
    }

    /// A part of the time that a place takes to be made.
    fn moment(&self) -> Duration {
        match self {
            Self::Sandbox(_) => Duration::from_micros(200),
            Self::Containers(_) => Duration::from_millis(40),
        }
    }
}

/// A place with a layer that holds the hostile program and an input, and canaries outside.
struct Stage {
    home: Home,
    layer: StagedLayer,
    canaries: Canaries,
}

type Ran = Result<(Exit, String), EnvironmentError>;

impl Stage {
    fn new(home: Home) -> Self {
        let files = [("/project/input", "input\n"), ("/hostile/.keep", "")];
        let layer = stage(home.directory(), "hostile", &files);
        fs::copy(hostile_program(), layer.directory.join("hostile/hostile")).expect("a copy");
        give(&layer.directory, home.owner());
        let canaries = Canaries::new(home.directory());
        Self { home, layer, canaries }
    }

    async fn finish(&self, spec: EnvironmentSpec) -> Ran {
        finish(self.home.driver(), spec, KillSwitch::default()).await
    }

    fn spec(&self, action: &str) -> EnvironmentSpec {
        let mut spec = program(&["/hostile/hostile", action]);
        spec.layers = vec![self.layer.clone()];
        spec.command.environment = self.canaries.variables();
        (spec.memory_bytes, spec.processes, spec.output_bytes) = (MEMORY_BYTES, PROCESSES, 1 << 20);
        spec
    }

    async fn run(&self, action: &str) -> Ran {
        self.finish(self.spec(action)).await
    }

    async fn collect(&self, action: &str, files: &[&str]) -> Ran {
        let mut spec = self.spec(action);
        spec.collect = files.iter().map(PathBuf::from).collect();
        self.finish(spec).await
    }

    /// A layer with something in it that leads elsewhere, and what becomes of the program above it.
    async fn above(&self, name: &str, action: &str, fill: impl FnOnce(&Path)) -> Ran {
        let odd = stage(self.home.directory(), name, &[]);
        fill(&odd.directory);
        give(&odd.directory, self.home.owner());
        let mut spec = self.spec(action);
        spec.layers.push(odd);
        self.finish(spec).await
    }

    fn input(&self) -> String {
        fs::read_to_string(self.layer.directory.join("project/input")).expect("the input")
    }
}

fn holds(ran: Ran) -> Result<(), String> {
    let (exit, text) = ran.map_err(|error| error.to_string())?;
    let is_held = (exit.status, exit.killed) == (ExitStatus::Code(0), None);
    is_held.then_some(()).ok_or_else(|| format!("{:?} {:?}: {text}", exit.status, exit.killed))
}

fn expect(what: bool, told: impl std::fmt::Debug) -> Result<(), String> {
    what.then_some(()).ok_or_else(|| format!("{told:?}"))
}

async fn judge(stage: &Stage, id: &str) -> Result<(), String> {
    match id {
        "H14" | "H15" | "H16" => judge_layers(stage, id).await,
        "H29" | "H31" | "H32" | "H33" | "H34" => judge_outputs(stage, id).await,
        "H28" | "H35" | "H36" => judge_limits(stage, id).await,
        _ => judge_ends(stage, id).await,
    }
}

async fn judge_layers(stage: &Stage, id: &str) -> Result<(), String> {
    let link = |target: &'static str, name: &'static str| {
        move |root: &Path| std::os::unix::fs::symlink(target, root.join(name)).expect("a link")
    };
    match id {
        "H14" => {
            let fill = |root: &Path| {
                fs::create_dir(root.join("dev")).expect("a directory");
                link("/proc/sys/kernel/core_pattern", "dev/null")(root);
            };
            holds(stage.above("null", id, fill).await)
        }
        "H16" => {
            let fill = |root: &Path| {
                fs::create_dir_all(root.join("proc/self/attr")).expect("directories");
                fs::write(root.join("proc/self/attr/planted"), "").expect("a file");
            };
            holds(stage.above("processes", id, fill).await)
        }
        _ => {
            for name in ["proc", "dev", "sys", "tmp"] {
                let ran = stage.above(name, "H16", link("/", name)).await;
                expect(matches!(ran, Err(EnvironmentError::Invalid(_))), (name, ran))?;
            }
            Ok(())
        }
    }
}

async fn judge_outputs(stage: &Stage, id: &str) -> Result<(), String> {
    let files = ["/project/output", "/project/a", "/project/b", "/project/c", "/project/d/etc/passwd", "/project/fifo"];
    let (exit, text) = stage.collect(id, &files).await.map_err(|error| error.to_string())?;
    let told = format!("{exit:?} {text}");
    match id {
        "H29" => expect(exit.leaked_processes == 1 && exit.collected.len() == 1, told),
        // Whatever it was at that moment: ours, or a link that is not followed.
        "H34" => {
            let is_ours = exit.collected.iter().all(|(_, bytes)| bytes == b"ours\n" || bytes.is_empty());
            expect(exit.leaked_processes == 1 && is_ours, told)
        }
        "H32" => {
            expect(exit.collected.is_empty(), &told)?;
            holds(stage.run("H1").await)
        }
        _ => expect(exit.status == ExitStatus::Code(0) && exit.collected.is_empty(), told),
    }
}

async fn judge_limits(stage: &Stage, id: &str) -> Result<(), String> {
    let run = async |action: &str| stage.run(action).await.map_err(|error| error.to_string());
    match id {
        "H28" => {
            let (exit, text) = run(id).await?;
            expect(exit.killed == Some(KillReason::Processes), (&exit, &text))?;
            // Nothing, when it was killed before it could say so.
            let count: u32 = text.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(1);
            expect(count < PROCESSES && count > 0, (exit, text))?;
            holds(stage.run("H1").await)
        }
        "H35" => {
            let (exit, text) = run(id).await?;
            expect(exit.killed == Some(KillReason::Memory), (exit, text))?;
            for action in ["H35-tmpfs", "H35-pipes"] {
                let (exit, text) = run(action).await?;
                expect(exit.usage.memory_peak_bytes <= MEMORY_BYTES, (exit, text))?;
            }
            Ok(())
        }
        _ => {
            let (exit, text) = run(id).await?;
            expect(exit.killed == Some(KillReason::Output) && text.len() == 1 << 20, (exit.killed, text.len()))?;
            let (exit, text) = run("H36-disk").await?;
            expect(exit.killed == Some(KillReason::Memory) || text == "full\n", (exit, text))
        }
    }
}

async fn judge_ends(stage: &Stage, id: &str) -> Result<(), String> {
    let run = async |action: &str| stage.run(action).await.map_err(|error| error.to_string());
    match id {
        "H37" => {
            let (switch, puller) = (KillSwitch::default(), KillSwitch::clone);
            let pulled = puller(&switch);
            let prepared = stage.home.driver().prepare(stage.spec(id)).await.map_err(|error| error.to_string())?;
            let (sender, mut receiver) = mpsc::channel(16);
            let pull = async {
                receiver.recv().await;
                pulled.pull();
                receiver
            };
            let (exit, _receiver) = tokio::join!(stage.home.driver().run(prepared, sender, switch), pull);
            let exit = exit.map_err(|error| error.to_string())?;
            expect((exit.killed, exit.status) == (Some(KillReason::Requested), ExitStatus::Signal(9)), exit)
        }
        "H38" => run(id).await.and_then(|(exit, _)| expect(exit.status == ExitStatus::Code(7), exit)),
        "H39" | "H40" => {
            let (exit, text) = run(id).await?;
            let is_whole = text.contains("forged") && (id == "H39" || text.starts_with("\x1b]52;"));
            expect(exit.status == ExitStatus::Code(3) && is_whole, (exit, text))
        }
        "H49" => {
            let (exit, text) = run(id).await?;
            expect(text.starts_with("core false\n") && exit.leaked_processes == 1, (exit, text))
        }
        "H50" => {
            for _ in 0..stage.home.fewer(100) {
                run("H50").await?;
                holds(stage.run("H50-look").await)?;
            }
            Ok(())
        }
        "H51" => {
            for step in 0..20 {
                let patience = stage.home.moment() * step;
                let cancelled = tokio::time::timeout(patience, stage.home.driver().prepare(stage.spec("H37"))).await;
                if let Ok(prepared) = cancelled {
                    let (sender, _receiver) = mpsc::channel(1);
                    let prepared = prepared.map_err(|error| error.to_string())?;
                    let run = stage.home.driver().run(prepared, sender, KillSwitch::default());
                    expect(tokio::time::timeout(patience, run).await.is_err(), "it never ends by itself")?;
                }
            }
            holds(stage.run("H1").await)
        }
        "H52" => {
            let mut spec = stage.spec(id);
            spec.command.environment.push(("CANARY_ENGINE".into(), stage.home.engine()));
            holds(stage.finish(spec).await)?;
            match &stage.home {
                Home::Containers(containers) => containers.was_given_nothing(stage.spec("H37")).await,
                Home::Sandbox(_) => Ok(()),
            }
        }
        _ => Err("nobody judges it".into()),
    }
}

#[tokio::test]
async fn t1_1_every_hostile_action_is_held() {
    let place = Place::new();
    let readiness = place.sandbox.check_readiness().expect("sandboxes work here");
    assert_eq!(readiness.notes, Vec::<String>::new(), "limits are part of the table");
    everything_is_held(Stage::new(Home::Sandbox(place))).await;
}

#[tokio::test]
async fn t1_1_every_hostile_action_is_held_in_containers() {
    let stage = Stage::new(Home::Containers(Containers::new()));
    stage.home.driver().check_readiness().expect("containers work here");
    everything_is_held(stage).await;
}

async fn everything_is_held(mut stage: Stage) {
    let mut failed = Vec::new();
    for Row { id, action, judge: by, .. } in TABLE {
        println!("{id}");
        let held = match by {
            Judge::Program => holds(stage.run(id).await),
            Judge::Test => judge(&stage, id).await,
        };
        let reached = stage.canaries.reached();
        if held.is_err() || !reached.is_empty() || stage.input() != "input\n" {
            failed.push(format!("{id} ({action}): {held:?}, reached {reached:?}, input {:?}", stage.input()));
        }
    }
    assert!(stage.canaries.is_program_unchanged());
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn t1_2_refused_calls_are_refused_and_150_others_reach_the_kernel() {
    let stage = Stage::new(Home::Sandbox(Place::new()));
    for action in ["refused", "allowed"] {
        let (exit, text) = stage.run(action).await.expect("an exit");
        assert_eq!(exit.status, ExitStatus::Code(0), "{action}: {text}");
    }
}

#[tokio::test]
async fn a_debugger_may_trace_under_its_own_profile_only() {
    let stage = Stage::new(Home::Sandbox(Place::new()));
    let script = "perl -e 'require \"syscall.ph\" if 0; exit(syscall(101, 0, 0, 0, 0) == 0 ? 0 : 1)'";
    for (profile, code) in [(Profile::Strict, 1), (Profile::Debug, 0)] {
        let mut spec = crate::support::shell(script);
        spec.profile = profile;
        let (exit, text) = stage.finish(spec).await.expect("an exit");
        assert_eq!(exit.status, ExitStatus::Code(code), "{profile:?}: {text}");
    }
}

#[tokio::test]
async fn t1_4_a_hundred_hostile_programs_are_dead_when_their_end_is_told() {
    ends_are_told_when_all_are_dead(Stage::new(Home::Sandbox(Place::new()))).await;
}

#[tokio::test]
async fn t1_4_hostile_programs_in_containers_are_dead_when_their_end_is_told() {
    ends_are_told_when_all_are_dead(Stage::new(Home::Containers(Containers::new()))).await;
}

async fn ends_are_told_when_all_are_dead(stage: Stage) {
    let mut times = Vec::new();
    for number in 0..stage.home.fewer(100) {
        let switch = KillSwitch::default();
        let action = ["H37", "H29", "H28"][number % 3];
        // Other tests run the same program at the same time.
        let marker = format!("t1.4-{}-{number}", stage.home.directory().display());
        let mut spec = stage.spec(action);
        spec.command.arguments.push(marker.clone());
        let prepared = stage.home.driver().prepare(spec).await.expect("a place");
        let (sender, mut receiver) = mpsc::channel(16);
        let pulled = switch.clone();
        let pull = async {
            if action == "H37" {
                receiver.recv().await;
            }
            pulled.pull();
            let pulled_at = std::time::Instant::now();
            while receiver.recv().await.is_some() {}
            pulled_at
        };
        let (exit, pulled_at) = tokio::join!(stage.home.driver().run(prepared, sender, switch), pull);
        times.push(pulled_at.elapsed());
        exit.expect("an exit");
        assert_eq!(crate::support::marked(&marker), 0, "nothing lives on");
    }
    times.sort_unstable();
    let [middle, last] = [50, 99].map(|part| times[times.len() * part / 100]);
    println!("from the switch to the last death: p50 {middle:?}, p99 {last:?}");
}

/// The published table.
fn published() -> String {
    let mut text = String::from("| # | A hostile program tries to | and |\n|---|---|---|\n");
    for Row { id, action, outcome, .. } in TABLE {
        let _ = writeln!(text, "| {id} | {action} | {outcome} |");
    }
    text
}

/// `MUSTER_WRITE_DOCUMENTS=1` writes it.
#[test]
fn the_published_table_is_the_one_that_is_tested() {
    const BEGIN: &str = "<!-- the table of hostile actions begins -->\n";
    const END: &str = "<!-- the table of hostile actions ends -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md");
    // An ordinary user may not be able to read the sources.
    if !crate::support::is_root() && !path.exists() {
        return;
    }
    let document = fs::read_to_string(&path).expect("the document");
    let (before, rest) = document.split_once(BEGIN).expect("the table's beginning");
    let (table, after) = rest.split_once(END).expect("the table's end");
    if std::env::var_os("MUSTER_WRITE_DOCUMENTS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", published())).expect("it is ours");
    } else {
        assert_eq!(table, published(), "run the tests of this crate with MUSTER_WRITE_DOCUMENTS=1");
    }
}
