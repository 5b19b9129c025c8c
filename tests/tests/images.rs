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
    let programs = ["/bin/sh", "/bin/cat", "/bin/ls", "/bin/sleep"];
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
    import_with(place, fleet, &[], archive)
}

fn import_with(place: &Place, fleet: &Fleet, arguments: &[&str], archive: &Path) -> Value {
    let mut command = place.muster(["image", "import", "--format", "json", "--fleet", &fleet.url()]);
    serde_json::from_slice(&succeed(command.args(arguments).arg(archive))).expect("JSON")
}

fn sha256(file: &Path) -> String {
    let line = String::from_utf8(succeed(Command::new("sha256sum").arg(file))).expect("it writes text");
    line.split_whitespace().next().expect("a hash").to_owned()
}

/// What `docker save` writes of an image with two layers: the root, and one that hides a file of it and has another.
fn save(place: &Place, root: &Path) -> PathBuf {
    let (above, saved) = (place.beside("above"), place.beside("saved"));
    for directory in [&above.join("etc"), &above.join("opt"), &saved, &root.join("opt")] {
        std::fs::create_dir_all(directory).expect("a directory");
    }
    std::fs::write(root.join("opt/hidden"), "beneath").expect("is written");
    std::fs::write(above.join("opt/.wh.hidden"), "").expect("is written");
    std::fs::write(above.join("etc/extra"), "from above\n").expect("is written");
    let layers = [("lower.tar", root), ("upper.tar", &above)];
    let hashes = layers.map(|(name, tree)| {
        let archive = pack(place, tree, name, &[]);
        std::fs::rename(&archive, saved.join(name)).expect("is moved");
        format!("sha256:{}", sha256(&saved.join(name)))
    });
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let configuration = json!({
        "os": "linux",
        "architecture": architecture,
        "config": {"Env": ["GREETING=hello"], "Cmd": ["/bin/sh", "-c", "cat /etc/extra; exec sleep 1000"], "WorkingDir": "/opt"},
        "rootfs": {"type": "layers", "diff_ids": hashes},
    });
    std::fs::write(saved.join("configuration"), configuration.to_string()).expect("is written");
    let name = format!("{}.json", sha256(&saved.join("configuration")));
    std::fs::rename(saved.join("configuration"), saved.join(&name)).expect("is moved");
    let manifest = json!([{"Config": name, "RepoTags": ["small:1"], "Layers": layers.map(|(name, _)| name)}]);
    std::fs::write(saved.join("manifest.json"), manifest.to_string()).expect("is written");
    pack(place, &saved, "saved.tar", &[])
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

#[test]
fn a_saved_image_with_a_name_carries_suites_and_services_and_is_kept() {
    let place = Place::empty();
    let root = place.beside("root");
    make_root(&root);
    let mut fleet = Fleet::start(&place, 1);
    let imported = import_with(&place, &fleet, &["--name", "small:1"], &save(&place, &root));
    assert_eq!((&imported["form"], &imported["layers"]), (&json!("docker-save"), &json!(2)), "{imported}");
    let ask = |fleet: &Fleet, words: &[&str]| {
        let mut command = place.muster(["image"]);
        command.args(words).args(["--format", "json", "--fleet", &fleet.url()]);
        serde_json::from_slice::<Value>(&succeed(&mut command)).expect("JSON")
    };
    let shown = ask(&fleet, &["show", "small:1"]);
    assert_eq!((&shown["image"], &shown["kept"]), (&imported["image"], &json!(true)), "{shown}");
    assert_eq!(shown["configuration"]["environment"], json!(["GREETING=hello"]), "{shown}");

    // One suite in the image; another over the host's base, whose service has the image for itself and runs what that says.
    place.write(
        "muster.toml",
        "[test.inside]\ncommand = [\"./look.sh\"]\nenvironment = \"named\"\n\
         [test.outside]\ncommand = [\"/bin/sh\", \"-c\", \"test ! -e /etc/extra && test -e /usr/bin/env\"]\nenvironment = \"mixed\"\n\
         [environment.named]\nimage = \"small:1\"\n\
         [environment.mixed.service.teller]\nimage = \"small:1\"\nready = { log = \"from above\" }\n",
    );
    place.write(
        "look.sh",
        "#!/bin/sh\nset -e\ntest \"$GREETING\" = hello\ntest \"$(cat /etc/extra)\" = 'from above'\ntest ! -e /opt/hidden\n\
         test -d /opt\ntest ! -e /usr/bin/env\n",
    );
    succeed(Command::new("chmod").arg("755").arg(place.project().join("look.sh")));
    let run = place.test(&["--fleet", &fleet.url()]);
    assert_eq!((run.code, run.count("passed")), (Some(0), 2), "{run:#?}\n{}", fleet.logs());

    // After a restart nothing is leased but what has a name; all else goes.
    let restart = |fleet: &mut Fleet| {
        drop(fleet.coordinator.take());
        fleet.start_coordinator();
        fleet.wait_for_agents(&place, 1);
        succeed(&mut place.muster(["cache", "gc", "--to", "0", "--fleet", &fleet.url()]));
    };
    restart(&mut fleet);
    assert_eq!(ask(&fleet, &["ls"])["images"][0]["kept"], json!(true));
    let run = place.test(&["--fleet", &fleet.url(), "--no-cache"]);
    assert_eq!((run.code, run.count("passed")), (Some(0), 2), "{run:#?}\n{}", fleet.logs());

    // Without its name it goes, and who asks for the name is told what to type.
    assert_eq!(ask(&fleet, &["rm", "small:1"])["image"], imported["image"]);
    let output = place.muster(["test", "--fleet", &fleet.url()]).output().expect("muster starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{errors}");
    assert!(errors.contains("no image is named small:1") && errors.contains("--name small:1"), "{errors}");
    restart(&mut fleet);
    let suite = "[test.inside]\ncommand = [\"./look.sh\"]\nenvironment = \"named\"\n";
    place.write("muster.toml", &format!("{suite}[environment.named]\nimage = {}\n", imported["image"]));
    let output = place.muster(["test", "--fleet", &fleet.url()]).output().expect("muster starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("blobs are missing"), "{errors}");
}
