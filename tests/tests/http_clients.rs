//! The requests that Gradle, Turborepo and Nx make, with curl, as their pages in docs/clients/ show them.

use std::process::{Command, Output};

use muster_tests::clients::page;
use muster_tests::programs::{Fleet, Place};
use muster_tests::seed::Random;

/// Runs one line of a page, in the project's directory.
fn shell(place: &Place, line: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", line]).current_dir(place.project());
    command.output().expect("a shell")
}

/// Types a page's requests in their order: nothing is there before the upload, and afterwards the last one answers the same bytes.
fn transcript(name: &str, seed: u64) {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    let mut random = Random::new(seed);
    let entry: Vec<u8> = (0..100_000).flat_map(|_| random.draw().to_le_bytes()).collect();
    std::fs::write(place.project().join("entry"), &entry).expect("is written");
    let requests = page::block(name, "The requests", &fleet.address);
    let read = requests.lines().last().expect("a request");

    let before = shell(&place, read);
    // curl's code for a status of 400 or more.
    assert_eq!(before.status.code(), Some(22), "{read} before the upload");
    assert!(String::from_utf8_lossy(&before.stderr).contains("404"), "{before:?}");

    for line in requests.lines() {
        let output = shell(&place, line);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}\n{errors}\n{}", output.status, fleet.logs());
        if line == read {
            assert_eq!(output.stdout.len(), entry.len(), "{line}");
            assert!(output.stdout == entry, "{line} answered other bytes");
        }
    }
}

#[test]
fn gradle_stores_and_loads_an_entry() {
    transcript("gradle", 1);
}

#[test]
fn turborepo_stores_and_loads_an_artifact() {
    transcript("turborepo", 2);
}

#[test]
fn nx_stores_and_loads_a_record() {
    transcript("nx", 3);
}
