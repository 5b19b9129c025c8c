//! The group of a process that somebody else limits: looked at, and made to stand still.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{GroupUsage, keyed, members, mounted, own_directory, set};

/// The directories that count for a process, in either version.
#[derive(Debug, PartialEq, Eq)]
enum Directories {
    One { memory: PathBuf, processes: PathBuf, cpu: Option<PathBuf>, freezer: Option<PathBuf> },
    Two(PathBuf),
}

/// What a group counts from its beginning. The group goes with its last process, but what was seen last stays.
#[derive(Debug)]
pub(crate) struct ForeignGroup {
    directories: Directories,
    seen: Mutex<GroupUsage>,
}

impl ForeignGroup {
    /// The group that a process is in; `None` where memory and processes are not counted.
    pub(crate) fn of(process: u32) -> Option<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (mounts, memberships) = (read("/proc/self/mountinfo"), read(&format!("/proc/{process}/cgroup")));
        Some(Self { directories: Directories::find(&mounts, &memberships)?, seen: Mutex::default() })
    }

    /// The most that was seen so far.
    pub(crate) fn usage(&self) -> GroupUsage {
        let now = self.directories.usage();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = GroupUsage {
            memory_peak_bytes: seen.memory_peak_bytes.max(now.memory_peak_bytes),
            cpu: seen.cpu.max(now.cpu),
            memory_kills: seen.memory_kills.max(now.memory_kills),
            refused_processes: seen.refused_processes.max(now.refused_processes),
            processes: now.processes,
            processes_peak: seen.processes_peak.max(now.processes_peak),
        };
        *seen
    }

    /// See [`ControlGroup::freeze`](super::ControlGroup::freeze).
    pub(crate) fn freeze(&self) -> bool {
        self.directories.set_freezer(true)
    }

    /// Whether everything stands still.
    pub(crate) fn is_frozen(&self) -> bool {
        match &self.directories {
            Directories::One { freezer, .. } => {
                let state = freezer.as_deref().map(|freezer| fs::read_to_string(freezer.join("freezer.state")));
                state.is_some_and(|state| state.is_ok_and(|state| state.trim() == "FROZEN"))
            }
            Directories::Two(directory) => keyed(directory, "cgroup.events", "frozen") == Some(1),
        }
    }

    /// Lets everything go on, or die.
    pub(crate) fn thaw(&self) {
        self.directories.set_freezer(false);
    }

    /// The processes in it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        match &self.directories {
            Directories::One { processes, .. } => members(processes),
            Directories::Two(directory) => members(directory),
        }
    }
}

impl Directories {
    fn find(mounts: &str, memberships: &str) -> Option<Self> {
        let one = |controller: &str| {
            let mount = mounted(mounts)
                .find(|mount| mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller))?;
            own_directory(&mount, memberships, controller)
        };
        if let (Some(memory), Some(processes)) = (one("memory"), one("pids")) {
            return Some(Self::One { memory, processes, cpu: one("cpuacct"), freezer: one("freezer") });
        }
        let mount = mounted(mounts).find(|mount| mount.kind == "cgroup2")?;
        own_directory(&mount, memberships, "").map(Self::Two)
    }

    /// Whether the kernel took the word.
    fn set_freezer(&self, is_still: bool) -> bool {
        let written = match self {
            Self::One { freezer: None, .. } => return false,
            Self::One { freezer: Some(freezer), .. } => {
                set(freezer, "freezer.state", if is_still { "FROZEN" } else { "THAWED" })
            }
            Self::Two(directory) => set(directory, "cgroup.freeze", u8::from(is_still)),
        };
        written.is_ok()
    }

    fn usage(&self) -> GroupUsage {
        let number = |directory: &Path, name: &str| -> Option<u64> {
            fs::read_to_string(directory.join(name)).ok()?.trim().parse().ok()
        };
        match self {
            Self::One { memory, processes, cpu, freezer: _ } => GroupUsage {
                memory_peak_bytes: number(memory, "memory.max_usage_in_bytes").unwrap_or(0),
                cpu: cpu.as_deref().and_then(|cpu| number(cpu, "cpuacct.usage")).map(Duration::from_nanos),
                memory_kills: keyed(memory, "memory.oom_control", "oom_kill").unwrap_or(0),
                refused_processes: keyed(processes, "pids.events", "max").unwrap_or(0),
                processes: of_program(number(processes, "pids.current")),
                processes_peak: of_program(number(processes, "pids.peak")),
            },
            Self::Two(directory) => GroupUsage {
                memory_peak_bytes: number(directory, "memory.peak").unwrap_or(0),
                cpu: keyed(directory, "cpu.stat", "usage_usec").map(Duration::from_micros),
                memory_kills: keyed(directory, "memory.events", "oom_kill").unwrap_or(0),
                refused_processes: keyed(directory, "pids.events", "max").unwrap_or(0),
                processes: of_program(number(directory, "pids.current")),
                processes_peak: of_program(number(directory, "pids.peak")),
            },
        }
    }
}

/// What the kernel's counts of processes say of the program's: the first process is in the group with it.
fn of_program(count: Option<u64>) -> u32 {
    u32::try_from(count.unwrap_or(0).saturating_sub(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                       36 31 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                       37 31 0:34 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_version_that_counts_is_found() {
        let memberships = "3:pids:/docker/abc\n2:memory:/docker/abc\n0::/docker/abc\n";
        let found = Directories::find(ONE, memberships);
        let directory = |name: &str| PathBuf::from(format!("/sys/fs/cgroup/{name}/docker/abc"));
        let wanted =
            Directories::One { memory: directory("memory"), processes: directory("pids"), cpu: None, freezer: None };
        assert_eq!(found, Some(wanted));
        let two = ONE.lines().last().expect("a line");
        assert_eq!(Directories::find(two, memberships), Some(Directories::Two(directory("unified"))));
        assert_eq!(Directories::find("", memberships), None);
    }

    #[test]
    fn what_was_seen_stays_when_the_group_is_gone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = directory.path().join("group");
        fs::create_dir(&at).expect("a directory");
        fs::write(at.join("memory.peak"), "4096\n").expect("a file");
        fs::write(at.join("memory.events"), "low 0\noom_kill 1\n").expect("a file");
        let group = ForeignGroup { directories: Directories::Two(at.clone()), seen: Mutex::default() };
        let seen = group.usage();
        assert_eq!((seen.memory_peak_bytes, seen.memory_kills), (4096, 1));
        fs::remove_dir_all(at).expect("ours");
        assert_eq!(group.usage(), seen);
    }
}
