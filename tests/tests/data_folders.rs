//! T3.9 and what belongs to it: a coordinator and the folder that holds everything it promised.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use muster_tests::programs::{Place, Program, binary, eventually, free_address};
use nix::sys::signal::Signal;

/// The exit code of a coordinator that can't begin with what it was given.
const REFUSED: Option<i32> = Some(2);

fn coordinator(data: &Path, address: &str) -> Command {
    let mut command = Command::new(binary("muster-coordinator"));
    command.args(["--listen", address, "--data"]).arg(data).stdin(Stdio::null());
    command
}

/// Starts one and waits until it answers: it listens before it has opened its folder.
fn start(place: &Place, data: &Path, log: Stdio) -> Program {
    let address = free_address();
    let mut command = coordinator(data, &address);
    command.stdout(Stdio::null()).stderr(log);
    let program = Program::start(command);
    let url = format!("http://{address}");
    eventually("the coordinator answers", || {
        let status = place.muster(["fleet", "status", "--fleet", &url]).output();
        status.expect("muster starts").status.success()
    });
    program
}

/// Starts one that has to refuse; answers what it said.
fn refused(data: &Path) -> String {
    let Output { status, stderr, .. } = coordinator(data, &free_address()).output().expect("it starts");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), REFUSED, "{said}");
    assert!(said.starts_with("error: ") && said.contains("hint: "), "{said}");
    said
}

#[test]
fn t3_9_a_second_coordinator_on_one_folder_is_refused() {
    let place = Place::empty();
    let data = place.beside("coordinator");
    let _first = start(&place, &data, Stdio::null());
    let said = refused(&data);
    assert!(said.contains("another coordinator"), "{said}");
}

#[test]
fn t3_9_the_lock_of_a_dead_coordinator_is_no_obstacle() {
    let place = Place::empty();
    let data = place.beside("coordinator");
    let mut first = start(&place, &data, Stdio::null());
    first.signal(Signal::SIGKILL);
    assert_eq!(first.wait(), None, "a signal ended it");
    drop(start(&place, &data, Stdio::null()));
}

#[test]
fn t3_9_a_cache_of_a_newer_program_is_refused_and_left_alone() {
    let place = Place::empty();
    let data = place.beside("coordinator");
    drop(start(&place, &data, Stdio::null()));
    let layout = data.join("cache/LAYOUT");
    std::fs::write(&layout, "99\n").expect("the layout is written");
    let said = refused(&data);
    assert!(said.contains("99") && said.contains("run the Muster that wrote it"), "{said}");
    assert_eq!(std::fs::read_to_string(&layout).expect("is there"), "99\n");
}

#[test]
fn t3_9_a_ledger_of_a_newer_program_is_refused_and_left_alone() {
    let place = Place::empty();
    let data = place.beside("coordinator");
    // Stopped in peace, it leaves nothing in the write-ahead log.
    let mut first = start(&place, &data, Stdio::null());
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait(), Some(0));
    // SQLite file format, section 1.3: the user version is at offset 60 of the header, big-endian.
    let ledger = data.join("ledger.sqlite3");
    let mut bytes = std::fs::read(&ledger).expect("the ledger is there");
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(&ledger, &bytes).expect("the ledger is written");
    let said = refused(&data);
    assert!(said.contains("run the Muster that wrote it"), "{said}");
}

/// Damage to what was promised is not guessed at: see also the unit tests of the ledger.
#[test]
fn t3_7_a_damaged_ledger_is_refused_with_what_to_type_and_left_alone() {
    let place = Place::empty();
    let data = place.beside("coordinator");
    let mut first = start(&place, &data, Stdio::null());
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait(), Some(0));
    let ledger = data.join("ledger.sqlite3");
    let whole = std::fs::read(&ledger).expect("the ledger is there");
    let mut no_header = whole.clone();
    no_header[..100].fill(0x5a);
    let mut no_pages = whole.clone();
    no_pages[2 * 4096..6 * 4096].fill(0xff);
    for damaged in [no_header, no_pages, whole[..whole.len() / 2].to_vec()] {
        std::fs::write(&ledger, &damaged).expect("the ledger is written");
        let said = refused(&data);
        assert!(said.contains("is damaged") && said.contains("cp COPY/ledger.sqlite3"), "{said}");
        assert_eq!(std::fs::read(&ledger).expect("is there"), damaged);
    }
    std::fs::write(&ledger, &whole).expect("the copy is put back");
    drop(start(&place, &data, Stdio::null()));
}

fn agent(data: &Path) -> Command {
    let mut command = Command::new(binary("muster-agent"));
    // Nobody has to be there: an agent tries again until it can.
    command.args(["--coordinator", "http://127.0.0.1:1", "--environment", "host", "--data"]).arg(data);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[test]
fn t3_9_a_second_agent_on_one_folder_and_a_cache_of_a_newer_program_are_refused() {
    let place = Place::empty();
    let data = place.beside("agent");
    let refused = || {
        let Output { status, stderr, .. } = agent(&data).output().expect("it starts");
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert_eq!(status.code(), REFUSED, "{said}");
        assert!(said.contains("error: ") && said.contains("hint: "), "{said}");
    };
    let mut first = Program::start(agent(&data));
    eventually("the agent has its folder", || data.join("spool").exists());
    refused();
    first.signal(Signal::SIGKILL);
    assert_eq!(first.wait(), None, "a signal ended it");
    let layout = data.join("cache/blobs/LAYOUT");
    let known = std::fs::read_to_string(&layout).expect("a layout");
    std::fs::write(&layout, "99\n").expect("the layout is written");
    refused();
    assert_eq!(std::fs::read_to_string(&layout).expect("is there"), "99\n");
    std::fs::write(&layout, known).expect("the layout is written");
    // The lock of a dead agent is no obstacle.
    std::fs::remove_file(data.join("spool")).expect("a spool");
    let _second = Program::start(agent(&data));
    eventually("the agent has its folder again", || data.join("spool").exists());
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let place = Place::empty();
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a device that is always full");
    let mut program = start(&place, &place.beside("coordinator"), full.into());
    program.signal(Signal::SIGTERM);
    assert_eq!(program.wait(), Some(0));
}
