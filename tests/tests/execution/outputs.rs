//! What an action sees, and what it leaves behind.

use muster_proto::reapi::{self, command::OutputDirectoryFormat};
use muster_tests::remote::Script;
use prost::Message;
use tonic::Code;

use super::World;

#[tokio::test(flavor = "multi_thread")]
async fn files_directories_links_and_modes_come_back() {
    let world = World::start(1).await;
    let script = Script::new(
        "echo text > deep/below/file; printf '#!/bin/sh\\n' > tool; chmod +x tool; mkdir -p tree/inner/empty; \
         echo x > tree/inner/x; ln -s inner/x tree/link; ln -s file deep/below/alias",
    );
    let mut script = script.outputs(&["deep/below/file", "tool", "tree", "deep/below/alias", "never-made"]);
    script.command.set_output_directory_format(OutputDirectoryFormat::TreeAndDirectory);
    let executed = world.remote.run(&script).await;
    let result = executed.result();
    assert_eq!((executed.code(), result.exit_code), (Code::Ok, 0), "{executed:?}\n{}", world.fleet.logs());
    let files: Vec<(&str, bool)> =
        result.output_files.iter().map(|file| (file.path.as_str(), file.is_executable)).collect();
    assert_eq!(files, [("deep/below/file", false), ("tool", true)]);
    let text = result.output_files[0].digest.as_ref().expect("a digest");
    assert_eq!(world.remote.read(text).await, "text\n");
    assert_eq!(result.output_symlinks[0].target, "file");
    let tree = &result.output_directories[0];
    let encoded = world.remote.read(tree.tree_digest.as_ref().expect("a tree")).await;
    let tree_message = reapi::Tree::decode(encoded).expect("a tree");
    let root = tree_message.root.expect("a root");
    assert_eq!(root.symlinks[0].target, "inner/x");
    assert_eq!(tree_message.children.len(), 2, "inner and inner/empty");
    let directory = world.remote.read(tree.root_directory_digest.as_ref().expect("a directory")).await;
    assert_eq!(reapi::Directory::decode(directory).expect("a directory"), root);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_sees_its_inputs_its_variables_and_nothing_else_of_the_agent() {
    let world = World::start(1).await;
    let mut script = Script::new("pwd; ls; env | sort; cat ../input; echo new > ../input; cat ../input")
        .file("input", "old\n")
        .file("work/here", "");
    script.command.working_directory = "work".into();
    let executed = world.remote.run(&script).await;
    let out = String::from_utf8_lossy(&executed.result().stdout_raw).into_owned();
    // The shell sets its own working directory's variable.
    let lines: Vec<&str> = out.lines().filter(|line| !line.starts_with("_=")).collect();
    assert_eq!(lines, ["/build/work", "here", "PATH=/usr/bin:/bin", "PWD=/build/work", "old", "new"], "{executed:?}");
    // The input root is as it was for the next action over it.
    let again = world.remote.run(&script.salt("another")).await;
    assert_eq!(again.result().stdout_raw, executed.result().stdout_raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_too_large_for_a_result_is_a_blob_and_can_be_wanted_inline() {
    let world = World::start(1).await;
    let action = world.remote.prepare(&Script::new("head -c 100000 /dev/zero | tr '\\0' x")).await;
    let executed = world.remote.execute(&action).await;
    let digest = executed.result().stdout_digest.as_ref().expect("a blob");
    assert!(executed.result().stdout_raw.is_empty());
    assert_eq!(world.remote.read(digest).await.len(), 100_000);
    let mut request = world.remote.request(&action);
    request.inline_stdout = true;
    let inline = muster_tests::remote::finish(world.remote.begin(request).await.expect("a stream")).await;
    assert_eq!(inline.result().stdout_raw.len(), 100_000);
}

/// What an agent uploads for an action of BLAKE3 has digests of BLAKE3.
#[tokio::test(flavor = "multi_thread")]
async fn the_fields_of_old_clients_are_served_too() {
    let world = World::start(1).await;
    let mut script = Script::new("echo f > out.txt; mkdir d; echo g > d/g");
    #[expect(deprecated, reason = "clients before 2.1 send nothing else")]
    {
        script.command.output_files = vec!["out.txt".into()];
        script.command.output_directories = vec!["d".into()];
    }
    let executed = world.remote.run(&script).await;
    let result = executed.result();
    assert_eq!((result.output_files.len(), result.output_directories.len()), (1, 1), "{executed:?}");
}
