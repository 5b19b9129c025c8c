//! A root file system that is imported takes the place of the host's base, on agents that have never heard of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use muster_tests::programs::{Fleet, Place};
use serde_json::{Value, json};

/// What the image says of itself.
const RELEASE: &str = "ID=imported\n";

fn succeed(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output.stdout
}

/// A small root file system of this host's shell, two programs and their libraries.
fn make_root(root: &Path) {
    let programs = ["/bin/sh", "/bin/cat", "/bin/ls"];
    let listed = succeed(Command::new("ldd").args(programs));
    let listed = String::from_utf8(listed).expect("ldd writes text");
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
    std::fs::create_dir_all(root.join("etc")).expect("a directory");
    succeed(Command::new("cp").args(["-L", "--parents"]).args(programs).args(libraries).arg(root));
    std::fs::write(root.join("etc/os-release"), RELEASE).expect("is written");
    std::fs::create_dir_all(root.join("tmp")).expect("a directory");
    std::os::unix::fs::symlink("/etc/os-release", root.join("release")).expect("a link");
    succeed(Command::new("mkfifo").arg(root.join("pipe")));
}

/// The root as an archive, compressed with whatever `option` of tar says.
fn pack(place: &Place, root: &Path, name: &str, option: &[&str]) -> PathBuf {
    let archive = place.beside(name);
    succeed(
        Command::new("tar")
            .args(["--owner=0", "--group=0"])
            .args(option)
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(root)
            .arg("."),
    );
    archive
}

fn import(place: &Place, fleet: &Fleet, archive: &Path) -> Value {
    let mut command = place.muster(["image", "import", "--format", "json", "--fleet", &fleet.url()]);
    serde_json::from_slice(&succeed(command.arg(archive))).expect("JSON")
}

#[test]
fn a_suite_runs_in_an_imported_image_and_sees_nothing_of_the_host() {
    let place = Place::empty();
    let root = place.beside("root");
    make_root(&root);
    let mut fleet = Fleet::start(&place, 0);
    let first = import(&place, &fleet, &pack(&place, &root, "root.tar", &[]));
    assert_eq!(first["lost"]["special_files"], json!(1), "{first}");
    assert_ne!(first["uploaded_blobs"], json!(0), "{first}");
    let again = import(&place, &fleet, &pack(&place, &root, "root.tar.gz", &["--gzip", "--format=pax"]));
    assert_eq!((&again["image"], &again["uploaded_blobs"]), (&first["image"], &json!(0)), "{again}");

    let image = first["image"].as_str().expect("a digest");
    let environment = format!("[environment.small]\nkind = \"sandbox\"\nimage = {image:?}\n");
    let suite = "[test.inside]\ncommand = [\"./look.sh\"]\nenvironment = \"small\"\n";
    place.write("muster.toml", &format!("{suite}{environment}"));
    place.write(
        "look.sh",
        "#!/bin/sh\nset -e\ntest \"$(cat /release)\" = 'ID=imported'\ntest ! -e /pipe\ntest ! -e /usr/bin/env\n\
         ls /bin /etc\necho changed >/etc/os-release\n",
    );
    succeed(Command::new("chmod").arg("755").arg(place.project().join("look.sh")));
    fleet.start_agent(&[]);
    fleet.wait_for_agents(&place, 1);
    // The second time it is not taken from the cache, and what the first one changed is not there.
    for _ in 0..2 {
        let run = place.test(&["--fleet", &fleet.url(), "--no-cache"]);
        assert_eq!(run.code, Some(0), "{run:#?}\n{}", fleet.logs());
        run.assert_complete();
    }
    let cached = place.test(&["--fleet", &fleet.url()]);
    assert_eq!((cached.count("passed"), cached.count("cached")), (1, 1), "{cached:#?}");

    // One more file is another image, and results of the first are not taken for it.
    std::fs::write(root.join("more"), "more").expect("is written");
    let other = import(&place, &fleet, &pack(&place, &root, "other.tar", &[]));
    assert_ne!(other["image"], first["image"]);
    assert_eq!(other["uploaded_blobs"], json!(2), "a file and the root's directory: {other}");
    let environment = environment.replace(image, other["image"].as_str().expect("a digest"));
    place.write("muster.toml", &format!("{suite}{environment}"));
    let run = place.test(&["--fleet", &fleet.url()]);
    assert_eq!((run.count("passed"), run.count("cached")), (1, 0), "{run:#?}");
}

#[test]
fn an_image_that_the_fleet_has_not_is_said_to_be_missing() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 1);
    let image = format!("blake3:{}/77", "1".repeat(64));
    let environment = format!("[environment.small]\nimage = {image:?}\n");
    place.write("muster.toml", &format!("[test.a]\ncommand = [\"true\"]\nenvironment = \"small\"\n{environment}"));
    let output = place.muster(["test", "--fleet", &fleet.url()]).output().expect("muster starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains(&image) && errors.contains("muster image import"), "{errors}");
}

#[test]
fn a_hostile_archive_is_refused_in_a_sentence() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 0);
    std::fs::write(place.project().join("secret"), "x").expect("is written");
    let archive = place.beside("hostile.tar");
    succeed(Command::new("tar").arg("-cPf").arg(&archive).arg(place.project().join("secret")));
    let mut command = place.muster(["image", "import", "--fleet", &fleet.url()]);
    let output = command.arg(&archive).output().expect("muster starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("has an absolute name") && errors.contains("hint: "), "{errors}");
}
