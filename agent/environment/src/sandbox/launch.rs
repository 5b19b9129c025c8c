//! From the host to the scripts that make a launcher ready.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use muster_model::limits;
use nix::sys::resource::{Resource, getrlimit};

use super::launcher::program;
use super::plan::{
    AT_RECURSIVE, Host, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY,
    MOVE_MOUNT_F_EMPTY_PATH, OPEN_TREE_CLONE,
};
use super::script::{Argument, Script, SealedScript};
use super::skeleton::DEVICES;
use crate::EnvironmentError;

const SIGNALS: i32 = 64;
const HOST_NAME: &str = "muster";

/// A launcher's program, and what it plays before it starts anything.
#[derive(Debug)]
pub(super) struct LaunchScripts {
    pub(super) program: File,
    /// Leaves the host's namespaces. Then the agent writes the identity maps.
    pub(super) leave: SealedScript,
    /// Makes what every sandbox shares.
    pub(super) furnish: SealedScript,
    /// It goes into namespaces that are there, whose identity is mapped already.
    pub(super) is_joined: bool,
}

impl LaunchScripts {
    /// Writes the scripts.
    ///
    /// # Errors
    ///
    /// A path with a zero byte in it, or no memory.
    pub(super) fn new(host: &Host<'_>) -> Result<Self, EnvironmentError> {
        let sealed = |error: io::Error| super::step("write a script", error);
        let program = program().map_err(|error| super::step("write the launcher's program", error))?;
        let leave = leave(None).seal().map_err(sealed)?;
        Ok(Self { program, leave, furnish: furnish(host)?.seal().map_err(sealed)?, is_joined: false })
    }

    /// Scripts for launchers that go into a user and a network namespace that are there, in this order; the agent holds them open.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub(super) fn joining(host: &Host<'_>, namespaces: &[OwnedFd; 2]) -> Result<Self, EnvironmentError> {
        let sealed = |error: io::Error| super::step("write a script", error);
        let leave = leave(Some(namespaces)).seal().map_err(sealed)?;
        Ok(Self { leave, is_joined: true, ..Self::new(host)? })
    }
}

fn leave(joined: Option<&[OwnedFd; 2]>) -> Script {
    let mut script = Script::default();
    let none = Argument::Value(0);
    let empty_set = script.bytes(&[0; 8]);
    let set_mask = [libc::SIG_SETMASK.into(), empty_set, none, 8.into()];
    script.call("clear the signal mask", libc::SYS_rt_sigprocmask, set_mask);
    // struct kernel_sigaction of zeros: the default action.
    let default_action = script.bytes(&[0; 32]);
    for signal in (1..=SIGNALS).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        let arguments = [signal.into(), default_action, none, 8.into()];
        script.call("reset a signal", libc::SYS_rt_sigaction, arguments);
    }
    let name = script.text("muster-sandbox");
    script.call("take a name", libc::SYS_prctl, [libc::PR_SET_NAME.into(), name]);
    // Away from the terminal's signals.
    script.call("start a session", libc::SYS_setsid, []);
    script.tolerate(&[libc::EPERM]);
    script.call("clear the file mode mask", libc::SYS_umask, [none]);
    let arguments = [3.into(), Argument::Value(u32::MAX.into()), none];
    script.call("close what is open", libc::SYS_close_range, arguments);
    // Each sandbox gets mounts, processes and System V objects of its own besides. The control groups are seen from the slot's own.
    let own = libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;
    let namespaces = match joined {
        Some(joined) => {
            join(&mut script, joined);
            own
        }
        None => own | libc::CLONE_NEWUSER | libc::CLONE_NEWNET,
    };
    script.call(UNSHARE, libc::SYS_unshare, [namespaces.into()]);
    script
}

/// Enters a user namespace, which gives the rights over it, and then its network. Both are opened before: afterwards, the agent's descriptors are
/// out of reach.
fn join(script: &mut Script, namespaces: &[OwnedFd; 2]) {
    let step = "enter the network";
    let opened = namespaces.each_ref().map(|namespace| {
        let path = script.text(&format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()));
        script.call(step, libc::SYS_openat, [libc::AT_FDCWD.into(), path, (libc::O_RDONLY | libc::O_CLOEXEC).into()]);
        script.keep()
    });
    for (namespace, kind) in opened.into_iter().zip([libc::CLONE_NEWUSER, libc::CLONE_NEWNET]) {
        script.call(step, libc::SYS_setns, [namespace, kind.into()]);
        script.call(step, libc::SYS_close, [namespace]);
    }
}

/// The step that fails where user namespaces are forbidden.
pub(super) const UNSHARE: &str = "enter new namespaces";

fn furnish(host: &Host<'_>) -> Result<Script, EnvironmentError> {
    let mut script = Script::default();
    let (slash, none) = (script.text("/"), Argument::Value(0));
    let flags = (libc::MS_REC | libc::MS_PRIVATE) as i64;
    script.call("make the mounts private", libc::SYS_mount, [none, slash, none, flags.into()]);
    let root = host.skeleton.root(true);
    for name in &host.skeleton.mounted_roots {
        let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        show(&mut script, &Path::new("/").join(name), &root.join(name), attributes, AT_RECURSIVE)?;
    }
    let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
    show(&mut script, &host.skeleton.devices(), &root.join("dev"), attributes, 0)?;
    for name in DEVICES {
        show(&mut script, &Path::new("/dev").join(name), &root.join("dev").join(name), 0, 0)?;
    }
    let name = script.text(HOST_NAME);
    script.call("name the host", libc::SYS_sethostname, [name, (HOST_NAME.len() as i64).into()]);
    let kind = Argument::from(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
    script.call("bring the loopback up", libc::SYS_socket, [libc::AF_INET.into(), kind, none]);
    let socket = script.keep();
    // struct ifreq: the name in 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes());
    let request = script.bytes(&request);
    let set_flags = (libc::SIOCSIFFLAGS as i64).into();
    script.call("bring the loopback up", libc::SYS_ioctl, [socket, set_flags, request]);
    script.call("bring the loopback up", libc::SYS_close, [socket]);
    for capability in 0..=host.last_capability {
        script.call("give up a capability", libc::SYS_prctl, [libc::PR_CAPBSET_DROP.into(), capability.into()]);
    }
    limit_resources(&mut script)?;
    let none_below = script.text("/proc/sys/user/max_user_namespaces");
    let arguments = [libc::AT_FDCWD.into(), none_below, (libc::O_WRONLY | libc::O_CLOEXEC).into()];
    script.call("forbid more user namespaces", libc::SYS_openat, arguments);
    // Read-only in some containers; the filter of system calls forbids them too.
    script.tolerate(&[libc::EROFS, libc::EACCES, libc::EPERM, libc::ENOENT]);
    let switch = script.keep_briefly();
    let zero = script.text("0");
    script.call("forbid more user namespaces", libc::SYS_write, [switch, zero, 1.into()]);
    script.tolerate(&[libc::EBADF]);
    script.call("forbid more user namespaces", libc::SYS_close, [switch]);
    script.tolerate(&[libc::EBADF]);
    let arguments = [libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), none, none, none];
    script.call("forbid new privileges", libc::SYS_prctl, arguments);
    Ok(script)
}

/// Lowers what one process may use. Nothing is raised: that would take a privilege.
pub(crate) fn limit_resources(script: &mut Script) -> Result<(), EnvironmentError> {
    for (resource, wanted) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, limits::SANDBOX_FILE_BYTES_MAX),
        (Resource::RLIMIT_MEMLOCK, limits::SANDBOX_LOCKED_BYTES_MAX),
        (Resource::RLIMIT_MSGQUEUE, limits::SANDBOX_QUEUE_BYTES_MAX),
        (Resource::RLIMIT_NOFILE, limits::SANDBOX_DESCRIPTORS_MAX),
        (Resource::RLIMIT_NICE, 0),
        (Resource::RLIMIT_RTPRIO, 0),
    ] {
        let (_, hard) = getrlimit(resource).map_err(|error| super::step("read the limits", error.into()))?;
        let limit = script.bytes(&[wanted.min(hard); 2].map(u64::to_ne_bytes).concat());
        let arguments = [0.into(), (resource as i32).into(), limit, 0.into()];
        script.call("limit what one process may use", libc::SYS_prlimit64, arguments);
    }
    Ok(())
}

/// Shows something of the host at a place in the skeleton, for this launcher alone.
fn show(script: &mut Script, from: &Path, to: &Path, attributes: u64, flags: i32) -> Result<(), EnvironmentError> {
    let step = format!("take {} from the host", from.display());
    let name = script.path(from)?;
    let tree_flags = OPEN_TREE_CLONE.cast_signed() | libc::O_CLOEXEC | flags;
    script.call(step.clone(), libc::SYS_open_tree, [libc::AT_FDCWD.into(), name, tree_flags.into()]);
    let tree = script.keep_briefly();
    let empty = script.text("");
    if attributes != 0 {
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
        let attribute = script.bytes(&[attributes, 0, 0, 0].map(u64::to_ne_bytes).concat());
        let arguments = [tree, empty, (libc::AT_EMPTY_PATH | flags).into(), attribute, 32.into()];
        script.call(format!("make {} read-only", from.display()), libc::SYS_mount_setattr, arguments);
    }
    let to = script.path(to)?;
    let arguments = [tree, empty, libc::AT_FDCWD.into(), to, MOVE_MOUNT_F_EMPTY_PATH.into()];
    script.call(step.clone(), libc::SYS_move_mount, arguments);
    script.call(step, libc::SYS_close, [tree]);
    Ok(())
}
