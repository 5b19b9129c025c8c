//! A real distribution as an image: Debian, made by its own tool, carries a suite that somebody else wrote.

use std::process::Command;

use muster_tests::programs::{Fleet, Place};

fn succeed(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output.stdout
}

/// A Debian with these packages as they are, without their scripts: making it needs no right that tests have not.
fn import(place: &Place, fleet: &Fleet, name: &str, packages: &str) {
    let archive = place.beside("debian.tar");
    let include = format!("--include=base-files,dash,coreutils,grep,{packages}");
    succeed(Command::new("mmdebstrap").args(["--quiet", "--variant=extract", &include, "bookworm"]).arg(&archive));
    let mut import = place.muster(["image", "import", "--name", name, "--fleet", &fleet.url()]);
    succeed(import.arg(&archive));
}

#[test]
fn pythons_own_tests_pass_in_a_debian_that_mmdebstrap_made() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 1);
    import(&place, &fleet, "debian", "python3,libpython3.11-testsuite");
    place.write(
        "muster.toml",
        "[test]\nenvironment = \"debian\"\n\
         [test.python]\ncommand = [\"/usr/bin/python3\", \"-m\", \"test\", \"test_json\", \"test_textwrap\", \"test_heapq\"]\n\
         [test.system]\ncommand = [\"/bin/sh\", \"-c\", \"grep ID=debian /etc/os-release\"]\n\
         [environment.debian]\nimage = \"debian\"\n",
    );
    let run = place.test(&["--fleet", &fleet.url()]);
    assert_eq!((run.code, run.count("passed")), (Some(0), 2), "{run:#?}\n{}", fleet.logs());
    run.assert_complete();
}

#[test]
fn a_service_runs_on_a_root_file_system_of_its_own_without_docker() {
    let place = Place::empty();
    let fleet = Fleet::start(&place, 1);
    import(&place, &fleet, "postgres15", "postgresql-15");
    // The tests see the host's base, the server its own image and nothing of the host.
    place.write(
        "muster.toml",
        r#"
[test.database]
command = ["/bin/sh", "run.sh"]
environment = "db"

[environment.db.service.postgres]
image = "postgres15"
command = ["/usr/lib/postgresql/15/bin/postgres", "-D", "/data", "-c", "listen_addresses=127.0.0.1",
           "-c", "unix_socket_directories=/tmp", "-c", "fsync=off"]
directory = "/data"
setup = ["/usr/lib/postgresql/15/bin/initdb", "-D", "/data", "-A", "trust", "--no-sync"]
ready = { tcp = 5432 }
clone = "template-database"
export = { DATABASE_URL = "postgresql://muster@{host}:{port}/{database}" }
"#,
    );
    let read = "SELECT pg_read_file('/etc/passwd')";
    place.write(
        "run.sh",
        &format!(
            "set -e\nask() {{ /usr/lib/postgresql/15/bin/psql -qtA -v ON_ERROR_STOP=1 \"$DATABASE_URL\" -c \"$1\"; }}\n\
             ask 'CREATE TABLE notes (words text)'\nask \"INSERT INTO notes VALUES ('hello')\"\n\
             test \"$(ask 'SELECT words FROM notes')\" = hello\nask \"{read}\" | grep '^muster:x:1000:'\n"
        ),
    );
    let run = place.test(&["--fleet", &fleet.url()]);
    assert_eq!((run.code, run.count("passed")), (Some(0), 1), "{run:#?}\n{}", fleet.logs());
}
