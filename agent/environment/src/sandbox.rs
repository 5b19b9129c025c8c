//! Namespaces over a base and layers.
//!
//! Three processes stand between an agent and a program, each with less than the one before:
//!
//! 1. The *agent* keeps the timer, the limits and the power to kill. It sends scripts of prepared system calls, and reads reports.
//! 2. A *launcher* for each slot, a static program of a few pages executed from a sealed file in memory, lives in the slot's control groups,
//!    in a user namespace, with mounts, a network and a host name that hold nothing of the host's. A fork of an agent costs what its memory costs
//!    to copy; a fork of a launcher, little more than nothing, and there is nothing in the copy that a program could want to read.
//! 3. The *first process* of each sandbox is a copy of the launcher in mount, process and System V namespaces of its own. It makes the place, gives
//!    up every right, waits for the program, and starts it. When it dies, the kernel kills everything in its namespace before the agent hears of it.
//!
//! Places are made ahead: while programs run, slots that have run one make the next place of the same shape (see [`slot`]), so that starting a
//! program costs a message, a fork and an `exec`. Every place is used once.

mod allowed;
pub(crate) mod job;
pub(crate) mod landlock;
pub(crate) mod launch;
pub(crate) mod launcher;
pub(crate) mod message;
pub(crate) mod network;
pub(crate) mod plan;
#[path = "../launcher/protocol.rs"]
#[allow(dead_code, reason = "the other half is the launcher's")]
pub(crate) mod protocol;
mod readiness;
pub(crate) mod script;
mod seccomp;
pub(crate) mod skeleton;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::job::variables;
pub(crate) use self::landlock::version as landlock_version;
pub(crate) use self::readiness::forbidding_switches;
use async_trait::async_trait;
use muster_model::platform::{EnvironmentKind, Weakness};
use tokio::sync::mpsc;

use self::launch::LaunchScripts;
use self::network::Members;
use self::plan::{Host, Plan, Shape, make_plan, masked};
use self::protocol::{Report, ReportKind};
use self::skeleton::Skeleton;
use self::slot::{FreeSlots, Slot, SlotLease};
use crate::collect::{Root, Uppers, collect_all};
use crate::first_process::{Held, Look, exit_status, has_ended};
use crate::groups::Groups;
use crate::kill::Killed;
use crate::output::{OutputLimit, pump};
use crate::{
    BaseConfig, Environment, EnvironmentError, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch, OutputChunk,
    OutputStream, Prepared, Readiness, ResourceUsage, SharedNetwork,
};

/// The user and group id of programs, as they see it.
pub(crate) const JOB_ID: u32 = 1000;
/// The user's name.
pub(crate) const USER: &str = "muster";
/// The user's home.
pub(crate) const HOME: &str = "/home/muster";
/// The host id under which an agent that is root runs programs, unless configured: the first of Debian's range for such uses that no
/// package has taken.
pub(crate) const HOST_ID_DEFAULT: u32 = 61184;
/// Shapes whose scripts are remembered.
const PLANS_MAX: usize = 64;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxConfig {
    /// A directory for what every sandbox shares (mount points, a small `/etc`); made when missing. It need not be open to others. Any number
    /// of drivers and processes may use it at the same time; what is in it stays, so that the next one starts quickly. It holds directories that are not writable, even to their owner.
    pub directory: PathBuf,
    /// The roots of the host that `with_base` shows: [`HostBase::roots`](crate::base::HostBase::roots).
    pub base_roots: Vec<PathBuf>,
    /// The host's user id under which programs run when the agent is root; never 0. An ordinary user's programs run as that user.
    pub host_uid: u32,
    /// The same for the group.
    pub host_gid: u32,
}

impl SandboxConfig {
    /// The default roots and ids, with `directory` for the shared parts.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            base_roots: BaseConfig::default().roots,
            host_uid: HOST_ID_DEFAULT,
            host_gid: HOST_ID_DEFAULT,
        }
    }
}

/// Whom a program is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    uid: u32,
    gid: u32,
    is_root: bool,
}

/// What the kernel is like.
struct Kernel {
    last_capability: u32,
    landlock: u32,
    masked: Vec<&'static str>,
}

impl Kernel {
    fn host<'a>(&self, skeleton: &'a Skeleton, is_root: bool) -> Host<'a> {
        let Self { last_capability, landlock, masked } = self;
        Host { skeleton, is_root, last_capability: *last_capability, landlock: *landlock, masked: masked.clone() }
    }
}

/// The driver.
pub struct SandboxEnvironment {
    identity: Identity,
    skeleton: Skeleton,
    kernel: Kernel,
    groups: Arc<Groups>,
    launch: Arc<LaunchScripts>,
    plans: Mutex<HashMap<Shape, Arc<Plan>>>,
    slots: Arc<FreeSlots>,
}

impl fmt::Debug for SandboxEnvironment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SandboxEnvironment").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// An error that names its step.
fn step(step: &str, source: io::Error) -> EnvironmentError {
    EnvironmentError::Step { step: step.to_owned(), source }
}

impl SandboxEnvironment {
    /// Finds or makes what all sandboxes share. Whether sandboxes can be made is for [`Environment::check_readiness`] to tell.
    ///
    /// # Errors
    ///
    /// When a directory can't be made, or programs would run as root.
    pub fn new(config: SandboxConfig) -> Result<Self, EnvironmentError> {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let is_root = uid.is_root();
        if is_root && (config.host_uid == 0 || config.host_gid == 0) {
            return Err(EnvironmentError::Invalid("programs would run as the host's root".into()));
        }
        let identity = if is_root {
            Identity { uid: config.host_uid, gid: config.host_gid, is_root }
        } else {
            Identity { uid: uid.as_raw(), gid: gid.as_raw(), is_root }
        };
        let owner = is_root.then_some((identity.uid, identity.gid));
        let skeleton = Skeleton::open(&config.directory, &config.base_roots, owner, JOB_ID)
            .map_err(|error| step(&format!("make what sandboxes share in {}", config.directory.display()), error))?;
        let last_capability = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .and_then(|text| text.trim().parse().map_err(io::Error::other))
            .map_err(|error| step("read /proc/sys/kernel/cap_last_cap", error))?;
        let kernel = Kernel { last_capability, landlock: landlock::version(), masked: masked() };
        let launch = Arc::new(LaunchScripts::new(&kernel.host(&skeleton, is_root))?);
        Ok(Self {
            identity,
            skeleton,
            kernel,
            groups: Arc::new(Groups::discover()),
            launch,
            plans: Mutex::default(),
            slots: Arc::default(),
        })
    }

    /// Who must own the files of layers: `Some` when the agent is root and programs run as somebody else. The kernel refuses to let a
    /// program change a file whose owner has no name inside (`EOVERFLOW`), so whatever is staged must be given to this user and group.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.identity.is_root.then_some((self.identity.uid, self.identity.gid))
    }

    /// The walls that its sandboxes lack on this machine.
    pub fn weaknesses(&self) -> Vec<Weakness> {
        let has = |weakness: &Weakness| match weakness {
            Weakness::ControlGroups => !matches!(*self.groups, Groups::None(_)),
            Weakness::Landlock => crate::doctor::is_landlock_whole(self.kernel.landlock),
        };
        Weakness::ALL.into_iter().filter(|weakness| !has(weakness)).collect()
    }

    fn plan(&self, spec: &EnvironmentSpec) -> Result<Arc<Plan>, EnvironmentError> {
        let shape = Shape::new(spec);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&shape) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(make_plan(&self.kernel.host(&self.skeleton, self.identity.is_root), &shape)?);
        if plans.len() >= PLANS_MAX {
            plans.clear();
        }
        plans.insert(shape, plan.clone());
        Ok(plan)
    }

    async fn make(&self, spec: EnvironmentSpec) -> Result<Place, EnvironmentError> {
        let started = Instant::now();
        if spec.image.is_some() {
            return Err(EnvironmentError::Invalid("a sandbox shows no image of a Docker engine".into()));
        }
        let plan = self.plan(&spec)?;
        let processes = matches!(*self.groups, Groups::None(_)).then_some(spec.processes);
        let job = job::make_job(&spec.command, spec.variables, processes)?;
        let (launch, slots) = match &spec.network {
            Some(network) => {
                let members = network.of_sandboxes()?;
                (&members.launch, &members.slots)
            }
            None => (&self.launch, &self.slots),
        };
        let (launch, groups, identity) = (launch.clone(), self.groups.clone(), self.identity);
        let create = move || Slot::create(&launch, identity, &groups);
        let (slot, made) = SlotLease::take(slots, &plan, create).await?;
        Ok(Place {
            first: Held::new(made.process, made.report, job)?,
            roots: made.roots,
            uppers: made.uppers,
            slot,
            spec,
            owner: self.owner(),
            preparation: started.elapsed(),
        })
    }
}

/// A sandbox that is made. Its first process waits for the word to start.
struct Place {
    first: Held,
    roots: Vec<Root>,
    uppers: Option<Uppers>,
    /// Dropped after the process, whose death it waits for.
    slot: SlotLease,
    spec: EnvironmentSpec,
    owner: Option<(u32, u32)>,
    preparation: Duration,
}

impl Prepared for Place {
    fn preparation(&self) -> Duration {
        self.preparation
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any + Send> {
        self
    }
}

/// How a program ended, as far as it is known before the place is left.
struct Ending {
    report: Option<Report>,
    killed: Option<KillReason>,
    ended_at: Instant,
    execution: Duration,
}

/// Whether the program has ended and left nobody. Then the first process, which runs no code but ours, is the only one, and its own end,
/// which takes the kernel longer than most programs run, need not be waited for.
fn is_alone(report: &Report) -> bool {
    has_ended(report) && report.leaked == 0
}

impl Place {
    async fn run(mut self, output: mpsc::Sender<OutputChunk>, switch: KillSwitch) -> Result<Exit, EnvironmentError> {
        let started = Instant::now();
        self.slot.begin(self.spec.memory_bytes, self.spec.processes)?;
        let [standard, error] = self.first.start(self.owner)?;
        let killed = Killed::default();
        let limit = OutputLimit::new(self.spec.output_bytes);
        let exceeded = || killed.set(KillReason::Output);
        let mut seen = Look::at_start();
        let (ended, standard, error) = tokio::join!(
            self.first.ended(&self.slot, &killed, &switch, started, &mut seen),
            pump(&standard, OutputStream::Standard, &output, &limit, exceeded),
            pump(&error, OutputStream::Error, &output, &limit, exceeded),
        );
        let (report, ended_at) = ended.map_err(|error| step("wait for the sandbox", error))?;
        standard.and(error).map_err(|error| step("read the program's output", error))?;
        let ending = Ending { report, killed: killed.get(), ended_at, execution: ended_at - started };
        let mut exit = self.finish(ending).await?;
        let usage = &mut exit.usage;
        usage.written_bytes = usage.written_bytes.max(limit.written());
        seen.tell(usage);
        Ok(exit)
    }

    async fn finish(&mut self, ending: Ending) -> Result<Exit, EnvironmentError> {
        let Ending { report, killed, ended_at, execution } = ending;
        let cpu = match &report {
            Some(report) if is_alone(report) => Duration::from_nanos(report.cpu_nanoseconds),
            _ => {
                let cpu = self.slot.reap().await?.cpu;
                self.slot.wait_until_empty().await?;
                cpu
            }
        };
        let usage = self.slot.usage()?;
        let killed = killed.or_else(|| usage.excess());
        let told = report.filter(has_ended);
        let (resident, written) = told.map_or((0, 0), |report| (report.resident_bytes, report.written_bytes));
        let (status, leaked, execution) = match report {
            Some(report) if has_ended(&report) => {
                let execution = Duration::from_nanos(report.execution_nanoseconds);
                (exit_status(report.status), report.leaked, execution)
            }
            Some(report) if report.kind == ReportKind::StartFailed as u32 => {
                return Err(self.first.start_error(report));
            }
            _ => (ExitStatus::Signal(9), 0, execution),
        };
        let collected = if self.spec.collect.is_empty() && self.spec.collector.is_none() {
            Vec::new()
        } else {
            let (roots, files) = (std::mem::take(&mut self.roots), std::mem::take(&mut self.spec.collect));
            let (collector, uppers) = (self.spec.collector.take(), self.uppers.take());
            tokio::task::spawn_blocking(move || collect_all(&roots, uppers.as_ref(), &files, collector.as_ref()))
                .await
                .map_err(|error| step("collect files", io::Error::other(error)))?
        };
        self.roots.clear();
        self.uppers = None;
        Ok(Exit {
            status,
            killed,
            leaked_processes: leaked,
            collected,
            execution,
            cleaning: ended_at.elapsed(),
            usage: ResourceUsage {
                // Without control groups, the largest process is the best that is known.
                memory_peak_bytes: if usage.memory_peak_bytes == 0 { resident } else { usage.memory_peak_bytes },
                cpu: usage.cpu.unwrap_or(cpu),
                written_bytes: written,
                processes_peak: usage.processes_peak.max(leaked),
                processes_created: told.map_or(0, |report| report.created.into()),
            },
        })
    }
}

#[async_trait]
impl Environment for SandboxEnvironment {
    fn kind(&self) -> EnvironmentKind {
        EnvironmentKind::Sandbox
    }

    fn check_readiness(&self) -> Result<Readiness, EnvironmentError> {
        readiness::check(self)
    }

    async fn network(&self) -> Result<SharedNetwork, EnvironmentError> {
        let (launch, groups, identity) = (self.launch.clone(), self.groups.clone(), self.identity);
        let founding = tokio::task::spawn_blocking(move || Slot::create(&launch, identity, &groups));
        let founder = founding.await.map_err(|error| step("make a slot", io::Error::other(error)))??;
        let namespaces = founder.namespaces().await?;
        let launch = LaunchScripts::joining(&self.kernel.host(&self.skeleton, self.identity.is_root), &namespaces)?;
        let members = Members { founder, _namespaces: namespaces, launch: Arc::new(launch), slots: Arc::default() };
        Ok(members.into())
    }

    async fn prepare(&self, spec: EnvironmentSpec) -> Result<Box<dyn Prepared>, EnvironmentError> {
        Ok(Box::new(self.make(spec).await?))
    }

    async fn run(
        &self,
        prepared: Box<dyn Prepared>,
        output: mpsc::Sender<OutputChunk>,
        kill: KillSwitch,
    ) -> Result<Exit, EnvironmentError> {
        let place = prepared
            .into_any()
            .downcast::<Place>()
            .map_err(|_| EnvironmentError::Invalid("another driver made this place".into()))?;
        place.run(output, kill).await
    }
}
