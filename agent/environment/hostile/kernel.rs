//! Attacks on the kernel's surface.

use std::fs;

use crate::attack::{Attack, address, path};

const EPERM: &[i32] = &[libc::EPERM];
const ENOSYS: &[i32] = &[libc::ENOSYS];
const NOBODY: i64 = -1;

pub(crate) fn perform(action: &str, attack: &mut Attack) -> bool {
    match action {
        "H1" => new_user_namespace(attack),
        "H2" => rights_in_a_new_namespace(attack),
        "H4" => {
            let parameters = [0_u8; 120];
            attack.call("io_uring_setup", libc::SYS_io_uring_setup, [8, address(&parameters), 0, 0, 0, 0], ENOSYS);
        }
        "H5" => attack.call("userfaultfd", libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0], EPERM),
        "H6" => keys(attack),
        "H7" => privileged_calls(attack),
        "H8" => switches(attack),
        "H9" => secrets_of_the_kernel(attack),
        "H24" => mounts(attack),
        "H43" => clocks_and_priorities(attack),
        "H44" => {
            for (what, personality) in [("ADDR_NO_RANDOMIZE", 0x4_0000), ("READ_IMPLIES_EXEC", 0x40_0000)] {
                attack.call(what, libc::SYS_personality, [personality, 0, 0, 0, 0, 0], EPERM);
            }
        }
        "H45" => other_machine_languages(attack),
        "H46" => privileges(attack),
        "H48" => control_groups(attack),
        _ => return false,
    }
    true
}

fn new_user_namespace(attack: &mut Attack) {
    let user = i64::from(libc::CLONE_NEWUSER);
    attack.call("unshare", libc::SYS_unshare, [user, 0, 0, 0, 0, 0], EPERM);
    attack.call("clone", libc::SYS_clone, [user | i64::from(libc::SIGCHLD), 0, 0, 0, 0, 0], EPERM);
    // struct clone_args: flags, five addresses, exit signal.
    let arguments = [user as u64, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0];
    attack.call("clone3", libc::SYS_clone3, [address(&arguments), 64, 0, 0, 0, 0], ENOSYS);
    for (what, flag) in [("net", libc::CLONE_NEWNET), ("mount", libc::CLONE_NEWNS), ("pid", libc::CLONE_NEWPID)] {
        attack.call(what, libc::SYS_unshare, [flag.into(), 0, 0, 0, 0, 0], EPERM);
    }
}

fn rights_in_a_new_namespace(attack: &mut Attack) {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWNET;
    attack.call("unshare", libc::SYS_unshare, [flags.into(), 0, 0, 0, 0, 0], EPERM);
    let (kind, target) = (path("tmpfs"), path("/tmp"));
    let kind = kind.as_ptr().expose_provenance() as i64;
    let target = target.as_ptr().expose_provenance() as i64;
    attack.call("mount a tmpfs", libc::SYS_mount, [kind, target, kind, 0, 0, 0], EPERM);
    // SAFETY: only numbers are passed.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) };
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    attack.call(
        "take the loopback down",
        libc::SYS_ioctl,
        [socket.into(), libc::SIOCSIFFLAGS as i64, address(&request), 0, 0, 0],
        EPERM,
    );
}

fn keys(attack: &mut Attack) {
    let (kind, name) = (path("user"), path("planted"));
    let (kind, name) = (kind.as_ptr().expose_provenance() as i64, name.as_ptr().expose_provenance() as i64);
    attack.call("add_key", libc::SYS_add_key, [kind, name, name, 7, -4, 0], EPERM);
    attack.call("request_key", libc::SYS_request_key, [kind, name, 0, -4, 0, 0], EPERM);
    attack.call("keyctl", libc::SYS_keyctl, [0, -3, 1, 0, 0, 0], EPERM);
}

fn privileged_calls(attack: &mut Attack) {
    let zeros = [0_u8; 128];
    let zeros = address(&zeros);
    attack.call("bpf", libc::SYS_bpf, [0, zeros, 128, 0, 0, 0], EPERM);
    attack.call("perf_event_open", libc::SYS_perf_event_open, [zeros, 0, NOBODY, NOBODY, 0, 0], EPERM);
    attack.call("kexec_load", libc::SYS_kexec_load, [0, 0, zeros, 0, 0, 0], EPERM);
    attack.call("init_module", libc::SYS_init_module, [zeros, 0, zeros, 0, 0, 0], EPERM);
    attack.call("finit_module", libc::SYS_finit_module, [NOBODY, zeros, 0, 0, 0, 0], EPERM);
    attack.call("open_by_handle_at", libc::SYS_open_by_handle_at, [NOBODY, zeros, 0, 0, 0, 0], EPERM);
    attack.call("reboot", libc::SYS_reboot, [0, 0, 0, 0, 0, 0], EPERM);
}

fn switches(attack: &mut Attack) {
    let errors = [libc::EACCES, libc::EROFS, libc::EPERM];
    for name in ["sys/kernel/core_pattern", "sysrq-trigger", "sys/vm/overcommit_memory", "sys/net/ipv4/ip_forward"] {
        let opened = fs::OpenOptions::new().write(true).open(format!("/proc/{name}"));
        match name {
            // A file that is hidden may be opened, and takes what is written to it nowhere.
            "sysrq-trigger" => attack.never(name, fs::metadata("/proc/sysrq-trigger").is_ok_and(|file| file.len() > 0)),
            _ => attack.fails_with(name, opened, &errors),
        }
    }
}

fn secrets_of_the_kernel(attack: &mut Attack) {
    for name in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/kmsg", "/sys/firmware", "/sys/kernel"] {
        let is_told = fs::read(name).is_ok_and(|content| !content.is_empty()) || fs::read_dir(name).is_ok();
        attack.never(name, is_told);
    }
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let is_zero = |line: &str| line.split(' ').next().is_some_and(|address| address.bytes().all(|byte| byte == b'0'));
    attack.never("/proc/kallsyms", !symbols.lines().all(is_zero));
    let buffer = [0_u8; 64];
    attack.call("the kernel's log", libc::SYS_syslog, [3, address(&buffer), 64, 0, 0, 0], EPERM);
}

fn mounts(attack: &mut Attack) {
    let (tmpfs, tmp, usr, root) = (path("tmpfs"), path("/tmp"), path("/usr"), path("/"));
    let [tmpfs, tmp, usr, root] = [&tmpfs, &tmp, &usr, &root].map(|text| text.as_ptr().expose_provenance() as i64);
    let remount = (libc::MS_REMOUNT | libc::MS_BIND) as i64;
    attack.call("mount", libc::SYS_mount, [tmpfs, tmp, tmpfs, 0, 0, 0], EPERM);
    attack.call("bind", libc::SYS_mount, [usr, tmp, 0, libc::MS_BIND as i64, 0, 0], EPERM);
    attack.call("remount /usr", libc::SYS_mount, [0, usr, 0, remount, 0, 0], EPERM);
    attack.call("umount /", libc::SYS_umount2, [root, libc::MNT_DETACH.into(), 0, 0, 0, 0], EPERM);
    attack.call("pivot_root", libc::SYS_pivot_root, [tmp, tmp, 0, 0, 0, 0], EPERM);
    attack.call("chroot", libc::SYS_chroot, [tmp, 0, 0, 0, 0, 0], EPERM);
    attack.call("open_tree", libc::SYS_open_tree, [libc::AT_FDCWD.into(), usr, 1, 0, 0, 0], EPERM);
    attack.call("fsopen", libc::SYS_fsopen, [tmpfs, 0, 0, 0, 0, 0], EPERM);
    attack.call("setns", libc::SYS_setns, [0, 0, 0, 0, 0, 0], EPERM);
}

fn clocks_and_priorities(attack: &mut Attack) {
    let zeros = [0_u8; 256];
    let zeros = address(&zeros);
    let name = path("owned");
    let name = name.as_ptr().expose_provenance() as i64;
    attack.call("sethostname", libc::SYS_sethostname, [name, 5, 0, 0, 0, 0], EPERM);
    attack.call("settimeofday", libc::SYS_settimeofday, [zeros, 0, 0, 0, 0, 0], EPERM);
    attack.call("clock_settime", libc::SYS_clock_settime, [0, zeros, 0, 0, 0, 0], EPERM);
    let mut adjustment = [0_u64; 32];
    adjustment[0] = 1;
    attack.call("clock_adjtime", libc::SYS_clock_adjtime, [0, address(&adjustment), 0, 0, 0, 0], EPERM);
    attack.call("setpriority", libc::SYS_setpriority, [0, 0, -20, 0, 0, 0], &[libc::EACCES, libc::EPERM]);
    let priority = [1_i32];
    let first_in_first_out = [0, libc::SCHED_FIFO.into(), address(&priority), 0, 0, 0];
    attack.call("sched_setscheduler", libc::SYS_sched_setscheduler, first_in_first_out, EPERM);
    attack.call("mlockall", libc::SYS_mlockall, [3, 0, 0, 0, 0, 0], &[libc::EPERM, libc::ENOMEM]);
    attack.call("ioprio_set", libc::SYS_ioprio_set, [1, 0, (1 << 13) | 4, 0, 0, 0], EPERM);
}

fn other_machine_languages(attack: &mut Attack) {
    for (what, number) in [("x32 unshare", libc::SYS_unshare), ("x32 getpid", libc::SYS_getpid)] {
        let user = i64::from(libc::CLONE_NEWUSER);
        attack.call(what, number | 0x4000_0000, [user, 0, 0, 0, 0, 0], ENOSYS);
    }
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the child only makes one call in the old way (getpid of 32 bits) and ends.
        let status = unsafe {
            let child = libc::fork();
            if child == 0 {
                let mut result = 20_u64;
                std::arch::asm!("int 0x80", inout("rax") result);
                libc::_exit(i32::from(result as i32 <= 0));
            }
            let mut status = 0;
            libc::waitpid(child, &raw mut status, 0);
            status
        };
        attack.never("a 32-bit call", !libc::WIFSIGNALED(status));
    }
}

fn privileges(attack: &mut Attack) {
    let forbid = i64::from(libc::PR_SET_NO_NEW_PRIVS);
    attack.call("allow new privileges", libc::SYS_prctl, [forbid, 0, 0, 0, 0, 0], &[libc::EINVAL]);
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let has = |line: &str| status.lines().any(|found| found.split_whitespace().eq(line.split_whitespace()));
    for line in ["NoNewPrivs: 1", "CapEff: 0000000000000000", "CapBnd: 0000000000000000", "Seccomp: 2"] {
        attack.never(line, !has(line));
    }
    attack.call("become root", libc::SYS_setuid, [0, 0, 0, 0, 0, 0], &[libc::EINVAL, libc::EPERM]);
    let raise = i64::from(libc::PR_CAP_AMBIENT);
    attack.call("raise a capability", libc::SYS_prctl, [raise, 2, 21, 0, 0, 0], EPERM);
}

fn control_groups(attack: &mut Attack) {
    attack.fails(
        "/sys/fs/cgroup",
        fs::read_dir("/sys/fs/cgroup")
            .and_then(|mut entries| entries.next().unwrap_or_else(|| Err(std::io::ErrorKind::NotFound.into()))),
    );
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    attack.never("the groups of the host are named", groups.contains("muster-"));
}
