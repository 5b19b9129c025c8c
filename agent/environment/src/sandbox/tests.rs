use super::*;
use crate::StagedLayer;
use muster_model::spec::{CommandSpec, Profile};

fn shell(script: &str) -> EnvironmentSpec {
    EnvironmentSpec {
        with_base: true,
        image: None,
        layers: Vec::new(),
        command: CommandSpec {
            arguments: vec!["sh".into(), "-c".into(), script.into()],
            environment: Vec::new(),
            working_directory: "/project".into(),
        },
        memory_bytes: 1 << 28,
        processes: 64,
        output_bytes: 1 << 20,
        profile: Profile::Strict,
        collect: Vec::new(),
        collector: None,
        variables: Default::default(),
        network: None,
    }
}

#[tokio::test]
async fn a_layer_is_shown_and_never_written_to() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layer = directory.path().join("layer");
    std::fs::create_dir_all(layer.join("project")).expect("a layer");
    std::fs::write(layer.join("project/file"), "old").expect("a file");
    let driver = SandboxEnvironment::new(SandboxConfig::new(directory.path().join("sandbox"))).expect("a driver");
    if let Some((uid, gid)) = driver.owner() {
        for path in ["project", "project/file"] {
            std::os::unix::fs::chown(layer.join(path), Some(uid), Some(gid)).expect("root may");
        }
    }
    let mut spec = shell("cat file && echo new > file && cat file && cp file result");
    spec.layers.push(StagedLayer { directory: layer.clone(), mount_path: "/".into() });
    spec.collect.push("/project/result".into());
    let prepared = driver.prepare(spec).await.expect("a place");
    let (sender, mut receiver) = mpsc::channel(16);
    let exit = driver.run(prepared, sender, KillSwitch::default()).await.expect("an exit");
    let mut text = String::new();
    while let Some(chunk) = receiver.recv().await {
        text.push_str(&String::from_utf8_lossy(&chunk.bytes));
    }
    assert_eq!((exit.status, text.as_str()), (ExitStatus::Code(0), "oldnew\n"));
    assert_eq!(exit.collected, vec![("/project/result".into(), b"new\n".to_vec())]);
    assert_eq!(std::fs::read(layer.join("project/file")).expect("the file"), b"old");
}
