//! Suites in containers of a Docker engine: an imported image, the same verdicts, and nothing left of an agent that is killed.

#[path = "../../agent/environment/tests/docker/engine.rs"]
mod engine;

use std::path::PathBuf;
use std::process::Command;

use muster_tests::programs::{Fleet, Place, eventually, start_until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use engine::Engine;

fn succeed(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output.stdout
}

/// Packs a small root file system of this host's shell and a few programs.
fn pack(place: &Place) -> PathBuf {
    let root = place.beside("root");
    let programs = ["/bin/sh", "/bin/cat", "/bin/sleep"];
    let listed = String::from_utf8(succeed(Command::new("ldd").args(programs))).expect("ldd writes text");
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    std::fs::create_dir_all(root.join("etc")).expect("a directory");
    succeed(Command::new("cp").args(["-L", "--parents"]).args(programs).args(libraries).arg(&root));
    std::fs::write(root.join("etc/os-release"), "ID=imported\n").expect("is written");
    std::os::unix::fs::symlink("etc/os-release", root.join("release")).expect("a link");
    let archive = place.beside("root.tar");
    succeed(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."));
    archive
}

/// Imports that root into the fleet; gives its digest.
fn import(place: &Place, fleet: &Fleet) -> String {
    let archive = pack(place);
    let mut command = place.muster(["image", "import", "--format", "json", "--fleet", &fleet.url()]);
    let imported: Value = serde_json::from_slice(&succeed(command.arg(archive))).expect("JSON");
    imported["image"].as_str().expect("a digest").to_owned()
}

fn script(place: &Place, name: &str, content: &str) {
    place.write(name, content);
    succeed(Command::new("chmod").arg("755").arg(place.project().join(name)));
}

/// The agent's flag for an engine.
fn flag(engine: &Engine) -> String {
    format!("--docker=unix://{}", engine.socket().display())
}

#[test]
fn a_suite_runs_in_a_container_of_an_imported_image() {
    let engine = Engine::start();
    let place = Place::empty();
    let mut fleet = Fleet::start(&place, 0);
    let image = import(&place, &fleet);
    let suite =
        |name: &str, more: &str| format!("[test.{name}]\ncommand = [\"./{name}.sh\"]\nenvironment = \"box\"\n{more}\n");
    let environment = format!("[environment.box]\nkind = \"docker\"\nimage = {image:?}\n");
    script(
        &place,
        "look.sh",
        "#!/bin/sh\nset -e\ntest \"$(cat /release)\" = 'ID=imported'\ntest ! -e /usr/bin/env\ntest \"$HOME\" = /home/muster\n\
         echo changed >/etc/os-release\necho new >here\n",
    );
    script(&place, "fail.sh", "#!/bin/sh\nexit 3\n");
    script(&place, "fill.sh", "#!/bin/sh\nexec cat /dev/zero >/tmp/file\n");
    script(&place, "wait.sh", "#!/bin/sh\nexec sleep 600\n");
    place.write(
        "muster.toml",
        &[
            suite("look", ""),
            suite("fail", ""),
            suite("fill", "memory = \"32MiB\""),
            suite("wait", "timeout = \"2s\""),
            environment,
        ]
        .concat(),
    );

    // An agent without an engine says what it lacks.
    fleet.start_agent(&[]);
    fleet.wait_for_agents(&place, 1);
    let output = place.muster(["test", "--fleet", &fleet.url()]).output().expect("muster starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && errors.contains("a working docker environment"), "{errors}");
    fleet.agents.clear();

    fleet.start_agent(&[&flag(&engine)]);
    eventually("the agent offers containers", || {
        let agents = fleet.status(&place)["agents"].clone();
        agents.as_array().is_some_and(|agents| {
            agents
                .iter()
                .any(|agent| agent["environments"].as_array().is_some_and(|kinds| kinds.contains(&json!("docker"))))
        })
    });
    let run = place.test(&["--fleet", &fleet.url()]);
    run.assert_complete();
    let finished = run.events.iter().filter(|event| event["event"] == "case_finished");
    let mut seen: Vec<_> = finished
        .map(|event| (event["suite"].as_str().unwrap_or_default(), event["outcome"].as_str().unwrap_or_default()))
        .collect();
    seen.sort_unstable();
    let expected = [("fail", "failed"), ("fill", "memory_exceeded"), ("look", "passed"), ("wait", "timed_out")];
    assert_eq!(seen, expected, "{run:#?}\n{}\n{}", fleet.logs(), engine.log());
    // A result of a container is as good as one of a sandbox, and not one of a sandbox's.
    let again = place.test(&["--fleet", &fleet.url()]);
    assert_eq!(again.count("cached"), 1, "{again:#?}");

    eventually("every container is gone", || engine.docker(&["ps", "--all", "--quiet"]).is_empty());
    // Removed with the agent, which drains at its first signal.
    fleet.agents[0].signal(Signal::SIGTERM);
    fleet.agents[0].wait();
    assert_eq!(engine.labelled(), "");
}

#[test]
fn an_image_of_the_engine_s_is_for_the_suite_and_a_service() {
    let engine = Engine::start();
    let place = Place::empty();
    let mut fleet = Fleet::start(&place, 0);
    fleet.start_agent(&[&flag(&engine)]);
    fleet.wait_for_agents(&place, 1);
    let digest = engine.docker(&["import", &pack(&place).to_string_lossy()]);
    script(&place, "engine.sh", "#!/bin/sh\ntest \"$(cat /release)\" = 'ID=imported' && test ! -e /usr/bin/env\n");
    let digest = digest.trim();
    place.write(
        "muster.toml",
        &format!(
            "[test.engine]\ncommand = [\"./engine.sh\"]\nenvironment = \"engine\"\n\
             [environment.engine]\nkind = \"docker\"\nimage = {digest:?}\n\
             [environment.engine.service.waiter]\ncommand = [\"/bin/sh\", \"-c\", \"cat /release; exec sleep 600\"]\n\
             ready = {{ log = \"ID=imported\" }}\n"
        ),
    );
    let run = place.test(&["--fleet", &fleet.url()]);
    assert_eq!((run.code, run.count("passed")), (Some(0), 1), "{run:#?}\n{}\n{}", fleet.logs(), engine.log());
    eventually("the service is kept warm", || fleet.status(&place)["agents"].to_string().contains("waiter"));

    let containers = engine.docker(&["ps", "--all", "--quiet"]).lines().count();
    assert!(containers > 1, "the service and its network have one each");
    eventually("every other container is gone", || {
        engine.docker(&["ps", "--all", "--quiet", "--filter", "status=exited"]).is_empty()
    });
    fleet.agents[0].signal(Signal::SIGTERM);
    fleet.agents[0].wait();
    assert_eq!(engine.labelled(), "");
}

#[test]
fn an_agent_that_is_killed_leaves_nothing_and_the_run_is_green() {
    let engine = Engine::start();
    let place = Place::empty();
    let mut fleet = Fleet::start(&place, 0);
    fleet.start_agent(&[&flag(&engine)]);
    fleet.wait_for_agents(&place, 1);
    script(&place, "slow.sh", "#!/bin/sh\nsleep 3\n");
    place.write("muster.toml", "[test.slow]\ncommand = [\"./slow.sh\"]\nenvironment = \"docker\"\n");
    let url = fleet.url();
    let run = std::thread::scope(|scope| {
        let running = scope.spawn(|| place.test(&["--fleet", &url, "--no-cache"]));
        eventually("the container runs", || running.is_finished() || !engine.docker(&["ps", "--quiet"]).is_empty());
        assert!(!running.is_finished(), "it ended before it was killed");
        fleet.agents[0].signal(Signal::SIGKILL);
        fleet.agents[0].wait();
        fleet.agents.clear();
        fleet.start_agent(&[&flag(&engine)]);
        running.join().expect("a run")
    });
    assert_eq!((run.code, run.count("passed")), (Some(0), 1), "{run:#?}\n{}", fleet.logs());
    run.assert_complete();
    fleet.agents[0].signal(Signal::SIGTERM);
    fleet.agents[0].wait();
    assert_eq!(engine.labelled(), "");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let directory = place.beside("fleet").to_string_lossy().into_owned();
    assert!(!mounts.contains(&directory), "{mounts}");
}

#[test]
fn postgresql_and_redis_in_containers_outlive_an_agent_that_is_killed() {
    let engine = Engine::start();
    let place = Place::of("services");
    let mark = format!("muster-containers-{}", std::process::id());
    let text = std::fs::read_to_string(place.project().join("muster.toml")).expect("the fixture has one");
    let text = text.replace("MARK", &mark).replace("kind = \"sandbox\"", "kind = \"docker\"");
    place.write("muster.toml", &text.replace("[test]", "[test]\nenv = { PAUSE = \"0.3\" }"));
    let mut fleet = Fleet::start(&place, 0);
    fleet.start_agent(&[&flag(&engine)]);
    fleet.start_agent(&[&flag(&engine)]);
    fleet.wait_for_agents(&place, 2);
    let command = place.muster(["test", "--format", "json", "--fleet", &fleet.url()]);
    let running = start_until(command, |event| event["event"] == "case_finished");
    drop(fleet.agents.remove(0));
    let run = running.finish();
    assert_eq!((run.code, run.count("planned"), run.count("passed")), (Some(0), 8, 8), "{run:#?}\n{}", fleet.logs());
    run.assert_complete();
    let servers = || {
        let processes = std::fs::read_dir("/proc").expect("processes are shown").flatten();
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&format!("cluster_name={mark}"))).count()
    };
    eventually("services are kept warm for the next run", || {
        let status = fleet.status(&place);
        let warm = status["agents"].as_array().into_iter().flatten().flat_map(|agent| agent["services"].as_array());
        warm.flatten().any(|services| services["names"] == json!(["postgres", "redis"]))
    });
    assert!(servers() > 0, "what is shown as warm runs");
    eventually("whoever is left has taken away what the killed one had in the engine", || {
        engine.docker(&["ps", "--all", "--quiet", "--filter", "status=exited"]).is_empty()
    });
    fleet.agents[0].signal(Signal::SIGTERM);
    fleet.agents[0].wait();
    assert_eq!((servers(), engine.labelled().as_str()), (0, ""), "{}", engine.docker(&["ps", "--all"]));
}
