use super::*;

fn project(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    }
    directory
}

fn suites(files: &[(&str, &str)], options: &ProjectOptions) -> Vec<(String, SuiteFramework)> {
    let directory = project(files);
    let project = detect(directory.path(), options).expect("it is a project");
    project.suites.into_iter().map(|suite| (suite.name, suite.framework)).collect()
}

#[test]
fn frameworks_are_found_by_their_own_files() {
    let none = ProjectOptions::default();
    let pytest = vec![("pytest".to_owned(), SuiteFramework::Pytest)];
    for file in ["pytest.ini", "tests/test_one.py", "deep/er/one_test.py", "conftest.py"] {
        assert_eq!(suites(&[(file, "")], &none), pytest, "{file}");
    }
    assert_eq!(suites(&[("pyproject.toml", "[tool.pytest.ini_options]\n")], &none), pytest);
    assert_eq!(suites(&[("setup.cfg", "[tool:pytest]\n")], &none), pytest);
    assert_eq!(suites(&[("Cargo.toml", "")], &none), [("cargo".to_owned(), SuiteFramework::Cargo)]);
}

#[test]
fn several_frameworks_are_several_suites_of_one_run() {
    let both = [("Cargo.toml", ""), ("tests/test_one.py", "")];
    let all = suites(&both, &ProjectOptions::default());
    assert_eq!(all, [("cargo".into(), SuiteFramework::Cargo), ("pytest".into(), SuiteFramework::Pytest)]);
    let only = ProjectOptions { frameworks: vec![SuiteFramework::Pytest], ..ProjectOptions::default() };
    assert_eq!(suites(&both, &only), [("pytest".into(), SuiteFramework::Pytest)]);
}

#[test]
fn a_named_suite_takes_the_place_of_the_one_that_would_be_found() {
    let files = [
        ("Cargo.toml", ""),
        ("muster.toml", "[test.unit]\nframework = \"cargo\"\n[test.shell]\ncommand = [\"./run\"]\nshards = 3\n"),
    ];
    let found = suites(&files, &ProjectOptions::default());
    assert_eq!(found, [("shell".into(), SuiteFramework::Command), ("unit".into(), SuiteFramework::Cargo)]);
}

#[test]
fn tests_of_others_are_not_taken_for_the_projects_own() {
    let directory = project(&[
        ("node_modules/x/test_one.py", ""),
        ("environment/pyvenv.cfg", ""),
        ("environment/lib/test_one.py", ""),
        (".hidden/test_one.py", ""),
    ]);
    let error = detect(directory.path(), &ProjectOptions::default()).expect_err("nothing of its own");
    let root = fs::canonicalize(directory.path()).expect("it exists").display().to_string();
    let text = format!("{error}\nhint: {}", error.hint().expect("there is a way")).replace(&root, "ROOT");
    insta::assert_snapshot!(text, @r"
    no project with tests in ROOT
    hint: name a directory with a Cargo.toml or pytest tests, or describe a command as [test.NAME] in ROOT/muster.toml
    ");
}

#[test]
fn a_framework_that_is_not_there_is_told_with_what_is() {
    let directory = project(&[("Cargo.toml", "")]);
    let only = ProjectOptions { frameworks: vec![SuiteFramework::Pytest], ..ProjectOptions::default() };
    let error = detect(directory.path(), &only).expect_err("no such suite");
    let root = fs::canonicalize(directory.path()).expect("it exists").display().to_string();
    let text = format!("{error}\nhint: {}", error.hint().expect("there is a way")).replace(&root, "ROOT");
    insta::assert_snapshot!(text, @r"
    ROOT has no pytest suite; it has cargo
    hint: leave out --framework to run what is there
    ");
}

#[test]
fn the_command_line_outranks_the_file() {
    let directory =
        project(&[("Cargo.toml", ""), ("muster.toml", "[test]\nbase = \"one\"\ntimeout = 7\nretries = 1\n")]);
    let options = ProjectOptions {
        base: Some("two".into()),
        environment: Some(EnvironmentKind::Host),
        requirements: vec![("gpu".into(), "yes".into())],
        ..ProjectOptions::default()
    };
    let project = detect(directory.path(), &options).expect("it is a project");
    let requirements = project.suites[0].requirements();
    assert_eq!(requirements.base.to_string(), "two");
    assert_eq!(requirements.environment, EnvironmentKind::Host);
    assert_eq!(requirements.properties.get("gpu"), Some("yes"));
    assert_eq!(requirements.properties.get("os"), Some("linux"));
}

#[test]
fn every_suite_has_its_own_timeout_and_retries() {
    let file = "[test]\ntimeout = 7\nretries = 1\n[test.slow]\ncommand = [\"./slow\"]\ntimeout = \"2m\"\n";
    let directory = project(&[("Cargo.toml", ""), ("muster.toml", file)]);
    let project = detect(directory.path(), &ProjectOptions::default()).expect("it is a project");
    let policies: Vec<(&str, Option<u64>, Option<u32>)> = project
        .suites
        .iter()
        .map(|suite| {
            let policy = suite.policy();
            (suite.name.as_str(), policy.case_timeout.map(|time| time.as_secs()), policy.retries)
        })
        .collect();
    assert_eq!(policies, [("cargo", Some(7), Some(1)), ("slow", Some(120), Some(1))]);
}
