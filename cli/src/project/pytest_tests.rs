use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use muster_model::Digest;
use muster_model::spec::FrameworkKind;

use crate::project::{
    BlobSource, PrepareOptions, PreparedRun, Progress, ProjectError, ProjectOptions, Step, detect, prepare,
};

struct Silent;

impl Progress for Silent {
    fn step(&mut self, _step: Step) {}
}

/// A project with a virtual environment of the system's interpreter, in which something that calls itself pytest is installed.
fn project(pytest: bool) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let root = fs::canonicalize(directory.path()).expect("it exists");
    let made = Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(root.join(".venv"))
        .status()
        .expect("Debian's python3 is needed for this test");
    assert!(made.success(), "the venv module is needed for this test");
    if pytest {
        let site = fs::read_dir(root.join(".venv/lib")).expect("made").flatten().next().expect("one version").path();
        let site = site.join("site-packages");
        fs::create_dir(site.join("pytest-8.0.dist-info")).expect("made");
        fs::write(site.join("pytest-8.0.dist-info/METADATA"), "Metadata-Version: 2.1\nName: pytest\nVersion: 8.0\n")
            .expect("written");
        fs::write(site.join("pytest.py"), "INSTALLED = True\n").expect("written");
    }
    fs::create_dir(root.join("tests")).expect("made");
    fs::write(root.join("tests/test_one.py"), "def test_one():\n    pass\n").expect("written");
    (directory, root)
}

async fn prepared(root: &Path) -> Result<PreparedRun, ProjectError> {
    let options = ProjectOptions { python: Some(root.join(".venv/bin/python")), ..ProjectOptions::default() };
    let project = detect(root, &options).expect("it is a project");
    let options = PrepareOptions {
        cache_directory: root.join(".cache"),
        build_output: Default::default(),
        images: Default::default(),
    };
    prepare(&project, &options, &mut Silent).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_virtual_environment_comes_with_byte_code_that_needs_no_times() {
    let (_directory, root) = project(true);
    fs::write(root.join(".gitignore"), ".cache\n").expect("written");
    let run = prepared(&root).await.expect("it has pytest");
    let [target] = run.targets.as_slice() else { panic!("one target") };
    assert_eq!((target.name.as_str(), target.framework), (". (pytest)", FrameworkKind::Pytest));
    assert_eq!(target.command.arguments, [root.join(".venv/bin/python").display().to_string()]);
    let source = run.blobs.get(&Digest::of(b"INSTALLED = True\n"));
    assert!(matches!(source, Some(BlobSource::File(path)) if path.ends_with("site-packages/pytest.py")), "{source:?}");
    let mut flags: Vec<u32> = run.blobs.iter().filter_map(|(_, source)| byte_code_flags(source)).collect();
    flags.sort_unstable();
    // PEP 552: 1 = checked by nothing, for what is installed; 3 = checked by hash, for the project's own.
    assert_eq!(flags, [1, 3]);
    let again = prepared(&root).await.expect("it has pytest");
    assert_eq!(again.targets, run.targets);
}

fn byte_code_flags(source: &BlobSource) -> Option<u32> {
    let BlobSource::File(path) = source else { return None };
    let is_ours = path.components().any(|component| component.as_os_str() == "bytecode");
    let bytes = fs::read(path).ok().filter(|_| is_ours)?;
    Some(u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interpreter_without_pytest_is_told_with_the_way_to_install_it() {
    let (_directory, root) = project(false);
    let error = prepared(&root).await.expect_err("it has none");
    let text = format!("{error}\nhint: {}", error.hint().expect("there is a way"));
    insta::assert_snapshot!(text.replace(&root.display().to_string(), "ROOT"), @r"
    ROOT/.venv/bin/python has no pytest
    hint: ROOT/.venv/bin/python -m pip install pytest
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interpreter_that_is_none_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = fs::canonicalize(directory.path()).expect("it exists");
    fs::create_dir_all(root.join(".venv/bin")).expect("made");
    let python = root.join(".venv/bin/python");
    fs::write(&python, "#!/bin/sh\necho no python\n").expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("set");
    fs::write(root.join("test_one.py"), "").expect("written");
    let error = prepared(&root).await.expect_err("it does not answer");
    assert!(matches!(error, ProjectError::Output { .. }), "{error}");
}
