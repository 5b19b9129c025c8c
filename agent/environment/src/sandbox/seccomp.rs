//! Which system calls a program may make.
//!
//! The kernel's surface is what a hostile program attacks. The filter refuses with `EPERM` whatever tests do not need and its attackers do:
//! namespaces, mounts, modules, keys, `bpf`, performance counters, `userfaultfd`, handles, other processes' memory, and every kind of socket but
//! local, internet and routing ones. It follows the profile that Docker ships (moby, `profiles/seccomp/default.json`) and is stricter where that
//! profile leaves things to capabilities. What a library probes before it falls back is refused with `ENOSYS`: `clone3`, whose flags no filter can
//! see, `io_uring`, and every call that is newer than this list. Other machine languages of the processor (32 bits, x32) are no way around it.
//!
//! The program is made once for all sandboxes by `seccompiler`, and is installed by a prepared call of the first process.

use std::collections::BTreeMap;
use std::ffi::c_long;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use crate::{EnvironmentError, Profile};

/// The last call of Linux 6.17; numbers from 424 on are the same on every architecture.
const NUMBER_MAX: u32 = 469;

/// Never allowed, in the order of the alphabet.
const REFUSED: &[c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Never allowed, and only there.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[c_long] = &[
    libc::SYS__sysctl,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_modify_ldt,
    libc::SYS_sysfs,
    libc::SYS_uselib,
    libc::SYS_ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[c_long] = &[];

/// What debuggers need: they look into processes of the same sandbox.
const REFUSED_UNLESS_DEBUGGING: &[c_long] =
    &[libc::SYS_kcmp, libc::SYS_pidfd_getfd, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev, libc::SYS_ptrace];

/// Refused with `ENOSYS`, as if the kernel were older.
const UNKNOWN: &[c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_io_uring_setup];

/// Of Linux 6.15.
const OPEN_TREE_ATTR: c_long = 467;
const FCHMODAT2: c_long = 452;

/// Flags of `clone` and `unshare` that ask for a namespace.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];
/// Only of `unshare`: in `clone` it is part of the signal.
const CLONE_NEWTIME: i32 = 0x80;

/// Families of sockets that are allowed. Of netlink, only routing: without it no program learns its addresses.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Personalities that are allowed: as usual, 32-bit file offsets and an old kernel's name, and the question.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const ADDR_NO_RANDOMIZE: u64 = 0x4_0000;

const TERMINAL_TRICKS: [u64; 2] = [libc::TIOCSTI, libc::TIOCLINUX];

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;
type Built<T> = Result<T, seccompiler::BackendError>;

/// Every condition on the low half of an argument: the kernel looks at no more of these, and a filter that compared all of it could be
/// passed by with high bits.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Built<SeccompCondition> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

/// True when a bit of an argument is set.
fn has(argument: u8, bit: u64) -> Built<SeccompCondition> {
    condition(argument, SeccompCmpOp::MaskedEq(bit), bit)
}

/// Refuses a call when all of the conditions hold.
fn refuse(rules: &mut Rules, call: c_long, conditions: Vec<SeccompCondition>) -> Built<()> {
    rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    Ok(())
}

fn rules(profile: Profile) -> Built<Rules> {
    let mut rules = Rules::new();
    let debugger = if profile == Profile::Debug { &[] } else { REFUSED_UNLESS_DEBUGGING };
    for call in REFUSED.iter().chain(REFUSED_HERE).chain(debugger) {
        rules.insert(*call, Vec::new());
    }
    for flag in NAMESPACES {
        refuse(&mut rules, libc::SYS_clone, vec![has(0, flag.cast_unsigned().into())?])?;
        refuse(&mut rules, libc::SYS_unshare, vec![has(0, flag.cast_unsigned().into())?])?;
    }
    refuse(&mut rules, libc::SYS_unshare, vec![has(0, CLONE_NEWTIME.cast_unsigned().into())?])?;

    let family = |family: i32| u64::from(family.cast_unsigned());
    let others = FAMILIES.map(|known| condition(0, SeccompCmpOp::Ne, family(known)));
    refuse(&mut rules, libc::SYS_socket, others.into_iter().collect::<Built<_>>()?)?;
    let netlink = condition(0, SeccompCmpOp::Eq, family(libc::AF_NETLINK))?;
    refuse(&mut rules, libc::SYS_socket, vec![netlink, condition(2, SeccompCmpOp::Ne, 0)?])?;

    for trick in TERMINAL_TRICKS {
        refuse(&mut rules, libc::SYS_ioctl, vec![condition(1, SeccompCmpOp::Eq, trick)?])?;
    }
    let debugged = [ADDR_NO_RANDOMIZE].into_iter().filter(|_| profile == Profile::Debug);
    let others = PERSONALITIES.into_iter().chain(debugged).map(|known| condition(0, SeccompCmpOp::Ne, known));
    refuse(&mut rules, libc::SYS_personality, others.collect::<Built<_>>()?)?;
    refuse_set_id_modes(&mut rules)?;
    Ok(rules)
}

/// Files that take their owner's or group's rights when they are executed: inside they would mean nothing, and outside too much.
fn refuse_set_id_modes(rules: &mut Rules) -> Built<()> {
    let changing = [(libc::SYS_fchmod, 1), (libc::SYS_fchmodat, 2), (FCHMODAT2, 2), (libc::SYS_mknodat, 2)];
    #[cfg(target_arch = "x86_64")]
    let older = [(libc::SYS_chmod, 1), (libc::SYS_mknod, 1), (libc::SYS_creat, 1)];
    #[cfg(not(target_arch = "x86_64"))]
    let older = [];
    #[cfg(target_arch = "x86_64")]
    let opening = [(libc::SYS_openat, 2, 3), (libc::SYS_open, 1, 2)];
    #[cfg(not(target_arch = "x86_64"))]
    let opening = [(libc::SYS_openat, 2, 3)];
    for bit in [u64::from(libc::S_ISUID), u64::from(libc::S_ISGID)] {
        for (call, mode) in changing.into_iter().chain(older) {
            refuse(rules, call, vec![has(mode, bit)?])?;
        }
        for (call, flags, mode) in opening {
            // Without `O_CREAT` there is no mode, only what happens to lie in its place.
            refuse(rules, call, vec![has(flags, libc::O_CREAT.cast_unsigned().into())?, has(mode, bit)?])?;
        }
    }
    Ok(())
}

/// The filter's program as the kernel takes it.
///
/// # Errors
///
/// When this architecture has none.
pub(super) fn filter(profile: Profile) -> Result<Vec<sock_filter>, EnvironmentError> {
    build(profile).map_err(|error| EnvironmentError::Unsupported {
        feature: format!("there is no filter of system calls for {}: {error}", std::env::consts::ARCH),
        remedy: "an agent on x86_64 or aarch64, or --environment host".into(),
    })
}

fn build(profile: Profile) -> Built<Vec<sock_filter>> {
    let number = |value: i32| u32::from(value.unsigned_abs() as u16);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let refusing = SeccompAction::Errno(number(libc::EPERM));
    let program: BpfProgram =
        SeccompFilter::new(rules(profile)?, SeccompAction::Allow, refusing, architecture)?.try_into()?;
    // `seccompiler` knows one answer for all refused calls. In front of its program, those that get the other: load the number, compare.
    let unknown = libc::SECCOMP_RET_ERRNO | number(libc::ENOSYS);
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let mut whole = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    let count = UNKNOWN.len() as u8;
    whole.push(instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, count, 0, NUMBER_MAX));
    for (index, call) in (0..count).zip(UNKNOWN) {
        let is_last = index + 1 == count;
        let call = u32::try_from(*call).unwrap_or(u32::MAX);
        whole.push(instruction(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            count - index - 1,
            u8::from(is_last),
            call,
        ));
    }
    whole.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, unknown));
    whole.extend(program);
    Ok(whole)
}

/// The bytes of a program.
pub(super) fn bytes(program: &[sock_filter]) -> Vec<u8> {
    let instruction = |filter: &sock_filter| {
        let [low, high] = filter.code.to_ne_bytes();
        let [a, b, c, d] = filter.k.to_ne_bytes();
        [low, high, filter.jt, filter.jf, a, b, c, d]
    };
    program.iter().flat_map(instruction).collect()
}
