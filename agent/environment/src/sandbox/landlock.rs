//! A second wall, which needs no privilege and no namespace: Landlock (`landlock(7)`).
//!
//! Mounts, namespaces and the filter of system calls already keep a program where it is. Should one of them have a hole, Landlock still refuses to
//! make devices anywhere, to control devices outside `/dev`, to talk to sockets with abstract names and to signal processes outside the
//! sandbox. What a kernel is too old for is left out.

use super::script::{Argument, Script};

// From linux/landlock.h.
const ACCESS_MAKE_CHAR: u64 = 1 << 6;
const ACCESS_MAKE_BLOCK: u64 = 1 << 11;
/// Since version 2: renames and links between directories, refused unless named.
const ACCESS_REFER: u64 = 1 << 13;
/// Since version 5.
const ACCESS_IOCTL_DEVICE: u64 = 1 << 15;
/// Since version 6: abstract sockets and signals.
const SCOPES: u64 = 3;
const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: i32 = 1;

/// The version that the kernel offers; 0 for none.
pub(crate) fn version() -> u32 {
    // SAFETY: without attributes the call only tells a number.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, CREATE_RULESET_VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// Confines the process that plays the script, once its root is in place.
pub(super) fn confine(script: &mut Script, version: u32) {
    if version == 0 {
        return;
    }
    let since = |first: u32, bits: u64| if version >= first { bits } else { 0 };
    let renaming = since(2, ACCESS_REFER);
    let controlling = since(5, ACCESS_IOCTL_DEVICE);
    let handled = ACCESS_MAKE_CHAR | ACCESS_MAKE_BLOCK | renaming | controlling;
    // struct landlock_ruleset_attr: file system, since version 4 network, since version 6 scopes.
    let attributes = [handled, 0, since(6, SCOPES)];
    let size = match version {
        ..4 => 8,
        4..6 => 16,
        6.. => 24,
    };
    let step = "confine the program";
    let attributes = script.bytes(&attributes.map(u64::to_ne_bytes).concat());
    script.call(step, libc::SYS_landlock_create_ruleset, [attributes, size.into(), 0.into()]);
    let rules = script.keep();
    for (path, access) in [("/", renaming), ("/dev", controlling)] {
        if access == 0 {
            continue;
        }
        let path = script.text(path);
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        script.call(step, libc::SYS_openat, [libc::AT_FDCWD.into(), path, flags.into()]);
        let opened = script.keep_briefly();
        // struct landlock_path_beneath_attr, packed: the access in eight bytes, then the descriptor in four, which is known only then: it gets
        // a number that is known now.
        let number = Argument::from(RULE_DESCRIPTOR);
        script.call(step, libc::SYS_dup3, [opened, number, libc::O_CLOEXEC.into()]);
        let rule = script.bytes(&[&access.to_ne_bytes()[..], &RULE_DESCRIPTOR.to_ne_bytes()].concat());
        script.call(step, libc::SYS_landlock_add_rule, [rules, RULE_PATH_BENEATH.into(), rule, 0.into()]);
    }
    script.call(step, libc::SYS_landlock_restrict_self, [rules, 0.into()]);
}

/// Where directories of rules are while they are added.
const RULE_DESCRIPTOR: i32 = 98;
