//! The sandbox from outside: what a program finds, what it may not do, and what is left of it.

mod kills;
mod leftovers;
mod probes;
mod remains;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
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
    let output = Command::new(&program)
        .args(["--skip", "everything_holds", "--test-threads", "2"])
        .env("TMPDIR", directory.path())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
