//! BuildGrid's client `bgd` stores a directory in the fleet, reads it back and executes a command over it, as docs/clients/buildgrid.md says.

use std::process::Command;

use muster_tests::clients::{page, prepared};
use muster_tests::programs::{Fleet, Place};

/// Runs a line of the page and answers what it said.
fn type_line(place: &Place, line: &str) -> String {
    let line = line.replacen("bgd", prepared("bgd").to_str().expect("a name of ours"), 1);
    let output = Command::new("sh").args(["-c", &line]).current_dir(place.project()).output().expect("a shell");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {}\n{said}", output.status);
    said
}

#[test]
fn a_directory_is_uploaded_verified_and_downloaded() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    place.write("inputs/in.txt", "what goes in\n");
    place.write("inputs/deep/er.txt", "and deeper\n");
    let lines = page::block("buildgrid", "Commands", &fleet.address);
    let line = |words: &str| lines.lines().find(|line| line.contains(words)).expect("a line of the page");
    assert!(type_line(&place, line("capabilities")).contains("SHA256"));

    let said = type_line(&place, line("upload-dir"));
    // `Success: Pushed path=[inputs] with digest=[HASH/SIZE]`.
    let digest = said.split_once("path=[inputs] with digest=[").and_then(|(_, rest)| rest.split_once(']'));
    let (digest, _) = digest.unwrap_or_else(|| panic!("no digest in {said}"));
    let address = &fleet.address;
    type_line(&place, &format!("bgd cas --remote=http://{address} download-dir --verify {digest} outputs"));
    let read = |path: &str| std::fs::read_to_string(place.project().join(path)).expect("was downloaded");
    assert_eq!(read("outputs/in.txt"), "what goes in\n");
    assert_eq!(read("outputs/deep/er.txt"), "and deeper\n");
}

#[test]
fn a_command_is_executed_and_its_output_fetched() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 1);
    place.write("inputs/in.txt", "what goes in\n");
    let lines = page::block("buildgrid", "Commands", &fleet.address);
    let line = |words: &str| lines.lines().find(|line| line.contains(words)).expect("a line of the page");
    let said = type_line(&place, line("bgd execute"));
    let result = std::fs::read_to_string(place.project().join("results/out.txt"));
    assert_eq!(result.ok().as_deref(), Some("what goes in\n"), "{said}\n{}", fleet.logs());
    type_line(&place, line("bgd operation"));
}
