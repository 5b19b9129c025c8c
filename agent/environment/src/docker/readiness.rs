//! Whether containers can be made here, found by making one, and what is said of the engine.

use std::path::Path;

use bollard::models::{SystemInfo, SystemInfoCgroupVersionEnum};
use muster_model::platform::Weakness;
use muster_model::spec::{CommandSpec, Profile};
use tokio::sync::mpsc;

use super::engine::{connect, failed};
use super::{DockerConfig, DockerEnvironment};
use crate::doctor::{Diagnosis, Finding, State, landlock, required, wanted};
use crate::sandbox::landlock_version;
use crate::{Environment, EnvironmentError, EnvironmentSpec, ExitStatus, KillSwitch, Readiness};

const PROBE_MEMORY_BYTES: u64 = 64 * 1024 * 1024;
const PROBE_PROCESSES: u32 = 16;
const PROBE_OUTPUT_BYTES: u64 = 4096;
/// The first versions of runc, by line of development, in which a container that starts can't be led astray by one that runs (CVE-2025-31133,
/// CVE-2025-52565, CVE-2025-52881).
const RUNC_MIN: [(u32, u32, u32); 2] = [(1, 2, 8), (1, 3, 3)];
const SUBJECT: &str = "container";
const WITHOUT: &str = "or leave out --docker";

/// What an engine says of itself.
#[derive(Clone, Debug, Default)]
struct Observed {
    is_root: bool,
    version: String,
    interface: String,
    /// Empty when it does not tell.
    runc: String,
    info: SystemInfo,
    landlock: u32,
}

/// Runs the future on a thread with a runtime of its own, since the caller may be inside one.
fn apart<T: Send>(what: impl Future<Output = Result<T, EnvironmentError>> + Send) -> Result<T, EnvironmentError> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| super::step("start a runtime", error))?.block_on(what)
    };
    let ended = std::thread::scope(|scope| scope.spawn(run).join());
    ended.unwrap_or_else(|_panic| Err(EnvironmentError::Invalid("the probe failed".into())))
}

/// Makes a container and runs a program in it.
pub(super) fn check(driver: &DockerEnvironment) -> Result<Readiness, EnvironmentError> {
    let (status, observed) = apart(async { Ok((probe(driver).await?, observe(&driver.shared.docker).await?)) })?;
    if status != ExitStatus::Code(0) {
        let feature = format!("/bin/true in a container ended with {status:?}");
        return Err(EnvironmentError::Unsupported { feature, remedy: "see the engine's log".into() });
    }
    let findings = observed.judge();
    if let Some(missing) = findings.iter().find(|finding| finding.state == State::Missing) {
        return Err(EnvironmentError::Unsupported {
            feature: format!("{}: {}", missing.feature, missing.detail),
            remedy: missing.remedy.clone().unwrap_or_default(),
        });
    }
    let less = findings.into_iter().filter(|finding| finding.state == State::Less);
    Ok(Readiness { notes: less.map(|finding| format!("{}: {}", finding.feature, finding.detail)).collect() })
}

async fn probe(driver: &DockerEnvironment) -> Result<ExitStatus, EnvironmentError> {
    let spec = EnvironmentSpec {
        with_base: true,
        image: None,
        layers: Vec::new(),
        command: CommandSpec {
            arguments: vec!["/bin/true".into()],
            environment: Vec::new(),
            working_directory: "/tmp".into(),
        },
        memory_bytes: PROBE_MEMORY_BYTES,
        processes: PROBE_PROCESSES,
        output_bytes: PROBE_OUTPUT_BYTES,
        profile: Profile::Strict,
        collect: Vec::new(),
        collector: None,
        variables: Default::default(),
        network: None,
    };
    let prepared = driver.prepare(spec).await?;
    let (sender, _receiver) = mpsc::channel(1);
    Ok(driver.run(prepared, sender, KillSwitch::default()).await?.status)
}

async fn observe(docker: &bollard::Docker) -> Result<Observed, EnvironmentError> {
    let version = docker.version().await.map_err(failed("ask the engine for its version"))?;
    let info = docker.info().await.map_err(failed("ask the engine about itself"))?;
    let components = version.components.unwrap_or_default();
    let runc = components.into_iter().find(|component| component.name == "runc");
    Ok(Observed {
        is_root: nix::unistd::geteuid().is_root(),
        version: version.version.unwrap_or_default(),
        interface: docker.client_version().to_string(),
        runc: runc.map(|component| component.version).unwrap_or_default(),
        info,
        landlock: landlock_version(),
    })
}

impl Observed {
    fn judge(&self) -> Vec<Finding> {
        vec![
            self.engine(),
            self.agent(),
            self.users(),
            self.limits(),
            self.filter(),
            landlock(self.landlock),
            self.runtime(),
        ]
    }

    fn engine(&self) -> Finding {
        let detail = format!("{}, interface {}", self.version, self.interface);
        required("docker engine", true, detail, String::new())
    }

    fn agent(&self) -> Finding {
        let detail = if self.is_root { "the agent is root" } else { "the agent is not root" };
        required("docker: layers", self.is_root, detail.into(), format!("run the agent as root, {WITHOUT}"))
    }

    /// Where the engine gives other numbers to users, the files of layers would be somebody else's.
    fn users(&self) -> Finding {
        let options = self.info.security_options.iter().flatten();
        let mapped = options.filter_map(|option| option.strip_prefix("name=")).find(|name| {
            let name = name.split(',').next().unwrap_or_default();
            ["userns", "rootless"].contains(&name)
        });
        let detail = match mapped {
            None => "users have the same numbers inside".to_owned(),
            Some(name) => format!("the engine maps users ({name})"),
        };
        let remedy = format!("an engine that runs as root without userns-remap, {WITHOUT}");
        required("docker: users", mapped.is_none(), detail, remedy)
    }

    fn limits(&self) -> Finding {
        let has = |flag: Option<bool>| flag == Some(true);
        let are_there = has(self.info.memory_limit) && has(self.info.pids_limit);
        let version = match self.info.cgroup_version {
            Some(SystemInfoCgroupVersionEnum::_2) => 2,
            _ => 1,
        };
        let (detail, remedy) = if !are_there {
            ("the engine cannot limit memory and processes".to_owned(), "a kernel with the memory and pids controllers")
        } else if !has(self.info.swap_limit) {
            (
                "swap is memory without a limit".to_owned(),
                "add swapaccount=1 to the kernel's parameters, or use no swap",
            )
        } else {
            (format!("memory and processes, control groups of version {version}"), "")
        };
        if are_there {
            wanted("docker: limits", has(self.info.swap_limit), detail, remedy.into())
        } else {
            required("docker: limits", false, detail, format!("{remedy}, {WITHOUT}"))
        }
    }

    fn filter(&self) -> Finding {
        let is_there = self.info.security_options.iter().flatten().any(|option| option.starts_with("name=seccomp"));
        let detail = if is_there { "the engine's and our own" } else { "our own alone: the engine has none" };
        wanted("docker: filter of system calls", is_there, detail.into(), "an engine with seccomp".into())
    }

    /// Old versions are told and not refused: what is known of them needs two containers that share a tree, and ours share none that either can
    /// write to; and distributions mend old versions without giving them new numbers.
    fn runtime(&self) -> Finding {
        let mut numbers = self.runc.split(['.', '+', '-', '~']).map_while(|part| part.parse::<u32>().ok());
        let version = numbers.next().zip(numbers.next()).zip(numbers.next());
        let version = version.map(|((major, minor), patch)| (major, minor, patch));
        let is_new = version.is_some_and(|version| {
            let line = RUNC_MIN.iter().find(|least| (least.0, least.1) == (version.0, version.1));
            line.map_or(version > RUNC_MIN[1], |least| version >= *least)
        });
        let detail = match (is_new, self.runc.as_str()) {
            (true, known) => format!("runc {known}"),
            (false, "") => "the engine does not name a runc".to_owned(),
            (false, known) => format!("runc {known} is older than 1.2.8: starting containers can be raced"),
        };
        wanted("docker: runtime", is_new, detail, "upgrade runc to 1.2.8, 1.3.3 or newer".into())
    }
}

/// Looks at an engine and makes a container there, with what it needs in the directories of `config`.
pub(crate) fn examine(config: DockerConfig, allowed: Vec<Weakness>) -> Diagnosis {
    let socket = config.socket.clone();
    let observed = apart(async { observe(&connect(&socket).await?).await });
    let mut findings = match observed {
        Ok(observed) => observed.judge(),
        Err(error) => {
            let findings = vec![made("docker engine", Err(error), &config.socket)];
            return Diagnosis { subject: SUBJECT, findings, allowed };
        }
    };
    if findings.iter().all(|finding| finding.state != State::Missing) {
        let socket = config.socket.clone();
        let tried = DockerEnvironment::new(config).and_then(|docker| docker.check_readiness());
        findings.push(made("a container runs a program", tried.map(drop), &socket));
    }
    Diagnosis { subject: SUBJECT, findings, allowed }
}

fn made(feature: &'static str, result: Result<(), EnvironmentError>, socket: &Path) -> Finding {
    match result {
        Ok(()) => required(feature, true, "/bin/true".into(), String::new()),
        Err(EnvironmentError::Unsupported { feature: missing, remedy }) => required(feature, false, missing, remedy),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            let remedy = format!("look at the log of the engine at {}", socket.display());
            required(feature, false, format!("{error}{cause}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole() -> Observed {
        let info = SystemInfo {
            memory_limit: Some(true),
            swap_limit: Some(true),
            pids_limit: Some(true),
            cgroup_version: Some(SystemInfoCgroupVersionEnum::_2),
            security_options: Some(vec!["name=seccomp,profile=builtin".into(), "name=cgroupns".into()]),
            ..SystemInfo::default()
        };
        Observed {
            is_root: true,
            version: "28.2.2".into(),
            interface: "1.50".into(),
            runc: "v1.3.3".trim_start_matches('v').into(),
            info,
            landlock: 7,
        }
    }

    #[test]
    fn an_engine_with_everything_is_fit() {
        insta::assert_snapshot!(Diagnosis { subject: SUBJECT, findings: whole().judge(), allowed: Vec::new() });
    }

    #[test]
    fn each_weakness_is_named_with_its_remedy() {
        type Mask = fn(&mut Observed);
        let masks: [(&str, Mask, State); 9] = [
            ("an agent that is not root", |engine| engine.is_root = false, State::Missing),
            ("users mapped", |engine| engine.info.security_options = Some(vec!["name=userns".into()]), State::Missing),
            (
                "rootless",
                |engine| engine.info.security_options = Some(vec!["name=seccomp".into(), "name=rootless".into()]),
                State::Missing,
            ),
            ("no limits", |engine| engine.info.pids_limit = Some(false), State::Missing),
            ("swap", |engine| engine.info.swap_limit = Some(false), State::Less),
            ("no filter", |engine| engine.info.security_options = None, State::Less),
            ("no Landlock", |engine| engine.landlock = 0, State::Weaker(Weakness::Landlock)),
            ("Debian's runc", |engine| engine.runc = "1.1.5+ds1".into(), State::Less),
            ("no runc", |engine| engine.runc = String::new(), State::Less),
        ];
        let mut told = String::new();
        for (name, mask, state) in masks {
            let mut engine = whole();
            mask(&mut engine);
            let found = engine.judge().into_iter().filter(|finding| finding.state != State::Present);
            let found = Diagnosis { subject: SUBJECT, findings: found.collect(), allowed: Vec::new() };
            assert!(found.findings.iter().any(|finding| finding.state == state), "{name}");
            told.push_str(&format!("# {name}\n{found}"));
        }
        insta::assert_snapshot!(told);
    }

    #[test]
    fn versions_of_runc_are_compared_within_their_line() {
        let is_new = |runc: &str| Observed { runc: runc.into(), ..whole() }.runtime().state == State::Present;
        for (version, expected) in [
            ("1.2.7", false),
            ("1.2.8", true),
            ("1.2.10", true),
            ("1.3.0", false),
            ("1.3.3", true),
            ("1.4.0-rc.1", true),
            ("2.0.0", true),
            ("1.1.99", false),
            ("unknown", false),
        ] {
            assert_eq!(is_new(version), expected, "{version}");
        }
    }
}
