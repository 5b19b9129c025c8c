use super::*;

fn complaint(text: &str) -> String {
    let error = Configuration::parse(text).expect_err("it is wrong");
    format!("{error}\nhint: {}", error.hint().unwrap_or_default())
}

#[test]
fn every_key_is_understood() {
    let text = r#"
        [test]
        data = ["testdata/**"]
        timeout = "90s"
        memory = "2GiB"
        env = { A = "1", B = "1" }
        [test.api]
        command = ["./run"]
        directory = "api"
        shards = 4
        args = ["--quick"]
        retries = 2
        processes = 7
        profile = "debug"
        base = "none"
        environment = "host"
        python = "python3"
        env = { B = "2" }
        data = ["more"]
        requirements = { gpu = "yes" }
    "#;
    let configuration = Configuration::parse(text).expect("it is right");
    let [suite] = configuration.suites.as_slice() else { panic!("one suite") };
    assert_eq!((suite.name.as_str(), suite.shards), ("api", Some(4)));
    let settings = suite.settings.clone().over(&configuration.settings);
    assert_eq!(settings.framework, Some(SuiteFramework::Command));
    assert_eq!(settings.timeout, Some(Duration::from_secs(90)));
    assert_eq!(settings.memory_bytes, Some(2 << 30));
    assert_eq!(settings.environment, Some(EnvironmentKind::Host));
    assert_eq!(settings.data, ["testdata/**", "more"]);
    let variables: Vec<_> = settings.environment_variables.into_iter().collect();
    assert_eq!(variables, [("A".into(), "1".into()), ("B".into(), "2".into())]);
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest_one() {
    insta::assert_snapshot!(complaint("[test]\ntimeuot = 3\n"), @r"
    muster.toml:2:1: unknown key `timeuot`
    hint: did you mean `timeout`?
    ");
    insta::assert_snapshot!(complaint("[tests]\n"), @r"
    muster.toml:1:2: unknown key `tests`
    hint: did you mean `test`?
    ");
    insta::assert_snapshot!(complaint("[test.a]\ncommand = [\"x\"]\n  colour = 1\n"), @r"
    muster.toml:3:3: unknown key `colour`
    hint: known keys are framework, data, base, environment, timeout, retries, env, memory, processes, profile, args, python, requirements, directory, command, shards
    ");
}

#[test]
fn a_value_of_the_wrong_form_is_shown_with_the_right_one() {
    insta::assert_snapshot!(complaint("[test]\nenvironment = \"vm\"\n"), @r#"
    muster.toml:2:15: `"vm"` is not "sandbox" or "host"
    hint: write "sandbox" or "host"
    "#);
    insta::assert_snapshot!(complaint("[test]\ntimeout = \"soon\"\n"), @r#"
    muster.toml:2:11: `"soon"` is not a number of seconds, or a text like "500ms", "90s" or "5m"
    hint: write a number of seconds, or a text like "500ms", "90s" or "5m"
    "#);
    insta::assert_snapshot!(complaint("[test.a]\ndirectory = \"a\"\n"), @r#"
    muster.toml:1:7: suite `a` has no framework
    hint: add framework = "cargo", "pytest" or "command"
    "#);
}

#[test]
fn what_is_no_toml_is_told_with_line_and_column() {
    let complaint = complaint("[test]\nretries = = 2\n");
    assert!(complaint.starts_with("muster.toml:2:"), "{complaint}");
}

#[test]
fn a_suite_may_be_named_like_a_key_whose_value_is_no_table() {
    let text = "[test]\nretries = 1\n[test.python]\nframework = \"pytest\"\n[test.data]\ncommand = [\"./run\"]\n";
    let configuration = Configuration::parse(text).expect("it is right");
    let names: Vec<&str> = configuration.suites.iter().map(|suite| suite.name.as_str()).collect();
    assert_eq!((names, configuration.settings.retries), (vec!["data", "python"], Some(1)));
    insta::assert_snapshot!(complaint("[test.env]\nframework = \"cargo\"\n"), @r"
    muster.toml:2:1: `env` is a key, and no suite can have its name
    hint: call the suite something else, as in [test.env-tests]
    ");
}
