//! What ordinary tests expect to find.

use std::fs;
use std::path::Path;

use muster_environment::{EnvironmentError, ExitStatus, StagedLayer};

use crate::support::{Place, program, shell};

/// Name, script, what it prints.
const PROBES: [(&str, &str, &str); 30] = [
    ("the working directory is the project", "pwd", "/project\n"),
    ("it is writable", "echo x > new && mkdir -p target/deep && cat new", "x\n"),
    (
        "its files are readable and writable",
        "cat data/file && echo more >> data/file && cat data/file",
        "old\nold\nmore\n",
    ),
    ("its directories can be renamed and removed", "mv data moved && rm -r moved && mkdir data && ls data", ""),
    ("PATH finds programs", "command -v env", "/usr/bin/env\n"),
    ("HOME is writable", "echo x > ~/x && cat $HOME/x", "x\n"),
    ("/bin/sh is there", "/bin/sh -c 'echo $0'", "/bin/sh\n"),
    ("the usual userland is there", "ls / | grep -x usr | sed s/usr/found/ | awk '{ print $1 }'", "found\n"),
    ("a name has an id", "id -un; id -gn; id -u; id -g", "muster\nmuster\n1000\n1000\n"),
    ("the user is known to libc", "perl -e 'my @a = getpwuid($<); print \"$a[0] $a[7]\\n\"'", "muster /home/muster\n"),
    ("root and nobody are known", "getent passwd root nobody | cut -d: -f1", "root\nnobody\n"),
    ("/dev/shm is a writable tmpfs", "echo x > /dev/shm/x && stat -f -c %T /dev/shm", "tmpfs\n"),
    ("/dev/null swallows", "echo x > /dev/null && wc -c < /dev/null", "0\n"),
    (
        "/dev/zero, full, random and urandom",
        "head -q -c 2 /dev/zero /dev/urandom /dev/random | wc -c; echo x 2>&- > /dev/full || echo full",
        "6\nfull\n",
    ),
    ("a terminal can be made", "perl -e 'open(my $f, \"+<\", \"/dev/ptmx\") or die $!; print \"ok\\n\"'", "ok\n"),
    ("/proc/self is ours", "readlink /proc/self/exe | xargs basename; cat /proc/self/comm", "readlink\ncat\n"),
    (
        "/tmp is writable and sticky",
        "echo x > /tmp/x && mktemp -d > /dev/null && stat -c %a /tmp /var/tmp",
        "1777\n1777\n",
    ),
    ("TMPDIR, LANG, SHELL, USER", "echo $TMPDIR $LANG $SHELL $USER $LOGNAME", "/tmp C.UTF-8 /bin/sh muster muster\n"),
    (
        "loopback accepts and connects",
        "perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(Listen => 1, LocalAddr => \"127.0.0.1\") or die $!; \
         $c = IO::Socket::INET->new(PeerAddr => \"localhost\", PeerPort => $s->sockport) or die $!; print \"ok\\n\"'",
        "ok\n",
    ),
    ("there is only the loopback", "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '", "lo\n"),
    ("the host has a name", "hostname; getent hosts muster | awk '{ print $1 }'", "muster\n127.0.0.1\n"),
    ("the locale is UTF-8", "locale charmap", "UTF-8\n"),
    (
        "a program can start itself again",
        "perl -e 'exec \"/proc/self/exe\", \"-e\", \"print qq(again\\n)\" or die $!'",
        "again\n",
    ),
    (
        "only the three descriptors are open",
        "ls /proc/self/fd | sort -n | tr '\\n' ' '; readlink /proc/self/fd/0",
        "0 1 2 3 /dev/null\n",
    ),
    ("processes of the host are not seen", "ls /proc | grep -c '^[0-9]'", "4\n"),
    ("nothing outside is writable", "touch /usr/x /etc/x /x /dev/x 2>&1 | grep -c 'cannot touch'", "4\n"),
    (
        "there are no capabilities and no way to any",
        "grep -h -e ^CapEff -e ^CapBnd -e ^NoNewPrivs /proc/self/status | cut -f2",
        "0000000000000000\n0000000000000000\n1\n",
    ),
    ("core dumps are off, the mask is usual", "ulimit -c; umask", "0\n0022\n"),
    (
        "no signal is blocked or ignored",
        "grep -h -e ^SigBlk -e ^SigIgn /proc/self/status | cut -f2",
        "0000000000000000\n0000000000000000\n",
    ),
    (
        "the first process can't be looked into",
        "cat /proc/1/environ /proc/1/maps 2>&1 | grep -c -i denied; ls /proc/1/fd 2>&1 | grep -c -i denied",
        "2\n1\n",
    ),
];

#[tokio::test]
async fn ordinary_tests_find_what_they_expect() {
    let place = Place::new();
    let layer = place.layer("package", &[("/project/data/file", "old\n")]);
    let mut failed = Vec::new();
    for (name, script, expected) in PROBES {
        let mut spec = shell(script);
        spec.layers.push(layer.clone());
        let (exit, text) = place.run(spec).await.expect("an exit");
        if (text.as_str(), exit.status, exit.leaked_processes) != (expected, ExitStatus::Code(0), 0) {
            failed.push((name, text, exit.status));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    let file = fs::read_to_string(layer.directory.join("project/data/file")).expect("the file");
    assert_eq!(file, "old\n", "the staged layer is as it was");
    assert_eq!(
        fs::read_dir(layer.directory.join("project")).expect("the directory").count(),
        1,
        "nothing is new in it"
    );
}

#[tokio::test]
async fn declared_variables_win_and_no_others_are_there() {
    let place = Place::new();
    let mut spec = program(&["env"]);
    spec.command.environment =
        vec![("HOME".into(), "/elsewhere".into()), ("CARGO_MANIFEST_DIR".into(), "/project".into())];
    let (_, text) = place.run(spec).await.expect("an exit");
    let mut lines = text.lines().collect::<Vec<_>>();
    lines.sort_unstable();
    let expected = [
        "CARGO_MANIFEST_DIR=/project",
        "HOME=/elsewhere",
        "LANG=C.UTF-8",
        "LOGNAME=muster",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "SHELL=/bin/sh",
        "TMPDIR=/tmp",
        "USER=muster",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn later_layers_are_above_earlier_ones() {
    let place = Place::new();
    let mut spec = shell("cat a b");
    spec.layers.push(place.layer("lower", &[("/project/a", "lower\n"), ("/project/b", "lower\n")]));
    spec.layers.push(place.layer("upper", &[("/project/b", "upper\n")]));
    let (_, text) = place.run(spec).await.expect("an exit");
    assert_eq!(text, "lower\nupper\n");
}

#[tokio::test]
async fn a_layer_beneath_a_root_of_the_base_is_shown_with_it() {
    let place = Place::new();
    let mut spec = shell("cat file && echo new > file && cat file && ls /usr/bin/env && cat /lib/muster-probe");
    spec.command.working_directory = "/usr/src/application".into();
    spec.collect = vec!["/usr/src/application/file".into()];
    spec.layers
        .push(place.layer("package", &[("/usr/src/application/file", "old\n"), ("/lib/muster-probe", "library\n")]));
    let (exit, text) = place.run(spec).await.expect("an exit");
    assert_eq!(text, "old\nnew\n/usr/bin/env\nlibrary\n");
    assert_eq!(exit.collected, vec![("/usr/src/application/file".into(), b"new\n".to_vec())]);
}

#[tokio::test]
async fn a_layer_is_shown_at_its_mount_path() {
    let place = Place::new();
    let layer = place.layer("package", &[("/file", "old\n")]);
    let mut spec = shell("cat file && echo new > file && cat /srv/deep/project/file");
    spec.command.working_directory = "/srv/deep/project".into();
    spec.collect = vec!["/srv/deep/project/file".into()];
    spec.layers.push(StagedLayer { mount_path: "/srv/deep/project".into(), ..layer });
    let (exit, text) = place.run(spec).await.expect("an exit");
    assert_eq!(text, "old\nnew\n");
    assert_eq!(exit.collected, vec![("/srv/deep/project/file".into(), b"new\n".to_vec())]);
}

/// Copies a program and what the dynamic linker loads for it.
fn stage_with_libraries(root: &Path, program: &str) {
    let output = std::process::Command::new("ldd").arg(program).output().expect("ldd");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for path in text.split_whitespace().filter(|word| word.starts_with('/')).chain([program]) {
        let to = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(to.parent().expect("a directory")).expect("directories");
        fs::copy(path, to).expect("a copy");
    }
}

#[tokio::test]
async fn without_a_base_only_the_layers_are_there() {
    let place = Place::new();
    let layer = place.layer("closure", &[("/project/file", "content\n")]);
    stage_with_libraries(&layer.directory, "/bin/ls");
    place.give(&layer.directory);
    let mut spec = program(&["/bin/ls", "/", "/project"]);
    spec.with_base = false;
    spec.layers.push(layer);
    let (exit, text) = place.run(spec).await.expect("an exit");
    assert_eq!(exit.status, ExitStatus::Code(0), "{text}");
    assert!(text.ends_with("/project:\nfile\n"), "{text}");
    assert!(!text.contains("usr"), "{text}");
}

#[tokio::test]
async fn results_are_read_back_and_links_are_not_followed() {
    let place = Place::new();
    let mut spec = shell(
        "echo yes > /tmp/result; ln -s /etc/passwd link; mkfifo pipe; mkdir d; echo x > d/x; ln -s d e; echo shm > /dev/shm/x",
    );
    let paths = [
        "/tmp/result",
        "/project/link",
        "/project/pipe",
        "/project/d",
        "/project/e/x",
        "/project/missing",
        "/project/d/x",
    ];
    spec.collect = paths.map(Into::into).to_vec();
    let (exit, _) = place.run(spec).await.expect("an exit");
    let expected = vec![("/tmp/result".into(), b"yes\n".to_vec()), ("/project/d/x".into(), b"x\n".to_vec())];
    assert_eq!(exit.collected, expected);
}

#[tokio::test]
async fn a_missing_program_is_an_error_that_names_it() {
    let place = Place::new();
    for name in ["no-such-program", "/no/such/program"] {
        match place.run(program(&[name])).await {
            Err(EnvironmentError::Start { program, source }) => {
                assert_eq!((program.as_str(), source.raw_os_error()), (name, Some(2)));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn what_would_lead_our_mounts_elsewhere_is_refused() {
    let place = Place::new();
    let layer = place.layer("hostile", &[("/project/file", "")]);
    std::os::unix::fs::symlink("/", layer.directory.join("proc")).expect("a link");
    let mut spec = shell("true");
    spec.layers.push(layer);
    assert!(matches!(place.run(spec).await, Err(EnvironmentError::Invalid(_))));
    for directory in ["/proc/1", "relative", "/project/../etc"] {
        let mut spec = shell("true");
        spec.command.working_directory = directory.into();
        assert!(matches!(place.run(spec).await, Err(EnvironmentError::Invalid(_))), "{directory}");
    }
}
