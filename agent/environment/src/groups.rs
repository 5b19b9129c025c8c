//! Limits that hold for a whole environment, through control groups of version 1 or 2, or none.
//!
//! A group belongs to a slot and is used by one environment after the other, because making and removing one costs more than a start.

mod foreign;
mod one;
mod two;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::KillReason;

pub(crate) use self::foreign::ForeignGroup;

/// Names of groups begin with it; then come the owner's process id and start time, and a number.
const PREFIX: &str = "muster-";
/// How often the removal of a group is tried: the kernel refuses while a process in it is still dying.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// What a group can tell about one use of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupUsage {
    /// Peak memory, in bytes; 0 where the kernel can't tell.
    pub(crate) memory_peak_bytes: u64,
    /// Processor time; `None` where the kernel can't tell.
    pub(crate) cpu: Option<Duration>,
    /// Processes killed for want of memory.
    pub(crate) memory_kills: u64,
    /// How often a process or thread was refused because there were as many as may be.
    pub(crate) refused_processes: u64,
    /// Processes and threads of the program's now, without the launcher and the first process; 0 where nobody counts.
    pub(crate) processes: u32,
    /// Most of them at one time, if that is the most that there have ever been in this group; 0 otherwise.
    pub(crate) processes_peak: u32,
}

/// The launcher and the first process, which are in the group with the program.
const OWN_PROCESSES: u32 = 2;

/// What the kernel's counts of processes say of the program's.
fn of_program(count: Option<u32>) -> u32 {
    count.unwrap_or(0).saturating_sub(OWN_PROCESSES)
}

impl GroupUsage {
    /// The limit that was passed, if one was.
    pub(crate) fn excess(&self) -> Option<KillReason> {
        match self {
            Self { memory_kills: 1.., .. } => Some(KillReason::Memory),
            Self { refused_processes: 1.., .. } => Some(KillReason::Processes),
            _ => None,
        }
    }
}

/// One group. Dropping it removes it; nobody may be in it then.
pub(crate) trait ControlGroup: Send {
    /// Puts a process, and so all that it clones from then on, into the group.
    fn enter(&self, process: u32) -> io::Result<()>;
    /// Files into which a process writes `0` to enter by itself; none where there is no group.
    fn doors(&self) -> io::Result<Vec<fs::File>>;
    /// Sets the limits and notes the counters.
    fn begin(&mut self, memory_bytes: u64, processes: u32) -> io::Result<()>;
    /// What was used since `begin`.
    fn usage(&self) -> GroupUsage;
    /// Has everything in it stand still, the launcher included; false where the machine can't. It takes a moment: see [`Self::is_frozen`].
    fn freeze(&self) -> bool;
    /// Whether everything stands still.
    fn is_frozen(&self) -> bool;
    /// Lets everything go on, or die.
    fn thaw(&self);
    /// The processes in it.
    fn processes(&self) -> Vec<u32>;
}

/// The way in which this machine limits.
#[derive(Debug)]
pub(crate) enum Groups {
    /// Version 1, where each controller has a tree of its own.
    One(one::Trees),
    /// Version 2.
    Two(two::Tree),
    /// Not at all, and why.
    None(String),
}

impl Groups {
    /// Finds the way that works, and removes groups that dead processes left there.
    pub(crate) fn discover() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let (mounts, memberships) = (read("/proc/self/mountinfo"), read("/proc/self/cgroup"));
        let ways = [
            one::Trees::find(&mounts, &memberships).map(|found| found.map(Self::One)),
            two::Tree::find(&mounts, &memberships).map(|found| found.map(Self::Two)),
        ];
        let mut reason = "the kernel has no memory and process controllers mounted".to_owned();
        for way in ways.into_iter().flatten() {
            let tried = way.and_then(|groups| {
                groups.remove_leftovers();
                groups.create().map(|_removed_at_once| groups)
            });
            match tried {
                Ok(groups) => return groups,
                Err(error) => reason = format!("its control groups cannot be written: {error}"),
            }
        }
        Self::None(reason)
    }

    /// Makes a group.
    pub(crate) fn create(&self) -> io::Result<Box<dyn ControlGroup>> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let name = format!("{PREFIX}{process}-{}-{number}", start_time(process).unwrap_or_default());
        match self {
            Self::One(trees) => Ok(Box::new(trees.create(&name)?)),
            Self::Two(tree) => Ok(Box::new(tree.create(&name)?)),
            Self::None(_) => Ok(Box::new(NoGroup)),
        }
    }

    fn remove_leftovers(&self) {
        let parents = match self {
            Self::One(trees) => trees.parents(),
            Self::Two(tree) => vec![tree.parent()],
            Self::None(_) => Vec::new(),
        };
        for entry in parents.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten() {
            if entry.file_name().to_str().and_then(is_left_over).unwrap_or(false) {
                for process in processes(&entry.path().join("cgroup.procs")) {
                    // It may have ended since.
                    let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGKILL);
                }
                // Its owner may have died while it stood still; what stands still in version 1 does not die. Each file is of one version only.
                for (name, value) in [("freezer.state", "THAWED"), ("cgroup.kill", "1"), ("cgroup.freeze", "0")] {
                    let _ = set(&entry.path(), name, value);
                }
                remove(&entry.path());
            }
        }
    }
}

/// Whether a name is a group's whose owner is dead; `None` when it is not a group's name at all.
fn is_left_over(name: &str) -> Option<bool> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let process = parts.next()?.parse().ok()?;
    let started = parts.next()?.parse::<u64>().ok()?;
    Some(start_time(process) != Some(started))
}

/// When a process started, in clock ticks since the machine did (`proc_pid_stat(5)`, field 22): with its id a name that is never used twice.
fn start_time(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn processes(path: &Path) -> Vec<nix::unistd::Pid> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|id| *id > 0).map(nix::unistd::Pid::from_raw).collect()
}

/// The processes in a directory, as numbers.
fn members(directory: &Path) -> Vec<u32> {
    let found = processes(&directory.join("cgroup.procs"));
    found.into_iter().filter_map(|process| u32::try_from(process.as_raw()).ok()).collect()
}

fn remove(directory: &Path) {
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(REMOVE_PAUSE),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, directory = %directory.display(), "cannot remove a control group");
                return;
            }
            Ok(()) | Err(_) => return,
        }
    }
    tracing::warn!(directory = %directory.display(), "a control group is still in use");
}

/// Writes a value into a control file, which is never made.
fn set(directory: &Path, name: &str, value: impl ToString) -> io::Result<()> {
    let path = directory.join(name);
    let written = fs::OpenOptions::new().write(true).open(&path);
    written
        .and_then(|mut file| io::Write::write_all(&mut file, value.to_string().as_bytes()))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// The door of one directory: see [`ControlGroup::doors`].
fn door(directory: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).open(directory.join("cgroup.procs"))
}

/// The value of a line `KEY VALUE` in a control file.
fn keyed(directory: &Path, name: &str, key: &str) -> Option<u64> {
    value_of(&fs::read_to_string(directory.join(name)).ok()?, key)
}

/// The value of a line `KEY VALUE`.
fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A mounted tree: where, which directory of the tree is shown there, and its options.
#[derive(Debug, PartialEq, Eq)]
struct Mounted<'a> {
    shown: &'a str,
    at: &'a str,
    kind: &'a str,
    options: &'a str,
}

/// Reads `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
fn mounted(mounts: &str) -> impl Iterator<Item = Mounted<'_>> {
    mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let mut after = after.split(' ');
        let (shown, at) = (before.next()?, before.next()?);
        Some(Mounted { shown, at, kind: after.next()?, options: after.nth(1)? })
    })
}

/// The directory of the group that this process is in; `controller` is empty for version 2 (`cgroups(7)`).
fn own_directory(mount: &Mounted<'_>, memberships: &str, controller: &str) -> Option<PathBuf> {
    let membership = memberships.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == controller).then_some(path)
    })?;
    let relative = Path::new(membership).strip_prefix(mount.shown).ok()?;
    Some(Path::new(mount.at).join(relative))
}

/// No group: no limits.
struct NoGroup;

impl ControlGroup for NoGroup {
    fn enter(&self, _process: u32) -> io::Result<()> {
        Ok(())
    }

    fn doors(&self) -> io::Result<Vec<fs::File>> {
        Ok(Vec::new())
    }

    fn begin(&mut self, _memory_bytes: u64, _processes: u32) -> io::Result<()> {
        Ok(())
    }

    fn usage(&self) -> GroupUsage {
        GroupUsage::default()
    }

    fn freeze(&self) -> bool {
        false
    }

    fn is_frozen(&self) -> bool {
        false
    }

    fn thaw(&self) {}

    fn processes(&self) -> Vec<u32> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_tree_is_found_from_inside_a_container() {
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";
        let mount = mounted(mounts).next().expect("a mount");
        assert_eq!(mount.options, "rw,memory");
        let own = own_directory(&mount, "3:pids:/docker/abc\n2:memory:/docker/abc/job\n", "memory");
        assert_eq!(own, Some("/sys/fs/cgroup/memory/job".into()));
        assert_eq!(own_directory(&mount, "2:memory:/elsewhere\n", "memory"), None);
    }

    #[test]
    fn a_group_is_left_over_when_its_owner_is_dead() {
        let process = std::process::id();
        let started = start_time(process).expect("we live");
        assert_eq!(is_left_over(&format!("muster-{process}-{started}-0")), Some(false));
        assert_eq!(
            is_left_over(&format!("muster-{process}-{}-0", started + 1)),
            Some(true),
            "the number was used again"
        );
        assert_eq!(is_left_over("user.slice"), None);
    }
}
