use std::fs;

use muster_model::spec::{FrameworkKind, TargetSpec};

use crate::project::{
    BuildOutput, PrepareOptions, PreparedRun, Progress, ProjectError, ProjectOptions, Step, detect, prepare,
};

const WORKSPACE: &[(&str, &str)] = &[
    ("Cargo.toml", "[workspace]\nmembers = [\"one\", \"two\"]\nresolver = \"3\"\n"),
    (
        "one/Cargo.toml",
        "[package]\nname = \"one\"\nversion = \"1.2.3-pre\"\nedition = \"2021\"\n[[test]]\nname = \"own\"\nharness = false\n",
    ),
    ("one/build.rs", "fn main() { println!(\"cargo::rustc-env=SAID=yes\"); }"),
    ("one/src/lib.rs", "#[test]\nfn passes() {}\n"),
    ("one/src/main.rs", "fn main() {}\n"),
    ("one/tests/own.rs", "fn main() {}\n"),
    ("one/tests/usual.rs", "#[test]\nfn runs() { assert!(!env!(\"CARGO_BIN_EXE_one\").is_empty()); }\n"),
    ("two/Cargo.toml", "[package]\nname = \"two\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\ndoctest = false\n"),
    ("two/src/lib.rs", "#[test]\nfn passes() {}\n"),
];

#[derive(Default)]
struct Steps(Vec<Step>);

impl Progress for Steps {
    fn step(&mut self, step: Step) {
        self.0.push(step);
    }
}

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    }
    directory
}

async fn prepared(directory: &tempfile::TempDir) -> Result<PreparedRun, ProjectError> {
    let target = directory.path().join("target").display().to_string();
    let options = ProjectOptions { cargo_arguments: vec!["--target-dir".into(), target], ..ProjectOptions::default() };
    let project = detect(directory.path(), &options).expect("it is a project");
    let options = PrepareOptions {
        cache_directory: directory.path().join("cache"),
        build_output: BuildOutput::Captured,
        images: Default::default(),
    };
    let mut steps = Steps::default();
    let run = prepare(&project, &options, &mut steps).await?;
    assert_eq!(steps.0.len(), 3, "{:?}", steps.0);
    Ok(run)
}

fn variable<'a>(target: &'a TargetSpec, name: &str) -> Option<&'a str> {
    let found = target.command.environment.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.as_str())
}

fn purposes(target: &TargetSpec) -> Vec<&str> {
    target.layers.iter().map(|layer| layer.purpose.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_test_binary_of_a_workspace_is_a_target() {
    let directory = project(WORKSPACE);
    let run = prepared(&directory).await.expect("it builds");
    let names: Vec<_> = run.targets.iter().map(|target| (target.name.as_str(), target.framework)).collect();
    assert_eq!(
        names,
        [
            ("one (bin one)", FrameworkKind::Libtest),
            ("one (lib)", FrameworkKind::Libtest),
            ("one (test own)", FrameworkKind::ExitCode),
            ("one (test usual)", FrameworkKind::Libtest),
            ("two (lib)", FrameworkKind::Libtest),
        ]
    );
    let [_, library, _, usual, other] = run.targets.as_slice() else { panic!("five targets") };
    let root = fs::canonicalize(directory.path()).expect("it exists");
    assert_eq!(library.command.working_directory, root.join("one").display().to_string());
    assert_eq!(variable(library, "CARGO_MANIFEST_DIR"), root.join("one").to_str());
    assert_eq!(variable(library, "CARGO_PKG_VERSION_PRE"), Some("pre"));
    assert_eq!(variable(library, "SAID"), Some("yes"));
    assert!(variable(library, "OUT_DIR").is_some());
    assert_eq!(variable(library, "CARGO_BIN_EXE_one"), None);
    assert!(variable(usual, "CARGO_BIN_EXE_one").is_some_and(|path| fs::metadata(path).is_ok()));
    assert!(variable(usual, "CARGO_TARGET_TMPDIR").is_some());
    assert_eq!(purposes(usual), ["binary", "package"]);
    assert_eq!(library.layers[1].root, usual.layers[1].root, "one package, one layer");
    assert_ne!(library.layers[1].root, other.layers[1].root);
    for layer in run.targets.iter().flat_map(|target| &target.layers) {
        assert!(run.blobs.get(&layer.root).is_some());
    }
    let not_run: Vec<_> = run.not_run.iter().map(|not_run| not_run.what.as_str()).collect();
    assert_eq!(not_run, ["one (doctests)"]);

    // The same again is the same; a change in one package leaves the other's alone.
    let again = prepared(&directory).await.expect("it builds");
    assert_eq!(again.targets, run.targets);
    fs::write(directory.path().join("two/notes.txt"), "new").expect("written");
    let changed = prepared(&directory).await.expect("it builds");
    assert_eq!(changed.targets[..4], run.targets[..4]);
    assert_ne!(changed.targets[4], run.targets[4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_failure_has_the_compilers_own_words() {
    let directory = project(&[
        ("Cargo.toml", "[package]\nname = \"broken\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
        ("src/lib.rs", "fn broken() -> u8 { \"text\" }\n"),
    ]);
    let error = prepared(&directory).await.expect_err("it does not build");
    let ProjectError::BuildFailed { command, output, .. } = &error else { panic!("{error}") };
    assert!(command.starts_with("cargo test --no-run"), "{command}");
    assert!(output.contains("error[E0308]: mismatched types"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tests_of_a_procedural_macro_come_with_the_toolchains_own_libraries() {
    let directory = project(&[
        (
            "Cargo.toml",
            "[package]\nname = \"derive\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n",
        ),
        ("src/lib.rs", "extern crate proc_macro;\n#[test]\nfn runs() {}\n"),
        (".cargo/config.toml", "[env]\nCONFIGURED = { value = \"place\", relative = true }\n"),
    ]);
    let run = prepared(&directory).await.expect("it builds");
    let [target] = run.targets.as_slice() else { panic!("one target: {:?}", run.targets) };
    assert_eq!(purposes(target), ["binary", "libraries", "package"]);
    let search = variable(target, "LD_LIBRARY_PATH").expect("its libraries are not where the linker looks by itself");
    let has_standard_library = |directory: &str| {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
    };
    assert!(search.split(':').any(has_standard_library), "{search}");
    let root = fs::canonicalize(directory.path()).expect("it exists");
    assert_eq!(variable(target, "CONFIGURED"), root.join("place").to_str());
}
