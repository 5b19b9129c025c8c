//! The real binaries, started on copies of fixture projects and stopped for certain.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::guard::Guarded;

/// The directory that cargo put the binaries in, found from the running test.
///
/// # Panics
///
/// When the binary is not there: `cargo test -p muster-tests` alone does not build it, `scripts/test` does.
pub fn binary(name: &str) -> PathBuf {
    let running = std::env::current_exe().expect("a running program has a path");
    // Programs lie in target/PROFILE, tests in target/PROFILE/deps.
    let mut places = running.ancestors().skip(1).take(2).map(|place| place.join(name));
    places
        .find(|binary| binary.exists())
        .unwrap_or_else(|| panic!("{name} is not built; hint: cargo build --workspace --bins"))
}

/// What is remembered of this machine's files between tests: identifying a base for the first time takes seconds.
fn shared_cache() -> PathBuf {
    let cache = binary("muster").with_file_name("test-cache");
    // Closed to others as homes are: what a sandbox is made from is opened with the agent's rights, not with those of the program inside.
    match std::fs::DirBuilder::new().mode(0o700).create(&cache) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => panic!("{}: {error}", cache.display()),
        _ => cache,
    }
}

/// A copy of a fixture project, and a place for data beside it; both are removed when it is dropped.
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// Copies `fixtures/NAME`.
    ///
    /// # Panics
    ///
    /// When the fixture does not exist or can't be copied.
    pub fn of(fixture: &str) -> Self {
        let place = Self::empty();
        let source = crate::folder().join("fixtures").join(fixture);
        copy(&source, &place.project());
        place
    }

    /// A place whose project is an empty directory.
    ///
    /// # Panics
    ///
    /// When no temporary directory can be made.
    pub fn empty() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join("project")).expect("a directory in it");
        Self { directory }
    }

    /// The project's root.
    pub fn project(&self) -> PathBuf {
        self.directory.path().join("project")
    }

    /// A path beside the project.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `muster` with `arguments`, its home and caches inside this place.
    pub fn muster(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(binary("muster"));
        command.args(arguments).current_dir(self.project()).stdin(Stdio::null());
        command.env("XDG_CACHE_HOME", shared_cache()).env("XDG_DATA_HOME", self.beside("data"));
        command.env("CARGO_TARGET_DIR", self.beside("target"));
        for variable in ["MUSTER_FLEET", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs `muster test --format json` with more arguments and reads what it says.
    ///
    /// # Panics
    ///
    /// When it can't be started or writes something that is not a JSON object per line.
    pub fn test(&self, arguments: &[&str]) -> TestRun {
        let output = self.muster(["test", "--format", "json"]).args(arguments).output().expect("muster starts");
        TestRun::read(&output)
    }

    /// Changes one file of the project.
    ///
    /// # Panics
    ///
    /// When it can't be written.
    pub fn write(&self, path: &str, contents: &str) {
        let path = self.project().join(path);
        std::fs::create_dir_all(path.parent().expect("inside the project")).expect("its directory");
        std::fs::write(path, contents).expect("the file is written");
    }
}

fn copy(source: &Path, destination: &Path) {
    std::fs::create_dir_all(destination).expect("a directory is made");
    for entry in std::fs::read_dir(source).unwrap_or_else(|error| panic!("{}: {error}", source.display())) {
        let entry = entry.expect("an entry");
        let target = destination.join(entry.file_name());
        if entry.file_type().expect("a kind").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

/// What `muster test --format json` said.
#[derive(Debug)]
pub struct TestRun {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Every line.
    pub events: Vec<Value>,
    /// Its standard error.
    pub errors: String,
}

impl TestRun {
    /// Reads a finished program's output.
    ///
    /// # Panics
    ///
    /// When a line is not a JSON object.
    pub fn read(output: &Output) -> Self {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let events = String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}\n{errors}")))
            .collect();
        Self { code: output.status.code(), events, errors }
    }

    /// The one `run_finished` event.
    ///
    /// # Panics
    ///
    /// When there is none, or more than one.
    pub fn finished(&self) -> &Value {
        let mut all = self.events.iter().filter(|event| event["event"] == "run_finished");
        let finished = all.next().unwrap_or_else(|| panic!("no run_finished: {self:#?}"));
        assert!(all.next().is_none(), "a run finishes once");
        finished
    }

    /// A number of the `run_finished` event.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn count(&self, key: &str) -> u64 {
        self.finished()[key].as_u64().unwrap_or_else(|| panic!("no {key} in {}", self.finished()))
    }

    /// How long the build step took, until the files were read.
    ///
    /// # Panics
    ///
    /// When nothing was built.
    pub fn built(&self) -> Duration {
        let hashing = self.events.iter().find(|event| event["event"] == "step" && event["step"] == "hashing");
        let elapsed = hashing.and_then(|event| event["elapsed_ms"].as_u64());
        Duration::from_millis(elapsed.unwrap_or_else(|| panic!("no build step: {self:#?}")))
    }

    /// Every finished case as `(name, outcome)`, in order of names.
    pub fn outcomes(&self) -> Vec<(String, String)> {
        let mut outcomes: Vec<_> = self
            .events
            .iter()
            .filter(|event| event["event"] == "case_finished")
            .map(|event| (text(event, "name"), text(event, "outcome")))
            .collect();
        outcomes.sort();
        outcomes
    }

    /// The `case_finished` event of a case.
    ///
    /// # Panics
    ///
    /// When it did not finish exactly once.
    pub fn case(&self, name: &str) -> &Value {
        let mut all = self.events.iter().filter(|event| event["event"] == "case_finished" && event["name"] == name);
        let case = all.next().unwrap_or_else(|| panic!("{name} was not reported: {self:#?}"));
        assert!(all.next().is_none(), "{name} was reported twice");
        case
    }

    /// Asserts that every planned case was reported exactly once.
    ///
    /// # Panics
    ///
    /// When it was not.
    pub fn assert_complete(&self) {
        let cases = self.events.iter().filter(|event| event["event"] == "case_finished").count() as u64;
        assert_eq!(cases, self.count("planned"), "planned and reported differ: {self:#?}");
        let mut names: Vec<_> = self
            .events
            .iter()
            .filter(|event| event["event"] == "case_finished")
            .map(|event| (text(event, "target"), text(event, "name")))
            .collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count, "a case was reported twice: {self:#?}");
    }
}

fn text(event: &Value, key: &str) -> String {
    match &event[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A program that is killed when it is dropped, or when the test is killed and drops nothing.
pub struct Program {
    child: Child,
    _guarded: Guarded,
}

impl Program {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// When it can't be started.
    pub fn start(mut command: Command) -> Self {
        Self::of(command.stdin(Stdio::null()).spawn().expect("the program starts"))
    }

    fn of(child: Child) -> Self {
        let guarded = Guarded::new(child.id());
        Self { child, _guarded: guarded }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Panics
    ///
    /// When it is gone already.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let process = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        nix::sys::signal::kill(process, signal).expect("the process is there");
    }

    /// Whether it has ended.
    ///
    /// # Panics
    ///
    /// When it can't be waited for.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it can be waited for").is_some()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    ///
    /// When it does not end within a minute.
    pub fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("the program ends", || match self.child.try_wait().expect("it can be waited for") {
            Some(status) => {
                code = status.code();
                true
            }
            None => false,
        });
        code
    }

    /// Waits until it ends and reads what it wrote.
    ///
    /// # Panics
    ///
    /// When its output can't be read.
    pub fn output(mut self) -> Output {
        // Taken apart by hand because dropping must stay able to kill.
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                if let Some(mut stream) = stream {
                    stream.read_to_end(&mut bytes).expect("output is read");
                }
                bytes
            })
        };
        let stdout = read(stdout.map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>));
        let stderr = read(stderr.map(|stream| Box::new(stream) as Box<dyn std::io::Read + Send>));
        let status = self.child.wait().expect("it can be waited for");
        Output { status, stdout: stdout.join().expect("is read"), stderr: stderr.join().expect("is read") }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits, looking again and again, until something holds.
///
/// # Panics
///
/// When it does not hold within a minute.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A coordinator and agents as programs of their own.
pub struct Fleet {
    /// The coordinator.
    pub coordinator: Option<Program>,
    /// The agents.
    pub agents: Vec<Program>,
    /// Where the coordinator listens.
    pub address: String,
    directory: PathBuf,
    arguments: Vec<String>,
}

impl Fleet {
    /// Starts a coordinator on a free port and agents of one slot each; everything is kept beside the place's project.
    ///
    /// # Panics
    ///
    /// When one of them does not come up.
    pub fn start(place: &Place, agents: usize) -> Self {
        Self::start_with(place, agents, &[])
    }

    /// The same with more arguments of the coordinator.
    ///
    /// # Panics
    ///
    /// When one of them does not come up.
    pub fn start_with(place: &Place, agents: usize, coordinator: &[&str]) -> Self {
        let directory = place.beside("fleet");
        std::fs::create_dir_all(&directory).expect("a directory");
        let arguments = coordinator.iter().map(|argument| (*argument).to_owned()).collect();
        let mut fleet = Self { coordinator: None, agents: Vec::new(), address: free_address(), directory, arguments };
        fleet.start_coordinator();
        for _ in 0..agents {
            fleet.start_agent(&[]);
        }
        fleet.wait_for_agents(place, agents);
        fleet
    }

    /// Waits until so many agents are connected, and the coordinator answers.
    ///
    /// # Panics
    ///
    /// When they are not within a minute.
    pub fn wait_for_agents(&self, place: &Place, agents: usize) {
        let ready = format!("{agents} agents are connected");
        eventually(&ready, || self.status(place)["agents"].as_array().is_some_and(|list| list.len() == agents));
    }

    /// The value for `--fleet`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts the coordinator, again on the same address and data.
    pub fn start_coordinator(&mut self) {
        self.start_coordinator_under(&[]);
    }

    /// The same, started by another program that takes a command line behind its own and becomes it.
    pub fn start_coordinator_under(&mut self, starter: &[String]) {
        let coordinator = binary("muster-coordinator");
        let mut command = match starter {
            [] => Command::new(coordinator),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(coordinator);
                command
            }
        };
        command.args(["--listen", &self.address, "--data"]).arg(self.directory.join("coordinator"));
        command.args(&self.arguments);
        command.stdout(self.log("coordinator")).stderr(self.log("coordinator"));
        self.coordinator = Some(Program::start(command));
    }

    /// Starts one more agent, with more arguments; it has one slot unless they say otherwise.
    pub fn start_agent(&mut self, arguments: &[&str]) {
        self.start_agent_at(&self.url(), arguments);
    }

    /// Starts one more agent that reaches the coordinator at another URL.
    pub fn start_agent_at(&mut self, url: &str, arguments: &[&str]) {
        let agent = self.agent(self.agents.len(), url, arguments);
        self.agents.push(agent);
    }

    /// Kills an agent and starts it again on its data, with more arguments.
    pub fn restart_agent(&mut self, number: usize, arguments: &[&str]) {
        drop(self.agents.remove(number));
        let agent = self.agent(number, &self.url(), arguments);
        self.agents.insert(number, agent);
    }

    fn agent(&self, number: usize, url: &str, arguments: &[&str]) -> Program {
        let name = format!("agent-{number}");
        let mut command = Command::new(binary("muster-agent"));
        command.args(["--coordinator", url, "--name", &name, "--data"]).arg(self.directory.join(&name));
        if !arguments.contains(&"--slots") {
            command.args(["--slots", "1"]);
        }
        command.args(arguments).env("XDG_CACHE_HOME", shared_cache());
        command.stdout(self.log(&name)).stderr(self.log(&name));
        Program::start(command)
    }

    /// What `muster fleet status` says; null while nobody answers.
    ///
    /// # Panics
    ///
    /// When the program can't be started.
    pub fn status(&self, place: &Place) -> Value {
        let output = place
            .muster(["fleet", "status", "--format", "json", "--fleet", &self.url()])
            .output()
            .expect("muster starts");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Everything that the programs have logged, for the message of a failed test.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "log") {
                text.push_str(&format!("== {}\n", entry.path().display()));
                text.push_str(&std::fs::read_to_string(entry.path()).unwrap_or_default());
            }
        }
        text
    }

    fn log(&self, name: &str) -> Stdio {
        let path = self.directory.join(format!("{name}.log"));
        std::fs::File::options().create(true).append(true).open(path).expect("a log file").into()
    }
}

/// An address on loopback that nobody listens on just now.
///
/// # Panics
///
/// When the machine has none left.
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("has an address").to_string()
}

/// Starts `muster test --format json` in the background and returns once a line of its output satisfies `seen`; the rest is collected.
///
/// # Panics
///
/// When it ends before that.
pub fn start_until(mut command: Command, mut seen: impl FnMut(&Value) -> bool) -> Running {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("is piped")).lines();
    let mut events = Vec::new();
    loop {
        let line = lines.next().unwrap_or_else(|| panic!("it ended too early: {events:#?}")).expect("is readable");
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let found = seen(&event);
        events.push(event);
        if found {
            break;
        }
    }
    let events = Arc::new(Mutex::new(events));
    let collected = events.clone();
    let reader = std::thread::spawn(move || {
        for line in lines {
            let event = serde_json::from_str(&line.expect("is readable")).expect("is JSON");
            collected.lock().expect("nobody panics with it").push(event);
        }
    });
    Running { program: Program::of(child), reader, events }
}

/// A `muster test` that is under way.
pub struct Running {
    /// The program.
    pub program: Program,
    reader: std::thread::JoinHandle<()>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Running {
    /// What it said so far.
    ///
    /// # Panics
    ///
    /// When its output can't be read.
    pub fn seen(&self) -> Vec<Value> {
        self.events.lock().expect("its output is read").clone()
    }

    /// Waits for its end, however long that takes.
    ///
    /// # Panics
    ///
    /// When its output can't be read.
    pub fn finish(mut self) -> TestRun {
        let code = self.program.child.wait().expect("it can be waited for").code();
        self.reader.join().expect("its output was read");
        let events = std::mem::take(&mut *self.events.lock().expect("its output was read"));
        TestRun { code, events, errors: String::new() }
    }
}
