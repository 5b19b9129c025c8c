//! Every hostile action with its outcome, as `docs/security.md` publishes it.

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judge {
    /// The program itself, which must end with 0.
    Program,
    /// A function of the test, named after the action.
    Test,
}

/// An action.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) action: &'static str,
    pub(super) outcome: &'static str,
    pub(super) judge: Judge,
}

const fn program(id: &'static str, action: &'static str, outcome: &'static str) -> Row {
    Row { id, action, outcome, judge: Judge::Program }
}

const fn test(id: &'static str, action: &'static str, outcome: &'static str) -> Row {
    Row { id, action, outcome, judge: Judge::Test }
}

pub(super) const TABLE: [Row; 52] = [
    program("H1", "make a user namespace with unshare, clone and clone3", "EPERM, EPERM, ENOSYS"),
    program("H2", "mount a tmpfs and change the network with the rights of a nested namespace", "EPERM"),
    program("H3", "open a netlink socket of the packet filter and of the audit system", "EPERM"),
    program("H4", "io_uring_setup", "ENOSYS"),
    program("H5", "userfaultfd", "EPERM"),
    program("H6", "add_key, request_key, keyctl", "EPERM"),
    program("H7", "bpf, perf_event_open, kexec_load, init_module, open_by_handle_at, reboot", "EPERM"),
    program("H8", "write the kernel's switches in /proc", "EACCES or EROFS, or hidden; values unchanged"),
    program("H9", "read /proc/kcore, keys, timer_list, kallsyms, the kernel's log, /sys", "empty, zeros or not there"),
    program("H10", "list, signal and kill processes of the host; kill(-1)", "none seen, ESRCH; the host's live on"),
    program("H11", "trace, write to and stop the first process", "EPERM or EACCES; it can't be stopped"),
    program(
        "H12",
        "overwrite its own program and the first process's",
        "ETXTBSY or EACCES; the agent's program unchanged",
    ),
    program(
        "H13",
        "enumerate descriptors, its own and the first process's, and enter them",
        "0, 1 and 2; no directory among them",
    ),
    test("H14", "a layer whose /dev/null is a link into /proc/sys", "the sandbox's own /dev is shown"),
    test("H15", "a layer whose proc, dev, sys or tmp is a link", "refused before anything is started"),
    test("H16", "a layer with a /proc of its own", "the sandbox's own /proc is shown"),
    program("H17", "connect to an abstract socket of the host", "not reachable"),
    program(
        "H18",
        "connect to services of the host, to metadata addresses, to the internet",
        "ECONNREFUSED or ENETUNREACH",
    ),
    program("H19", "open a socket to the hypervisor (AF_VSOCK)", "EPERM"),
    program("H20", "type into a terminal (TIOCSTI, also with high bits; TIOCLINUX)", "EPERM"),
    program("H21", "packet sockets, raw ICMP, AF_ALG", "EPERM"),
    program("H22", "make device nodes; open disks, /dev/kvm, /dev/fuse, /dev/mem", "EPERM or EACCES; ENOENT"),
    program("H23", "set set-user-id and set-group-id bits and file capabilities", "EPERM"),
    program("H24", "mount, bind, remount, umount, pivot_root, chroot, setns", "EPERM"),
    program(
        "H25",
        "write to the base, to inputs and to what is beside them",
        "EROFS or EACCES; the host's inputs unchanged",
    ),
    program("H26", "open an input again for writing, map it shared", "EACCES or EROFS; the host's inputs unchanged"),
    program("H27", "link to an input and write through the link", "EXDEV or EPERM; the host's inputs unchanged"),
    test("H28", "a fork bomb", "killed: processes; never more than the limit; the slot works on"),
    test(
        "H29",
        "a daemon that outlives the program and goes on writing outputs",
        "counted as left behind, dead before outputs are read",
    ),
    program("H30", "hand a descriptor to a process outside", "no socket leads outside"),
    test("H31", "outputs that are links to secrets", "not followed"),
    test(
        "H32",
        "links to the host's files, 4,096 directories deep, 20,000 wide, directories without rights",
        "nothing of the host's is touched; the next sandbox starts",
    ),
    test(
        "H33",
        "outputs that are pipes, sockets, a terabyte of nothing, odd names",
        "EFBIG, or not read; the agent lives on",
    ),
    test("H34", "outputs that change into links while they are read", "nothing runs any more when they are read"),
    test("H35", "take memory: heap, tmpfs, buffers of pipes", "killed: memory, or no space; never more than the limit"),
    test("H36", "endless output without a line's end; a full disk", "killed: output; no space"),
    test("H37", "ignore every signal, spin in every session, stop itself", "dead when the switch is pulled"),
    test("H38", "kill the first process, then end with a code of one's choice", "the code is told as it was"),
    test("H39", "print forged result lines and end with 3", "the lines are bytes; the code stays 3"),
    test("H40", "print escapes and forged log lines", "passed on as bytes, nothing is interpreted"),
    program("H41", "look for the agent's variables", "none"),
    program("H42", "look for keys, docker's socket and the agent's port", "none reachable"),
    program("H43", "set host name, clocks, priorities; lock all memory", "EPERM, EACCES or ENOMEM"),
    program("H44", "personality without address randomisation, with executable data", "EPERM"),
    program("H45", "system calls of x32 and of 32 bits (int 0x80)", "ENOSYS; killed"),
    program("H46", "regain privileges: no_new_privs, capabilities, setuid", "refused; the flag stays"),
    program("H47", "descriptors in flight between sockets of its own", "limited; freed with the sandbox"),
    program("H48", "find and write control groups", "not there"),
    test("H49", "die with a core, leave timers and daemons", "no core; nothing survives"),
    test("H50", "plant files for the next program", "it finds none, 100 times of 100"),
    test("H51", "end the preparation and the run at every point", "nothing is left (see also T1.3)"),
    test(
        "H52",
        "ask for rights, a namespace, a directory or a device of the host's, or the engine's socket",
        "no key says it, each refused by the rule's name; none is there, and the engine gave none (see also T1.9)",
    ),
];
