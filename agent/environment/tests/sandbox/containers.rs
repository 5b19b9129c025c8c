//! The same programs in containers of a Docker engine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use muster_environment::{
    DockerConfig, DockerEnvironment, Environment, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch,
    StagedLayer,
};
use muster_model::platform::EngineImage;
use tempfile::TempDir;

use crate::engine::Engine;
use crate::kills::wait_for;
use crate::support::{finish, give, program, shell, stage};

/// A driver with an engine and directories of its own.
pub(crate) struct Containers {
    // Dropped before the engine and the directory that it is in.
    pub(crate) driver: DockerEnvironment,
    pub(crate) directory: TempDir,
    pub(crate) engine: Engine,
}

impl Containers {
    pub(crate) fn new() -> Self {
        let engine = Engine::start();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let driver = driver(&engine, directory.path());
        Self { driver, directory, engine }
    }

    fn layer(&self, name: &str, files: &[(&str, &str)]) -> StagedLayer {
        let layer = stage(self.directory.path(), name, files);
        give(&layer.directory, Some(self.driver.owner()));
        layer
    }

    /// What the engine itself says that it gave to a container.
    pub(crate) async fn was_given_nothing(&self, spec: EnvironmentSpec) -> Result<(), String> {
        let prepared = self.driver.prepare(spec).await.map_err(|error| error.to_string())?;
        let container = self.engine.docker(&["ps", "--quiet", "--filter", "status=running"]);
        let inspected = self.engine.docker(&["inspect", container.trim()]);
        drop(prepared);
        let inspected: serde_json::Value = serde_json::from_str(&inspected).map_err(|error| error.to_string())?;
        let host = &inspected[0]["HostConfig"];
        let expected = serde_json::json!({
            "Privileged": false, "NetworkMode": "none", "PidMode": "", "IpcMode": "private", "UTSMode": "",
            "UsernsMode": "", "CgroupnsMode": "private", "CapDrop": ["ALL"], "ReadonlyRootfs": true,
        });
        for (name, value) in expected.as_object().into_iter().flatten() {
            if &host[name] != value {
                return Err(format!("{name} is {}", host[name]));
            }
        }
        for name in ["CapAdd", "Binds", "Devices", "DeviceRequests", "VolumesFrom", "PortBindings", "GroupAdd"] {
            let is_empty = match &host[name] {
                serde_json::Value::Null => true,
                serde_json::Value::Array(some) => some.is_empty(),
                serde_json::Value::Object(some) => some.is_empty(),
                _ => false,
            };
            if !is_empty {
                return Err(format!("{name} is {}", host[name]));
            }
        }
        let places = self.directory.path().join("places");
        let mounts = inspected[0]["Mounts"].as_array().cloned().unwrap_or_default();
        let is_ours =
            |mount: &serde_json::Value| mount["Source"].as_str().is_some_and(|at| Path::new(at).starts_with(&places));
        match mounts.iter().find(|mount| !is_ours(mount)) {
            None if !mounts.is_empty() => Ok(()),
            other => Err(format!("{other:?} is shown")),
        }
    }

    async fn run(&self, spec: EnvironmentSpec) -> (Exit, String) {
        finish(&self.driver, spec, KillSwitch::default()).await.unwrap_or_else(|error| {
            panic!("{error}: {:?}\n{}", std::error::Error::source(&error), self.engine.log());
        })
    }
}

pub(crate) fn driver(engine: &Engine, directory: &Path) -> DockerEnvironment {
    let config = DockerConfig::new(engine.socket(), directory.join("places"), directory.join("shared"));
    DockerEnvironment::new(config).expect("a driver")
}

#[tokio::test]
async fn containers_run_programs_as_sandboxes_do() {
    let containers = Containers::new();
    let readiness = containers.driver.check_readiness().expect("containers work here");
    let expected = |note: &String| note.starts_with("docker: runtime") || note.starts_with("docker: limits: swap");
    assert!(readiness.notes.iter().all(expected), "{readiness:?}");

    let layer = containers.layer("package", &[("/project/file", "old"), ("/opt/tool/data", "data")]);
    let mut spec =
        shell("cat file /opt/tool/data && echo new >file && cat file && id -u && id -un && pwd && cp file result");
    spec.layers.push(layer.clone());
    spec.collect.push("/project/result".into());
    let (exit, text) = containers.run(spec).await;
    let uid = containers.driver.owner().0;
    assert_eq!(text, format!("olddatanew\n{uid}\nmuster\n/project\n"), "{exit:?}");
    assert_eq!((exit.status, exit.killed, exit.leaked_processes), (ExitStatus::Code(0), None, 0));
    assert_eq!(exit.collected, [("/project/result".into(), b"new\n".to_vec())]);
    assert!(exit.usage.memory_peak_bytes > 0 && exit.usage.written_bytes > 0, "{:?}", exit.usage);
    assert_eq!(fs::read_to_string(layer.directory.join("project/file")).expect("the file"), "old");

    for (script, expected) in [("exit 255", ExitStatus::Code(255)), ("kill -SEGV $$", ExitStatus::Signal(11))] {
        assert_eq!(containers.run(shell(script)).await.0.status, expected, "{script}");
    }
    let (exit, _) = containers.run(shell("setsid sleep 600 & sleep 0.1")).await;
    assert_eq!((exit.status, exit.leaked_processes), (ExitStatus::Code(0), 1));
    let missing = finish(&containers.driver, program(&["/missing"]), KillSwitch::default()).await;
    assert!(matches!(missing, Err(muster_environment::EnvironmentError::Start { .. })), "{missing:?}");
    // Only the image with the links of the base stays, for the next one.
    assert_eq!(containers.engine.labelled().lines().count(), 1);
    let Containers { driver, directory, engine } = containers;
    drop(driver);
    assert_eq!(engine.labelled(), "");
    assert_eq!(fs::read_dir(directory.path().join("places")).expect("the directory").count(), 0);
}

#[tokio::test]
async fn containers_in_one_network_talk_and_those_outside_do_not() {
    let containers = Containers::new();
    let network = containers.driver.network().await.expect("a network");
    let refused = network.connect(8000).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let serve = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1:8000', Listen => 5) or die; \
                 while (my $c = $s->accept) { print $c `hostname`; close $c }";
    let ask = "use IO::Socket::INET; my $s; for (1 .. 100) { $s = IO::Socket::INET->new('127.0.0.1:8000') and last; \
               select undef, undef, undef, 0.05 } print $s ? <$s> : 'nobody', -e '/etc/resolv.conf' ? '' : ' no names';";
    let mut server = program(&["perl", "-e", serve]);
    server.network = Some(network.clone());
    let switch = KillSwitch::default();
    let serving = finish(&containers.driver, server, switch.clone());
    let asking = async {
        let mut client = program(&["perl", "-e", ask]);
        client.network = Some(network.clone());
        let told = containers.run(client).await.1;
        let reached = network.connect(8000).await.is_ok();
        let apart = containers.run(program(&["perl", "-e", &ask.replace("100", "1")])).await.1;
        switch.pull();
        (told, reached, apart)
    };
    let (served, (told, reached, apart)) = tokio::join!(serving, asking);
    assert_eq!(served.expect("an exit").0.killed, Some(KillReason::Requested));
    assert!(told.starts_with("muster\n") && apart.starts_with("nobody") && reached, "{told} {apart}");
    drop(network);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !containers.engine.docker(&["ps", "--all", "--quiet"]).is_empty() {
        assert!(std::time::Instant::now() < deadline, "{}", containers.engine.docker(&["ps", "--all"]));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn limits_of_containers_are_verdicts() {
    let containers = Containers::new();
    let mut spec = program(&["perl", "-e", "my $x = 'x' x (200 * 1024 * 1024); print 'survived'"]);
    spec.memory_bytes = 64 * 1024 * 1024;
    let (exit, text) = containers.run(spec.clone()).await;
    assert_eq!((exit.killed, text.as_str()), (Some(KillReason::Memory), ""));
    assert!(exit.usage.memory_peak_bytes > 0);
    spec.command.arguments = vec!["sh".into(), "-c".into(), "head -c 200M /dev/zero > /dev/shm/x; echo $?".into()];
    let (exit, _) = containers.run(spec).await;
    assert_ne!((exit.killed, exit.status), (None, ExitStatus::Code(0)), "memory in a tmpfs counts");

    let mut spec = program(&["perl", "-e", "while (1) { defined(my $p = fork) or next; $p or sleep 600 }"]);
    spec.processes = 20;
    let (exit, _) = containers.run(spec).await;
    assert_eq!(exit.killed, Some(KillReason::Processes));

    let mut spec = shell("yes");
    spec.output_bytes = 100_000;
    let (exit, text) = containers.run(spec).await;
    assert_eq!((exit.killed, text.len()), (Some(KillReason::Output), 100_000));

    let switch = KillSwitch::default();
    switch.pull();
    let ended = finish(&containers.driver, shell("kill -STOP 1; kill -STOP $$"), switch).await;
    assert_eq!(ended.expect("an exit").0.killed, Some(KillReason::Requested));
    assert_eq!(containers.engine.docker(&["ps", "--all", "--quiet"]), "");
}

/// Packs a small root file system of this host's shell and one more program.
fn pack_root(directory: &Path) -> PathBuf {
    let root = directory.join("root");
    let programs = ["/bin/sh", "/bin/cat"];
    let listed = Command::new("ldd").args(programs).output().expect("ldd starts").stdout;
    let listed = String::from_utf8(listed).expect("text");
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    fs::create_dir_all(root.join("etc")).expect("a directory");
    let copied = Command::new("cp").args(["-L", "--parents"]).args(programs).args(libraries).arg(&root).status();
    assert!(copied.is_ok_and(|status| status.success()));
    fs::write(root.join("etc/name"), "image\n").expect("a file");
    std::os::unix::fs::symlink("etc/name", root.join("name")).expect("a link");
    let archive = directory.join("root.tar");
    let packed = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg(".").status();
    assert!(packed.is_ok_and(|status| status.success()));
    archive
}

#[tokio::test]
async fn containers_pull_an_image_by_its_digest_and_never_by_its_name() {
    let containers = Containers::new();
    let archive = fs::read(pack_root(containers.directory.path())).expect("an archive");
    let name = crate::registry::serve(archive, "GREETING=pulled");
    let mut spec = shell("cat /name; echo $GREETING");
    (spec.with_base, spec.image) = (false, EngineImage::parse(&name));
    let (exit, text) = containers.run(spec.clone()).await;
    assert_eq!((exit.status, text.as_str()), (ExitStatus::Code(0), "image\npulled\n"));
    // A registry that has another image under that name is not believed.
    let other = format!("{}sha256:{}", name.split("sha256:").next().unwrap_or_default(), "1".repeat(64));
    spec.image = EngineImage::parse(&other);
    let missing = finish(&containers.driver, spec, KillSwitch::default()).await;
    assert!(missing.is_err_and(|error| error.to_string() == format!("cannot pull {other}")));
}

#[tokio::test]
async fn containers_show_an_image_by_its_digest() {
    let containers = Containers::new();
    let archive = pack_root(containers.directory.path());
    let changes = ["--change", "ENV GREETING=hello", "--change", "VOLUME /var/data", "--change", "USER root"];
    let archive = archive.to_string_lossy().into_owned();
    let digest = containers.engine.docker(&[&["import"], &changes[..], &[&archive]].concat());

    let layer = containers.layer("package", &[("/etc/more", "above\n"), ("/project/file", "")]);
    let mut spec = shell(
        "cat /name /etc/more; echo $GREETING $HOME; echo x >/etc/name || echo kept; echo x >/var/data/x; echo x >file",
    );
    (spec.with_base, spec.image) = (false, EngineImage::parse(digest.trim()));
    spec.layers.push(layer);
    let (exit, text) = containers.run(spec.clone()).await;
    let expected = "image\nabove\nhello /home/muster\n";
    assert!(text.starts_with(expected) && text.contains("kept") && text.contains("/var/data/x"), "{exit:?} {text}");
    assert_eq!(exit.status, ExitStatus::Code(0));
    // It is held while the agent lives, and nothing in it has changed.
    assert!(containers.engine.docker(&["ps", "--all", "--quiet"]).lines().count() == 1);
    let (_, again) = containers.run(spec.clone()).await;
    assert_eq!(again, text);
    spec.image = EngineImage::parse(&format!("sha256:{}", "0".repeat(64)));
    let missing = finish(&containers.driver, spec, KillSwitch::default()).await;
    assert!(missing.is_err_and(|error| error.to_string() == "cannot find an image"));
    let Containers { driver, directory: _directory, engine } = containers;
    drop(driver);
    assert_eq!((engine.labelled().as_str(), &*engine.docker(&["ps", "--all", "--quiet"])), ("", ""));
    assert!(engine.docker(&["images", "--quiet", "--no-trunc"]).contains(digest.trim()), "it is not ours to remove");
}

/// Where the engine of an agent is that will be killed, and its directory, and what its program is called.
const AGENT: [&str; 3] = ["MUSTER_CONTAINERS_ENGINE", "MUSTER_CONTAINERS_DIRECTORY", "MUSTER_CONTAINERS_MARKER"];

/// Not a test of its own: what is killed below.
#[tokio::test]
async fn containers_of_an_agent_that_will_be_killed() {
    let [Some(socket), Some(directory), Some(marker)] = AGENT.map(std::env::var_os) else { return };
    let directory = Path::new(&directory);
    let config = DockerConfig::new(socket.into(), directory.join("places"), directory.join("shared"));
    let driver = DockerEnvironment::new(config).expect("a driver");
    let script = format!("setsid sleep {0} & sleep {0}", marker.to_string_lossy());
    let ended = finish(&driver, shell(&script), KillSwitch::default()).await;
    panic!("nobody has killed it: {ended:?}");
}

#[test]
fn containers_of_a_killed_agent_end_at_once_and_are_removed_by_whoever_comes_next() {
    let engine = Engine::start();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [own, other] = ["own", "other"].map(|name| directory.path().join(name));
    for (number, next) in [&own, &other].into_iter().enumerate() {
        let marker = format!("600.3{:010}{number}", std::process::id());
        let values = [engine.socket().into_os_string(), own.clone().into_os_string(), marker.clone().into()];
        let mut agent = Command::new(std::env::current_exe().expect("a program"))
            .args(["--exact", "containers::containers_of_an_agent_that_will_be_killed"])
            .envs(AGENT.into_iter().zip(values))
            .stdout(Stdio::null())
            .spawn()
            .expect("it starts");
        wait_for(&marker, |count| count >= 2);
        drop(driver(&engine, &other));
        wait_for(&marker, |count| count >= 2);
        assert_ne!(engine.labelled(), "", "what lives is left alone");
        agent.kill().expect("it is ours");
        agent.wait().expect("it is ours");
        // Nobody has done anything yet but the kernel.
        wait_for(&marker, |count| count == 0);
        assert_ne!(engine.labelled(), "");
        drop(driver(&engine, next));
        assert_eq!(engine.labelled(), "");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        assert!(!mounts.contains(&*own.to_string_lossy()), "{mounts}");
        assert_eq!(fs::read_dir(own.join("places")).expect("the directory").count(), 0);
    }
}

#[tokio::test]
async fn containers_that_nobody_waits_for_go() {
    let containers = Containers::new();
    containers.run(shell("true")).await;
    let images = containers.engine.labelled();
    drop(containers.driver.prepare(shell("true")).await.expect("a place"));
    let switch = KillSwitch::default();
    let prepared = containers.driver.prepare(shell("sleep 600")).await.expect("a place");
    let (sender, _receiver) = tokio::sync::mpsc::channel(1);
    let run = containers.driver.run(prepared, sender, switch);
    assert!(tokio::time::timeout(std::time::Duration::from_millis(20), run).await.is_err(), "it sleeps");
    // What is dropped is taken away by another thread.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while containers.engine.labelled() != images {
        assert!(std::time::Instant::now() < deadline, "{}", containers.engine.docker(&["ps", "--all"]));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(containers.engine.docker(&["ps", "--all", "--quiet"]), "");
}
