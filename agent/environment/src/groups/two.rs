//! Version 2: one tree. A launcher enters its group once, and all that it clones is born there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    ControlGroup, GroupUsage, OWN_PROCESSES, door, keyed, members, mounted, of_program, own_directory, remove, set,
};

/// The directory that groups are made in.
#[derive(Debug)]
pub(crate) struct Tree {
    parent: PathBuf,
}

impl Tree {
    /// The tree of this process; `None` when memory and processes are not controlled in this version.
    pub(super) fn find(mounts: &str, memberships: &str) -> Option<io::Result<Self>> {
        let mount = mounted(mounts).find(|mount| mount.kind == "cgroup2")?;
        Self::at(own_directory(&mount, memberships, "")?)
    }

    /// A tree whose groups are made in `parent`.
    fn at(parent: PathBuf) -> Option<io::Result<Self>> {
        let controllers = fs::read_to_string(parent.join("cgroup.controllers")).ok()?;
        let has = |wanted| controllers.split_whitespace().any(|name| name == wanted);
        if !has("memory") || !has("pids") {
            return None;
        }
        Some(Self::prepare(&parent).map(|()| Self { parent }))
    }

    /// Passes the controllers on to groups below. A group with processes of its own can't do that, unless it is the root: then this process
    /// moves one down.
    fn prepare(parent: &Path) -> io::Result<()> {
        let pass_on = || set(parent, "cgroup.subtree_control", "+memory +pids");
        match pass_on() {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                let below = parent.join("agent");
                fs::create_dir_all(&below)?;
                set(&below, "cgroup.procs", 0)?;
                pass_on()
            }
            result => result,
        }
    }

    pub(super) fn parent(&self) -> PathBuf {
        self.parent.clone()
    }

    pub(super) fn create(&self, name: &str) -> io::Result<Group> {
        let path = self.parent.join(name);
        fs::create_dir(&path)?;
        Ok(Group { path, limits: None, kills: 0, refusals: 0, mark: 0, cpu_microseconds: 0, peak: None })
    }
}

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    path: PathBuf,
    limits: Option<(u64, u32)>,
    kills: u64,
    refusals: u64,
    /// The most processes that there had ever been when the present use began.
    mark: u32,
    cpu_microseconds: u64,
    /// Since Linux 6.12 a writer of this file gets the peak since its own last write.
    peak: Option<File>,
}

impl Group {
    fn kills(&self) -> u64 {
        keyed(&self.path, "memory.events", "oom_kill").unwrap_or(0)
    }

    fn refusals(&self) -> u64 {
        keyed(&self.path, "pids.events", "max").unwrap_or(0)
    }

    /// What a file with one number says.
    fn count(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.path.join(name)).ok()?.trim().parse().ok()
    }

    fn cpu_microseconds(&self) -> u64 {
        keyed(&self.path, "cpu.stat", "usage_usec").unwrap_or(0)
    }

    fn reset_peak(&self) -> io::Result<File> {
        let mut file = OpenOptions::new().read(true).write(true).open(self.path.join("memory.peak"))?;
        file.write_all(b"reset")?;
        Ok(file)
    }

    fn peak(&self) -> Option<u64> {
        let mut file = self.peak.as_ref()?;
        let mut text = String::new();
        file.rewind().ok()?;
        file.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}

impl ControlGroup for Group {
    fn enter(&self, process: u32) -> io::Result<()> {
        set(&self.path, "cgroup.procs", process)
    }

    fn doors(&self) -> io::Result<Vec<File>> {
        Ok(vec![door(&self.path)?])
    }

    fn begin(&mut self, memory_bytes: u64, processes: u32) -> io::Result<()> {
        if self.limits != Some((memory_bytes, processes)) {
            self.limits = None;
            set(&self.path, "memory.max", memory_bytes)?;
            // Missing where the kernel has no swap; where it is there, swap would be memory without a limit.
            let _ = set(&self.path, "memory.swap.max", 0);
            set(&self.path, "memory.oom.group", 1)?;
            set(&self.path, "pids.max", u64::from(processes) + u64::from(OWN_PROCESSES))?;
            self.limits = Some((memory_bytes, processes));
        }
        self.peak = self.reset_peak().ok();
        self.kills = self.kills();
        self.refusals = self.refusals();
        self.mark = self.count("pids.peak").unwrap_or(0);
        self.cpu_microseconds = self.cpu_microseconds();
        Ok(())
    }

    fn usage(&self) -> GroupUsage {
        let cpu = Duration::from_micros(self.cpu_microseconds().saturating_sub(self.cpu_microseconds));
        let mark = self.count("pids.peak").unwrap_or(0);
        GroupUsage {
            memory_peak_bytes: self.peak().unwrap_or(0),
            cpu: Some(cpu).filter(|cpu| !cpu.is_zero()),
            memory_kills: self.kills().saturating_sub(self.kills),
            refused_processes: self.refusals().saturating_sub(self.refusals),
            processes: of_program(self.count("pids.current")),
            processes_peak: of_program((mark > self.mark).then_some(mark)),
        }
    }

    fn freeze(&self) -> bool {
        set(&self.path, "cgroup.freeze", 1).is_ok()
    }

    fn is_frozen(&self) -> bool {
        keyed(&self.path, "cgroup.events", "frozen") == Some(1)
    }

    fn thaw(&self) {
        // A group that is gone has nothing that stands still.
        let _ = set(&self.path, "cgroup.freeze", 0);
    }

    fn processes(&self) -> Vec<u32> {
        members(&self.path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Everything is dead by now, unless something went wrong. Linux 5.14.
        let _ = set(&self.path, "cgroup.kill", 1);
        remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &str); 14] = [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
        ("memory.oom.group", "0"),
        ("memory.peak", "0"),
        ("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 1\n"),
        ("pids.max", "max"),
        ("pids.events", "max 4\n"),
        ("pids.current", "3\n"),
        ("pids.peak", "6\n"),
        ("cpu.stat", "usage_usec 500\nuser_usec 400\n"),
        ("cgroup.procs", "7\n12\n"),
        ("cgroup.freeze", "0"),
        ("cgroup.events", "populated 1\nfrozen 0\n"),
        ("cgroup.kill", ""),
    ];

    fn fake() -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("cgroup.controllers"), "cpu memory pids\n").expect("a file");
        fs::write(directory.path().join("cgroup.subtree_control"), "").expect("a file");
        let tree = Tree::at(directory.path().into()).expect("the controllers are there").expect("it is writable");
        (directory, tree)
    }

    #[test]
    fn controllers_are_passed_on() {
        let (directory, tree) = fake();
        let passed = fs::read_to_string(directory.path().join("cgroup.subtree_control")).expect("the file");
        assert_eq!(passed, "+memory +pids");
        fs::write(directory.path().join("cgroup.controllers"), "hugetlb\n").expect("a file");
        assert!(Tree::at(tree.parent()).is_none(), "a tree without them is none of ours");
    }

    #[test]
    fn limits_are_set_and_counters_are_counted_from_the_beginning() {
        let (directory, tree) = fake();
        let mut group = tree.create("muster-1-2-3").expect("a group");
        let path = directory.path().join("muster-1-2-3");
        for (name, content) in FILES {
            fs::write(path.join(name), content).expect("a file");
        }
        group.begin(1 << 20, 10).expect("limits");
        let read = |name: &str| fs::read_to_string(path.join(name)).expect("the file");
        assert!(read("memory.max").starts_with("1048576"), "{}", read("memory.max"));
        assert!(read("memory.swap.max").starts_with('0'));
        assert!(read("memory.oom.group").starts_with('1'));
        assert!(read("pids.max").starts_with("12"));
        assert_eq!(group.usage().memory_kills, 0);
        assert_eq!((group.usage().processes, group.usage().processes_peak), (1, 0), "the mark is an earlier use's");
        fs::write(path.join("memory.events"), "oom_kill 3\n").expect("a file");
        fs::write(path.join("memory.peak"), "4096\n").expect("a file");
        fs::write(path.join("pids.events"), "max 6\n").expect("a file");
        fs::write(path.join("pids.peak"), "9\n").expect("a file");
        fs::write(path.join("cpu.stat"), "usage_usec 1500\n").expect("a file");
        let expected = GroupUsage {
            memory_peak_bytes: 4096,
            cpu: Some(Duration::from_millis(1)),
            memory_kills: 1,
            refused_processes: 2,
            processes: 1,
            processes_peak: 7,
        };
        assert_eq!(group.usage(), expected);
        assert_eq!((group.freeze(), group.is_frozen()), (true, false), "it takes a moment");
        assert!(read("cgroup.freeze").starts_with('1'));
        fs::write(path.join("cgroup.events"), "populated 1\nfrozen 1\n").expect("a file");
        assert!(group.is_frozen());
        group.thaw();
        assert!(read("cgroup.freeze").starts_with('0'));
        assert_eq!(group.processes(), [7, 12]);
        for (name, _) in FILES {
            fs::remove_file(path.join(name)).expect("ours");
        }
        drop(group);
        assert!(!path.exists(), "a dropped group is removed");
    }
}
