use std::fs;

use muster_model::spec::FrameworkKind;

use crate::project::{BlobSource, PrepareOptions, Progress, ProjectOptions, Step, detect, prepare};
use muster_model::Digest;

struct Silent;

impl Progress for Silent {
    fn step(&mut self, _step: Step) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_sees_its_directory_and_the_data() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = fs::canonicalize(directory.path()).expect("it exists");
    fs::create_dir(root.join("api")).expect("made");
    fs::write(root.join("api/run.sh"), "#!/bin/sh\n").expect("written");
    fs::write(root.join("numbers.json"), "[1]").expect("written");
    let configuration =
        "[test.api]\ncommand = [\"./run.sh\", \"-q\"]\ndirectory = \"api\"\nshards = 3\ndata = [\"*.json\"]\n";
    fs::write(root.join("muster.toml"), configuration).expect("written");
    let project = detect(&root, &ProjectOptions::default()).expect("it is a project");
    let options = PrepareOptions {
        cache_directory: root.join("cache"),
        build_output: Default::default(),
        images: Default::default(),
    };
    let run = prepare(&project, &options, &mut Silent).await.expect("there is nothing to build");
    let [target] = run.targets.as_slice() else { panic!("one target") };
    assert_eq!((target.name.as_str(), target.framework, target.shards), ("api (command)", FrameworkKind::Command, 3));
    assert_eq!(target.command.arguments, [root.join("api/run.sh").display().to_string(), "-q".into()]);
    assert_eq!(target.command.working_directory, root.join("api").display().to_string());
    let purposes: Vec<_> = target.layers.iter().map(|layer| layer.purpose.as_str()).collect();
    assert_eq!(purposes, ["package", "data"]);
    assert_eq!(run.blobs.get(&Digest::of(b"[1]")), Some(&BlobSource::File(root.join("numbers.json"))));
    assert!(run.notices.is_empty(), "{:?}", run.notices);
}
