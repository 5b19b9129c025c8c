//! Machines as they are: ordinary users, kernels without user namespaces.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_tests::programs::{Place, TestRun, binary};

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("permissions are set");
}

/// The program where an ordinary user can run it, beside a directory of the user's own.
fn reachable(place: &Place) -> PathBuf {
    // What the build left may lie where only its owner can read.
    let program = place.beside("muster");
    std::fs::copy(binary("muster"), &program).expect("the program is copied");
    let data = place.beside("data");
    std::fs::create_dir(&data).expect("a directory");
    for path in [place.beside(""), place.project(), program.clone()] {
        open_to_all(&path);
    }
    std::os::unix::fs::chown(&data, Some(65534), Some(65534)).expect("is handed over");
    program
}

#[test]
fn an_ordinary_user_gets_the_same_sandbox() {
    let place = Place::of("command");
    let (program, data) = (reachable(&place), place.beside("data"));
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args(["test", "--format", "json", "--allow-without", "control-groups"])
        .current_dir(place.project())
        .env("HOME", &data)
        .env("XDG_CACHE_HOME", data.join("cache"))
        .env("XDG_DATA_HOME", data.join("data"))
        .output()
        .expect("setpriv starts");
    let run = TestRun::read(&output);
    assert_eq!(run.code, Some(0), "{run:#?}");
    run.assert_complete();
    assert_eq!(run.count("passed"), 3);
    for case in run.events.iter().filter(|event| event["event"] == "case_finished") {
        assert_eq!(case["environment"], "sandbox", "{case}");
        assert_eq!(case["without"], serde_json::json!(["control-groups"]), "{case}");
    }
}

#[test]
fn a_weaker_sandbox_is_refused_unless_it_is_allowed() {
    let place = Place::of("command");
    let refused = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(reachable(&place))
        .arg("test")
        .current_dir(place.project())
        .envs([("HOME", place.beside("data")), ("XDG_CACHE_HOME", place.beside("data/cache"))])
        .env("XDG_DATA_HOME", place.beside("data/data"))
        .output()
        .expect("setpriv starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    for word in ["would lack control-groups", "systemd-run", "--allow-without control-groups"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn a_kernel_without_user_namespaces_is_named_with_the_way_out() {
    let place = Place::of("command");
    let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let muster = |arguments: &[&str]| {
        let inner = place.muster(["test"]);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", forbid, "sh"]).arg(inner.get_program());
        command.args(inner.get_args()).args(arguments).current_dir(place.project());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.output().expect("unshare starts")
    };
    let refused = muster(&[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{said}");
    for word in ["user.max_user_namespaces", "--environment host"] {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    let host = muster(&["--environment", "host"]);
    assert_eq!(host.status.code(), Some(0), "{}", String::from_utf8_lossy(&host.stderr));
}
