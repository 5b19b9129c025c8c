//! Which system calls a program may make.
//!
//! The kernel's surface is what a hostile program attacks. There are three answers:
//!
//! - What tests need is *allowed*: a list, after the profile that Docker ships (moby, `profiles/seccomp/default.json`), and stricter where that
//!   profile leaves things to capabilities. Some of it only with harmless arguments: no namespaces, no set-user-id modes, local, internet and
//!   routing sockets alone.
//! - What they do not need and attackers do is *refused* with `EPERM`: namespaces, mounts, modules, keys, `bpf`, performance counters,
//!   `userfaultfd`, handles, other processes' memory.
//! - *Everything else* is answered with `ENOSYS`, as if the kernel were older, so that libraries fall back: `clone3`, whose flags no filter can see,
//!   `io_uring`, policies of memory nodes, and every call that is newer than the list. Other machine languages of the processor (32 bits, x32) are
//!   no way around it.
//!
//! What `seccompiler` makes of the conditions stands behind a short program that looks the call's number up among the known ones, in ranges: most
//! calls are neighbours. Filters are made once for all sandboxes, and installed by a prepared call of the first process.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_long;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::allowed::{ALLOWED, ALLOWED_HERE, FCHMODAT2};
use crate::{EnvironmentError, Profile};

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

/// Of Linux 6.15.
const OPEN_TREE_ATTR: c_long = 467;

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
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let rules = rules(profile)?;
    let known = ALLOWED.iter().chain(ALLOWED_HERE).chain(REFUSED_UNLESS_DEBUGGING).chain(rules.keys());
    let mut whole = look_up(&ranges(known.filter_map(|call| u32::try_from(*call).ok()).collect()));
    let refusing = SeccompAction::Errno(error_number(libc::EPERM));
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refusing, architecture)?.try_into()?;
    whole.extend(program);
    Ok(whole)
}

fn error_number(value: i32) -> u32 {
    u32::from(value.unsigned_abs() as u16)
}

/// Numbers as first and last of each run of neighbours, in order.
fn ranges(numbers: BTreeSet<u32>) -> Vec<(u32, u32)> {
    let mut ranges = Vec::<(u32, u32)>::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    ranges
}

/// A program that goes on behind its end with calls in the ranges, and answers all others with `ENOSYS`.
fn look_up(ranges: &[(u32, u32)]) -> Vec<sock_filter> {
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    let unknown = instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | error_number(libc::ENOSYS));
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    let length = program.len() + ranges.len() * INSTRUCTIONS_PER_RANGE + 1;
    for (first, last) in ranges {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, 3, 0, *last));
        program.push(instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, *first));
        program.push(unknown.clone());
        let left = (length - program.len() - 1) as u32;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, left));
    }
    program.push(unknown);
    program
}

/// Beyond the range? Not before it? Unknown. On to the end.
const INSTRUCTIONS_PER_RANGE: usize = 4;

/// The bytes of a program.
pub(super) fn bytes(program: &[sock_filter]) -> Vec<u8> {
    let instruction = |filter: &sock_filter| {
        let [low, high] = filter.code.to_ne_bytes();
        let [a, b, c, d] = filter.k.to_ne_bytes();
        [low, high, filter.jt, filter.jf, a, b, c, d]
    };
    program.iter().flat_map(instruction).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_of_the_debug_profile_has_a_name_that_is_in_keys() {
        let names = [
            (libc::SYS_kcmp, "kcmp"),
            (libc::SYS_pidfd_getfd, "pidfd_getfd"),
            (libc::SYS_process_vm_readv, "process_vm_readv"),
            (libc::SYS_process_vm_writev, "process_vm_writev"),
            (libc::SYS_ptrace, "ptrace"),
        ];
        let name = |number: &c_long| names.iter().find(|(known, _)| known == number).map(|(_, name)| *name);
        let mut differences: Vec<&str> = REFUSED_UNLESS_DEBUGGING.iter().map(|number| name(number).unwrap()).collect();
        differences.push("personality(ADDR_NO_RANDOMIZE)");
        differences.sort_unstable();
        assert_eq!(Profile::Debug.differences(), differences);
        assert_eq!(Profile::Strict.differences(), [""; 0]);
    }

    /// What a whole filter answers to a call whose arguments are all zero.
    fn answer(program: &[sock_filter], number: u32) -> u32 {
        // AUDIT_ARCH_X86_64 or AUDIT_ARCH_AARCH64.
        let architecture = if cfg!(target_arch = "x86_64") { 0xC000_003E } else { 0xC000_00B7 };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let instruction = &program[at];
            let (code, k) = (u32::from(instruction.code), instruction.k);
            let jump = |is_true: bool| usize::from(if is_true { instruction.jt } else { instruction.jf });
            at += 1;
            match (code & 0x07, code & 0xf0) {
                (libc::BPF_LD, _) => accumulator = [number, architecture].get(k as usize / 4).copied().unwrap_or(0),
                (libc::BPF_ALU, _) => accumulator &= k,
                (libc::BPF_JMP, libc::BPF_JA) => at += k as usize,
                (libc::BPF_JMP, libc::BPF_JEQ) => at += jump(accumulator == k),
                (libc::BPF_JMP, libc::BPF_JGT) => at += jump(accumulator > k),
                (libc::BPF_JMP, libc::BPF_JGE) => at += jump(accumulator >= k),
                (libc::BPF_RET, _) => return k,
                _ => panic!("an instruction of another kind: {instruction:?}"),
            }
        }
    }

    #[test]
    fn every_number_is_allowed_refused_or_unknown_as_the_lists_say() {
        for profile in [Profile::Strict, Profile::Debug] {
            let program = build(profile).expect("there is one for this processor");
            let is_in = |list: &[c_long], number: u32| list.contains(&c_long::from(number));
            for number in (0..1024).chain([0x4000_0000, 0x4000_0027, u32::MAX]) {
                let is_for_debugging = is_in(REFUSED_UNLESS_DEBUGGING, number);
                let is_refused = is_in(REFUSED, number)
                    || is_in(REFUSED_HERE, number)
                    || profile == Profile::Strict && is_for_debugging
                    // A family of zero is none of the allowed ones.
                    || number == libc::SYS_socket as u32;
                let is_allowed = is_in(ALLOWED, number) || is_in(ALLOWED_HERE, number) || is_for_debugging;
                let expected = match (is_refused, is_allowed) {
                    (true, _) => libc::SECCOMP_RET_ERRNO | error_number(libc::EPERM),
                    (false, true) => libc::SECCOMP_RET_ALLOW,
                    (false, false) => libc::SECCOMP_RET_ERRNO | error_number(libc::ENOSYS),
                };
                assert_eq!(answer(&program, number), expected, "{profile:?} {number}");
            }
        }
    }

    #[test]
    fn no_call_is_both_allowed_and_refused() {
        for call in ALLOWED.iter().chain(ALLOWED_HERE) {
            let refused = [REFUSED, REFUSED_HERE, REFUSED_UNLESS_DEBUGGING];
            assert!(!refused.iter().any(|list| list.contains(call)), "{call}");
        }
    }

    #[test]
    fn neighbours_make_a_range() {
        assert_eq!(ranges([5, 1, 2, 3, 9].into()), [(1, 3), (5, 5), (9, 9)]);
        assert!(ranges(BTreeSet::new()).is_empty());
    }
}
