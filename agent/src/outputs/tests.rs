use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use bytes::Bytes;
use muster_cache::digest_of;
use muster_environment::{
    Environment, EnvironmentSpec, Exit, ExitStatus, KillSwitch, SandboxConfig, SandboxEnvironment,
};
use muster_model::spec::{CommandSpec, Profile};
use prost::Message;
use tokio::sync::mpsc;

use super::*;

/// A user without rights.
const NOBODY: u32 = 65534;
/// What no output may ever hold.
const SECRET: &str = "a secret of the host";

pub(super) struct Place {
    // Dropped before the directory that it is in.
    pub(super) sandbox: SandboxEnvironment,
    pub(super) folder: tempfile::TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        // What sandboxes share lies in directories without write permission.
        let opened = Command::new("chmod").args(["-R", "u+w"]).arg(self.folder.path()).status();
        assert!(std::thread::panicking() || opened.is_ok_and(|status| status.success()), "ours");
    }
}

pub(super) fn request(outputs: &[(&str, Declared)]) -> OutputRequest {
    OutputRequest {
        working_directory: "/action/work".into(),
        declared: outputs.iter().map(|(path, declared)| ((*path).to_owned(), *declared)).collect(),
        with_mtime: false,
        with_mode: false,
        with_trees: true,
        with_roots: true,
        function: DigestFunction::Sha256,
    }
}

impl Place {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::write(folder.path().join("secret"), SECRET).expect("a file");
        let sandbox = SandboxEnvironment::new(SandboxConfig::new(folder.path().join("sandbox"))).expect("a driver");
        Self { sandbox, folder }
    }

    /// Runs a script as an action whose outputs are declared.
    async fn run(&self, script: &str, request: OutputRequest) -> (Exit, Result<Outputs, FolderError>) {
        self.run_over(Vec::new(), script, request).await
    }

    /// The same over an input tree.
    pub(super) async fn run_over(
        &self,
        mut layers: Vec<StagedLayer>,
        script: &str,
        request: OutputRequest,
    ) -> (Exit, Result<Outputs, FolderError>) {
        let path = |name: &str| self.folder.path().join(name);
        let parents = ParentDirectories::create(
            path("parents"),
            "/action".into(),
            self.sandbox.owner(),
            "work",
            &request.declared,
        );
        let parents = parents.expect("directories of outputs");
        layers.push(parents.layer().clone());
        let (collector, collected) = collector(request, path("copies"));
        let spec = EnvironmentSpec {
            with_base: true,
            image: None,
            layers,
            command: CommandSpec {
                arguments: vec!["sh".into(), "-ec".into(), script.into()],
                environment: vec![("HOST".into(), self.folder.path().to_string_lossy().into_owned())],
                working_directory: "/action/work".into(),
            },
            memory_bytes: 256 * 1024 * 1024,
            processes: 128,
            output_bytes: 1024 * 1024,
            profile: Profile::Strict,
            collect: Vec::new(),
            collector: Some(collector),
            variables: Default::default(),
            network: None,
        };
        let prepared = self.sandbox.prepare(spec).await.expect("a place");
        let (sender, mut receiver) = mpsc::channel(16);
        let silence = async { while receiver.recv().await.is_some() {} };
        let (exit, ()) = tokio::join!(self.sandbox.run(prepared, sender, KillSwitch::default()), silence);
        (exit.expect("a run"), collected.into_result().expect("it was collected"))
    }
}

pub(super) fn bytes(outputs: &Outputs) -> HashMap<Digest, Bytes> {
    let read = |source| match source {
        UploadSource::Bytes(bytes) => bytes,
        UploadSource::File(path) => fs::read(path).expect("a copy").into(),
    };
    outputs.blobs().map(|(digest, source)| (digest, read(source))).collect()
}

#[tokio::test]
async fn declared_outputs_come_back_and_nothing_else() {
    let place = Place::new();
    let script = "echo -n one > out/deep/file; chmod 755 out/deep/file; mkdir -p tree/sub; echo -n two > tree/sub/two
        ln -s sub/two tree/link; ln -s nowhere link; echo other > undeclared; mkdir -m 0 shut; echo -n x > unreadable; chmod 0 unreadable";
    let declared = [
        ("out/deep/file", Declared::Path),
        ("tree", Declared::Path),
        ("link", Declared::File),
        ("missing/output", Declared::Path),
        ("shut", Declared::Directory),
        ("unreadable", Declared::File),
    ];
    let (exit, outputs) = place.run(script, request(&declared)).await;
    assert_eq!(exit.status, ExitStatus::Code(0));
    let outputs = outputs.expect("outputs");
    let blobs = bytes(&outputs);
    let of = |text: &str| digest_of(DigestFunction::Sha256, text.as_bytes());
    let files: Vec<_> =
        outputs.files.iter().map(|(path, file)| (path.as_str(), file.digest, file.executable)).collect();
    assert_eq!(files, [("out/deep/file", of("one"), true), ("unreadable", of("x"), false)]);
    assert_eq!(outputs.links[0].1.target, "nowhere");
    assert_eq!(outputs.links.len(), 1);
    assert_eq!(outputs.directories.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), ["tree", "shut"]);
    let directory = &outputs.directories[0].1;
    let root = reapi::Directory::decode(blobs[&directory.root.expect("wanted")].clone()).expect("a directory");
    assert_eq!((root.symlinks[0].target.as_str(), root.directories[0].name.as_str()), ("sub/two", "sub"));
    let tree = &blobs[&directory.tree.expect("wanted")];
    assert!(tree.windows(3).any(|bytes| bytes == b"sub") && blobs.contains_key(&of("two")));
    assert!(!blobs.values().any(|bytes| bytes.starts_with(b"other")));
    assert!(!place.folder.path().join("parents").exists());
    let mut result = reapi::ActionResult::default();
    outputs.write_to(&mut result);
    let message = reapi::Tree::decode(tree.clone()).expect("a tree");
    assert_eq!(message.root, Some(root));
    assert_eq!(message.children.len(), 1);
    assert!(result.output_directories.iter().all(|directory| directory.is_topologically_sorted));
    assert_eq!((result.output_files.len(), result.output_directories.len()), (2, 2));
    #[expect(deprecated, reason = "clients before 2.1 look here")]
    let links = (result.output_symlinks.len(), result.output_file_symlinks.len());
    assert_eq!(links, (0, 1));
}

#[tokio::test]
async fn an_output_of_another_kind_is_refused() {
    let place = Place::new();
    let refused = place.run("mkdir out", request(&[("out", Declared::File)])).await.1.unwrap_err();
    assert_eq!(refused.to_string(), "out is a directory, not a file");
    let refused = place.run("mkfifo pipe", request(&[("pipe", Declared::Path)])).await.1.unwrap_err();
    assert!(refused.to_string().contains("is a named pipe"), "{refused}");
}

/// T2.6: outputs that were sent away, are still written to by what the program left, or are links to what it may not have. What was
/// collected hashes to what was said five seconds later too, and holds no byte of the host.
#[tokio::test]
async fn t2_6_no_blob_changes_after_the_action_and_none_is_the_hosts() {
    let place = Place::new();
    let name = format!("muster-outputs-{}", std::process::id());
    let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
    let listener = UnixListener::bind_addr(&address.expect("a name")).expect("a listener of the host");
    listener.set_nonblocking(true).expect("a listener");
    let script = format!(
        r#"rmdir away; head -c 300000 /dev/zero > tree/large; echo small > tree/small
        ln -s "$HOST/secret" tree/secret; ln -s /etc/shadow shadow; ln -s /proc/self/environ tree/environ
        ln -s "$HOST" away; ln -s / tree/root
        setsid sh -c 'while :; do echo x >> tree/large; echo y >> tree/small; done' > /dev/null 2>&1 &
        python3 -c '
import array, os, socket
there = socket.socket(socket.AF_UNIX)
there.connect("\0{name}")
opened = os.open("tree/large", os.O_RDWR)
there.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [opened]))])
' && echo sent > tree/sent
        true"#
    );
    let declared = [
        ("tree", Declared::Path),
        ("shadow", Declared::Path),
        ("away/secret", Declared::Path),
        ("tree/secret", Declared::File),
    ];
    let (exit, outputs) = place.run(&script, request(&declared)).await;
    assert_eq!((exit.status, exit.leaked_processes > 0), (ExitStatus::Code(0), true));
    let outputs = outputs.expect("outputs");
    assert!(listener.accept().is_err(), "a descriptor left the sandbox");
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let blobs = bytes(&outputs);
    for (digest, bytes) in &blobs {
        assert_eq!(digest_of(DigestFunction::Sha256, bytes), *digest);
        assert!(!String::from_utf8_lossy(bytes).contains(SECRET));
    }
    assert!(blobs.values().any(|bytes| bytes.len() >= 300_000));
    let links: Vec<_> = outputs.links.iter().map(|(path, link)| (path.as_str(), link.target.as_str())).collect();
    let secret = place.folder.path().join("secret");
    assert_eq!(links, [("shadow", "/etc/shadow"), ("tree/secret", secret.to_str().expect("a path"))]);
    assert!(outputs.files.is_empty(), "nothing is reached through a link");
}

/// Root may read everything; an ordinary user's agent must get at what a program shut.
#[test]
fn outputs_are_collected_by_an_ordinary_user_too() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).expect("ours");
    let program = folder.path().join("tests");
    fs::copy(std::env::current_exe().expect("a program"), &program).expect("a copy");
    let output = Command::new(&program)
        .args(["outputs::", "--skip", "ordinary_user", "--test-threads", "2"])
        .env("TMPDIR", folder.path())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("t2_6"), "{text}");
}

#[test]
fn parents_are_made_beneath_and_nowhere_else() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let create = |name: &str, working_directory: &str, paths: &[&str]| {
        let declared: Vec<_> = paths.iter().map(|path| ((*path).to_owned(), Declared::Path)).collect();
        ParentDirectories::create(folder.path().join(name), "/action".into(), None, working_directory, &declared)
    };
    let made = create("one", "a", &["b/c", "b/d/e", "f"]).expect("directories");
    let path = made.layer().directory.clone();
    assert!(path.join("a/b/d").is_dir() && !path.join("a/b/c").exists() && !path.join("a/f").exists());
    drop(made);
    assert!(!path.exists());
    for bad in ["../x", "/x/y", "a/../../x/y"] {
        create("two", "", &[bad]).expect_err(bad);
    }
    fs::create_dir(folder.path().join("three")).expect("a directory");
    symlink("/", folder.path().join("three/link")).expect("a link");
    create("three", "", &["link/x"]).expect_err("somebody else's directory");
    assert_eq!(fs::read_dir(folder.path()).expect("a directory").count(), 1);
}
