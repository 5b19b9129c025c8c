//! What a collector finds when everything inside is dead, and what layers of one tree look like from inside.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};

use muster_environment::{Collector, ExitStatus, KillReason, KillSwitch, Remains, StagedLayer};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mknod};

use crate::support::{Place, shell};

/// Reads a file as a collector should.
fn read(remains: &Remains<'_>, path: &str) -> Result<String, String> {
    let (directory, rest) = remains.locate(Path::new(path)).ok_or("not a clean path")?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    let file = openat2(directory, &rest, how).map_err(|error| error.to_string())?;
    let mut text = String::new();
    fs::File::from(file).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

type Found = Arc<Mutex<Vec<Result<String, String>>>>;

fn reader(paths: &'static [&'static str]) -> (Collector, Found) {
    let found = Found::default();
    let seen = found.clone();
    let collector = Collector::new(move |remains| {
        seen.lock().expect("no panic").extend(paths.iter().map(|path| read(remains, path)));
    });
    (collector, found)
}

#[tokio::test]
async fn a_collector_sees_what_the_program_left_and_follows_nothing() {
    let place = Place::new();
    let layer = place.layer("layer", &[("/project/input", "from a layer")]);
    let (collector, found) = reader(&[
        "/project/out/made",
        "/project/input",
        "/project/link/made",
        "/project/secret",
        "/project/out/../input",
        "/proc/self/status",
    ]);
    let mut spec = shell("mkdir out; echo -n made > out/made; ln -s out link; ln -s /etc/passwd secret; sleep 60 &");
    (spec.layers, spec.collector) = (vec![layer], Some(collector));
    let (exit, _) = place.run(spec).await.expect("a run");
    assert_eq!(exit.status, ExitStatus::Code(0));
    let found = found.lock().expect("no panic");
    assert_eq!(found[..2], [Ok("made".to_owned()), Ok("from a layer".to_owned())]);
    assert!(found[2..].iter().all(Result::is_err) && found.len() == 6, "{found:?}");
}

#[tokio::test]
async fn a_collector_sees_what_a_killed_program_left() {
    let place = Place::new();
    let (collector, found) = reader(&["/project/made"]);
    let kill = KillSwitch::default();
    let mut spec = shell("echo -n half > made; echo ready; sleep 600");
    spec.collector = Some(collector);
    spec.output_bytes = 3;
    let (exit, _) = place.run_until(spec, kill).await.expect("a run");
    assert_eq!(exit.killed, Some(KillReason::Output));
    assert_eq!(*found.lock().expect("no panic"), [Ok("half".to_owned())]);
}

#[tokio::test]
async fn layers_of_one_tree_hide_and_replace_what_is_beneath() {
    let place = Place::new();
    let lower =
        place.layer("lower", &[("/keep", "old"), ("/change", "old"), ("/gone/file", "old"), ("/turned", "old")]);
    let upper = place.layer("upper", &[("/change", "new"), ("/turned/inside", "new")]);
    mknod(&upper.directory.join("gone"), SFlag::S_IFCHR, Mode::empty(), 0).expect("anybody may make a whiteout");
    place.give(&upper.directory);
    let at = |layer: StagedLayer| StagedLayer { mount_path: "/project".into(), ..layer };
    let mut spec =
        shell("find . -type f | sort | xargs grep -H .; rm keep change; mkdir gone; ls gone; echo fine > gone/file");
    spec.layers = vec![at(lower), at(upper)];
    let (exit, text) = place.run(spec).await.expect("a run");
    assert_eq!((exit.status, text.as_str()), (ExitStatus::Code(0), "./change:new\n./keep:old\n./turned/inside:new\n"));
}

/// A target may have 32 layers, and some of them are two directories.
#[tokio::test]
async fn many_layers_fit() {
    let place = Place::new();
    let name = |number: usize| format!("/project/file{number:02}");
    let layers = (0..60).map(|number| place.layer(&format!("layer{number}"), &[(&name(number), "x")]));
    let mut spec = shell("ls | wc -l");
    spec.layers = layers.collect();
    let (exit, text) = place.run(spec).await.expect("a run");
    assert_eq!((exit.status, text.as_str()), (ExitStatus::Code(0), "60\n"));
}

/// A link in a layer must not lead the making of the place to a directory of the host.
#[tokio::test]
async fn a_link_in_a_layer_leads_nowhere_while_the_place_is_made() {
    let place = Place::new();
    let outside = place.directory.path().join("outside");
    fs::create_dir_all(outside.join("inside")).expect("directories");
    fs::write(outside.join("inside/secret"), "secret").expect("a file");
    let layer = place.layer("layer", &[("/project/file", "x")]);
    std::os::unix::fs::symlink(&outside, layer.directory.join("away")).expect("a link");
    place.give(&layer.directory);
    let other = place.layer("other", &[("/here", "x")]);
    let mut spec = shell("cat /away/inside/secret");
    spec.layers = vec![layer, StagedLayer { mount_path: "/away/inside".into(), ..other }];
    // Whether it can be made is not the point.
    if let Ok((exit, text)) = place.run(spec).await {
        assert!(exit.status != ExitStatus::Code(0) && !text.contains("secret\n"), "{text}");
    }
}
