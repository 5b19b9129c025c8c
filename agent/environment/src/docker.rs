//! Containers of a Docker engine on this machine, over the same bases and layers as sandboxes.
//!
//! The engine makes the namespaces and the control group, as strictly as it can (see [`policy`]), and starts nothing but the launcher, which is shown to
//! the container with a socket of the agent's. From there on it goes as in a sandbox: the launcher is the first process, is sent a script that gives up
//! every right that the engine has left and sets our own filter of system calls, waits for the program, starts it, and tells how that ended. The
//! timer, the limits of output and the kill are the agent's, which holds a descriptor of the first process and asks the engine for nothing while a
//! program runs. When the agent dies, so does the first process, and the container with it.
//!
//! What of it stays in the engine and on this machine carries the agent's name (see [`engine`]) and goes with the agent, or with the next one that
//! looks.

mod cleaning;
mod door;
mod engine;
mod image;
mod mounts;
pub(crate) mod network;
mod place;
mod policy;
mod readiness;
mod stand_in;
mod tree;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bollard::Docker;
use muster_model::platform::{EnvironmentKind, Weakness};
use muster_model::spec::Profile;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use self::cleaning::{Cleaner, Remains};
use self::door::{Door, Visitor};
use self::engine::failed;
use self::image::Images;
pub(crate) use self::mounts::unmount_beneath;
use self::place::{Counters, Place};
pub(crate) use self::readiness::examine;
use self::stand_in::StandIns;
use self::tree::{Laid, Tree};
use crate::first_process::Held;
use crate::groups::ForeignGroup;
use crate::output::watch;
use crate::owned::OwnedDirectory;
use crate::sandbox::job::make_job;
use crate::sandbox::launch::limit_resources;
use crate::sandbox::message::{next_report, send};
use crate::sandbox::plan::{give_up_rights, open_counters};
use crate::sandbox::protocol::ReportKind;
use crate::sandbox::script::{Script, SealedScript};
use crate::sandbox::skeleton::Skeleton;
use crate::sandbox::{HOST_ID_DEFAULT, landlock_version};
use crate::{
    BaseConfig, Environment, EnvironmentError, EnvironmentSpec, Exit, KillSwitch, OutputChunk, Prepared, Readiness,
    SharedNetwork, Variables,
};

/// Names of agents' directories begin with it.
const PREFIX: &str = "docker-";
/// How long a container may take from its start until its first process answers.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// How often it is asked for meanwhile, whether it still lives.
const ANSWER_LOOK: Duration = Duration::from_millis(500);

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerConfig {
    /// The engine's socket on this machine.
    pub socket: PathBuf,
    /// A directory for places under way; made when missing. What a dead agent left there is removed.
    pub directory: PathBuf,
    /// A directory for what all places share, as for sandboxes but not the same; made when missing.
    pub shared: PathBuf,
    /// The roots of the host that `with_base` shows.
    pub base_roots: Vec<PathBuf>,
    /// The user id under which programs run, on this machine as inside; never 0.
    pub uid: u32,
    /// The same for the group.
    pub gid: u32,
}

impl DockerConfig {
    /// The default roots and ids.
    pub fn new(socket: PathBuf, directory: PathBuf, shared: PathBuf) -> Self {
        let base_roots = BaseConfig::default().roots;
        Self { socket, directory, shared, base_roots, uid: HOST_ID_DEFAULT, gid: HOST_ID_DEFAULT }
    }
}

/// An error that names its step.
fn step(step: &str, source: io::Error) -> EnvironmentError {
    EnvironmentError::Step { step: step.to_owned(), source }
}

/// The driver.
pub struct DockerEnvironment {
    // Ended first, while the directory is still ours.
    cleaner: Cleaner,
    shared: Arc<Shared>,
}

/// What places share.
struct Shared {
    docker: Docker,
    owner: (u32, u32),
    skeleton: Skeleton,
    stand_ins: StandIns,
    images: Images,
    landlock: u32,
    places: AtomicU64,
    /// The directory's path, as labels have it.
    label: String,
    directory: OwnedDirectory,
}

impl fmt::Debug for DockerEnvironment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DockerEnvironment").field("directory", &self.shared.label).finish_non_exhaustive()
    }
}

impl DockerEnvironment {
    /// Connects to the engine and removes what dead agents have left there. Blocks. Whether containers can be made is for
    /// [`Environment::check_readiness`] to tell.
    ///
    /// # Errors
    ///
    /// When the agent is not root, programs would run as root, the engine does not answer, or a directory can't be made.
    pub fn new(config: DockerConfig) -> Result<Self, EnvironmentError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(EnvironmentError::Unsupported {
                feature: "an agent that is not root cannot lay layers over each other for containers".into(),
                remedy: "run the agent as root, or leave out --docker".into(),
            });
        }
        if config.uid == 0 || config.gid == 0 {
            return Err(EnvironmentError::Invalid("programs would run as root".into()));
        }
        let owner = (config.uid, config.gid);
        let making = |error| step(&format!("make a directory in {}", config.directory.display()), error);
        let directory = OwnedDirectory::create(&config.directory, PREFIX).map_err(making)?;
        let label = directory.path().to_str().filter(|path| !path.contains(char::is_control));
        let label = label.ok_or_else(|| {
            EnvironmentError::Invalid(format!("{} is not a path of letters", directory.path().display()))
        })?;
        let label = label.to_owned();
        let skeleton = Skeleton::open(&config.shared, &config.base_roots, Some(owner), config.uid)
            .map_err(|error| step(&format!("make what containers share in {}", config.shared.display()), error))?;
        let (cleaner, docker) = Cleaner::start(config.socket, label.clone())?;
        let (stand_ins, images, landlock) = (StandIns::default(), Images::default(), landlock_version());
        let places = AtomicU64::new(0);
        let shared = Shared { docker, owner, skeleton, stand_ins, images, landlock, places, label, directory };
        Ok(Self { cleaner, shared: Arc::new(shared) })
    }

    /// The walls that its containers lack on this machine.
    pub fn weaknesses(&self) -> Vec<Weakness> {
        let is_whole = crate::doctor::is_landlock_whole(self.shared.landlock);
        if is_whole { Vec::new() } else { vec![Weakness::Landlock] }
    }

    async fn make(&self, spec: EnvironmentSpec) -> Result<Place, EnvironmentError> {
        let (shared, remains) = (self.shared.clone(), self.cleaner.remains());
        // To its end even if nobody waits for it: a container that the engine makes meanwhile would have no owner.
        let made = tokio::spawn(shared.make(remains, spec)).await;
        made.map_err(|error| step("make a container", io::Error::other(error)))?
    }

    /// Who must own the files of layers.
    pub fn owner(&self) -> (u32, u32) {
        self.shared.owner
    }
}

impl Shared {
    /// Makes everything on the way to a first process that waits.
    async fn make(self: Arc<Self>, mut remains: Remains, mut spec: EnvironmentSpec) -> Result<Place, EnvironmentError> {
        let started = Instant::now();
        let network = spec.network.clone();
        let network = network.as_ref().map(SharedNetwork::of_containers).transpose()?;
        let mut under = Vec::new();
        if let Some(reference) = &spec.image {
            let image = self.images.find(&self.docker, &self.label, reference).await?;
            image::are_seen(&image.lower).map_err(|error| step("see the layers of an image", error))?;
            under = image.lower;
            if spec.variables == Variables::WithDefaults {
                // What the command declares wins.
                spec.command.environment.splice(..0, image.variables);
            }
        }
        let job = make_job(&spec.command, spec.variables, None)?;
        let setup = self.setup(spec.profile)?;
        let (tree, Laid { roots, uppers }) = self.lay(&spec, under).await?;
        let door = Door::open(&tree.door(), self.owner).map_err(|error| step("make a way to the container", error))?;
        let image = self.stand_ins.image(&self.docker, &self.label, &tree.links).await?;
        let wanted = policy::Wanted {
            image,
            owner: self.owner,
            memory_bytes: spec.memory_bytes,
            processes: spec.processes,
            shown: &tree.shown,
            door: tree.door().to_string_lossy().into_owned(),
            network: network.map(|members| members.container.as_str()),
            labels: engine::labels(&self.label),
        };
        let body = policy::container(wanted);
        remains.tree = Some(tree);
        let created = self.docker.create_container(None, body).await.map_err(failed("create a container"))?;
        let id = remains.container.insert(created.id).clone();
        self.docker.start_container(&id, None).await.map_err(failed("start a container"))?;
        let Visitor { id: process_id, process, report } = self.visitor(door, &id).await?;
        let report = ready(report, &setup).await?;
        let counters = Counters(ForeignGroup::of(process_id));
        let first = Held::new(process, report, job)?;
        let preparation = started.elapsed();
        Ok(Place { first, process: process_id, counters, roots, uppers, remains, shared: self, spec, preparation })
    }

    /// Lays the layers over each other, above the directories `under` them.
    async fn lay(
        self: &Arc<Self>,
        spec: &EnvironmentSpec,
        under: Vec<PathBuf>,
    ) -> Result<(Tree, Laid), EnvironmentError> {
        let number = self.places.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.path().join(number.to_string());
        let (shared, spec) = (self.clone(), spec.clone());
        let laid = move || Tree::create(&directory, &shared.skeleton, &spec, under, shared.owner);
        tokio::task::spawn_blocking(laid).await.map_err(|error| step("wait for a thread", io::Error::other(error)))?
    }

    /// What a first process plays: it gives up what the engine has left it.
    fn setup(&self, profile: Profile) -> Result<SealedScript, EnvironmentError> {
        let mut script = Script::default();
        open_counters(&mut script);
        limit_resources(&mut script)?;
        let arguments = [libc::PR_SET_NO_NEW_PRIVS.into(), 1.into(), 0.into(), 0.into(), 0.into()];
        script.call("forbid new privileges", libc::SYS_prctl, arguments);
        give_up_rights(&mut script, self.landlock, profile)?;
        script.seal().map_err(|error| step("write a script", error))
    }

    /// The container's first process, which is the one that the engine has started and nobody else.
    async fn visitor(&self, door: Door, id: &str) -> Result<Visitor, EnvironmentError> {
        let coming = door.visitor(self.owner.0);
        tokio::pin!(coming);
        let deadline = tokio::time::Instant::now() + ANSWER_TIME;
        let visitor = loop {
            tokio::select! {
                came = &mut coming => break came.map_err(|error| step("hear from the container", error))?,
                () = tokio::time::sleep(ANSWER_LOOK) => {
                    let state = self.state(id).await?;
                    if state.running != Some(true) || tokio::time::Instant::now() > deadline {
                        let said = state.error.filter(|error| !error.is_empty());
                        let said = said.unwrap_or_else(|| format!("it ended with {}", state.exit_code.unwrap_or(-1)));
                        return Err(step("hear from the container", io::Error::other(said)));
                    }
                }
            }
        };
        match self.state(id).await?.pid {
            Some(process) if process == i64::from(visitor.id) => Ok(visitor),
            other => {
                let said = format!("process {} came instead of {other:?}", visitor.id);
                Err(step("hear from the container", io::Error::other(said)))
            }
        }
    }

    /// Whether the engine has seen the kernel kill somebody in it for want of memory.
    async fn is_out_of_memory(&self, remains: &Remains) -> bool {
        let Some(id) = &remains.container else { return false };
        self.state(id).await.is_ok_and(|state| state.oom_killed == Some(true))
    }

    async fn state(&self, id: &str) -> Result<bollard::models::ContainerState, EnvironmentError> {
        let container = self.docker.inspect_container(id, None).await.map_err(failed("inspect a container"))?;
        Ok(container.state.unwrap_or_default())
    }
}

/// Sends the setup and waits until it is done.
async fn ready(report: OwnedFd, setup: &SealedScript) -> Result<OwnedFd, EnvironmentError> {
    let talk = |error| step("talk to the first process", error);
    send(report.as_fd(), &0_u64, &[setup.as_fd()]).map_err(talk)?;
    let report: AsyncFd<OwnedFd> = watch(report)?;
    match next_report(&report).await.map_err(talk)? {
        Some(message) if message.kind == ReportKind::Ready as u32 => Ok(report.into_inner()),
        Some(message) => Err(step(setup.name(message.call), io::Error::from_raw_os_error(message.errno))),
        None => Err(step("make a container", io::Error::other("its first process died"))),
    }
}

#[async_trait]
impl Environment for DockerEnvironment {
    fn kind(&self) -> EnvironmentKind {
        EnvironmentKind::Docker
    }

    fn check_readiness(&self) -> Result<Readiness, EnvironmentError> {
        readiness::check(self)
    }

    async fn network(&self) -> Result<SharedNetwork, EnvironmentError> {
        Ok(network::Members::new(self.make(network::founder()).await?)?.into())
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
        let other = |_| EnvironmentError::Invalid("another driver made this place".into());
        let place = prepared.into_any().downcast::<Place>().map_err(other)?;
        place.run(output, kill).await
    }
}
