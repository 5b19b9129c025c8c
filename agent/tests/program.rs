//! The program as an operator meets it.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster-agent"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_unknown_key_is_a_wrong_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, "slots = 1\ncoordinater = \"x\"\n").unwrap();
    let output = agent(&["--config", path.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
    assert!(errors(&output).contains("agent.toml:2:1: unknown field `coordinater`"), "{}", errors(&output));
}

#[test]
fn an_address_that_is_none_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let output = agent(&["--data", data, "--coordinator", "not a url"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
    assert!(errors(&output).contains("hint: --coordinator http://HOST:7420"), "{}", errors(&output));
}

#[test]
fn a_terminated_agent_drains_and_its_data_directory_is_free_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // Nobody listens on port 1, so there is nobody to say goodbye to.
    let arguments = ["--data", data.to_str().unwrap(), "--coordinator", "http://127.0.0.1:1", "--environment", "host"];
    for _ in 0..2 {
        let child = agent(&arguments).spawn().unwrap();
        // The spool is the last thing that an agent opens.
        while !data.join("spool").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let refused = agent(&arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{}", errors(&refused));
        assert!(errors(&refused).contains("another agent uses"), "{}", errors(&refused));
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        std::fs::remove_file(data.join("spool")).unwrap();
    }
}
