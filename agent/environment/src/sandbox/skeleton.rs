//! The lowest directory of every root: mount points, links, and a small `/etc`, made once when the driver starts.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::{HOME, JOB_ID};
use crate::base;
use crate::owned::OwnedDirectory;

/// The devices of the host that every sandbox has.
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Directories in which a program finds things and makes none.
const FIXED: [&str; 11] = ["proc", "dev", "etc", "home", "var", "root", "opt", "srv", "mnt", "media", "sys"];

const PREFIX: &str = "skeleton-";

/// The directories, removed when dropped.
#[derive(Debug)]
pub(super) struct Skeleton {
    directory: OwnedDirectory,
    /// The tops of the host's roots that are directories of their own, such as `usr`, without the first slash.
    pub(super) mounted_roots: Vec<String>,
    /// The tops of the host's roots that are links, such as `bin`.
    pub(super) linked_roots: Vec<String>,
}

impl Skeleton {
    /// Makes the directories in `parent` and removes those that dead processes left there.
    pub(super) fn create(parent: &Path, roots: &[PathBuf], owner: Option<(u32, u32)>) -> io::Result<Self> {
        let directory = OwnedDirectory::create(parent, PREFIX)?;
        let mut skeleton = Self { directory, mounted_roots: Vec::new(), linked_roots: Vec::new() };
        DirBuilder::new().mode(0o755).create(skeleton.mount_point())?;
        skeleton.fill_devices()?;
        for with_base in [true, false] {
            fill_common(&skeleton.root(with_base))?;
        }
        skeleton.fill_base(roots)?;
        if let Some((uid, gid)) = owner {
            give(skeleton.directory.path(), uid, gid)?;
        }
        for with_base in [true, false] {
            set_modes(&skeleton.root(with_base), 0o555)?;
        }
        Ok(skeleton)
    }

    /// The lowest layer of roots with or without the host's base.
    pub(super) fn root(&self, with_base: bool) -> PathBuf {
        self.directory.path().join(if with_base { "base" } else { "bare" })
    }

    /// What is shown at `/dev`.
    pub(super) fn devices(&self) -> PathBuf {
        self.directory.path().join("dev")
    }

    /// An empty directory to mount on.
    pub(super) fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    fn fill_devices(&self) -> io::Result<()> {
        let devices = self.devices();
        fs::create_dir(&devices)?;
        for name in DEVICES {
            File::create(devices.join(name))?;
        }
        for name in ["pts", "shm"] {
            fs::create_dir(devices.join(name))?;
        }
        for (name, target) in [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ] {
            symlink(target, devices.join(name))?;
        }
        Ok(())
    }

    fn fill_base(&mut self, roots: &[PathBuf]) -> io::Result<()> {
        let into = self.root(true);
        for root in roots {
            let Ok(relative) = root.strip_prefix("/") else { continue };
            if relative.starts_with("etc") {
                let to = into.join(relative);
                to.parent().map_or(Ok(()), fs::create_dir_all)?;
                copy_tree(root, &to)?;
                continue;
            }
            let (Some(name), Ok(metadata)) = (relative.to_str(), fs::symlink_metadata(root)) else { continue };
            if metadata.is_symlink() {
                symlink(fs::read_link(root)?, into.join(relative))?;
                self.linked_roots.push(name.to_owned());
            } else if metadata.is_dir() {
                fs::create_dir_all(into.join(relative))?;
                self.mounted_roots.push(name.to_owned());
            }
        }
        Ok(())
    }
}

/// Sets the mode of the directories that belong to nobody in particular; programs may not write there.
fn set_modes(root: &Path, mode: u32) -> io::Result<()> {
    for name in FIXED.into_iter().map(|name| root.join(name)).chain([root.to_path_buf()]) {
        fs::set_permissions(name, PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

fn fill_common(root: &Path) -> io::Result<()> {
    fs::create_dir(root)?;
    for name in FIXED {
        fs::create_dir(root.join(name))?;
    }
    for name in [HOME.trim_start_matches('/'), "run", "run/lock", "tmp", "var/tmp", "var/lib", "var/cache", "var/log"] {
        fs::create_dir(root.join(name))?;
    }
    for name in ["tmp", "var/tmp", "run/lock"] {
        fs::set_permissions(root.join(name), PermissionsExt::from_mode(0o1777))?;
    }
    symlink("/run", root.join("var/run"))?;
    symlink("/run/lock", root.join("var/lock"))?;
    let etc = root.join("etc");
    let id = JOB_ID;
    let files = [
        (
            "passwd",
            format!(
                "root:x:0:0:root:/root:/bin/sh\nmuster:x:{id}:{id}:muster:{HOME}:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
            ),
        ),
        ("group", format!("root:x:0:\ntty:x:5:\nmuster:x:{id}:\nnogroup:x:65534:\n")),
        ("hosts", "127.0.0.1 localhost muster\n::1 localhost ip6-localhost ip6-loopback\n".to_owned()),
        ("hostname", "muster\n".to_owned()),
        ("resolv.conf", String::new()),
        ("machine-id", "6d7573746572000000000000000000ff\n".to_owned()),
        ("shells", "/bin/sh\n".to_owned()),
    ];
    for (name, content) in files {
        fs::write(etc.join(name), content)?;
    }
    symlink("/proc/self/mounts", etc.join("mtab"))
}

/// Copies a file, a link or a whole directory; what is missing, unreadable or neither is left out.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let Ok(metadata) = fs::symlink_metadata(from) else { return Ok(()) };
    if metadata.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else if metadata.is_file() {
        let Ok(content) = fs::read(from) else { return Ok(()) };
        fs::write(to, content)?;
        fs::set_permissions(to, PermissionsExt::from_mode(metadata.permissions().mode() & 0o755))
    } else if metadata.is_dir() {
        fs::create_dir_all(to)?;
        let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            if !base::is_secret(&entry.path()) {
                copy_tree(&entry.path(), &to.join(entry.file_name()))?;
            }
        }
        Ok(())
    } else {
        Ok(())
    }
}

fn give(directory: &Path, uid: u32, gid: u32) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), uid, gid)?;
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(uid), Some(gid))?;
        }
    }
    chown(directory, Some(uid), Some(gid))
}
