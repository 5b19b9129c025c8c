use super::*;
use muster_model::Digest;
use muster_model::service::{CloneMode, Probe};

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
    hint: known keys are framework, data, base, environment, timeout, retries, env, memory, processes, profile, args, python, requirements, cpu, exclusive, tags, cases, directory, command, shards
    ");
}

#[test]
fn a_value_of_the_wrong_form_is_shown_with_the_right_one() {
    insta::assert_snapshot!(complaint("[test]\nenvironment = \"vm\"\n"), @r#"
    muster.toml:2:15: `"vm"` is not "sandbox", "docker" or "host"
    hint: write "sandbox", "docker" or "host"
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
fn resources_are_read_and_a_suite_s_own_win() {
    let text = "[test]\ncpu = 2\ntags = [\"ssd\"]\nexclusive = \"bench\"\n\
                [test.gpu]\ncommand = [\"./run\"]\ntags = [\"gpu\"]\nexclusive = [\"gpu\", \"bench\"]\n";
    let configuration = Configuration::parse(text).expect("it is right");
    let suite = configuration.suites[0].settings.clone().over(&configuration.settings);
    assert_eq!((suite.slots, suite.tags), (Some(2), vec!["ssd".to_owned(), "gpu".to_owned()]));
    assert_eq!(suite.exclusive, ["gpu", "bench"]);
    insta::assert_snapshot!(complaint("[test]\ncpu = 0\n"), @r"
    muster.toml:2:7: `0` is not a whole number from 1 to 4294967295
    hint: write a whole number from 1 to 4294967295
    ");
    insta::assert_snapshot!(complaint("[test]\nexclusive = 3\n"), @r"
    muster.toml:2:13: `3` is not a list of texts
    hint: write a list of texts
    ");
}

#[test]
fn the_longest_pattern_of_a_case_holds() {
    let text = "[test.api]\ncommand = [\"./run\"]\ncpu = 3\nmemory = \"1GiB\"\n[test.api.cases]\n\
                \"*\" = { exclusive = \"all\" }\n\"*slow*\" = { cpu = 2, memory = \"4GiB\" }\n";
    let configuration = Configuration::parse(text).expect("it is right");
    let cases = &configuration.suites[0].settings.cases;
    let patterns: Vec<&str> = cases.iter().map(|case| case.pattern.as_str()).collect();
    assert_eq!(patterns, ["*slow*", "*"]);
    insta::assert_snapshot!(complaint("[test.cases]\n\"slow*\" = { cpus = 2 }\n"), @r"
    muster.toml:2:13: unknown key `cpus`
    hint: did you mean `cpu`?
    ");
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

const DATABASE: &str = r#"
    [test]
    environment = "db"
    [environment.db.service.web]
    command = ["web"]
    after = ["postgres"]
    ready = { http = "http://localhost:8080/health", interval = "50ms" }
    [environment.db.service.postgres]
    command = ["postgres", "-D", "/data"]
    directory = "/data"
    setup = ["initdb", "-D", "/data"]
    data = ["schema/*.sql"]
    ready = { tcp = 5432, deadline = "5s" }
    clone = "template-database"
    export = { DATABASE_URL = "postgresql://{host}:{port}/{database}" }
    env = { A = "1" }
    memory = "512MiB"
    processes = 64
"#;

#[test]
fn an_environment_brings_its_services_in_an_order_in_which_they_can_start() {
    let configuration = Configuration::parse(DATABASE).expect("it is right");
    let settings = Settings::default().over(&configuration.settings);
    assert_eq!(settings.environment, Some(EnvironmentKind::Sandbox));
    let [postgres, web] = settings.services.as_slice() else { panic!("two services") };
    assert_eq!((postgres.name.as_str(), web.name.as_str()), ("postgres", "web"));
    assert_eq!((postgres.deadline, web.interval), (Duration::from_secs(5), Duration::from_millis(50)));
    assert_eq!(web.ready, Probe::Http { port: 8080, path: "/health".into() });
    assert_eq!((postgres.clone, postgres.memory_bytes), (CloneMode::TemplateDatabase, 512 << 20));
    let plain = Settings { environment: Some(EnvironmentKind::Sandbox), ..Settings::default() };
    assert!(plain.over(&configuration.settings).services.is_empty(), "a suite that names another has none of them");
}

#[test]
fn what_is_wrong_with_a_service_is_named_with_its_place() {
    let service = |keys: &str| complaint(&format!("[environment.db.service.a]\n{keys}\n"));
    insta::assert_snapshot!(service("comand = [\"x\"]"), @r"
    muster.toml:2:1: unknown key `comand`
    hint: did you mean `command`?
    ");
    insta::assert_snapshot!(service("command = [\"x\"]"), @r"
    muster.toml:1:25: service `a` has no `ready`
    hint: add ready = { tcp = PORT }, or one of http, exec and log
    ");
    insta::assert_snapshot!(service("command = [\"x\"]\nready = { tcp = 1, log = \"x\" }"), @r"
    muster.toml:3:1: `ready` needs exactly one of tcp, http, exec and log
    hint: write ready = { tcp = PORT }
    ");
    insta::assert_snapshot!(service("command = [\"x\"]\nready = { tcp = 1 }\nafter = [\"b\"]"), @r"
    muster.toml:1:25: `a` waits for `b`, which is no service of this environment
    hint: look at `after`
    ");
    insta::assert_snapshot!(service("command = [\"x\"]\nready = { tcp = 1, interval = \"1s\" }"), @r#"
    muster.toml:3:31: `"1s"` is not a time from 10 ms to 50 ms
    hint: write a time from 10 ms to 50 ms
    "#);
    insta::assert_snapshot!(complaint("[environment.db]\nkind = \"sandbox\"\n[test]\nenvironment = \"bd\"\n"), @r#"
    muster.toml:4:15: `"bd"` is not "sandbox", "docker", "host" or "db"
    hint: write "sandbox", "docker", "host" or "db"
    "#);
}

#[test]
fn a_suite_gets_the_image_of_the_environment_that_it_names() {
    let image = Digest::of(b"root");
    let suites = "[test]\nenvironment = \"old\"\n[test.a]\ncommand = [\"x\"]\n[test.b]\ncommand = [\"x\"]\nenvironment = \"sandbox\"\n";
    let environment = format!("[environment.old]\nkind = \"sandbox\"\nimage = \"{image}\"\n");
    let configuration = Configuration::parse(&format!("{suites}{environment}")).expect("it is right");
    let of = |suite: &NamedSuite| suite.settings.clone().over(&configuration.settings).image;
    assert_eq!(configuration.suites.iter().map(of).collect::<Vec<_>>(), [Some(ImageReference::Digest(image)), None]);
}

#[test]
fn h52_what_no_environment_is_given_is_refused_by_the_name_of_a_rule() {
    let asked = [
        "privileged = true",
        "network_mode = \"host\"",
        "pid = \"host\"",
        "volumes = [\"/:/host\", \"/var/run/docker.sock:/var/run/docker.sock\"]",
        "devices = [\"/dev/kvm\"]",
        "user = \"0:0\"",
    ];
    let told = asked.map(|key| complaint(&format!("[environment.db]\nkind = \"docker\"\n{key}\n")));
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn an_image_has_the_right_form_and_takes_the_place_of_a_base() {
    insta::assert_snapshot!(complaint("[environment.db]\nimage = \"blake3:x\"\n"), @r#"
    muster.toml:2:9: `"blake3:x"` is not the name of an image, or a digest that `muster image import` printed
    hint: write the name of an image, or a digest that `muster image import` printed
    "#);
    let hash = "0".repeat(64);
    let docker = format!("[environment.db]\nkind = \"docker\"\nimage = \"postgres@sha256:{hash}\"\n");
    Configuration::parse(&docker).expect("it is right");
    insta::assert_snapshot!(complaint(&docker.replace("\"docker\"", "\"sandbox\"")), @r#"
    muster.toml:3:1: only containers show an image of a Docker engine
    hint: write kind = "docker", or import it: docker export CONTAINER, then muster image import
    "#);
    insta::assert_snapshot!(complaint("[environment.db]\nkind = \"docker\"\nimage = \"postgres@sha256:1\"\n"), @r#"
    muster.toml:3:9: `"postgres@sha256:1"` is not an image by digest, "sha256:HASH" or "NAME@sha256:HASH"
    hint: write an image by digest, "sha256:HASH" or "NAME@sha256:HASH"
    "#);
    let text = format!("[environment.db]\nkind = \"host\"\nimage = \"{}\"\n", Digest::of(b""));
    insta::assert_snapshot!(complaint(&text), @r#"
    muster.toml:3:1: a bare host shows no image
    hint: write kind = "sandbox"
    "#);
}

#[test]
fn a_service_has_an_image_of_its_own_or_that_of_its_environment() {
    let ready = "ready = { tcp = 1 }\n";
    let text = format!(
        "[environment.db]\nimage = \"debian-12\"\n[environment.db.service.a]\nimage = \"postgres:15\"\n{ready}\
         [environment.db.service.b]\ncommand = [\"x\"]\n{ready}[test]\nenvironment = \"db\"\n"
    );
    let configuration = Configuration::parse(&text).expect("it is right");
    let image = |name: &str| Some(ImageReference::Name(name.to_owned()));
    let services = &configuration.settings.services;
    assert_eq!(configuration.settings.image, image("debian-12"));
    assert_eq!([&services[0].image, &services[1].image], [&image("postgres:15"), &image("debian-12")]);
    assert!(services[0].command.is_empty(), "its image may have one");
}
