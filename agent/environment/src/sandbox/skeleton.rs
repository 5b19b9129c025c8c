//! The lowest directory of every root: mount points, links, and a small `/etc`.
//!
//! It is made once and shared by all drivers and processes that use the same directory. Its name is a hash of everything that it is made
//! from: the status of what is copied, and this file. The boot is in it too, because nothing here is synchronised to the disk.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::HOME;
use crate::base;
use crate::owned::SharedDirectory;

/// The devices of the host that every sandbox has.
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Directories in which a program finds things and makes none.
const FIXED: [&str; 11] = ["proc", "dev", "etc", "home", "var", "root", "opt", "srv", "mnt", "media", "sys"];

const PREFIX: &str = "skeleton-";
const MOUNT_POINT: &str = "mount";
const DEVICES_SHOWN: &str = "dev";
const ROOT_WITH_BASE: &str = "base";
const ROOT_BARE: &str = "bare";

/// The directories, kept from being removed.
#[derive(Debug)]
pub(crate) struct Skeleton {
    directory: SharedDirectory,
    /// The tops of the host's roots that are directories of their own, such as `usr`, without the first slash.
    pub(crate) mounted_roots: Vec<String>,
    /// The tops of the host's roots that are links, such as `bin`.
    pub(crate) linked_roots: Vec<String>,
}

impl Skeleton {
    /// Finds the directories in `parent`, or makes them there. The user that programs are has the number `job`, as they see it.
    pub(crate) fn open(parent: &Path, roots: &[PathBuf], owner: Option<(u32, u32)>, job: u32) -> io::Result<Self> {
        let tops = Tops::find(roots)?;
        let name = identity(&tops, owner, job)?;
        let directory = SharedDirectory::open(parent, PREFIX, &name, |directory| fill(directory, &tops, owner, job))?;
        let linked_roots = tops.linked.into_iter().map(|(name, _)| name).collect();
        Ok(Self { directory, mounted_roots: tops.mounted, linked_roots })
    }

    /// The lowest layer of roots with or without the host's base.
    pub(crate) fn root(&self, with_base: bool) -> PathBuf {
        self.directory.path().join(if with_base { ROOT_WITH_BASE } else { ROOT_BARE })
    }

    /// What is shown at `/dev`.
    pub(super) fn devices(&self) -> PathBuf {
        self.directory.path().join(DEVICES_SHOWN)
    }

    /// An empty directory to mount on.
    pub(super) fn mount_point(&self) -> PathBuf {
        self.directory.path().join(MOUNT_POINT)
    }
}

/// The configured roots by the way in which they are shown.
struct Tops {
    mounted: Vec<String>,
    /// With their targets.
    linked: Vec<(String, PathBuf)>,
    /// Those of `/etc`.
    copied: Vec<PathBuf>,
}

impl Tops {
    fn find(roots: &[PathBuf]) -> io::Result<Self> {
        let mut tops = Self { mounted: Vec::new(), linked: Vec::new(), copied: Vec::new() };
        for root in roots {
            let Ok(relative) = root.strip_prefix("/") else { continue };
            if relative.starts_with("etc") {
                tops.copied.push(root.clone());
                continue;
            }
            let (Some(name), Ok(metadata)) = (relative.to_str(), fs::symlink_metadata(root)) else { continue };
            if metadata.is_symlink() {
                tops.linked.push((name.to_owned(), fs::read_link(root)?));
            } else if metadata.is_dir() {
                tops.mounted.push(name.to_owned());
            }
        }
        Ok(tops)
    }
}

/// A name for what [`fill`] would make.
fn identity(tops: &Tops, owner: Option<(u32, u32)>, job: u32) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(include_bytes!("skeleton.rs"));
    hasher.update(&fs::read("/proc/sys/kernel/random/boot_id")?);
    hasher.update(format!("{owner:?} {job} {:?} {:?}", tops.mounted, tops.linked).as_bytes());
    for root in &tops.copied {
        hash_status(&mut hasher, root)?;
    }
    let hash = hasher.finalize().to_hex();
    Ok(hash.get(..32).unwrap_or_default().to_owned())
}

fn hash_status(hasher: &mut blake3::Hasher, path: &Path) -> io::Result<()> {
    let name = path.as_os_str().as_encoded_bytes();
    hasher.update(&(name.len() as u64).to_le_bytes());
    hasher.update(name);
    let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(()) };
    for number in [
        u64::from(metadata.mode()),
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime().cast_unsigned(),
        metadata.mtime_nsec().cast_unsigned(),
        metadata.ctime().cast_unsigned(),
        metadata.ctime_nsec().cast_unsigned(),
    ] {
        hasher.update(&number.to_le_bytes());
    }
    if metadata.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
        paths.retain(|path| !base::is_secret(path));
        paths.sort_unstable();
        paths.iter().try_for_each(|path| hash_status(hasher, path))?;
    }
    Ok(())
}

/// Makes everything in an empty directory.
fn fill(directory: &Path, tops: &Tops, owner: Option<(u32, u32)>, job: u32) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(directory.join(MOUNT_POINT))?;
    fill_devices(&directory.join(DEVICES_SHOWN))?;
    let roots = [directory.join(ROOT_WITH_BASE), directory.join(ROOT_BARE)];
    for root in &roots {
        fill_common(root, job)?;
    }
    let [with_base, _] = &roots;
    for root in &tops.copied {
        let Ok(relative) = root.strip_prefix("/") else { continue };
        let to = with_base.join(relative);
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        copy_tree(root, &to)?;
    }
    for (name, target) in &tops.linked {
        symlink(target, with_base.join(name))?;
    }
    for name in &tops.mounted {
        fs::create_dir_all(with_base.join(name))?;
    }
    if let Some((uid, gid)) = owner {
        give(directory, uid, gid)?;
    }
    roots.iter().try_for_each(|root| set_modes(root, 0o555))
}

fn fill_devices(devices: &Path) -> io::Result<()> {
    fs::create_dir(devices)?;
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

/// Sets the mode of the directories that belong to nobody in particular; programs may not write there.
fn set_modes(root: &Path, mode: u32) -> io::Result<()> {
    for name in FIXED.into_iter().map(|name| root.join(name)).chain([root.to_path_buf()]) {
        fs::set_permissions(name, PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

fn fill_common(root: &Path, id: u32) -> io::Result<()> {
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
