//! The sandbox from outside: what a program finds, what it may not do, and what is left of it.

mod containers;
#[path = "../docker/engine.rs"]
mod engine;
mod hostile;
mod kills;
mod leftovers;
mod probes;
#[path = "../docker/registry.rs"]
mod registry;
mod remains;
mod runtimes;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

const NOBODY: u32 = 65534;

/// Runs this whole program again as somebody without rights; when it is run by such a user, all other tests are that already.
#[test]
fn everything_holds_for_an_ordinary_user_too() {
    if !support::is_root() {
        let driver = support::Place::new();
        assert_eq!(driver.sandbox.owner(), None, "an ordinary user's layers belong to the user");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).expect("ours");
    let program = directory.path().join("sandbox");
    std::fs::copy(std::env::current_exe().expect("a program"), &program).expect("a copy");
    let hostile = directory.path().join("hostile");
    std::fs::copy(support::hostile_program(), &hostile).expect("a copy");
    let groups = Delegated::new();
    // Enters the groups with root's rights, then becomes the user for good.
    let script = "for group in $GROUPS; do echo $$ > $group/cgroup.procs || exit 1; done; unset GROUPS; \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
    let output = Command::new("sh")
        .args(["-ec", script, "sh"])
        .arg(&program)
        // An engine is root's.
        .args(["--skip", "everything_holds", "--skip", "containers", "--test-threads", "2"])
        .env("TMPDIR", directory.path())
        .env(support::HOSTILE, &hostile)
        .env(kills::AGENTS_KILLED_VARIABLE, "5")
        .env("GROUPS", groups.paths())
        .current_dir("/")
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Control groups that root has handed to the user, as a session manager does.
struct Delegated(Vec<PathBuf>);

impl Delegated {
    fn new() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).expect("a file of the kernel");
        let (mounts, memberships) = (text("/proc/self/mountinfo"), text("/proc/self/cgroup"));
        let mut made = Vec::new();
        for line in memberships.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let mount = mounts.lines().find(|mount| {
                let (before, after) = mount.split_once(" - ").expect("two halves");
                let options = after.rsplit(' ').next().unwrap_or_default();
                let is_one = before.split(' ').nth(3) == Some("/")
                    && options.split(',').any(|option| controllers.split(',').any(|name| name == option));
                is_one
                    && ["memory", "pids", "cpuacct"].iter().any(|name| controllers.split(',').any(|one| one == *name))
            });
            let Some(at) = mount.and_then(|mount| mount.split(' ').nth(4)) else { continue };
            let group = format!("{at}{path}/delegated-{}", std::process::id());
            std::fs::create_dir(&group).expect("root may");
            for name in ["", "/cgroup.procs", "/tasks"] {
                std::os::unix::fs::chown(format!("{group}{name}"), Some(NOBODY), Some(NOBODY)).expect("root may");
            }
            made.push(group.into());
        }
        assert!(!made.is_empty(), "this machine limits through version 1");
        Self(made)
    }

    fn paths(&self) -> String {
        self.0.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for group in &self.0 {
            // The last launchers may be about to leave.
            for _ in 0..100 {
                let below = std::fs::read_dir(group).into_iter().flatten().flatten();
                for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                    let _ = std::fs::remove_dir(entry.path());
                }
                if std::fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}
