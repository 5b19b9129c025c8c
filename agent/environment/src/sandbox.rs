//! Namespaces over a base and layers.

mod child;
mod job;
mod plan;
mod readiness;
pub(crate) mod script;
mod skeleton;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::job::variables;
use async_trait::async_trait;
use muster_model::platform::EnvironmentKind;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use self::child::{Kind, ROOTS_MAX, Report, START};
use self::plan::{Host, Plan, Shape, make_plan};
use self::skeleton::Skeleton;
use self::slot::{FirstProcess, FreeSlots, Slot, Start};
use crate::collect::{Root, collect_all};
use crate::groups::Groups;
use crate::kill::Killed;
use crate::output::{OutputLimit, pipe, pump, watch};
use crate::{
    BaseConfig, Environment, EnvironmentError, EnvironmentSpec, Exit, ExitStatus, KillReason, KillSwitch, OutputChunk,
    OutputStream, Prepared, Readiness, ResourceUsage,
};

/// The user and group id of programs, as they see it.
pub(crate) const JOB_ID: u32 = 1000;
/// The user's name.
pub(crate) const USER: &str = "muster";
/// The user's home.
pub(crate) const HOME: &str = "/home/muster";
/// The host id under which an agent that is root runs programs, unless configured: the first of Debian's range for such uses that no
/// package has taken.
const HOST_ID_DEFAULT: u32 = 61184;
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

/// The driver.
pub struct SandboxEnvironment {
    identity: Identity,
    skeleton: Skeleton,
    last_capability: u32,
    groups: Groups,
    plans: Mutex<HashMap<Shape, Arc<Plan>>>,
    slots: FreeSlots,
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
        let skeleton = Skeleton::open(&config.directory, &config.base_roots, owner)
            .map_err(|error| step(&format!("make what sandboxes share in {}", config.directory.display()), error))?;
        let last_capability = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
            .and_then(|text| text.trim().parse().map_err(io::Error::other))
            .map_err(|error| step("read /proc/sys/kernel/cap_last_cap", error))?;
        Ok(Self {
            identity,
            skeleton,
            last_capability,
            groups: Groups::discover(),
            plans: Mutex::default(),
            slots: Arc::default(),
        })
    }

    /// Who must own the files of layers: `Some` when the agent is root and programs run as somebody else. The kernel refuses to let a
    /// program change a file whose owner has no name inside (`EOVERFLOW`), so whatever is staged must be given to this user and group.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.identity.is_root.then_some((self.identity.uid, self.identity.gid))
    }

    fn plan(&self, spec: &EnvironmentSpec) -> Result<Arc<Plan>, EnvironmentError> {
        let shape = Shape::new(spec.with_base, &spec.layers, &spec.command.working_directory, spec.memory_bytes);
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&shape) {
            return Ok(plan.clone());
        }
        let host =
            Host { skeleton: &self.skeleton, is_root: self.identity.is_root, last_capability: self.last_capability };
        let plan = Arc::new(make_plan(&host, &shape)?);
        if plans.len() >= PLANS_MAX {
            plans.clear();
        }
        plans.insert(shape, plan.clone());
        Ok(plan)
    }

    fn take_slot(&self) -> Result<Slot, EnvironmentError> {
        let free = self.slots.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match free {
            Some(slot) => Ok(slot),
            None => Slot::create(self.groups.create().map_err(|error| step("make a control group", error))?),
        }
    }

    async fn make(&self, spec: EnvironmentSpec) -> Result<Place, EnvironmentError> {
        let started = Instant::now();
        let plan = self.plan(&spec)?;
        let job = job::make_job(&spec.command)?;
        let pipes = |error| step("make a pipe", error);
        let (output, child_output) = pipe().map_err(pipes)?;
        let (error_output, child_error) = pipe().map_err(pipes)?;
        if let Some((uid, gid)) = self.owner() {
            // The program opens them again by name, as `/dev/stdout` and `/dev/stderr`: a pipe has an owner like any other file.
            for pipe in [&child_output, &child_error] {
                nix::unistd::fchown(pipe, Some(uid.into()), Some(gid.into()))
                    .map_err(|error| step("hand over a pipe", error.into()))?;
            }
        }
        let (report, child_report) = socket_pair().map_err(pipes)?;
        let slot = SlotLease { slot: Some(self.take_slot()?), free: self.slots.clone() };
        let start = Start {
            plan: plan.clone(),
            job,
            memory_bytes: spec.memory_bytes,
            processes: spec.processes,
            identity: self.identity,
            descriptors: [child_report, child_output, child_error],
            report,
        };
        let made = slot.get()?.start(start).await?;
        let register = |error| step("wait for the sandbox", error);
        let mut place = Place {
            process: Some(watch(made.process)?),
            report: watch(made.report)?,
            output: watch(output)?,
            error_output: watch(error_output)?,
            job: made.job,
            roots: Vec::new(),
            slot,
            spec,
            preparation: Duration::ZERO,
        };
        let (message, directories) = receive(&place.report).await.map_err(register)?;
        match message {
            Some(report) if report.kind == Kind::Ready as u32 => {
                let paths = plan
                    .roots
                    .iter()
                    .map(|path| PathBuf::from(String::from_utf8_lossy(&path[..path.len() - 1]).into_owned()));
                place.roots = paths.zip(directories).map(|(path, directory)| Root { path, directory }).collect();
            }
            Some(report) => {
                return Err(step(plan.setup.name(report.call), io::Error::from_raw_os_error(report.errno)));
            }
            None => return Err(step("make a sandbox", io::Error::other("its first process died"))),
        }
        place.preparation = started.elapsed();
        Ok(place)
    }
}

/// A slot that goes back to the others when dropped.
struct SlotLease {
    slot: Option<Slot>,
    free: FreeSlots,
}

impl SlotLease {
    fn get(&self) -> Result<&Slot, EnvironmentError> {
        self.slot.as_ref().ok_or_else(|| EnvironmentError::Invalid("the slot was given back".into()))
    }
}

impl SlotLease {
    /// Gives it back as soon as the process is dead.
    fn give_back_after(&mut self, process: FirstProcess) {
        if let Some(slot) = self.slot.take() {
            slot.retire(process, self.free.clone());
        }
    }
}

impl Drop for SlotLease {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
        }
    }
}

/// A sandbox that is made. Its first process waits for the word to start.
struct Place {
    process: Option<AsyncFd<FirstProcess>>,
    report: AsyncFd<OwnedFd>,
    output: AsyncFd<OwnedFd>,
    error_output: AsyncFd<OwnedFd>,
    job: script::SealedScript,
    roots: Vec<Root>,
    slot: SlotLease,
    spec: EnvironmentSpec,
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

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            let process = process.into_inner();
            process.kill();
            self.slot.give_back_after(process);
        }
    }
}

impl Place {
    async fn run(mut self, output: mpsc::Sender<OutputChunk>, switch: KillSwitch) -> Result<Exit, EnvironmentError> {
        let started = Instant::now();
        let lost = |error| step("wait for the sandbox", error);
        match nix::unistd::write(self.report.get_ref(), &[START]) {
            // A first process that is dead already is found to be so below.
            Ok(_) | Err(nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET) => {}
            Err(error) => return Err(lost(error.into())),
        }
        let killed = Killed::default();
        let limit = OutputLimit::new(self.spec.output_bytes);
        let exceeded = || killed.set(KillReason::Output);
        let Some(process) = &self.process else { return Err(lost(io::Error::other("it is gone"))) };
        let ended = async {
            let mut report = None;
            let mut ended_at = started;
            let mut is_reporting = true;
            loop {
                tokio::select! {
                    biased;
                    received = receive(&self.report), if is_reporting => match received? {
                        (Some(message), _) => {
                            report = Some(message);
                            ended_at = Instant::now();
                            if message.is_alone() {
                                return Ok((report, ended_at));
                            }
                        }
                        (None, _) => is_reporting = false,
                    },
                    dead = process.readable() => {
                        dead?.retain_ready();
                        // What it said last may lie in the socket still.
                        if report.is_none() && is_reporting {
                            report = receive(&self.report).await?.0;
                        }
                        let execution = if report.is_some() && ended_at != started { ended_at } else { Instant::now() };
                        return io::Result::Ok((report, execution));
                    }
                    () = switch.pulled(), if killed.get().is_none() => {
                        killed.set(KillReason::Requested);
                        process.get_ref().kill();
                    }
                    () = killed.pulled() => process.get_ref().kill(),
                }
            }
        };
        let (ended, standard, error) = tokio::join!(
            ended,
            pump(&self.output, OutputStream::Standard, &output, &limit, exceeded),
            pump(&self.error_output, OutputStream::Error, &output, &limit, exceeded),
        );
        let (report, ended_at) = ended.map_err(lost)?;
        standard.and(error).map_err(|error| step("read the program's output", error))?;
        let reason = killed.get();
        self.finish(report, reason, ended_at - started, ended_at).await
    }

    async fn finish(
        &mut self,
        report: Option<Report>,
        mut killed: Option<KillReason>,
        execution: Duration,
        ended_at: Instant,
    ) -> Result<Exit, EnvironmentError> {
        let Some(process) = self.process.take() else {
            return Err(EnvironmentError::Invalid("the sandbox is gone".into()));
        };
        let mut process = process.into_inner();
        let is_alone = report.as_ref().is_some_and(Report::is_alone);
        let cpu = match &report {
            Some(report) if is_alone => Duration::from_nanos(report.cpu_nanoseconds),
            _ => process.reap().map_err(|error| step("reap the sandbox", error))?,
        };
        let usage = self.slot.get()?.usage().await;
        if is_alone {
            self.slot.give_back_after(process);
        }
        if killed.is_none() && usage.memory_kills > 0 {
            killed = Some(KillReason::Memory);
        }
        let (status, leaked, execution) = match report {
            Some(report) if report.kind == Kind::Ended as u32 => {
                let execution = Duration::from_nanos(report.execution_nanoseconds);
                (exit_status(report.status), report.leaked, execution)
            }
            Some(report) if report.kind == Kind::StartFailed as u32 => return Err(self.start_error(report)),
            _ => (ExitStatus::Signal(9), 0, execution),
        };
        let collected = if self.spec.collect.is_empty() && self.spec.collector.is_none() {
            Vec::new()
        } else {
            let (roots, files) = (std::mem::take(&mut self.roots), std::mem::take(&mut self.spec.collect));
            let collector = self.spec.collector.take();
            tokio::task::spawn_blocking(move || collect_all(&roots, &files, collector.as_ref()))
                .await
                .map_err(|error| step("collect files", io::Error::other(error)))?
        };
        self.roots.clear();
        Ok(Exit {
            status,
            killed,
            leaked_processes: leaked,
            collected,
            execution,
            cleaning: ended_at.elapsed(),
            usage: ResourceUsage { memory_peak_bytes: usage.memory_peak_bytes, cpu: usage.cpu.unwrap_or(cpu) },
        })
    }

    fn start_error(&self, report: Report) -> EnvironmentError {
        let source = io::Error::from_raw_os_error(report.errno);
        let name = self.job.name(report.call);
        match name.strip_prefix("start ") {
            Some(program) if !name.starts_with("start a ") => {
                EnvironmentError::Start { program: program.to_owned(), source }
            }
            _ => step(name, source),
        }
    }
}

fn exit_status(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(u8::try_from(libc::WTERMSIG(status)).unwrap_or(u8::MAX))
    } else {
        ExitStatus::Code(libc::WEXITSTATUS(status))
    }
}

/// A socket that keeps messages apart; the first end does not block.
fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: only a descriptor that we own and numbers are passed.
    if unsafe { libc::fcntl(ours.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((ours, theirs))
}

/// Waits for a message and the directories in it; `None` when the other end is closed.
async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<(Option<Report>, Vec<OwnedFd>)> {
    loop {
        let mut ready = socket.readable().await?;
        if let Ok(received) = ready.try_io(|socket| receive_now(socket.as_raw_fd())) {
            return received;
        }
    }
}

fn receive_now(socket: RawFd) -> io::Result<(Option<Report>, Vec<OwnedFd>)> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    #[repr(C, align(8))]
    struct Control([u8; HEADER + ROOTS_MAX * size_of::<RawFd>()]);
    let mut control = Control([0; HEADER + ROOTS_MAX * size_of::<RawFd>()]);
    let mut report = MaybeUninit::<Report>::zeroed();
    let mut vector = libc::iovec { iov_base: report.as_mut_ptr().cast(), iov_len: size_of::<Report>() };
    // SAFETY: the message points to locals of the given sizes; the kernel fills `control` with a whole header and descriptors that are ours
    // from then on; `Report` is made of numbers, so that any bytes are a valid one.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len() as _;
        let length = libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC);
        if length < 0 {
            let error = io::Error::last_os_error();
            // The other end died with a word from us unread.
            return if error.raw_os_error() == Some(libc::ECONNRESET) { Ok((None, Vec::new())) } else { Err(error) };
        }
        let mut descriptors = Vec::new();
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if !header.is_null() && (*header).cmsg_type == libc::SCM_RIGHTS {
            let count = ((*header).cmsg_len as usize).saturating_sub(HEADER) / size_of::<RawFd>();
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for index in 0..count {
                descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
            }
        }
        let report = (length.cast_unsigned() == size_of::<Report>()).then(|| report.assume_init());
        Ok((report, descriptors))
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
