//! Which features of the kernel a sandbox needs, whether they are here, and what to do when they are not.
//!
//! Looking is apart from judging, so that each judgement can be tested with each feature missing. The last word has [`Environment::check_readiness`]:
//! it makes a sandbox. Without some features no sandbox can be made. Without others the boundary is weaker than `docs/security.md` says: no sandbox
//! is offered then either, unless the operator allows it by name, and every result says so. What only tells less is told.

use std::fmt;
use std::fs;
use std::path::Path;

use muster_model::platform::Weakness;

use crate::groups::Groups;
use crate::sandbox::landlock_version;
use crate::{DockerConfig, Environment, EnvironmentError, SandboxConfig, SandboxEnvironment};

/// How a feature is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is here.
    Present,
    /// It is not, and there is less of something, which results need not tell.
    Less,
    /// It is not, and they are weaker for it: none is offered unless that is allowed.
    Weaker(Weakness),
    /// It is not, and none is offered.
    Missing,
}

/// What was found of one feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The feature, in a few words.
    pub feature: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// The next thing to type, where something is missing.
    pub remedy: Option<String>,
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What would be offered: a sandbox or a container.
    pub subject: &'static str,
    /// In the order in which a sandbox needs them.
    pub findings: Vec<Finding>,
    /// What the operator allows sandboxes to lack.
    pub allowed: Vec<Weakness>,
}

impl Diagnosis {
    /// Whether they are offered here.
    pub fn is_fit(&self) -> bool {
        self.findings.iter().all(|finding| match finding.state {
            State::Present | State::Less => true,
            State::Weaker(weakness) => self.allowed.contains(&weakness),
            State::Missing => false,
        })
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { feature, state, detail, remedy } in &self.findings {
            let word = match state {
                State::Present => "ok",
                State::Less => "less",
                State::Weaker(_) => "weaker",
                State::Missing => "MISSING",
            };
            writeln!(formatter, "{word:<8} {feature:<34} {detail}")?;
            if let Some(remedy) = remedy {
                writeln!(formatter, "         hint: {remedy}")?;
            }
            if let State::Weaker(weakness) = state {
                let (flag, name) = (ALLOW_FLAG, weakness.name());
                let told = if self.allowed.contains(weakness) { "allowed" } else { "or run without it" };
                writeln!(formatter, "         {told}, and every result says so: {flag} {name}")?;
            }
        }
        let subject = self.subject;
        if self.is_fit() {
            let ending = if subject.ends_with('x') { "es" } else { "s" };
            writeln!(formatter, "{subject}{ending} are offered here")
        } else {
            writeln!(formatter, "no {subject} is offered here")
        }
    }
}

/// What a look at the machine shows.
#[derive(Clone, Debug)]
struct Observed {
    release: String,
    /// Names of `/proc/self/ns`.
    namespaces: Vec<String>,
    /// Switches that forbid user namespaces, with their values.
    forbidding: Vec<(String, String)>,
    /// `/proc/filesystems`.
    file_systems: String,
    /// What a filter of system calls may do; empty for none.
    filter_actions: String,
    landlock: u32,
    /// Why groups can't be used; `None` when they can.
    groups: Option<String>,
    has_counters: bool,
    is_architecture_known: bool,
}

/// The first kernel with everything that is required: `mount_setattr(2)`.
const RELEASE_MIN: (u32, u32) = (5, 12);
/// The version of Landlock that knows abstract sockets and signals.
const LANDLOCK_WHOLE: u32 = 6;
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
/// The flag by which an operator allows environments to lack a wall.
pub const ALLOW_FLAG: &str = "--allow-without";
const SUBJECT: &str = "sandbox";
const ELSEWHERE: &str = "--environment host";

impl Observed {
    fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let names = |entries: fs::ReadDir| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        };
        Self {
            release: read("/proc/sys/kernel/osrelease"),
            namespaces: fs::read_dir("/proc/self/ns").map(names).unwrap_or_default(),
            forbidding: crate::sandbox::forbidding_switches(),
            file_systems: read("/proc/filesystems"),
            filter_actions: read("/proc/sys/kernel/seccomp/actions_avail"),
            landlock: landlock_version(),
            groups: match Groups::discover() {
                Groups::None(reason) => Some(reason),
                Groups::One(_) | Groups::Two(_) => None,
            },
            has_counters: Path::new("/proc/self/io").exists(),
            is_architecture_known: cfg!(any(target_arch = "x86_64", target_arch = "aarch64")),
        }
    }

    fn judge(&self) -> Vec<Finding> {
        vec![
            self.kernel(),
            self.namespaces(),
            self.user_namespaces(),
            self.overlay(),
            self.filter(),
            landlock(self.landlock),
            self.groups(),
            self.counters(),
        ]
    }

    fn kernel(&self) -> Finding {
        let mut numbers = self.release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        let release = numbers.next().zip(numbers.next());
        let (major, minor) = RELEASE_MIN;
        required(
            "kernel",
            release.is_some_and(|release| release >= RELEASE_MIN),
            format!("Linux {}", self.release),
            format!("upgrade to Linux {major}.{minor} or newer, or {ELSEWHERE}"),
        )
    }

    fn namespaces(&self) -> Finding {
        let missing: Vec<&str> =
            NAMESPACES.into_iter().filter(|name| !self.namespaces.iter().any(|found| found == name)).collect();
        let detail = if missing.is_empty() {
            NAMESPACES.join(", ")
        } else {
            format!("the kernel has no {}", missing.join(", "))
        };
        required("namespaces", missing.is_empty(), detail, format!("a kernel with CONFIG_NAMESPACES, or {ELSEWHERE}"))
    }

    fn user_namespaces(&self) -> Finding {
        match self.forbidding.first() {
            None => required("user namespaces are allowed", true, "no switch forbids them".into(), String::new()),
            Some((name, allowing)) => required(
                "user namespaces are allowed",
                false,
                format!("{name} forbids them"),
                format!("sudo sysctl -w {name}={allowing}, or {ELSEWHERE}"),
            ),
        }
    }

    fn overlay(&self) -> Finding {
        let is_there = self.file_systems.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay");
        let detail = if is_there { "the kernel has it" } else { "not in /proc/filesystems" };
        required("overlay file system", is_there, detail.into(), format!("sudo modprobe overlay, or {ELSEWHERE}"))
    }

    fn filter(&self) -> Finding {
        let can_refuse = self.filter_actions.split(' ').any(|action| action == "errno");
        let detail = match (can_refuse, self.is_architecture_known) {
            (true, true) => "seccomp",
            (false, _) => "the kernel has no seccomp filters",
            (true, false) => "there is none for this processor",
        };
        required(
            "filter of system calls",
            can_refuse && self.is_architecture_known,
            detail.into(),
            format!("a kernel with CONFIG_SECCOMP_FILTER on x86_64 or aarch64, or {ELSEWHERE}"),
        )
    }

    fn groups(&self) -> Finding {
        let detail = match &self.groups {
            None => "memory and processes are limited and counted".to_owned(),
            Some(reason) => format!("memory is not limited: {reason}"),
        };
        wall("control groups", Weakness::ControlGroups, self.groups.is_none(), detail)
    }

    fn counters(&self) -> Finding {
        let detail = if self.has_counters { "bytes written are counted" } else { "bytes written are not counted" };
        let remedy = "a kernel with CONFIG_TASK_IO_ACCOUNTING";
        wanted("input and output counters", self.has_counters, detail.into(), remedy.into())
    }
}

/// What the kernel's version of Landlock is worth; 0 for none.
pub(crate) fn landlock(version: u32) -> Finding {
    let detail = match version {
        0 => "the kernel does not offer it: one wall less".to_owned(),
        LANDLOCK_WHOLE.. => format!("version {}", version),
        _ => format!("version {} does not know sockets and signals", version),
    };
    wall("Landlock", Weakness::Landlock, version >= LANDLOCK_WHOLE, detail)
}

pub(crate) fn required(feature: &'static str, is_there: bool, detail: String, remedy: String) -> Finding {
    let state = if is_there { State::Present } else { State::Missing };
    Finding { feature, state, detail, remedy: (!is_there).then_some(remedy) }
}

pub(crate) fn wanted(feature: &'static str, is_there: bool, detail: String, remedy: String) -> Finding {
    let state = if is_there { State::Present } else { State::Less };
    Finding { feature, state, detail, remedy: (!is_there).then_some(remedy) }
}

fn wall(feature: &'static str, weakness: Weakness, is_there: bool, detail: String) -> Finding {
    let state = if is_there { State::Present } else { State::Weaker(weakness) };
    Finding { feature, state, detail, remedy: (!is_there).then(|| remedy(weakness).to_owned()) }
}

/// What gives a machine a wall that it lacks.
pub fn remedy(weakness: Weakness) -> &'static str {
    match weakness {
        Weakness::ControlGroups => {
            "run the agent as root, or in groups of its own: systemd-run --user --scope -p Delegate=yes"
        }
        Weakness::Landlock => "add landlock to the kernel's lsm= parameter, on Linux 6.12 or newer",
    }
}

/// Whether this version of Landlock knows everything that sandboxes use it for.
pub(crate) fn is_landlock_whole(version: u32) -> bool {
    version >= LANDLOCK_WHOLE
}

/// A sandbox that was made, or why not.
fn made(result: Result<(), EnvironmentError>) -> Finding {
    let feature = "a sandbox runs a program";
    match result {
        Ok(()) => required(feature, true, "/bin/true".into(), String::new()),
        Err(EnvironmentError::Unsupported { feature: missing, remedy }) => required(feature, false, missing, remedy),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            required(feature, false, format!("{error}{cause}"), ELSEWHERE.into())
        }
    }
}

/// Looks at a Docker engine and makes a container there. The operator allows containers to lack what is `allowed`.
pub fn examine_docker(config: DockerConfig, allowed: Vec<Weakness>) -> Diagnosis {
    crate::docker::examine(config, allowed)
}

/// Looks at this machine and makes a sandbox, with what sandboxes share in `config`'s directory. The operator allows sandboxes to lack what is
/// `allowed`.
pub fn examine(config: SandboxConfig, allowed: Vec<Weakness>) -> Diagnosis {
    let mut findings = Observed::look().judge();
    let tried = SandboxEnvironment::new(config).and_then(|sandbox| sandbox.check_readiness());
    findings.push(made(tried.map(drop)));
    Diagnosis { subject: SUBJECT, findings, allowed }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Observed {
        Observed {
            release: "6.18.44-generic".into(),
            namespaces: NAMESPACES.map(str::to_owned).to_vec(),
            forbidding: Vec::new(),
            file_systems: "nodev\tsysfs\nnodev\toverlay\n\text4".into(),
            filter_actions: "kill_process kill_thread trap errno user_notif trace log allow".into(),
            landlock: 7,
            groups: None,
            has_counters: true,
            is_architecture_known: true,
        }
    }

    fn diagnosis(observed: &Observed) -> Diagnosis {
        Diagnosis { subject: SUBJECT, findings: observed.judge(), allowed: Vec::new() }
    }

    #[test]
    fn t1_10_a_machine_with_everything_is_fit() {
        insta::assert_snapshot!(diagnosis(&whole()));
    }

    #[test]
    fn t1_10_each_missing_feature_is_named_with_its_remedy() {
        type Mask = fn(&mut Observed);
        let masks: [(&str, Mask, State); 11] = [
            ("an old kernel", |machine| machine.release = "5.10.0-30-amd64".into(), State::Missing),
            ("a kernel of no known form", |machine| machine.release = "custom".into(), State::Missing),
            ("no network namespaces", |machine| machine.namespaces.retain(|name| name != "net"), State::Missing),
            (
                "user namespaces forbidden",
                |machine| {
                    let switch = "kernel.apparmor_restrict_unprivileged_userns";
                    machine.forbidding = vec![(switch.into(), "0".into())];
                },
                State::Missing,
            ),
            ("no overlay", |machine| machine.file_systems = "nodev\tsysfs".into(), State::Missing),
            ("no filters", |machine| machine.filter_actions = String::new(), State::Missing),
            ("another processor", |machine| machine.is_architecture_known = false, State::Missing),
            ("no Landlock", |machine| machine.landlock = 0, State::Weaker(Weakness::Landlock)),
            ("an old Landlock", |machine| machine.landlock = 3, State::Weaker(Weakness::Landlock)),
            (
                "no groups",
                |machine| {
                    machine.groups = Some("the kernel has no memory and process controllers mounted".into());
                },
                State::Weaker(Weakness::ControlGroups),
            ),
            ("no counters", |machine| machine.has_counters = false, State::Less),
        ];
        let mut told = String::new();
        for (name, mask, state) in masks {
            let mut machine = whole();
            mask(&mut machine);
            let found = diagnosis(&machine);
            assert_eq!(found.is_fit(), state == State::Less, "{name}");
            let allowed = Weakness::ALL.to_vec();
            let tolerant = Diagnosis { allowed, ..found.clone() };
            assert_eq!(tolerant.is_fit(), state != State::Missing, "{name}, allowed");
            let missing = found.findings.into_iter().filter(|finding| finding.state != State::Present).collect();
            let told_of = Diagnosis { subject: SUBJECT, findings: missing, allowed: Vec::new() };
            told.push_str(&format!("# {name}\n{told_of}"));
        }
        insta::assert_snapshot!(told);
    }

    #[test]
    fn t1_10_what_is_allowed_is_told_as_allowed() {
        let machine = Observed { landlock: 0, groups: Some("no rights".into()), ..whole() };
        let of = |allowed: &[Weakness]| Diagnosis { allowed: allowed.to_vec(), ..diagnosis(&machine) };
        assert!(!of(&[Weakness::Landlock]).is_fit(), "the other is not allowed");
        let told = of(&Weakness::ALL);
        assert!(told.is_fit());
        assert!(told.to_string().contains("allowed, and every result says so: --allow-without landlock"), "{told}");
    }

    #[test]
    fn t1_10_a_sandbox_that_can_t_be_made_is_the_last_word() {
        let source = std::io::Error::from_raw_os_error(libc::EPERM);
        let found = made(Err(EnvironmentError::Step { step: "make /proc".into(), source }));
        assert_eq!(found.state, State::Missing);
        assert_eq!(found.detail, "cannot make /proc: Operation not permitted (os error 1)");
        assert_eq!(made(Ok(())).state, State::Present);
    }
}
