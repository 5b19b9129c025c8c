//! Attacks on files.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::attack::{Attack, address, given, path};

const INPUT: &str = "/project/input";
const TOOL: &str = "/usr/bin/env";

pub(crate) fn perform(action: &str, attack: &mut Attack) -> bool {
    let refused = [libc::EPERM, libc::EACCES, libc::EROFS, libc::EXDEV];
    match action {
        "H14" | "H16" => own_file_systems(attack),
        "H22" => devices(attack),
        "H23" => set_id_modes(attack),
        "H25" => {
            for place in [TOOL, "/usr/bin/planted", "/etc/planted", "/dev/planted", "/proc/planted"] {
                attack.fails(place, OpenOptions::new().write(true).create(true).truncate(true).open(place));
            }
            attack.fails_with("chmod", fs::set_permissions(TOOL, PermissionsExt::from_mode(0o777)), &refused);
            // An input can be changed inside: the host's copy must not be.
            let _ = fs::write(INPUT, "changed");
            let _ = fs::set_permissions(INPUT, PermissionsExt::from_mode(0o777));
        }
        "H26" => reopened(attack),
        "H27" => {
            attack.fails_with("link", fs::hard_link(TOOL, "/tmp/linked"), &refused);
            let _ = fs::hard_link(INPUT, "/project/linked");
            let _ = fs::write("/project/linked", "changed");
        }
        "H31" => {
            for (name, target) in [("a", "/etc/shadow"), ("b", &*given("CANARY_FILE")), ("c", "/proc/self/environ")] {
                symlink(target, format!("/project/{name}")).expect("a link");
            }
            symlink("/", "/project/d").expect("a link");
        }
        "H32" => farm(),
        "H33" => odd_outputs(attack),
        "H50" => plant(),
        "H52" => {
            let engine = given("CANARY_ENGINE");
            for socket in [&*engine, "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"] {
                attack.fails(socket, UnixStream::connect(socket));
            }
            for place in ["/host", "/rootfs", "/var/lib/docker", "/root/.docker"] {
                attack.fails(place, fs::read_dir(place));
            }
            devices(attack);
        }
        "H50-look" => {
            for name in PLANTS {
                attack.never(name, fs::symlink_metadata(name).is_ok());
            }
            attack.never("LD_PRELOAD", std::env::var_os("LD_PRELOAD").is_some());
        }
        _ => return false,
    }
    true
}

const PLANTS: [&str; 4] = ["/home/muster/.bashrc", "/tmp/planted", "/var/tmp/planted", "/dev/shm/planted"];

fn plant() {
    for name in PLANTS {
        fs::write(name, "planted").expect("writable inside");
    }
}

fn own_file_systems(attack: &mut Attack) {
    let null = fs::metadata("/dev/null").expect("a device");
    attack.never("/dev/null is another", !null.file_type().is_char_device() || null.rdev() != 0x103);
    attack.never("/proc is another", fs::read_to_string("/proc/self/attr/planted").is_ok());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    attack.never("/proc does not tell of us", !status.starts_with("Name:\thostile"));
}

fn devices(attack: &mut Attack) {
    let refused = [libc::EPERM, libc::EACCES];
    for (what, kind, device) in
        [("a disk", libc::S_IFBLK, libc::makedev(8, 0)), ("memory", libc::S_IFCHR, libc::makedev(1, 1))]
    {
        let name = path("/tmp/device");
        let name = name.as_ptr().expose_provenance() as i64;
        let arguments = [libc::AT_FDCWD.into(), name, i64::from(kind | 0o666), device as i64, 0, 0];
        attack.call(what, libc::SYS_mknodat, arguments, &refused);
    }
    for name in ["/dev/sda", "/dev/vda", "/dev/kvm", "/dev/fuse", "/dev/mem", "/dev/net/tun"] {
        attack.fails_with(name, File::open(name), &[libc::ENOENT]);
    }
}

fn set_id_modes(attack: &mut Attack) {
    fs::write("/tmp/file", "").expect("writable inside");
    fs::create_dir("/tmp/directory").expect("writable inside");
    for (name, mode) in [("/tmp/file", 0o4755), ("/tmp/file", 0o2755), ("/tmp/directory", 0o2755)] {
        attack.fails(name, fs::set_permissions(name, PermissionsExt::from_mode(mode)));
    }
    let (file, attribute) = (path("/tmp/file"), path("security.capability"));
    let [file, attribute] = [&file, &attribute].map(|text| text.as_ptr().expose_provenance() as i64);
    let value = [0_u8; 20];
    attack.call(
        "a capability on a file",
        libc::SYS_setxattr,
        [file, attribute, address(&value), 20, 0, 0],
        &[libc::EPERM, libc::EINVAL, libc::EOPNOTSUPP],
    );
    let created = path("/tmp/created");
    let flags = i64::from(libc::O_CREAT | libc::O_WRONLY);
    let arguments = [libc::AT_FDCWD.into(), created.as_ptr().expose_provenance() as i64, flags, 0o4755, 0, 0];
    attack.call("a file made so", libc::SYS_openat, arguments, &[libc::EPERM]);
}

fn reopened(attack: &mut Attack) {
    use std::os::fd::AsRawFd;
    let file = File::open(TOOL).expect("readable");
    let again = OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    attack.fails("open again for writing", again);
    let shared = i64::from(libc::PROT_READ | libc::PROT_WRITE);
    attack.call(
        "map for writing",
        libc::SYS_mmap,
        [0, 4096, shared, libc::MAP_SHARED.into(), file.as_raw_fd().into(), 0],
        &[libc::EACCES],
    );
    // The host's copy must not change by what is done to an input.
    let input = File::open(INPUT).expect("readable");
    let _ = OpenOptions::new().write(true).truncate(true).open(format!("/proc/self/fd/{}", input.as_raw_fd()));
}

/// Links that lead to the host's files by their paths, a deep tree, and directories that nobody may enter.
fn farm() {
    let target = given("CANARY_FILE");
    let parent = Path::new(&target).parent().expect("a directory");
    for number in 0..500 {
        let _ = symlink(if number % 2 == 0 { parent } else { Path::new("/") }, format!("/project/link-{number}"));
        let closed = format!("/project/closed-{number}");
        let _ = fs::create_dir(&closed);
        let _ = fs::write(format!("{closed}/file"), "");
        let _ = fs::set_permissions(&closed, PermissionsExt::from_mode(0o000));
    }
    for number in 0..20_000 {
        let _ = fs::create_dir(format!("/tmp/{number}"));
    }
    let _ = std::env::set_current_dir("/tmp");
    for _ in 0..4096 {
        if fs::create_dir("d").is_err() || std::env::set_current_dir("d").is_err() {
            break;
        }
    }
}

fn odd_outputs(attack: &mut Attack) {
    use std::os::unix::ffi::OsStrExt;
    let fifo = path("/project/fifo");
    // SAFETY: the path ends with a zero byte.
    let made = unsafe { libc::mkfifo(fifo.as_ptr(), 0o644) };
    attack.never("no named pipe can be made", made != 0);
    let _listener = std::os::unix::net::UnixListener::bind("/project/socket").expect("a socket");
    // SAFETY: without this the kernel ends the program with a signal.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let sparse = File::create("/project/sparse").expect("a file");
    attack.fails_with("a terabyte of nothing", sparse.set_len(1 << 40), &[libc::EFBIG]);
    sparse.set_len(1 << 33).expect("a large file is allowed");
    for name in [&b"a\nb"[..], b"\x1b[2Jred", b"\xff\xfe", &[b'n'; 255]] {
        fs::write(Path::new("/project").join(std::ffi::OsStr::from_bytes(name)), "odd").expect("a file");
    }
    for number in 0..5_000 {
        File::create(format!("/tmp/empty-{number}")).expect("a file");
    }
}
