//! Mounts that the agent makes for containers, as root, in its own mount namespace, which it shares with the engine.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::fchownat;

use crate::sandbox::plan::{
    AT_RECURSIVE, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MOVE_MOUNT_F_EMPTY_PATH, OPEN_TREE_CLONE,
};

/// What `mount(2)` takes of options: a page with its last zero byte, on the smallest pages there are.
const OPTIONS_BYTES_MAX: usize = 4095;

/// A tmpfs for root alone, with a bound on bytes and on files. What is mounted in it is seen in no other mount namespace.
pub(super) fn tmpfs(target: &Path, bytes: u64, nodes: u64) -> io::Result<()> {
    let options = format!("size={bytes},nr_inodes={nodes},mode=0700");
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options.as_str()))?;
    make_private(target)
}

fn make_private(target: &Path) -> io::Result<()> {
    mount(None::<&str>, target, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).map_err(io::Error::from)
}

/// An overlay on a directory that is open: `lower` topmost first, with `name.upper` and `name.work` in `scratch`.
///
/// The directories are named to the kernel by descriptors: a path of any length and with any letter in it fits, and what is shown of the mount to
/// programs names nothing of the host's.
pub(super) fn overlay(
    target: BorrowedFd<'_>,
    lower: &[PathBuf],
    scratch: BorrowedFd<'_>,
    name: &str,
) -> io::Result<()> {
    let opened = lower.iter().map(|path| open_directory(path)).collect::<io::Result<Vec<_>>>()?;
    let named = |descriptor: &OwnedFd| format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let lower = opened.iter().map(named).collect::<Vec<_>>().join(":");
    let scratch = format!("/proc/self/fd/{}/{name}", scratch.as_raw_fd());
    let options = format!("lowerdir={lower},upperdir={scratch}.upper,workdir={scratch}.work");
    if options.len() > OPTIONS_BYTES_MAX {
        return Err(io::Error::other(format!("{} layers are more than an overlay takes", opened.len())));
    }
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("overlay"), target.as_str(), Some("overlay"), flags, Some(options.as_str()))?;
    Ok(())
}

/// Shows a tree of the host's at a directory that is open, with everything that is mounted in it, and lets nobody write there.
pub(super) fn show_read_only(from: &Path, target: BorrowedFd<'_>) -> io::Result<()> {
    let path = CString::new(from.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.cast_unsigned() | AT_RECURSIVE.cast_unsigned();
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    let attributes = [MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, MsFlags::MS_PRIVATE.bits(), 0_u64];
    // SAFETY: the path and the structure outlive the calls; a result of 0 or more of the first is a new descriptor of ours.
    unsafe {
        let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
        let tree = i32::try_from(tree).map_err(io::Error::other)?;
        if tree < 0 {
            return Err(io::Error::last_os_error());
        }
        let tree = OwnedFd::from_raw_fd(tree);
        let (number, here) = (tree.as_raw_fd(), c"".as_ptr());
        let flags = libc::AT_EMPTY_PATH | AT_RECURSIVE;
        let size = size_of_val(&attributes);
        if libc::syscall(libc::SYS_mount_setattr, number, here, flags, attributes.as_ptr(), size) < 0 {
            return Err(io::Error::last_os_error());
        }
        // MOVE_MOUNT_T_EMPTY_PATH is 0x40.
        let flags = MOVE_MOUNT_F_EMPTY_PATH | 0x40;
        if libc::syscall(libc::SYS_move_mount, number, here, target.as_raw_fd(), here, flags) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Opens a directory of the agent's own, to name it.
pub(super) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

/// Opens a directory as a program in `root` would find it: links lead where they lead there, never out of it.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(root, path, how)?)
}

/// Opens a directory in `root`, and makes what is missing of it for its `owner`.
pub(super) fn make_in(root: BorrowedFd<'_>, path: &Path, owner: (u32, u32)) -> io::Result<OwnedFd> {
    let mut place = open_in(root, Path::new("."))?;
    let mut whole = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        whole.push(name);
        place = match open_in(root, &whole) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                mkdirat(&place, name, Mode::from_bits_truncate(0o755))?;
                let (uid, gid) = (Some(owner.0.into()), Some(owner.1.into()));
                fchownat(&place, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                open_in(root, &whole)?
            }
            opened => opened?,
        };
    }
    Ok(place)
}

/// Lets go of everything that is mounted on a directory or beneath it; what is in use goes when it is not any more.
pub(crate) fn unmount_beneath(directory: &Path) -> io::Result<()> {
    let mounts = fs::read("/proc/self/mountinfo")?;
    let points = mounts.split(|byte| *byte == b'\n').filter_map(mount_point);
    let mut beneath: Vec<PathBuf> = points.filter(|point| point.starts_with(directory)).collect();
    // Those that were mounted last lie on top.
    while let Some(point) = beneath.pop() {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // It went with the one that it was mounted in.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The mount point of a line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`), where white space and backslashes are octal numbers.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let escaped = line.split(|byte| *byte == b' ').nth(4)?;
    let mut plain = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = (byte == b'\\').then(|| after.get(..3)).flatten();
        let number = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(number.unwrap_or(byte));
        rest = if number.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    Some(std::ffi::OsString::from_vec(plain).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_mount_point_with_spaces_is_found() {
        let line = b"36 35 98:0 /mnt1 /a\\040b/\\134c rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some("/a b/\\c".into()));
        assert_eq!(mount_point(b""), None);
    }

    #[test]
    fn links_lead_nowhere_but_into_the_root() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("inside")).expect("directories");
        std::os::unix::fs::symlink("/inside", root.join("absolute")).expect("a link");
        std::os::unix::fs::symlink("../../../inside", root.join("climbing")).expect("a link");
        std::os::unix::fs::symlink("/etc", root.join("outside")).expect("a link");
        let opened = open_directory(&root).expect("it is there");
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        for name in ["absolute", "climbing"] {
            make_in(opened.as_fd(), &Path::new(name).join(name), owner).expect("a directory");
            assert!(root.join("inside").join(name).is_dir());
        }
        make_in(opened.as_fd(), Path::new("outside/x"), owner).expect_err("the link leads to nothing there");
        assert!(!Path::new("/etc/x").exists());
    }
}
