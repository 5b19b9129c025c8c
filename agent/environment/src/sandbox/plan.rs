//! From a specification to the script that makes its place.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::script::{Argument, Script, SealedScript};
use super::skeleton::{DEVICES, Skeleton};
use super::{JOB_ID, child};
use crate::{EnvironmentError, StagedLayer};

// From linux/mount.h.
const FSCONFIG_SET_FLAG: i32 = 0;
const FSCONFIG_SET_STRING: i32 = 1;
const FSCONFIG_CMD_CREATE: i32 = 6;
const FSOPEN_CLOEXEC: i32 = 1;
const FSMOUNT_CLOEXEC: i32 = 1;
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;
const MOUNT_ATTR_NOEXEC: u64 = 8;
const MOVE_MOUNT_F_EMPTY_PATH: i32 = 4;
const OPEN_TREE_CLONE: u32 = 1;
const AT_RECURSIVE: i32 = 0x8000;

/// Directories to be opened keep these numbers, so that option strings can name them before they are open.
const FIRST_DIRECTORY: i32 = 100;
/// The one tmpfs of a sandbox.
const SCRATCH: i32 = 99;

/// The directory of the tmpfs that becomes the root.
const ROOT: &str = "root";

/// What the shape of a place depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) with_base: bool,
    pub(super) layers: Vec<(PathBuf, PathBuf)>,
    pub(super) working_directory: PathBuf,
    pub(super) memory_bytes: u64,
}

impl Shape {
    /// Takes from a specification what matters for the place.
    pub(super) fn new(with_base: bool, layers: &[StagedLayer], working_directory: &str, memory_bytes: u64) -> Self {
        Self {
            with_base,
            layers: layers.iter().map(|layer| (layer.directory.clone(), layer.mount_path.clone())).collect(),
            working_directory: working_directory.into(),
            memory_bytes,
        }
    }
}

/// A script that makes places of one shape.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) setup: SealedScript,
    /// Paths inside that are mounts of their own with files of the program's, with a final zero; the first is `/`.
    pub(super) roots: Vec<Vec<u8>>,
}

/// An overlay other than the root: where it is shown and what is under it, topmost first.
struct Overlay {
    mount_path: PathBuf,
    lower: Vec<PathBuf>,
}

/// What the host is like.
pub(super) struct Host<'a> {
    pub(super) skeleton: &'a Skeleton,
    /// Whether the agent may change its groups, being root.
    pub(super) is_root: bool,
    pub(super) last_capability: u32,
}

/// Writes the script.
///
/// # Errors
///
/// A specification that asks for something that is not safe.
pub(super) fn make_plan(host: &Host<'_>, shape: &Shape) -> Result<Plan, EnvironmentError> {
    let working_directory = clean_absolute(&shape.working_directory, "the working directory")?;
    let mut layers = Vec::new();
    for (directory, mount_path) in &shape.layers {
        layers.push((directory.clone(), clean_absolute(mount_path, "a layer's path")?));
    }
    for (directory, mount_path) in &layers {
        check_layer(directory, mount_path)?;
    }
    let builder = Builder { script: Script::default(), directories: 0, host, mounts: Vec::new() };
    builder.enter_identity(&layers, shape, &working_directory)
}

/// An absolute path without `.`, `..` or doubled slashes that does not lead into what is ours.
fn clean_absolute(path: &Path, what: &str) -> Result<PathBuf, EnvironmentError> {
    let safe = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let ours = ["/proc", "/dev", "/sys"].iter().any(|own| path.starts_with(own));
    if !path.is_absolute() || !safe || ours {
        let reason =
            if ours { "lies in a directory that the sandbox makes itself" } else { "is not a clean absolute path" };
        return Err(EnvironmentError::Invalid(format!("{what} {} {reason}", path.display())));
    }
    Ok(path.components().collect())
}

/// Refuses layers whose top would lead our mounts elsewhere.
fn check_layer(directory: &Path, mount_path: &Path) -> Result<(), EnvironmentError> {
    for own in ["proc", "dev", "sys", "etc", "usr"] {
        let Ok(inside) = Path::new("/").join(own).strip_prefix(mount_path).map(Path::to_path_buf) else { continue };
        if fs::symlink_metadata(directory.join(inside)).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(EnvironmentError::Invalid(format!("a layer has /{own}, which is not a directory")));
        }
    }
    Ok(())
}

fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Directories of `layers` that are shown at `path`, topmost first. What is not a directory hides the ones beneath it.
fn shown_at(layers: &[(PathBuf, PathBuf)], path: &Path) -> Vec<PathBuf> {
    let mut shown = Vec::new();
    for (directory, mount_path) in layers.iter().rev() {
        let Ok(inside) = path.strip_prefix(mount_path) else { continue };
        match look_inside(directory, inside) {
            Some(true) => shown.push(directory.join(inside)),
            Some(false) => break,
            None => {}
        }
    }
    shown
}

/// Whether a path in a layer is a directory; `None` when there is nothing. A link, a file or a whiteout on the way is none and is not
/// followed: it would lead out of the layer.
fn look_inside(directory: &Path, inside: &Path) -> Option<bool> {
    let mut place = directory.to_path_buf();
    for part in inside.components() {
        place.push(part);
        match fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Some(false),
            Err(_) => return None,
        }
    }
    is_real_directory(&place).then_some(true)
}

struct Builder<'a> {
    script: Script,
    directories: i32,
    host: &'a Host<'a>,
    /// Detached mounts and where they go, in order.
    mounts: Vec<(Argument, PathBuf)>,
}

impl Builder<'_> {
    fn enter_identity(
        mut self,
        layers: &[(PathBuf, PathBuf)],
        shape: &Shape,
        working_directory: &Path,
    ) -> Result<Plan, EnvironmentError> {
        let overlays = self.overlays(layers, shape.with_base);
        self.script.call("clear the file mode mask", libc::SYS_umask, [0.into()]);
        let (slash, none) = (self.script.text("/"), Argument::Value(0));
        let flags = (libc::MS_REC | libc::MS_PRIVATE) as i64;
        self.script.call("make the mounts private", libc::SYS_mount, [none, slash, none, flags.into()]);

        // With the agent's own rights: its directories need not be open to the id that the program runs under.
        let skeleton_root = self.directory(&self.host.skeleton.root(shape.with_base))?;
        let mount_point = self.directory(&self.host.skeleton.mount_point())?;
        let devices = self.directory(&self.host.skeleton.devices())?;
        let mut root_lower = Vec::new();
        for place in shown_at(layers, Path::new("/")) {
            root_lower.push(self.directory(&place)?);
        }
        root_lower.push(skeleton_root);
        let mut overlay_lower = Vec::new();
        for overlay in &overlays {
            let mut lower = Vec::new();
            for place in &overlay.lower {
                lower.push(self.directory(place)?);
            }
            overlay_lower.push(lower);
        }
        self.take_identity();
        self.make_scratch(shape.memory_bytes, mount_point)?;
        let root = self.overlay(&root_lower, ROOT)?;
        self.move_mount("put the root in its place", root, Argument::Value(SCRATCH.into()), ROOT);
        if shape.with_base {
            self.base_roots(&overlays)?;
        }
        for (index, (overlay, lower)) in overlays.iter().zip(&overlay_lower).enumerate() {
            let mount = self.overlay(lower, &format!("part-{index}"))?;
            self.mounts.push((mount, overlay.mount_path.clone()));
        }
        self.own_file_systems(devices)?;
        self.pivot(root);
        for overlay in &overlays {
            self.make_directories(&overlay.mount_path)?;
        }
        for (mount, path) in std::mem::take(&mut self.mounts) {
            let to = self.script.path(&path)?;
            let empty = self.script.text("");
            self.script.call(
                format!("mount {}", path.display()),
                libc::SYS_move_mount,
                [mount, empty, libc::AT_FDCWD.into(), to, MOVE_MOUNT_F_EMPTY_PATH.into()],
            );
        }
        self.working_directory(layers, working_directory)?;
        self.finish();
        let mut roots = vec![b"/\0".to_vec()];
        for overlay in &overlays {
            let mut path = overlay.mount_path.as_os_str().as_encoded_bytes().to_vec();
            path.push(0);
            roots.push(path);
        }
        roots.truncate(child::ROOTS_MAX);
        Ok(Plan { setup: self.script.seal(), roots })
    }

    /// Parts of the root that need an overlay of their own: layers shown elsewhere than `/`, and roots of the base that layers lie beneath.
    fn overlays(&self, layers: &[(PathBuf, PathBuf)], with_base: bool) -> Vec<Overlay> {
        let mut overlays = Vec::<Overlay>::new();
        if with_base {
            let skeleton = self.host.skeleton;
            for name in skeleton.mounted_roots.iter().chain(&skeleton.linked_roots) {
                let path = Path::new("/").join(name);
                let mut lower = shown_at(layers, &path);
                if !lower.is_empty() {
                    // A root that is a link on the host (`/lib`) becomes a directory, because a layer has a directory there.
                    lower.push(fs::canonicalize(&path).unwrap_or_else(|_| path.clone()));
                    overlays.push(Overlay { mount_path: path, lower });
                }
            }
        }
        for (_, mount_path) in layers {
            let known = overlays.iter().any(|overlay| &overlay.mount_path == mount_path);
            if mount_path != Path::new("/") && !known {
                let mut lower = shown_at(layers, mount_path);
                let in_base = self
                    .host
                    .skeleton
                    .mounted_roots
                    .iter()
                    .any(|name| mount_path.starts_with(Path::new("/").join(name)));
                if with_base && in_base && is_real_directory(mount_path) {
                    lower.push(mount_path.clone());
                }
                overlays.push(Overlay { mount_path: mount_path.clone(), lower });
            }
        }
        overlays.sort_by(|left, right| left.mount_path.cmp(&right.mount_path));
        overlays
    }

    /// Opens a directory under a number that is known now.
    fn directory(&mut self, path: &Path) -> Result<i32, EnvironmentError> {
        let name = self.script.path(path)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let step = format!("open {}", path.display());
        self.script.call(&step, libc::SYS_openat, [libc::AT_FDCWD.into(), name, flags.into()]);
        let opened = self.script.keep_briefly();
        let number = FIRST_DIRECTORY + self.directories;
        self.directories += 1;
        self.script.call(&step, libc::SYS_dup3, [opened, number.into(), libc::O_CLOEXEC.into()]);
        self.script.call(step, libc::SYS_close, [opened]);
        Ok(number)
    }

    /// Waits for the parent's identity maps and becomes the program's user, with all rights over the new namespaces.
    fn take_identity(&mut self) {
        let byte = self.script.bytes(&[0]);
        let from = Argument::from(child::REPORT_DESCRIPTOR);
        self.script.call("wait for the identity maps", libc::SYS_read, [from, byte, 1.into()]);
        self.script.require_result();
        if self.host.is_root {
            self.script.call("leave the agent's groups", libc::SYS_setgroups, [0.into(), 0.into()]);
        }
        let id = Argument::from(JOB_ID);
        self.script.call("take the program's group", libc::SYS_setresgid, [id, id, id]);
        self.script.call("take the program's user", libc::SYS_setresuid, [id, id, id]);
    }

    fn make_scratch(&mut self, memory_bytes: u64, mount_point: i32) -> Result<(), EnvironmentError> {
        let size = memory_bytes.to_string();
        let options = [("size", size.as_str()), ("mode", "0755")];
        let scratch = self.file_system("make a tmpfs", "tmpfs", &options, &[], MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
        let number = Argument::from(SCRATCH);
        self.script.call("make a tmpfs", libc::SYS_dup3, [scratch, number, libc::O_CLOEXEC.into()]);
        let (empty, here) = (self.script.text(""), self.script.text(""));
        // MOVE_MOUNT_T_EMPTY_PATH is 0x40.
        let flags = (MOVE_MOUNT_F_EMPTY_PATH | 0x40).into();
        self.script.call("mount a tmpfs", libc::SYS_move_mount, [number, empty, mount_point.into(), here, flags]);
        self.make_scratch_directory(ROOT, 0o755);
        self.make_scratch_directory("shm", 0o1777);
        Ok(())
    }

    fn make_scratch_directory(&mut self, name: &str, mode: i32) {
        let path = self.script.text(name);
        self.script.call("make a directory in the tmpfs", libc::SYS_mkdirat, [SCRATCH.into(), path, mode.into()]);
    }

    fn overlay(&mut self, lower: &[i32], name: &str) -> Result<Argument, EnvironmentError> {
        let upper = format!("{name}.upper");
        let work = format!("{name}.work");
        // The root of an overlay looks like its upper directory. Nobody makes files in `/` but the layers; elsewhere it is the program's.
        self.make_scratch_directory(&upper, if name == ROOT { 0o555 } else { 0o755 });
        self.make_scratch_directory(&work, 0o755);
        let lower = lower.iter().map(|number| format!("/proc/self/fd/{number}")).collect::<Vec<_>>().join(":");
        let upper = format!("/proc/self/fd/{SCRATCH}/{upper}");
        let work = format!("/proc/self/fd/{SCRATCH}/{work}");
        let options = [("lowerdir", lower.as_str()), ("upperdir", upper.as_str()), ("workdir", work.as_str())];
        let flags = ["userxattr"];
        Ok(self.file_system("make an overlay", "overlay", &options, &flags, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV))
    }

    /// A detached mount of a new file system.
    fn file_system(
        &mut self,
        step: &str,
        kind: &str,
        options: &[(&str, &str)],
        flags: &[&str],
        attributes: u64,
    ) -> Argument {
        let name = self.script.text(kind);
        self.script.call(step, libc::SYS_fsopen, [name, FSOPEN_CLOEXEC.into()]);
        let context = self.script.keep();
        for (key, value) in options {
            let (key, value) = (self.script.text(key), self.script.text(value));
            let arguments = [context, FSCONFIG_SET_STRING.into(), key, value, 0.into()];
            self.script.call(step, libc::SYS_fsconfig, arguments);
        }
        for key in flags {
            let key = self.script.text(key);
            self.script.call(step, libc::SYS_fsconfig, [context, FSCONFIG_SET_FLAG.into(), key, 0.into(), 0.into()]);
        }
        self.script.call(step, libc::SYS_fsconfig, [context, FSCONFIG_CMD_CREATE.into(), 0.into(), 0.into(), 0.into()]);
        let attributes = attributes.cast_signed();
        self.script.call(step, libc::SYS_fsmount, [context, FSMOUNT_CLOEXEC.into(), attributes.into()]);
        let mount = self.script.keep();
        self.script.call(step, libc::SYS_close, [context]);
        mount
    }

    fn move_mount(&mut self, step: &str, mount: Argument, to: Argument, name: &str) {
        let (empty, name) = (self.script.text(""), self.script.text(name));
        let arguments = [mount, empty, to, name, MOVE_MOUNT_F_EMPTY_PATH.into()];
        self.script.call(step, libc::SYS_move_mount, arguments);
    }

    /// A detached copy of the mount at a path.
    fn tree(&mut self, path: &Path, flags: i32) -> Result<Argument, EnvironmentError> {
        let name = self.script.path(path)?;
        let flags = OPEN_TREE_CLONE.cast_signed() | libc::O_CLOEXEC | flags;
        self.script.call(
            format!("take {} from the host", path.display()),
            libc::SYS_open_tree,
            [libc::AT_FDCWD.into(), name, flags.into()],
        );
        Ok(self.script.keep())
    }

    fn set_attributes(&mut self, step: String, mount: Argument, attributes: u64, flags: i32) {
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
        let attribute = self.script.bytes(&[attributes, 0, 0, 0].map(u64::to_ne_bytes).concat());
        let empty = self.script.text("");
        let flags = libc::AT_EMPTY_PATH | flags;
        self.script.call(step, libc::SYS_mount_setattr, [mount, empty, flags.into(), attribute, 32.into()]);
    }

    fn base_roots(&mut self, overlays: &[Overlay]) -> Result<(), EnvironmentError> {
        for name in &self.host.skeleton.mounted_roots {
            let path = Path::new("/").join(name);
            if overlays.iter().any(|overlay| overlay.mount_path == path) {
                continue;
            }
            let tree = self.tree(&path, AT_RECURSIVE)?;
            let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
            self.set_attributes(format!("make {} read-only", path.display()), tree, attributes, AT_RECURSIVE);
            self.mounts.push((tree, path));
        }
        Ok(())
    }

    /// `/dev`, `/proc` and what is in them; never anything that a layer brings.
    fn own_file_systems(&mut self, devices: i32) -> Result<(), EnvironmentError> {
        let empty = self.script.text("");
        let flags = OPEN_TREE_CLONE.cast_signed() | libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
        self.script.call("make /dev", libc::SYS_open_tree, [devices.into(), empty, flags.into()]);
        let devices = self.script.keep();
        let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
        self.set_attributes("make /dev read-only".into(), devices, attributes, 0);
        self.mounts.push((devices, "/dev".into()));
        for name in DEVICES {
            let path = Path::new("/dev").join(name);
            let device = self.tree(&path, 0)?;
            self.mounts.push((device, path));
        }
        let options = [("ptmxmode", "0666"), ("mode", "0620")];
        let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
        let terminals = self.file_system("make /dev/pts", "devpts", &options, &["newinstance"], attributes);
        self.mounts.push((terminals, "/dev/pts".into()));
        let shared = self.script.text("shm");
        let flags = OPEN_TREE_CLONE.cast_signed() | libc::O_CLOEXEC;
        self.script.call("make /dev/shm", libc::SYS_open_tree, [SCRATCH.into(), shared, flags.into()]);
        let shared = self.script.keep();
        self.mounts.push((shared, "/dev/shm".into()));
        let attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        let processes = self.file_system("make /proc", "proc", &[], &[], attributes);
        self.mounts.push((processes, "/proc".into()));
        Ok(())
    }

    fn pivot(&mut self, root: Argument) {
        let (here, slash) = (self.script.text("."), self.script.text("/"));
        self.script.call("enter the new root", libc::SYS_fchdir, [root]);
        self.script.call("make it the root", libc::SYS_pivot_root, [here, here]);
        self.script.call("let go of the old root", libc::SYS_umount2, [here, libc::MNT_DETACH.into()]);
        self.script.call("enter the new root", libc::SYS_chdir, [slash]);
    }

    fn make_directories(&mut self, path: &Path) -> Result<(), EnvironmentError> {
        let mut whole = PathBuf::new();
        for part in path.components() {
            whole.push(part);
            if whole == Path::new("/") {
                continue;
            }
            let name = self.script.path(&whole)?;
            let step = format!("make {}", whole.display());
            self.script.call(step, libc::SYS_mkdirat, [libc::AT_FDCWD.into(), name, 0o755.into()]);
            self.script.tolerate(&[libc::EEXIST, libc::EROFS]);
        }
        Ok(())
    }

    fn working_directory(&mut self, layers: &[(PathBuf, PathBuf)], path: &Path) -> Result<(), EnvironmentError> {
        let in_layer = shown_at(layers, path).first().and_then(|place| fs::metadata(place).ok());
        match in_layer {
            None => self.make_directories(path)?,
            Some(metadata) if metadata.mode() & 0o200 == 0 => {
                let name = self.script.path(path)?;
                let mode = Argument::from(metadata.mode() & 0o777 | 0o700);
                let step = format!("make {} writable", path.display());
                self.script.call(step, libc::SYS_fchmodat, [libc::AT_FDCWD.into(), name, mode]);
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Host name, loopback, and giving up every right.
    fn finish(&mut self) {
        let name = self.script.text("muster");
        self.script.call("name the host", libc::SYS_sethostname, [name, 6.into()]);
        let kind = Argument::from(libc::SOCK_DGRAM | libc::SOCK_CLOEXEC);
        self.script.call("bring the loopback up", libc::SYS_socket, [libc::AF_INET.into(), kind, 0.into()]);
        let socket = self.script.keep();
        // struct ifreq: the name in 16 bytes, then the flags.
        let mut request = [0_u8; 40];
        request[..2].copy_from_slice(b"lo");
        request[16..18].copy_from_slice(&((libc::IFF_UP | libc::IFF_RUNNING) as u16).to_ne_bytes());
        let request = self.script.bytes(&request);
        let set_flags = (libc::SIOCSIFFLAGS as i64).into();
        self.script.call("bring the loopback up", libc::SYS_ioctl, [socket, set_flags, request]);
        for capability in 0..=self.host.last_capability {
            let arguments = [libc::PR_CAPBSET_DROP.into(), capability.into()];
            self.script.call("give up a capability", libc::SYS_prctl, arguments);
        }
        let limit = self.script.bytes(&[0; 16]);
        let arguments = [0.into(), libc::RLIMIT_CORE.into(), limit, 0.into()];
        self.script.call("forbid core dumps", libc::SYS_prlimit64, arguments);
        let arguments = [libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()];
        self.script.call("forbid new privileges", libc::SYS_prctl, arguments);
        // struct __user_cap_header_struct with _LINUX_CAPABILITY_VERSION_3, then two empty __user_cap_data_struct.
        let header = self.script.bytes(&[0x2008_0522_u32.to_ne_bytes(), [0; 4]].concat());
        let none = self.script.bytes(&[0; 24]);
        self.script.call("give up all capabilities", libc::SYS_capset, [header, none]);
        self.script.call("hide from the program", libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 0.into()]);
        let arguments = [libc::PR_SET_PDEATHSIG.into(), libc::SIGKILL.into()];
        self.script.call("die with the agent", libc::SYS_prctl, arguments);
        let arguments = [3.into(), Argument::Value(u32::MAX.into()), 0.into()];
        self.script.call("close what is open", libc::SYS_close_range, arguments);
    }
}
