//! Version 1: a tree per controller. A launcher enters the groups once, and all that it clones is born there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    ControlGroup, GroupUsage, OWN_PROCESSES, door, members, mounted, of_program, own_directory, remove, set, value_of,
};

/// The directories that groups are made in.
#[derive(Debug)]
pub(crate) struct Trees {
    memory: PathBuf,
    processes: PathBuf,
    /// Not everywhere, and not for every user; without it what is killed goes on until it is dead.
    freezer: Option<PathBuf>,
    /// Not everywhere; without it processor time is what the kernel tells about dead children.
    cpu: Option<PathBuf>,
}

impl Trees {
    /// The trees of this process; `None` when the controllers are not mounted in this version.
    pub(super) fn find(mounts: &str, memberships: &str) -> Option<io::Result<Self>> {
        let tree = |controller: &str| {
            let mount = mounted(mounts)
                .find(|mount| mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller))?;
            own_directory(&mount, memberships, controller)
        };
        let (memory, processes) = (tree("memory")?, tree("pids")?);
        Some(Ok(Self { memory, processes, freezer: tree("freezer"), cpu: tree("cpuacct") }))
    }

    pub(super) fn parents(&self) -> Vec<PathBuf> {
        // The freezer first: what stands still there keeps the others in use.
        self.freezer.iter().chain([&self.memory, &self.processes]).chain(&self.cpu).cloned().collect()
    }

    pub(super) fn create(&self, name: &str) -> io::Result<Group> {
        let made = |parent: &Path| {
            let directory = parent.join(name);
            match fs::create_dir(&directory) {
                // Controllers may share a tree.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    Err(io::Error::new(error.kind(), format!("{}: {error}", directory.display())))
                }
                Ok(()) | Err(_) => Ok(directory),
            }
        };
        let mut group = Group::default();
        if let Some(Ok(freezer)) = self.freezer.as_deref().map(made) {
            group.directories.push(freezer.clone());
            group.freezer = Some(freezer);
        }
        for (parent, place) in [
            (Some(&self.memory), &mut group.memory),
            (Some(&self.processes), &mut group.processes),
            (self.cpu.as_ref(), &mut group.cpu),
        ] {
            if let Some(parent) = parent {
                let directory = made(parent)?;
                *place = Some(directory.clone());
                group.directories.push(directory);
            }
        }
        let memory = |name| group.memory.as_deref().and_then(|directory| open(directory, name));
        let (peak, kill_counter) = (memory("memory.max_usage_in_bytes"), memory("memory.oom_control"));
        (group.peak, group.kill_counter) = (peak, kill_counter);
        group.cpu_counter = group.cpu.as_deref().and_then(|directory| open(directory, "cpuacct.usage"));
        let refused = |directory: &Path| OpenOptions::new().read(true).open(directory.join("pids.events")).ok();
        group.refusal_counter = group.processes.as_deref().and_then(refused);
        let counter = |name: &str| File::open(group.processes.as_ref()?.join(name)).ok();
        let (count, mark) = (counter("pids.current"), counter("pids.peak"));
        (group.process_count, group.process_mark) = (count, mark);
        Ok(group)
    }
}

/// A counter, kept open because it is needed at every start.
fn open(directory: &Path, name: &str) -> Option<File> {
    OpenOptions::new().read(true).write(true).open(directory.join(name)).ok()
}

fn reset(counter: Option<&File>) -> io::Result<()> {
    counter.map_or(Ok(()), |counter| counter.write_all_at(b"0", 0))
}

/// What a counter says; these files are short.
fn read(counter: Option<&File>) -> Option<String> {
    let mut bytes = [0; 256];
    let length = counter?.read_at(&mut bytes, 0).ok()?;
    Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
}

/// The number that a counter says.
fn number<T: std::str::FromStr>(counter: Option<&File>) -> Option<T> {
    read(counter)?.trim().parse().ok()
}

/// A group in every tree.
#[derive(Debug, Default)]
pub(super) struct Group {
    directories: Vec<PathBuf>,
    memory: Option<PathBuf>,
    processes: Option<PathBuf>,
    cpu: Option<PathBuf>,
    freezer: Option<PathBuf>,
    /// What is set now, so that it is written only when it changes.
    limits: Option<(u64, u32)>,
    /// The kernel's counter when the present use began.
    kills: u64,
    peak: Option<File>,
    kill_counter: Option<File>,
    cpu_counter: Option<File>,
    /// Refusals when the present use began.
    refusals: u64,
    refusal_counter: Option<File>,
    process_count: Option<File>,
    /// The most processes that the group has ever had: the kernel can't be made to begin anew.
    process_mark: Option<File>,
    /// That when the present use began.
    mark: u32,
}

impl Group {
    fn kills(&self) -> u64 {
        read(self.kill_counter.as_ref()).and_then(|text| value_of(&text, "oom_kill")).unwrap_or(0)
    }

    fn refusals(&self) -> u64 {
        read(self.refusal_counter.as_ref()).and_then(|text| value_of(&text, "max")).unwrap_or(0)
    }

    fn mark(&self) -> u32 {
        number(self.process_mark.as_ref()).unwrap_or(0)
    }

    fn set_limits(&self, memory_bytes: u64, processes: u32) -> io::Result<()> {
        if let Some(memory) = &self.memory {
            // Memory and swap together may never be below memory alone; the file is missing where swap is not counted.
            let _ = set(memory, "memory.memsw.limit_in_bytes", -1);
            set(memory, "memory.limit_in_bytes", memory_bytes)?;
            let _ = set(memory, "memory.memsw.limit_in_bytes", memory_bytes);
        }
        match &self.processes {
            Some(directory) => set(directory, "pids.max", u64::from(processes) + u64::from(OWN_PROCESSES)),
            None => Ok(()),
        }
    }
}

impl ControlGroup for Group {
    fn enter(&self, process: u32) -> io::Result<()> {
        self.directories.iter().try_for_each(|directory| set(directory, "cgroup.procs", process))
    }

    fn doors(&self) -> io::Result<Vec<File>> {
        self.directories.iter().map(|directory| door(directory)).collect()
    }

    fn begin(&mut self, memory_bytes: u64, processes: u32) -> io::Result<()> {
        if self.limits != Some((memory_bytes, processes)) {
            self.limits = None;
            self.set_limits(memory_bytes, processes)?;
            self.limits = Some((memory_bytes, processes));
        }
        reset(self.peak.as_ref())?;
        reset(self.cpu_counter.as_ref())?;
        self.kills = self.kills();
        self.refusals = self.refusals();
        self.mark = self.mark();
        Ok(())
    }

    fn usage(&self) -> GroupUsage {
        let mark = self.mark();
        GroupUsage {
            memory_peak_bytes: number(self.peak.as_ref()).unwrap_or(0),
            cpu: number(self.cpu_counter.as_ref()).map(Duration::from_nanos),
            memory_kills: self.kills().saturating_sub(self.kills),
            refused_processes: self.refusals().saturating_sub(self.refusals),
            processes: of_program(number(self.process_count.as_ref())),
            processes_peak: of_program((mark > self.mark).then_some(mark)),
        }
    }

    fn freeze(&self) -> bool {
        self.set_freezer("FROZEN")
    }

    fn is_frozen(&self) -> bool {
        let state =
            self.freezer.as_deref().and_then(|directory| fs::read_to_string(directory.join("freezer.state")).ok());
        state.is_some_and(|state| state.trim() == "FROZEN")
    }

    fn thaw(&self) {
        self.set_freezer("THAWED");
    }

    fn processes(&self) -> Vec<u32> {
        self.processes.as_deref().map(members).unwrap_or_default()
    }
}

impl Group {
    fn set_freezer(&self, state: &str) -> bool {
        self.freezer.as_deref().is_some_and(|directory| set(directory, "freezer.state", state).is_ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for directory in &self.directories {
            remove(directory);
        }
    }
}
