//! From a specification to the script that makes its place.

use std::borrow::Cow;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{JOB_ID, landlock, seccomp};
use muster_model::limits;

use super::protocol::{COUNTERS, DESCRIPTORS_MAX, LOAD, SCRATCH};
use super::script::{Argument, Script, SealedScript};
use super::skeleton::Skeleton;
use crate::layers::{Overlay, check_layer, clean_absolute, overlays, shown_at};
use crate::{EnvironmentError, EnvironmentSpec, Profile};

// From linux/mount.h.
const FSCONFIG_SET_FLAG: i32 = 0;
const FSCONFIG_SET_STRING: i32 = 1;
const FSCONFIG_CMD_CREATE: i32 = 6;
const FSOPEN_CLOEXEC: i32 = 1;
const FSMOUNT_CLOEXEC: i32 = 1;
pub(crate) const MOUNT_ATTR_RDONLY: u64 = 1;
pub(crate) const MOUNT_ATTR_NOSUID: u64 = 2;
pub(crate) const MOUNT_ATTR_NODEV: u64 = 4;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 8;
pub(crate) const MOVE_MOUNT_F_EMPTY_PATH: i32 = 4;
pub(crate) const OPEN_TREE_CLONE: u32 = 1;
pub(crate) const AT_RECURSIVE: i32 = 0x8000;

/// Directories to be opened keep these numbers, so that option strings can name them before they are open.
const FIRST_DIRECTORY: i32 = 100;

/// The directory of the tmpfs that becomes the root.
const ROOT: &str = "root";

/// A mount of the host, ready to be moved into a place.
struct Ready {
    mount: i32,
    /// Where it goes, without the first slash.
    name: String,
}

/// What the shape of a place depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) with_base: bool,
    pub(super) layers: Vec<(PathBuf, PathBuf)>,
    pub(super) working_directory: PathBuf,
    pub(super) memory_bytes: u64,
    pub(super) profile: Profile,
}

impl Shape {
    /// Takes from a specification what matters for the place.
    pub(super) fn new(spec: &EnvironmentSpec) -> Self {
        Self {
            with_base: spec.with_base,
            layers: spec.layers.iter().map(|layer| (layer.directory.clone(), layer.mount_path.clone())).collect(),
            working_directory: spec.command.working_directory.as_str().into(),
            memory_bytes: spec.memory_bytes,
            profile: spec.profile,
        }
    }
}

/// A script that makes places of one shape.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) setup: SealedScript,
    /// Paths inside that are mounts of their own with files of the program's; the first is `/`.
    pub(super) roots: Vec<PathBuf>,
    /// Overlays: where they are shown, and the names of their upper directories in the tmpfs.
    pub(super) overlays: Vec<(PathBuf, String)>,
    /// The directories of the host that are layers.
    pub(super) directories: Vec<PathBuf>,
}

/// What the host is like.
pub(super) struct Host<'a> {
    pub(super) skeleton: &'a Skeleton,
    /// Whether the agent may change its groups, being root.
    pub(super) is_root: bool,
    pub(super) last_capability: u32,
    /// What the kernel can do of Landlock; 0 for nothing.
    pub(super) landlock: u32,
    /// Files of `/proc` to hide, those of [`MASKED`] that this kernel has.
    pub(super) masked: Vec<&'static str>,
}

/// Files of `/proc` that tell of the whole kernel, or do something to it.
const MASKED: [&str; 6] = ["kcore", "key-users", "keys", "kmsg", "sysrq-trigger", "timer_list"];

/// Those that there are.
pub(super) fn masked() -> Vec<&'static str> {
    MASKED.into_iter().filter(|name| Path::new("/proc").join(name).exists()).collect()
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

/// Where overlays are shown, the root first, and the names of their upper directories.
fn upper_directories(roots: &[PathBuf]) -> Vec<(PathBuf, String)> {
    let names = std::iter::once(ROOT.to_owned()).chain((0..roots.len()).map(part_name));
    roots.iter().cloned().zip(names.map(|name| upper_name(&name))).collect()
}

fn part_name(index: usize) -> String {
    format!("part-{index}")
}

fn upper_name(name: &str) -> String {
    format!("{name}.upper")
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
        let overlays = overlays(self.host.skeleton, layers, shape.with_base);
        let mut roots = vec![PathBuf::from("/")];
        roots.extend(overlays.iter().map(|overlay| overlay.mount_path.clone()));
        let uppers = upper_directories(&roots);
        // One descriptor of a message is the first process's own, and one the tmpfs.
        roots.truncate(DESCRIPTORS_MAX - 2);
        self.script.roots(&roots)?;
        open_counters(&mut self.script);

        // With the agent's own rights: its directories need not be open to the id that the program runs under.
        let skeleton_root = self.directory(&self.host.skeleton.root(shape.with_base))?;
        let mount_point = self.directory(&self.host.skeleton.mount_point())?;
        let ready = self.ready_mounts(&overlays, shape.with_base)?;
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
        // From here the names of layers are numbers: one option takes 255 bytes (`fsconfig(2)`), which is 63 of them.
        let open = self.script.text("/proc/self/fd");
        self.script.call("enter /proc/self/fd", libc::SYS_chdir, [open]);
        let root = self.overlay(&root_lower, ROOT)?;
        self.move_mount("put the root in its place", root, Argument::Value(SCRATCH.into()), ROOT);
        for Ready { mount, name } in &ready {
            self.move_mount(format!("mount /{name}"), (*mount).into(), root, name);
        }
        for (index, (overlay, lower)) in overlays.iter().zip(&overlay_lower).enumerate() {
            let mount = self.overlay(lower, &part_name(index))?;
            self.mounts.push((mount, overlay.mount_path.clone()));
        }
        self.own_file_systems();
        self.pivot(root);
        for overlay in &overlays {
            self.make_directories(&overlay.mount_path)?;
        }
        self.move_mounts()?;
        self.working_directory(layers, working_directory)?;
        self.mask_processes();
        self.finish(shape.profile)?;
        let setup = self.script.seal().map_err(|error| super::step("write a script", error))?;
        Ok(Plan {
            setup,
            roots,
            overlays: uppers,
            directories: layers.iter().map(|(directory, _)| directory.clone()).collect(),
        })
    }

    /// Puts mounts that are made where they go.
    fn move_mounts(&mut self) -> Result<(), EnvironmentError> {
        for (mount, path) in std::mem::take(&mut self.mounts) {
            let to = self.script.path(&path)?;
            let empty = self.script.text("");
            self.script.call(
                format!("mount {}", path.display()),
                libc::SYS_move_mount,
                [mount, empty, libc::AT_FDCWD.into(), to, MOVE_MOUNT_F_EMPTY_PATH.into()],
            );
        }
        Ok(())
    }

    /// The mounts that the launcher has made: roots of the base, and `/dev`.
    fn ready_mounts(&mut self, overlays: &[Overlay], with_base: bool) -> Result<Vec<Ready>, EnvironmentError> {
        let skeleton = self.host.skeleton;
        let names = skeleton.mounted_roots.iter().filter(|name| {
            let path = Path::new("/").join(name);
            with_base && !overlays.iter().any(|overlay| overlay.mount_path == path)
        });
        let mut ready = Vec::new();
        for name in names.map(String::as_str).chain(["dev"]) {
            ready.push(Ready { mount: self.directory(&skeleton.root(true).join(name))?, name: name.to_owned() });
        }
        Ok(ready)
    }

    /// Opens a directory under a number that is known now.
    fn directory(&mut self, path: &Path) -> Result<i32, EnvironmentError> {
        let name = self.script.path(path)?;
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
        let step = format!("open {}", path.display());
        self.script.call(step.clone(), libc::SYS_openat, [libc::AT_FDCWD.into(), name, flags.into()]);
        let opened = self.script.keep_briefly();
        let number = FIRST_DIRECTORY + self.directories;
        self.directories += 1;
        self.script.call(step.clone(), libc::SYS_dup3, [opened, number.into(), libc::O_CLOEXEC.into()]);
        self.script.call(step, libc::SYS_close, [opened]);
        Ok(number)
    }

    /// Becomes the program's user, with all rights over the namespaces.
    fn take_identity(&mut self) {
        if self.host.is_root {
            self.script.call("leave the agent's groups", libc::SYS_setgroups, [0.into(), 0.into()]);
        }
        let id = Argument::from(JOB_ID);
        self.script.call("take the program's group", libc::SYS_setresgid, [id, id, id]);
        self.script.call("take the program's user", libc::SYS_setresuid, [id, id, id]);
    }

    fn make_scratch(&mut self, memory_bytes: u64, mount_point: i32) -> Result<(), EnvironmentError> {
        let size = memory_bytes.to_string();
        let nodes = limits::SANDBOX_NODES_MAX.to_string();
        let options = [("size", size.as_str()), ("nr_inodes", nodes.as_str()), ("mode", "0755")];
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
        let upper = upper_name(name);
        let work = format!("{name}.work");
        // The root of an overlay looks like its upper directory. Nobody makes files in `/` but the layers; elsewhere it is the program's.
        self.make_scratch_directory(&upper, if name == ROOT { 0o555 } else { 0o755 });
        self.make_scratch_directory(&work, 0o755);
        let lower = lower.iter().map(i32::to_string).collect::<Vec<_>>().join(":");
        let upper = format!("/proc/self/fd/{SCRATCH}/{upper}");
        let work = format!("/proc/self/fd/{SCRATCH}/{work}");
        let options = [("lowerdir", lower.as_str()), ("upperdir", upper.as_str()), ("workdir", work.as_str())];
        let flags = ["userxattr"];
        Ok(self.file_system("make an overlay", "overlay", &options, &flags, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV))
    }

    /// A detached mount of a new file system.
    fn file_system(
        &mut self,
        step: &'static str,
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

    fn move_mount(&mut self, step: impl Into<Cow<'static, str>>, mount: Argument, to: Argument, name: &str) {
        let (empty, name) = (self.script.text(""), self.script.text(name));
        let arguments = [mount, empty, to, name, MOVE_MOUNT_F_EMPTY_PATH.into()];
        self.script.call(step, libc::SYS_move_mount, arguments);
    }

    /// `/proc`, and what is in `/dev` that a program can change; never anything that a layer brings.
    fn own_file_systems(&mut self) {
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

    /// Hides what the kernel tells of itself, and makes its switches unwritable for whoever should get the rights to them.
    fn mask_processes(&mut self) {
        for name in &self.host.masked {
            let path = format!("/proc/{name}");
            let step = format!("hide {path}");
            let (null, to, empty) = (self.script.text("/dev/null"), self.script.text(&path), self.script.text(""));
            let flags = OPEN_TREE_CLONE.cast_signed() | libc::O_CLOEXEC;
            self.script.call(step.clone(), libc::SYS_open_tree, [libc::AT_FDCWD.into(), null, flags.into()]);
            let mount = self.script.keep_briefly();
            let arguments = [mount, empty, libc::AT_FDCWD.into(), to, MOVE_MOUNT_F_EMPTY_PATH.into()];
            self.script.call(step.clone(), libc::SYS_move_mount, arguments);
            self.script.call(step, libc::SYS_close, [mount]);
        }
        let step = "make /proc/sys read-only";
        let (path, empty) = (self.script.text("/proc/sys"), self.script.text(""));
        let flags = OPEN_TREE_CLONE.cast_signed() | libc::O_CLOEXEC;
        self.script.call(step, libc::SYS_open_tree, [libc::AT_FDCWD.into(), path, flags.into()]);
        let mount = self.script.keep_briefly();
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
        let attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
        let attributes = self.script.bytes(&[attributes, 0, 0, 0].map(u64::to_ne_bytes).concat());
        let arguments = [mount, empty, libc::AT_EMPTY_PATH.into(), attributes, 32.into()];
        self.script.call(step, libc::SYS_mount_setattr, arguments);
        let arguments = [mount, empty, libc::AT_FDCWD.into(), path, MOVE_MOUNT_F_EMPTY_PATH.into()];
        self.script.call(step, libc::SYS_move_mount, arguments);
        self.script.call(step, libc::SYS_close, [mount]);
    }

    /// Gives up every right.
    fn finish(&mut self, profile: Profile) -> Result<(), EnvironmentError> {
        let arguments = [libc::PR_SET_PDEATHSIG.into(), libc::SIGKILL.into()];
        self.script.call("die with the launcher", libc::SYS_prctl, arguments);
        give_up_rights(&mut self.script, self.host.landlock, profile)
    }
}

/// Gives up every right that is left. The filter of system calls is last: it would forbid what is before it.
pub(crate) fn give_up_rights(script: &mut Script, landlock: u32, profile: Profile) -> Result<(), EnvironmentError> {
    // struct __user_cap_header_struct with _LINUX_CAPABILITY_VERSION_3, then two empty __user_cap_data_struct.
    let header = script.bytes(&[0x2008_0522_u32.to_ne_bytes(), [0; 4]].concat());
    let none = script.bytes(&[0; 24]);
    script.call("give up all capabilities", libc::SYS_capset, [header, none]);
    script.call("hide from the program", libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 0.into()]);
    landlock::confine(script, landlock);
    // A sandbox's tmpfs goes to the agent before it is closed.
    for (first, last) in [(LOAD + 1, (SCRATCH - 1).into()), (SCRATCH + 1, Argument::Value(u32::MAX.into()))] {
        script.call("close what is open", libc::SYS_close_range, [first.into(), last, 0.into()]);
    }
    let program = seccomp::filter(profile)?;
    let count = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let program = script.filter_program(count, &seccomp::bytes(&program));
    let arguments = [libc::SECCOMP_SET_MODE_FILTER.into(), 0.into(), program];
    script.call("filter system calls", libc::SYS_seccomp, arguments);
    Ok(())
}

/// Keeps what the kernel counts of this process and its namespace open: the files can't be opened any more when they are hidden.
pub(crate) fn open_counters(script: &mut Script) {
    for (path, open, keep, number) in [
        ("/proc/self/io", "open /proc/self/io", "keep /proc/self/io", COUNTERS),
        ("/proc/loadavg", "open /proc/loadavg", "keep /proc/loadavg", LOAD),
    ] {
        let name = script.text(path);
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        script.call(open, libc::SYS_openat, [libc::AT_FDCWD.into(), name, flags.into()]);
        // Not every kernel counts.
        script.tolerate(&[libc::ENOENT]);
        let opened = script.keep_briefly();
        script.call(keep, libc::SYS_dup3, [opened, number.into(), libc::O_CLOEXEC.into()]);
        script.tolerate(&[libc::EBADF, libc::EINVAL]);
    }
}
